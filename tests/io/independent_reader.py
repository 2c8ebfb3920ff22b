#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes safetensors files by nothing but the text of the format.

  independent_reader.py check FILE   exits with 0 if FILE is valid, says why where it is not
  independent_reader.py write FILE   writes a file as its official writer would not: names and data
                                     in different orders, nothing padded or aligned

Element i of each tensor of F32 or F64 must be i / 2, of I64 i.
"""

import json
import struct
import sys

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
CODES = {"F32": "f", "F64": "d", "I64": "q"}


class Invalid(Exception):
    pass


def demand(holds, what):
    if not holds:
        raise Invalid(what)


def unique(pairs):
    result = dict(pairs)
    demand(len(result) == len(pairs), "a name is there twice")
    return result


def no_constant(name):
    raise Invalid(f"{name} is no JSON")


def expected(dtype, i):
    return i if dtype == "I64" else i / 2


def is_count(number):
    return type(number) is int and 0 <= number < 2**64


def check(path):
    with open(path, "rb") as stream:
        content = stream.read()
    demand(len(content) >= 8, "shorter than a length")
    (length,) = struct.unpack("<Q", content[:8])
    demand(length <= 100_000_000, "the header is too long")
    demand(8 + length <= len(content), "the header ends after the file")
    text = content[8:8 + length].decode("utf-8", "strict")
    demand(text.startswith("{"), "the header does not begin with {")
    header = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    demand(type(header) is dict, "the header is no object")
    metadata = header.pop("__metadata__", {})
    demand(type(metadata) is dict, "metadata are no object")
    demand(all(type(value) is str for value in metadata.values()), "metadata are no strings")

    data = content[8 + length:]
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        where = f'tensor "{name}": '
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        demand(dtype in BITS, where + "unknown type")
        demand(all(map(is_count, shape)), where + "shape")
        demand(len(offsets) == 2 and all(map(is_count, offsets)), where + "offsets")
        demand(offsets[0] == end, where + "does not begin where the one before it ends")
        end = offsets[1]
        count = 1
        for extent in shape:
            count *= extent
        demand(count * BITS[dtype] == 8 * (end - offsets[0]), where + "has another size")
        demand(end <= len(data), where + "ends after the file")
        if dtype in CODES:
            numbers = struct.unpack(f"<{count}{CODES[dtype]}", data[offsets[0]:end])
            for i, number in enumerate(numbers):
                demand(number == expected(dtype, i), where + f"element {i} is {number}")
    demand(end == len(data), "bytes after the last tensor")


def write(path):
    data = b""
    entries = []

    def add(name, dtype, shape, content):
        nonlocal data
        offsets = [len(data), len(data) + len(content)]
        entries.append((name, {"data_offsets": offsets, "dtype": dtype, "shape": shape}))
        data += content

    def add_numbers(name, dtype, shape):
        count = 1
        for extent in shape:
            count *= extent
        numbers = [expected(dtype, i) for i in range(count)]
        add(name, dtype, shape, struct.pack(f"<{count}{CODES[dtype]}", *numbers))

    add("odd", "U8", [3], b"abc")
    add_numbers("single", "F32", [3, 5])
    add_numbers("nothing", "F64", [2, 0])
    add_numbers("double", "F64", [7])
    add_numbers("scalar", "F64", [])
    add_numbers("whole", "I64", [2, 2, 2])
    add_numbers("größer", "F32", [1000])
    header = dict(entries[::-1])
    header["__metadata__"] = {"from": "pythön", "pad": ""}
    text = json.dumps(header, ensure_ascii=False).encode()
    if len(text) % 2 == 0:
        header["__metadata__"]["pad"] = "x"  # so that all that is aligned is so by chance
        text = json.dumps(header, ensure_ascii=False).encode()
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + data)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("check", "write"):
        sys.exit(__doc__)
    try:
        (check if sys.argv[1] == "check" else write)(sys.argv[2])
    except (Invalid, ValueError, KeyError, TypeError, OSError) as fault:
        sys.exit(f"{sys.argv[2]}: {fault}")


main()
