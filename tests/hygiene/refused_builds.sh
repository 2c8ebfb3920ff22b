#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds that must fail, or whose parts must not mix: an older language, a class derived from a
# method, units with different switches. Uses the compiler in CXX, else c++.
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
  case $header in polyak/interop/torch*) continue ;; esac  # LibTorch refuses C++17 by itself, or is absent
  echo "#include <$header>" >"$folder/old.cpp"
  mode=-E  # the preprocessor alone, but for the headers that programs include first
  case $header in polyak/polyak.hpp | polyak/io.hpp | polyak/core/law.hpp) mode=-fsyntax-only ;; esac
  "$compiler" -std=c++17 $mode -Iinclude -Itests/cuda/emulation -Itests/interop/ggml "${eigen_flags[@]}" \
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

# Every header opens the namespace that has the switches in its name.
literal=$(grep -rlE 'inline namespace v[0-9]' include) && fail "not POLYAK_V0: $literal"

# Two units of one program, each with its own switches: the order of linking does not matter.
cat >"$folder/unit.cpp" <<'END'
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/tensors/swapped_memory.hpp>
#include <polyak/io/digest.hpp>
using polyak::detail::SwappedMemory;
extern "C" bool POLYAK_UNIT(SwapsIn)(const void* memory) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  return SwappedMemory::take(memory, {{begin, begin + 1}});
}
extern "C" int POLYAK_UNIT()() {
  polyak::detail::Digest digest;
  digest.add({});
  return 10 * polyak::detail::level_in_use() + (digest.finish()[0] != '0');
}
END
cat >"$folder/main.cpp" <<'END'
#include <cstdio>
extern "C" int first();
extern "C" int second();
extern "C" bool firstSwapsIn(const void*);
extern "C" bool secondSwapsIn(const void*);
int main() {
  const char memory = 0;
  const bool alone = firstSwapsIn(&memory) && !secondSwapsIn(&memory);
  std::printf("%d %d %d\n", first(), second(), alone);
}
END
# A stand-in for xxHash, whose digests do not begin with 0.
cat >"$folder/xxhash.h" <<'END'
#include <cstddef>
struct XXH3_state_s {};
struct XXH128_canonical_t { unsigned char digest[16]; };
inline XXH3_state_s* XXH3_createState() { return new XXH3_state_s; }
inline void XXH3_freeState(XXH3_state_s* state) { delete state; }
inline void XXH3_128bits_reset(XXH3_state_s*) {}
inline void XXH3_128bits_update(XXH3_state_s*, const void*, std::size_t) {}
inline int XXH3_128bits_digest(XXH3_state_s*) { return 0; }
inline void XXH128_canonicalFromHash(XXH128_canonical_t* to, int) {
  for (unsigned char& byte : to->digest) byte = 0xff;
}
END
compile -c "$folder/main.cpp" -o "$folder/main.o"
compile '-DPOLYAK_UNIT(x)=first##x' -c "$folder/unit.cpp" -o "$folder/first.o"
compile '-DPOLYAK_UNIT(x)=second##x' -DPOLYAK_HAS_XXHASH=1 -DPOLYAK_NO_DISPATCH -I"$folder" \
  -c "$folder/unit.cpp" -o "$folder/second.o"
for order in 'first second' 'second first'; do
  read -r a b <<<"$order"
  "$compiler" "$folder/main.o" "$folder/$a.o" "$folder/$b.o" -o "$folder/program"
  read -r first second shared <<<"$("$folder/program")"
  [ "$shared" = 1 ] || fail "two units swap an average into the same memory ($order)"
  [ $((first % 10)) = 0 ] || fail "a unit without xxHash computes digests ($order)"
  [ "$second" = 1 ] || fail "a unit with xxHash and one level gives $second ($order)"
  if grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
    [ $((first / 10)) -ge 3 ] || fail "a unit with dispatch runs level $((first / 10)) ($order)"
  fi
done

# A unit does not link functions of the compiled library that have other switches than itself.
echo '#include <polyak/core/tensors/layout.ipp>' >"$folder/library.cpp"
cat >"$folder/user.cpp" <<'END'
#include <polyak/core/tensors/layout.hpp>
int main() { return polyak::detail::shape_text({1}) == "[1]" ? 0 : 1; }
END
cat >"$folder/rest.cpp" <<'END'
#include <polyak/core/tensors/index.ipp>
END
for file in library rest user; do
  compile -DPOLYAK_COMPILED -c "$folder/$file.cpp" -o "$folder/$file.o"
done
for switch in -DPOLYAK_NO_DISPATCH -DPOLYAK_HAS_XXHASH=1; do
  compile -DPOLYAK_COMPILED $switch -c "$folder/user.cpp" -o "$folder/other.o"
  "$compiler" "$folder/other.o" "$folder/library.o" "$folder/rest.o" -o "$folder/program" \
    2>/dev/null && fail "a unit with $switch links a library without"
done
"$compiler" "$folder/user.o" "$folder/library.o" "$folder/rest.o" -o "$folder/program"
"$folder/program"
