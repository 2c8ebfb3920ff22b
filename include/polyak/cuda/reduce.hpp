// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reductions on a device: the folds of core/fold.hpp in the same tree, to the bits of the host.
/// Nothing waits for the host until read() is called.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/reduce.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/fold.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/gradient_factor.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/fold_grid.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/launch.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

[[nodiscard]] inline std::size_t blocks_for(std::uint64_t items) {
  return static_cast<std::size_t>((items + block_threads - 1) / block_threads);
}

}  // namespace detail

/// A fold over a list in the memory of a device, as polyak::Reduction is on the host, with the same
/// results. Streams are of the types E: `cuda::Reduction<Dot, float, float>`. Movable, not
/// copyable. For one thread at a time, like its executor.
template <class F, FloatingScalar... E>
class Reduction {
  static_assert(sizeof...(E) == static_cast<std::size_t>(F::streams),
                "polyak: a reduction is given as many streams as its fold reads");
  using Threads = detail::FoldThreads<F, E...>;
  using Row = typename Threads::Row;
  using Readings = typename Threads::Readings;
  using Places = detail::FoldReadingPlaces<F::streams>;

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
    readings_ = allocate(sizeof(Readings));
    const std::size_t parts = plan_.parts * sizeof(double);
    lanes_ = allocate(static_cast<std::size_t>(lanes) * sizeof(double));
    parts_[0] = allocate(parts);
    parts_[1] = allocate(parts);
    totals_ = allocate(per_list_ ? rows_.size() * sizeof(typename F::Part) : 0);
    results_ = allocate(plan_.results * sizeof(Result));
    write_readings(*executor_.space(), {});
  }

  /// Launches the fold in the order of the executor's stream, after what is there. Streams: lists
  /// (Parameters, Gradients) in the memory of this device, or stream_of(slots, slot). Gradients are
  /// folded as a step reads them, with scale, clip coefficient and value limit;
  /// stream_of(gradients) has them as they lie in memory. Throws std::invalid_argument for streams
  /// of another layout.
  ///
  /// A graph that captures this reads gradients in each replay with the scale and limit of the last
  /// call that was not captured, and with the coefficient that clip_norm() has found by then.
  /// Throws std::logic_error for a captured call whose scale or limit differs from that.
  template <class... Streams>
  void operator()(const Streams&... streams) {
    static_assert(sizeof...(Streams) == sizeof...(E));
    fold_streams(polyak::detail::folded_stream(streams)...);
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

  // Two copies would share the memory of a device, and not know what the other put there.
  Reduction(const Reduction&) = delete;
  Reduction& operator=(const Reduction&) = delete;
  Reduction(Reduction&&) noexcept = default;
  Reduction& operator=(Reduction&&) noexcept = default;
  ~Reduction() = default;

 private:
  using Memory = std::shared_ptr<Buffer<std::byte>>;
  template <class T>
  [[nodiscard]] static T* as(const Memory& memory) {
    return reinterpret_cast<T*>(memory->data());
  }

  template <class... S>
  void fold_streams(const S&... streams) {
    static_assert((std::same_as<typename S::Element, E> && ...),
                  "polyak: a reduction is given streams of its types");
    (check(streams.layout()), ...);
    detail::DeviceSpace& space = *executor_.space();
    const Places places = write_readings(space, {polyak::detail::reading_of(streams)...});
    // A graph brings its table along, for its replays may come at any time, and after them the
    // device has theirs.
    captured_ = captured_ || space.capturing();
    bool moved = !uploaded_ || captured_;
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
    detail::launch(
        space, detail::FoldKernel<F, E...>{fold_, places, rows, rows_.size(), tasks_, lanes, from},
        detail::blocks_for(tasks_), "the launch of a reduction");
    detail::launch(
        space, detail::JoinKernel<F, E...>{fold_, places, rows, rows_.size(), tasks_, lanes, from},
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

  /// Brings scales and limits to the device, where they differ from those there.
  Places write_readings(detail::DeviceSpace& space,
                        const std::array<polyak::detail::GradientReading, sizeof...(E)>& readings) {
    Places places{as<Readings>(readings_), {}};
    Readings now;
    for (std::size_t s = 0; s < sizeof...(E); ++s) {
      now.scale[s] = readings[s].scale;
      now.limit[s] = readings[s].limit;
      places.coefficient[s] = readings[s].coefficient;
    }
    std::uint64_t words[sizeof(Readings) / 8];
    std::memcpy(words, &now, sizeof now);
    if (std::equal(std::begin(words), std::end(words), std::begin(written_))) return places;
    if (space.capturing()) {
      polyak::detail::refuse_order(
          "polyak: a captured reduction of gradients whose scale or limit is new to it; call it "
          "once before the capture");
    }
    detail::write_words(space, readings_->data(), words, std::size(words));
    std::copy(std::begin(words), std::end(words), std::begin(written_));
    return places;
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
  bool per_list_, uploaded_ = false, captured_ = false;
  F fold_;
  std::vector<Row> rows_;
  std::vector<std::uint64_t> words_;
  std::uint64_t tasks_ = 0, lines_ = 0;
  std::size_t longest_ = 1;
  std::uint64_t written_[sizeof(Readings) / 8] = {};  // readings on the device
  Memory table_, readings_, lanes_, parts_[2], totals_, results_;
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

}  // namespace POLYAK_V0
}  // namespace polyak
