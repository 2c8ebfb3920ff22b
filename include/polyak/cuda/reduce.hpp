// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reductions on a device: the folds of core/fold.hpp in the same tree, to the bits of the host.
///
/// A thread takes some lanes of one block, 16 bytes of the narrowest stream at a time, or some
/// columns of a block of rows. Later launches join the lanes, combine the blocks level by level,
/// and finish. Nothing waits for the host until read() is called.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/reduce.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/fold.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/require.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/walk.hpp>

namespace polyak {
inline namespace v0 {
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

/// What one thread does for a fold F of streams of the types E.
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
  POLYAK_LAW static void load_one(const void* data, std::size_t at, std::size_t count,
                                  double filler, double* to) {
    Lanes<S, N> raw;
    const void* const from = static_cast<const unsigned char*>(data) + at * scalar_bytes<S>;
    if (count >= static_cast<std::size_t>(N) && is_aligned(from)) {
      raw.load(from, 0);
    } else {
      raw.load_some(from, 0, count);
    }
    for (int k = 0; k < N; ++k) {
      to[k] = static_cast<std::size_t>(k) < count ? static_cast<double>(widened<S>(raw.raw[k]))
                                                  : filler;
    }
  }
  template <std::size_t... S>
  POLYAK_LAW static void load(const Row& row, std::size_t at, std::size_t count,
                              const double* filler, Elements& to, std::index_sequence<S...>) {
    (load_one<E>(row.data[S], at, count, filler[S], to.x[S]), ...);
  }
  template <std::size_t... S>
  POLYAK_LAW static void first_of(const Row& row, std::size_t at, double* to,
                                  std::index_sequence<S...>) {
    ((to[S] = static_cast<double>(widened<E>(static_cast<const raw_t<E>*>(row.data[S])[at]))), ...);
  }
  template <std::size_t... S, std::size_t... A>
  POLYAK_LAW static void apply(const F& fold, const Elements& elements, const Elements& first,
                               double (&sums)[static_cast<std::size_t>(N)][sizeof...(A)],
                               std::index_sequence<S...>, std::index_sequence<A...>) {
    for (int k = 0; k < N; ++k) {
      if constexpr (F::shifted) {
        fold((elements.x[S][k] - first.x[S][k])..., sums[k][A]...);
      } else {
        fold(elements.x[S][k]..., sums[k][A]...);
      }
    }
  }

  /// Thread `thread` of one block of a row of numbers: its lanes, to [lane][accumulator].
  POLYAK_LAW static void block(const F& fold, const Row& row, std::size_t number,
                               std::size_t thread, double* to) {
    const std::size_t blocks = row.shape.blocks(), size = row.shape.block();
    const std::size_t b = number % blocks, rest = row.shape.reduced - b * size;
    const std::size_t begin = number / blocks * row.shape.reduced + b * size;
    const std::size_t count = rest < size ? rest : size;
    const std::size_t own = thread * static_cast<std::size_t>(N);
    double sums[static_cast<std::size_t>(N)][accumulators] = {};
    double filler[sizeof...(E)] = {};
    Elements first, elements;
    if constexpr (F::shifted) {
      first_of(row, begin, filler, Streams{});
      for (std::size_t s = 0; s < sizeof...(E); ++s) {
        for (int k = 0; k < N; ++k) first.x[s][k] = filler[s];
      }
    }
    for (std::size_t i = own; i < count; i += static_cast<std::size_t>(lanes)) {
      load(row, begin + i, count - i, filler, elements, Streams{});
      apply(fold, elements, first, sums, Streams{}, Accumulators{});
    }
    for (int k = 0; k < N; ++k) {
      for (int a = 0; a < accumulators; ++a) to[a * lanes + static_cast<int>(own) + k] = sums[k][a];
    }
  }

  /// N columns, from `column` on, of one block of rows: to its parts.
  POLYAK_LAW static void strip(const F& fold, const Row& row, std::size_t number,
                               std::size_t column, double* to) {
    const FoldShape& shape = row.shape;
    const std::size_t blocks = shape.blocks(), size = shape.block();
    const std::size_t b = number % blocks, rest = shape.reduced - b * size;
    const std::size_t begin = (number / blocks * shape.reduced + b * size) * shape.inner + column;
    const std::size_t rows = rest < size ? rest : size, width = shape.inner - column;
    double sums[static_cast<std::size_t>(N)][accumulators] = {};
    const double zeros[sizeof...(E)] = {};
    Elements first, elements;
    if constexpr (F::shifted) load(row, begin, width, zeros, first, Streams{});
    for (std::size_t r = 0; r < rows; ++r) {
      load(row, begin + r * shape.inner, width, zeros, elements, Streams{});
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
  POLYAK_LAW static void join(const F& fold, const Row& row, std::size_t number, double* lanes_of,
                              double* to) {
    const std::size_t blocks = row.shape.blocks(), size = row.shape.block();
    const std::size_t b = number % blocks, rest = row.shape.reduced - b * size;
    typename F::Part part;
    part.count = static_cast<double>(rest < size ? rest : size);
    for (int a = 0; a < accumulators; ++a) {
      part.value[a] = polyak::detail::joined(fold, lanes_of + a * lanes, lanes);
    }
    double shift[sizeof...(E)] = {};
    if constexpr (F::shifted) {
      first_of(row, number / blocks * row.shape.reduced + b * size, shift, Streams{});
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
      Threads::block(fold, row, number, own % Threads::threads_per_block,
                     lanes + row.lanes + number * Threads::room);
    } else if (own < Threads::tasks(row.shape)) {
      constexpr auto columns = static_cast<std::size_t>(Threads::N);
      const std::size_t across = (row.shape.inner + columns - 1) / columns;
      Threads::strip(fold, row, own / across, own % across * columns, parts + row.parts);
    }
  }
};

template <class F, class... E>
struct JoinKernel {
  using Threads = FoldThreads<F, E...>;
  F fold;
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
    Threads::join(fold, row, number, lanes + row.lanes + number * Threads::room, parts + row.parts);
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

[[nodiscard]] inline std::size_t blocks_for(std::uint64_t items) {
  return static_cast<std::size_t>((items + block_threads - 1) / block_threads);
}

}  // namespace detail

/// A fold over a list in the memory of a device, as polyak::Reduction is on the host, with the same
/// results. Streams are of the types E: `cuda::Reduction<Dot, float, float>`. For one thread at a
/// time, like its executor.
template <class F, FloatingScalar... E>
class Reduction {
  static_assert(sizeof...(E) == static_cast<std::size_t>(F::streams),
                "polyak: a reduction is given as many streams as its fold reads");
  using Threads = detail::FoldThreads<F, E...>;
  using Row = typename Threads::Row;

 public:
  using Result = fold_result_t<F>;

  /// Over all tensors of the list's type but buffers. Throws std::invalid_argument for options out
  /// of range, and what the device says where there is no memory.
  template <TensorList List>
  Reduction(const Executor& executor, const List& list, const ReductionOptions& options = {},
            const F& fold = {})
      : Reduction(executor, list, polyak::detail::Trained{list.layout().get()}, options, fold) {}

  /// Over the tensors for whose index `takes(index)` holds.
  template <TensorList List, std::predicate<std::size_t> Takes>
  Reduction(const Executor& executor, const List& list, const Takes& takes,
            const ReductionOptions& options = {}, const F& fold = {})
      : executor_(executor),
        layout_(list.layout()),
        plan_(polyak::detail::fold_plan(*layout_, polyak::detail::dtype_of<list_scalar_t<List>>(),
                                        takes, options, static_cast<std::size_t>(F::accumulators))),
        per_list_(options.per == Per::list),
        fold_(fold) {
    std::uint64_t lines = 0, lanes = 0;
    for (const auto& tensor : plan_.tensors) {
      Row row{};
      row.shape = tensor.shape;
      row.parts = tensor.parts;
      row.lanes = lanes;
      row.first_task = tasks_;
      row.first_line = lines;
      rows_.push_back(row);
      // Blocks begin at multiples of their threads, so that JoinKernel finds them.
      constexpr std::size_t each = Threads::threads_per_block;
      tasks_ += (Threads::tasks(tensor.shape) + each - 1) / each * each;
      if (tensor.shape.inner == 1) {
        lanes += tensor.shape.outer * tensor.shape.blocks() * Threads::room;
      }
      lines += tensor.shape.results();
      longest_ = std::max(longest_, tensor.shape.blocks());
    }
    lines_ = lines;
    if (per_list_) plan_.results = 1;
    const auto allocate = [&](std::size_t bytes) {
      return std::make_shared<Buffer<std::byte>>(executor, std::max<std::size_t>(bytes, 8));
    };
    table_ = allocate(rows_.size() * sizeof(Row));
    const std::size_t parts = plan_.parts * sizeof(double);
    lanes_ = allocate(static_cast<std::size_t>(lanes) * sizeof(double));
    parts_[0] = allocate(parts);
    parts_[1] = allocate(parts);
    totals_ = allocate(per_list_ ? rows_.size() * sizeof(typename F::Part) : 0);
    results_ = allocate(plan_.results * sizeof(Result));
  }

  /// Launches the fold in the order of the executor's stream, after what is there. Streams: lists
  /// (Parameters, Gradients) in the memory of this device, or stream_of(slots, slot). Throws
  /// std::invalid_argument for those of another layout.
  template <class... Streams>
  void operator()(const Streams&... streams) {
    static_assert(sizeof...(Streams) == sizeof...(E));
    run(stream_of(streams)...);
  }

  /// The results, in the order of polyak::Reduction::results(), on the device.
  [[nodiscard]] const Result* data() const { return as<Result>(results_); }
  [[nodiscard]] std::size_t size() const { return plan_.results; }
  /// Waits for the stream, and copies the results.
  [[nodiscard]] std::vector<Result> read() const {
    const auto host = std::make_unique<Result[]>(size());
    polyak::detail::read_bytes(executor_.space().get(), host.get(), data(),
                               size() * sizeof(Result));
    return std::vector<Result>(host.get(), host.get() + size());
  }
  [[nodiscard]] F& fold() { return fold_; }

 private:
  using Memory = std::shared_ptr<Buffer<std::byte>>;
  template <class T>
  [[nodiscard]] static T* as(const Memory& memory) {
    return reinterpret_cast<T*>(memory->data());
  }

  void run(const FoldStream<E>&... streams) {
    (check(streams.layout()), ...);
    bool moved = !uploaded_;
    for (std::size_t k = 0; k < rows_.size(); ++k) {
      const std::size_t index = plan_.tensors[k].index;
      const void* const data[] = {streams[index]...};
      std::uint64_t present = 1;
      for (std::size_t s = 0; s < sizeof...(E); ++s) {
        moved = moved || rows_[k].data[s] != data[s];
        rows_[k].data[s] = data[s];
        if (data[s] == nullptr) present = 0;
      }
      rows_[k].present = present;
    }
    detail::DeviceSpace& space = *executor_.space();
    const Row* const rows = as<Row>(table_);
    if (moved && !rows_.empty()) {
      static_assert(sizeof(Row) % 8 == 0);
      words_.resize(rows_.size() * sizeof(Row) / 8);
      std::memcpy(words_.data(), rows_.data(), words_.size() * 8);
      detail::write_words(space, table_->data(), words_.data(), words_.size());
      uploaded_ = true;
    }
    double* const lanes = as<double>(lanes_);
    double* from = as<double>(parts_[0]);
    double* to = as<double>(parts_[1]);
    detail::launch(space,
                   detail::FoldKernel<F, E...>{fold_, rows, rows_.size(), tasks_, lanes, from},
                   detail::blocks_for(tasks_), "the launch of a reduction");
    detail::launch(
        space, detail::JoinKernel<F, E...>{fold_, rows, rows_.size(), tasks_, lanes, from},
        detail::blocks_for(tasks_ / Threads::threads_per_block + 1), "the launch of a reduction");
    std::size_t level = 0;
    for (std::size_t nodes = longest_; nodes > 1; ++level) {
      nodes = (nodes + polyak::detail::fold_group - 1) / polyak::detail::fold_group;
      detail::launch(
          space, detail::LevelKernel<F>{fold_, rows, rows_.size(), lines_, nodes, level, from, to},
          detail::blocks_for(lines_ * nodes), "the launch of a reduction");
      std::swap(from, to);
    }
    auto* const totals = per_list_ ? as<typename F::Part>(totals_) : nullptr;
    detail::launch(space,
                   detail::FinishKernel<F>{fold_, rows, rows_.size(), lines_, from, totals,
                                           as<Result>(results_)},
                   per_list_ ? 1 : detail::blocks_for(lines_), "the launch of a reduction");
  }

  void check(const Layout* layout) const {
    require(layout != nullptr, "a reduction on a device must be given lists of the device",
            std::string_view("an array"));
    if (layout == layout_.get()) return;
    if (layout->space != layout_->space || layout->tensors != layout_->tensors) {
      polyak::detail::refuse_value("polyak: what is reduced differs from the reduction: " +
                                   (layout->space != layout_->space
                                        ? std::string("it is of other memory")
                                        : polyak::detail::differences(*layout, *layout_)));
    }
  }

  Executor executor_;
  std::shared_ptr<const Layout> layout_;
  polyak::detail::FoldPlan plan_;
  bool per_list_, uploaded_ = false;
  F fold_;
  std::vector<Row> rows_;
  std::vector<std::uint64_t> words_;
  std::uint64_t tasks_ = 0, lines_ = 0;
  std::size_t longest_ = 1;
  Memory table_, lanes_, parts_[2], totals_, results_;
};

/// The Euclidean norm of all weights, or of all gradients that are set, of a list on a device.
/// Waits for it; cuda::Reduction does not.
template <TensorList List>
requires(polyak::detail::on_device<list_scalar_t<List>>)
    [[nodiscard]] double norm(const Executor& executor, const List& list) {
  Reduction<Norm, element_t<list_scalar_t<List>>> reduction(executor, list);
  reduction(list);
  return reduction.read()[0];
}

}  // namespace cuda

using cuda::norm;

}  // namespace v0
}  // namespace polyak
