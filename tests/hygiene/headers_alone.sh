#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles each header alone: it includes what it uses, and is clean under the warnings of users. By
# clang++, which reads Eigen once for all headers that include it.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -r -a eigen_flags <<<"$(pkg-config --cflags-only-I eigen3 | sed 's/-I/-isystem /')"
flags=(-std=c++20 -Werror -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast
  -Wdouble-promotion -Wsign-conversion -Iinclude -Itests/cuda/emulation -DPOLYAK_CUDA_EMULATION
  -isystem tests/interop/ggml "${eigen_flags[@]}")
# Intrinsics too, which declare nothing that other headers do.
printf '#include <Eigen/Core>\n#if defined(__x86_64__)\n#include <immintrin.h>\n#endif\n' >"$folder/eigen.hpp"
clang++ "${flags[@]}" -x c++-header "$folder/eigen.hpp" -o "$folder/eigen.pch"

# Headers that include Eigen, themselves or by others.
touch "$folder/includes"
while true; do
  (cd include && grep -rlF --include='*.?pp' -e '#include <Eigen/' -f "$folder/includes" polyak) |
    sed 's/.*/#include <&>/' | sort >"$folder/more"
  cmp -s "$folder/more" "$folder/includes" && break
  mv "$folder/more" "$folder/includes"
done

alone() {
  local source="$folder/${1//\//_}.cpp" eigen=()
  echo "#include <$1>" >"$source"
  if grep -qxF "#include <$1>" "$folder/includes"; then eigen=(-include-pch "$folder/eigen.pch"); fi
  clang++ "${flags[@]}" "${eigen[@]}" -fsyntax-only "$source" || {
    echo "$1 does not compile alone"
    return 1
  }
}
failed=0
cd include
# Those of LibTorch are compiled by tests/interop, where it is found.
for header in $(find polyak -name '*.hpp' -not -path 'polyak/interop/torch*' | sort); do
  (cd .. && alone "$header") &
  # Two at a time.
  (($(jobs -rp | wc -l) < 2)) || wait -n || failed=1
done
while [ -n "$(jobs -rp)" ]; do wait -n || failed=1; done
exit "$failed"
