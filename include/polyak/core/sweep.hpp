// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loop over elements: one pass over memory for any pack of laws.
///
/// Each iteration loads a pack of every stream once, applies all laws in registers and stores once.
/// Parameters and gradients are the user's memory and are read unaligned; slots are aligned and
/// padded, so a tail runs through the same pack code on a small copy of the user's elements.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// The laws of the runs, applied in order to some packs of each stream, taken as one. All are
/// loaded before the first is stored: loads do not wait behind stores whose values are still being
/// computed.
template <class P, class Level, int Packs, class... Runs>
struct Tile {
  using Carrier = carrier_t<P>;
  static constexpr int lanes = Packs * native_lanes<Carrier, Level>;
  static constexpr bool reads_gradient = (Runs::LawType::traffic.gradient || ...);
  static constexpr bool writes_parameter = (Runs::LawType::traffic.writes_parameter || ...);
  using Value = Pack<Carrier, lanes, Level>;
  template <class R>
  using SlotValue = typename R::StorageType::template Value<lanes, Level>;

  /// One pack of every stream.
  template <class R>
  struct SlotValues {
    SlotValue<R> slot[R::slot_count == 0 ? 1 : R::slot_count];
  };
  struct Values {
    Value x, gradient;
    std::tuple<SlotValues<Runs>...> slots;
  };
  /// What the storage of the runs keeps from one pack to the next.
  using Scratch = std::tuple<typename Runs::StorageType::Scratch...>;

  /// The arrays of slot K.
  template <std::size_t K, class R>
  POLYAK_INLINE static auto arrays_of(const R& run) {
    return run.slots.data() + K * static_cast<std::size_t>(R::StorageType::arrays);
  }

  template <class R, std::size_t... K>
  POLYAK_INLINE static void load_slots(const R& run, [[maybe_unused]] std::size_t at,
                                       SlotValues<R>& to, std::index_sequence<K...>) {
    (R::StorageType::load(arrays_of<K>(run), at, to.slot[K]), ...);
  }

  template <class R, std::size_t... K>
  POLYAK_INLINE static void apply(const R& run, Values& values, SlotValues<R>& slots,
                                  std::index_sequence<K...>) {
    using V = Pack<carrier_t<typename R::State>, lanes, Level>;
    using Law = typename R::LawType;
    V parameter;
    convert(values.x, parameter);
    if constexpr (Law::traffic.gradient) {
      V g;
      convert(values.gradient, g);
      run.law(parameter, static_cast<const V&>(g), slots.slot[K]...);
    } else {
      run.law(parameter, slots.slot[K]...);
    }
    if constexpr (Law::traffic.writes_parameter) {
      convert(parameter, values.x);
      if constexpr (scalar_bytes<P> == 2) {  // the next law sees what memory will hold
        alignas(cache_line) P rounded[static_cast<std::size_t>(lanes)];
        store_pack(rounded, values.x);
        load_pack(static_cast<const P*>(rounded), values.x);
      }
    }
  }

  template <std::size_t K, class R>
  POLYAK_INLINE static void store_slot(const R& run, [[maybe_unused]] std::size_t at,
                                       const SlotValues<R>& from,
                                       [[maybe_unused]] typename R::StorageType::Scratch& scratch) {
    if constexpr (static_cast<int>(K) < written_slots<typename R::LawType>) {
      R::StorageType::store(arrays_of<K>(run), at, from.slot[K], scratch, run.key);
    }
  }
  template <class R, std::size_t... K>
  POLYAK_INLINE static void store_slots(const R& run, [[maybe_unused]] std::size_t at,
                                        const SlotValues<R>& from,
                                        [[maybe_unused]] typename R::StorageType::Scratch& scratch,
                                        std::index_sequence<K...>) {
    (store_slot<K>(run, at, from, scratch), ...);
  }

  template <class R>
  static constexpr auto slots_of =
      std::make_index_sequence<static_cast<std::size_t>(R::slot_count)>{};

  /// `count` elements, all lanes but in a tail; `at` is their place in the tensor. Slots are
  /// padded, so only x and the gradient end with the tensor.
  template <std::size_t... R>
  POLYAK_INLINE static void load(const P* x, const P* gradient, const std::tuple<Runs...>& runs,
                                 std::size_t at, std::size_t count, Values& to,
                                 std::index_sequence<R...>) {
    load_some(x + at, count, to.x);
    if constexpr (reads_gradient) load_some(gradient + at, count, to.gradient);
    (load_slots(std::get<R>(runs), at, std::get<R>(to.slots), slots_of<Runs>), ...);
  }
  template <std::size_t... R>
  POLYAK_INLINE static void apply(const std::tuple<Runs...>& runs, Values& values,
                                  std::index_sequence<R...>) {
    (apply(std::get<R>(runs), values, std::get<R>(values.slots), slots_of<Runs>), ...);
  }
  template <std::size_t... R>
  POLYAK_INLINE static void store(P* x, const std::tuple<Runs...>& runs, std::size_t at,
                                  std::size_t count, const Values& from, Scratch& scratch,
                                  std::index_sequence<R...>) {
    (store_slots(std::get<R>(runs), at, std::get<R>(from.slots), std::get<R>(scratch),
                 slots_of<Runs>),
     ...);
    if constexpr (writes_parameter) store_some(x + at, count, from.x);
  }

  POLYAK_INLINE static void run(P* x, const P* gradient, const std::tuple<Runs...>& runs,
                                std::size_t at, std::size_t count, Scratch& scratch) {
    constexpr auto all = std::index_sequence_for<Runs...>{};
    Values values;
    load(x, gradient, runs, at, count, values, all);
    apply(runs, values, all);
    store(x, runs, at, count, values, scratch, all);
  }

 private:
  // A whole pack is known as such when the program is compiled.
  static constexpr auto whole = static_cast<std::size_t>(lanes);
  POLYAK_INLINE static void load_some(const P* from, std::size_t count, Value& to) {
    if (Packs > 1 || count == whole) {
      load_pack(from, to);
    } else {
      load_part(from, count, to);
    }
  }
  POLYAK_INLINE static void store_some(P* to, std::size_t count, const Value& from) {
    if (Packs > 1 || count == whole) {
      store_pack(to, from);
    } else {
      store_part(to, count, from);
    }
  }
};

/// Elements begin..end of one tensor; `runs` hold the slot pointers of this tensor. Two packs at a
/// time (g++ -O2 does not unroll), at the end one, the last one in part.
template <class P, class Level, class... Runs>
POLYAK_INLINE void walk_tensor(P* x, const P* gradient, const std::tuple<Runs...>& runs,
                               std::size_t begin, std::size_t end) {
  constexpr bool one_type = (std::same_as<P, typename Runs::State> && ...);
  using Whole = std::conditional_t<one_type, typename WholePacks<Level, P>::Level, Level>;
  using Two = Tile<P, Whole, 2, Runs...>;
  using One = Tile<P, Level, 1, Runs...>;
  constexpr auto two = static_cast<std::size_t>(Two::lanes), one = two / 2;
  typename Two::Scratch scratch;
  std::size_t i = begin;
  for (; i + two <= end; i += two) Two::run(x, gradient, runs, i, two, scratch);
  for (; i < end; i += one) One::run(x, gradient, runs, i, end - i < one ? end - i : one, scratch);
}

template <class R>
POLYAK_INLINE R run_of_tensor(const R& run, std::size_t tensor) {
  R moved = run;
  for (int k = 0; k < R::arrays; ++k) {
    moved.slots[static_cast<std::size_t>(k)] += run.offsets[tensor];
  }
  if constexpr (requires { moved.key.tensor; }) moved.key.tensor = tensor;
  return moved;
}

/// A pass over elements begin..end of the tensors first..last, counted through all of them. A
/// boundary inside a tensor is rounded down to a whole number of packs, the same from both sides.
template <class P, class... Runs>
struct Pass {
  const TensorMemory* tensors;
  const P* const* gradients;  // null where no law reads them
  std::size_t first, last;
  std::size_t begin, end;
  const std::tuple<Runs...>& runs;

  template <class Level>
  POLYAK_INLINE void run() const {
    std::size_t start = 0;  // of the tensor, in the count
    for (std::size_t k = first; k < last && start < end; ++k) {
      const std::size_t size = tensors[k].size;
      const std::size_t from = begin <= start ? 0 : begin - start;
      const std::size_t to = end - start < size ? end - start : size;
      const std::size_t low = from / slot_granule * slot_granule;
      const std::size_t high = to == size ? size : to / slot_granule * slot_granule;
      if (from < size && low < high) {
        const P* gradient = nullptr;
        if constexpr ((Runs::LawType::traffic.gradient || ...)) gradient = gradients[k];
        walk<Level>(k, gradient, low, high, std::index_sequence_for<Runs...>{});
      }
      start += size;
    }
  }

 private:
  template <class Level, std::size_t... R>
  POLYAK_INLINE void walk(std::size_t k, const P* gradient, std::size_t low, std::size_t high,
                          std::index_sequence<R...>) const {
    const std::tuple<Runs...> local(run_of_tensor(std::get<R>(runs), k)...);
    walk_tensor<P, Level>(static_cast<P*>(tensors[k].data), gradient, local, low, high);
  }
};

/// One pass of `runs` over the tensors first..last. The executor calls back with ranges of the
/// elements of these tensors; the result does not depend on how it splits them.
template <class Executor, class P, class... Runs>
void walk(Executor& executor, const TensorMemory* tensors, const P* const* gradients,
          std::size_t first, std::size_t last, const std::tuple<Runs...>& runs) {
  std::size_t elements = 0;
  for (std::size_t k = first; k < last; ++k) elements += tensors[k].size;
  const int level = level_in_use();
  const auto range = [&](std::size_t begin, std::size_t end) {
    run_at(level, Pass<P, Runs...>{tensors, gradients, first, last, begin, end, runs});
  };
  if constexpr (std::same_as<std::remove_const_t<Executor>, Serial>) {
    executor(elements, range);
  } else {
    const FloatMode::Word mode = FloatMode::get();
    const auto as_in_the_caller = [&](std::size_t begin, std::size_t end) {
      const WithFloatMode flushes_alike(mode);
      range(begin, end);
    };
    executor(elements, as_in_the_caller);
  }
}

/// One run over every tensor that its slots keep, in the calling thread.
template <class P, class R>
void walk_kept(const TensorMemory* tensors, std::size_t count, const R& run) {
  for (std::size_t k = 0; k < count; ++k) {
    if (run.offsets[k] == Slots<typename R::State>::absent) continue;
    walk<const Serial, P>(serial, tensors, nullptr, k, k + 1, std::tuple(run));
  }
}

/// False if any of n numbers is a NaN or an infinity.
template <class P>
struct FiniteCheck {
  const P* data;
  std::size_t size;
  bool* finite;

  template <class Level>
  POLYAK_INLINE void run() const {
    constexpr int lanes = native_lanes<carrier_t<P>, Level>;
    using V = Pack<carrier_t<P>, lanes, Level>;
    constexpr auto step = static_cast<std::size_t>(lanes);
    const V zero(carrier_t<P>(0));
    V sums[2] = {zero, zero};  // x * 0 is NaN where x is not finite, and NaN stays
    std::size_t i = 0;
    for (; i + 2 * step <= size; i += 2 * step) {
      V a, b;
      load_pack(data + i, a);
      load_pack(data + i + step, b);
      sums[0] = fma(a, zero, sums[0]);
      sums[1] = fma(b, zero, sums[1]);
    }
    alignas(cache_line) carrier_t<P> total[step];
    (sums[0] + sums[1]).store(total);
    bool good = true;
    for (const carrier_t<P> sum : total) good = good && sum == 0;
    for (; i < size; ++i) good = good && widened<carrier_t<P>>(data, i) * carrier_t<P>(0) == 0;
    *finite = good;
  }
};

template <class P>
[[nodiscard]] bool all_finite(const P* data, std::size_t size) {
  bool finite = true;
  run_at(level_in_use(), FiniteCheck<P>{data, size, &finite});
  return finite;
}

/// The loops over lists in the host's memory.
template <FloatingScalar P>
struct Walker<P> {
  /// Refuses, before anything has changed, what would fail later.
  template <class E>
  static void check(const E& executor) {
    check_executor(executor);
    static_cast<void>(level_in_use());  // refuses a wrong POLYAK_DISPATCH_LEVEL
  }
  /// Consecutive tensors.
  struct Tensors {
    std::size_t first, last;
  };
  /// Calls `pass(tensors, taking)` for all tensors in which any method takes part, by groups that
  /// the same methods with the same laws run on.
  template <class Taking, class Same, class Each>
  static void groups(const Parameters<P>& params, Taking taking_part, Same same_laws, Each pass) {
    for (std::size_t first = 0; first < params.size();) {
      const auto taking = taking_part(first);
      std::size_t last = first + 1;
      while (last < params.size() && taking_part(last) == taking && same_laws(first, last)) ++last;
      pass(Tensors{first, last}, taking);
      first = last;
    }
  }
  template <class E, class... Runs>
  static void walk(E& executor, const Parameters<P>& params, const P* const* gradients,
                   const Tensors& tensors, const std::tuple<Runs...>& runs) {
    detail::walk<E, P>(executor, ParameterAccess<P>::memory(params), gradients, tensors.first,
                       tensors.last, runs);
  }
  /// One run over one tensor, or over every tensor that its slots keep, in the calling thread.
  template <class R>
  static void one(const TensorMemory& memory, const R& run) {
    detail::walk<const Serial, P>(serial, &memory, nullptr, 0, 1, std::tuple(run));
  }
  template <class R>
  static void one(const Parameters<P>& params, std::size_t tensor, const R& run) {
    walk<const Serial>(serial, params, nullptr, {tensor, tensor + 1}, std::tuple(run));
  }
  template <class R>
  static void kept(const Parameters<P>& params, const R& run) {
    walk_kept<P>(ParameterAccess<P>::memory(params), params.size(), run);
  }
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].info().role == Role::average &&
          !all_finite(params[k].data(), params[k].size())) {
        return false;
      }
    }
    return true;
  }
  [[nodiscard]] static bool gradients_finite(const Parameters<P>& params,
                                             const P* const* gradients) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (gradients[k] != nullptr && !all_finite(gradients[k], params[k].size())) return false;
    }
    return true;
  }
  static void copy(const Parameters<P>&, const std::vector<CopyPiece>& pieces) {
    for (const CopyPiece& piece : pieces) copy_bytes(nullptr, piece.to, piece.from, piece.bytes);
  }
};

}  // namespace detail
}  // namespace v0
}  // namespace polyak
