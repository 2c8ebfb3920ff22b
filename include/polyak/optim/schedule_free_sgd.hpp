// SPDX-License-Identifier: Apache-2.0
/// @file
/// ScheduleFreeSgd: SGD whose averaging replaces the learning-rate schedule.
///
///   d = g + weight_decay y
///   z <- z - gamma_t d
///   x <- x + c_t (z - x)                c_t, gamma_t: see schedule_free.hpp
///   y <- beta x + (1 - beta) z          the model holds y
///
/// "The Road Less Scheduled" (arXiv 2405.15682).
/// State: 1 slot ("z"). Elementwise; any shape. 5 words per parameter and step.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/schedule_free.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct ScheduleFreeSgdOptions {
  double learning_rate = 1;       ///< finite, >= 0
  double beta = 0.9;              ///< y between z (0) and x (1), in (0, 1)
  std::int64_t warmup_steps = 0;  ///< linear warmup, >= 0
  double weight_decay = 0;        ///< at y, finite, >= 0
  double r = 0;                   ///< power of t in the averaging weights, finite, >= 0
  double weight_lr_power = 2;     ///< power of the learning rate in them, finite
  AverageWeight average_weight = AverageWeight::running_maximum;
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
};

template <class Fields>
void fields(ScheduleFreeSgdOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("beta", o.beta, in_open_0_1);
  field("warmup_steps", o.warmup_steps, at_least_0);
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  field("r", o.r, finite_and_not_negative);
  field("weight_lr_power", o.weight_lr_power, finite_number);
  field("average_weight", o.average_weight);
  weight_fields(o, field);
}

template <class T>
struct ScheduleFreeSgdLaw {
  static constexpr LawSlots slots{"z"};
  ScheduleFreeMove<T> move;
  T decay;
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& g, V& z) const {
    move(y, z, with_decay(decay, y, g));
  }
};

struct ScheduleFreeSgdRule {
  using Options = ScheduleFreeSgdOptions;
  static constexpr std::string_view name = "ScheduleFreeSgd";
  template <class T>
  using Step = ScheduleFreeStep<T>;

  template <class T>
  static ScheduleFreeSgdLaw<T> law(const ScheduleFreeSgdOptions& o, const Step<T>& s) {
    return {.move = s.move(), .decay = s(o.weight_decay)};
  }
  static ScheduleFreeSchedule schedule(const ScheduleFreeSgdOptions& o) {
    return {.beta = o.beta,
            .warmup_steps = o.warmup_steps,
            .r = o.r,
            .weight_lr_power = o.weight_lr_power,
            .average_weight = o.average_weight};
  }
};

/// Schedule-Free SGD. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class ScheduleFreeSgd final
    : public ScheduleFree<ScheduleFreeSgd<P, S>, ScheduleFreeSgdRule, P, S> {
 public:
  explicit ScheduleFreeSgd(const Parameters<P>& params, ScheduleFreeSgdOptions options = {},
                           const Selection& selection = {})
      : ScheduleFreeSgd::ScheduleFree(params, options, selection) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
