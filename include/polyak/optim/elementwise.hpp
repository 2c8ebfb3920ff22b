// SPDX-License-Identifier: Apache-2.0
/// @file
/// Elementwise: the base of optimizers that are defined by a rule. The rule has options, a name and
/// laws; Elementwise adds clocks, slots, the learning rate of a step, saving and restoring.
///
/// Above 300 lines: it holds the groups, clocks and laws of all elementwise optimizers, so that
/// each optimizer is short.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/list_change.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/slot_view.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/optim/scheduled_numbers.hpp>
#include <polyak/optim/tensor_groups.hpp>
#include <polyak/optim/weight_digits.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// 1 - beta^t, without cancellation for beta close to 1.
[[nodiscard]] inline double bias_correction(double beta, std::int64_t t) {
  if (t == 1) return 1 - beta;
  const bool vanishes = static_cast<double>(t) * (1 - beta) > 40;  // beta^t < e^-40: 1 - it is 1
  return vanishes || beta == 0 ? 1 : -std::expm1(static_cast<double>(t) * std::log(beta));
}

/// The largest number of T whose square and all running averages of it are finite, and the largest
/// whose running averages are; with a margin for rounding.
template <ComputeScalar T>
inline constexpr double largest_squared = sizeof(T) == 4 ? 0x1p63 : 0x1p511;
template <ComputeScalar T>
inline constexpr double largest_averaged = sizeof(T) == 4 ? 0x1p127 : 0x1p1023;

/// epsilon must be representable in the state's type: 1e-50 would be 0 in float.
template <ComputeScalar S>
void require_epsilon(double value, bool zero_allowed, const char* rule) {
  const bool positive = value > 0 && detail::is_finite(value) && static_cast<S>(value) > 0;
  require(positive || (zero_allowed && value >= 0 && detail::is_finite(value)), rule, value);
}

}  // namespace detail

/// Rule of an epsilon that may be 0 only if `zero_allowed`.
[[nodiscard]] constexpr Rule<double> epsilon_or_zero(bool zero_allowed) {
  constexpr std::string_view words = "must be finite and > 0 (0 with allow_zero_epsilon)";
  constexpr double nan = detail::nan_value, infinity = detail::infinite;
  if (zero_allowed) return {finite_and_not_negative.holds, words, {-1, nan, infinity, -infinity}};
  return {finite_and_positive.holds, words, {0, -1, nan, infinity, -infinity}};
}
/// Rule of a length in steps; 0 means none.
inline constexpr Rule<std::int64_t> at_least_1_or_none{
    at_least_0.holds, "must be >= 1, or 0 for none", {-1, -100}};

/// The step of one tensor, as passed to a rule. `step(x)` rounds a number to the type of the law.
template <class T>
struct StepOf {
  std::int64_t t = 1;        ///< steps of the tensor, this one included
  double learning_rate = 0;  ///< of this step and tensor
  double rate_factor = 1;    ///< of the tensor's group, included in learning_rate
  bool coupled = false;      ///< the optimizer has a coupled decay; a group's may be 0

  [[nodiscard]] T operator()(double value) const { return static_cast<T>(value); }
  /// 1 - beta^t: the sum of the weights that an average of decay beta has given so far.
  [[nodiscard]] double correction(double beta) const { return detail::bias_correction(beta, t); }
};

namespace detail {

/// The type of step passed to a rule: StepOf, unless the rule has a Step of its own.
template <class Rule, class T>
struct StepFor {
  using type = StepOf<T>;
};
template <class Rule, class T>
requires requires { typename Rule::template Step<T>; }
struct StepFor<Rule, T> {
  using type = typename Rule::template Step<T>;
};
template <class Rule, class T>
using step_t = typename StepFor<Rule, T>::type;

/// The bound laws of a rule: one, or a std::variant of the bound alternatives.
template <class Law, class S>
struct BoundLaws {
  using type = BoundLaw<Law, S>;
};
template <class... Law, class S>
struct BoundLaws<std::variant<Law...>, S> {
  using type = std::variant<BoundLaw<Law, S>...>;
};
/// The same for weights of E, with those that keep digits where there are any.
template <class Laws, class S, class E>
struct BoundLawsOf : BoundLaws<Laws, S> {};
template <class Laws, class S, class E>
requires keeps_digits<E, S>
struct BoundLawsOf<Laws, S, E> : KeepingLaws<Laws, S, E> {
};

/// The hooks of an optimizer: of 16-bit weights, the first step checks that they can move.
template <class Derived, class P>
struct OptimizerHooks : MethodHooks<P> {};
template <class Derived, class P>
requires(scalar_bytes<element_t<P>> == 2) struct OptimizerHooks<Derived, P> : MethodHooks<P> {
  void prepare(const ExecutorRef&, const Parameters<P>& params, const Gradients<P>*) {
    static_cast<const Derived&>(*this).require_moving_weights(params);
  }
};

/// The slots of the law that a rule returned.
template <class Law>
[[nodiscard]] std::vector<SlotSpec> slots_of(const Law&) {
  return {Law::slots.names, Law::slots.names + Law::slots.count};
}
template <class... Law>
[[nodiscard]] std::vector<SlotSpec> slots_of(const std::variant<Law...>& law) {
  return std::visit([](const auto& one) { return slots_of(one); }, law);
}

}  // namespace detail

/// Base of the optimizers that update each element from that element alone.
///
/// `Derived` is the optimizer, a final class. `Rule` has
///   using Options            a struct with learning_rate and nonfinite, and fields() (options.hpp)
///   static constexpr std::string_view name
///   static LAWS law<T>(const Options&, const StepOf<T>&)
///   template <class T> using Step       if the laws need more than StepOf<T> has
/// and, if a gradient can make a moment infinite,
///   static double largest_gradient<T>(const Options&)    so that no moment of T overflows
/// where LAWS is a law, or a std::variant of laws with the usual one first. Each law names its
/// slots. The options choose the alternative, which must be the same for all groups. The options of
/// a group differ from the optimizer's only in the decays, so a rule that tests for a coupled decay
/// must test StepOf::coupled too. A rule whose optimizer has more slots than the law, such as sums
/// of rows, lists them in
///   static std::vector<SlotSpec> more_slots(const Options&)
/// These slots come after those of the law, and the optimizer moves them in `prepare` or `finish`.
///
/// A tensor without a gradient in a step is left alone: no decay, no change of state. Bias
/// corrections count the steps of each tensor, schedules those of the optimizer.
///
/// Options with the fields of weight_fields() choose how weights are kept
/// (weight_digits.hpp). An optimizer of 16-bit weights that overrides `prepare` calls the one here.
template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
class Elementwise : public detail::OptimizerHooks<Derived, P> {
  static_assert(sizeof(S) >= detail::scalar_bytes<element_t<P>>,
                "polyak: double parameters need double state");

  using Step = detail::step_t<Rule, S>;
  using Laws = decltype(Rule::template law<S>(std::declval<const typename Rule::Options&>(),
                                              std::declval<const Step&>()));
  /// A named type, so that a program that links the library does not need the body of bind().
  using Bound = typename detail::BoundLawsOf<Laws, S, element_t<P>>::type;
  static constexpr bool may_keep_digits = detail::keeps_digits<P, S>;

 public:
  using State = S;
  using Options = typename Rule::Options;
  static constexpr bool trains = true;
  static constexpr std::string_view type_name = Rule::name;

  /// One step. Gradients are only read. Returns false where Nonfinite::skip_step skipped it.
  /// Throws as polyak::step.
  bool step(const Parameters<P>& params, const Gradients<P>& gradients) {
    return polyak::step(params, gradients, derived());
  }

  /// Sets the learning rate from the next step on: `optimizer.at(rate).step(params, grads)`.
  /// Throws std::invalid_argument unless it is finite and >= 0.
  Derived& at(double learning_rate) {
    detail::require_rule("learning_rate", learning_rate, finite_and_not_negative);
    learning_rate_ = learning_rate;
    return derived();
  }
  /// The same for weight decays that follow a schedule, in a fused step too:
  ///
  ///     polyak::step(params, grads,
  ///                  optimizer.at({.learning_rate = rate, .weight_decay = decay}), ema);
  ///
  /// Groups multiply the decay by their factor. The numbers are saved and loaded like the learning
  /// rate; the options stay those of the construction. Throws std::invalid_argument for a number
  /// out of range, a decay that the optimizer's options do not have, and a coupled decay where the
  /// options have none; nothing has changed then.
  Derived& at(const ScheduledNumbers& scheduled);
  [[nodiscard]] double learning_rate() const { return learning_rate_; }
  /// The decoupled and the coupled decay of the next step; 0 where there is none.
  [[nodiscard]] double weight_decay() const { return decays_.decoupled; }
  [[nodiscard]] double coupled_weight_decay() const { return decays_.coupled; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Replaces the options from the next step on. State, clocks and groups stay:
  ///
  ///     auto options = optimizer.options();
  ///     options.beta2 = 0.99;
  ///     optimizer.with(options);
  ///
  /// A learning rate or decay that is the same as in the previous options leaves what at() has set.
  /// Bias corrections take the new betas for those of all steps. The new options are saved, and
  /// compared when a file is loaded. Throws std::invalid_argument for options out of range and for
  /// options that need other slots or another variant of the law, such as amsgrad or another
  /// `accumulate`; nothing has changed then.
  Derived& with(const Options& options);

  /// Sets the factors of a group of tensors from the next step on; a later group takes the
  /// tensors that it shares with an earlier one.
  ///
  ///     optimizer.group(named("*.bias", "*.norm.*"), {.weight_decay_factor = 0});
  ///     optimizer.group(named("backbone.*"), {.learning_rate_factor = 0.1});
  ///     optimizer.group(named("backbone.stem.*"), {.frozen = true});
  ///
  /// A frozen tensor loses its state, and starts from the beginning when a later group unfreezes
  /// it. Groups are saved; loading compares them as it does options. Throws std::invalid_argument
  /// for factors out of range and for a selection that matches no tensor of the optimizer; nothing
  /// has changed then.
  Derived& group(const Selection& selection, const GroupOptions& group) {
    if (slots_.space() != nullptr) slots_.space()->require_settled(slots_.block().get());
    const Layout& layout = *slots_.layout();
    detail::TensorGroups groups = groups_.with(layout, selection, group, Rule::name);
    std::vector<Options> options = options_of(groups, options_, decays_);
    require_one_alternative(options);
    Slots<S> slots = slots_for(slots_.layout(), groups);
    auto rests = rests_for(slots);
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      if (!slots.keeps(k) || !slots_.keeps(k)) continue;
      slots.copy_tensor(k, slots_, k);
      if (rests_) rests->copy_tensor(k, *rests_, k);
    }
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      if (slots.keeps(k) != slots_.keeps(k)) derived().forget_steps(k);
    }
    slots_ = std::move(slots);
    rests_ = std::move(rests);
    groups_ = std::move(groups);
    group_options_ = std::move(options);
    return derived();
  }
  /// The factors of a tensor's group, by the tensor's place in the list.
  [[nodiscard]] const GroupOptions& group_of(std::size_t tensor) const {
    return groups_.of(tensor);
  }

  /// Continues with a larger model: a list that has all previous tensors, found by name, and new
  /// ones. Moments and clocks of previous tensors are kept; a new tensor starts from the beginning,
  /// in the group that group() would have given it. Learning rate, count() and schedules go on.
  /// Throws std::invalid_argument, with the differences, if a previous tensor is missing or
  /// differs, std::logic_error while an average is swapped in. If it throws, nothing has changed.
  void grow(const Parameters<P>& params) {
    follow(detail::ListChange::growth(ParameterAccess<P>::list(params), slots_));
  }
  /// Continues with a smaller model: a list of some of the previous tensors. The state of the
  /// others is lost. Throws as grow(), for a tensor that is new or differs, and for a list without
  /// any selected tensor.
  void shrink(const Parameters<P>& params) {
    follow(detail::ListChange::shrinking(ParameterAccess<P>::list(params), slots_));
  }

  /// The number of steps made, and of steps that Nonfinite::skip_step left out.
  [[nodiscard]] std::int64_t count() const { return steps_; }
  [[nodiscard]] std::int64_t skipped() const { return skipped_; }

  /// How the weights are kept.
  [[nodiscard]] Accumulate accumulate() const { return detail::accumulate_of(options_); }

  /// Resets the moments: they are 0 and bias corrections restart, as after construction.
  /// Learning rate, count() and the kept digits of weights stay, and schedules go on. SwitchEma
  /// shows a use. On a device it throws std::logic_error while it is not known whether the last
  /// step was skipped; call cuda::settle() first.
  void reset_moments() {
    if (slots_.space() != nullptr) slots_.space()->require_settled(slots_.block().get());
    detail::clear_bytes(slots_.space(), slots_.block()->data(), slots_.block()->bytes());
    for (std::size_t k = 0; k < tensor_steps_.size(); ++k) derived().restart_corrections(k);
  }

  /// Reads one state slot in place. Throws std::invalid_argument for an unknown name.
  [[nodiscard]] SlotView<S> slot(std::string_view name) const {
    return {slots_, slots_.find(name)};
  }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report = slots_.memory_report();
    if (rests_) {
      const MemoryReport more = rests_->memory_report();
      report.slots.push_back(more.slots.front());
      report.total += more.total;
    }
    return report;
  }

  // Called by step().
  [[nodiscard]] const Slots<S>& slots() const { return slots_; }
  [[nodiscard]] Nonfinite nonfinite() const { return options_.nonfinite; }
  [[nodiscard]] bool resting() const { return laws_.empty(); }
  [[nodiscard]] double largest_gradient() const {
    if constexpr (requires { Rule::template largest_gradient<S>(options_); }) {
      return Rule::template largest_gradient<S>(options_);
    } else {
      return MethodHooks<P>::largest_gradient();
    }
  }
  void advance(const Parameters<P>&, const element_t<P>* const* gradients) {
    count_step(gradients);
    make_laws(gradients);
  }
  void skip() { ++skipped_; }
  // An optimizer whose rule has a Step of its own overrides the next two; an optimizer with clocks
  // of its own for each tensor overrides all five.
  /// The step of a tensor that is passed to the rule.
  [[nodiscard]] StepOf<S> step_of(std::size_t tensor) const {
    const double factor = group_of(tensor).learning_rate_factor;
    return {tensor_steps_[tensor], learning_rate_ * factor, factor, is_coupled(options_)};
  }
  /// Whether two tensors are at the same step, so that their laws are equal.
  [[nodiscard]] bool same_step(std::size_t a, std::size_t b) const {
    return tensor_steps_[a] == tensor_steps_[b];
  }
  /// Restarts the clocks of a tensor, as if it were new.
  void forget_steps(std::size_t tensor) { tensor_steps_[tensor] = 0; }
  /// Restarts the bias corrections of a tensor, and no schedule.
  void restart_corrections(std::size_t tensor) { tensor_steps_[tensor] = 0; }
  /// Takes the clocks to another list. Throws before it changes any.
  void carry_clocks(const detail::ListChange& change) {
    tensor_steps_ = change.carried(tensor_steps_);
  }
  [[nodiscard]] Bound bind() const { return alternative(laws_.front()); }
  /// Refuses 16-bit weights that are too large to be moved by the first step.
  void require_moving_weights(const Parameters<P>& params) const {
    if (steps_ != 0 || accumulate() != Accumulate::automatic) return;
    if constexpr (requires(const Options& o) { o.accumulate; }) {
      if (slots_.space() != nullptr) return;  // the constructor looked
      require_moving(params);
    }
  }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit);

 protected:
  Elementwise(const Parameters<P>& params, const Options& options, const Selection& selection);

  void follow(const detail::ListChange& change);

  void count_step(const element_t<P>* const* gradients) {
    ++steps_;
    for (std::size_t k = 0; k < tensor_steps_.size(); ++k) {
      if (gradients[k] != nullptr && slots_.keeps(k)) ++tensor_steps_[k];
    }
  }
  /// One law for all tensors of a group at the same step.
  void make_laws(const element_t<P>* const* gradients) {
    if (decays_ != decays_of_groups_) take_decays();
    laws_.clear();
    lawful_.clear();
    for (std::size_t k = 0; k < which_.size(); ++k) {
      if (gradients[k] == nullptr || !slots_.keeps(k)) continue;
      std::size_t place = laws_.size();
      while (place > 0 && (groups_.number_of(lawful_[place - 1]) != groups_.number_of(k) ||
                           !derived().same_step(lawful_[place - 1], k))) {
        --place;
      }
      if (place == 0) {
        laws_.push_back(Rule::template law<S>(group_options_[groups_.number_of(k)],
                                              static_cast<const Step&>(derived().step_of(k))));
        lawful_.push_back(k);
        place = laws_.size();
      }
      which_[k] = static_cast<std::uint32_t>(place - 1);
    }
  }

  /// Calls use(bound) with a law that reads the weights with all their digits.
  template <class Law, class Use>
  void with_reading(const Law& law, Use use) const {
    if constexpr (may_keep_digits) {
      if (keeps_digits()) return use(bind_keeping(law, true));
    }
    use(detail::bind_law(law, slots_));
  }
  /// How the weights of a tensor are kept, for a law that is bound to one element.
  [[nodiscard]] detail::WeightKey<element_t<P>> weight_key() const {
    return {.how = static_cast<std::uint64_t>(accumulate()),
            .rests = rests_ ? rests_->first(0) : nullptr,
            .random = {detail::seed_of(options_), static_cast<std::uint64_t>(steps_), 0}};
  }

  /// Steps of one tensor, the current one included.
  [[nodiscard]] std::int64_t tensor_steps(std::size_t tensor) const {
    return tensor_steps_[tensor];
  }

 private:
  [[nodiscard]] Derived& derived() { return static_cast<Derived&>(*this); }
  [[nodiscard]] const Derived& derived() const { return static_cast<const Derived&>(*this); }

  static const Options& validated(const Options& options) {
    validate(options);
    static_cast<void>(detail::checked(options.nonfinite));
    detail::check_weights(detail::accumulate_of(options), detail::dtype_of<P>(),
                          detail::dtype_of<S>(), Rule::name);
    if constexpr (requires { Rule::template check<S>(options); }) Rule::template check<S>(options);
    return options;
  }

  template <class B>
  [[nodiscard]] B with_table(B bound, const typename B::Law& law) const {
    if (laws_.size() > 1) {
      bound.table = &law;
      bound.stride = sizeof(Laws);
      bound.which = which_.data();
    }
    return bound;
  }
  template <class Law>
  [[nodiscard]] Bound alternative(const Law& law) const {
    if constexpr (may_keep_digits) {
      if (keeps_digits()) {
        return detail::variant_of<Bound>([&] { return with_table(bind_keeping(law, false), law); });
      }
    }
    if constexpr (std::same_as<Bound, detail::BoundLaw<Law, S>>) {
      return with_table(detail::bind_law(law, slots_), law);
    } else {
      return detail::variant_of<Bound>(
          [&] { return with_table(detail::bind_law(law, slots_), law); });
    }
  }
  template <class... Law>
  [[nodiscard]] Bound alternative(const std::variant<Law...>& law) const {
    return std::visit([&](const auto& one) { return alternative(one); }, law);
  }

  [[nodiscard]] bool keeps_digits() const {
    return accumulate() != Accumulate::automatic && accumulate() != Accumulate::plain;
  }
  /// Binds a law to the slots and to the kept digits. A law that `reads` leaves these alone.
  template <class Law>
  [[nodiscard]] auto bind_keeping(const Law& law, bool reads) const {
    using E = element_t<P>;
    detail::WeightKey<E> key = weight_key();
    key.reads = reads ? 1 : 0;
    return detail::bind_law<detail::Keeping<E>::template Slots>(law, slots_, key);
  }
  [[nodiscard]] std::optional<detail::WeightRests> rests_for(const Slots<S>& slots) const {
    if constexpr (!may_keep_digits) return std::nullopt;
    return detail::rests_for(accumulate(), detail::dtype_of<P>(), slots);
  }
  void require_moving(const Parameters<P>& params) const {
    detail::require_moving(ParameterAccess<P>::list(params), slots_, groups_,
                           std::fmax(options_.learning_rate, learning_rate_), Rule::name);
  }

  [[nodiscard]] static std::vector<SlotSpec> specs_of(const Options& options) {
    std::vector<SlotSpec> all = detail::slots_of(Rule::template law<S>(options, Step{}));
    if constexpr (requires { Rule::more_slots(options); }) {
      for (SlotSpec& slot : Rule::more_slots(options)) all.push_back(std::move(slot));
    }
    return all;
  }
  /// Allocates memory for the tensors that are trained.
  [[nodiscard]] Slots<S> slots_for(const std::shared_ptr<const Layout>& layout,
                                   const detail::TensorGroups& groups) const {
    return Slots<S>(layout, detail::dtype_of<P>(), Kept::trained, specs_of(options_),
                    [&](std::size_t tensor) { return groups.trains(tensor); });
  }
  [[nodiscard]] static bool is_coupled(const Options& options) {
    if constexpr (requires { options.coupled_weight_decay; }) {
      return options.coupled_weight_decay != 0;
    } else {
      return false;
    }
  }
  /// Refuses groups whose laws are of several types: one table holds the laws of all tensors.
  void require_one_alternative(const std::vector<Options>& options) const {
    const bool coupled = is_coupled(options_);
    const std::size_t usual = alternative_of(options_, coupled);
    for (const Options& one : options) {
      require(alternative_of(one, coupled) == usual,
              std::string(Rule::name) + ": all groups must have one law; that of a group",
              alternative_of(one, coupled));
    }
  }
  /// The place of the law's type among the rule's alternatives.
  [[nodiscard]] static std::size_t alternative_of(const Options& options, bool coupled) {
    if constexpr (requires(const Laws& laws) { laws.index(); }) {
      Step step{};
      step.coupled = coupled;
      return Rule::template law<S>(options, std::as_const(step)).index();
    } else {
      static_cast<void>(options), static_cast<void>(coupled);
      return 0;
    }
  }
  /// The options of each group.
  [[nodiscard]] static std::vector<Options> options_of(const detail::TensorGroups& groups,
                                                       const Options& options,
                                                       const detail::WeightDecays& decays) {
    std::vector<Options> all;
    for (const GroupOptions& group : groups.all()) {
      detail::set_decays(all.emplace_back(options), decays, group.weight_decay_factor);
    }
    return all;
  }
  /// Passes the decays of this step on to the groups.
  void take_decays() {
    for (std::size_t k = 0; k < group_options_.size(); ++k) {
      detail::set_decays(group_options_[k], decays_, groups_.all()[k].weight_decay_factor);
    }
    decays_of_groups_ = decays_;
  }

  Options options_;
  detail::TensorGroups groups_;
  Slots<S> slots_;
  std::optional<detail::WeightRests> rests_;  // of master and kahan
  std::vector<std::int64_t> tensor_steps_;
  std::vector<Options> group_options_;  // of each group
  std::vector<Laws> laws_;              // of this step
  std::vector<std::size_t> lawful_;     // a tensor that each law is for
  std::vector<std::uint32_t> which_;    // the law of each tensor
  double learning_rate_;
  detail::WeightDecays decays_;            // of the next step
  detail::WeightDecays decays_of_groups_;  // those in group_options_
  std::int64_t steps_ = 0;
  std::int64_t skipped_ = 0;
};

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
Elementwise<Derived, Rule, P, S>::Elementwise(const Parameters<P>& params, const Options& options,
                                              const Selection& selection)
    : options_(validated(options)),
      groups_(*params.layout(), detail::dtype_of<P>(), selection, Rule::name),
      slots_(slots_for(params.layout(), groups_)),
      rests_(rests_for(slots_)),
      tensor_steps_(params.size(), 0),
      which_(params.size(), 0),
      learning_rate_(options.learning_rate),
      decays_(detail::decays_of(options)),
      decays_of_groups_(decays_) {
  static_assert(std::is_final_v<Derived>,
                "polyak: an optimizer must be a final class: of a class derived from it, at() and "
                "step() would run the optimizer's rule and not that of the derived class. Derive "
                "from Elementwise with a rule of your own");
  laws_.reserve(params.size());
  lawful_.reserve(params.size());
  group_options_ = options_of(groups_, options_, decays_);
  if constexpr (detail::scalar_bytes<element_t<P>> == 2 && requires { options.accumulate; }) {
    // On a device the first step cannot look: it may be part of a graph.
    if (slots_.space() != nullptr && accumulate() == Accumulate::automatic) require_moving(params);
  }
}

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
Derived& Elementwise<Derived, Rule, P, S>::at(const ScheduledNumbers& scheduled) {
  Options now = options_;
  detail::WeightDecays decays = decays_;
  if (scheduled.learning_rate) now.learning_rate = *scheduled.learning_rate;
  if (scheduled.weight_decay) {
    if (!detail::has_decoupled_decay<Options>) detail::refuse_decay(Rule::name, "weight_decay");
    decays.decoupled = *scheduled.weight_decay;
  }
  if (scheduled.coupled_weight_decay) {
    if (!is_coupled(options_)) detail::refuse_decay(Rule::name, "coupled_weight_decay");
    decays.coupled = *scheduled.coupled_weight_decay;
  }
  detail::set_decays(now, decays);
  validate(now);
  if (alternative_of(now, is_coupled(options_)) != alternative_of(options_, is_coupled(options_))) {
    detail::refuse_other_variant(Rule::name, "at");
  }
  if (scheduled.learning_rate) learning_rate_ = now.learning_rate;
  decays_ = decays;
  return derived();
}

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
Derived& Elementwise<Derived, Rule, P, S>::with(const Options& options) {
  validated(options);
  if (detail::accumulate_of(options) != accumulate()) {
    detail::refuse_argument(std::string(Rule::name) + ": with() must leave accumulate at " +
                                std::string(name_of(accumulate())) + "; it",
                            name_of(detail::accumulate_of(options)));
  }
  detail::require_same_slots(Rule::name, specs_of(options), specs_of(options_));
  if (alternative_of(options, is_coupled(options)) !=
      alternative_of(options_, is_coupled(options_))) {
    detail::refuse_other_variant(Rule::name, "with");
  }
  const detail::WeightDecays before = detail::decays_of(options_), now = detail::decays_of(options);
  detail::WeightDecays decays = decays_;
  if (now.decoupled != before.decoupled) decays.decoupled = now.decoupled;
  if (now.coupled != before.coupled) decays.coupled = now.coupled;
  group_options_ = options_of(groups_, options, decays);
  decays_ = decays_of_groups_ = decays;
  if (options.learning_rate != options_.learning_rate) learning_rate_ = options.learning_rate;
  options_ = options;
  return derived();
}

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
void Elementwise<Derived, Rule, P, S>::follow(const detail::ListChange& change) {
  detail::TensorGroups groups =
      groups_.of_list(*change.layout(), detail::dtype_of<P>(), Rule::name);
  Slots<S> slots = slots_for(change.layout(), groups);
  change.carry(slots_, slots);
  std::optional<detail::WeightRests> rests = rests_for(slots);
  if (rests) change.carry(*rests_, *rests);
  std::vector<std::uint32_t> which(change.size(), 0);
  laws_.reserve(change.size());
  lawful_.reserve(change.size());
  derived().carry_clocks(change);
  which_ = std::move(which);
  slots_ = std::move(slots);
  rests_ = std::move(rests);
  groups_ = std::move(groups);
}

template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
template <class Self>
void Elementwise<Derived, Rule, P, S>::list_state(Self& self, StateVisitorOf<Self>& visit) {
  auto& own = detail::as_base<Elementwise>(self);
  visit.options(own.options_);
  own.groups_.list(*own.slots_.layout(), visit);
  visit.scalar("learning_rate", own.learning_rate_, finite_not_negative_range);
  if constexpr (detail::has_decoupled_decay<Options>) {
    visit.newer_scalar("weight_decay", own.decays_.decoupled, own.options_.weight_decay,
                       finite_not_negative_range);
  }
  if constexpr (detail::has_coupled_decay<Options>) {
    visit.newer_scalar("coupled_weight_decay", own.decays_.coupled,
                       own.options_.coupled_weight_decay, finite_not_negative_range);
  }
  visit.scalar("steps", own.steps_, count_range);
  visit.scalar("skipped", own.skipped_, count_range);
  visit.counters_in("tensor_steps", own.tensor_steps_, count_range);
  if (own.rests_) visit.slots(*own.rests_);
  visit.slots(own.slots_);
}

}  // namespace POLYAK_V0
}  // namespace polyak
