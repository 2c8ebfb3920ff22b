// SPDX-License-Identifier: Apache-2.0
/// @file
/// The curves between two learning rates.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The curve between two rates: f(u) is the part of the way done, u from 0 to 1.
enum class AnnealStrategy : std::uint8_t {
  cosine,  ///< (1 - cos(pi u))/2
  linear,  ///< u
};

[[nodiscard]] constexpr std::string_view name_of(AnnealStrategy value) {
  return value == AnnealStrategy::cosine ? "cosine" : "linear";
}

namespace detail {
/// f(u), for u in [0, 1].
[[nodiscard]] inline double anneal(AnnealStrategy strategy, double u) {
  return strategy == AnnealStrategy::cosine ? 0.5 * (1 - std::cos(std::numbers::pi * u)) : u;
}
}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
