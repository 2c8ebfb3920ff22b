// SPDX-License-Identifier: Apache-2.0
/// @file
/// The part that SwitchEma and HareTortoise share: an average that is fed back into the weights.
#pragma once

#include <cstdint>
#include <utility>

#include <polyak/average/engine/average.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/state.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// avg <- avg + c (x - avg), unless c = 0;  x <- avg, or avg + blend (x - avg)
template <class T>
struct SwitchLaw {
  static constexpr LawSlots slots = LawSlots::exchanging("average");
  T gain, blend;  ///< gain 0: rests; blend 0: x becomes avg
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, Slot& average) const {
    average = if_zero(gain, average, interpolate(average, x, gain));
    x = if_zero(blend, average, interpolate(average, x, blend));
  }
};

/// An average whose rule says after which updates the weights become avg + blend (x - avg).
/// `Rule::after(t)` says so for call t = 1, 2, ...
template <class Derived, ParameterScalar P, Weighting W, class Rule, StateScalar S>
class FedBackAverage : public AverageOf<Derived, P, W, S> {
  using Base = AverageOf<Derived, P, W, S>;

  struct Switch {
    double gain, blend;
    template <class C>
    SwitchLaw<C> operator()(C) const {
      return {.gain = static_cast<C>(gain), .blend = static_cast<C>(blend)};
    }
  };
  using Bound = detail::joined_t<typename Base::Bound, typename Base::template Stored<Switch>>;

 public:
  FedBackAverage(const Parameters<P>& params, W weighting, Rule rule, double blend,
                 Nonfinite nonfinite, Accumulation accumulation = {})
      : Base(params, std::move(weighting), nonfinite, accumulation), rule_(rule), blend_(blend) {}

  /// Whether the last call of this object fed the average back into the weights. Not saved in
  /// files; on a device, unreliable for a step that Nonfinite::skip_step may have skipped.
  [[nodiscard]] bool switched() const { return switching_; }
  /// How often the average was fed back into the weights.
  [[nodiscard]] std::int64_t switches() const { return switches_; }

  // Called by step() and update().
  static constexpr bool writes_weights = true;
  void skip() {
    switching_ = false;
    Base::skip();
  }
  void advance(const Parameters<P>& params, const element_t<P>* const* gradients) {
    Base::advance(params, gradients);
    switching_ = this->gain() != 1 && rule_.after(this->calls());  // after a copy, x equals avg
    if (switching_) ++switches_;
  }
  [[nodiscard]] bool resting() const { return !switching_ && Base::resting(); }
  [[nodiscard]] Bound bind() const {
    if (!switching_) return detail::widen_variant<Bound>(Base::bind());
    return detail::widen_variant<Bound>(
        this->bind_stored(Switch{this->gain(), blend_}, std::size_t{0}));
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    Base::list_state(self, visit);
    auto& own = detail::as_base<FedBackAverage>(self);
    visit.options(own.rule_);
    visit.scalar("switches", own.switches_, count_range);
    detail::visit_part(own.rule_, visit);
  }

 protected:
  [[nodiscard]] Rule& rule() { return rule_; }
  void count_switch() { ++switches_; }

 private:
  Rule rule_;
  double blend_;
  bool switching_ = false;
  std::int64_t switches_ = 0;
};

}  // namespace POLYAK_V0
}  // namespace polyak
