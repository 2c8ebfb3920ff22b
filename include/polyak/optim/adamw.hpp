// SPDX-License-Identifier: Apache-2.0
/// @file
/// AdamW and Adam, with AMSGrad as an option.
///
///   d = g                                   (g + coupled_weight_decay x)
///   m = beta1 m + (1 - beta1) d
///   v = beta2 v + (1 - beta2) d^2           (AMSGrad: v_max = max(v_max, v) stands for v below)
///   x <- (1 - learning_rate weight_decay) x
///        - learning_rate m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)
///
/// "Adam: A Method for Stochastic Optimization" (arXiv 1412.6980), "Decoupled Weight Decay
/// Regularization" (arXiv 1711.05101), "On the Convergence of Adam and Beyond" (arXiv 1904.09237).
/// State: slots "exp_avg" (none for beta1 = 0), "exp_avg_sq", "max_exp_avg_sq" (AMSGrad), all
/// uncorrected. Elementwise; any shape. 7 words per parameter and step; AMSGrad 9; beta1 = 0: 5.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
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

/// Options of AdamW and Adam, which differ in whether there is a decoupled decay.
template <bool Decoupled>
struct AdamFamilyOptions {
  static constexpr std::string_view options_name = Decoupled ? "AdamWOptions" : "AdamOptions";
  double learning_rate = 1e-3;                 ///< finite, >= 0
  double beta1 = 0.9;                          ///< in [0, 1)
  double beta2 = 0.999;                        ///< in [0, 1)
  double epsilon = 1e-8;                       ///< finite, > 0; added after the correction of v
  double weight_decay = Decoupled ? 1e-2 : 0;  ///< decoupled, finite, >= 0; of Adam 0
  double coupled_weight_decay = 0;             ///< added to the gradient, finite, >= 0
  bool amsgrad = false;                        ///< never let the second moment fall
  bool bias_correction = true;                 ///< false: 1 - beta^t is taken as 1
  bool epsilon_before_correction = false;  ///< sqrt(v) + epsilon is corrected, as in the Adam paper
  bool allow_zero_epsilon = false;         ///< epsilon = 0 is meant; then 0/0 is 0
  Nonfinite nonfinite = Nonfinite::propagate;
};
using AdamWOptions = AdamFamilyOptions<true>;
/// As AdamWOptions, but without decoupled decay: a weight_decay other than 0 is refused.
using AdamOptions = AdamFamilyOptions<false>;

template <bool Decoupled, class Fields>
void fields(AdamFamilyOptions<Decoupled>& o, Fields& field) {
  constexpr Rule<double> none{
      [](double v) { return v == 0; },
      "must be 0: Adam's decay is coupled_weight_decay, AdamW has the decoupled one",
      {0.01, -0.5, detail::nan_value}};
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("beta1", o.beta1, in_0_1);
  field("beta2", o.beta2, in_0_1);
  field("epsilon", o.epsilon, epsilon_or_zero(o.allow_zero_epsilon));
  field("weight_decay", o.weight_decay, Decoupled ? finite_and_not_negative : none);
  field("coupled_weight_decay", o.coupled_weight_decay, finite_and_not_negative);
  field("amsgrad", o.amsgrad);
  field("bias_correction", o.bias_correction);
  field("epsilon_before_correction", o.epsilon_before_correction);
  field("allow_zero_epsilon", o.allow_zero_epsilon);
  field("nonfinite", o.nonfinite);
}

template <class T>
struct AdamWLaw {
  static constexpr Traffic traffic{.slots = 2, .gradient = true, .writes_parameter = true};
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T root_scale;  ///< 1 / sqrt(1 - beta2^t)
  T epsilon;
  T step;    ///< learning rate / (1 - beta1^t)
  T shrink;  ///< 1 - learning rate * decoupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m, V& v) const {
    m = fma(V(beta1), m, V(one_minus_beta1) * g);
    v = fma(V(beta2), v, V(one_minus_beta2) * g * g);
    const V denominator = fma(sqrt(v), V(root_scale), V(epsilon));
    x = fma(V(-step), m / denominator, V(shrink) * x);
  }
};

/// The rarer options: coupled decay, no first moment, AMSGrad, epsilon = 0.
template <class T, bool FirstMoment, bool Amsgrad>
struct AdamVariantLaw {
  static constexpr Traffic traffic{
      .slots = 1 + FirstMoment + Amsgrad, .gradient = true, .writes_parameter = true};
  AdamWLaw<T> adamw;
  T coupled;  ///< coupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m, V& v, V& v_max) const {
    const V d = with_decay(V(coupled), x, g);
    m = fma(V(adamw.beta1), m, V(adamw.one_minus_beta1) * d);
    v = fma(V(adamw.beta2), v, V(adamw.one_minus_beta2) * d * d);
    v_max = Amsgrad ? max(v_max, v) : v;
    const V denominator = fma(sqrt(v_max), V(adamw.root_scale), V(adamw.epsilon));
    const V update = if_zero(denominator, V(T(0)), m / denominator);
    x = fma(V(-adamw.step), update, V(adamw.shrink) * x);
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& a, V& b) const {
    V absent(T(0));
    if constexpr (FirstMoment) {
      (*this)(x, g, a, b, absent);
    } else {
      (*this)(x, g, absent, a, b);
    }
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& v) const {
    V no_moment(T(0)), no_maximum(T(0));
    (*this)(x, g, no_moment, v, no_maximum);
  }
};

/// Adam with decoupled weight decay. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class AdamW : public Optimizer<AdamW<P, S>, P, S> {
  using Base = Optimizer<AdamW<P, S>, P, S>;

 public:
  using Laws =
      std::tuple<AdamWLaw<S>, AdamVariantLaw<S, true, false>, AdamVariantLaw<S, true, true>,
                 AdamVariantLaw<S, false, false>, AdamVariantLaw<S, false, true>>;
  static constexpr std::size_t forms = std::tuple_size_v<Laws>;
  static constexpr std::string_view type_name = "AdamW";

  explicit AdamW(const Parameters<P>& params, AdamWOptions options = {})
      : Base(params, slot_names(options), options.learning_rate, options.nonfinite),
        options_(options) {}

  [[nodiscard]] const AdamWOptions& options() const { return options_; }

  // What step() calls.
  [[nodiscard]] int form() const {
    if (options_.beta1 == 0) return options_.amsgrad ? 4 : 3;
    if (options_.amsgrad) return 2;
    const bool usual = options_.coupled_weight_decay == 0 && static_cast<S>(options_.epsilon) != 0;
    return usual ? 0 : 1;
  }
  template <int K>
  [[nodiscard]] auto law(std::size_t tensor) const {
    const std::int64_t t = this->tensor_steps(tensor);
    const bool corrected = options_.bias_correction;
    const double correction1 = corrected ? detail::bias_correction(options_.beta1, t) : 1;
    const double root_scale =
        corrected ? 1 / std::sqrt(detail::bias_correction(options_.beta2, t)) : 1;
    const double epsilon = options_.epsilon * (options_.epsilon_before_correction ? root_scale : 1);
    const double rate = this->learning_rate();
    const AdamWLaw<S> adamw{
        static_cast<S>(options_.beta1),     static_cast<S>(1 - options_.beta1),
        static_cast<S>(options_.beta2),     static_cast<S>(1 - options_.beta2),
        static_cast<S>(root_scale),         static_cast<S>(epsilon),
        static_cast<S>(rate / correction1), static_cast<S>(1 - rate * options_.weight_decay)};
    if constexpr (K == 0) {
      return adamw;
    } else {
      return std::tuple_element_t<static_cast<std::size_t>(K), Laws>{
          adamw, static_cast<S>(options_.coupled_weight_decay)};
    }
  }

 private:
  static std::vector<std::string> slot_names(const AdamWOptions& options) {
    validate(options);
    detail::require_epsilon<S>(options.epsilon, options.allow_zero_epsilon,
                               "AdamWOptions.epsilon must not vanish in the type of the state");
    std::vector<std::string> names;
    if (options.beta1 != 0) names.push_back("exp_avg");
    names.push_back("exp_avg_sq");
    if (options.amsgrad) names.push_back("max_exp_avg_sq");
    return names;
  }

  AdamWOptions options_;
};

/// Adam: AdamW without decoupled decay. Its type in files is "AdamW".
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class Adam : public AdamW<P, S> {
 public:
  explicit Adam(const Parameters<P>& params, AdamOptions options = {})
      : AdamW<P, S>(params, adamw(options)) {}

 private:
  static AdamWOptions adamw(const AdamOptions& options) {
    validate(options);
    return std::bit_cast<AdamWOptions>(options);
  }
};

}  // namespace v0
}  // namespace polyak
