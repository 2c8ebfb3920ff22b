// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tail: the equal average of the last part of a run.
///
///   avg <- x                             t <= start
///   avg <- avg + (x - avg)/(t - start + 1)
///
/// alpha-suffix averaging, "Making Gradient Descent Optimal for Strongly Convex Stochastic
/// Optimization" (arXiv 1109.5647): start = ceil((1 - alpha) T) + 1 of T calls.
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and call, 2 before the
/// start. If the end of the run is not known in advance, use WindowAverage.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

#include <polyak/average/engine/average.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The first call of the last `share` of `calls` calls: ceil((1 - share) calls) + 1. share in
/// (0, 1], calls >= 1; at least the last call is included.
[[nodiscard]] inline std::int64_t suffix_start(double share, std::int64_t calls) {
  require(share > 0 && share <= 1, "suffix_start: share must lie in (0, 1]", share);
  require(calls >= 1, "suffix_start: calls must be >= 1", calls);
  const auto all = static_cast<double>(calls);
  // The double 0.7 is a little less than 7/10; that must not cost a call.
  const double taken = std::floor(share * all * (1 + 0x1p-50));
  return calls - static_cast<std::int64_t>(std::fmax(std::fmin(taken, all), 1)) + 1;
}

struct TailOptions {
  std::int64_t start = 1;  ///< first call of the tail, >= 1; see suffix_start()
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(TailOptions& o, Fields& field) {
  field("start", o.start, at_least_1);
  detail::average_fields(o, field);
}

/// Equal average of the calls from `start` on; before that the newest weights. Throws
/// std::invalid_argument for options out of range; for everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class Tail final : public AverageOf<Tail<P, S>, P, TailWeighting, S> {
 public:
  static constexpr std::string_view type_name = "Tail";

  explicit Tail(const Parameters<P>& params, TailOptions options = {},
                const Selection& selection = {})
      : AverageOf<Tail<P, S>, P, TailWeighting, S>(params, weighting_of(options), options.nonfinite,
                                                   {options.accumulate, options.seed, selection}) {}

 private:
  static TailWeighting weighting_of(const TailOptions& options) {
    validate(options);
    return {options.start};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
