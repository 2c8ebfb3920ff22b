#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that needs a GPU, in one go: tests, compute-sanitizer, golden files, example, benchmarks, and
# PyTorch where it is installed. Prints what each did, and one table at the end.
set -uo pipefail
cd "$(dirname "$0")/.."

cmake --preset cuda || exit 1
cmake --build --preset cuda || exit 1
cmake --build --preset cuda --target polyak_cuda_golden polyak_cuda_tests || exit 1
build=build/cuda
logs=$(mktemp -d)
summary=()

# run NAME COMMAND...: 77 says that there was nothing to run it on.
run() {
  local name=$1 status
  shift
  printf '\n=== %s ===\n' "$name"
  "$@" 2>&1 | tee "$logs/log"
  status=${PIPESTATUS[0]}
  case $status in
    0) summary+=("| $name | passed |") ;;
    77) summary+=("| $name | skipped |") ;;
    *) summary+=("| $name | FAILED ($status) |") ;;
  esac
}

run 'tests on the device' $build/tests/cuda/polyak_cuda_tests
for tool in memcheck racecheck initcheck; do
  if command -v compute-sanitizer >/dev/null; then
    run "compute-sanitizer $tool" compute-sanitizer --tool $tool --error-exitcode 1 \
      $build/tests/cuda/polyak_cuda_tests
  else
    summary+=("| compute-sanitizer $tool | skipped: not installed |")
  fi
done
run 'golden files on the device' $build/tests/cuda/golden/polyak_cuda_golden tests/golden/*/*.json
run 'more than 4 GiB in a tensor' $build/tests/cuda/polyak_cuda_tests '[large]'
run 'example' $build/examples/cuda_mlp
run 'benchmarks' $build/bench/polyak_cuda_bench
run 'PyTorch on the same device' python3 bench/cuda_torch.py

printf '\n| what | result |\n|---|---|\n'
printf '%s\n' "${summary[@]}"
! printf '%s\n' "${summary[@]}" | grep -q FAILED
