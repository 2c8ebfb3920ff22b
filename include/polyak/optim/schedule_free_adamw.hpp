// SPDX-License-Identifier: Apache-2.0
/// @file
/// ScheduleFreeAdamW: AdamW whose averaging replaces momentum and the learning-rate schedule.
///
///   v = beta2 v + (1 - beta2) g^2
///   d = n / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay y          n = g
///   z <- z - gamma_t d
///   x <- x + c_t (z - x)                c_t, gamma_t: see schedule_free.hpp
///   y <- beta x + (1 - beta) z          the model holds y
///
/// With inner momentum b: m = b m + (1 - b) g and n = m / (1 - b^t).
/// "The Road Less Scheduled" (arXiv 2405.15682).
/// State: slots "z", "exp_avg_sq", and "exp_avg" with inner momentum. Elementwise; any shape. 7
/// words per parameter and step, 9 with inner momentum.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/schedule_free.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct ScheduleFreeAdamWOptions {
  double learning_rate = 2.5e-3;       ///< finite, >= 0
  double beta = 0.9;                   ///< y between z (0) and x (1), in (0, 1)
  double beta2 = 0.999;                ///< of the second moment, in [0, 1)
  double epsilon = 1e-8;               ///< finite, > 0
  double inner_momentum = 0;           ///< b in [0, 1): n = m / (1 - b^t), m an average of g
  std::int64_t warmup_steps = 0;       ///< linear warmup, >= 0
  double weight_decay = 0;             ///< at y, finite, >= 0
  bool decay_at_z = false;             ///< decay at z instead
  bool bias_correction_in_lr = false;  ///< gamma_t gets sqrt(1 - beta2^t), v none: the paper's form
  double r = 0;                        ///< power of t in the averaging weights, finite, >= 0
  double weight_lr_power = 2;          ///< power of the learning rate in them, finite
  AverageWeight average_weight = AverageWeight::running_maximum;
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
};

template <class Fields>
void fields(ScheduleFreeAdamWOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("beta", o.beta, in_open_0_1);
  field("beta2", o.beta2, in_0_1);
  field("epsilon", o.epsilon, finite_and_positive);
  field("inner_momentum", o.inner_momentum, in_0_1);
  field("warmup_steps", o.warmup_steps, at_least_0);
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  field("decay_at_z", o.decay_at_z);
  field("bias_correction_in_lr", o.bias_correction_in_lr);
  field("r", o.r, finite_and_not_negative);
  field("weight_lr_power", o.weight_lr_power, finite_number);
  field("average_weight", o.average_weight);
  weight_fields(o, field);
}

template <class T, bool InnerMomentum, bool DecayAtZ>
struct ScheduleFreeAdamWLaw {
  static constexpr LawSlots slots =
      InnerMomentum ? LawSlots("z", "exp_avg_sq", "exp_avg") : LawSlots("z", "exp_avg_sq");
  ScheduleFreeMove<T> move;
  T decay;
  T beta2, one_minus_beta2;
  T root_scale;  ///< 1 / sqrt(1 - beta2^t)
  T epsilon;
  T momentum, one_minus_momentum;  ///< b, 1 - b
  T momentum_scale;                ///< 1 / (1 - b^t)
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& g, V& z, V& v) const {
    step_along(y, g, z, v, g);
  }
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& g, V& z, V& v, V& m) const {
    m = fma(momentum, m, one_minus_momentum * g);
    step_along(y, g, z, v, momentum_scale * m);
  }

 private:
  template <class V>
  POLYAK_LAW void step_along(V& y, const V& g, V& z, V& v, const V& n) const {
    v = fma(beta2, v, one_minus_beta2 * g * g);
    const V denominator = fma(sqrt(v), root_scale, epsilon);
    move(y, z, with_decay(decay, DecayAtZ ? z : y, n / denominator));
  }
};

struct ScheduleFreeAdamWRule {
  using Options = ScheduleFreeAdamWOptions;
  static constexpr std::string_view name = "ScheduleFreeAdamW";
  template <class T>
  using Laws =
      std::variant<ScheduleFreeAdamWLaw<T, false, false>, ScheduleFreeAdamWLaw<T, false, true>,
                   ScheduleFreeAdamWLaw<T, true, false>, ScheduleFreeAdamWLaw<T, true, true>>;
  template <class T>
  using Step = ScheduleFreeStep<T>;

  template <class T>
  static void check(const ScheduleFreeAdamWOptions& o) {
    detail::require_epsilon<T>(
        o.epsilon, false,
        "ScheduleFreeAdamWOptions.epsilon must not vanish in the type of the state");
  }

  template <class T>
  static double largest_gradient(const ScheduleFreeAdamWOptions&) {
    return detail::largest_squared<T>;
  }

  template <class T>
  static Laws<T> law(const ScheduleFreeAdamWOptions& o, const Step<T>& s) {
    const double momentum = o.inner_momentum;
    const double root_scale = o.bias_correction_in_lr ? 1 : 1 / std::sqrt(s.correction(o.beta2));
    const auto make = [&]<bool Inner, bool AtZ>(ScheduleFreeAdamWLaw<T, Inner, AtZ>) {
      return ScheduleFreeAdamWLaw<T, Inner, AtZ>{.move = s.move(),
                                                 .decay = s(o.weight_decay),
                                                 .beta2 = s(o.beta2),
                                                 .one_minus_beta2 = s(1 - o.beta2),
                                                 .root_scale = s(root_scale),
                                                 .epsilon = s(o.epsilon),
                                                 .momentum = s(momentum),
                                                 .one_minus_momentum = s(1 - momentum),
                                                 .momentum_scale = s(1 / s.correction(momentum))};
    };
    if (momentum != 0 && o.decay_at_z) return make(ScheduleFreeAdamWLaw<T, true, true>{});
    if (momentum != 0) return make(ScheduleFreeAdamWLaw<T, true, false>{});
    if (o.decay_at_z) return make(ScheduleFreeAdamWLaw<T, false, true>{});
    return make(ScheduleFreeAdamWLaw<T, false, false>{});
  }
  static ScheduleFreeSchedule schedule(const ScheduleFreeAdamWOptions& o) {
    return {.beta = o.beta,
            .warmup_steps = o.warmup_steps,
            .r = o.r,
            .weight_lr_power = o.weight_lr_power,
            .average_weight = o.average_weight,
            .corrected_beta2 = o.bias_correction_in_lr ? o.beta2 : 0};
  }
};

/// Schedule-Free AdamW. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class ScheduleFreeAdamW final
    : public ScheduleFree<ScheduleFreeAdamW<P, S>, ScheduleFreeAdamWRule, P, S> {
 public:
  explicit ScheduleFreeAdamW(const Parameters<P>& params, ScheduleFreeAdamWOptions options = {},
                             const Selection& selection = {})
      : ScheduleFreeAdamW::ScheduleFree(params, options, selection) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
