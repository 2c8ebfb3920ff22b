// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sgd: stochastic gradient descent with momentum, Nesterov's form, coupled or decoupled decay.
///
///   d = g + coupled_weight_decay x
///   m = d at t = 1, else momentum m + (1 - dampening) d
///   u = m, or d + momentum m (Nesterov), or d (no momentum)
///   x <- (1 - learning_rate weight_decay) x - learning_rate u
///
/// "On the importance of initialization and momentum in deep learning" (Sutskever et al. 2013);
/// decoupled decay: "Decoupled Weight Decay Regularization" (arXiv 1711.05101).
/// State: 1 slot ("momentum_buffer"), none without momentum. Elementwise; any shape. 5 words per
/// parameter and step, 3 without momentum.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/elementwise.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SgdOptions {
  double learning_rate = std::numeric_limits<double>::quiet_NaN();  ///< required; finite, >= 0
  double momentum = 0;                                              ///< mu in [0, 1)
  double dampening = 0;                                             ///< tau in [0, 1]
  bool nesterov = false;            ///< needs momentum > 0 and dampening = 0
  double weight_decay = 0;          ///< decoupled, finite, >= 0
  double coupled_weight_decay = 0;  ///< added to the gradient, finite, >= 0; not both decays
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
};

template <class Fields>
void fields(SgdOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("momentum", o.momentum, in_0_1);
  field("dampening", o.dampening, in_closed_0_1);
  field("nesterov", o.nesterov);
  field.check(!o.nesterov || o.momentum > 0, "momentum must be > 0 with nesterov", o.momentum);
  field.check(!o.nesterov || o.dampening == 0, "dampening must be 0 with nesterov", o.dampening);
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  field("coupled_weight_decay", o.coupled_weight_decay, finite_and_not_negative);
  field.check(o.weight_decay == 0 || o.coupled_weight_decay == 0,
              "coupled_weight_decay must be 0 with weight_decay", o.coupled_weight_decay);
  weight_fields(o, field);
}

template <class T, bool Nesterov>
struct SgdLaw {
  static constexpr LawSlots slots{"momentum_buffer"};
  T momentum;    ///< mu; 0 at t = 1
  T intake;      ///< 1 - tau; 1 at t = 1
  T look_ahead;  ///< mu
  T step;        ///< learning rate
  T shrink;      ///< 1 - learning rate * decoupled decay
  T coupled;     ///< coupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m) const {
    const V d = with_decay(coupled, x, g);
    m = fma(momentum, m, intake * d);
    const V u = Nesterov ? fma(look_ahead, m, d) : m;
    x = fma(-step, u, shrink * x);
  }
};

template <class T>
struct PlainSgdLaw {
  static constexpr LawSlots slots{};
  T step, shrink, coupled;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g) const {
    const V d = with_decay(coupled, x, g);
    x = fma(-step, d, shrink * x);
  }
};

struct SgdRule {
  using Options = SgdOptions;
  static constexpr std::string_view name = "Sgd";
  template <class T>
  using Laws = std::variant<SgdLaw<T, false>, SgdLaw<T, true>, PlainSgdLaw<T>>;

  template <class T>
  static double largest_gradient(const SgdOptions& o) {  // |m| <= |g| max(1, (1 - tau)/(1 - mu))
    if (o.momentum == 0) return detail::infinite;
    return detail::largest_averaged<T> / std::fmax(1, (1 - o.dampening) / (1 - o.momentum));
  }

  template <class T>
  static Laws<T> law(const SgdOptions& o, const StepOf<T>& s) {
    const T shrink = s(1 - s.learning_rate * o.weight_decay);
    if (o.momentum == 0) {
      return PlainSgdLaw<T>{
          .step = s(s.learning_rate), .shrink = shrink, .coupled = s(o.coupled_weight_decay)};
    }
    const bool first = s.t == 1;
    const auto with_momentum = [&]<bool Nesterov>(SgdLaw<T, Nesterov>) {
      return SgdLaw<T, Nesterov>{.momentum = s(first ? 0 : o.momentum),
                                 .intake = s(first ? 1 : 1 - o.dampening),
                                 .look_ahead = s(o.momentum),
                                 .step = s(s.learning_rate),
                                 .shrink = shrink,
                                 .coupled = s(o.coupled_weight_decay)};
    };
    if (o.nesterov) return with_momentum(SgdLaw<T, true>{});
    return with_momentum(SgdLaw<T, false>{});
  }
};

/// Stochastic gradient descent. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class Sgd final : public Elementwise<Sgd<P, S>, SgdRule, P, S> {
 public:
  Sgd(const Parameters<P>& params, SgdOptions options, const Selection& selection = {})
      : Sgd::Elementwise(params, options, selection) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
