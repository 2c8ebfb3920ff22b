#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON of polyak_bench into a table and a roofline plot.

    polyak_bench --benchmark_format=json > run.json
    bench/report.py run.json [more.json ...] [--only REGEX] [--svg roofline.svg]

Prints the table as markdown. A benchmark that occurs in several files, or was repeated, is
represented by the medians of its counters. The plot (by gnuplot, where installed) shows for each
method how many floating-point operations a second it performs at how many operations per byte of
memory traffic, below the limits that the runs themselves measured.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys

REQUIRED = ("bytes_per_second", "of_limit")

# Floating-point operations per element: an fma counts 2, a square root or division 1.
OPTIMIZERS = {
    "sgd_plain": 2, "sgd": 4, "adamw": 14, "adam_amsgrad": 15, "lion": 8,
    "ademamix": 20, "ademamix_beta1_0": 16, "schedule_free_sgd": 7, "schedule_free_adamw": 15,
}
AVERAGES = ("swa", "ema", "power_ema", "switch_ema", "hare_tortoise")
AVERAGE_OPERATIONS = 3
STORAGE_BYTES = {"ema_kahan": 20, "ema_bf16": 10, "ema_bf16_bf16": 6, "ema_bf16_bf16_kahan": 10,
                 "ema_bf16_bf16_stochastic": 6}
# Of AdamW on bfloat16, which rounds its weights, too.
WEIGHT_BYTES = {"adamw_bf16": 22, "adamw_bf16_master": 26, "adamw_bf16_kahan": 26,
                "adamw_bf16_stochastic": 22}
UPDATED_SLOTS = {
    "sgd_plain": 0, "sgd": 1, "adamw": 2, "adam_amsgrad": 3, "lion": 1,
    "ademamix": 3, "ademamix_beta1_0": 2, "schedule_free_sgd": 1, "schedule_free_adamw": 2,
}


class BadInput(Exception):
    """What is wrong with a file, for its user."""


def read(path):
    """The context of a run and the list of its benchmarks."""
    try:
        with open(path, encoding="utf-8") as file:
            run = json.load(file)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); was it written with "
                       "--benchmark_format=json?") from error
    if not isinstance(run, dict) or not isinstance(run.get("benchmarks"), list):
        raise BadInput(f"{path}: not the JSON of a Google Benchmark program")
    benchmarks = []
    for entry in run["benchmarks"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadInput(f"{path}: a benchmark without a name")
        if entry.get("run_type", "iteration") != "iteration":
            continue  # means and deviations of repetitions
        name = entry.get("run_name", entry["name"])
        if entry.get("error_occurred"):
            raise BadInput(f"{path}: {name} failed: {entry.get('error_message', 'unknown')}")
        for counter in REQUIRED:
            if not isinstance(entry.get(counter), (int, float)):
                raise BadInput(f"{path}: {name} has no counter {counter}; "
                               "this is not a run of polyak_bench")
        if str(name).count("/") != 2:
            raise BadInput(f"{path}: {name} is not of the form method/case/threads")
        benchmarks.append((name, {
            key: float(value) for key, value in entry.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            and (key in REQUIRED or key.startswith(("vs_", "ns_")))}))
    if not benchmarks:
        raise BadInput(f"{path}: holds no benchmark")
    context = run.get("context")
    return context if isinstance(context, dict) else {}, benchmarks


def merge(runs):
    """Medians of the counters of each benchmark, in the order of first occurrence."""
    values = {}
    for _, benchmarks in runs:
        for name, counters in benchmarks:
            kept = values.setdefault(name, {})
            for key, value in counters.items():
                kept.setdefault(key, []).append(value)
    return {name: {key: statistics.median(list_) for key, list_ in kept.items()}
            for name, kept in values.items()}


def machine(runs):
    """A line about the machine and the builds."""
    lines = []
    for context, _ in runs:
        caches = ", ".join(
            f"L{cache['level']} {cache['size'] // 1024} KiB" for cache in context.get("caches", [])
            if isinstance(cache, dict) and cache.get("type") != "Instruction"
            and "level" in cache and "size" in cache)
        parts = [f"{context.get('num_cpus', '?')} CPUs at {context.get('mhz_per_cpu', '?')} MHz"]
        if caches:
            parts.append(caches)
        for key, text in (("limit_vector_bytes", "limit kernels with {}-byte vectors"),
                          ("library_build", "library built {}"), ("openmp", "OpenMP {}"),
                          ("torch", "LibTorch {}")):
            if key in context:
                parts.append(text.format(context[key]))
        line = "; ".join(parts)
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def table(results):
    """The markdown table."""
    peers = []
    for counters in results.values():
        peers += [key for key in counters if key.startswith("vs_") and key not in peers]
    small = any("ns_per_call" in counters for counters in results.values())
    head = ["method", "case", "threads", "GB/s", "of limit"]
    head += [key.replace("_", " ") for key in peers]
    if small:
        head += ["us per call", "ns per tensor"]
    rows = []
    for name, counters in results.items():
        method, case, threads = name.split("/")
        row = [f"`{method}`", case, threads.removeprefix("t"),
               f"{counters['bytes_per_second'] / 1e9:.0f}", f"{counters['of_limit']:.2f}"]
        row += [f"{counters[key]:.2f}" if key in counters else "" for key in peers]
        if small:
            row.append(f"{counters['ns_per_call'] / 1e3:.2f}" if "ns_per_call" in counters else "")
            row.append(f"{counters['ns_per_tensor']:.0f}" if "ns_per_tensor" in counters else "")
        rows.append(row)
    lines = [head, ["---", "---"] + ["---:"] * (len(head) - 2)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def work(method):
    """Operations and bytes per element of a method, or None where they are not known."""
    other = re.fullmatch(r"average_n(\d+)|posthoc_ema", method)
    if other:
        inputs = int(other[1] or 8)
        return 2 * inputs, 4 * (inputs + 1)
    if method in STORAGE_BYTES:
        return AVERAGE_OPERATIONS, STORAGE_BYTES[method]
    if method in WEIGHT_BYTES:
        return OPTIMIZERS["adamw"] + 2, WEIGHT_BYTES[method]
    operations = written = 0
    for part in method.split("+"):
        if part in OPTIMIZERS:
            operations += OPTIMIZERS[part]
            written += 1 + UPDATED_SLOTS[part]
        elif part in AVERAGES:
            operations += AVERAGE_OPERATIONS
            written += 1
        else:
            return None
    return operations, 4 * (1 + 2 * written)


def plot(results, path):
    """Writes the roofline plot of the results with one thread, or of all if there are none."""
    gnuplot = shutil.which("gnuplot")
    if gnuplot is None:
        raise BadInput("gnuplot is absent, so there is no plot; the table is complete")
    threads = "t1" if any(name.endswith("/t1") for name in results) else None
    points, roofs = {}, {}
    for name, counters in results.items():
        method, case, run_threads = name.split("/")
        known = work(method)
        if known is None or (threads and run_threads != threads):
            continue
        operations, bytes_ = known
        intensity = operations / bytes_
        rate = counters["bytes_per_second"]
        points.setdefault(case, []).append((intensity, rate * intensity / 1e9, method))
        roofs[case] = max(roofs.get(case, 0), rate / counters["of_limit"])
    if not points:
        raise BadInput("no benchmark whose operations are known, so there is no plot")
    every = [point[0] for list_ in points.values() for point in list_]
    low, high = min(every) / 1.3, max(every) * 1.3
    lines = ["set terminal svg size 900,600 font 'sans-serif,13' background '#ffffff'",
             "set output '{}'".format(path.replace("'", "''")),
             "set logscale x 2", "set logscale y", "set autoscale fix",
             "set xlabel 'operations per byte of memory traffic'",
             "set ylabel 'operations per second (10^9)'", "set grid", "set key outside right",
             f"set xrange [{low}:{high}]",
             "set title 'polyak: methods (points) and the fastest limit kernel of each size (lines)'",
             "set samples 2"]
    plots, blocks = [], []
    for index, (case, list_) in enumerate(points.items(), start=1):
        block = f"$case{index}"
        lines += [f"{block} << end"] + [f"{x:.6g} {y:.6g}" for x, y, _ in list_] + ["end"]
        blocks.append(block)
        plots.append(f"{block} using 1:2 with points pt 7 ps 0.7 lc {index} title '{case}'")
        roof = roofs[case] / 1e9
        plots.append(f"x * {roof:.6g} with lines lc {index} dt 2 title '{roof:.0f} GB/s'")
    lines.append("plot " + ", \\\n  ".join(plots))
    done = subprocess.run([gnuplot], input="\n".join(lines) + "\n", text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise BadInput(f"gnuplot failed: {done.stderr.strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN.json")
    parser.add_argument("--only", metavar="REGEX", help="the table shows matching names only")
    parser.add_argument("--svg", metavar="FILE", help="write the roofline plot there")
    options = parser.parse_args()
    try:
        runs = [read(path) for path in options.runs]
        results = merge(runs)
        shown = {name: counters for name, counters in results.items()
                 if re.search(options.only or "", name)}
        if not shown:
            raise BadInput(f"no benchmark matches {options.only}")
        print(machine(runs) + "\n\n" + table(shown))
        if options.svg:
            plot(results, options.svg)
    except re.error as error:
        print(f"report.py: --only {options.only}: {error}", file=sys.stderr)
        return 1
    except BadInput as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
