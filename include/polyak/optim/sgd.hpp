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
#include <tuple>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/optimizer.hpp>

namespace polyak {
inline namespace v0 {

struct SgdOptions {
  double learning_rate = std::numeric_limits<double>::quiet_NaN();  ///< required; finite, >= 0
  double momentum = 0;                                              ///< mu in [0, 1)
  double dampening = 0;                                             ///< tau in [0, 1]
  bool nesterov = false;            ///< needs momentum > 0 and dampening = 0
  double weight_decay = 0;          ///< decoupled, finite, >= 0
  double coupled_weight_decay = 0;  ///< added to the gradient, finite, >= 0; not both decays
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(SgdOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("momentum", o.momentum, in_0_1);
  field("dampening", o.dampening, in_closed_0_1);
  field("nesterov", o.nesterov);
  field.check(!o.nesterov || o.momentum > 0, "nesterov needs momentum > 0; momentum is",
              o.momentum);
  field.check(!o.nesterov || o.dampening == 0, "nesterov needs dampening = 0; dampening is",
              o.dampening);
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  field("coupled_weight_decay", o.coupled_weight_decay, finite_and_not_negative);
  field.check(o.weight_decay == 0 || o.coupled_weight_decay == 0,
              ": only one of weight_decay and coupled_weight_decay may be set; the second is",
              o.coupled_weight_decay);
  field("nonfinite", o.nonfinite);
}

template <class T, bool Nesterov>
struct SgdLaw {
  static constexpr Traffic traffic{.slots = 1, .gradient = true, .writes_parameter = true};
  T momentum;    ///< mu; 0 at t = 1
  T intake;      ///< 1 - tau; 1 at t = 1
  T look_ahead;  ///< mu
  T step;        ///< learning rate
  T shrink;      ///< 1 - learning rate * decoupled decay
  T coupled;     ///< coupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m) const {
    const V d = with_decay(V(coupled), x, g);
    m = fma(V(momentum), m, V(intake) * d);
    const V u = Nesterov ? fma(V(look_ahead), m, d) : m;
    x = fma(V(-step), u, V(shrink) * x);
  }
};

template <class T>
struct PlainSgdLaw {
  static constexpr Traffic traffic{.slots = 0, .gradient = true, .writes_parameter = true};
  T step, shrink, coupled;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g) const {
    const V d = with_decay(V(coupled), x, g);
    x = fma(V(-step), d, V(shrink) * x);
  }
};

/// Stochastic gradient descent. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class Sgd : public Optimizer<Sgd<P, S>, P, S> {
  using Base = Optimizer<Sgd<P, S>, P, S>;

 public:
  using Laws = std::tuple<SgdLaw<S, false>, SgdLaw<S, true>, PlainSgdLaw<S>>;
  static constexpr std::size_t forms = std::tuple_size_v<Laws>;
  static constexpr std::string_view type_name = "Sgd";

  Sgd(const Parameters<P>& params, SgdOptions options)
      : Base(params, slot_names(options), options.learning_rate, options.nonfinite),
        options_(options) {}

  [[nodiscard]] const SgdOptions& options() const { return options_; }

  // What step() calls.
  [[nodiscard]] int form() const { return options_.momentum == 0 ? 2 : options_.nesterov ? 1 : 0; }
  template <int K>
  [[nodiscard]] auto law(std::size_t tensor) const {
    const double rate = this->learning_rate();
    const auto step = static_cast<S>(rate);
    const auto shrink = static_cast<S>(1 - rate * options_.weight_decay);
    const auto coupled = static_cast<S>(options_.coupled_weight_decay);
    if constexpr (K == 2) {
      return PlainSgdLaw<S>{step, shrink, coupled};
    } else {
      const bool first = this->tensor_steps(tensor) == 1;
      return SgdLaw<S, K == 1>{static_cast<S>(first ? 0 : options_.momentum),
                               static_cast<S>(first ? 1 : 1 - options_.dampening),
                               static_cast<S>(options_.momentum),
                               step,
                               shrink,
                               coupled};
    }
  }

 private:
  static std::vector<std::string> slot_names(const SgdOptions& options) {
    validate(options);
    if (options.momentum == 0) return {};
    return {"momentum_buffer"};
  }

  SgdOptions options_;
};

}  // namespace v0
}  // namespace polyak
