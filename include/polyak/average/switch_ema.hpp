// SPDX-License-Identifier: Apache-2.0
/// @file
/// SwitchEma: an exponential average from which training continues at each switch.
///
///   each call:      avg <- decay_i avg + (1 - decay_i) x          i = 0, 1, ... counts the calls
///   at a switch:    x <- avg                                      avg itself unchanged
///   unit epochs:      before the first call of epoch e when start < e <= end, (e + 1) % interval =
///                     0
///   unit iterations:  after call i when start < i <= end, (i + 1) % interval = 0
///
/// A switch changes neither the optimizer's state nor the learning-rate schedule nor the warmup, as
/// in the authors' code. The moments belong to the weights before the switch; you may reset them:
///
///   if (ema.begin_epoch(params)) optimizer.reset_moments();                       unit epochs
///   step(params, grads, optimizer, ema);                                          unit iterations
///   if (ema.switched()) optimizer.reset_moments();
///
/// "Switch EMA: A Free Lunch for Better Flatness and Sharpness" (arXiv 2402.09240).
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and call, 4 at a
/// switch.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include <polyak/average/engine/fed_back_average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The unit of `interval`, `start` and `end`, all counted from 0.
enum class SwitchUnit : std::uint8_t { epochs, iterations };

[[nodiscard]] constexpr std::string_view name_of(SwitchUnit value) {
  switch (value) {
    case SwitchUnit::epochs:
      return "epochs";
    default:
      return "iterations";
  }
}

/// The decay of call i <= warmup_iterations =: W, with r = warmup_ratio; afterwards it is `decay`.
enum class SwitchWarmup : std::uint8_t {
  none,         ///< decay
  constant,     ///< r decay
  linear,       ///< decay (1 - (1 - i/W)(1 - r))
  exponential,  ///< decay r^(1 - i/W)
};

[[nodiscard]] constexpr std::string_view name_of(SwitchWarmup value) {
  switch (value) {
    case SwitchWarmup::none:
      return "none";
    case SwitchWarmup::constant:
      return "constant";
    case SwitchWarmup::linear:
      return "linear";
    default:
      return "exponential";
  }
}

struct SwitchEmaOptions {
  double decay = 0.999;                  ///< in [0.5, 1); the decay, not the gain
  bool any_decay = false;                ///< accepts decays in (0, 0.5) too
  SwitchUnit unit = SwitchUnit::epochs;  ///< of the next three
  std::int64_t interval = 1;             ///< from one switch to the next, >= 1
  std::int64_t start = 0;  ///< the first switch comes after this epoch or iteration, >= 0
  std::int64_t end =
      std::numeric_limits<std::int64_t>::max();  ///< no switch comes after it, >= start
  SwitchWarmup warmup = SwitchWarmup::none;
  std::int64_t warmup_iterations = 0;  ///< W, >= 1 with a warmup
  double warmup_ratio = 0.1;           ///< r in (0, 1]
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

namespace detail {
/// The fields that options and switch rule share.
template <class O, class Fields>
void switch_time_fields(O& o, Fields& field) {
  field("unit", o.unit);
  field("interval", o.interval, at_least_1);
  field("start", o.start, at_least_0);
  field("end", o.end);
  field.check(o.end >= o.start, "end must be >= start", o.end);
}
/// The fields that options and weighting share. The decay is not one of them, because its rule
/// differs.
template <class Fields>
void switch_warmup_fields(SwitchEmaOptions& o, Fields& field) {
  field("warmup", o.warmup);
  field("warmup_iterations", o.warmup_iterations);
  field.check(o.warmup == SwitchWarmup::none || o.warmup_iterations >= 1,
              "warmup_iterations must be >= 1 with a warmup", o.warmup_iterations);
  field("warmup_ratio", o.warmup_ratio, in_0_1_above_0);
}
}  // namespace detail

template <class Fields>
void fields(SwitchEmaOptions& o, Fields& field) {
  field("decay", o.decay, in_open_0_1, likely_decay(o.any_decay));
  field("any_decay", o.any_decay);
  detail::switch_time_fields(o, field);
  detail::switch_warmup_fields(o, field);
  detail::average_fields(o, field);
}

/// Exponential weighting with the warmups above.
struct SwitchWeighting {
  static constexpr std::string_view type_name = "switch_ema";
  SwitchEmaOptions made_with;

  [[nodiscard]] double complement(std::int64_t t) const {
    const std::int64_t i = t - 1;
    if (made_with.warmup == SwitchWarmup::none || i > made_with.warmup_iterations)
      return made_with.decay;
    const double missing =
        1 - static_cast<double>(i) / static_cast<double>(made_with.warmup_iterations);
    const double ratio = made_with.warmup_ratio;
    switch (made_with.warmup) {
      case SwitchWarmup::constant:
        return ratio * made_with.decay;
      case SwitchWarmup::linear:
        return made_with.decay * (1 - missing * (1 - ratio));
      default:
        return made_with.decay * std::pow(ratio, missing);
    }
  }
  [[nodiscard]] double gain(std::int64_t t) const { return 1 - complement(t); }
  [[nodiscard]] double least_gain() const { return 1 - made_with.decay; }
};
template <class Fields>
void fields(SwitchWeighting& w, Fields& field) {
  field("decay", w.made_with.decay, in_open_0_1);
  detail::switch_warmup_fields(w.made_with, field);
}

/// Determines the iterations that end, and the epochs that begin, with a switch.
struct SwitchRule {
  SwitchUnit unit;
  std::int64_t interval, start, end;
  std::int64_t epoch = -1;  ///< the current epoch; none has begun

  [[nodiscard]] bool due(std::int64_t index) const {
    return index > start && index <= end && (index + 1) % interval == 0;
  }
  [[nodiscard]] bool after(std::int64_t t) const {
    return unit == SwitchUnit::iterations && due(t - 1);
  }
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.scalar("epoch", self.epoch, {-1, count_range.most});
  }
};
template <class Fields>
void fields(SwitchRule& w, Fields& field) {
  detail::switch_time_fields(w, field);
}

/// Exponential average of the weights that is copied into the model at regular times. In unit
/// epochs, call begin_epoch() at the beginning of each epoch, the first included; to evaluate an
/// epoch, call swap_into() before that. BatchNorm statistics remain those of the online model.
/// Throws std::invalid_argument for options out of range; for everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class SwitchEma final : public FedBackAverage<SwitchEma<P, S>, P, SwitchWeighting, SwitchRule, S> {
 public:
  static constexpr std::string_view type_name = "SwitchEma";

  explicit SwitchEma(const Parameters<P>& params, SwitchEmaOptions options = {},
                     const Selection& selection = {})
      : FedBackAverage<SwitchEma<P, S>, P, SwitchWeighting, SwitchRule, S>(
            params, weighting_of(options),
            {options.unit, options.interval, options.start, options.end}, 0, options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

  /// Begins a new epoch: copies the average into the model if the rule says so, and returns whether
  /// it did. Throws std::logic_error in unit iterations and while an average is swapped in,
  /// std::invalid_argument for other parameters.
  bool begin_epoch(const Parameters<P>& params) {
    if (this->rule().unit != SwitchUnit::epochs) {
      detail::refuse_order("polyak: begin_epoch() of a SwitchEma that counts iterations");
    }
    if (params.swapped())
      detail::refuse_order("polyak: begin_epoch() while an average is swapped in");
    detail::check_method(*this, params);
    ++this->rule().epoch;
    if (!this->rule().due(this->rule().epoch) || !this->ready()) return false;
    this->template sweep_all<ReadLaw>(params);
    this->count_switch();
    return true;
  }

 private:
  static SwitchWeighting weighting_of(const SwitchEmaOptions& options) {
    validate(options);
    return {options};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
