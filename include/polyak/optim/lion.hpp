// SPDX-License-Identifier: Apache-2.0
/// @file
/// Lion: descent along the sign of an interpolated momentum.
///
///   u = beta1 m + (1 - beta1) g
///   x <- (1 - learning_rate weight_decay) x - learning_rate sign(u)      sign(0) = 0
///   m <- beta2 m + (1 - beta2) g
///
/// "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675).
/// State: 1 slot ("exp_avg"). Elementwise; any shape. 5 words per parameter and step.
#pragma once

#include <cstdint>

#include <polyak/optim/elementwise.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct LionOptions {
  double learning_rate = 1e-4;  ///< size of each element's step; finite, >= 0
  double beta1 = 0.9;           ///< of the direction, in [0, 1)
  double beta2 = 0.99;          ///< of the momentum, in [0, 1)
  double weight_decay = 0;      ///< decoupled, finite, >= 0
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
};
template <class Fields>
void fields(LionOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("beta1", o.beta1, in_0_1);
  field("beta2", o.beta2, in_0_1);
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  weight_fields(o, field);
}

template <class T>
struct LionLaw {
  static constexpr LawSlots slots{"exp_avg"};
  T beta1, one_minus_beta1, beta2, one_minus_beta2, step, shrink;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m) const {
    const V u = fma(beta1, m, one_minus_beta1 * g);
    x = fma(-step, sign(u), shrink * x);
    m = fma(beta2, m, one_minus_beta2 * g);
  }
};

struct LionRule {
  using Options = LionOptions;
  static constexpr std::string_view name = "Lion";
  template <class T>
  static double largest_gradient(const Options&) {
    return detail::largest_averaged<T>;
  }
  template <class T>
  static LionLaw<T> law(const Options& o, const StepOf<T>& s) {
    return {.beta1 = s(o.beta1),
            .one_minus_beta1 = s(1 - o.beta1),
            .beta2 = s(o.beta2),
            .one_minus_beta2 = s(1 - o.beta2),
            .step = s(s.learning_rate),
            .shrink = s(1 - s.learning_rate * o.weight_decay)};
  }
};

/// Lion. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class Lion final : public Elementwise<Lion<P, S>, LionRule, P, S> {
 public:
  explicit Lion(const Parameters<P>& params, LionOptions options = {},
                const Selection& selection = {})
      : Lion::Elementwise(params, options, selection) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
