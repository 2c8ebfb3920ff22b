// SPDX-License-Identifier: Apache-2.0
/// @file
/// EmaBank: N exponential averages of one model, each weight read once for all of them.
///
///   avg_k <- avg_k + c_k (x - avg_k)      c_k = 1 - decay_k, as of Ema;  k = 0, ..., N-1
///
/// The best decay is known only after training: follow several, evaluate each, keep one.
/// State: N slots ("average.0", ...). Elementwise; any shape. 2 N + 1 words per parameter and
/// update; N separate Emas move 3 N.
///
/// Above 300 lines: one law and one class, with the options of each average.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// avg_k + c_k (x - avg_k), for 0 < c_k < 1.
template <class T, std::size_t N>
struct EmaBankLaw {
  static constexpr LawSlots slots = LawSlots::averaging(N);
  detail::Array<T, N> gains;
  template <class V, class... Slot>
  POLYAK_LAW void operator()(const V& x, Slot&... averages) const {
    const T* gain = gains.data();
    ((averages = interpolate(averages, x, *gain++)), ...);
  }
};

/// The same for any gains, 1 (copies) and 0 (rests) included.
template <class T, std::size_t N>
struct AnyEmaBankLaw {
  static constexpr LawSlots slots = LawSlots::averaging(N);
  detail::Array<T, N> gains, complements;
  template <class V, class... Slot>
  POLYAK_LAW void operator()(const V& x, Slot&... averages) const {
    const T *gain = gains.data(), *complement = complements.data();
    (one(*gain++, *complement++, x, averages), ...);
  }

 private:
  template <class V, class Slot>
  POLYAK_LAW static void one(T gain, T complement, const V& x, Slot& average) {
    average = if_zero(gain, average, if_zero(complement, x, interpolate(average, x, gain)));
  }
};

/// Options that all averages of a bank share; see EmaOptions.
struct EmaBankOptions {
  Start start = Start::params;    ///< the values before the first update
  std::int64_t update_every = 1;  ///< calls per update, >= 1
  bool any_decay = false;         ///< accepts decays in (0, 0.5) too
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(EmaBankOptions& o, Fields& field) {
  detail::exponential_fields(o, field);
  field("any_decay", o.any_decay);
  detail::average_fields(o, field);
}

/// One average of a bank, as save_average() and SnapshotStore take averages. Lives as long as the
/// bank does not move.
template <class Bank>
class EmaBankAverage {
 public:
  using Parameter = typename Bank::Parameter;
  using State = typename Bank::State;
  static constexpr std::string_view type_name = "Ema";
  EmaBankAverage(const Bank& bank, std::size_t index) : bank_(&bank), index_(index) {}
  [[nodiscard]] auto view() const { return bank_->view(index_); }
  [[nodiscard]] const ExponentialWeighting& weighting() const { return bank_->weighting(index_); }
  [[nodiscard]] std::int64_t calls() const { return bank_->calls(); }
  [[nodiscard]] bool ready() const { return bank_->ready(); }
  [[nodiscard]] Accumulate accumulate() const { return bank_->accumulate(); }
  [[nodiscard]] const Slots<State>& slots() const { return bank_->slots(); }
  [[nodiscard]] const std::byte* buffers() const { return bank_->buffers(); }
  [[nodiscard]] std::int64_t calls_before_change() const { return bank_->calls_before_change(); }

 private:
  const Bank* bank_;
  std::size_t index_;
};

/// The result of EmaBank::best().
struct EmaBankChoice {
  std::size_t index = 0;
  double decay = 0;
  double value = 0;            ///< of the metric
  std::vector<double> values;  ///< of every average
};

/// N exponential averages of a model's weights.
///
///     polyak::EmaBank bank(params, std::array{0.99, 0.999, 0.9999});
///     polyak::step(params, grads, optimizer, bank);
///     const auto best = bank.best(params, [&] { return loss(model, validation); });
///     const auto averaged = bank.swap_into(params, best.index);
///
/// Throws std::invalid_argument for options out of range and for decays that Ema rejects. With
/// Accumulate::stochastic the averages round by the same random bits.
template <ParameterScalar P, std::size_t N, StateScalar S = default_state_t<P>>
class EmaBank final : public AveragedWeights<EmaBank<P, N, S>, P, S> {
  static_assert(N >= 1 && N <= 16, "polyak: an EmaBank has 1 to 16 averages");
  using Base = AveragedWeights<EmaBank<P, N, S>, P, S>;
  using typename Base::T;

  struct AnyGains {
    std::array<double, N> gains;
    template <class C>
    AnyEmaBankLaw<C, N> operator()(C) const {
      return law<C>(std::make_index_sequence<N>());
    }
    template <class C, std::size_t... I>
    AnyEmaBankLaw<C, N> law(std::index_sequence<I...>) const {
      const detail::Array<C, N> rounded{static_cast<C>(gains[I])...};
      return {.gains = rounded, .complements = {(1 - rounded[I])...}};
    }
  };
  using Bound = detail::joined_t<std::variant<detail::BoundLaw<EmaBankLaw<T, N>, S>>,
                                 typename Base::template Stored<AnyGains>>;

 public:
  static constexpr std::string_view type_name = "EmaBank";

  EmaBank(const Parameters<P>& params, const std::array<double, N>& decays,
          EmaBankOptions options = {}, const Selection& selection = {})
      : EmaBank(params, options, weightings_of(decays, options), selection) {}

  [[nodiscard]] static constexpr std::size_t size() { return N; }
  /// These throw std::invalid_argument for an index beyond the last average.
  [[nodiscard]] double decay(std::size_t index) const { return weightings_[at(index)].decay; }
  [[nodiscard]] const ExponentialWeighting& weighting(std::size_t index) const {
    return weightings_[at(index)];
  }

  /// Changes the decays from the next call on, and what happens at a NaN, as Ema::with(). The
  /// number of averages stays.
  EmaBank& with(const std::array<double, N>& decays, const EmaBankOptions& options);
  /// As of Average.
  [[nodiscard]] std::int64_t calls_before_change() const { return calls_before_change_; }

  /// Calls that changed an average.
  [[nodiscard]] std::int64_t count() const { return updates_; }
  [[nodiscard]] bool ready() const {
    return updates_ > 0 || (weightings_[0].weighs_initial() && this->calls() > 0);
  }

  /// One of the averages, for saving: `save_average(file, params, bank.average(best.index))`.
  [[nodiscard]] EmaBankAverage<EmaBank> average(std::size_t index) const {
    return {*this, at(index)};
  }
  /// Access to one of the averages, as in Average.
  [[nodiscard]] SlotView<S> view(std::size_t index) const { return this->view_of(at(index)); }
  void copy_to(const Parameters<P>& target, std::size_t index) const {
    this->copy_of(at(index), target);
  }
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, std::size_t index) {
    return this->swap_of(at(index), params);
  }

  /// Swaps one average after the other into the model, calls `metric()` for each, and returns its
  /// numbers. Afterwards the model has its own weights again, bit for bit, also after an exception.
  /// Throws as swap_into().
  template <class Metric>
  requires std::convertible_to < std::invoke_result_t<Metric&>,
  double >
      [[nodiscard]] std::vector<double> evaluate(const Parameters<P>& params, Metric&& metric) {
    std::vector<double> values;
    for (std::size_t k = 0; k < N; ++k) {
      const auto guard = swap_into(params, k);
      values.push_back(metric());
    }
    return values;
  }

  /// The average with the lowest (or highest) metric, the first of several; NaN is never best.
  /// Throws std::runtime_error if the metric of every average is NaN.
  template <class Metric>
  [[nodiscard]] EmaBankChoice best(const Parameters<P>& params, Metric&& metric,
                                   bool highest = false) {
    EmaBankChoice choice;
    choice.values = evaluate(params, std::forward<Metric>(metric));
    choice.index = N;
    for (std::size_t k = 0; k < N; ++k) {
      const double value = choice.values[k];
      if (detail::is_nan(value)) continue;
      if (choice.index == N || (highest ? value > choice.value : value < choice.value)) {
        choice.index = k;
        choice.value = value;
      }
    }
    if (choice.index == N) detail::refuse_nonfinite("polyak: the metric of every average is NaN");
    choice.decay = decay(choice.index);
    return choice;
  }

  // Called by step() and update().
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    const std::int64_t call = this->next_call();
    resting_ = ordinary_ = true;
    for (std::size_t k = 0; k < N; ++k) {
      gains_[k] = this->applied(weightings_[k].gain(call));
      resting_ = resting_ && gains_[k] == 0;
      ordinary_ = ordinary_ && gains_[k] > 0 && gains_[k] < 1;
    }
    if (!resting_) ++updates_;
  }
  [[nodiscard]] bool resting() const { return resting_; }
  [[nodiscard]] Bound bind() const { return bind(std::make_index_sequence<N>()); }
  void finish(const ExecutorRef&, const Parameters<P>& params) {
    if (!resting_) this->copy_buffers(params);
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    auto& own = detail::as_base<EmaBank>(self);
    for (std::size_t k = 0; k < N; ++k) {
      visit.option("decay." + std::to_string(k), own.weightings_[k].decay);
    }
    visit.some_options(own.weightings_[0],
                       [](auto& w, auto& field) { detail::exponential_fields(w, field); });
    own.list_options(visit);
    Base::list_clocks(own, visit, own.updates_);
    visit.newer_scalar("calls_before_change", own.calls_before_change_, 0, count_range);
    Base::list_memory(own, visit);
  }

 private:
  friend Base;

  template <std::size_t... I>
  [[nodiscard]] Bound bind(std::index_sequence<I...>) const {
    if (this->storage() == 0 && ordinary_) {
      return this->bind_plain(EmaBankLaw<T, N>{{static_cast<T>(gains_[I])...}}, I...);
    }
    return detail::widen_variant<Bound>(this->bind_stored(AnyGains{gains_}, I...));
  }
  using Weightings = std::array<ExponentialWeighting, N>;

  EmaBank(const Parameters<P>& params, const EmaBankOptions& options, const Weightings& weightings,
          const Selection& selection)
      : Base(params, options.nonfinite, {options.accumulate, options.seed, selection},
             least_gain(weightings), names()),
        weightings_(weightings) {}

  static Weightings weightings_of(const std::array<double, N>& decays,
                                  const EmaBankOptions& options) {
    validate(options);
    Weightings all;
    for (std::size_t k = 0; k < N; ++k) {
      EmaOptions one;
      one.decay = decays[k];
      one.start = options.start;
      one.update_every = options.update_every;
      one.any_decay = options.any_decay;
      validate(one);
      all[k] = {one.decay, one.start, one.update_every};
    }
    return all;
  }
  static double least_gain(const Weightings& weightings) {
    double least = 1;
    for (const auto& one : weightings) {
      if (one.decay < 1) least = std::fmin(least, one.least_gain());  // 1 stalls on purpose
    }
    return least;
  }
  static std::vector<std::string> names() {
    std::vector<std::string> all;
    for (std::size_t k = 0; k < N; ++k) all.push_back("average." + std::to_string(k));
    return all;
  }
  [[nodiscard]] static std::size_t at(std::size_t index) {
    require(index < N, "EmaBank: index must be below " + detail::text(N), index);
    return index;
  }

  Weightings weightings_;
  std::array<double, N> gains_{};
  bool resting_ = true, ordinary_ = false;
  std::int64_t updates_ = 0;
  std::int64_t calls_before_change_ = 0;
};

template <ParameterScalar P, std::size_t N, StateScalar S>
EmaBank<P, N, S>& EmaBank<P, N, S>::with(const std::array<double, N>& decays,
                                         const EmaBankOptions& options) {
  const Weightings now = weightings_of(decays, options);
  detail::require_same_but_decay(options, weightings_[0], this->accumulate(), this->seed());
  bool changed = false;
  for (std::size_t k = 0; k < N; ++k) {
    detail::require_changeable(now[k], weightings_[k]);
    changed = changed || now[k].decay != weightings_[k].decay;
  }
  this->change_options(options.nonfinite, least_gain(now));
  if (changed) calls_before_change_ = this->calls();
  weightings_ = now;
  return *this;
}

}  // namespace POLYAK_V0
}  // namespace polyak
