// SPDX-License-Identifier: Apache-2.0
/// @file
/// Learning-rate schedules: factors of the base rate as plain functions of the step.
///
///   optimizer.at(rate * cosine(n, {.total_steps = N, .warmup_steps = W}))      n = 0, 1, ...
///
///   cosine                  half a cosine from 1 to f
///   polynomial              f + (1 - f)(1 - u)^power; the usual power 1 is linear decay
///   constant_with_cooldown  1, then one of six curves down to f
///   inverse_square_root     sqrt(T/(n - W + T))
///   piecewise               constants, or straight lines between points
///
/// One cycle is in one_cycle.hpp, the rates of SWA are in swa_learning_rate.hpp. Each schedule is
/// a function of the step alone, so that a resumed run needs no state for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <numbers>
#include <span>

#include <polyak/average/schedules/cooldown.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

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

namespace detail {

inline constexpr Rule<double> start_divisor_rule{
    [](double v) { return v == 0 || (v >= 1 && is_finite(v)); },
    "must be 0, or finite and >= 1",
    {0.5, -1, nan_value, infinite}};

/// The factor of a step below `warmup_steps`, for valid options.
[[nodiscard]] inline double warmup_factor(std::int64_t step, std::int64_t warmup_steps,
                                          double start_divisor) {
  return start_divisor == 0 ? linear_warmup(step, warmup_steps)
                            : linear_warmup_from(step, warmup_steps, start_divisor);
}
/// (step - begin)/(end - begin), for begin <= step < end.
[[nodiscard]] inline double part_done(std::int64_t step, std::int64_t begin, std::int64_t end) {
  return static_cast<double>(step - begin) / static_cast<double>(end - begin);
}

}  // namespace detail

/// Options of cosine().
struct CosineOptions {
  std::int64_t total_steps = 0;   ///< N, required, >= 1
  std::int64_t warmup_steps = 0;  ///< W, in [0, N - flat_steps]
  double final_factor = 0;        ///< f at the end, finite, >= 0
  std::int64_t flat_steps = 0;    ///< last steps at f, in [0, N)
  double start_divisor = 0;       ///< 0: linear_warmup; >= 1: linear_warmup_from
};

template <class Fields>
void fields(CosineOptions& o, Fields& field) {
  field("total_steps", o.total_steps, at_least_1);
  field("flat_steps", o.flat_steps);
  field.check(o.flat_steps >= 0 && o.flat_steps < o.total_steps,
              "flat_steps must lie in [0, total_steps)", o.flat_steps);
  field("warmup_steps", o.warmup_steps);
  field.check(o.warmup_steps >= 0 && o.flat_steps >= 0 && o.flat_steps < o.total_steps &&
                  o.warmup_steps <= o.total_steps - o.flat_steps,
              "warmup_steps must lie in [0, total_steps - flat_steps]", o.warmup_steps);
  field("final_factor", o.final_factor, finite_and_not_negative);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then f + (1 - f)(1 + cos(pi (n - W)/(N - flat_steps - W)))/2, then f. n = `step` counts
/// from 0. Throws std::invalid_argument for options out of range. "SGDR: Stochastic Gradient
/// Descent with Warm Restarts" (arXiv 1608.03983), without restarts.
[[nodiscard]] inline double cosine(std::int64_t step, const CosineOptions& o) {
  require(step >= 0, "cosine: step must be >= 0", step);
  validate(o);
  const std::int64_t end = o.total_steps - o.flat_steps;
  if (step < o.warmup_steps) return detail::warmup_factor(step, o.warmup_steps, o.start_divisor);
  if (step >= end) return o.final_factor;
  const double u = detail::part_done(step, o.warmup_steps, end);
  return o.final_factor + (1 - o.final_factor) * 0.5 * (1 + std::cos(std::numbers::pi * u));
}

/// Options of polynomial().
struct PolynomialOptions {
  std::int64_t total_steps = 0;   ///< N, required, >= 1
  std::int64_t warmup_steps = 0;  ///< W, in [0, N]
  double power = 1;               ///< finite, > 0; 1: linear decay
  double final_factor = 0;        ///< f, finite, >= 0
  double start_divisor = 0;       ///< 0: linear_warmup; >= 1: linear_warmup_from
};

template <class Fields>
void fields(PolynomialOptions& o, Fields& field) {
  field("total_steps", o.total_steps, at_least_1);
  field("warmup_steps", o.warmup_steps);
  field.check(o.warmup_steps >= 0 && o.warmup_steps <= o.total_steps,
              "warmup_steps must lie in [0, total_steps]", o.warmup_steps);
  field("power", o.power, finite_and_positive);
  field("final_factor", o.final_factor, finite_and_not_negative);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then f + (1 - f)(1 - (n - W)/(N - W))^power, then f. n = `step` counts from 0. With the
/// default power this is the linear decay from the end of the warmup to the end of the run. Throws
/// std::invalid_argument for options out of range.
[[nodiscard]] inline double polynomial(std::int64_t step, const PolynomialOptions& o) {
  require(step >= 0, "polynomial: step must be >= 0", step);
  validate(o);
  if (step < o.warmup_steps) return detail::warmup_factor(step, o.warmup_steps, o.start_divisor);
  if (step >= o.total_steps) return o.final_factor;
  const double left = 1 - detail::part_done(step, o.warmup_steps, o.total_steps);
  return o.final_factor + (1 - o.final_factor) * (o.power == 1 ? left : std::pow(left, o.power));
}

/// Options of constant_with_cooldown().
struct CooldownOptions {
  std::int64_t total_steps = 0;    ///< N, required, >= 1
  std::int64_t warmup_steps = 0;   ///< W, in [0, N - D]
  double cooldown_fraction = 0.2;  ///< D = floor(fraction N) steps of cooldown; in [0, 1]
  double final_factor = 0;         ///< phi in [0, 1]; > 0 for exponential
  CooldownCurve shape = CooldownCurve::one_minus_sqrt;
  double start_divisor = 0;  ///< 0: linear_warmup; >= 1: linear_warmup_from
};

namespace detail {
/// D, for a valid fraction. Decimal fractions are meant: 0.29 of 100 is 29, though the product of
/// the doubles is below it. A cooldown of the whole run begins when the warmup ends.
[[nodiscard]] inline std::int64_t cooldown_steps(const CooldownOptions& o) {
  if (!in_closed_0_1.holds(o.cooldown_fraction)) return 0;
  if (o.cooldown_fraction == 1) return o.total_steps - o.warmup_steps;
  constexpr double up = 1 + 4 * std::numeric_limits<double>::epsilon();
  return static_cast<std::int64_t>(o.cooldown_fraction * static_cast<double>(o.total_steps) * up);
}
}  // namespace detail

template <class Fields>
void fields(CooldownOptions& o, Fields& field) {
  field("total_steps", o.total_steps, at_least_1);
  field("cooldown_fraction", o.cooldown_fraction, in_closed_0_1);
  field("warmup_steps", o.warmup_steps);
  field.check(o.warmup_steps >= 0 && o.warmup_steps <= o.total_steps &&
                  o.warmup_steps <= o.total_steps - detail::cooldown_steps(o),
              "warmup_steps must lie in [0, total_steps - cooldown steps]", o.warmup_steps);
  field("final_factor", o.final_factor, in_closed_0_1);
  field("shape", o.shape);
  field.check(o.shape != CooldownCurve::exponential || o.final_factor > 0,
              "final_factor must be > 0 for an exponential cooldown", o.final_factor);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then 1, then a cooldown over the last D steps: s = (n - (N - D))/D; phi from N on. With
/// a fraction of 1 the cooldown takes all steps after the warmup. n = `step` counts from 0. Throws
/// std::invalid_argument for options out of range. "Scaling Laws and Compute-Optimal Training
/// Beyond Fixed Training Durations" (arXiv 2405.18392).
[[nodiscard]] inline double constant_with_cooldown(std::int64_t step, const CooldownOptions& o) {
  require(step >= 0, "constant_with_cooldown: step must be >= 0", step);
  validate(o);
  const std::int64_t begin = o.total_steps - detail::cooldown_steps(o);
  if (step < o.warmup_steps) return detail::warmup_factor(step, o.warmup_steps, o.start_divisor);
  if (step < begin) return 1;
  if (step >= o.total_steps) return o.final_factor;
  return detail::cooldown_factor(o.shape, detail::part_done(step, begin, o.total_steps),
                                 o.final_factor);
}

/// Options of inverse_square_root().
struct InverseSquareRootOptions {
  std::int64_t warmup_steps = 0;  ///< W >= 0
  std::int64_t timescale = 0;     ///< T >= 0; 0: W, which must then be >= 1
  double start_divisor = 0;       ///< 0: linear_warmup; >= 1: linear_warmup_from
};

template <class Fields>
void fields(InverseSquareRootOptions& o, Fields& field) {
  field("warmup_steps", o.warmup_steps, at_least_0);
  field("timescale", o.timescale, at_least_0);
  field.check(o.timescale > 0 || o.warmup_steps > 0, "timescale must be >= 1 without warmup",
              o.timescale);
  field("start_divisor", o.start_divisor, detail::start_divisor_rule);
}

/// Warmup, then sqrt(T/(n - W + T)): 1 at n = W, and half of it 3 T steps later. It has no end.
/// n = `step` counts from 0. With T = W it is sqrt(W/n). Throws std::invalid_argument for options
/// out of range. "Attention Is All You Need" (arXiv 1706.03762), where its factor is relative to
/// the peak.
[[nodiscard]] inline double inverse_square_root(std::int64_t step,
                                                const InverseSquareRootOptions& o) {
  require(step >= 0, "inverse_square_root: step must be >= 0", step);
  validate(o);
  if (step < o.warmup_steps) return detail::warmup_factor(step, o.warmup_steps, o.start_divisor);
  const auto timescale = static_cast<double>(o.timescale > 0 ? o.timescale : o.warmup_steps);
  return std::sqrt(timescale / (static_cast<double>(step - o.warmup_steps) + timescale));
}

/// A corner of piecewise(): from `step` on the factor is `factor`.
struct SchedulePoint {
  std::int64_t step = 0;  ///< >= 0
  double factor = 1;      ///< finite, >= 0
};

/// The values between two points of piecewise().
enum class Interpolation : std::uint8_t {
  constant,  ///< the factor of the point before
  linear,    ///< on a straight line
};

/// The factor of the last point whose step is at most `step` (Interpolation::constant), or on the
/// line from it to the next one; before the first point that point's factor, and after the last
/// point the last one's. Steps of points rise. Throws std::invalid_argument without points, for
/// points out of order, and for factors out of range.
[[nodiscard]] inline double piecewise(std::int64_t step, std::span<const SchedulePoint> points,
                                      Interpolation between = Interpolation::constant) {
  require(step >= 0, "piecewise: step must be >= 0", step);
  require(!points.empty(), "piecewise: points must not be empty", points.size());
  for (std::size_t k = 0; k < points.size(); ++k) {
    require(finite_and_not_negative.holds(points[k].factor),
            "piecewise: factors must be finite and >= 0", points[k].factor);
    require(points[k].step >= 0 && (k == 0 || points[k].step > points[k - 1].step),
            "piecewise: steps of points must be >= 0 and rise", points[k].step);
  }
  const auto after = std::find_if(points.begin(), points.end(),
                                  [&](const SchedulePoint& point) { return point.step > step; });
  if (after == points.begin()) return after->factor;
  const SchedulePoint& before = *(after - 1);
  if (after == points.end() || between == Interpolation::constant) return before.factor;
  const double u = detail::part_done(step, before.step, after->step);
  return before.factor + (after->factor - before.factor) * u;
}
/// The same for points in braces: piecewise(n, {{0, 1}, {30'000, 0.1}, {60'000, 0.01}}).
[[nodiscard]] inline double piecewise(std::int64_t step,
                                      std::initializer_list<SchedulePoint> points,
                                      Interpolation between = Interpolation::constant) {
  return piecewise(step, std::span(points.begin(), points.size()), between);
}

}  // namespace POLYAK_V0
}  // namespace polyak
