// SPDX-License-Identifier: Apache-2.0
/// @file
/// step() and update(): one call, one pass over memory, any number of methods.
///
/// Above 300 lines: the order in which methods are checked, bound, run and skipped is read as a
/// whole.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#if !defined(__CUDACC__)
#include <polyak/core/sweep.hpp>
#endif

namespace polyak {
inline namespace v0 {

namespace detail {

/// Lists of the host need an executor that calls back with ranges, lists of a device one that
/// launches there.
template <class E, class P>
concept ExecutorOf = (Executor<E> && !on_device<P>) ||
                     (on_device<P> && requires(E & executor) { executor.space(); });

template <class M, class P>
concept MethodOf = Method<M> && std::same_as<typename M::Parameter, P>;

template <class M, class P>
void check_method(const M& method, const Parameters<P>& params) {
  require_same(params.layout(), method.slots().layout(), "the parameters and those of the method");
  if (method.slots().lent()) {
    refuse_order("polyak: step or update of a method whose average is swapped in");
  }
}

template <class... M>
void check_distinct(const M&... methods) {
  const std::array<const void*, sizeof...(M)> addresses{static_cast<const void*>(&methods)...};
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (addresses[i] == addresses[j]) {
        refuse_value("polyak: the same method is given twice to one step or update");
      }
    }
  }
}

/// Refuses optimizers that own a tensor both.
inline void check_owners(const Layout& layout, std::span<const std::size_t* const> offsets) {
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    int owners = 0;
    for (const std::size_t* const slots : offsets) owners += slots[k] != Slots<float>::absent;
    if (owners > 1) {
      refuse_value("polyak: two optimizers of this step own tensor \"" + layout.tensors[k].name +
                   "\"; give them selections that have no tensor in common");
    }
  }
}

/// The functions of a method that the driver calls, without its type.
template <class P>
struct MethodTable {
  using Gradient = const element_t<P>* const*;
  bool trains;
  bool writes_weights;  ///< optimizers do
  Nonfinite (*nonfinite)(const void*);
  bool (*reads_weights)(const void*);
  const std::size_t* (*offsets)(const void*);  ///< of the tensors in the method's slots
  void (*prepare)(void*, const ExecutorRef&, const Parameters<P>&, Gradient);
  void (*advance)(void*, const Parameters<P>&, Gradient);
  void (*finish)(void*, const ExecutorRef&, const Parameters<P>&);
  void (*skip)(void*);
  typename Sweep<P>::Hooks hooks;  ///< of the memory that the list lies in

  template <class M>
  static constexpr MethodTable of() {
    return {M::trains,
            M::trains || M::writes_weights,
            [](const void* m) { return static_cast<const M*>(m)->nonfinite(); },
            [](const void* m) { return static_cast<const M*>(m)->reads_weights(); },
            [](const void* m) { return static_cast<const M*>(m)->slots().offsets(); },
            [](void* m, const ExecutorRef& executor, const Parameters<P>& params, Gradient g) {
              static_cast<M*>(m)->prepare(executor, params, g);
            },
            [](void* m, const Parameters<P>& params, Gradient g) {
              static_cast<M*>(m)->advance(params, g);
            },
            [](void* m, const ExecutorRef& executor, const Parameters<P>& params) {
              static_cast<M*>(m)->finish(executor, params);
            },
            [](void* m) { static_cast<M*>(m)->skip(); },
            Sweep<P>::Hooks::template of<M>()};
  }
};
template <class P, class M>
inline constexpr MethodTable<P> method_table = MethodTable<P>::template of<M>();

/// A method of a step.
template <class P>
struct StepMethod {
  void* object;
  const MethodTable<P>* table;

  [[nodiscard]] Nonfinite nonfinite() const { return table->nonfinite(object); }
  [[nodiscard]] bool checks() const { return nonfinite() != Nonfinite::propagate; }
};

/// Room for a bound law, which is made in it and not copied; see variant_of().
template <class T>
class Place {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  template <class Make>
  const T& hold(const Make& make) {
    return *new (memory_) T(make());
  }
  [[nodiscard]] const T& operator*() const {
    return *std::launder(reinterpret_cast<const T*>(memory_));
  }

 private:
  alignas(T) std::byte memory_[sizeof(T)];
};

/// The bound laws of a step's methods, and the plan that sweeps them. Loops are shared by one
/// optimizer and all averages, or by all averages.
template <class P, class... M>
class StepLaws {
 public:
  using Plan = typename Sweep<P>::Plan;
  explicit StepLaws(const M&... methods) : methods_{{{&methods}...}} {}

  /// Binds the laws of the methods in `chosen`, as the clocks stand now.
  const Plan& bind(std::uint64_t chosen) {
    bind(chosen, std::index_sequence_for<M...>{});
    return plan_;
  }

 private:
  static constexpr std::size_t count = sizeof...(M);
  static constexpr std::size_t optimizers = (std::size_t{0} + ... + (M::trains ? 1 : 0));
  static constexpr std::array<bool, count> trains{M::trains...};
  /// Shared loops are numbered by their optimizer.
  static constexpr std::size_t shared_count = count == optimizers ? 0
                                              : optimizers > 0    ? optimizers
                                              : count > 1         ? 1
                                                                  : 0;

  template <class One>
  using Bound = decltype(std::declval<const One&>().bind());
  template <class One>
  using Variants = VariantsOf<Bound<One>>;
  using AllBound = Members<Place<Bound<M>>...>;

  /// The methods of a shared loop, in order: all averages and optimizer number S.
  template <std::size_t S>
  struct Shared {
    static constexpr std::size_t size = count - optimizers + (optimizers > 0 ? 1 : 0);
    static constexpr std::array<std::size_t, size> members = [] {
      std::array<std::size_t, size> list{};
      std::size_t place = 0, optimizer = 0;
      for (std::size_t i = 0; i < count; ++i) {
        if (trains[i] && optimizer++ != S) continue;
        list[place++] = i;
      }
      return list;
    }();
    template <std::size_t... J>
    static auto pointers(const AllBound& bound, std::index_sequence<J...>) {
      return pointers_to(
          VariantsOf<std::remove_cvref_t<decltype(*member<members[J]>(bound))>>::usual(
              *member<members[J]>(bound))...);
    }
    template <class... B>
    static Members<const B*...> pointers_to(const B&... bound) {
      return {{{&bound}...}};
    }
    using Pointers =
        decltype(pointers(std::declval<const AllBound&>(), std::make_index_sequence<size>{}));
  };
  template <class Numbers>
  struct AllShared;
  template <std::size_t... S>
  struct AllShared<std::index_sequence<S...>> {
    using type = Members<typename Shared<S>::Pointers...>;
  };

  template <std::size_t... I>
  void bind(std::uint64_t chosen, std::index_sequence<I...>) {
    (bind_one<I>(chosen), ...);
    bind_shared(std::make_index_sequence<shared_count>{});
    plan_ = Plan{singles_.data(), count, shared_.data(), shared_count};
  }

  template <std::size_t I>
  void bind_one(std::uint64_t chosen) {
    const auto& method = *member<I>(methods_);
    using One = std::remove_cvref_t<decltype(method)>;
    auto& single = singles_[I];
    single.takes_part = (chosen >> I & 1) != 0 && !method.resting();
    single.needs_gradient = One::trains;
    single.offsets = method.slots().offsets();
    usual_[I] = false;
    if (!single.takes_part) return;
    const auto& bound = member<I>(bound_).hold([&] { return method.bind(); });
    usual_[I] = Variants<One>::index(bound) == 0;
    Variants<One>::visit(
        bound, [&]<std::size_t K>(std::integral_constant<std::size_t, K>, const auto& law) {
          single.loop = Sweep<P>::template loop<K == 0>(law);
        });
  }

  template <std::size_t... S>
  void bind_shared(std::index_sequence<S...>) {
    (bind_shared<S>(), ...);
  }
  template <std::size_t S>
  void bind_shared() {
    auto& shared = shared_[S];
    shared.methods = 0;
    shared.usable = true;
    for (const std::size_t i : Shared<S>::members) {
      shared.methods |= std::uint64_t{1} << i;
      shared.usable = shared.usable && usual_[i];
    }
    if (!shared.usable) return;
    member<S>(pointers_) = Shared<S>::pointers(bound_, std::make_index_sequence<Shared<S>::size>{});
    shared.loop = Sweep<P>::shared_loop(member<S>(pointers_));
  }

  Members<const M*...> methods_;
  AllBound bound_;
  std::array<bool, count> usual_{};
  typename AllShared<std::make_index_sequence<shared_count>>::type pointers_;
  std::array<typename Plan::Single, count> singles_{};
  std::array<typename Plan::Shared, shared_count == 0 ? 1 : shared_count> shared_{};
  Plan plan_{};
};

/// One call of step() or update(): who is checked, who waits for whom, and who is skipped. Knows
/// nothing of the methods' types.
template <class P>
class StepDriver {
 public:
  using Plan = typename Sweep<P>::Plan;
  using Chosen = std::uint64_t;  ///< a bit for each method
  /// Binds the laws of the chosen methods.
  struct Binder {
    void* laws;
    const Plan& (*bind)(void* laws, Chosen chosen);
  };

  StepDriver(const ExecutorRef& executor, const Parameters<P>& params,
             const element_t<P>* const* gradients, const GradientReading& reading,
             std::span<const StepMethod<P>> methods, Binder binder)
      : executor_(executor),
        params_(params),
        gradients_(gradients),
        reading_(reading),
        methods_(methods),
        binder_(binder) {}

  /// False where Nonfinite::skip_step skipped a method.
  bool run() {
    const Chosen all = all_of([](const auto&) { return true; });
    if (all_of([](const auto& m) { return m.checks(); }) == 0 && waiting(all) == 0) [[likely]] {
      advance(all);
      return true;
    }
    return run_checked(all);
  }

  /// One step of the chosen methods.
  void advance(Chosen chosen) {
    prepare(chosen);
    advance_prepared(chosen);
  }
  void prepare(Chosen chosen) {
    each(chosen,
         [&](const auto& m) { m.table->prepare(m.object, executor_, params_, gradients_); });
  }
  void advance_prepared(Chosen chosen) {
    each(chosen, [&](const auto& m) { m.table->advance(m.object, params_, gradients_); });
    Sweep<P>::over(executor_, params_, gradients_, reading_, binder_.bind(binder_.laws, chosen));
    each(chosen, [&](const auto& m) { m.table->finish(m.object, executor_, params_); });
  }

  /// The methods that `test` holds for.
  template <class Test>
  [[nodiscard]] Chosen all_of(Test test) const {
    Chosen found = 0;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      found |= Chosen{test(methods_[i])} << i;
    }
    return found;
  }
  [[nodiscard]] Chosen those_that(Nonfinite policy, bool train) const {
    return all_of(
        [&](const auto& m) { return m.table->trains == train && m.nonfinite() == policy; });
  }

  /// The methods, of those given, that must see the weights as methods before them leave them:
  /// averages that check for NaN and follow an optimizer, and methods that read the weights ahead
  /// of the pass and follow anything that writes them. What writes the weights after one of these
  /// waits too, and so does everything that follows it then.
  [[nodiscard]] Chosen waiting(Chosen among) const {
    Chosen found = 0;
    bool trained = false, written = false, written_late = false;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if ((among >> i & 1) == 0) continue;
      const StepMethod<P>& m = methods_[i];
      const bool writes = m.table->writes_weights;
      const bool waits = written_late || (found != 0 && writes) ||
                         (written && m.table->reads_weights(m.object)) ||
                         (trained && !m.table->trains && m.checks());
      found |= Chosen{waits} << i;
      trained = trained || m.table->trains;
      written = written || writes;
      written_late = written_late || (waits && writes);
    }
    return found;
  }

  template <class Use>
  void each(Chosen chosen, Use use) const {
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if ((chosen >> i & 1) != 0) use(methods_[i]);
    }
  }
  void skip(Chosen chosen) const {
    each(chosen, [](const auto& m) { m.table->skip(m.object); });
  }

  /// Which tensors are looked at for NaN and infinity: those that an optimizer of this step trains,
  /// and those of an average that checks its input. The other tensors do not move in this step.
  [[nodiscard]] auto trained() const {
    return [this](std::size_t k) { return kept(k, [](const auto& m) { return m.table->trains; }); };
  }
  [[nodiscard]] auto averaged() const {
    return [this](std::size_t k) {
      return kept(k, [](const auto& m) { return !m.table->trains && m.checks(); });
    };
  }

 private:
  template <class Test>
  [[nodiscard]] bool kept(std::size_t tensor, Test test) const {
    for (const StepMethod<P>& m : methods_) {
      if (test(m) && m.table->offsets(m.object)[tensor] != Slots<float>::absent) return true;
    }
    return false;
  }

  POLYAK_COLD bool run_checked(Chosen all) {
    const Chosen training = all_of([](const auto& m) { return m.table->trains; });
    const Chosen errors = those_that(Nonfinite::error, true) | those_that(Nonfinite::error, false);
    const Chosen skips = those_that(Nonfinite::skip_step, true);
    if (training != 0 && (errors | skips) != 0 &&
        !Sweep<P>::gradients_finite(params_, gradients_, trained())) {
      if (errors != 0) {
        refuse_nonfinite("polyak: a gradient holds a NaN or an infinity; nothing was changed");
      }
      skip(skips | those_that(Nonfinite::skip_step, false));
      return false;
    }
    const Chosen checked = all_of([](const auto& m) { return !m.table->trains && m.checks(); });
    const Chosen refusing = those_that(Nonfinite::error, false);
    Chosen later = waiting(all), now = all & ~later, skipped = 0;
    if (checked != 0 && !Sweep<P>::weights_finite(params_, averaged())) {
      if (refusing != 0) {
        refuse_nonfinite("polyak: a weight holds a NaN or an infinity; nothing was changed");
      }
      skipped = checked & now;
    }
    // A method may refuse the step in prepare(). All are asked before anything changes, but for
    // those that must see the weights as the others leave them.
    const Chosen reading =
        later & all_of([](const auto& m) { return m.table->reads_weights(m.object); });
    prepare(all & ~reading & ~skipped);
    skip(skipped);
    advance_prepared(now & ~skipped);
    bool complete = skipped == 0;
    while (later != 0) {
      const Chosen rest = waiting(later);
      now = later & ~rest;
      later = rest;
      skipped = 0;
      if ((checked & now) != 0 && !Sweep<P>::weights_finite(params_, averaged())) {
        if ((refusing & now) != 0) {
          refuse_nonfinite(
              "polyak: the optimizer's update made a weight NaN or infinite; the update stands, "
              "the averages that check for it were not updated");
        }
        skipped = checked & now;
      }
      prepare(reading & now & ~skipped);
      skip(skipped);
      advance_prepared(now & ~skipped);
      complete = complete && skipped == 0;
    }
    return complete;
  }

 protected:
  const ExecutorRef& executor_;
  const Parameters<P>& params_;
  const element_t<P>* const* gradients_;
  GradientReading reading_;
  std::span<const StepMethod<P>> methods_;
  Binder binder_;
};

/// The bind() of a step's laws, without their types.
template <class P, class... M>
[[nodiscard]] typename StepDriver<P>::Binder binder_of(StepLaws<P, M...>& laws) {
  return {&laws, [](void* object, std::uint64_t chosen) -> const typename Sweep<P>::Plan& {
            return static_cast<StepLaws<P, M...>*>(object)->bind(chosen);
          }};
}

template <class P>
[[nodiscard]] GradientReading reading_of(const Gradients<P>* gradients) {
  return gradients == nullptr ? GradientReading{} : GradientAccess<P>::reading(*gradients);
}

/// Refuses a step that cannot be made, before anything changes.
template <class P>
void check_lists(const Parameters<P>& params, const Gradients<P>* gradients) {
  if (params.swapped()) {
    refuse_order("polyak: step or update while an average is swapped in; end its guard first");
  }
  if (gradients != nullptr) {
    require_same(gradients->layout(), params.layout(),
                 "the gradients' parameters and the parameters");
  }
}

template <class E, class P, class... M>
bool call(E& executor, const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  static_assert(sizeof...(M) <= Sweep<P>::Plan::most_methods);
  check_lists(params, gradients);
  Sweep<P>::check(executor, params);
  if constexpr (sizeof...(M) > 1) check_distinct(methods...);
  (check_method(methods, params), ...);
  if constexpr ((std::size_t{0} + ... + (M::trains ? 1 : 0)) > 1) {
    std::array<const std::size_t*, sizeof...(M)> offsets{};
    std::size_t optimizers = 0;
    ((M::trains ? static_cast<void>(offsets[optimizers++] = methods.slots().offsets())
                : static_cast<void>(0)),
     ...);
    check_owners(*params.layout(), std::span(offsets.data(), optimizers));
  }
  StepLaws<P, M...> laws(methods...);
  const std::array<StepMethod<P>, sizeof...(M)> list{
      StepMethod<P>{&methods, &method_table<P, M>}...};
  const ExecutorRef any(executor);
  using Driver = typename Sweep<P>::template Driver<StepDriver<P>>;
  return Driver(any, params, gradients == nullptr ? nullptr : gradients->data(),
                reading_of(gradients), list, binder_of(laws))
      .run();
}

}  // namespace detail

/// One training step: every method in the order given, each tensor read and written once.
///
/// The same, to the last bit, as `optimizer.step(params, grads)` followed by
/// `average.update(params)` for each average; a method that rests in most steps is best named last,
/// for the methods before it stay fused. Returns false where Nonfinite::skip_step skipped a method.
/// Throws std::logic_error while an average is swapped in, std::invalid_argument where the
/// parameters, gradients and methods disagree, nonfinite_error as Nonfinite says; nothing has
/// changed then.
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(sizeof...(M) > 0) bool step(const Parameters<P>& params, const Gradients<P>& gradients,
                                     M&... methods) {
  return detail::call(serial, params, &gradients, methods...);
}

/// As above, on the executor given.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> &&
         sizeof...(M) > 0) bool step(E&& executor, const Parameters<P>& params,
                                     const Gradients<P>& gradients, M&... methods) {
  return detail::call(executor, params, &gradients, methods...);
}

/// Updates averages with the parameters as they are now, in one pass. Otherwise as step().
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(AveragingMethod<M>&&...) &&
    (sizeof...(M) > 0) bool update(const Parameters<P>& params, M&... averages) {
  return detail::call(serial, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

/// As above, on the executor given.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> && (AveragingMethod<M> && ...) &&
         sizeof...(M) > 0) bool update(E&& executor, const Parameters<P>& params, M&... averages) {
  return detail::call(executor, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

}  // namespace v0
}  // namespace polyak
