// SPDX-License-Identifier: Apache-2.0
/// @file
/// Swa: stochastic weight averaging, the equal average of chosen iterates.
///
///   avg <- avg + (x_t - avg) / (n + 1)      n iterates collected before; the first copies
///   collected: calls t >= start with (t - start) a multiple of period
///
/// "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407).
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and collection.
#pragma once

#include <cstdint>
#include <string_view>

#include <polyak/average/engine/average.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SwaOptions {
  std::int64_t start = 1;   ///< first call that is collected, >= 0; calls are counted from 1
  std::int64_t period = 1;  ///< calls from one collection to the next, >= 1
  Accumulate accumulate = Accumulate::plain;  ///< how the average is stored
  std::uint64_t seed = 0;                     ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(SwaOptions& o, Fields& field) {
  field("start", o.start, at_least_0);
  field("period", o.period, at_least_1);
  detail::average_fields(o, field);
}

/// Equal average of the collected weights; the caller chooses the unit of a call (steps, epochs).
/// Throws std::invalid_argument for options out of range; for everything else see Average.
/// BatchNorm statistics do not fit the averaged weights: re-estimate them.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class Swa final : public AverageOf<Swa<P, S>, P, UniformWeighting, S> {
 public:
  static constexpr std::string_view type_name = "Swa";

  explicit Swa(const Parameters<P>& params, SwaOptions options = {},
               const Selection& selection = {})
      : AverageOf<Swa<P, S>, P, UniformWeighting, S>(
            params, weighting_of(options), options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

 private:
  static UniformWeighting weighting_of(const SwaOptions& options) {
    validate(options);
    return {options.start, options.period};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
