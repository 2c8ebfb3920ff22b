#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the library where this machine cannot: on an x86-64 processor without AVX, and on aarch64,
# both emulated by QEMU. Every class at work, and the same bits as here wherever multiply-adds are
# fused: other_processors.sh [FOLDER]. Uses aarch64-linux-gnu-g++ and the x86-64 programs that are
# built in FOLDER, without which it compiles them by the compiler in CXX, else g++.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset POLYAK_DISPATCH_LEVEL

if [ "$(uname -m)" != x86_64 ]; then
  echo "other processors: skipped, they are emulated on x86-64 only"
  exit 0
fi
for tool in qemu-x86_64 qemu-aarch64 aarch64-linux-gnu-g++; do
  command -v "$tool" >/dev/null || {
    echo "other processors: $tool is missing; cmake/setup.sh --ci installs it"
    exit 1
  }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -r -a eigen_flags <<<"$(pkg-config --cflags eigen3)"

# Compiles PROGRAM of this folder by the compiler given: compile COMPILER SUFFIX PROGRAM
compile() {
  "$1" -std=c++20 -O1 -Iinclude "${eigen_flags[@]}" "tests/hygiene/$3.cpp" -o "$folder/$3.$2"
}
# Two at a time: a compiler takes a gigabyte.
compile aarch64-linux-gnu-g++ aarch64 use_everything &
aarch64=$!
if [ $# -gt 0 ]; then
  ln -s "$(realpath "$1")/polyak_everything_no_exceptions" "$folder/use_everything.x86_64"
  ln -s "$(realpath "$1")/polyak_levels" "$folder/levels.x86_64"
else
  compile "${CXX:-g++}" x86_64 use_everything
  compile "${CXX:-g++}" x86_64 levels
fi
compile aarch64-linux-gnu-g++ aarch64 levels
wait "$aarch64"

here() { POLYAK_DISPATCH_LEVEL=$1 "$folder/levels.x86_64"; }
nehalem() { qemu-x86_64 -cpu Nehalem "$@"; }
aarch64() { qemu-aarch64 -L /usr/aarch64-linux-gnu "$@"; }

# expect WHAT IS SHOULD
expect() {
  if [ "$2" != "$3" ]; then
    echo "other processors: $1 gives \"$2\" instead of \"$3\""
    exit 1
  fi
  echo "$1: $2"
}
nehalem "$folder/use_everything.x86_64"
echo 'every class works on x86-64 without AVX'
aarch64 "$folder/use_everything.aarch64"
echo 'every class works on aarch64'
expect 'x86-64 without AVX' "$(nehalem "$folder/levels.x86_64")" "$(here baseline)"
if here x86-64-v3 | grep -q '^x86-64-v3 '; then
  expect aarch64 "$(aarch64 "$folder/levels.aarch64")" \
    "$(here x86-64-v3 | sed 's/^x86-64-v3/baseline/')"
fi
