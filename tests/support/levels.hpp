// SPDX-License-Identifier: Apache-2.0
/// @file
/// The instruction-set levels that this processor runs, and a scalar that computes as each does.
#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/simd/pack_x86.hpp>

namespace levels {

/// 0 is what this translation unit is compiled for.
[[nodiscard]] inline std::vector<int> supported() {
  std::vector<int> levels{0};
  for (const int level : {3, 4}) {
    if (level <= polyak::detail::supported_level()) levels.push_back(level);
  }
  return levels;
}

/// A number whose fma rounds twice, as packs do where the target has no fused instruction.
template <class T>
struct TwoRoundings {
  T value = 0;
  TwoRoundings() = default;
  explicit TwoRoundings(T number) : value(number) {}
  friend TwoRoundings operator+(TwoRoundings a, TwoRoundings b) {
    return TwoRoundings(a.value + b.value);
  }
  friend TwoRoundings operator-(TwoRoundings a, TwoRoundings b) {
    return TwoRoundings(a.value - b.value);
  }
  friend TwoRoundings operator*(TwoRoundings a, TwoRoundings b) {
    return TwoRoundings(a.value * b.value);
  }
  friend TwoRoundings operator/(TwoRoundings a, TwoRoundings b) {
    return TwoRoundings(a.value / b.value);
  }
  friend TwoRoundings fma(TwoRoundings a, TwoRoundings b, TwoRoundings c) {
    const volatile T product = a.value * b.value;  // so that nothing contracts the two
    return TwoRoundings(product + c.value);
  }
  friend TwoRoundings sqrt(TwoRoundings a) { return TwoRoundings(std::sqrt(a.value)); }
  friend TwoRoundings max(TwoRoundings a, TwoRoundings b) { return a.value > b.value ? a : b; }
  friend TwoRoundings if_zero(TwoRoundings test, TwoRoundings then, TwoRoundings otherwise) {
    return test.value == 0 ? then : otherwise;
  }
};

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
inline constexpr bool baseline_rounds_once = true;
#else
inline constexpr bool baseline_rounds_once = false;
#endif

/// Whether fma rounds once at the level.
[[nodiscard]] inline bool rounds_once(int level) { return baseline_rounds_once || level != 0; }

}  // namespace levels
