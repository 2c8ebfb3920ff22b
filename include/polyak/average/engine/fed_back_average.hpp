// SPDX-License-Identifier: Apache-2.0
/// @file
/// The part that SwitchEma and HareTortoise share: an average that is fed back into the weights.
#pragma once

#include <cstdint>
#include <utility>

#include <polyak/average/engine/average.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>

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

/// All of them in one, for the ways of keeping an average that are used more seldom.
template <class T>
struct AnySwitchLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true};
  T gain, blend;  ///< 0: rests; 0: does not blend
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, Slot& average) const {
    average = if_zero(V(gain), average, fma(V(gain), x - average, average));
    x = if_zero(V(blend), static_cast<V>(average), fma(V(blend), x - average, average));
  }
};

/// An average whose rule says after which updates the weights become avg + blend (x - avg).
/// `Rule::after(t)` answers for call t = 1, 2, ...; `Rule::rests_or_blends` is false where blend is
/// 0 and every call updates.
template <ParameterScalar P, Weighting W, class Rule, StateScalar S>
class FedBackAverage : public Average<P, W, S> {
  using Base = Average<P, W, S>;

 public:
  FedBackAverage(const Parameters<P>& params, W weighting, Rule rule, double blend,
                 Nonfinite nonfinite, Accumulation accumulation = {})
      : Base(params, std::move(weighting), nonfinite, accumulation), rule_(rule), blend_(blend) {}

  /// As Average::update; feeds the average back where the rule says so.
  bool update(const Parameters<P>& params) { return polyak::update(params, *this); }
  bool update(const Parameters<P>& params, std::int64_t step) {
    this->require_next(step);
    return update(params);
  }

  /// Whether the last call of this object fed the average back into the weights; not kept in files,
  /// and on a device not known of a step that Nonfinite::skip_step may skip.
  [[nodiscard]] bool switched() const { return switching_; }
  /// How often the average was fed back into the weights.
  [[nodiscard]] std::int64_t switches() const { return switches_; }

  // What step() and update() call.
  static constexpr bool writes_weights = true;
  void skip() {
    switching_ = false;
    Base::skip();
  }
  void advance(const Parameters<P>& params, const element_t<P>* const* gradients) {
    Base::advance(params, gradients);
    switching_ = this->gain() != 1 && rule_.after(this->calls());  // after a copy x is avg
    if (switching_) ++switches_;
  }
  static constexpr std::size_t usual_forms = Rule::rests_or_blends ? 6 : 3;
  static constexpr std::size_t forms = usual_forms + 2 * Base::other_storages;
  [[nodiscard]] int form() const {
    constexpr int usual = static_cast<int>(usual_forms);
    if (this->storage() > 0) {
      if (switching_) return usual + 2 * this->storage() - 1;
      return Base::form() == resting ? resting : usual + 2 * this->storage() - 2;
    }
    if (!switching_) return Base::form();
    return (Base::form() == resting ? 4 : 2) + (blend_ == 0 ? 0 : 1);
  }
  template <int K>
  [[nodiscard]] auto run(std::size_t tensor) const {
    constexpr int other = K - static_cast<int>(usual_forms);
    if constexpr (K < 2) {
      return Base::template run<K>(tensor);
    } else if constexpr (other < 0) {
      return this->template run_in<0>(
          [&]<class C>(C) {
            return SwitchLaw<C, (K >= 4), K % 2 == 1>{static_cast<C>(this->gain()),
                                                      static_cast<C>(blend_)};
          },
          std::size_t{0});
    } else if constexpr (other % 2 == 0) {
      return Base::template run<2 + other / 2>(tensor);
    } else {
      return this->template run_in<1 + other / 2>(
          [&]<class C>(C) {
            return AnySwitchLaw<C>{static_cast<C>(this->gain()), static_cast<C>(blend_)};
          },
          std::size_t{0});
    }
  }

  template <class Visitor>
  void state(Visitor&& visit) {
    Base::state(visit);
    detail::visit_options(rule_, visit);
    visit.scalar("switches", switches_);
    if constexpr (requires { rule_.state(visit); }) rule_.state(visit);
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

}  // namespace v0
}  // namespace polyak
