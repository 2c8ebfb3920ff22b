// SPDX-License-Identifier: Apache-2.0
/// @file
/// Ema: exponential moving average of the weights.
///
///   avg_t = avg_{t-1} + c_t (x_t - avg_{t-1})      t = 1, 2, ...
///   c_t   =  1 - decay                             Start::params, from avg_0 = x_0
///   c_1   =  1, then 1 - decay                     Start::first_update
///   c_t   = (1 - decay) / (1 - decay^t)            Start::zero_debiased
///
/// Weight of x_t in avg_T: (1 - decay) decay^(T-t), over 1 - decay^T where debiased.
/// In continual learning, with decay 0.99 and a call of grow() whenever the model grows, it is the
/// temporal ensemble of "Improving Online Continual Learning Performance and Stability with
/// Temporal Ensembles" (arXiv 2306.16817).
/// Debiasing: "Adam: A Method for Stochastic Optimization" (arXiv 1412.6980), section 3.
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and update.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct EmaOptions {
  double decay = 0.999;  ///< 0 or in [0.5, 1]: remembers about 1/(1 - decay) calls; < 1 if debiased
  bool any_decay = false;       ///< accepts decays in (0, 0.5) too, which are rarely meant
  Start start = Start::params;  ///< the value before the first update
  std::int64_t update_every =
      1;  ///< calls per update, >= 1; an update then decays by decay^update_every
  Accumulate accumulate = Accumulate::plain;  ///< how the average is stored
  std::uint64_t seed = 0;                     ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(EmaOptions& o, Fields& field) {
  field("decay", o.decay, decay_in_0_1, likely_decay(o.any_decay));
  field("any_decay", o.any_decay);
  detail::exponential_fields(o, field);
  detail::average_fields(o, field);
}

namespace detail {

template <class T>
void require_unchanged(std::string_view name, const T& given, const T& expected) {
  if (given == expected) return;
  refuse_argument(
      "with() must leave " + std::string(name) + " at " + option_text(expected) + "; it",
      option_text(given));
}
/// Refuses new options that differ in more than decays and what happens at a NaN.
template <class Options>
void require_same_but_decay(const Options& options, const ExponentialWeighting& before,
                            Accumulate accumulate, std::uint64_t seed) {
  require_unchanged("start", options.start, before.start);
  require_unchanged("update_every", options.update_every, before.update_every);
  require_unchanged("accumulate", options.accumulate, accumulate);
  require_unchanged("seed", options.seed, seed);
}
/// Refuses another decay where the correction is that of one decay.
inline void require_changeable(const ExponentialWeighting& now,
                               const ExponentialWeighting& before) {
  if (now.start == Start::zero_debiased) require_unchanged("decay", now.decay, before.decay);
}

}  // namespace detail

/// Exponential moving average of a model's weights. Throws std::invalid_argument for options out of
/// range; for everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class Ema final : public AverageOf<Ema<P, S>, P, ExponentialWeighting, S> {
 public:
  static constexpr std::string_view type_name = "Ema";

  explicit Ema(const Parameters<P>& params, EmaOptions options = {},
               const Selection& selection = {})
      : AverageOf<Ema<P, S>, P, ExponentialWeighting, S>(
            params, weighting_of(options), options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

  /// Changes the decay from the next call on, and what happens at a NaN; the average stays. The new
  /// decay is saved, and compared when a file is loaded. Throws std::invalid_argument for options
  /// out of range and for another start, update_every, accumulate or seed. With
  /// Start::zero_debiased the decay cannot change, because the correction is that of one decay. If
  /// it throws, nothing has changed.
  Ema& with(const EmaOptions& options);

 private:
  static ExponentialWeighting weighting_of(const EmaOptions& options) {
    validate(options);
    return {options.decay, options.start, options.update_every};
  }
};

// Outside the class, so that only programs that use it compile it.

template <ParameterScalar P, StateScalar S>
Ema<P, S>& Ema<P, S>::with(const EmaOptions& options) {
  const ExponentialWeighting now = weighting_of(options), before = this->weighting();
  detail::require_same_but_decay(options, before, this->accumulate(), this->seed());
  detail::require_changeable(now, before);
  if (now.decay == before.decay) {
    this->change_options(options.nonfinite, detail::least_gain(now));
  } else {
    this->change_weighting(now, options.nonfinite);
  }
  return *this;
}

}  // namespace POLYAK_V0
}  // namespace polyak
