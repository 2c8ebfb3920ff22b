// SPDX-License-Identifier: Apache-2.0
/// @file
/// One cycle of the learning rate: up to its highest value, then down to nearly 0.
///
///   1/a + (1 - 1/a) f(n/r)                          up to step r = rise_fraction N - 1
///   1 + (1/(a b) - 1) f((n - r)/(N - 1 - r))        down to step N - 1
///     a = start_divisor, b = final_divisor, f(u) = (1 - cos(pi u))/2 or u
///
/// "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates"
/// (arXiv 1708.07120), with the phases of PyTorch's OneCycleLR.
#pragma once

#include <algorithm>
#include <cstdint>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/anneal.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Options of one_cycle().
struct OneCycleOptions {
  std::int64_t total_steps = 0;  ///< N, required, >= 2
  double rise_fraction = 0.3;    ///< part of the steps at whose end the rate is highest; in [0, 1)
  double start_divisor = 25;     ///< the first factor is 1/start_divisor; finite, >= 1
  double final_divisor = 1e4;    ///< the last is 1/(start_divisor final_divisor); finite, >= 1
  /// The curve of both ways.
  AnnealStrategy strategy = AnnealStrategy::cosine;
  /// true: from the highest rate back to the first in as many steps as it took up, then on to the
  /// last in what is left; rise_fraction <= 0.5 then.
  bool three_phase = false;
};

namespace detail {
inline constexpr Rule<double> finite_and_at_least_1{[](double v) { return v >= 1 && is_finite(v); },
                                                    "must be finite and >= 1",
                                                    {0.5, 0, -1, nan_value, infinite}};
}  // namespace detail

template <class Fields>
void fields(OneCycleOptions& o, Fields& field) {
  field("total_steps", o.total_steps);
  field.check(o.total_steps >= 2, "total_steps must be >= 2", o.total_steps);
  field("rise_fraction", o.rise_fraction, in_0_1);
  field("start_divisor", o.start_divisor, detail::finite_and_at_least_1);
  field("final_divisor", o.final_divisor, detail::finite_and_at_least_1);
  field("strategy", o.strategy);
  field("three_phase", o.three_phase);
  field.check(!o.three_phase || o.rise_fraction <= 0.5,
              "rise_fraction must be <= 0.5 with three_phase", o.rise_fraction);
}

/// The factor of the highest rate: 1/start_divisor at step 0, 1 at step r = rise_fraction N - 1 (at
/// least 0, and not always a whole number), 1/(start_divisor final_divisor) from step N - 1 on.
/// n = `step` counts from 0. Throws std::invalid_argument for options out of range.
[[nodiscard]] inline double one_cycle(std::int64_t step, const OneCycleOptions& o) {
  require(step >= 0, "one_cycle: step must be >= 0", step);
  validate(o);
  const double first = 1 / o.start_divisor, last = first / o.final_divisor;
  const double n = static_cast<double>(step), end = static_cast<double>(o.total_steps - 1);
  const double top = std::max(0.0, o.rise_fraction * static_cast<double>(o.total_steps) - 1);
  const double back = o.three_phase ? 2 * top : top;
  const auto between = [&](double from, double to, double begin, double stop) {
    const double u = (n - begin) / (stop - begin);
    return from + (to - from) * detail::anneal(o.strategy, u);
  };
  if (n >= end) return last;
  if (n < top) return between(first, 1, 0, top);
  if (n < back) return between(1, first, top, back);
  return between(o.three_phase ? first : 1, last, back, end);
}

}  // namespace POLYAK_V0
}  // namespace polyak
