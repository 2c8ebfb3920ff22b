// SPDX-License-Identifier: Apache-2.0
/// @file
/// sweep_streams() and merge_streams() (core/streams.hpp), and what is built on them, for lists and
/// buffers on a device: one launch for all tensors, with the host's laws and the host's bits.
///
///   sweep_streams(executor, law, writes(target), reads(first, second));   // a cuda::Executor
///
/// Addresses, and the weights of a merge, lie in a table on the device. It is made and uploaded by
/// the first call for the outputs; later calls pass what changed as arguments of a launch, allocate
/// nothing and wait for nothing. A captured sweep replays with the addresses, weights and scalars
/// that it was captured with, and must have been made once before.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/streams.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/merge_terms.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/tensors/stream.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/launch.hpp>
#include <polyak/cuda/stream_grid.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

inline constexpr std::size_t row_words = sizeof(Row<0>) / 8;

/// The rows of a sweep, and the words beside them: the addresses of the other streams of each row,
/// then the weights of a merge. Refers to memory that keeps its capacity from call to call.
class StreamWords {
 public:
  StreamWords(std::vector<std::uint64_t>& rows, std::vector<std::uint64_t>& words)
      : rows_(rows), words_(words) {
    rows_.clear();
    words_.clear();
  }
  void add_row(const void* first, std::size_t size) {
    constexpr std::uint64_t no_tensor = ~std::uint64_t{0};  // unlike the tables of a step
    rows_.insert(rows_.end(), {word_of(first), size, no_tensor, 0});
  }
  void add(const void* address) { words_.push_back(word_of(address)); }
  void add(double weight) { words_.push_back(__builtin_bit_cast(std::uint64_t, weight)); }

 private:
  [[nodiscard]] static std::uint64_t word_of(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address);
  }
  std::vector<std::uint64_t>& rows_;
  std::vector<std::uint64_t>& words_;
};

/// Adds the tensors of a sweep.
template <class... Out, class... In, class Sizes>
void add_streams(const std::tuple<Stream<Out>...>& outputs,
                 const std::tuple<Stream<const In>...>& inputs, const Sizes& size_of,
                 StreamWords& to) {
  const auto& first = std::get<0>(outputs);
  for (std::size_t k = 0; k < polyak::detail::tensors_of(first); ++k) {
    if (size_of(k) == 0) continue;
    to.add_row(first[k], size_of(k));
    polyak::detail::each_stream(outputs, [&](std::size_t number, const auto& output) {
      if (number != 0) to.add(output[k]);
    });
    polyak::detail::each_stream(inputs, [&](std::size_t, const auto& input) { to.add(input[k]); });
  }
}

/// Adds the tensors and the weights of a merge. `numbers` are the weights of one term.
template <class Out, std::size_t N, class Inputs, class Weights, class Sizes, class T,
          std::size_t Each>
void add_merge(const std::array<Stream<Out>, N>& outputs, const Inputs& inputs, Weights weights,
               std::size_t terms, const Sizes& size_of, T (&numbers)[Each], StreamWords& to) {
  for (std::size_t k = 0; k < polyak::detail::tensors_of(outputs[0]); ++k) {
    if (size_of(k) == 0) continue;
    to.add_row(outputs[0][k], size_of(k));
    for (std::size_t o = 1; o < N; ++o) to.add(outputs[o][k]);
    for (std::size_t i = 0; i < inputs.size(); ++i) to.add(inputs[i][k]);
  }
  for (std::size_t term = 0; term < terms; ++term) {
    weights(term, numbers);
    for (const T number : numbers) to.add(static_cast<double>(number));
  }
}

/// Launches a kernel on the rows and words in the scratch memory of a space. `others_each` words
/// belong to each row.
template <class Kernel>
void launch_streams(DeviceSpace& space, Kernel& kernel, std::size_t others_each) {
  auto& scratch = space.scratch();
  if (scratch.rows.empty()) return;
  scratch.rows[row_words - 1] = scratch.gradients.size();  // as many words, or another table
  const auto table = space.table(scratch.rows, row_words, Kernel::chunk, scratch.gradients);
  table->captured = table->captured || space.capturing();
  // A graph writes its own words in each replay, which may come at any time.
  update_gradients(space, *table, scratch.gradients, table->captured);
  const Table<0> view = view_of<0>(*table);
  const auto* const words = reinterpret_cast<const std::uint64_t*>(view.gradients);
  kernel.place({view.chunks, view.rows, words, others_each}, scratch.rows.size() / row_words);
  space.await_readers();
  launch(space, kernel, table->chunks, "the launch of a sweep over streams");
}

}  // namespace detail
}  // namespace cuda

namespace detail {

template <class E>
requires(!Executor<E> && StreamExecutor<E>) struct StreamLoops<E> {
  template <class Law, class... Out, class... In, class Takes>
  static void sweep(const E& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
                    const std::tuple<Stream<const In>...>& inputs, const Takes& takes) {
    using cuda::detail::StreamTypes;
    const auto size_of = swept_sizes(outputs, inputs, takes);
    check_sweep(space_of_executor(executor), outputs, inputs, size_of, !Law::streams.updates);
    Space& space = space_of(executor);
    cuda::detail::StreamWords words(space.scratch().rows, space.scratch().gradients);
    cuda::detail::add_streams(outputs, inputs, size_of, words);
    cuda::detail::StreamKernel<Law, StreamTypes<Out...>, StreamTypes<In...>> kernel{law, {}};
    cuda::detail::launch_streams(space, kernel, sizeof...(Out) + sizeof...(In) - 1);
  }

  /// A careful law, if there is one, gives the same bits where nothing fails, and costs a device
  /// nothing, because its memory is slower.
  template <class Law, class Out, std::size_t N, class Inputs, class Weights, class Takes>
  static void merge(std::string_view who, const E& executor, const Law& law,
                    const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
                    const Weights& weights, const Takes& takes) {
    if constexpr (may_fail<Law>) {
      merge(who, executor, typename Law::Careful{}, outputs, inputs, weights, takes);
    } else {
      static_assert(N == static_cast<std::size_t>(Law::merges.outputs),
                    "polyak: the number of outputs must be LawMerge::outputs");
      using In = typename std::remove_cvref_t<decltype(inputs[0])>::Element;
      using Kernel = cuda::detail::MergeKernel<Law, Out, In>;
      const auto size_of = merged_sizes(outputs, inputs, takes);
      check_merge(who, space_of_executor(executor), outputs, inputs, size_of);
      Kernel kernel{law, {}, inputs.size() / Kernel::inputs_each, nullptr};
      Space& space = space_of(executor);
      cuda::detail::StreamWords words(space.scratch().rows, space.scratch().gradients);
      typename Law::Value numbers[Kernel::weights_each];
      cuda::detail::add_merge(outputs, inputs, weights, kernel.terms, size_of, numbers, words);
      cuda::detail::launch_streams(space, kernel, N - 1 + inputs.size());
    }
  }

 private:
  using Space = cuda::detail::DeviceSpace;
  [[nodiscard]] static Space& space_of(const E& executor) {
    return static_cast<Space&>(*executor.space());
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
