// SPDX-License-Identifier: Apache-2.0
/// @file
/// The instruction-set levels that this processor runs, and a scalar that computes as each does.
#pragma once

#include <vector>

#include <polyak/core/number.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/simd/pack_x86.hpp>

namespace levels {

/// 0 is the level that this translation unit is compiled for.
[[nodiscard]] inline std::vector<int> supported() {
  std::vector<int> levels{0};
  for (const int level : {3, 4}) {
    if (level <= polyak::detail::supported_level()) levels.push_back(level);
  }
  return levels;
}

/// A number whose fma rounds twice, as packs do where the target has no fused instruction.
template <class T>
using TwoRoundings = polyak::detail::Pack<T, 1, polyak::detail::Scalars<false>>;

inline constexpr bool baseline_rounds_once = POLYAK_TARGET_FUSES == 1;

/// Whether fma rounds once at the level.
[[nodiscard]] inline bool rounds_once(int level) { return baseline_rounds_once || level != 0; }

}  // namespace levels
