// SPDX-License-Identifier: Apache-2.0
/// @file
/// The part that SwitchEma and HareTortoise share: an average that is fed back into the weights.
#pragma once

#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/average/average.hpp>
#include <polyak/core/law.hpp>

namespace polyak {
inline namespace v0 {

/// avg <- avg + c (x - avg), unless it rests;  x <- avg, or avg + blend (x - avg)
template <class T, bool Rests, bool Blends>
struct SwitchLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true, .writes_slots = !Rests};
  T gain, blend;
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, Slot& average) const {
    if constexpr (!Rests) average = fma(V(gain), x - average, average);
    if constexpr (Blends) {
      x = fma(V(blend), x - average, average);
    } else {
      x = average;
    }
  }
};

/// An average whose rule says after which updates the weights become avg + blend (x - avg).
/// `Rule::after(t)` answers for call t = 1, 2, ...; `Rule::rests_or_blends` is false where blend is
/// 0 and every call updates.
template <ParameterScalar P, Weighting W, class Rule, StateScalar S>
class SwitchingAverage : public Average<P, W, S> {
  using Base = Average<P, W, S>;

 public:
  using Laws = std::conditional_t<
      Rule::rests_or_blends,
      std::tuple<AverageLaw<S>, CopyLaw<S>, SwitchLaw<S, false, false>, SwitchLaw<S, false, true>,
                 SwitchLaw<S, true, false>, SwitchLaw<S, true, true>>,
      std::tuple<AverageLaw<S>, CopyLaw<S>, SwitchLaw<S, false, false>>>;

  SwitchingAverage(const Parameters<P>& params, W weighting, Rule rule, double blend,
                   Nonfinite nonfinite)
      : Base(params, std::move(weighting), nonfinite), rule_(rule), blend_(static_cast<S>(blend)) {}

  /// As Average::update; feeds the average back where the rule says so.
  bool update(const Parameters<P>& params) { return polyak::update(params, *this); }
  bool update(const Parameters<P>& params, std::int64_t step) {
    this->require_next(step);
    return update(params);
  }

  /// How often the average was fed back into the weights.
  [[nodiscard]] std::int64_t switches() const { return switches_; }

  // What step() and update() call.
  void advance(const Parameters<P>& params, const P* const* gradients) {
    Base::advance(params, gradients);
    switching_ = Base::form() != 1 && rule_.after(this->calls());  // after a copy x is avg
    if (switching_) ++switches_;
  }
  [[nodiscard]] int form() const {
    if (!switching_) return Base::form();
    const int blends = blend_ == 0 ? 0 : 1;
    return (Base::form() == resting ? 4 : 2) + blends;
  }
  template <int K>
  [[nodiscard]] auto law(std::size_t tensor) const {
    if constexpr (K >= 2) {
      return std::tuple_element_t<static_cast<std::size_t>(K), Laws>{static_cast<S>(this->gain()),
                                                                     blend_};
    } else {
      return Base::template law<K>(tensor);
    }
  }

  template <class Visitor>
  void state(Visitor&& visit) {
    Base::state(visit);
    visit.scalar("switches", switches_);
    if constexpr (requires { rule_.state(visit); }) rule_.state(visit);
  }

 protected:
  [[nodiscard]] Rule& rule() { return rule_; }
  void count_switch() { ++switches_; }

 private:
  Rule rule_;
  S blend_;
  bool switching_ = false;
  std::int64_t switches_ = 0;
};

}  // namespace v0
}  // namespace polyak
