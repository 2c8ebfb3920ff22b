#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one place of the headers at a time and reports whether the tests notice.

  tests/hygiene/mutations/run.py [--tree DIR] [--jobs N] [--list] [NAME...]

For each place of places.py a copy of the headers is changed in one line, and the tests named there
are compiled and run (Catch2, -O0, one instruction set). "caught" means that a test fails or that it
no longer compiles; "missed" that all pass. Takes about half a minute of processor time per place.
Needs g++ (or $CXX), Eigen, Catch2, xxHash, nlohmann-json. Ends with 1 if a place is missed or not
found any more, or if a test fails on whole headers.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from places import PLACES  # noqa: E402

SECONDS = 180  # a program that runs longer does not end: caught


class Tree:
    """The headers and tests to break, of one state of the project."""

    def __init__(self, root, scratch):
        self.root, self.scratch = pathlib.Path(root), pathlib.Path(scratch)
        self.headers = self.root / "include" / "polyak"
        self.objects = []

    def flags(self, include):
        eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], text=True,
                               capture_output=True, check=True).stdout.split()
        tests = self.root / "tests"
        return (["-std=c++20", "-O0", "-march=native", "-DPOLYAK_NO_DISPATCH", "-w", "-fopenmp",
                 "-DPOLYAK_HAS_XXHASH", f"-I{include}", f"-I{tests}/support",
                 f"-I{tests}/cuda/emulation", f"-I{tests}/interop/ggml"]
                + [flag.replace("-I", "-isystem", 1) for flag in eigen])

    def compile_support(self):
        for source in sorted((self.root / "tests" / "support").glob("*.cpp")):
            result = self.scratch / (source.stem + ".o")
            subprocess.run([os.environ.get("CXX", "g++"), *self.flags(self.root / "include"), "-c",
                            str(source), "-o", str(result)], check=True)
            self.objects.append(str(result))

    def tests(self, names):
        paths = [self.root / "tests" / name for name in names]
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(f"{path} is not there")
        return paths

    def find(self, header, text):
        """The header, which must have the text once."""
        path = self.headers / header
        count = path.read_text().count(text)
        if count != 1:
            raise LookupError(f"the text is in {header} {count} times")
        return path

    def try_tests(self, tests, include, program):
        """Why the tests fail, or nothing."""
        compiled = subprocess.run(
            [os.environ.get("CXX", "g++"), *self.flags(include), *map(str, tests), *self.objects,
             "-o", program, "-lpthread", "-lxxhash"], text=True, capture_output=True)
        if compiled.returncode != 0:
            errors = [line for line in compiled.stderr.splitlines() if "error" in line]
            return "compiler: " + (errors or ["?"])[0].strip()
        try:
            ran = subprocess.run([program, "-a"], text=True, capture_output=True, timeout=SECONDS,
                                 errors="replace")
        except subprocess.TimeoutExpired:
            return "the tests do not end"
        finally:
            os.unlink(program)
        if ran.returncode == 0:
            return ""
        failed = [line for line in ran.stdout.splitlines() if "FAILED" in line]
        return "tests: " + (failed or [f"exit status {ran.returncode}"])[0].strip()

    def break_place(self, place):
        name, header, text, broken, tests = place
        begin = time.monotonic()
        try:
            path = self.find(header, text)
            sources = self.tests(tests)
        except (LookupError, FileNotFoundError) as reason:
            return name, "not found", str(reason), 0
        folder = self.scratch / name
        shutil.copytree(self.root / "include", folder / "include")
        changed = folder / "include" / "polyak" / path.relative_to(self.headers)
        changed.write_text(path.read_text().replace(text, broken))
        why = self.try_tests(sources, folder / "include", str(folder / "program"))
        shutil.rmtree(folder)
        return name, "caught" if why else "missed", why, time.monotonic() - begin

    def try_whole(self, tests):
        why = self.try_tests(self.tests(tests), self.root / "include",
                             str(self.scratch / ("whole_" + tests[0].replace("/", "_"))))
        return tests, why


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", default=pathlib.Path(__file__).resolve().parents[3])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="show where the places are, and end")
    parser.add_argument("--no-whole", action="store_true",
                        help="do not show first that the tests pass on whole headers")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = [place[0] for place in PLACES]
    assert len(set(names)) == len(names), "two places of one name"
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error("no such place: " + ", ".join(sorted(unknown)))
    places = [place for place in PLACES if not options.names or place[0] in options.names]

    with tempfile.TemporaryDirectory() as scratch:
        tree = Tree(options.tree, scratch)
        if options.list:
            faults = 0
            for name, header, text, _, tests in places:
                try:
                    where = str(tree.find(header, text).relative_to(tree.headers))
                    tree.tests(tests)
                except (LookupError, FileNotFoundError) as reason:
                    where = f"NOT FOUND: {reason}"
                    faults += 1
                print(f"{name:32} {where}")
            print(f"{len(places)} places, {faults} not found")
            return 1 if faults else 0
        tree.compile_support()
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            faults = 0
            if not options.no_whole:
                for tests, why in pool.map(tree.try_whole, sorted({tuple(p[4]) for p in places})):
                    if why:
                        faults += 1
                        print(f"{'whole headers':32} FAILED    {', '.join(tests)}: {why}", flush=True)
            counts = {"caught": 0, "missed": 0, "not found": 0}
            for name, result, why, seconds in pool.map(tree.break_place, places):
                counts[result] += 1
                print(f"{name:32} {result:9} {seconds:4.0f} s  {why[:110]}", flush=True)
        print(", ".join(f"{number} {result}" for result, number in counts.items()))
        return 1 if faults or counts["missed"] or counts["not found"] else 0


if __name__ == "__main__":
    sys.exit(main())
