// SPDX-License-Identifier: Apache-2.0
/// @file
/// SoftSign: descent along the sign of the momentum, made smooth by tanh.
///
///   m <- momentum m + (1 - momentum) g
///   x <- (1 - learning_rate weight_decay) x - learning_rate tanh(m / temperature)
///
/// At a low temperature it is Signum, "signSGD: Compressed Optimisation for Non-Convex Problems"
/// (arXiv 1802.04434); at a high one SGD with momentum and a rate of learning_rate / temperature.
/// State: 1 slot ("momentum"). Elementwise; any shape. 5 words per parameter and step.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include <polyak/optim/elementwise.hpp>

namespace mine {

struct SoftSignOptions {
  double learning_rate = 1e-3;  ///< largest step of an element; finite, >= 0
  double momentum = 0.9;        ///< in [0, 1)
  double temperature = 1e-3;    ///< momentum at which a step is 0.76 of the largest; see the rule
  double weight_decay = 0;      ///< decoupled, finite, >= 0
  polyak::Nonfinite nonfinite = polyak::Nonfinite::propagate;
  polyak::Accumulate accumulate = polyak::Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                                         ///< of Accumulate::stochastic
};

/// A rule of one's own: a condition, its words in the message, and values for the tests that break
/// it. Here the reciprocal must be finite in float.
inline constexpr polyak::Rule<double> a_temperature{
    [](double v) { return v >= 1e-30 && v <= 1e30; },
    "must lie in [1e-30, 1e30]",
    {0, -1, 1e-31, 1e31, std::numeric_limits<double>::quiet_NaN()}};

template <class Fields>
void fields(SoftSignOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, polyak::finite_and_not_negative);
  field("momentum", o.momentum, polyak::in_0_1);
  field("temperature", o.temperature, a_temperature);
  field("weight_decay", o.weight_decay, polyak::finite_and_not_negative);
  polyak::weight_fields(o, field);  // the last three
}

template <class T>
struct SoftSignLaw {
  static constexpr polyak::LawSlots slots{"momentum"};
  T momentum, one_minus_momentum, inverse_temperature;
  T step;    ///< learning rate
  T shrink;  ///< 1 - learning rate * weight decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m) const {
    m = fma(momentum, m, one_minus_momentum * g);
    x = fma(-step, tanh(inverse_temperature * m), shrink * x);
  }
};

struct SoftSignRule {
  using Options = SoftSignOptions;
  static constexpr std::string_view name = "SoftSign";  // in files
  template <class T>
  static SoftSignLaw<T> law(const Options& o, const polyak::StepOf<T>& s) {
    return {.momentum = s(o.momentum),
            .one_minus_momentum = s(1 - o.momentum),
            .inverse_temperature = s(1 / o.temperature),
            .step = s(s.learning_rate),
            .shrink = s(1 - s.learning_rate * o.weight_decay)};
  }
};

/// SoftSign of the tensors that `selection` holds for, all of them without one. Throws
/// std::invalid_argument for options out of range.
template <polyak::ParameterScalar P, polyak::ComputeScalar S = polyak::default_state_t<P>>
class SoftSign final : public polyak::Elementwise<SoftSign<P, S>, SoftSignRule, P, S> {
 public:
  explicit SoftSign(const polyak::Parameters<P>& params, SoftSignOptions options = {},
                    const polyak::Selection& selection = {})
      : SoftSign::Elementwise(params, options, selection) {}
};

}  // namespace mine
