// SPDX-License-Identifier: Apache-2.0
/// @file
/// SampleEma: exponential average by a clock of samples, so that the batch size may change.
///
///   n  <- n + batch                                           samples, this batch included
///   h   = min(half_life, rampup n)                            in samples
///   avg <- d avg + (1 - d) x          d = 2^(-batch/h)
///
/// Invariance of the half-life in samples: "How to Scale Your EMA" (arXiv 2307.13813). The rampup
/// is taken from the traditional EMA of "Analyzing and Improving the Training Dynamics of Diffusion
/// Models" (arXiv 2312.02696). State: 1 slot ("average"). Elementwise; any shape. 3 words per
/// parameter and call.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string_view>

#include <polyak/average/engine/average.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SampleEmaOptions {
  double half_life = 0.5e6;                                 ///< in samples, > 0
  double rampup = std::numeric_limits<double>::infinity();  ///< half-life over samples so far, > 0
  double batch_size = 1;  ///< samples per call, finite, > 0; at() changes it
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(SampleEmaOptions& o, Fields& field) {
  field("half_life", o.half_life, above_0);
  field("rampup", o.rampup, above_0);
  field("batch_size", o.batch_size, finite_and_positive);
  detail::average_fields(o, field);
}

/// The weighting, whose state is its clock.
struct SampleClock {
  static constexpr std::string_view type_name = "sample_clock";
  double half_life, rampup, batch_size;
  double samples = 0;  ///< after the last call

  [[nodiscard]] bool weighs_initial() const { return true; }
  [[nodiscard]] double least_gain() const {
    return -std::expm1(-std::numbers::ln2 * batch_size / half_life);
  }
  [[nodiscard]] double gain(std::int64_t) const { return -std::expm1(exponent()); }
  [[nodiscard]] double complement(std::int64_t) const { return std::exp(exponent()); }
  void advance(std::int64_t) { samples += batch_size; }
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.scalar("batch_size", self.batch_size, finite_positive_range);
    visit.scalar("samples", self.samples, not_negative_range);
  }

 private:
  [[nodiscard]] double exponent() const {
    return -std::numbers::ln2 * batch_size /
           std::fmax(std::fmin(half_life, rampup * (samples + batch_size)), 1e-8);
  }
};
template <class Fields>
void fields(SampleClock& w, Fields& field) {
  field("half_life", w.half_life, above_0);
  field("rampup", w.rampup, above_0);
}

/// Exponential average of a model's weights with a half-life in samples, starting from the
/// parameters at construction: `ema.at(batch.size()).update(params)`. Throws std::invalid_argument
/// for options out of range; for everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class SampleEma final : public AverageOf<SampleEma<P, S>, P, SampleClock, S> {
 public:
  static constexpr std::string_view type_name = "SampleEma";

  explicit SampleEma(const Parameters<P>& params, SampleEmaOptions options = {},
                     const Selection& selection = {})
      : AverageOf<SampleEma<P, S>, P, SampleClock, S>(
            params, clock(options), options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

  /// The next calls count `batch_size` samples each. Throws std::invalid_argument unless it is
  /// finite and > 0, or if a 16-bit average would then stall.
  SampleEma& at(double batch_size) {
    detail::require_rule("batch_size", batch_size, finite_and_positive);
    SampleClock changed = this->weighting();
    changed.batch_size = batch_size;
    detail::validate({this->accumulate(), 0}, detail::dtype_of<S>(), changed.least_gain());
    this->mutable_weighting().batch_size = batch_size;
    return *this;
  }
  /// Samples so far.
  [[nodiscard]] double samples() const { return this->weighting().samples; }

 private:
  static SampleClock clock(const SampleEmaOptions& options) {
    validate(options);
    return {options.half_life, options.rampup, options.batch_size, 0};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
