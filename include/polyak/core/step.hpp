// SPDX-License-Identifier: Apache-2.0
/// @file
/// step() and update(): one call, one pass over memory, any number of methods.
///
/// Above 300 lines: methods are checked, bound, run and skipped in one order, which is read as a
/// whole.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/finite.hpp>
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
inline namespace POLYAK_V0 {

namespace detail {

/// Lists in the host's memory need an executor that calls back with ranges. Lists on a device need
/// one that launches kernels there.
template <class E, class P>
concept ExecutorOf = (Executor<E> && !on_device<P>) ||
                     (on_device<P> && requires(E & executor) { executor.space(); });

template <class M, class P>
concept MethodOf = Method<M> && std::same_as<typename M::Parameter, P>;

/// Refuses a method that cannot take part in a step or update of `params`.
template <class M, class P>
void check_method(const M& method, const Parameters<P>& params) {
  if (params.layout() != method.slots().layout()) [[unlikely]] {
    require_same(params.layout(), method.slots().layout(),
                 "the parameters and those of the method");
  }
  if (method.slots().lent()) [[unlikely]] {
    refuse_order("polyak: step or update of a method whose average is swapped in");
  }
}

/// Bytes of stack that the bound laws of one method may take in a step.
inline constexpr std::size_t most_bound_bytes = 1024;

/// Facts about a method that do not change during a step.
struct MethodFacts {
  const std::shared_ptr<const Layout>* layout;
  const std::size_t* offsets;  ///< of the tensors in the method's slots
  bool lent;                   ///< its average is swapped in
  bool reads_weights;
  Nonfinite nonfinite;
  double largest_gradient;
};

/// Whether M has a hook of its own instead of the one of MethodHooks, which does nothing.
template <class P, class M>
inline constexpr bool prepares = !requires {
  requires std::same_as<decltype(&M::prepare), decltype(&MethodHooks<P>::prepare)>;
};
template <class P, class M>
inline constexpr bool finishes = !requires {
  requires std::same_as<decltype(&M::finish), decltype(&MethodHooks<P>::finish)>;
};

/// The functions of a method that the driver calls. The driver does not know the method's type.
template <class P>
struct MethodTable {
  using Pointers = const element_t<P>* const*;
  using Single = typename Sweep<P>::Plan::Single;
  bool trains;
  bool writes_weights;  ///< optimizers do
  void (*facts)(const void*, MethodFacts&);
  void (*prepare)(void*, const ExecutorRef&, const Parameters<P>&,
                  const Gradients<P>*);  ///< may be null
  /// Advances the method's clock and, unless the method rests, binds its law in `memory`. Returns
  /// whether the law is the usual one, which can share a loop with others.
  bool (*start)(void*, const Parameters<P>&, Pointers, void* memory, Single&);
  void (*finish)(void*, const ExecutorRef&, const Parameters<P>&);  ///< may be null
  void (*skip)(void*);
  typename Sweep<P>::Hooks hooks;  ///< of the memory that the list lies in

  template <class M>
  static constexpr MethodTable of() {
    MethodTable table{M::trains,
                      M::trains || M::writes_weights,
                      facts_of<M>,
                      nullptr,
                      start_of<M>,
                      nullptr,
                      [](void* m) { static_cast<M*>(m)->skip(); },
                      Sweep<P>::Hooks::template of<M>()};
    if constexpr (prepares<P, M>) {
      table.prepare = [](void* m, const ExecutorRef& executor, const Parameters<P>& params,
                         const Gradients<P>* g) {
        static_cast<M*>(m)->prepare(executor, params, g);
      };
    }
    if constexpr (finishes<P, M>) {
      table.finish = [](void* m, const ExecutorRef& executor, const Parameters<P>& params) {
        static_cast<M*>(m)->finish(executor, params);
      };
    }
    return table;
  }

 private:
  template <class M>
  static void facts_of(const void* object, MethodFacts& facts) {
    const M& method = *static_cast<const M*>(object);
    const auto& slots = method.slots();
    facts = {&slots.layout(),        slots.offsets(),    slots.lent(),
             method.reads_weights(), method.nonfinite(), method.largest_gradient()};
  }
  template <class M>
  static bool start_of(void* object, const Parameters<P>& params, Pointers gradients, void* memory,
                       Single& single) {
    M& method = *static_cast<M*>(object);
    method.advance(params, gradients);
    single.takes_part = !method.resting();
    if (!single.takes_part) return false;
    using Bound = decltype(std::as_const(method).bind());
    static_assert(sizeof(Bound) <= most_bound_bytes && alignof(Bound) <= cache_line,
                  "polyak: the bound laws of a method take more than 1024 bytes");
    static_assert(std::is_trivially_destructible_v<Bound>);
    const Bound& bound = *new (memory) Bound(std::as_const(method).bind());  // constructed in place
    VariantsOf<Bound>::visit(
        bound, [&]<std::size_t K>(std::integral_constant<std::size_t, K>, const auto& law) {
          single.loop = Sweep<P>::template loop<K == 0>(law);
        });
    return VariantsOf<Bound>::index(bound) == 0;
  }
};
/// The table of a method. Not constexpr, so that a program can link the compiled library's.
template <class P, class M>
struct TableOf {
  static const MethodTable<P> table;
};
template <class P, class M>
const MethodTable<P> TableOf<P, M>::table = MethodTable<P>::template of<M>();

/// A method of a step.
template <class P>
struct StepMethod {
  void* object;
  const MethodTable<P>* table;
  MethodFacts facts;

  [[nodiscard]] bool checks() const { return facts.nonfinite != Nonfinite::propagate; }
};

/// The methods of a step and the memory of their laws, without the types of either.
template <class P>
struct StepParts {
  using Plan = typename Sweep<P>::Plan;
  std::span<StepMethod<P>> methods;
  typename Plan::Single* singles;           ///< of each method
  std::span<typename Plan::Shared> shared;  ///< loops
  const void** usual;                       ///< the laws of the shared loops, one row per loop
  std::byte (*bound)[most_bound_bytes];     ///< the laws of each method
};

/// The loops that the usual laws of several methods share. There is one for each optimizer, with
/// all averages, or one for all averages if there is no optimizer.
template <class P, class... M>
class SharedLoops {
  using Shared = typename Sweep<P>::Plan::Shared;
  static constexpr std::size_t count = sizeof...(M);
  static constexpr std::size_t optimizers = (std::size_t{0} + ... + (M::trains ? 1 : 0));
  static constexpr std::array<bool, count> trains{M::trains...};

  /// Methods in order: all averages and optimizer number S.
  template <std::size_t S>
  static constexpr std::size_t size = count - optimizers + (optimizers > 0 ? 1 : 0);
  template <std::size_t S>
  static constexpr std::array<std::size_t, size<S>> members = [] {
    std::array<std::size_t, size<S>> list{};
    std::size_t place = 0, optimizer = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (trains[i] && optimizer++ != S) continue;
      list[place++] = i;
    }
    return list;
  }();
  template <class One>
  using UsualOf = typename VariantsOf<decltype(std::declval<const One&>().bind())>::Usual;
  template <std::size_t I, class T>
  static std::type_identity<T> type_of(const Member<I, std::type_identity<T>>*);
  template <std::size_t I>
  using Usual = typename decltype(type_of<I>(
      static_cast<Members<std::type_identity<UsualOf<M>>...>*>(nullptr)))::type;

  template <std::size_t S, std::size_t... J>
  static constexpr Shared loop(std::index_sequence<J...>) {
    return {((std::uint64_t{1} << members<S>[J]) | ...), false,
            Sweep<P>::template shared_loop<Usual<members<S>[J]>...>()};
  }
  template <std::size_t... S>
  static constexpr auto loops(std::index_sequence<S...>) {
    return std::array<Shared, sizeof...(S)>{loop<S>(std::make_index_sequence<size<S>>{})...};
  }

 public:
  static constexpr std::size_t loop_count = count == optimizers ? 0
                                            : optimizers > 0    ? optimizers
                                            : count > 1         ? 1
                                                                : 0;
  static constexpr std::array<Shared, loop_count> all =
      loops(std::make_index_sequence<loop_count>{});
};

/// The memory of the laws of a step. Most of it is left as it was.
template <class P, class... M>
class LawMemory {
  using Shared = SharedLoops<P, M...>;
  using Plan = typename Sweep<P>::Plan;
  static constexpr std::size_t count = sizeof...(M);

 public:
  LawMemory() : shared_(Shared::all) {}
  [[nodiscard]] StepParts<P> parts(std::span<StepMethod<P>> methods) {
    return {methods, singles_.data(), shared_, usual_.data(), bound_};
  }

 private:
  std::array<typename Plan::Single, count> singles_;
  std::array<typename Plan::Shared, Shared::loop_count> shared_;
  std::array<const void*, Shared::loop_count * count> usual_;
  alignas(cache_line) std::byte bound_[count][most_bound_bytes];
};

/// The methods of a step and the memory of their laws.
template <class P, class... M>
class StepMemory {
 public:
  explicit StepMemory(M&... methods)
      : methods_{StepMethod<P>{&methods, &TableOf<P, M>::table, {}}...} {}
  [[nodiscard]] StepParts<P> parts() { return laws_.parts(methods_); }

 private:
  std::array<StepMethod<P>, sizeof...(M)> methods_;
  LawMemory<P, M...> laws_;
};

/// Refuses two optimizers that own the same tensor.
template <class P>
void check_owners(const Layout& layout, std::span<const StepMethod<P>> methods) {
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    int owners = 0;
    for (const auto& m : methods) {
      owners += m.table->trains && m.facts.offsets[k] != Slots<float>::absent;
    }
    if (owners > 1) {
      refuse_value("polyak: two optimizers of this step own tensor \"" + layout.tensors[k].name +
                   "\"; give them selections that have no tensor in common");
    }
  }
}

template <class P>
[[nodiscard]] GradientReading reading_of(const Gradients<P>* gradients) {
  return gradients == nullptr ? GradientReading{} : GradientAccess<P>::reading(*gradients);
}

/// Runs the laws of started methods. `usual` has a bit for each that is in its usual variant.
template <class P>
void run_laws(const ExecutorRef& executor, const Parameters<P>& params,
              const element_t<P>* const* gradients, const GradientReading& reading,
              const StepParts<P>& parts, std::size_t count, std::uint64_t usual);

/// One call of step() or update(). It checks the methods, and determines which of them wait for
/// others and which are skipped. It does not know their types.
template <class P>
class StepDriver {
 public:
  using Plan = typename Sweep<P>::Plan;
  using Chosen = std::uint64_t;  ///< a bit for each method

  StepDriver(const ExecutorRef& executor, const Parameters<P>& params,
             const Gradients<P>* gradients, const StepParts<P>& parts)
      : executor_(executor),
        params_(params),
        list_(gradients),
        gradients_(gradients == nullptr ? nullptr : gradients->data()),
        methods_(parts.methods),
        parts_(parts) {}

  /// Checks the methods and makes the step. Returns false if Nonfinite::skip_step skipped a method.
  bool check_and_advance();

  /// Collects the facts of the methods and refuses those that cannot take part, before anything
  /// changes. Call it first.
  void check();
  /// One step of all methods, after check(). Returns false if Nonfinite::skip_step skipped a
  /// method.
  bool advance_all() {
    const Chosen all = everything();
    if (!watches_ || (all_of([](const auto& m) { return m.checks(); }) == 0 && waiting(all) == 0))
        [[likely]] {
      advance(all);
      return true;
    }
    return advance_checked(all);
  }

  /// One step of the chosen methods.
  void advance(Chosen chosen) {
    prepare(chosen);
    advance_prepared(chosen);
  }
  void prepare(Chosen chosen) {
    each(chosen, [&](const auto& m) {
      if (m.table->prepare != nullptr) m.table->prepare(m.object, executor_, params_, list_);
    });
  }
  void advance_prepared(Chosen chosen);

  [[nodiscard]] Chosen everything() const { return ~Chosen{0} >> (64 - methods_.size()); }
  /// The methods for which `test` is true.
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
        [&](const auto& m) { return m.table->trains == train && m.facts.nonfinite == policy; });
  }

  /// Those of the given methods that must wait for another pass, because they need the weights that
  /// earlier methods write: averages that check for NaN after an optimizer, and methods that read
  /// the weights before the pass after a method that writes them. A method that writes the weights
  /// after a waiting one waits too, and so do all methods after it.
  [[nodiscard]] Chosen waiting(Chosen among) const {
    Chosen found = 0;
    bool trained = false, written = false, written_late = false;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if ((among >> i & 1) == 0) continue;
      const StepMethod<P>& m = methods_[i];
      const bool writes = m.table->writes_weights;
      const bool waits = written_late || (found != 0 && writes) ||
                         (written && m.facts.reads_weights) ||
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

  // The tensors that are checked for NaN and infinity. No other tensor moves in this step.
  /// The largest gradient that the optimizers of a tensor allow; 0 if none trains it.
  [[nodiscard]] auto largest_gradients() const {
    return [this](std::size_t k) {
      double largest = 0;
      for (const StepMethod<P>& m : methods_) {
        if (m.table->trains && keeps(m, k)) largest = m.facts.largest_gradient;
      }
      return largest;
    };
  }
  /// The weights that an optimizer which checks has trained.
  [[nodiscard]] auto trained() const {
    return [this](std::size_t k) {
      return any_of([k](const auto& m) { return m.table->trains && m.checks() && keeps(m, k); });
    };
  }
  /// The weights and buffers that an average which checks reads.
  [[nodiscard]] auto averaged() const {
    return [this](std::size_t k) {
      const TensorInfo& tensor = params_.layout()->tensors[k];
      const bool buffer = tensor.role == Role::copy && is_floating(tensor.dtype);
      return any_of(
          [&](const auto& m) { return !m.table->trains && m.checks() && (buffer || keeps(m, k)); });
    };
  }

 private:
  [[nodiscard]] static bool keeps(const StepMethod<P>& method, std::size_t tensor) {
    return method.facts.offsets[tensor] != Slots<float>::absent;
  }
  template <class Test>
  [[nodiscard]] bool any_of(Test test) const {
    return std::any_of(methods_.begin(), methods_.end(), test);
  }

  POLYAK_COLD bool advance_checked(Chosen all) {
    const Chosen training = all_of([](const auto& m) { return m.table->trains; });
    const Chosen errors = those_that(Nonfinite::error, true) | those_that(Nonfinite::error, false);
    const Chosen skips = those_that(Nonfinite::skip_step, true);
    if (training != 0 && (errors | skips) != 0 &&
        !Sweep<P>::gradients_within(params_, gradients_, reading_of(list_), largest_gradients())) {
      if (errors != 0) {
        refuse_nonfinite(
            "polyak: a gradient holds a NaN or an infinity, or a number so large that a moment "
            "could overflow; nothing was changed");
      }
      skip(skips | those_that(Nonfinite::skip_step, false));
      return false;
    }
    const Chosen checked = all_of([](const auto& m) { return !m.table->trains && m.checks(); });
    const Chosen refusing = those_that(Nonfinite::error, false);
    Chosen later = waiting(all), now = all & ~later, skipped = 0;
    if (checked != 0 && !Sweep<P>::weights_finite(params_, averaged())) {
      if (refusing != 0) {
        refuse_nonfinite(
            "polyak: a weight or buffer holds a NaN or an infinity; nothing was changed");
      }
      skipped = checked & now;
    }
    // A method may refuse the step in prepare(). All methods prepare before anything changes,
    // except those that need the weights that others write.
    const Chosen reading = later & all_of([](const auto& m) { return m.facts.reads_weights; });
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
    if (training != 0 && (those_that(Nonfinite::error, true) | skips) != 0 &&
        !Sweep<P>::weights_finite(params_, trained())) {
      if (those_that(Nonfinite::error, true) != 0) {
        refuse_nonfinite(
            "polyak: after the optimizer's update a weight is NaN or infinite; the update stands");
      }
      return false;
    }
    return complete;
  }

 protected:
  const ExecutorRef& executor_;
  const Parameters<P>& params_;
  const Gradients<P>* list_;  ///< the gradients; null in an update
  const element_t<P>* const* gradients_;
  std::span<StepMethod<P>> methods_;
  StepParts<P> parts_;
  bool watches_ = false;  ///< a method checks for NaN or reads the weights ahead of the pass
};

template <class P>
bool StepDriver<P>::check_and_advance() {
  check();
  return advance_all();
}

template <class P>
void StepDriver<P>::check() {
  std::size_t optimizers = 0;
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    StepMethod<P>& method = methods_[i];
    method.table->facts(method.object, method.facts);
    if (params_.layout() != *method.facts.layout) [[unlikely]] {
      require_same(params_.layout(), *method.facts.layout,
                   "the parameters and those of the method");
    }
    if (method.facts.lent) [[unlikely]] {
      refuse_order("polyak: step or update of a method whose average is swapped in");
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (methods_[j].object != method.object) continue;
      refuse_value("polyak: the same method is given twice to one step or update");
    }
    optimizers += method.table->trains ? 1 : 0;
    watches_ = watches_ || method.facts.reads_weights || method.checks();
  }
  if (optimizers > 1) check_owners<P>(*params_.layout(), methods_);
}

template <class P>
void StepDriver<P>::advance_prepared(Chosen chosen) {
  Chosen usual = 0;
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const StepMethod<P>& m = methods_[i];
    auto& single = parts_.singles[i];
    single.takes_part = false;
    if ((chosen >> i & 1) == 0) continue;
    single.needs_gradient = m.table->trains;
    single.offsets = m.facts.offsets;
    if (m.table->start(m.object, params_, gradients_, parts_.bound[i], single)) {
      usual |= Chosen{1} << i;
    }
  }
  run_laws(executor_, params_, gradients_, reading_of(list_), parts_, methods_.size(), usual);
  each(chosen, [&](const auto& m) {
    if (m.table->finish != nullptr) m.table->finish(m.object, executor_, params_);
  });
}

template <class P>
void run_laws(const ExecutorRef& executor, const Parameters<P>& params,
              const element_t<P>* const* gradients, const GradientReading& reading,
              const StepParts<P>& parts, std::size_t count, std::uint64_t usual) {
  const void** laws = parts.usual;
  for (auto& shared : parts.shared) {
    shared.usable = (shared.methods & ~usual) == 0;
    shared.loop.bound = laws;
    if (!shared.usable) continue;
    for (auto rest = shared.methods; rest != 0; rest &= rest - 1) {
      *laws++ = parts.singles[std::countr_zero(rest)].loop.bound;
    }
  }
  Sweep<P>::over(executor, params, gradients, reading,
                 {parts.singles, count, parts.shared.data(), parts.shared.size()});
}

/// Refuses a step whose lists do not fit, before anything changes.
template <class P>
void check_lists(const Parameters<P>& params, const Gradients<P>* gradients) {
  if (params.swapped()) {
    refuse_order("polyak: step or update while an average is swapped in; end its guard first");
  }
  static_cast<void>(ParameterAccess<P>::memory(params));  // looks where objects have it now
  if (gradients != nullptr && gradients->layout() != params.layout()) [[unlikely]] {
    require_same(gradients->layout(), params.layout(),
                 "the gradients' parameters and the parameters");
  }
}

/// The usual step: in the calling thread, of methods that check for no NaN and read no weights
/// ahead. It does what StepDriver does, but knows the methods' types, so that an average of a
/// thousand weights takes three quarters of the time.
template <class P, class... M>
void call_directly(const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  constexpr std::size_t count = sizeof...(M);
  const ExecutorRef executor(serial);
  const auto* const pointers = gradients == nullptr ? nullptr : gradients->data();
  const auto prepare = [&](auto& method) {
    if constexpr (prepares<P, std::remove_cvref_t<decltype(method)>>) {
      method.prepare(executor, params, gradients);
    }
  };
  (prepare(methods), ...);
  LawMemory<P, M...> memory;
  const StepParts<P> parts = memory.parts({});
  std::uint64_t usual = 0;
  std::size_t place = 0;
  const auto start = [&]<class Some>(Some& method) {
    auto& single = parts.singles[place];
    single.needs_gradient = Some::trains;
    single.offsets = method.slots().offsets();
    const bool is_usual =
        TableOf<P, Some>::table.start(&method, params, pointers, parts.bound[place], single);
    usual |= std::uint64_t{is_usual} << place++;
  };
  (start(methods), ...);
  if constexpr (count == 1) {
    Sweep<P>::alone(params, pointers, reading_of(gradients), parts.singles[0]);
  } else {
    run_laws(executor, params, pointers, reading_of(gradients), parts, count, usual);
  }
  const auto finish = [&](auto& method) {
    if constexpr (finishes<P, std::remove_cvref_t<decltype(method)>>) {
      method.finish(executor, params);
    }
  };
  (finish(methods), ...);
}

/// Whether the methods can make a step directly, see call_directly(), after checking them.
template <class P, class... M>
[[nodiscard]] bool may_be_called_directly(const Parameters<P>& params, const M&... methods) {
  (check_method(methods, params), ...);
  if (((methods.nonfinite() != Nonfinite::propagate || methods.reads_weights()) || ...)) {
    return false;
  }
  const void* const objects[] = {&methods...};
  for (std::size_t i = 1; i < sizeof...(M); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (objects[j] == objects[i]) return false;  // StepDriver refuses
    }
  }
  return true;
}

template <class E, class P, class... M>
bool call(E& executor, const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  static_assert(sizeof...(M) <= Sweep<P>::Plan::most_methods);
  check_lists(params, gradients);
  Sweep<P>::check(executor, params);
  constexpr int optimizers = (0 + ... + (M::trains ? 1 : 0));
  if constexpr (std::same_as<std::remove_cv_t<E>, Serial> && !on_device<P> && optimizers <= 1) {
    if (may_be_called_directly(params, methods...)) [[likely]] {
      call_directly(params, gradients, methods...);
      return true;
    }
  }
  StepMemory<P, M...> memory(methods...);
  const ExecutorRef any(executor);
  using Driver = typename Sweep<P>::template Driver<StepDriver<P>>;
  return Driver(any, params, gradients, memory.parts()).check_and_advance();
}

}  // namespace detail

/// One training step: the methods run in the order given, and each tensor is read and written once.
///
/// The result has the same bits as `optimizer.step(params, grads)` followed by
/// `average.update(params)` for each average, which rests in a step that was skipped (see
/// Nonfinite). Name a method that rests in most steps last: the methods before it then stay fused.
/// Returns false if Nonfinite::skip_step skipped a method or found a weight that the update made
/// non-finite. Throws std::logic_error while an average is swapped in, std::invalid_argument if
/// parameters, gradients and methods disagree, nonfinite_error as Nonfinite says. If it throws,
/// nothing has changed, except that an update stands which made a weight non-finite.
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(sizeof...(M) > 0) bool step(const Parameters<P>& params, const Gradients<P>& gradients,
                                     M&... methods) {
  return detail::call(serial, params, &gradients, methods...);
}

/// The same on the given executor.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> &&
         sizeof...(M) > 0) bool step(E&& executor, const Parameters<P>& params,
                                     const Gradients<P>& gradients, M&... methods) {
  return detail::call(executor, params, &gradients, methods...);
}

/// Updates averages with the current parameters, in one pass. For everything else see step().
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(AveragingMethod<M>&&...) &&
    (sizeof...(M) > 0) bool update(const Parameters<P>& params, M&... averages) {
  return detail::call(serial, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

/// The same on the given executor.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> && (AveragingMethod<M> && ...) &&
         sizeof...(M) > 0) bool update(E&& executor, const Parameters<P>& params, M&... averages) {
  return detail::call(executor, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

}  // namespace POLYAK_V0
}  // namespace polyak
