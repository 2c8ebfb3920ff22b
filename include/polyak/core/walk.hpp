// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loop over elements: one pass over memory for any pack of laws.
///
/// Each iteration loads a pack of every stream once, applies all laws in registers and stores once.
/// Parameters and gradients are the user's memory and are read unaligned; slots are aligned and
/// padded, so a tail runs through the same pack code on a small copy of the user's elements.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/arena.hpp>
#include <polyak/core/denormals.hpp>
#include <polyak/core/dispatch.hpp>
#include <polyak/core/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/pack.hpp>
#include <polyak/core/parameters.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// One law with the slots it runs on.
template <class Law, class S>
struct Run {
  using State = S;
  using LawType = Law;
  static constexpr int slot_count = Law::traffic.slots;
  Law law;
  std::array<S*, static_cast<std::size_t>(slot_count == 0 ? 1 : slot_count)>
      slots;                   // first elements
  const std::size_t* offsets;  // of each tensor in a slot
};

template <class Law, class S>
[[nodiscard]] Run<Law, S> make_run(const Law& law, const Slots<S>& slots) {
  Run<Law, S> run{law, {}, slots.offsets()};
  for (int k = 0; k < Law::traffic.slots; ++k) {
    run.slots[static_cast<std::size_t>(k)] = slots.data(static_cast<std::size_t>(k));
  }
  return run;
}

/// The laws of the runs, applied in order to a few packs of each stream. All packs are loaded
/// before the first is stored: loads do not wait behind stores whose values are still being
/// computed.
template <class P, class Level, class... Runs>
struct Tile {
  using Carrier = carrier_t<P>;
  static constexpr int lanes = native_lanes<Carrier, Level>;
  static constexpr bool reads_gradient = (Runs::LawType::traffic.gradient || ...);
  static constexpr bool writes_parameter = (Runs::LawType::traffic.writes_parameter || ...);
  using Value = Pack<Carrier, lanes, Level>;
  template <class R>
  using SlotValue = Pack<typename R::State, lanes, Level>;

  /// One pack of every stream.
  template <class R>
  struct SlotValues {
    SlotValue<R> slot[R::slot_count == 0 ? 1 : R::slot_count];
  };
  struct Values {
    Value x, gradient;
    std::tuple<SlotValues<Runs>...> slots;
  };

  template <class R, std::size_t... K>
  POLYAK_LAW static void load_slots(const R& run, [[maybe_unused]] std::size_t at,
                                    SlotValues<R>& to, std::index_sequence<K...>) {
    ((to.slot[K] = SlotValue<R>::load(run.slots[K] + at)), ...);
  }

  template <class R, std::size_t... K>
  POLYAK_LAW static void apply(const R& run, Values& values, SlotValues<R>& slots,
                               std::index_sequence<K...>) {
    using V = SlotValue<R>;
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

  template <class R, std::size_t... K>
  POLYAK_LAW static void store_slots(const R& run, [[maybe_unused]] std::size_t at,
                                     const SlotValues<R>& from, std::index_sequence<K...>) {
    if constexpr (R::LawType::traffic.writes_slots) (from.slot[K].store(run.slots[K] + at), ...);
  }

  template <class R>
  static constexpr auto slots_of =
      std::make_index_sequence<static_cast<std::size_t>(R::slot_count)>{};

  /// x and gradient point at the elements, `at` is their place in each tensor's slots.
  template <std::size_t... R>
  POLYAK_LAW static void load(const P* x, const P* gradient, const std::tuple<Runs...>& runs,
                              std::size_t at, Values& to, std::index_sequence<R...>) {
    load_pack(x, to.x);
    if constexpr (reads_gradient) load_pack(gradient, to.gradient);
    (load_slots(std::get<R>(runs), at, std::get<R>(to.slots), slots_of<Runs>), ...);
  }
  template <std::size_t... R>
  POLYAK_LAW static void apply(const std::tuple<Runs...>& runs, Values& values,
                               std::index_sequence<R...>) {
    (apply(std::get<R>(runs), values, std::get<R>(values.slots), slots_of<Runs>), ...);
  }
  template <std::size_t... R>
  POLYAK_LAW static void store(P* x, const std::tuple<Runs...>& runs, std::size_t at,
                               const Values& from, std::index_sequence<R...>) {
    (store_slots(std::get<R>(runs), at, std::get<R>(from.slots), slots_of<Runs>), ...);
    if constexpr (writes_parameter) store_pack(x, from.x);
  }
};

/// Elements begin..end of one tensor; `runs` hold the slot pointers of this tensor.
template <class P, class Level, class... Runs>
POLYAK_LAW void walk_tensor(P* x, const P* gradient, const std::tuple<Runs...>& runs,
                            std::size_t begin, std::size_t end) {
  using T = Tile<P, Level, Runs...>;
  constexpr auto lanes = static_cast<std::size_t>(T::lanes);
  constexpr auto all = std::index_sequence_for<Runs...>{};
  const auto gradient_at = [gradient](std::size_t k) __attribute__((always_inline)) {
    return T::reads_gradient ? gradient + k : nullptr;
  };
  std::size_t i = begin;
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    typename T::Values first, second;
    T::load(x + i, gradient_at(i), runs, i, first, all);
    T::load(x + i + lanes, gradient_at(i + lanes), runs, i + lanes, second, all);
    T::apply(runs, first, all);
    T::apply(runs, second, all);
    T::store(x + i, runs, i, first, all);
    T::store(x + i + lanes, runs, i + lanes, second, all);
  }
  for (; i < end; i += lanes) {
    const std::size_t rest = end - i < lanes ? end - i : lanes;
    alignas(cache_line) P x_copy[lanes];
    alignas(cache_line) P gradient_copy[lanes];
    std::memset(static_cast<void*>(x_copy), 0, sizeof x_copy);
    std::memcpy(static_cast<void*>(x_copy), x + i, rest * sizeof(P));
    if constexpr (T::reads_gradient) {
      std::memset(static_cast<void*>(gradient_copy), 0, sizeof gradient_copy);
      std::memcpy(static_cast<void*>(gradient_copy), gradient + i, rest * sizeof(P));
    }
    typename T::Values values;
    T::load(x_copy, T::reads_gradient ? gradient_copy : nullptr, runs, i, values, all);
    T::apply(runs, values, all);
    T::store(x_copy, runs, i, values, all);
    if constexpr (T::writes_parameter) {
      std::memcpy(static_cast<void*>(x + i), x_copy, rest * sizeof(P));
    }
  }
}

template <class R>
POLYAK_LAW R run_of_tensor(const R& run, std::size_t tensor) {
  R moved = run;
  for (int k = 0; k < R::slot_count; ++k) {
    moved.slots[static_cast<std::size_t>(k)] += run.offsets[tensor];
  }
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
  POLYAK_LAW void run() const {
    std::size_t start = 0;  // of the tensor, in the count
    for (std::size_t k = first; k < last && start < end; ++k) {
      const std::size_t size = tensors[k].size;
      const std::size_t from = begin <= start ? 0 : begin - start;
      const std::size_t to = end - start < size ? end - start : size;
      const std::size_t low = from / slot_granule * slot_granule;
      const std::size_t high = to == size ? size : to / slot_granule * slot_granule;
      if (from < size && low < high) {
        const P* gradient = nullptr;
        if constexpr (Tile<P, Level, Runs...>::reads_gradient) gradient = gradients[k];
        walk<Level>(k, gradient, low, high, std::index_sequence_for<Runs...>{});
      }
      start += size;
    }
  }

 private:
  template <class Level, std::size_t... R>
  POLYAK_LAW void walk(std::size_t k, const P* gradient, std::size_t low, std::size_t high,
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
  const FloatMode::Word mode = FloatMode::get();
  const auto range = [&](std::size_t begin, std::size_t end) {
    const WithFloatMode as_in_the_caller(mode);
    run_at(level, Pass<P, Runs...>{tensors, gradients, first, last, begin, end, runs});
  };
  executor(elements, range);
}

/// One law over every tensor that the slots keep, in the calling thread.
template <class P, class S, class Law>
void walk_kept(const TensorMemory* tensors, const Slots<S>& slots, const Law& law) {
  Serial executor;
  for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
    if (!slots.keeps(k)) continue;
    walk<const Serial, P>(executor, tensors, nullptr, k, k + 1, std::tuple(make_run(law, slots)));
  }
}

/// False if any of n numbers is a NaN or an infinity.
template <class P>
struct FiniteCheck {
  const P* data;
  std::size_t size;
  bool* finite;

  template <class Level>
  POLYAK_LAW void run() const {
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

}  // namespace detail
}  // namespace v0
}  // namespace polyak
