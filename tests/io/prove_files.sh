#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The long forms of the tests of files, in a build of the preset `everything`:
#   tests/io/prove_files.sh [BUILD [SANITIZED_BUILD]]
# 1,000 kills of a run and of a save into a folder, 30,000 states changed at random, each call of
# the system refused in each way, two processes that save into one folder 1,000 times each, and as
# root two users of one folder. States belong under the sanitizers: give a build of the preset
# `sanitize` as well.
set -eu
build=${1:-build/test}
sanitized=${2:-$build}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
section() { printf '\n=== %s\n' "$1"; }

section 'A run that is killed 1,000 times, against one that is not'
"$build/examples/resume" --steps 60000 --save-every 10 --prove 1000 --file "$folder/run"
section 'Saves into a folder: killed 1,000 times, and by two processes at once'
POLYAK_LONG_TESTS=1000 "$build/tests/polyak_io_tests" 'Two processes save*,A save that is killed*'
section 'Two users of one folder'
"$build/tests/polyak_io_tests" 'Two users*'
section 'Each call of the system refused'
"$build/tests/io/polyak_io_failing_calls" --long
"$build/tests/io/polyak_io_model_folder_faults"
section '30,000 states changed at random'
"$sanitized/tests/io/polyak_io_damaged_states" 30000
