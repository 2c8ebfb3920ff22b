// SPDX-License-Identifier: Apache-2.0
/// @file
/// AdEMAMix: AdamW with a second, much slower average of the gradients.
///
///   m1 = beta1 m1 + (1 - beta1) g
///   m2 = beta3(t) m2 + (1 - beta3(t)) g            not bias corrected
///   v  = beta2 v + (1 - beta2) g^2
///   u  = (m1 / (1 - beta1^t) + alpha(t) m2) / (sqrt(v / (1 - beta2^t)) + epsilon)
///   x <- x - learning_rate (u + weight_decay x)
///
///   alpha(t) = alpha min(t/T_alpha, 1)
///   beta3(t): 1/ln beta3(t) goes linearly from 1/ln beta1 to 1/ln beta3 until T_beta3
///
/// "The AdEMAMix Optimizer: Better, Faster, Older" (arXiv 2409.03137).
/// State: slots "exp_avg_fast" (none for beta1 = 0), "exp_avg_slow", "exp_avg_sq". Elementwise; any
/// shape. 9 words per parameter and step; beta1 = 0: 7.
///
/// In float, m2 stalls within 2^-25 / (1 - beta3) of a constant gradient: 3 % at beta3 = 0.999999.
/// `accumulate_slow = kahan` keeps its rounding errors in one more slot, "exp_avg_slow_low", and
/// then m2 <- m2 + (1 - beta3)(g - m2); 2 more words. State of double has no such errors.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/list_change.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/optim/elementwise.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct AdEMAMixOptions {
  double learning_rate = 1e-3;    ///< finite, >= 0
  double beta1 = 0.9;             ///< of the fast average, in [0, 1); 0: no fast average
  double beta2 = 0.999;           ///< of the second moment, in [0, 1)
  double beta3 = 0.9999;          ///< of the slow average, in [0, 1)
  double alpha = 5;               ///< weight of the slow average, finite, >= 0
  double epsilon = 1e-8;          ///< finite, > 0
  double weight_decay = 0;        ///< decoupled, finite, >= 0
  std::int64_t alpha_warmup = 0;  ///< T_alpha in steps, >= 1; 0: alpha from the first step on
  std::int64_t beta3_warmup = 0;  ///< T_beta3 in steps, >= 1; 0: beta3 from the first step on
  double log_guard = 0;           ///< added to beta in logarithms: 1e-8 follows the authors' code
  std::int64_t schedule_offset = 0;  ///< added to t in the schedules: -1 counts from 0
  bool allow_zero_epsilon = false;   ///< epsilon = 0 is meant; then 0/0 is 0
  Nonfinite nonfinite = Nonfinite::propagate;
  Accumulate accumulate = Accumulate::automatic;  ///< how the weights are kept
  std::uint64_t seed = 0;                         ///< of Accumulate::stochastic
  /// How the slow average is kept: plain, kahan, or automatic, which is plain and refuses a beta3
  /// with which a slow average of float would stall more than 1 % from a constant gradient.
  Accumulate accumulate_slow = Accumulate::automatic;
};

template <class Fields>
void fields(AdEMAMixOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("beta1", o.beta1, in_0_1);
  field("beta2", o.beta2, in_0_1);
  field("beta3", o.beta3, in_0_1);
  field("alpha", o.alpha, finite_and_not_negative);
  field("epsilon", o.epsilon, epsilon_or_zero(o.allow_zero_epsilon));
  field("weight_decay", o.weight_decay, finite_and_not_negative);
  field("alpha_warmup", o.alpha_warmup, at_least_1_or_none);
  field("beta3_warmup", o.beta3_warmup, at_least_1_or_none);
  field.check(o.beta3_warmup == 0 || o.beta3 >= o.beta1, "beta3 must be >= beta1 with beta3_warmup",
              o.beta3);
  field("log_guard", o.log_guard, finite_and_not_negative);
  constexpr Rule<std::int64_t> offsets{
      [](std::int64_t v) { return v == 0 || v == -1; }, "must be 0 or -1", {1, -2, 100}};
  field("schedule_offset", o.schedule_offset, offsets);
  field("allow_zero_epsilon", o.allow_zero_epsilon);
  weight_fields(o, field);
  constexpr Rule<Accumulate> slow{
      [](Accumulate v) {
        return v == Accumulate::automatic || v == Accumulate::plain || v == Accumulate::kahan;
      },
      "must be automatic, plain or kahan",
      {Accumulate::stochastic, Accumulate::float64, Accumulate::master}};
  field.added("accumulate_slow", o.accumulate_slow, slow);
}

/// alpha(t) of step t = 1, 2, ...
[[nodiscard]] inline double alpha_at(const AdEMAMixOptions& o, std::int64_t t) {
  t += o.schedule_offset;
  if (o.alpha_warmup == 0 || t >= o.alpha_warmup) return o.alpha;
  return o.alpha * (static_cast<double>(t) / static_cast<double>(o.alpha_warmup));
}

/// beta3(t) of step t = 1, 2, ...
[[nodiscard]] inline double beta3_at(const AdEMAMixOptions& o, std::int64_t t) {
  t += o.schedule_offset;
  if (o.beta3_warmup == 0 || t >= o.beta3_warmup) return o.beta3;
  if (t <= 0) return o.beta1;
  const double s = static_cast<double>(t) / static_cast<double>(o.beta3_warmup);
  if (o.log_guard > 0) {
    const double ln_half = -std::numbers::ln2;
    const auto half_life = [&](double beta) { return ln_half / std::log(beta + o.log_guard) - 1; };
    const double now = (1 - s) * half_life(o.beta1) + s * half_life(o.beta3);
    return std::exp(ln_half / (now + 1));
  }
  if (o.beta3 == 0) return 0;
  const double last = std::log(o.beta3);
  if (o.beta1 == 0) return std::exp(last / s);
  const double first = std::log(o.beta1);
  return std::exp(first * last / ((1 - s) * last + s * first));
}

template <class T, bool FastAverage, bool Guarded>
struct AdEMAMixLaw {
  static constexpr LawSlots slots = FastAverage
                                        ? LawSlots("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")
                                        : LawSlots("exp_avg_slow", "exp_avg_sq");
  T beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3;
  T fast_scale;  ///< 1 / (1 - beta1^t)
  T alpha;       ///< alpha(t)
  T root_scale;  ///< 1 / sqrt(1 - beta2^t)
  T epsilon;
  T step;    ///< learning rate
  T shrink;  ///< 1 - learning rate * weight decay
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m1, V& m2, V& v) const {
    m2 = fma(beta3, m2, one_minus_beta3 * g);
    move(x, g, m1, m2, v);
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m2, V& v) const {
    V m1 = g;  // beta1 = 0
    (*this)(x, g, m1, m2, v);
  }
  /// All but the slow average.
  template <class V>
  POLYAK_LAW void move(V& x, const V& g, V& m1, const V& m2, V& v) const {
    m1 = fma(beta1, m1, one_minus_beta1 * g);
    v = fma(beta2, v, one_minus_beta2 * g * g);
    const V numerator = fma(alpha, m2, fast_scale * m1);
    const V denominator = fma(sqrt(v), root_scale, epsilon);
    V u = numerator / denominator;
    if constexpr (Guarded) u = if_zero(denominator, 0, u);
    x = fma(-step, u, shrink * x);
  }
};

/// The same with the rounding errors of the slow average in a slot.
template <class T, bool FastAverage>
struct AdEMAMixKahanLaw {
  static constexpr LawSlots slots =
      FastAverage ? LawSlots("exp_avg_fast", "exp_avg_slow", "exp_avg_sq", "exp_avg_slow_low")
                  : LawSlots("exp_avg_slow", "exp_avg_sq", "exp_avg_slow_low");
  AdEMAMixLaw<T, FastAverage, true> mix;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m1, V& m2, V& v, V& low) const {
    detail::Compensated<V> slow(m2, low);
    slow = fma(V(mix.one_minus_beta3), g - slow, slow);
    m2 = slow.high;
    low = slow.low;
    mix.move(x, g, m1, m2, v);
  }
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& m2, V& v, V& low) const {
    V m1 = g;  // beta1 = 0
    (*this)(x, g, m1, m2, v, low);
  }
};

struct AdEMAMixRule {
  using Options = AdEMAMixOptions;
  static constexpr std::string_view name = "AdEMAMix";
  template <class T>
  using Laws = std::variant<AdEMAMixLaw<T, true, false>, AdEMAMixLaw<T, false, false>,
                            AdEMAMixLaw<T, true, true>, AdEMAMixLaw<T, false, true>,
                            AdEMAMixKahanLaw<T, true>, AdEMAMixKahanLaw<T, false>>;
  template <class T>
  struct Step : StepOf<T> {
    std::int64_t slow_t = 1;  ///< steps of the slow average
  };

  template <class T>
  static void check(const AdEMAMixOptions& o) {
    detail::require_epsilon<T>(o.epsilon, o.allow_zero_epsilon,
                               "AdEMAMixOptions.epsilon must not vanish in the type of the state");
    if (o.accumulate_slow == Accumulate::kahan) detail::require_compensation();
    if (o.accumulate_slow != Accumulate::automatic || sizeof(T) != sizeof(float)) return;
    require(1 - o.beta3 >= 100 * 0x1p-25,
            "AdEMAMixOptions.beta3 must be <= 1 - 2.98e-6 with a plain slow average of float, "
            "which would stall more than 1 % from a constant gradient; set accumulate_slow to "
            "kahan, use state of double as in AdEMAMix<float, double>, or set it to plain to "
            "accept it; beta3",
            o.beta3);
  }

  template <class T>
  static double largest_gradient(const AdEMAMixOptions&) {
    return detail::largest_squared<T>;
  }

  template <class T>
  static Laws<T> law(const AdEMAMixOptions& o, const Step<T>& s) {
    const double beta3 = beta3_at(o, s.slow_t);
    const auto make = [&]<bool Fast, bool Guarded>(AdEMAMixLaw<T, Fast, Guarded>) {
      return AdEMAMixLaw<T, Fast, Guarded>{.beta1 = s(o.beta1),
                                           .one_minus_beta1 = s(1 - o.beta1),
                                           .beta2 = s(o.beta2),
                                           .one_minus_beta2 = s(1 - o.beta2),
                                           .beta3 = s(beta3),
                                           .one_minus_beta3 = s(1 - beta3),
                                           .fast_scale = s(1 / s.correction(o.beta1)),
                                           .alpha = s(alpha_at(o, s.slow_t)),
                                           .root_scale = s(1 / std::sqrt(s.correction(o.beta2))),
                                           .epsilon = s(o.epsilon),
                                           .step = s(s.learning_rate),
                                           .shrink = s(1 - s.learning_rate * o.weight_decay)};
    };
    const bool guarded = s(o.epsilon) == 0;
    if (o.accumulate_slow == Accumulate::kahan) {
      if (o.beta1 == 0) {
        return AdEMAMixKahanLaw<T, false>{make(AdEMAMixLaw<T, false, true>{})};
      }
      return AdEMAMixKahanLaw<T, true>{make(AdEMAMixLaw<T, true, true>{})};
    }
    if (o.beta1 == 0 && guarded) return make(AdEMAMixLaw<T, false, true>{});
    if (o.beta1 == 0) return make(AdEMAMixLaw<T, false, false>{});
    if (guarded) return make(AdEMAMixLaw<T, true, true>{});
    return make(AdEMAMixLaw<T, true, false>{});
  }
};

/// AdEMAMix. Throws std::invalid_argument for options out of range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class AdEMAMix final : public Elementwise<AdEMAMix<P, S>, AdEMAMixRule, P, S> {
  using Base = Elementwise<AdEMAMix<P, S>, AdEMAMixRule, P, S>;

 public:
  explicit AdEMAMix(const Parameters<P>& params, AdEMAMixOptions options = {},
                    const Selection& selection = {})
      : Base(params, options, selection), slow_start_(params.size(), 0) {}

  /// Resets the slow average and restarts its schedules, for a run that was resumed from AdamW or
  /// whose data changed.
  void reset_slow() {
    const auto& slots = this->slots();
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      if (!slots.names()[slot].starts_with("exp_avg_slow")) continue;
      for (std::size_t k = 0; k < slow_start_.size(); ++k) {
        detail::clear_bytes(slots.space(), slots.address(slot, k), slots.bytes(slot, k));
      }
    }
    for (std::size_t k = 0; k < slow_start_.size(); ++k) slow_start_[k] = this->tensor_steps(k);
  }

  // Called by step().
  [[nodiscard]] AdEMAMixRule::Step<S> step_of(std::size_t tensor) const {
    return {Base::step_of(tensor), this->tensor_steps(tensor) - slow_start_[tensor]};
  }
  [[nodiscard]] bool same_step(std::size_t a, std::size_t b) const {
    return Base::same_step(a, b) && slow_start_[a] == slow_start_[b];
  }
  void forget_steps(std::size_t tensor) {
    Base::forget_steps(tensor);
    slow_start_[tensor] = 0;
  }
  void carry_clocks(const detail::ListChange& change) {
    std::vector<std::int64_t> slow_start = change.carried(slow_start_);
    Base::carry_clocks(change);
    slow_start_ = std::move(slow_start);
  }
  void restart_corrections(std::size_t tensor) {
    slow_start_[tensor] -= this->tensor_steps(tensor);  // the schedules' clock goes on
    Base::restart_corrections(tensor);
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    Base::list_state(self, visit);
    visit.counters("slow_start", self.slow_start_);
  }

 private:
  std::vector<std::int64_t> slow_start_;  // of each tensor, in its steps; negative after a reset
};

}  // namespace POLYAK_V0
}  // namespace polyak
