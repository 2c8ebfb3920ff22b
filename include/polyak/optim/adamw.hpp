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

#include <cmath>
#include <cstdint>
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

/// Options of AdamW and Adam. Only AdamW has a decoupled decay.
template <bool Decoupled>
struct AdamFamilyOptions {
  static constexpr std::string_view options_name = Decoupled ? "AdamWOptions" : "AdamOptions";
  double learning_rate = 1e-3;                 ///< finite, >= 0
  double beta1 = 0.9;                          ///< in [0, 1)
  double beta2 = 0.999;                        ///< in [0, 1)
  double epsilon = 1e-8;                       ///< finite, > 0; added after the correction of v
  double weight_decay = Decoupled ? 1e-2 : 0;  ///< decoupled, finite, >= 0; 0 for Adam
  double coupled_weight_decay = 0;             ///< added to the gradient, finite, >= 0
  bool amsgrad = false;                        ///< the second moment never falls
  bool bias_correction = true;                 ///< false: 1 - beta^t is taken as 1
  bool epsilon_before_correction = false;  ///< sqrt(v) + epsilon is corrected, as in the Adam paper
  bool allow_zero_epsilon = false;         ///< epsilon = 0 is meant; then 0/0 is 0
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
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
  weight_fields(o, field);
}

template <class T>
struct AdamWLaw {
  static constexpr LawSlots slots{"exp_avg", "exp_avg_sq"};
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T root_scale;  ///< 1 / sqrt(1 - beta2^t)
  T epsilon;
  T step;    ///< learning rate / (1 - beta1^t)
  T shrink;  ///< 1 - learning rate * decoupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m, V& v) const {
    m = fma(beta1, m, one_minus_beta1 * g);
    v = fma(beta2, v, one_minus_beta2 * g * g);
    const V denominator = fma(sqrt(v), root_scale, epsilon);
    x = fma(-step, m / denominator, shrink * x);
  }
};

/// The rarer options: coupled decay, no first moment, AMSGrad, epsilon = 0.
template <class T, bool FirstMoment, bool Amsgrad>
struct AdamVariantLaw {
  static constexpr LawSlots slots =
      FirstMoment ? Amsgrad ? LawSlots("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
                            : LawSlots("exp_avg", "exp_avg_sq")
      : Amsgrad ? LawSlots("exp_avg_sq", "max_exp_avg_sq")
                  : LawSlots("exp_avg_sq");
  AdamWLaw<T> adamw;
  T coupled;  ///< coupled decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m, V& v, V& v_max) const {
    const V d = with_decay(coupled, x, g);
    m = fma(adamw.beta1, m, adamw.one_minus_beta1 * d);
    v = fma(adamw.beta2, v, adamw.one_minus_beta2 * d * d);
    v_max = Amsgrad ? max(v_max, v) : v;
    const V denominator = fma(sqrt(v_max), adamw.root_scale, adamw.epsilon);
    const V update = if_zero(denominator, 0, m / denominator);
    x = fma(-adamw.step, update, adamw.shrink * x);
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& a, V& b) const {
    V absent(0);
    if constexpr (FirstMoment) {
      (*this)(x, g, a, b, absent);
    } else {
      (*this)(x, g, absent, a, b);
    }
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& v) const {
    V no_moment(0), no_maximum(0);
    (*this)(x, g, no_moment, v, no_maximum);
  }
};

/// The rule of AdamW and of Adam; the decoupled decay of Adam is 0.
template <bool Decoupled>
struct AdamFamilyRule {
  using Options = AdamFamilyOptions<Decoupled>;
  static constexpr std::string_view name = "AdamW";
  template <class T>
  using Laws =
      std::variant<AdamWLaw<T>, AdamVariantLaw<T, true, false>, AdamVariantLaw<T, true, true>,
                   AdamVariantLaw<T, false, false>, AdamVariantLaw<T, false, true>>;

  template <class T>
  static void check(const Options& o) {
    detail::require_epsilon<T>(o.epsilon, o.allow_zero_epsilon,
                               "AdamWOptions.epsilon must not vanish in the type of the state");
  }

  template <class T>
  static double largest_gradient(const Options&) {
    return detail::largest_squared<T>;
  }

  template <class T>
  static Laws<T> law(const Options& o, const StepOf<T>& s) {
    const double correction1 = o.bias_correction ? s.correction(o.beta1) : 1;
    const double root_scale = o.bias_correction ? 1 / std::sqrt(s.correction(o.beta2)) : 1;
    const AdamWLaw<T> adamw{
        .beta1 = s(o.beta1),
        .one_minus_beta1 = s(1 - o.beta1),
        .beta2 = s(o.beta2),
        .one_minus_beta2 = s(1 - o.beta2),
        .root_scale = s(root_scale),
        .epsilon = s(o.epsilon * (o.epsilon_before_correction ? root_scale : 1)),
        .step = s(s.learning_rate / correction1),
        .shrink = s(1 - s.learning_rate * o.weight_decay)};
    const T coupled = s(o.coupled_weight_decay);
    if (o.beta1 == 0 && o.amsgrad) return AdamVariantLaw<T, false, true>{adamw, coupled};
    if (o.beta1 == 0) return AdamVariantLaw<T, false, false>{adamw, coupled};
    if (o.amsgrad) return AdamVariantLaw<T, true, true>{adamw, coupled};
    const bool usual = o.coupled_weight_decay == 0 && !s.coupled && s(o.epsilon) != 0;
    if (!usual) return AdamVariantLaw<T, true, false>{adamw, coupled};
    return adamw;
  }
};

/// Adam with decoupled weight decay. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class AdamW final : public Elementwise<AdamW<P, S>, AdamFamilyRule<true>, P, S> {
 public:
  explicit AdamW(const Parameters<P>& params, AdamWOptions options = {},
                 const Selection& selection = {})
      : AdamW::Elementwise(params, options, selection) {}
};

/// Adam: AdamW without decoupled decay. Its type in files is "AdamW".
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class Adam final : public Elementwise<Adam<P, S>, AdamFamilyRule<false>, P, S> {
 public:
  explicit Adam(const Parameters<P>& params, AdamOptions options = {},
                const Selection& selection = {})
      : Adam::Elementwise(params, options, selection) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
