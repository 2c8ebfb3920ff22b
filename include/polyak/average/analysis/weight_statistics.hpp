// SPDX-License-Identifier: Apache-2.0
/// @file
/// Statistics of any weighting over a run of T calls: the weight of each iterate, and its widths.
///
///   w_{t,T} = c_t prod_{s=t+1..T} (1 - c_s)        F_T(t) = w_{0,T} + ... + w_{t,T}
///                                                        = prod_{s=t+1..T} (1 - c_s)
///   q_T = sum_t w_{t,T}^2 = c_T^2 + (1 - c_T)^2 q_{T-1}      effective samples 1/q_T
///   m_T = sum_t w_{t,T} (T - t) = (1 - c_T)(m_{T-1} + 1)     mean age, in calls
///   v_T = (1 - c_T) (v_{T-1} + c_T (m_{T-1} + 1)^2)          variance of the age
///
/// 1/q: L. Kish, "Survey Sampling" (1965); the recursions follow from the recursion of the average.
/// The initial value is iterate 0, with age T and the weight that the average gives it. If the
/// weighting has weighs_initial() and it is false, the initial value does not count, and the other
/// weights are divided by their sum.
///
/// All take time O(T) and no memory, and throw std::invalid_argument for T < 1. In long runs these
/// tend to the conversions of a single decay with the same names in conversions.hpp. Pass a
/// weighting with a clock of its own (PowerClock) in its state before call 1.
#pragma once

#include <cmath>
#include <cstdint>

#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Calls visit(c_t, 1 - c_t) for t = first, ..., calls. For a gain of 1 the complement is 0,
/// whatever the weighting returns.
template <class W, class Visit>
void for_each_gain(const W& weighting, std::int64_t first, std::int64_t calls, Visit&& visit) {
  const auto at = [&visit](const W& now, std::int64_t t) {
    const double gain = now.gain(t);
    visit(gain, gain == 1 ? 0.0 : static_cast<double>(now.complement(t)));
  };
  if constexpr (requires(W clock) { clock.advance(first); }) {
    W clock = weighting;
    for (std::int64_t t = 1; t <= calls; ++t) {
      if (t >= first) at(clock, t);
      clock.advance(t);
    }
  } else {
    for (std::int64_t t = first; t <= calls; ++t) at(weighting, t);
  }
}

inline void require_calls(std::int64_t calls) {
  require(calls >= 1, "weight profile: calls must be >= 1", calls);
}
inline void require_iterate(std::int64_t t, std::int64_t calls) {
  require_calls(calls);
  if (t < 0 || t > calls) {
    refuse_argument("weight profile: the iterate must lie in [0, " + text(calls) + "]", t);
  }
}

/// Sum of squared weights, mean and variance of the age.
struct ProfileMoments {
  double squares, mean, variance;
};

template <class W>
[[nodiscard]] ProfileMoments profile_moments(const W& weighting, std::int64_t calls) {
  require_calls(calls);
  bool counts = true, ready = false;
  if constexpr (requires { weighting.weighs_initial(); }) {
    counts = ready = static_cast<bool>(weighting.weighs_initial());
  }
  ProfileMoments now{counts ? 1.0 : 0.0, 0, 0};
  double sum = now.squares;  // of the weights that count
  for_each_gain(weighting, 1, calls, [&](double gain, double complement) {
    ready = ready || gain != 0;
    if (!counts) {
      const double next = gain + complement * sum;
      if (next == 0) return;
      gain /= next;
      complement *= sum / next;
      sum = next;
    }
    const double older = now.mean + 1;
    now = {gain * gain + complement * complement * now.squares, complement * older,
           complement * (now.variance + gain * older * older)};
  });
  require(ready, "weight profile: calls must not end before the first update", calls);
  return now;
}

}  // namespace detail

/// F_T(t): the weight of the initial value and the iterates 1, ..., t together in the average at
/// call `calls` = T. 1 at t = T; exactly 0 where a later call copied. Throws std::invalid_argument
/// unless calls >= 1 and 0 <= t <= calls.
template <Weighting W>
[[nodiscard]] double cumulative_weight(const W& weighting, std::int64_t t, std::int64_t calls) {
  detail::require_iterate(t, calls);
  double kept = 1;
  detail::for_each_gain(weighting, t + 1, calls,
                        [&](double, double complement) { kept *= complement; });
  return kept;
}

/// w_{t,T}: the weight of iterate t, 0 being the initial value, in the average at call `calls` = T.
/// Exactly 0 where a later call copied. Throws as cumulative_weight. profile() returns all weights
/// at once.
template <Weighting W>
[[nodiscard]] double weight(const W& weighting, std::int64_t t, std::int64_t calls) {
  detail::require_iterate(t, calls);
  if (t == 0) return cumulative_weight(weighting, t, calls);
  double kept = 1;
  bool is_own = true;
  detail::for_each_gain(weighting, t, calls, [&](double gain, double complement) {
    kept *= is_own ? gain : complement;
    is_own = false;
  });
  return kept;
}

/// 1 / sum of squared weights at call `calls`: the number of equally weighted independent iterates
/// with the same noise. Throws std::invalid_argument for calls < 1, or if the average is not yet
/// readable at that call (Average::ready).
template <Weighting W>
[[nodiscard]] double effective_samples(const W& weighting, std::int64_t calls) {
  return 1 / detail::profile_moments(weighting, calls).squares;
}

/// Mean age of the iterates in the average at call `calls`, in calls; the newest has age 0, the
/// initial value age `calls`. Throws as effective_samples.
template <Weighting W>
[[nodiscard]] double mean_age(const W& weighting, std::int64_t calls) {
  return detail::profile_moments(weighting, calls).mean;
}

/// Standard deviation of that age, in calls. Throws as effective_samples.
template <Weighting W>
[[nodiscard]] double age_std(const W& weighting, std::int64_t calls) {
  return std::sqrt(detail::profile_moments(weighting, calls).variance);
}

}  // namespace POLYAK_V0
}  // namespace polyak
