#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds that must fail: an older language, a class derived from a method. Uses the compiler in CXX, else c++.
set -euo pipefail
cd "$(dirname "$0")/../.."

compiler=${CXX:-c++}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -r -a eigen_flags <<<"$(pkg-config --cflags-only-I eigen3)"
compile() { "$compiler" -std=c++20 -O0 -Iinclude "${eigen_flags[@]}" "$@"; }
fail() {
  echo "$1"
  exit 1
}

# Under C++17 each header stops the compilation by one #error and a file that is missing.
while read -r header; do
  [ "$header" = polyak/version.hpp ] && continue  # macros alone
  echo "#include <$header>" >"$folder/old.cpp"
  mode=-E  # the preprocessor alone, but for the headers that programs include first
  case $header in polyak/polyak.hpp | polyak/io.hpp | polyak/core/law.hpp) mode=-fsyntax-only ;; esac
  "$compiler" -std=c++17 $mode -Iinclude -Itests/cuda/emulation "${eigen_flags[@]}" \
    -DPOLYAK_CUDA_EMULATION "$folder/old.cpp" >/dev/null 2>"$folder/errors" &&
    fail "$header is accepted under C++17"
  [ "$(grep -c 'error:' "$folder/errors")" = 2 ] && grep -q 'polyak needs C++20' "$folder/errors" || {
    cat "$folder/errors"
    fail "$header says more than that it needs C++20"
  }
done < <(cd include && find polyak -name '*.hpp')

# A class derived from a method would be the base where the method returns itself.
cat >"$folder/derived.cpp" <<'END'
#include <polyak/optim/sgd.hpp>
#if defined(POLYAK_OPEN)
class Open : public polyak::Elementwise<Open, polyak::SgdRule, float, float> {
 public:
  explicit Open(const polyak::Parameters<float>& params)
      : Open::Elementwise(params, {.learning_rate = 1}, {}) {}
};
class Derived final : public Open {
  using Open::Open;
};
#else
class Derived final : public polyak::Sgd<float> {};
#endif
void use(const polyak::Parameters<float>& params) {
#if defined(POLYAK_OPEN)
  Derived optimizer(params);
#endif
}
END
for open in '' -DPOLYAK_OPEN; do
  compile $open -fsyntax-only "$folder/derived.cpp" 2>"$folder/errors" &&
    fail "a class derived from an optimizer compiles ($open)"
  grep -q 'final' "$folder/errors" || fail "the error does not say final: $(cat "$folder/errors")"
done
