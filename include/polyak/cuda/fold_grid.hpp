// SPDX-License-Identifier: Apache-2.0
/// @file
/// The work of one thread of a reduction: plain functions for host and device, like those of
/// grid.hpp.
///
/// A thread takes some lanes of one block, 16 bytes of the narrowest stream at a time, or some
/// columns of a block of rows. Later launches join the lanes, combine the blocks level by level,
/// and finish.
///
/// Above 300 lines: the stages of one reduction, in the order of their launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <polyak/core/fold.hpp>
#include <polyak/core/fold_tree.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/cuda/grid.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

using polyak::detail::FoldShape;

/// One tensor of a reduction on the device.
template <int Streams>
struct FoldRow {
  const void* data[static_cast<std::size_t>(Streams)];
  std::uint64_t present;  ///< 0 where a stream has no elements this time
  FoldShape shape;
  std::uint64_t parts, lanes;  ///< where they begin
  std::uint64_t first_task;    ///< of the first launch: a thread of a block or a strip
  std::uint64_t first_line;    ///< of later ones: a result
};

/// The row that item `at` belongs to; `first` is where the items of a row begin.
template <class Row>
[[nodiscard]] POLYAK_LAW std::size_t row_of(const Row* rows, std::size_t count,
                                            std::uint64_t Row::*first, std::uint64_t at) {
  std::size_t low = 0, high = count;
  while (high - low > 1) {
    const std::size_t middle = (low + high) / 2;
    (rows[middle].*first <= at ? low : high) = middle;
  }
  return low;
}

/// How the streams of a reduction are read: gradients as a step reads them, others at scale 1.
template <int Streams>
struct FoldReadings {
  static constexpr auto count = static_cast<std::size_t>(Streams);
  double scale[count];
  double limit[count];
};

/// Where a launch finds them. What is in memory may change between the replays of a graph.
template <int Streams>
struct FoldReadingPlaces {
  const FoldReadings<Streams>* memory;
  const double* coefficient[FoldReadings<Streams>::count];  ///< of clipping; null: 1

  [[nodiscard]] POLYAK_LAW FoldReadings<Streams> now() const {
    FoldReadings<Streams> readings = *memory;
    for (int s = 0; s < Streams; ++s) {
      if (coefficient[s] != nullptr) readings.scale[s] *= *coefficient[s];
    }
    return readings;
  }
};

/// The work of one thread for a fold F of streams of the types E.
template <class F, class... E>
struct FoldThreads {
  static constexpr std::size_t narrowest() {
    std::size_t bytes = 8;
    ((bytes = scalar_bytes<E> < bytes ? scalar_bytes<E> : bytes), ...);
    return bytes;
  }
  /// Elements that a thread loads at once from each stream: its lanes, or its columns.
  static constexpr int N = static_cast<int>(16 / narrowest());
  static constexpr int lanes = polyak::detail::fold_lanes<F>;
  static constexpr int accumulators = F::accumulators;
  static constexpr std::size_t threads_per_block = static_cast<std::size_t>(lanes / N);
  using Row = FoldRow<F::streams>;
  using Readings = FoldReadings<F::streams>;
  using Streams = std::index_sequence_for<E...>;
  using Accumulators = std::make_index_sequence<static_cast<std::size_t>(accumulators)>;

  /// Doubles that the lanes of one block take before they are joined.
  static constexpr auto room = static_cast<std::size_t>(accumulators * lanes);

  /// Threads that the first launch has for a tensor.
  [[nodiscard]] POLYAK_LAW static std::size_t tasks(const FoldShape& shape) {
    const std::size_t blocks = shape.outer * shape.blocks();
    constexpr auto columns = static_cast<std::size_t>(N);
    return shape.inner == 1 ? blocks * threads_per_block
                            : blocks * ((shape.inner + columns - 1) / columns);
  }

  /// N elements of each stream as doubles.
  struct Elements {
    double x[sizeof...(E)][static_cast<std::size_t>(N)];
  };
  template <class S>
  [[nodiscard]] POLYAK_LAW static double read(const raw_t<S>& element, const Readings& readings,
                                              std::size_t stream) {
    using C = carrier_t<S>;
    return static_cast<double>(read_gradient(widened<S>(element),
                                             static_cast<C>(readings.scale[stream]),
                                             static_cast<C>(readings.limit[stream])));
  }
  template <class S>
  POLYAK_LAW static void load_one(const Row& row, const Readings& readings, std::size_t stream,
                                  std::size_t at, std::size_t count, double filler, double* to) {
    Lanes<S, N> raw;
    const void* const from =
        static_cast<const unsigned char*>(row.data[stream]) + at * scalar_bytes<S>;
    if (count >= static_cast<std::size_t>(N) && is_aligned(from)) {
      raw.load(from, 0);
    } else {
      raw.load_some(from, 0, count);
    }
    for (int k = 0; k < N; ++k) {
      to[k] = static_cast<std::size_t>(k) < count ? read<S>(raw.raw[k], readings, stream) : filler;
    }
  }
  template <std::size_t... S>
  POLYAK_LAW static void load(const Row& row, const Readings& readings, std::size_t at,
                              std::size_t count, const double* filler, Elements& to,
                              std::index_sequence<S...>) {
    (load_one<E>(row, readings, S, at, count, filler[S], to.x[S]), ...);
  }
  template <std::size_t... S>
  POLYAK_LAW static void first_of(const Row& row, const Readings& readings, std::size_t at,
                                  double* to, std::index_sequence<S...>) {
    ((to[S] = read<E>(static_cast<const raw_t<E>*>(row.data[S])[at], readings, S)), ...);
  }
  template <std::size_t... S, std::size_t... A>
  POLYAK_LAW static void apply(const F& fold, const Elements& elements, const Elements& first,
                               double (&sums)[static_cast<std::size_t>(N)][sizeof...(A)],
                               std::index_sequence<S...>, std::index_sequence<A...>) {
    using V = polyak::detail::Number<double>;
    for (int k = 0; k < N; ++k) {
      V sum[] = {sums[k][A]...};
      if constexpr (F::shifted) {
        fold(V(elements.x[S][k] - first.x[S][k])..., sum[A]...);
      } else {
        fold(V(elements.x[S][k])..., sum[A]...);
      }
      ((sums[k][A] = sum[A].value), ...);
    }
  }

  /// Thread `thread` of one block of a row of numbers: its lanes, to [lane][accumulator].
  POLYAK_LAW static void block(const F& fold, const Row& row, const Readings& readings,
                               std::size_t number, std::size_t thread, double* to) {
    const std::size_t blocks = row.shape.blocks(), size = row.shape.block();
    const std::size_t b = number % blocks, rest = row.shape.reduced - b * size;
    const std::size_t begin = number / blocks * row.shape.reduced + b * size;
    const std::size_t count = rest < size ? rest : size;
    const std::size_t own = thread * static_cast<std::size_t>(N);
    double sums[static_cast<std::size_t>(N)][static_cast<std::size_t>(accumulators)] = {};
    double filler[sizeof...(E)] = {};
    Elements first, elements;
    if constexpr (F::shifted) {
      first_of(row, readings, begin, filler, Streams{});
      for (std::size_t s = 0; s < sizeof...(E); ++s) {
        for (int k = 0; k < N; ++k) first.x[s][k] = filler[s];
      }
    }
    for (std::size_t i = own; i < count; i += static_cast<std::size_t>(lanes)) {
      load(row, readings, begin + i, count - i, filler, elements, Streams{});
      apply(fold, elements, first, sums, Streams{}, Accumulators{});
    }
    for (int k = 0; k < N; ++k) {
      for (int a = 0; a < accumulators; ++a) to[a * lanes + static_cast<int>(own) + k] = sums[k][a];
    }
  }

  /// N columns, from `column` on, of one block of rows: to its parts.
  POLYAK_LAW static void strip(const F& fold, const Row& row, const Readings& readings,
                               std::size_t number, std::size_t column, double* to) {
    const FoldShape& shape = row.shape;
    const std::size_t blocks = shape.blocks(), size = shape.block();
    const std::size_t b = number % blocks, rest = shape.reduced - b * size;
    const std::size_t begin = (number / blocks * shape.reduced + b * size) * shape.inner + column;
    const std::size_t rows = rest < size ? rest : size, width = shape.inner - column;
    double sums[static_cast<std::size_t>(N)][static_cast<std::size_t>(accumulators)] = {};
    const double zeros[sizeof...(E)] = {};
    Elements first, elements;
    if constexpr (F::shifted) load(row, readings, begin, width, zeros, first, Streams{});
    for (std::size_t r = 0; r < rows; ++r) {
      load(row, readings, begin + r * shape.inner, width, zeros, elements, Streams{});
      apply(fold, elements, first, sums, Streams{}, Accumulators{});
    }
    for (int k = 0; k < N && static_cast<std::size_t>(k) < width; ++k) {
      typename F::Part part;
      part.count = static_cast<double>(rows);
      double shift[sizeof...(E)] = {};
      for (int a = 0; a < accumulators; ++a) part.value[a] = sums[k][a];
      if constexpr (F::shifted) {
        for (std::size_t s = 0; s < sizeof...(E); ++s) shift[s] = first.x[s][k];
      }
      fold.close(part, shift);
      polyak::detail::put_part<F>(to, number, column + static_cast<std::size_t>(k), shape.inner,
                                  part);
    }
  }

  /// Joins the lanes of one block, into its part.
  POLYAK_LAW static void join(const F& fold, const Row& row, const Readings& readings,
                              std::size_t number, double* lanes_of, double* to) {
    const std::size_t blocks = row.shape.blocks(), size = row.shape.block();
    const std::size_t b = number % blocks, rest = row.shape.reduced - b * size;
    typename F::Part part;
    part.count = static_cast<double>(rest < size ? rest : size);
    for (int a = 0; a < accumulators; ++a) {
      part.value[a] =
          polyak::detail::joined(fold, lanes_of + static_cast<std::size_t>(a * lanes), lanes);
    }
    double shift[sizeof...(E)] = {};
    if constexpr (F::shifted) {
      first_of(row, readings, number / blocks * row.shape.reduced + b * size, shift, Streams{});
    }
    fold.close(part, shift);
    polyak::detail::put_part<F>(to, number, 0, 1, part);
  }
};

// ---- kernels: each takes as many threads as there are items ------------------------------------

template <class F, class... E>
struct FoldKernel {
  using Threads = FoldThreads<F, E...>;
  F fold;
  FoldReadingPlaces<F::streams> readings;
  const typename Threads::Row* rows;
  std::size_t count;
  std::uint64_t tasks;
  double* lanes;  ///< of all blocks, before they are joined
  double* parts;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const std::uint64_t task = std::uint64_t{block} * threads + thread;
    if (task >= tasks) return;
    const auto row = rows[row_of(rows, count, &Threads::Row::first_task, task)];
    if (row.present == 0) return;
    const auto own = static_cast<std::size_t>(task - row.first_task);
    if (row.shape.inner == 1) {
      const std::size_t number = own / Threads::threads_per_block;
      Threads::block(fold, row, readings.now(), number, own % Threads::threads_per_block,
                     lanes + row.lanes + number * Threads::room);
    } else if (own < Threads::tasks(row.shape)) {
      constexpr auto columns = static_cast<std::size_t>(Threads::N);
      const std::size_t across = (row.shape.inner + columns - 1) / columns;
      Threads::strip(fold, row, readings.now(), own / across, own % across * columns,
                     parts + row.parts);
    }
  }
};

template <class F, class... E>
struct JoinKernel {
  using Threads = FoldThreads<F, E...>;
  F fold;
  FoldReadingPlaces<F::streams> readings;
  const typename Threads::Row* rows;
  std::size_t count;
  std::uint64_t tasks;
  double* lanes;
  double* parts;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const std::uint64_t task =
        (std::uint64_t{block} * threads + thread) * Threads::threads_per_block;
    if (task >= tasks) return;
    const auto row = rows[row_of(rows, count, &Threads::Row::first_task, task)];
    if (row.present == 0 || row.shape.inner != 1) return;
    const auto number =
        static_cast<std::size_t>(task - row.first_task) / Threads::threads_per_block;
    Threads::join(fold, row, readings.now(), number, lanes + row.lanes + number * Threads::room,
                  parts + row.parts);
  }
};

/// One level: each group of the parts of a line to one part.
template <class F>
struct LevelKernel {
  F fold;
  const FoldRow<F::streams>* rows;
  std::size_t count;
  std::uint64_t lines, groups;  ///< of the longest line
  std::size_t level;
  const double* from;
  double* to;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const std::uint64_t task = std::uint64_t{block} * threads + thread;
    if (task >= lines * groups) return;
    const std::uint64_t line = task / groups;
    const auto group = static_cast<std::size_t>(task % groups);
    const auto row = rows[row_of(rows, count, &FoldRow<F::streams>::first_line, line)];
    if (row.present == 0) return;
    const FoldShape& shape = row.shape;
    const auto own = static_cast<std::size_t>(line - row.first_line);
    const std::size_t o = own / shape.inner, column = own % shape.inner;
    std::size_t nodes = shape.blocks(), span = shape.block();
    for (std::size_t k = 0; k < level; ++k) {
      nodes = (nodes + polyak::detail::fold_group - 1) / polyak::detail::fold_group;
      span *= polyak::detail::fold_group;
    }
    if (group * polyak::detail::fold_group >= nodes) return;
    const std::size_t at = static_cast<std::size_t>(row.parts) +
                           o * shape.blocks() * shape.inner * std::size_t{F::accumulators};
    polyak::detail::put_part<F>(
        to + at, group, column, shape.inner,
        polyak::detail::combined_group(fold, from + at, nodes, group, column, shape.inner, span,
                                       shape.reduced));
  }
};

/// The parts of lines to their results, or, in one thread, those of the whole list to one.
template <class F>
struct FinishKernel {
  F fold;
  const FoldRow<F::streams>* rows;
  std::size_t count;
  std::uint64_t lines;
  const double* parts;
  typename F::Part* totals;  ///< null unless for the list
  fold_result_t<F>* results;

  [[nodiscard]] POLYAK_LAW typename F::Part part(std::uint64_t line) const {
    const auto row = rows[row_of(rows, count, &FoldRow<F::streams>::first_line, line)];
    const FoldShape& shape = row.shape;
    if (row.present == 0 || shape.reduced == 0) return {};
    const auto own = static_cast<std::size_t>(line - row.first_line);
    return polyak::detail::part_of<F>(
        parts + row.parts +
            own / shape.inner * shape.blocks() * shape.inner * std::size_t{F::accumulators},
        0, own % shape.inner, shape.inner, shape.reduced, shape.reduced);
  }
  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned threads) const {
    const std::uint64_t task = std::uint64_t{block} * threads + thread;
    if (totals == nullptr) {
      if (task < lines) results[task] = polyak::detail::finished(fold, part(task));
      return;
    }
    if (task != 0) return;
    for (std::uint64_t line = 0; line < lines; ++line) totals[line] = part(line);
    results[0] = polyak::detail::finished(
        fold, polyak::detail::combined_all(fold, totals, static_cast<std::size_t>(lines)));
  }
};

}  // namespace detail
}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
