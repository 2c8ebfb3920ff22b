// SPDX-License-Identifier: Apache-2.0
/// @file
/// The warmup of decays that several weightings share, with bounds:
///
///   warm(s) = 1 - (1 + s/inverse_gamma)^-power          s >= 0; within [min_decay, decay]
#pragma once

#include <cmath>
#include <cstdint>

#include <polyak/core/options.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// 1 - warm(s) and warm(s), each computed directly: the subtraction would lose digits.
[[nodiscard]] inline double inverse_gamma_gain(double s, double inverse_gamma, double power) {
  return std::exp(-power * std::log1p(s / inverse_gamma));
}
[[nodiscard]] inline double inverse_gamma_decay(double s, double inverse_gamma, double power) {
  return -std::expm1(-power * std::log1p(s / inverse_gamma));
}
/// A decay clipped to [min_decay, decay], the lower bound last, and its gain.
[[nodiscard]] inline double within(double value, double decay, double min_decay) {
  return std::fmax(std::fmin(value, decay), min_decay);
}
[[nodiscard]] inline double gain_within(double gain, double decay, double min_decay) {
  return std::fmin(std::fmax(gain, 1 - decay), 1 - min_decay);
}

/// warm(s) and 1 - warm(s) of a weighting, within its bounds; s >= 1 calls after the copies.
template <class W>
[[nodiscard]] double warm_decay(const W& w, std::int64_t s) {
  return within(inverse_gamma_decay(static_cast<double>(s), w.inverse_gamma, w.power), w.decay,
                w.min_decay);
}
template <class W>
[[nodiscard]] double warm_gain(const W& w, std::int64_t s) {
  return gain_within(inverse_gamma_gain(static_cast<double>(s), w.inverse_gamma, w.power), w.decay,
                     w.min_decay);
}

/// The gain of the package ema-pytorch, and its complement. With i = t - 1, the update acts where i
/// is a multiple of update_every, and copies while i <= update_after; then
/// d = warm(i - update_after). With decay 1 it never moves after its copies.
template <class W>
[[nodiscard]] double ema_pytorch_gain(const W& w, std::int64_t t) {
  if ((t - 1) % w.update_every != 0) return 0;
  if (t - 1 <= w.update_after) return 1;
  return w.decay == 1 ? 0 : warm_gain(w, t - 1 - w.update_after);
}
template <class W>
[[nodiscard]] double ema_pytorch_complement(const W& w, std::int64_t t) {
  if ((t - 1) % w.update_every != 0) return 1;
  if (t - 1 <= w.update_after) return 0;
  return w.decay == 1 ? 1 : warm_decay(w, t - 1 - w.update_after);
}

/// The fields that weightings with this warmup share.
template <class W, class Fields>
void warmup_fields(W& w, Fields& field) {
  field("decay", w.decay, in_closed_0_1);
  field("min_decay", w.min_decay);
  field.check(w.min_decay >= 0 && w.min_decay <= w.decay, "min_decay must lie in [0, decay]",
              w.min_decay);
  field("update_after", w.update_after, at_least_0);
  field("inverse_gamma", w.inverse_gamma, finite_and_positive);
  field("power", w.power, finite_and_not_negative);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
