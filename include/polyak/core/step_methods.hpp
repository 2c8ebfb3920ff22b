// SPDX-License-Identifier: Apache-2.0
/// @file
/// The methods of a step without their types: tables of the functions that a step calls, and the
/// memory of the laws that it binds.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#if !defined(__CUDACC__)
#include <polyak/core/sweep.hpp>
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

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

/// Refuses a call for which an average's weighting has no gain, before any method has changed.
template <class M>
void require_gain(const M& method) {
  if constexpr (requires { method.weighting().last_call(); }) {
    const auto& weighting = method.weighting();
    if (method.calls() >= weighting.last_call()) [[unlikely]] {
      static_cast<void>(weighting.gain(method.calls() + 1));  // refuses in its own words
    }
  }
}

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
    require_gain(method);
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

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
