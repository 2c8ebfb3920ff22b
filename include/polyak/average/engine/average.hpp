// SPDX-License-Identifier: Apache-2.0
/// @file
/// One average for every weighting: avg <- avg + c_t (x_t - avg).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace v0 {

/// avg + c (x - avg), for 0 < c < 1.
template <class T>
struct AverageLaw {
  static constexpr Traffic traffic{.slots = 1};
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = fma(V(gain), x - average, average);
  }
};

/// Both in one, for the ways of keeping an average that are used more seldom.
template <class T>
struct AverageOrCopyLaw {
  static constexpr Traffic traffic{.slots = 1};
  T gain;
  T complement;  ///< 1 - c, of which only counts whether it is 0
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = if_zero(V(complement), x, fma(V(gain), x - average, average));
  }
};

namespace detail {
/// The smallest gain of a weighting: 0 unless it says otherwise.
template <class W>
[[nodiscard]] double least_gain(const W& weighting) {
  if constexpr (requires { weighting.least_gain(); }) {
    return weighting.least_gain();
  } else {
    return 0;
  }
}
/// The weighting, whose fields are in order.
template <class W>
[[nodiscard]] W validated(W weighting) {
  if constexpr (HasFields<W>) validate(weighting);
  return weighting;
}
}  // namespace detail

/// The average of a model's weights under any Weighting W, kept in type S.
///
/// State: one slot "average" of the parameters' layout (and "compensation" with Accumulate::kahan),
/// and the newest value of each buffer (Role::copy). The weighting is asked once per call, in
/// double. A plain float average moves as long as c |x - avg| exceeds half an ulp of avg: for a
/// constant gain c it comes to rest within 2^-24 / c (relative) of a constant x; where that
/// matters, accumulate with kahan or in float64, or keep it in double (`Ema<float, double>`, which
/// is also fused with other methods).
template <ParameterScalar P, Weighting W, StateScalar S = default_state_t<P>>
class Average : public AveragedWeights<Average<P, W, S>, P, S> {
  using Base = AveragedWeights<Average<P, W, S>, P, S>;

 public:
  static constexpr std::string_view type_name = "Average";

  /// The average begins as a copy of the parameters; whether that copy has any weight is the
  /// weighting's affair. Throws std::logic_error while an average is swapped in,
  /// std::invalid_argument for an accumulation that S cannot have, or with which a 16-bit average
  /// would rest further than 1 % from a constant weight.
  Average(const Parameters<P>& params, W weighting, Nonfinite nonfinite = Nonfinite::propagate,
          Accumulation accumulation = {})
      : Average(params, nonfinite, accumulation, detail::validated(std::move(weighting))) {}

  /// Calls that changed the average.
  [[nodiscard]] std::int64_t count() const { return updates_; }
  /// Whether there is an average to hand out: after the first update, or, where the parameters at
  /// construction have a weight, after the first call.
  [[nodiscard]] bool ready() const {
    if constexpr (requires { weighting_.weighs_initial(); }) {
      if (weighting_.weighs_initial() && this->calls() > 0) return true;
    }
    return updates_ > 0;
  }
  /// The gain c of the last call, as it was applied.
  [[nodiscard]] double gain() const { return gain_; }
  [[nodiscard]] const W& weighting() const { return weighting_; }

  // What step() and update() call.
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    const std::int64_t call = this->next_call();
    gain_ = this->applied(weighting_.gain(call));
    if constexpr (requires { weighting_.advance(call); }) weighting_.advance(call);
    if (gain_ != 0) ++updates_;
  }
  static constexpr std::size_t forms = 2 + Base::other_storages;
  [[nodiscard]] int form() const {
    if (gain_ == 0) return resting;
    return this->storage() > 0 ? 1 + this->storage() : gain_ == 1 ? 1 : 0;
  }
  template <int K>
  [[nodiscard]] auto run(std::size_t) const {
    return this->template run_in<(K < 2 ? 0 : K - 1)>(
        [&]<class C>(C) {
          const auto gain = static_cast<C>(gain_);
          if constexpr (K == 0) {
            return AverageLaw<C>{gain};
          } else if constexpr (K == 1) {
            return CopyLaw<C>{};
          } else {
            return AverageOrCopyLaw<C>{gain, 1 - gain};
          }
        },
        std::size_t{0});
  }
  void finish(const Parameters<P>& params) {
    if (gain_ != 0) this->copy_buffers(params);
  }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Visitor>
  void state(Visitor&& visit) {
    detail::visit_options(weighting_, visit);
    this->common_options(visit);
    this->clocks(visit, updates_);
    visit.scalar("gain", gain_);
    if constexpr (requires { weighting_.state(visit); }) weighting_.state(visit);
    this->memory(visit);
  }

 protected:
  [[nodiscard]] W& mutable_weighting() { return weighting_; }

 private:
  friend Base;

  Average(const Parameters<P>& params, Nonfinite nonfinite, Accumulation accumulation,
          W&& weighting)
      : Base(params, nonfinite, accumulation, detail::least_gain(weighting)),
        weighting_(std::move(weighting)) {}

  W weighting_;
  std::int64_t updates_ = 0;
  double gain_ = 0;  // as applied: rounded to the type of the law
};

}  // namespace v0
}  // namespace polyak
