// SPDX-License-Identifier: Apache-2.0
/// @file
/// HareTortoise: fast weights (the hare) that are reset to their slow average (the tortoise) every
/// k calls.
///
///   each call j = 0, 1, ...:  avg <- avg + c_j (x - avg)
///     c_j = 1                                               for j <= update_after
///     1 - c_j = clip(1 - (1 + (j - update_after)/inverse_gamma)^-power, min_decay, decay)
///   after call j >= 1, j a multiple of switch_every:  x <- blend x + (1 - blend) avg
///
/// "Slow and Steady Wins the Race: Maintaining Plasticity with Hare and Tortoise Networks"
/// (arXiv 2406.02596). The optimizer's state is kept; SwitchEma shows how to reset the moments. The
/// warmup of the decay is taken from the ema-pytorch package. State: 1 slot ("average").
/// Elementwise; any shape. 3 words per parameter and call, 4 at a switch.
#pragma once

#include <cstdint>
#include <string_view>

#include <polyak/average/engine/fed_back_average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_warmup.hpp>
#include <polyak/core/options.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct HareTortoiseOptions {
  double decay = 0.999;    ///< cap: 0 or in [0.5, 1]; 1 freezes the average after the copies
  bool any_decay = false;  ///< accepts decays in (0, 0.5) too
  std::int64_t switch_every = 1000;  ///< k calls from one switch to the next, >= 1
  double blend = 0;                  ///< share of the fast weights after a switch, in [0, 1]
  std::int64_t update_after = 0;     ///< calls after the first that still copy, >= 0
  double inverse_gamma = 1;          ///< of the warmup, > 0
  double power = 2.0 / 3.0;          ///< of the warmup, >= 0
  double min_decay = 0;              ///< floor of the decay, in [0, decay]
  std::int64_t update_every = 1;     ///< calls from one update to the next, >= 1
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

namespace detail {
/// The fields that options and weighting share. The decay is not one of them, because its rule
/// differs.
template <class Fields>
void hare_tortoise_fields(HareTortoiseOptions& o, Fields& field) {
  field("switch_every", o.switch_every, at_least_1);
  field("blend", o.blend, in_closed_0_1);
  field("update_after", o.update_after, at_least_0);
  field("inverse_gamma", o.inverse_gamma, finite_and_positive);
  field("power", o.power, finite_and_not_negative);
  field("min_decay", o.min_decay);
  field.check(o.min_decay >= 0 && o.min_decay <= o.decay, "min_decay must lie in [0, decay]",
              o.min_decay);
  field("update_every", o.update_every, at_least_1);
}
}  // namespace detail

template <class Fields>
void fields(HareTortoiseOptions& o, Fields& field) {
  field("decay", o.decay, decay_in_0_1, likely_decay(o.any_decay));
  field("any_decay", o.any_decay);
  detail::hare_tortoise_fields(o, field);
  detail::average_fields(o, field);
}

struct HareTortoiseWeighting {
  static constexpr std::string_view type_name = "hare_tortoise";
  HareTortoiseOptions made_with;

  [[nodiscard]] double least_gain() const { return 1 - made_with.decay; }
  [[nodiscard]] double gain(std::int64_t t) const { return detail::ema_pytorch_gain(made_with, t); }
  [[nodiscard]] double complement(std::int64_t t) const {
    return detail::ema_pytorch_complement(made_with, t);
  }
};
template <class Fields>
void fields(HareTortoiseWeighting& w, Fields& field) {
  field("decay", w.made_with.decay, in_closed_0_1);
  detail::hare_tortoise_fields(w.made_with, field);
}

struct HareTortoiseRule {
  std::int64_t switch_every;
  [[nodiscard]] bool after(std::int64_t t) const { return t > 1 && (t - 1) % switch_every == 0; }
};

/// Exponential average with warmup that is fed back into the weights every k calls. The optimizer's
/// state is kept. Throws std::invalid_argument for options out of range; for everything else see
/// Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class HareTortoise final
    : public FedBackAverage<HareTortoise<P, S>, P, HareTortoiseWeighting, HareTortoiseRule, S> {
 public:
  static constexpr std::string_view type_name = "HareTortoise";

  explicit HareTortoise(const Parameters<P>& params, HareTortoiseOptions options = {},
                        const Selection& selection = {})
      : FedBackAverage<HareTortoise<P, S>, P, HareTortoiseWeighting, HareTortoiseRule, S>(
            params, weighting_of(options), {options.switch_every}, options.blend, options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

 private:
  static HareTortoiseWeighting weighting_of(const HareTortoiseOptions& options) {
    validate(options);
    return {options};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
