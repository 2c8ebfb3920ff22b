// SPDX-License-Identifier: Apache-2.0
/// @file
/// The part that SwitchEma and HareTortoise share: an average that is fed back into the weights.
#pragma once

#include <cstdint>
#include <tuple>
#include <utility>

#include <polyak/average/average.hpp>
#include <polyak/core/law.hpp>

namespace polyak {
inline namespace v0 {

/// avg <- avg + c (x - avg);  x <- avg
template <class T>
struct SwitchLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true};
  T gain;
  template <class V>
  POLYAK_LAW void operator()(V& x, V& average) const {
    average = fma(V(gain), x - average, average);
    x = average;
  }
};

/// avg <- avg + c (x - avg);  x <- avg + blend (x - avg)
template <class T>
struct BlendLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true};
  T gain, blend;
  template <class V>
  POLYAK_LAW void operator()(V& x, V& average) const {
    average = fma(V(gain), x - average, average);
    x = fma(V(blend), x - average, average);
  }
};

/// An average whose rule says after which updates the weights become avg + blend (x - avg).
/// `Rule::after(t)` answers for call t = 1, 2, ...
template <ParameterScalar P, Weighting W, class Rule, StateScalar S>
class SwitchingAverage : public Average<P, W, S> {
  using Base = Average<P, W, S>;

 public:
  using Laws = std::tuple<AverageLaw<S>, CopyLaw<S>, SwitchLaw<S>, BlendLaw<S>>;

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
    switching_ = Base::form() == 0 && rule_.after(this->calls());
    if (switching_) ++switches_;
  }
  [[nodiscard]] int form() const {
    if (!switching_) return Base::form();
    return blend_ == 0 ? 2 : 3;
  }
  template <int K>
  [[nodiscard]] auto law(std::size_t tensor) const {
    if constexpr (K == 2) {
      return SwitchLaw<S>{static_cast<S>(this->gain())};
    } else if constexpr (K == 3) {
      return BlendLaw<S>{static_cast<S>(this->gain()), blend_};
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
