// SPDX-License-Identifier: Apache-2.0
/// @file
/// The sweep: one pass over the memory of a list for any number of laws.
///
/// Each iteration loads a pack of every stream, applies all laws in registers, and stores.
/// Parameters and gradients are the user's memory and are read unaligned; slots are aligned and
/// padded to whole packs, so only x and the gradient end with the tensor.
///
/// Above 300 lines: tile, tensor, range and list are the nested loops of a sweep.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/finite.hpp>
#include <polyak/core/gradient_factor.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/masters.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

// ---- tiles ------------------------------------------------------------------------------------

/// A bound law for one tensor.
template <class B>
struct TensorLaw {
  using Bound = B;
  typename B::Law law;
  std::array<typename B::State*, B::array_count> slots;
  [[no_unique_address]] typename B::Key key;

  POLYAK_INLINE TensorLaw(const B& bound, std::size_t tensor)
      : law(bound.law_of(tensor)), slots(bound.slots), key(bound.key) {
    if constexpr (B::arrays > 0) {
      const std::size_t offset = bound.offsets[tensor];
      for (auto& slot : slots) slot += offset;
    }
    if constexpr (requires { key.tensor; }) key.tensor = tensor;
    if constexpr (KeepsWeights<typename B::Storage>) key.move_to(tensor, bound.offsets[tensor]);
  }
};

/// Data that the storages keep from one pack, and from one tensor, to the next.
template <class... B>
using SweepScratch = Members<typename B::Storage::Scratch...>;

/// Applies laws in order to a few packs of each stream, as one unit. All loads come before the
/// first store, so that no load waits for a value that is still being computed.
template <class P, class Level, int Packs, class... B>
struct Tile {
  using Carrier = carrier_t<P>;
  static constexpr int lanes = Packs * native_lanes<Carrier, Level>;
  static constexpr bool any_reads_gradient = (reads_gradient<typename B::Law> || ...);
  static constexpr bool any_writes_parameter = (writes_parameter<typename B::Law> || ...);
  using Value = Pack<Carrier, lanes, Level>;
  template <class One>
  using SlotValue = typename One::Storage::template Value<lanes, Level>;

  template <class One>
  struct SlotValues {
    SlotValue<One> slot[slot_count<typename One::Law> == 0 ? 1 : slot_count<typename One::Law>];
  };
  struct Values {
    Value x, gradient;
    Members<SlotValues<B>...> slots;
  };
  using Scratch = SweepScratch<B...>;
  using Laws = Members<TensorLaw<B>...>;

  template <class One>
  static constexpr auto slots_of =
      std::make_index_sequence<static_cast<std::size_t>(slot_count<typename One::Law>)>{};
  /// The arrays of slot K.
  template <std::size_t K, class One>
  POLYAK_INLINE static auto arrays_of(const TensorLaw<One>& law) {
    return law.slots.data() + K * static_cast<std::size_t>(One::Storage::arrays);
  }

  template <class One, std::size_t... K>
  POLYAK_INLINE static void load_slots([[maybe_unused]] const TensorLaw<One>& law,
                                       [[maybe_unused]] std::size_t at,
                                       [[maybe_unused]] SlotValues<One>& to,
                                       std::index_sequence<K...>) {
    (One::Storage::load(arrays_of<K>(law), at, to.slot[K]), ...);
  }

  template <class One, std::size_t... K>
  POLYAK_INLINE static void apply(const TensorLaw<One>& law, [[maybe_unused]] std::size_t at,
                                  Values& values, [[maybe_unused]] SlotValues<One>& slots,
                                  [[maybe_unused]] typename One::Storage::Scratch& scratch,
                                  std::index_sequence<K...>) {
    using V = Pack<carrier_t<typename One::State>, lanes, Level>;
    V parameter;
    if constexpr (KeepsWeights<typename One::Storage>) {
      One::Storage::read_weights(law.key, at, values.x, parameter);
    } else {
      convert(values.x, parameter);
    }
    if constexpr (reads_gradient<typename One::Law>) {
      V g;
      convert(values.gradient, g);
      law.law(parameter, static_cast<const V&>(g), slots.slot[K]...);
    } else {
      law.law(parameter, slots.slot[K]...);
    }
    if constexpr (KeepsWeights<typename One::Storage>) {
      One::Storage::write_weights(law.key, at, parameter, values.x, scratch);
    } else if constexpr (writes_parameter<typename One::Law>) {
      convert(parameter, values.x);
      if constexpr (scalar_bytes<P> == 2) {  // the next law gets the rounded value
        alignas(cache_line) P rounded[static_cast<std::size_t>(lanes)];
        store_pack(rounded, values.x);
        load_pack(static_cast<const P*>(rounded), values.x);
      }
    }
  }

  template <std::size_t K, class One>
  POLYAK_INLINE static void store_slot(const TensorLaw<One>& law, std::size_t at,
                                       const SlotValues<One>& from,
                                       typename One::Storage::Scratch& scratch) {
    if constexpr (static_cast<int>(K) < written_slots<typename One::Law>) {
      One::Storage::store(arrays_of<K>(law), at, from.slot[K], scratch, law.key);
    }
  }
  template <class One, std::size_t... K>
  POLYAK_INLINE static void store_slots([[maybe_unused]] const TensorLaw<One>& law,
                                        [[maybe_unused]] std::size_t at,
                                        [[maybe_unused]] const SlotValues<One>& from,
                                        [[maybe_unused]] typename One::Storage::Scratch& scratch,
                                        std::index_sequence<K...>) {
    (store_slot<K>(law, at, from, scratch), ...);
  }

  /// Processes `count` elements, fewer than all lanes only at the end of a tensor; `at` is their
  /// place in it.
  template <class Factor>
  POLYAK_INLINE static void update(P* x, const P* gradient, const Factor& factor, const Laws& laws,
                                   std::size_t at, std::size_t count, Scratch& scratch) {
    update(x, gradient, factor, laws, at, count, scratch, std::index_sequence_for<B...>{});
  }

 private:
  template <class Factor, std::size_t... I>
  POLYAK_INLINE static void update(P* x, [[maybe_unused]] const P* gradient,
                                   [[maybe_unused]] const Factor& factor, const Laws& laws,
                                   std::size_t at, std::size_t count, Scratch& scratch,
                                   std::index_sequence<I...>) {
    Values values;
    load_some(x + at, count, values.x);
    if constexpr (any_reads_gradient) {
      load_some(gradient + at, count, values.gradient);
      factor.apply(values.gradient);
    }
    (load_slots(member<I>(laws), at, member<I>(values.slots), slots_of<B>), ...);
    (apply(member<I>(laws), at, values, member<I>(values.slots), member<I>(scratch), slots_of<B>),
     ...);
    (store_slots(member<I>(laws), at, member<I>(values.slots), member<I>(scratch), slots_of<B>),
     ...);
    if constexpr (any_writes_parameter) store_some(x + at, count, values.x);
  }

  // Whether a pack is whole is known at compile time.
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

/// Whether loops process two packs at a time. Without, they run slower and compile in half the
/// time.
#if defined(POLYAK_SMALL_LOOPS)
inline constexpr bool packs_in_pairs = false;
#else
inline constexpr bool packs_in_pairs = true;
#endif

/// Elements begin..end of one tensor. Two packs at a time (g++ -O2 does not unroll), then one at a
/// time; the last may be partial. Gradients with a limit go one at a time throughout: a branch for
/// the limit costs the loop of two a tenth of its speed.
template <class P, class Level, class... B>
POLYAK_INLINE void sweep_tensor(P* x, const P* gradient, const GradientReading& reading,
                                const Members<TensorLaw<B>...>& laws, std::size_t begin,
                                std::size_t end, SweepScratch<B...>& scratch) {
  constexpr bool one_type = (std::same_as<P, typename B::State> && ...);
  using Whole = std::conditional_t<one_type, typename WholePacks<Level, P>::Level, Level>;
  using Two = Tile<P, Whole, 2, B...>;
  using One = Tile<P, Level, 1, B...>;
  constexpr auto two = static_cast<std::size_t>(Two::lanes), one = two / 2;
  const auto scale = static_cast<carrier_t<P>>(reading.scale);
  const auto limit = static_cast<carrier_t<P>>(reading.limit);
  const bool clips = is_finite(reading.limit);
  const GradientScale<typename Two::Value> factor_two(scale);
  const GradientFactor<typename One::Value> factor_one(scale, limit, clips);
  std::size_t i = begin;
  // Not needed for single numbers.
  if constexpr (packs_in_pairs && native_lanes<carrier_t<P>, Level> != 1) {
    if (!clips) {
      for (; i + two <= end; i += two) Two::update(x, gradient, factor_two, laws, i, two, scratch);
    }
  }
  for (; i < end; i += one) {
    One::update(x, gradient, factor_one, laws, i, end - i < one ? end - i : one, scratch);
  }
}

// ---- ranges of elements -----------------------------------------------------------------------

/// Elements begin..end of the tensors first..last, counted through all of them.
template <class P>
struct SweepRange {
  const TensorMemory* tensors;
  const P* const* gradients;  ///< null where no law reads them
  GradientReading reading;    ///< of the gradients
  std::size_t first, last;
  std::size_t begin, end;
};

/// Runs laws over a range. A boundary inside a tensor is rounded down to a whole number of packs,
/// the same from both sides.
template <class P, class... B>
struct SweepKernel {
  const SweepRange<P>& range;
  const Members<const B*...>& bound;

  template <class Level>
  POLYAK_INLINE void run() const {
    SweepScratch<B...> scratch;
    std::size_t start = 0;  // of the tensor, in the count
    for (std::size_t k = range.first; k < range.last && start < range.end; ++k) {
      const std::size_t size = range.tensors[k].size;
      const std::size_t from = range.begin <= start ? 0 : range.begin - start;
      const std::size_t to = range.end - start < size ? range.end - start : size;
      const std::size_t low = from / slot_granule * slot_granule;
      const std::size_t high = to == size ? size : to / slot_granule * slot_granule;
      if (from < size && low < high) {
        const P* gradient = nullptr;
        if constexpr ((reads_gradient<typename B::Law> || ...)) gradient = range.gradients[k];
        tensor<Level>(k, gradient, low, high, scratch, std::index_sequence_for<B...>{});
      }
      start += size;
    }
  }

 private:
  template <class Level, std::size_t... I>
  POLYAK_INLINE void tensor(std::size_t k, const P* gradient, std::size_t low, std::size_t high,
                            SweepScratch<B...>& scratch, std::index_sequence<I...>) const {
    const Members<TensorLaw<B>...> laws{{{TensorLaw<B>(*member<I>(bound), k)}...}};
    (B::Storage::begin_tensor(member<I>(scratch), member<I>(laws).key, high), ...);
    sweep_tensor<P, Level>(static_cast<P*>(range.tensors[k].data), gradient, range.reading, laws,
                           low, high, scratch);
  }
};

/// A type-erased loop: `sweep(level, bound, range)`.
template <class P>
struct Loop {
  void (*sweep)(int level, const void* bound, const SweepRange<P>& range) = nullptr;
  const void* bound = nullptr;
};

/// The loop of one law, of type B. Rarely used laws are not compiled for v4, unless their numbers
/// have 16 bits: v4 converts these twice as fast.
template <bool Usual, class P, class B>
void sweep_one(int level, const void* bound, const SweepRange<P>& range) {
  const Members<const B*> all{{{static_cast<const B*>(bound)}}};
  const SweepKernel<P, B> kernel{range, all};
  if constexpr (Usual || scalar_bytes<typename B::State> == 2 ||
                KeepsWeights<typename B::Storage>) {
    run_at(level, kernel);
  } else {
    run_rarely_at(level, kernel);
  }
}
template <bool Usual, class P, class B>
[[nodiscard]] Loop<P> loop_of(const B& bound) {
  return {&sweep_one<Usual, P, B>, &bound};
}

/// The loop of several laws that share a sweep. `bound` is an array of their addresses.
template <class P, class... B>
void sweep_together(int level, const void* bound, const SweepRange<P>& range) {
  const Members<const B*...> all = members_at<B...>(bound);
  run_at(level, SweepKernel<P, B...>{range, all});
}

// ---- lists ------------------------------------------------------------------------------------

/// Elements in a block that the loops of several methods process one after the other. All loops but
/// the first find the block in the cache.
inline constexpr std::size_t swept_together = 8192;

/// The end of an unlimited range.
inline constexpr std::size_t all_elements = std::numeric_limits<std::size_t>::max();

/// Processes a range of elements of neighbouring tensors with the loops of several methods in turn.
template <class P>
void sweep_in_turn(int level, const SweepPlan<Loop<P>>& plan,
                   typename SweepPlan<Loop<P>>::Mask methods, SweepRange<P> range) {
  const std::size_t end = range.end;
  std::size_t passed = 0;  // elements before tensor range.first
  for (std::size_t at = range.begin; at < end; at += swept_together) {
    const std::size_t next = end - at < swept_together ? end : at + swept_together;
    while (passed + range.tensors[range.first].size <= at) {
      passed += range.tensors[range.first++].size;
    }
    range.begin = at - passed;
    range.end = next - passed;
    for (auto rest = methods; rest != 0; rest &= rest - 1) {
      const auto& loop = plan.singles[std::countr_zero(rest)].loop;
      loop.sweep(level, loop.bound, range);
    }
  }
}

/// Processes a range of elements, counted through the tensors that any method runs on.
template <class P>
void sweep_range(int level, const SweepPlan<Loop<P>>& plan, const TensorMemory* tensors,
                 std::size_t tensor_count, const P* const* gradients,
                 const GradientReading& reading, std::size_t begin, std::size_t end) {
  using Mask = typename SweepPlan<Loop<P>>::Mask;
  const auto methods_of = [&](std::size_t k) {
    return plan.methods_of(k, gradients != nullptr && gradients[k] != nullptr);
  };
  SweepRange<P> range{tensors, gradients, reading, 0, 0, 0, 0};
  std::size_t start = 0;  // of tensor range.first, in the count
  Mask next = tensor_count > 0 ? methods_of(0) : 0;
  for (; range.first < tensor_count && start < end; range.first = range.last) {
    const Mask methods = next;
    std::size_t size = tensors[range.first].size, last = range.first + 1;
    for (; last < tensor_count && (next = methods_of(last)) == methods; ++last) {
      size += tensors[last].size;
    }
    range.last = last;
    if (methods == 0) continue;
    range.begin = begin <= start ? 0 : begin - start;
    range.end = end - start < size ? end - start : size;
    start += size;
    if (range.begin >= range.end) continue;
    const auto* loop = plan.loop_of_all(methods);
    if (loop == nullptr && (methods & (methods - 1)) == 0) {  // one method
      loop = &plan.singles[std::countr_zero(methods)].loop;
    }
    if (loop != nullptr) {
      loop->sweep(level, loop->bound, range);
    } else {
      sweep_in_turn(level, plan, methods, range);
    }
  }
}

/// False if any of n numbers, times the factor, is a NaN or an infinity.
template <class P>
struct FiniteCheck {
  const P* data;
  std::size_t size;
  carrier_t<P> factor;
  bool* finite;

  template <class Level>
  POLYAK_INLINE void run() const {
    constexpr int lanes = native_lanes<carrier_t<P>, Level>;
    using V = Pack<carrier_t<P>, lanes, Level>;
    constexpr auto step = static_cast<std::size_t>(lanes);
    const V zero(carrier_t<P>(0)), times(factor);
    V sums[2] = {zero, zero};  // x * 0 is NaN where x is not finite, and NaN stays
    std::size_t i = 0;
    for (; i + 2 * step <= size; i += 2 * step) {
      V a, b;
      load_pack(data + i, a);
      load_pack(data + i + step, b);
      sums[0] = fma(a * times, zero, sums[0]);
      sums[1] = fma(b * times, zero, sums[1]);
    }
    alignas(cache_line) carrier_t<P> total[step];
    (sums[0] + sums[1]).store(total);
    bool good = true;
    for (const carrier_t<P> sum : total) good = good && sum == 0;
    for (; i < size; ++i)
      good = good && widened<carrier_t<P>>(data, i) * factor * carrier_t<P>(0) == 0;
    *finite = good;
  }
};

template <class P>
[[nodiscard]] bool all_finite(const P* data, std::size_t size, carrier_t<P> factor) {
  bool finite = true;
  run_at(level_in_use(), FiniteCheck<P>{data, size, factor, &finite});
  return finite;
}

/// The loops over lists in the host's memory.
template <FloatingScalar P>
struct Sweep<P> {
  using Plan = SweepPlan<Loop<P>>;
  /// The unchanged driver of a step: on the host it needs no further hooks of a method.
  template <class StepDriver>
  using Driver = StepDriver;
  struct Hooks {
    template <class M>
    static constexpr Hooks of() {
      return {};
    }
  };

  template <bool Usual, class B>
  [[nodiscard]] static Loop<P> loop(const B& bound) {
    return loop_of<Usual, P>(bound);
  }
  /// The caller sets `bound` to an array of the laws' addresses.
  template <class... B>
  [[nodiscard]] static constexpr Loop<P> shared_loop() {
    return {&sweep_together<P, B...>, nullptr};
  }

  /// Refuses, before anything has changed, an executor or a level that would fail later.
  template <class E>
  static void check(const E& executor, const Parameters<P>&) {
    check_executor(executor);
    static_cast<void>(level_in_use());  // throws for a wrong POLYAK_DISPATCH_LEVEL
  }

  /// Runs the laws of a plan in one sweep. The result does not depend on how the executor splits
  /// it.
  static void over(const ExecutorRef& executor, const Parameters<P>& params,
                   const P* const* gradients, const GradientReading& reading, const Plan& plan) {
    const TensorMemory* const tensors = ParameterAccess<P>::memory_seen(params);
    const std::size_t count = params.size();
    const int level = level_in_use();
    if (executor.is_serial()) {
      sweep_range<P>(level, plan, tensors, count, gradients, reading, 0, all_elements);
      return;
    }
    std::size_t elements = 0;
    for (std::size_t k = 0; k < count; ++k) {
      if (plan.methods_of(k, gradients != nullptr && gradients[k] != nullptr) != 0) {
        elements += tensors[k].size;
      }
    }
    const FloatMode::Word mode = FloatMode::get();
    executor(elements, [&](std::size_t begin, std::size_t end) {
      const WithFloatMode as_in_the_caller(mode);
      sweep_range<P>(level, plan, tensors, count, gradients, reading, begin, end);
    });
  }

  /// Runs the loop of one method in the calling thread, if it takes part.
  static void alone(const Parameters<P>& params, const P* const* gradients,
                    const GradientReading& reading, const typename Plan::Single& single) {
    const std::size_t count = params.size();
    const auto takes = [&](std::size_t k) {
      return single.takes_part && single.offsets[k] != Slots<P>::absent &&
             (!single.needs_gradient || gradients[k] != nullptr);
    };
    SweepRange<P> range{
        ParameterAccess<P>::memory_seen(params), gradients, reading, 0, 0, 0, all_elements};
    for (; range.first < count; range.first = range.last) {
      range.last = range.first + 1;
      if (!takes(range.first)) continue;
      while (range.last < count && takes(range.last)) ++range.last;
      single.loop.sweep(level_in_use(), single.loop.bound, range);
    }
  }

  /// Runs one law over every tensor that its slots keep.
  template <class B>
  static void all(const ExecutorRef& executor, const Parameters<P>& params, const B& bound) {
    static_cast<void>(ParameterAccess<P>::memory(params));
    const typename Plan::Single single{bound.offsets, true, false, loop<false>(bound)};
    over(executor, params, nullptr, {}, Plan{&single, 1, nullptr, 0});
  }
  /// Runs one law over one tensor, in the calling thread.
  template <class B>
  static void one(const TensorMemory* tensors, std::size_t tensor, const B& bound) {
    const Loop<P> loop = Sweep::loop<false>(bound);
    loop.sweep(level_in_use(), loop.bound,
               {tensors, nullptr, {}, tensor, tensor + 1, 0, tensors[tensor].size});
  }
  template <class B>
  static void one(const Parameters<P>& params, std::size_t tensor, const B& bound) {
    one(ParameterAccess<P>::memory_seen(params), tensor, bound);
  }

  /// Checks the tensors k for which takes(k) is true.
  template <class Takes>
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params, const Takes& takes) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!takes(k)) continue;
      const DType type = params[k].info().dtype;
      const void* const data = params[k].raw();
      const std::size_t size = params[k].size();
      const bool finite = type == dtype_of<P>()
                              ? all_finite(static_cast<const P*>(data), size, carrier_t<P>(1))
                              : bits_finite(data, type, size);
      if (!finite) return false;
    }
    return true;
  }
  /// Checks the gradients against most(k), the largest that tensor k may have as a step reads it.
  /// 0 leaves a tensor out.
  template <class Most>
  [[nodiscard]] static bool gradients_within(const Parameters<P>& params, const P* const* gradients,
                                             const GradientReading& reading, const Most& most) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      const double limit = gradients[k] == nullptr ? 0 : most(k);
      if (limit == 0) continue;
      const auto factor = overflow_factor<carrier_t<P>>(limit, reading.scale, reading.limit);
      if (!all_finite(gradients[k], params[k].size(), factor)) return false;
    }
    return true;
  }
  static void copy(const Parameters<P>&, const std::vector<CopyPiece>& pieces) {
    for (const CopyPiece& piece : pieces) copy_bytes(nullptr, piece.to, piece.from, piece.bytes);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
