// SPDX-License-Identifier: Apache-2.0
/// @file
/// The work of one thread of a sweep over streams: plain functions for host and device, like those
/// of grid.hpp.
///
/// A block takes a chunk of one tensor. A thread takes tiles of N elements, where N numbers of the
/// narrowest type are 16 bytes: it loads a tile of each input, widens it to the type of the law,
/// applies the law to each element, rounds and stores. Tiles that are not at multiples of 16 bytes,
/// or that end with the tensor, are read and written element by element.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <polyak/core/law.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/cuda/grid.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

/// Where a sweep finds its streams: chunks, rows with the first output and the size of a tensor,
/// and the addresses of its other streams, so many words for each row.
struct StreamTable {
  const Chunk* chunks;
  const Row<0>* rows;
  const std::uint64_t* others;
  std::uint64_t others_each;
};

/// The tiles of streams of the types E.
template <class... E>
struct StreamTiles {
  static constexpr std::size_t narrowest() {
    std::size_t bytes = 8;
    ((bytes = scalar_bytes<E> < bytes ? scalar_bytes<E> : bytes), ...);
    return bytes;
  }
  static constexpr std::size_t N = 16 / narrowest();
  static constexpr std::size_t chunk = N * block_threads * tiles_per_thread;
};

/// Elements at..at + N of a stream of E as T; those behind the end of the tensor, `rest` elements
/// on, are 0.
template <class E, class T, std::size_t N>
POLYAK_LAW void load_tile(const void* data, std::size_t at, std::size_t rest, T (&to)[N]) {
  Lanes<E, static_cast<int>(N)> lanes;
  if (rest >= N && is_aligned(data)) {
    lanes.load(data, at);
  } else {
    lanes.load_some(data, at, rest);
  }
  for (std::size_t k = 0; k < N; ++k) to[k] = static_cast<T>(widened<E>(lanes.raw[k]));
}
template <class E, class T, std::size_t N>
POLYAK_LAW void store_tile(void* data, std::size_t at, std::size_t rest, const T (&from)[N]) {
  Lanes<E, static_cast<int>(N)> lanes;
  for (std::size_t k = 0; k < N; ++k) {
    lanes.raw[k] = narrowed<E>(static_cast<carrier_t<E>>(from[k]));
  }
  if (rest >= N && is_aligned(data)) {
    lanes.store(data, at);
  } else {
    lanes.store_some(data, at, rest);
  }
}

[[nodiscard]] POLYAK_LAW void* address_of(std::uint64_t word) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(word));  // NOLINT: a table of words
}

/// The types of some streams. Unlike those of a std::tuple they need not be complete.
template <class... E>
struct StreamTypes {};

/// A law with a fixed number of streams.
template <class Law, class Outputs, class Inputs>
struct StreamKernel;
template <class Law, class... Out, class... In>
struct StreamKernel<Law, StreamTypes<Out...>, StreamTypes<In...>> {
  using T = typename Law::Value;
  static constexpr std::size_t outputs = sizeof...(Out), streams = outputs + sizeof...(In);
  static constexpr std::size_t N = StreamTiles<Out..., In...>::N;
  static constexpr std::size_t chunk = StreamTiles<Out..., In...>::chunk;

  Law law;
  StreamTable table;

  void place(const StreamTable& where, std::size_t) { table = where; }
  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const Chunk here = table.chunks[block];
    const Row<0> row = table.rows[here.row];
    void* data[streams] = {row.x};
    for (std::size_t s = 1; s < streams; ++s) {
      data[s] = address_of(table.others[here.row * table.others_each + s - 1]);
    }
    const auto begin = static_cast<std::size_t>(here.begin),
               size = static_cast<std::size_t>(row.size);
    const std::size_t end = begin + chunk < size ? begin + chunk : size;
    for (std::size_t at = begin + thread * N; at < end; at += threads * N) {
      tile(data, at, size - at, std::index_sequence_for<Out...>{},
           std::index_sequence_for<In...>{});
    }
  }

 private:
  template <std::size_t... O, std::size_t... I>
  POLYAK_LAW void tile(void* const (&data)[streams], std::size_t at, std::size_t rest,
                       std::index_sequence<O...>, std::index_sequence<I...>) const {
    using V = Number<T>;
    T values[streams][N];
    if constexpr (Law::streams.updates) (load_tile<Out>(data[O], at, rest, values[O]), ...);
    (load_tile<In>(data[outputs + I], at, rest, values[outputs + I]), ...);
    for (std::size_t k = 0; k < N; ++k) {
      V y[outputs];
      if constexpr (Law::streams.updates) ((y[O] = V(values[O][k])), ...);
      law(y[O]..., static_cast<const V&>(V(values[outputs + I][k]))...);
      ((values[O][k] = y[O].value), ...);
    }
    (store_tile<Out>(data[O], at, rest, values[O]), ...);
  }
};

/// A law that merges `terms` terms. The addresses of a row are those of the further outputs, then
/// of the inputs, term by term.
template <class Law, class Out, class In>
struct MergeKernel {
  using T = typename Law::Value;
  using V = Number<T>;
  static constexpr auto inputs_each = static_cast<std::size_t>(Law::merges.inputs);
  static constexpr auto accumulators = static_cast<std::size_t>(Law::merges.accumulators);
  static constexpr auto outputs = static_cast<std::size_t>(Law::merges.outputs);
  static constexpr auto weights_each = static_cast<std::size_t>(Law::merges.weights);
  static constexpr std::size_t N = StreamTiles<Out, In>::N;
  static constexpr std::size_t chunk = StreamTiles<Out, In>::chunk;

  Law law;
  StreamTable table;
  std::uint64_t terms;
  const std::uint64_t* weights;  ///< of each term, the bits of doubles

  /// The weights lie behind the addresses of all rows.
  void place(const StreamTable& where, std::size_t rows) {
    table = where;
    weights = where.others + rows * where.others_each;
  }
  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const Chunk here = table.chunks[block];
    const Row<0> row = table.rows[here.row];
    const std::uint64_t* const others = table.others + here.row * table.others_each;
    void* to[outputs] = {row.x};
    for (std::size_t o = 1; o < outputs; ++o) to[o] = address_of(others[o - 1]);
    const auto begin = static_cast<std::size_t>(here.begin),
               size = static_cast<std::size_t>(row.size);
    const std::size_t end = begin + chunk < size ? begin + chunk : size;
    for (std::size_t at = begin + thread * N; at < end; at += threads * N) {
      V sums[N][accumulators];
      term<true>(others + outputs - 1, 0, at, size - at, sums);
      for (std::uint64_t k = 1; k < terms; ++k) {
        term<false>(others + outputs - 1 + k * inputs_each, k, at, size - at, sums);
      }
      finish(to, at, size - at, sums, std::make_index_sequence<accumulators>{},
             std::make_index_sequence<outputs>{});
    }
  }

 private:
  template <bool First>
  POLYAK_LAW void term(const std::uint64_t* inputs, std::uint64_t k, std::size_t at,
                       std::size_t rest, V (&sums)[N][accumulators]) const {
    T x[inputs_each][N];
    for (std::size_t g = 0; g < inputs_each; ++g) {
      load_tile<In>(address_of(inputs[g]), at, rest, x[g]);
    }
    V weight[weights_each];
    for (std::size_t w = 0; w < weights_each; ++w) {
      weight[w] = static_cast<T>(__builtin_bit_cast(double, weights[k * weights_each + w]));
    }
    for (std::size_t i = 0; i < N; ++i) {
      add<First>(sums[i], weight, x, i, std::make_index_sequence<accumulators>{},
                 std::make_index_sequence<weights_each>{}, std::make_index_sequence<inputs_each>{});
    }
  }
  template <bool First, std::size_t... A, std::size_t... W, std::size_t... G>
  POLYAK_LAW void add(V (&sum)[accumulators], const V (&weight)[weights_each],
                      const T (&x)[inputs_each][N], std::size_t i, std::index_sequence<A...>,
                      std::index_sequence<W...>, std::index_sequence<G...>) const {
    if constexpr (First) {
      law.first(sum[A]..., weight[W]..., static_cast<const V&>(V(x[G][i]))...);
    } else {
      law.next(sum[A]..., weight[W]..., static_cast<const V&>(V(x[G][i]))...);
    }
  }
  template <std::size_t... A, std::size_t... O>
  POLYAK_LAW void finish(void* const (&to)[outputs], std::size_t at, std::size_t rest,
                         const V (&sums)[N][accumulators], std::index_sequence<A...>,
                         std::index_sequence<O...>) const {
    T values[outputs][N];
    for (std::size_t i = 0; i < N; ++i) {
      V y[outputs];
      law.finish(y[O]..., sums[i][A]...);
      ((values[O][i] = y[O].value), ...);
    }
    (store_tile<Out>(to[O], at, rest, values[O]), ...);
  }
};

}  // namespace detail
}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
