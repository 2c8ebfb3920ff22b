// SPDX-License-Identifier: Apache-2.0
/// @file
/// One average for every weighting: avg <- avg + c_t (x_t - avg).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>

#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// avg + c (x - avg), for 0 < c < 1.
template <class T>
struct AverageLaw {
  static constexpr LawSlots slots = LawSlots::averaging("average");
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = interpolate(average, x, gain);
  }
};

/// The same for 0 < c <= 1, where c = 1 copies. For the rarer ways of storing an average.
template <class T>
struct AverageOrCopyLaw {
  static constexpr LawSlots slots = LawSlots::averaging("average");
  T gain;
  T complement;  ///< 1 - c; the law only tests whether it is 0
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = if_zero(complement, x, interpolate(average, x, gain));
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
/// The last call for which a weighting can compute a gain: 2^53 unless it says otherwise.
template <class W>
[[nodiscard]] double last_call(const W& weighting) {
  if constexpr (requires { weighting.last_call(); }) {
    return std::fmin(count_range.most, static_cast<double>(weighting.last_call()));
  } else {
    return count_range.most;
  }
}
/// Returns the weighting after checking its fields.
template <class W>
[[nodiscard]] W validated(W weighting) {
  if constexpr (HasFields<W>) polyak::validate(weighting);
  return weighting;
}
}  // namespace detail

/// The average of a model's weights under any Weighting W, stored in type S.
///
/// State: one slot "average" of the parameters' layout (and "compensation" with Accumulate::kahan),
/// and the newest value of each buffer (Role::copy). The gain is computed once per call, in double.
/// A plain float average moves as long as c |x - avg| exceeds half an ulp of avg: for a constant
/// gain c it stalls within 2^-24 / c (relative) of a constant x. If that matters, accumulate with
/// kahan or in float64, or store it in double (`Ema<float, double>`, which is also fused with other
/// methods).
///
/// `Derived` is the method. It has a `type_name`, for messages and files. A hook that it overrides
/// works the same alone and in a step. One that is for several weightings adds
/// `visit.label("weighting", name)` to its list_state(), as Average does.
template <class Derived, ParameterScalar P, Weighting W, StateScalar S>
class AverageOf : public AveragedWeights<Derived, P, S> {
  using Base = AveragedWeights<Derived, P, S>;

 protected:
  using typename Base::T;
  struct AverageOrCopy {
    double gain;
    template <class C>
    AverageOrCopyLaw<C> operator()(C) const {
      const auto rounded = static_cast<C>(gain);
      return {.gain = rounded, .complement = 1 - rounded};
    }
  };
  using Bound = detail::joined_t<std::variant<detail::BoundLaw<AverageLaw<T>, S>>,
                                 typename Base::template Stored<AverageOrCopy>>;

 public:
  /// The average begins as a copy of the parameters; the weighting decides whether that copy has
  /// any weight. Throws std::logic_error while an average is swapped in, std::invalid_argument for
  /// an accumulation that S does not support, or with which a 16-bit average would stall more than
  /// 1 % from a constant weight.
  AverageOf(const Parameters<P>& params, W weighting, Nonfinite nonfinite = Nonfinite::propagate,
            Accumulation accumulation = {});

  /// Calls that changed the average.
  [[nodiscard]] std::int64_t count() const { return updates_; }
  /// Whether the average is readable: after the first update, or after the first call if the
  /// parameters at construction have a weight.
  [[nodiscard]] bool ready() const {
    if constexpr (requires { weighting_.weighs_initial(); }) {
      if (weighting_.weighs_initial() && this->calls() > 0) return true;
    }
    return updates_ > 0;
  }
  /// The gain c of the last call, rounded as it was applied.
  [[nodiscard]] double gain() const { return gain_; }
  /// The weighting of the next call, and of all earlier ones but the first calls_before_change().
  [[nodiscard]] const W& weighting() const { return weighting_; }
  /// The calls that were made under other options, before `with()` changed them. If there are any,
  /// no weighting describes the average, so it cannot be stored as a snapshot.
  [[nodiscard]] std::int64_t calls_before_change() const { return calls_before_change_; }

  // Called by step() and update().
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    gain_ = this->applied(weighting_.gain(this->calls() + 1));  // may refuse the call
    const std::int64_t call = this->next_call();
    if constexpr (requires { weighting_.advance(call); }) weighting_.advance(call);
    if (gain_ != 0) ++updates_;
  }
  [[nodiscard]] bool resting() const { return gain_ == 0; }
  [[nodiscard]] Bound bind() const {
    if (this->storage() == 0 && gain_ != 1) {
      return detail::variant_of<Bound>([this] {
        return this->bind_plain(AverageLaw<T>{static_cast<T>(gain_)}, std::size_t{0});
      });
    }
    return detail::widen_variant<Bound>(this->bind_stored(AverageOrCopy{gain_}, std::size_t{0}));
  }
  void finish(const ExecutorRef&, const Parameters<P>& params) {
    if (gain_ != 0) this->copy_buffers(params);
  }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit);

 protected:
  [[nodiscard]] W& mutable_weighting() { return weighting_; }
  /// Takes another weighting from the next call on. Throws std::invalid_argument as the
  /// constructor; nothing has changed then.
  void change_weighting(W weighting, Nonfinite nonfinite) {
    weighting = detail::validated(std::move(weighting));
    this->change_options(nonfinite, detail::least_gain(weighting));
    calls_before_change_ = this->calls();
    weighting_ = std::move(weighting);
  }

 private:
  friend Base;

  W weighting_;
  std::int64_t updates_ = 0;
  std::int64_t calls_before_change_ = 0;
  double gain_ = 0;  // as applied: rounded to the type of the law
};

template <class Derived, ParameterScalar P, Weighting W, StateScalar S>
AverageOf<Derived, P, W, S>::AverageOf(const Parameters<P>& params, W weighting,
                                       Nonfinite nonfinite, Accumulation accumulation)
    : Base(params, nonfinite, accumulation, detail::least_gain(detail::validated(weighting))),
      weighting_(std::move(weighting)) {}

template <class Derived, ParameterScalar P, Weighting W, StateScalar S>
template <class Self>
void AverageOf<Derived, P, W, S>::list_state(Self& self, StateVisitorOf<Self>& visit) {
  auto& own = detail::as_base<AverageOf>(self);
  visit.options(own.weighting_);
  own.list_options(visit);
  Base::list_clocks(own, visit, own.updates_, {0, detail::last_call(own.weighting_)});
  visit.scalar("gain", own.gain_);  // any number: the next call computes another
  if constexpr (requires { &Derived::with; }) {
    visit.newer_scalar("calls_before_change", own.calls_before_change_, 0, count_range);
  }
  detail::visit_part(own.weighting_, visit);
  Base::list_memory(own, visit);
}

/// The average under a weighting of your own: `Average average(params, MyWeighting{});`. A file
/// keeps the weighting's name (schedules/weighting.hpp), and loading compares it.
template <ParameterScalar P, Weighting W, StateScalar S = default_state_t<P>>
class Average final : public AverageOf<Average<P, W, S>, P, W, S> {
 public:
  static constexpr std::string_view type_name = "Average";
  /// See AverageOf.
  Average(const Parameters<P>& params, W weighting, Nonfinite nonfinite = Nonfinite::propagate,
          Accumulation accumulation = {})
      : AverageOf<Average<P, W, S>, P, W, S>(params, std::move(weighting), nonfinite,
                                             accumulation) {}

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    using Name = detail::WeightingName<W>;
    if constexpr (Name::listed) visit.label(Name::option, Name::name());
    AverageOf<Average<P, W, S>, P, W, S>::list_state(self, visit);
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
