// SPDX-License-Identifier: Apache-2.0
/// @file
/// Cooldowns: the fall of a learning rate at the end of a run, or of the rate that an average
/// simulates.
///
///   f(u) = floor + (1 - floor) curve(u),   u from 0 to 1, f(0) = 1, f(1) = floor
///
/// "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (arXiv 2405.18392).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The curve of a cooldown.
enum class CooldownCurve : std::uint8_t {
  linear,          ///< 1 - u
  cosine,          ///< (1 + cos(pi u)) / 2
  one_minus_sqrt,  ///< 1 - sqrt(u)
  square,          ///< 1 - u^2
  mirror_cosine,   ///< 2 linear - cosine
  exponential,     ///< f(u) = floor^u, floor > 0
};

[[nodiscard]] constexpr std::string_view name_of(CooldownCurve value) {
  switch (value) {
    case CooldownCurve::linear:
      return "linear";
    case CooldownCurve::cosine:
      return "cosine";
    case CooldownCurve::one_minus_sqrt:
      return "one_minus_sqrt";
    case CooldownCurve::square:
      return "square";
    case CooldownCurve::mirror_cosine:
      return "mirror_cosine";
    default:
      return "exponential";
  }
}

namespace detail {
/// f(u), for u and floor in [0, 1].
[[nodiscard]] inline double cooldown_factor(CooldownCurve curve, double u, double floor) {
  const double height = 1 - floor;
  const double linear = floor + height * (1 - u);
  const double cosine = floor + height * 0.5 * (1 + std::cos(std::numbers::pi * u));
  switch (curve) {
    case CooldownCurve::linear:
      return linear;
    case CooldownCurve::cosine:
      return cosine;
    case CooldownCurve::one_minus_sqrt:
      return floor + height * (1 - std::sqrt(u));
    case CooldownCurve::square:
      return floor + height * (1 - u * u);
    case CooldownCurve::mirror_cosine:
      return 2 * linear - cosine;
    default:
      return std::pow(floor, u);
  }
}
}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
