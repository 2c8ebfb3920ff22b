// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops of core/streams.hpp over one tensor in the host's memory.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include <polyak/core/law.hpp>
#include <polyak/core/merge_terms.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Lanes of the packs of streams of E: the lanes of a register of the narrowest type.
template <class Level, class... E>
inline constexpr int stream_lanes = (std::same_as<E, double> && ...) ? native_lanes<double, Level>
                                                                     : native_lanes<float, Level>;

/// Loads `count` elements, fewer than all lanes only at the ends of a tensor.
template <class E, class T, int Lanes, class Level>
POLYAK_INLINE void load_stream(const E* from, std::size_t count, Pack<T, Lanes, Level>& to) {
  Pack<carrier_t<E>, Lanes, Level> x;
  if (count == static_cast<std::size_t>(Lanes)) {
    load_pack(from, x);
  } else {
    load_part(from, count, x);
  }
  convert(x, to);
}
template <class E, class T, int Lanes, class Level>
POLYAK_INLINE void store_stream(E* to, std::size_t count, bool past_caches,
                                const Pack<T, Lanes, Level>& from) {
  Pack<carrier_t<E>, Lanes, Level> x;
  convert(from, x);
  if (past_caches) {
    stream_pack(to, x);
  } else if (count == static_cast<std::size_t>(Lanes)) {
    store_pack(to, x);
  } else {
    store_part(to, count, x);
  }
}

/// Elements before the first cache line of `out`. Not 0 only if alignment pays: many elements
/// follow, or stores bypass the caches and require it.
template <class Out>
[[nodiscard]] std::size_t elements_before_line(const Out* out, std::size_t count, bool needed) {
  constexpr std::size_t many = 64 * cache_line / scalar_bytes<Out>;
  if (!needed && count < many) return 0;
  const auto misalignment = reinterpret_cast<std::uintptr_t>(out) % cache_line;
  return std::min(count, (cache_line - misalignment) % cache_line / scalar_bytes<Out>);
}
template <class Out>
[[nodiscard]] bool begins_line(const Out* out) {
  return reinterpret_cast<std::uintptr_t>(out) % cache_line == 0;
}

/// Elements 0..count: single packs up to `head`, then tiles of several packs, then single packs.
/// `scratch` lives from one tile to the next.
template <class Level, class Loop, class Scratch>
POLYAK_INLINE void for_tiles(const Loop& loop, std::size_t head, std::size_t count,
                             Scratch& scratch) {
  constexpr auto one = static_cast<std::size_t>(Loop::template lanes<Level>);
  constexpr int packs = Loop::packs;
  constexpr std::size_t tile = packs * one;
  std::size_t i = 0;
  while (i < count) {
    if (i >= head) {
      for (; i + tile <= count; i += tile) loop.template tile<Level, packs>(i, tile, scratch);
      if (i == count) return;
    }
    const std::size_t number = std::min(one, (i < head ? head : count) - i);
    loop.template tile<Level, 1>(i, number, scratch);
    i += number;
  }
}

// ---- laws with a fixed number of streams ------------------------------------------------------

template <class Law, class Outputs, class Inputs>
struct StreamKernel;
template <class Law, class... Out, class... In>
struct StreamKernel<Law, std::tuple<Out...>, std::tuple<In...>> {
  using T = typename Law::Value;
  static constexpr int packs = 2;
  template <class Level>
  static constexpr int lanes = stream_lanes<Level, Out..., In...>;
  static constexpr auto all_out = std::index_sequence_for<Out...>{};
  static constexpr auto all_in = std::index_sequence_for<In...>{};

  Law law;
  std::tuple<Out*...> out;
  std::tuple<const In*...> in;
  std::size_t count;
  std::size_t head;
  std::array<bool, sizeof...(Out)> past_caches;

  template <class Level>
  POLYAK_INLINE void run() const {
    const StreamKernel here(*this);  // a copy that no store to the outputs can alias
    struct None {
    } none;
    for_tiles<Level>(here, here.head, here.count, none);
  }

  template <class Level, int Packs, class Scratch>
  POLYAK_INLINE void tile(std::size_t i, std::size_t number, Scratch&) const {
    tile<Level, Packs>(i, number, all_out, all_in);
  }

 private:
  /// All loads come before the first store: an output may be an input.
  template <class Level, int Packs, std::size_t... O, std::size_t... I>
  POLYAK_INLINE void tile(std::size_t i, std::size_t number, std::index_sequence<O...>,
                          std::index_sequence<I...>) const {
    using V = Pack<T, Packs * lanes<Level>, Level>;
    V y[sizeof...(Out)];
    V x[sizeof...(In) + 1];
    if constexpr (Law::streams.updates) (load_stream(std::get<O>(out) + i, number, y[O]), ...);
    (load_stream(std::get<I>(in) + i, number, x[I]), ...);
    law(y[O]..., static_cast<const V&>(x[I])...);
    (store_stream(std::get<O>(out) + i, number, Packs > 1 && past_caches[O], y[O]), ...);
  }
};

// ---- laws that merge any number of streams ----------------------------------------------------

/// The most streams that one loop reads. The hardware does not prefetch more.
inline constexpr std::size_t merged_at_once = 8;
/// If there are more, the number of streams that each further loop adds to the accumulators. This
/// number is the fastest.
inline constexpr std::size_t added_at_once = 4;
/// Bytes of a block of accumulators. They fit the stack and stay in the second-level cache between
/// the loops. The block is long enough for the prefetchers, which restart in each loop.
inline constexpr std::size_t merge_block_bytes = std::size_t{64} * 1024;

template <class Law, class Out, class In>
struct MergeKernel {
  using T = typename Law::Value;
  static constexpr auto inputs_each = static_cast<std::size_t>(Law::merges.inputs);
  static constexpr auto accumulators = static_cast<std::size_t>(Law::merges.accumulators);
  static constexpr auto outputs = static_cast<std::size_t>(Law::merges.outputs);
  static constexpr auto weights_each = static_cast<std::size_t>(Law::merges.weights);
  static constexpr std::size_t most_terms = std::max<std::size_t>(1, merged_at_once / inputs_each);
  template <class Level>
  static constexpr int lanes = stream_lanes<Level, Out, In>;
  /// More packs share the loads of weights and addresses; fewer fit the registers.
  static constexpr bool wide = accumulators * (sizeof(T) == 8 && scalar_bytes<In> < 8 ? 2 : 1) > 2;
  static constexpr int packs = wide ? 2 : 4;

  Law law;
  std::size_t count, head = 0;
  std::size_t terms;
  std::array<const In*, most_terms * inputs_each> inputs;
  std::array<T, most_terms * weights_each> weights;
  std::array<const T*, accumulators> before = {};  ///< null in the first loop of a merge
  std::array<T*, accumulators> after = {};  ///< null in the last loop, which writes the outputs
  std::array<Out*, outputs> out = {};
  std::array<bool, outputs> past_caches = {};
  bool* fails = nullptr;  ///< set if a law that may fail gave a NaN or an infinity

  template <class Level>
  POLYAK_INLINE void run() const {
    using V = Pack<T, lanes<Level>, Level>;
    const MergeKernel here(*this);
    V doubt(T(0));  // x * 0 is NaN if x is not finite, and a NaN persists
    for_tiles<Level>(here, here.head, here.count, doubt);
    if constexpr (may_fail<Law>) {
      if (here.fails == nullptr) return;  // another loop follows
      alignas(cache_line) T last[static_cast<std::size_t>(lanes<Level>)];
      doubt.store(last);
      for (const T one : last) *here.fails = *here.fails || one != 0;
    }
  }

  template <class Level, int Packs>
  POLYAK_INLINE void tile(std::size_t i, std::size_t number,
                          Pack<T, lanes<Level>, Level>& doubt) const {
    tile(i, Packs > 1 ? number / Packs : number, doubt,
         std::make_index_sequence<static_cast<std::size_t>(Packs)>{});
  }

 private:
  static constexpr auto all_accumulators = std::make_index_sequence<accumulators>{};
  static constexpr auto all_weights = std::make_index_sequence<weights_each>{};
  static constexpr auto all_inputs = std::make_index_sequence<inputs_each>{};
  static constexpr auto all_outputs = std::make_index_sequence<outputs>{};

  /// Merges `number` elements for each pack. Each pack is a separate variable, because compilers
  /// keep arrays of packs in memory from one term to the next.
  template <class V, std::size_t... P>
  POLYAK_INLINE void tile(std::size_t i, std::size_t number, V& doubt,
                          std::index_sequence<P...>) const {
    V sum[sizeof...(P)][accumulators];
    std::size_t k = 0;
    if (before[0] != nullptr) {
      (load(sum[P], i + P * number, number, all_accumulators), ...);
    } else {
      const TermWeights<V> weight(*this, k, all_weights);
      (term<true>(sum[P], weight, i + P * number, number, k, all_accumulators, all_weights,
                  all_inputs),
       ...);
      k = 1;
    }
    for (; k < terms; ++k) {
      const TermWeights<V> weight(*this, k, all_weights);
      (term<false>(sum[P], weight, i + P * number, number, k, all_accumulators, all_weights,
                   all_inputs),
       ...);
    }
    (store(sum[P], i + P * number, number, sizeof...(P) > 1, doubt, all_accumulators, all_outputs),
     ...);
  }

  template <class V>
  struct TermWeights {
    V weight[weights_each];
    template <std::size_t... W>
    POLYAK_INLINE TermWeights(const MergeKernel& kernel, std::size_t k, std::index_sequence<W...>)
        : weight{V(kernel.weights[k * weights_each + W])...} {}
  };

  template <class V, std::size_t... A>
  POLYAK_INLINE void load(V (&sum)[accumulators], std::size_t i, std::size_t number,
                          std::index_sequence<A...>) const {
    (load_stream(before[A] + i, number, sum[A]), ...);
  }

  template <bool First, class V, std::size_t... A, std::size_t... W, std::size_t... G>
  POLYAK_INLINE void term(V (&sum)[accumulators], const TermWeights<V>& weights_of_term,
                          std::size_t i, std::size_t number, std::size_t k,
                          std::index_sequence<A...>, std::index_sequence<W...>,
                          std::index_sequence<G...>) const {
    V x[inputs_each];
    (load_stream(inputs[k * inputs_each + G] + i, number, x[G]), ...);
    if constexpr (First) {
      law.first(sum[A]..., weights_of_term.weight[W]..., static_cast<const V&>(x[G])...);
    } else {
      law.next(sum[A]..., weights_of_term.weight[W]..., static_cast<const V&>(x[G])...);
    }
  }

  template <class V, std::size_t... A, std::size_t... O>
  POLYAK_INLINE void store(const V (&sum)[accumulators], std::size_t i, std::size_t number,
                           bool whole, [[maybe_unused]] V& doubt, std::index_sequence<A...>,
                           std::index_sequence<O...>) const {
    if (after[0] != nullptr) {
      (store_stream(after[A] + i, number, false, sum[A]), ...);
      return;
    }
    V y[outputs];
    law.finish(y[O]..., sum[A]...);
    if constexpr (may_fail<Law>) ((doubt = fma(y[O], V(0), doubt)), ...);
    (store_stream(out[O] + i, number, whole && past_caches[O], y[O]), ...);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
