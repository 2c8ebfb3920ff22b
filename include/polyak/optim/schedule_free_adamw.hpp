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
#include <tuple>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/schedule_free.hpp>

namespace polyak {
inline namespace v0 {

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
  field("nonfinite", o.nonfinite);
}

template <class T, bool InnerMomentum, bool DecayAtZ>
struct ScheduleFreeAdamWLaw {
  static constexpr Traffic traffic{
      .slots = 2 + InnerMomentum, .gradient = true, .writes_parameter = true};
  ScheduleFreeMove<T> move;
  T decay;
  T beta2, one_minus_beta2;
  T root_scale;  ///< 1 / sqrt(1 - beta2^t)
  T epsilon;
  T momentum, one_minus_momentum;  ///< b, 1 - b
  T momentum_scale;                ///< 1 / (1 - b^t)
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& g, V& z, V& v) const {
    run(y, g, z, v, g);
  }
  template <class V>
  POLYAK_LAW void operator()(V& y, const V& g, V& z, V& v, V& m) const {
    m = fma(V(momentum), m, V(one_minus_momentum) * g);
    run(y, g, z, v, V(momentum_scale) * m);
  }

 private:
  template <class V>
  POLYAK_LAW void run(V& y, const V& g, V& z, V& v, const V& n) const {
    v = fma(V(beta2), v, V(one_minus_beta2) * g * g);
    const V denominator = fma(sqrt(v), V(root_scale), V(epsilon));
    move(y, z, with_decay(V(decay), DecayAtZ ? z : y, n / denominator));
  }
};

/// Schedule-Free AdamW. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class ScheduleFreeAdamW : public ScheduleFree<ScheduleFreeAdamW<P, S>, P, S> {
  using Base = ScheduleFree<ScheduleFreeAdamW<P, S>, P, S>;

 public:
  using Laws =
      std::tuple<ScheduleFreeAdamWLaw<S, false, false>, ScheduleFreeAdamWLaw<S, false, true>,
                 ScheduleFreeAdamWLaw<S, true, false>, ScheduleFreeAdamWLaw<S, true, true>>;
  static constexpr std::size_t forms = std::tuple_size_v<Laws>;
  static constexpr std::string_view type_name = "ScheduleFreeAdamW";

  explicit ScheduleFreeAdamW(const Parameters<P>& params, ScheduleFreeAdamWOptions options = {})
      : Base(params, slot_names(options), options.learning_rate, options.nonfinite,
             {options.beta, options.warmup_steps, options.r, options.weight_lr_power,
              options.average_weight, options.bias_correction_in_lr ? options.beta2 : 0}),
        options_(options) {}

  [[nodiscard]] const ScheduleFreeAdamWOptions& options() const { return options_; }

  // What step() calls.
  [[nodiscard]] int form() const {
    return (options_.inner_momentum == 0 ? 0 : 2) + (options_.decay_at_z ? 1 : 0);
  }
  template <int K>
  [[nodiscard]] auto law(std::size_t tensor) const {
    const std::int64_t t = this->tensor_steps(tensor);
    const double momentum = options_.inner_momentum;
    const double root_scale = options_.bias_correction_in_lr
                                  ? 1
                                  : 1 / std::sqrt(detail::bias_correction(options_.beta2, t));
    std::tuple_element_t<static_cast<std::size_t>(K), Laws> law;
    law.move = this->move();
    law.decay = static_cast<S>(options_.weight_decay);
    law.beta2 = static_cast<S>(options_.beta2);
    law.one_minus_beta2 = static_cast<S>(1 - options_.beta2);
    law.root_scale = static_cast<S>(root_scale);
    law.epsilon = static_cast<S>(options_.epsilon);
    law.momentum = static_cast<S>(momentum);
    law.one_minus_momentum = static_cast<S>(1 - momentum);
    law.momentum_scale = static_cast<S>(1 / detail::bias_correction(momentum, t));
    return law;
  }

 private:
  static std::vector<std::string> slot_names(const ScheduleFreeAdamWOptions& options) {
    validate(options);
    detail::require_epsilon<S>(
        options.epsilon, false,
        "ScheduleFreeAdamWOptions.epsilon must not vanish in the type of the state");
    std::vector<std::string> names{"z", "exp_avg_sq"};
    if (options.inner_momentum != 0) names.push_back("exp_avg");
    return names;
  }

  ScheduleFreeAdamWOptions options_;
};

}  // namespace v0
}  // namespace polyak
