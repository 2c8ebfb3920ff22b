// SPDX-License-Identifier: Apache-2.0
/// @file
/// Learning-rate schedules: factors of the base rate as plain functions of the step.
///
///   optimizer.at(rate * cosine(n, {.total_steps = N, .warmup_steps = W}))      n = 0, 1, ...
///
/// "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (arXiv 2405.18392).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include <polyak/average/schedules/cooldown.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace v0 {

/// min(1, (step + 1)/warmup_steps) of the 0-based step; 1 without warmup. warmup_steps >= 0.
[[nodiscard]] inline double linear_warmup(std::int64_t step, std::int64_t warmup_steps) {
  require(step >= 0, "linear_warmup: step must be >= 0", step);
  require(warmup_steps >= 0, "linear_warmup: warmup_steps must be >= 0", warmup_steps);
  if (step + 1 >= warmup_steps) return 1;
  return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
}

/// The other common warmup: linear from 1/start_divisor at step 0 to 1 at step warmup_steps.
[[nodiscard]] inline double linear_warmup_from(std::int64_t step, std::int64_t warmup_steps,
                                               double start_divisor) {
  require(step >= 0, "linear_warmup_from: step must be >= 0", step);
  require(warmup_steps >= 0, "linear_warmup_from: warmup_steps must be >= 0", warmup_steps);
  require(start_divisor >= 1 && detail::is_finite(start_divisor),
          "linear_warmup_from: start_divisor must be finite and >= 1", start_divisor);
  if (step >= warmup_steps) return 1;
  const double done = static_cast<double>(step) / static_cast<double>(warmup_steps);
  return done + (1 - done) / start_divisor;
}

struct CosineOptions {
  std::int64_t total_steps = 0;   ///< N, required, >= 1
  std::int64_t warmup_steps = 0;  ///< W, in [0, N - flat_steps)
  double final_factor = 0;        ///< f at the end, finite, >= 0
  std::int64_t flat_steps = 0;    ///< last steps at f, in [0, N)
  double start_divisor = 0;       ///< 0: linear_warmup; >= 1: linear_warmup_from
};

namespace detail {
inline constexpr Rule<double> start_divisor_rule{
    [](double v) { return v == 0 || (v >= 1 && is_finite(v)); },
    "must be 0, or finite and >= 1",
    {0.5, -1, nan_value, infinite}};
}  // namespace detail

template <class Fields>
void fields(CosineOptions& o, Fields& field) {
  field("total_steps", o.total_steps, at_least_1);
  field("flat_steps", o.flat_steps);
  field.check(o.flat_steps >= 0 && o.flat_steps < o.total_steps,
              "flat_steps must lie in [0, total_steps)", o.flat_steps);
  field("warmup_steps", o.warmup_steps);
  field.check(o.warmup_steps >= 0 && o.flat_steps >= 0 && o.flat_steps < o.total_steps &&
                  o.warmup_steps < o.total_steps - o.flat_steps,
              "warmup_steps must lie in [0, total_steps - flat_steps)", o.warmup_steps);
  field("final_factor", o.final_factor, finite_and_not_negative);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then f + (1 - f)(1 + cos(pi (n - W)/(N - flat_steps - W)))/2, then f. n = `step` counts
/// from 0. Throws std::invalid_argument for options out of range.
[[nodiscard]] inline double cosine(std::int64_t step, const CosineOptions& o) {
  require(step >= 0, "cosine: step must be >= 0", step);
  validate(o);
  const std::int64_t end = o.total_steps - o.flat_steps;
  if (step < o.warmup_steps) {
    return o.start_divisor == 0 ? linear_warmup(step, o.warmup_steps)
                                : linear_warmup_from(step, o.warmup_steps, o.start_divisor);
  }
  if (step >= end) return o.final_factor;
  const double u =
      static_cast<double>(step - o.warmup_steps) / static_cast<double>(end - o.warmup_steps);
  return o.final_factor + (1 - o.final_factor) * 0.5 * (1 + std::cos(std::numbers::pi * u));
}

struct CooldownOptions {
  std::int64_t total_steps = 0;    ///< N, required, >= 1
  std::int64_t warmup_steps = 0;   ///< W, in [0, N - D)
  double cooldown_fraction = 0.2;  ///< D = floor(fraction N) steps of cooldown; in [0, 1)
  double final_factor = 0;         ///< phi in [0, 1]; > 0 for exponential
  CooldownCurve shape = CooldownCurve::one_minus_sqrt;
  double start_divisor = 0;  ///< 0: linear_warmup; >= 1: linear_warmup_from
};

namespace detail {
/// D, for a valid fraction.
[[nodiscard]] inline std::int64_t cooldown_steps(const CooldownOptions& o) {
  if (!in_0_1.holds(o.cooldown_fraction)) return 0;
  return static_cast<std::int64_t>(o.cooldown_fraction * static_cast<double>(o.total_steps));
}
}  // namespace detail

template <class Fields>
void fields(CooldownOptions& o, Fields& field) {
  field("total_steps", o.total_steps, at_least_1);
  field("cooldown_fraction", o.cooldown_fraction, in_0_1);
  field("warmup_steps", o.warmup_steps);
  field.check(o.warmup_steps >= 0 && o.warmup_steps < o.total_steps - detail::cooldown_steps(o),
              "warmup_steps must lie in [0, total_steps - cooldown steps)", o.warmup_steps);
  field("final_factor", o.final_factor, in_closed_0_1);
  field("shape", o.shape);
  field.check(o.shape != CooldownCurve::exponential || o.final_factor > 0,
              "final_factor must be > 0 for an exponential cooldown", o.final_factor);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then 1, then a cooldown over the last D steps: s = (n - (N - D))/D; phi from N on.
/// n = `step` counts from 0. Throws std::invalid_argument for options out of range.
[[nodiscard]] inline double constant_with_cooldown(std::int64_t step, const CooldownOptions& o) {
  require(step >= 0, "constant_with_cooldown: step must be >= 0", step);
  validate(o);
  const std::int64_t cooldown = detail::cooldown_steps(o), begin = o.total_steps - cooldown;
  if (step < o.warmup_steps) {
    return o.start_divisor == 0 ? linear_warmup(step, o.warmup_steps)
                                : linear_warmup_from(step, o.warmup_steps, o.start_divisor);
  }
  if (step < begin) return 1;
  if (step >= o.total_steps) return o.final_factor;
  const double s = static_cast<double>(step - begin) / static_cast<double>(cooldown);
  return detail::cooldown_factor(o.shape, s, o.final_factor);
}

}  // namespace v0
}  // namespace polyak
