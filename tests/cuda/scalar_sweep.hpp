// SPDX-License-Identifier: Apache-2.0
/// @file
/// The host's side of the device tests where nvcc compiles them: it does not compile the packs of
/// core/sweep.hpp, so there is no Sweep of the host's lists without this one. It runs the threads
/// of cuda/grid.hpp one after another, for each method alone.
///
/// With it the tests on a device prove what the emulation cannot: that the code nvcc makes of those
/// threads, its launches, streams and tables give what the same threads give on the host, and fused
/// steps what separate ones do. That the threads have the bits of the packs is what the emulated
/// tests prove.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>
#include <polyak/cuda/grid.hpp>
#include <polyak/cuda/stream_grid.hpp>
#include <polyak/cuda/streams.hpp>
#include <polyak/cuda/sweep.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A law's loop over one tensor, without its type.
template <class P>
struct ScalarLoop {
  void (*sweep)(const void* bound, const TensorMemory& memory, const P* gradient,
                const GradientReading& reading, std::size_t tensor) = nullptr;
  const void* bound = nullptr;
};

template <FloatingScalar P>
struct Sweep<P> {
  using Loop = ScalarLoop<P>;
  using Plan = SweepPlan<Loop>;
  template <class StepDriver>
  using Driver = StepDriver;
  struct Hooks {
    template <class M>
    static constexpr Hooks of() {
      return {};
    }
  };
  template <class E>
  static void check(const E&, const Parameters<P>&) {}

  template <bool, class B>
  [[nodiscard]] static Loop loop(const B& bound) {
    return {&elements<B>, &bound};
  }
  template <class... B>
  [[nodiscard]] static constexpr Loop shared_loop() {
    return {};  // over() runs the methods one by one
  }
  static void over(const ExecutorRef&, const Parameters<P>& params, const P* const* gradients,
                   const GradientReading& reading, const Plan& plan) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      const P* const gradient = gradients == nullptr ? nullptr : gradients[k];
      const auto methods = plan.methods_of(k, gradient != nullptr);
      for (std::size_t i = 0; i < plan.single_count; ++i) {
        if ((methods >> i & 1) == 0) continue;
        const Loop& one = plan.singles[i].loop;
        one.sweep(one.bound, ParameterAccess<P>::memory(params)[k], gradient, reading, k);
      }
    }
  }
  template <class B>
  static void all(const ExecutorRef& executor, const Parameters<P>& params, const B& bound) {
    const typename Plan::Single single{bound.offsets, true, false, loop<false>(bound)};
    over(executor, params, nullptr, {}, Plan{&single, 1, nullptr, 0});
  }
  template <class B>
  static void one(const TensorMemory* tensors, std::size_t tensor, const B& bound) {
    elements<B>(&bound, tensors[tensor], nullptr, {}, tensor);
  }
  template <class B>
  static void one(const Parameters<P>& params, std::size_t tensor, const B& bound) {
    one(ParameterAccess<P>::memory(params), tensor, bound);
  }
  template <class Takes>
  [[nodiscard]] static bool weights_finite(const Parameters<P>& params, const Takes& takes) {
    return finite(params, takes, [&](std::size_t k) { return params[k].data(); });
  }
  template <class Most>
  [[nodiscard]] static bool gradients_within(const Parameters<P>& params, const P* const* gradients,
                                             const GradientReading&, const Most& most) {
    return finite(
        params, [&](std::size_t k) { return gradients[k] != nullptr && most(k) != 0; },
        [&](std::size_t k) { return gradients[k]; });
  }
  static void copy(const Parameters<P>&, const std::vector<CopyPiece>& pieces) {
    for (const CopyPiece& piece : pieces) copy_bytes(nullptr, piece.to, piece.from, piece.bytes);
  }

 private:
  template <class B>
  static void elements(const void* bound, const TensorMemory& memory, const P* gradient,
                       const GradientReading& reading, std::size_t k) {
    using Grid = cuda::detail::GridSweep<P, B>;
    const B& law = *static_cast<const B*>(bound);
    const typename Grid::RowType row{
        memory.data, memory.size, k, {law.offsets == nullptr ? 0 : law.offsets[k]}};
    const Members<const B*> members{{{&law}}};
    const typename Grid::Arguments arguments{cuda::detail::chain_of<0>(members, k),
                                             static_cast<carrier_t<P>>(reading.scale),
                                             static_cast<carrier_t<P>>(reading.limit),
                                             reading.scale,
                                             nullptr,
                                             false};
    for (std::size_t begin = 0; begin < memory.size; begin += Grid::chunk) {
      Grid::thread(row, gradient, arguments, begin, 0, 1);
    }
  }
  template <class Takes, class Data>
  [[nodiscard]] static bool finite(const Parameters<P>& params, const Takes& takes,
                                   const Data& data_of) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      const P* const data = takes(k) ? data_of(k) : nullptr;
      for (std::size_t i = 0; data != nullptr && i < params[k].size(); ++i) {
        if (!std::isfinite(static_cast<double>(data[i]))) return false;
      }
    }
    return true;
  }
};

/// Sweeps over streams: the threads of cuda/stream_grid.hpp one after another.
template <Executor E>
struct StreamLoops<E> {
  template <class Law, class... Out, class... In, class Takes>
  static void sweep(const E&, const Law& law, const std::tuple<Stream<Out>...>& outputs,
                    const std::tuple<Stream<const In>...>& inputs, const Takes& takes) {
    using cuda::detail::StreamTypes;
    const auto size_of = swept_sizes(outputs, inputs, takes);
    check_sweep(nullptr, outputs, inputs, size_of, !Law::streams.updates);
    std::vector<std::uint64_t> rows, words;
    cuda::detail::StreamWords to(rows, words);
    cuda::detail::add_streams(outputs, inputs, size_of, to);
    blocks(cuda::detail::StreamKernel<Law, StreamTypes<Out...>, StreamTypes<In...>>{law, {}}, rows,
           words, sizeof...(Out) + sizeof...(In) - 1);
  }
  template <class Law, class Out, std::size_t N, class Inputs, class Weights, class Takes>
  static void merge(std::string_view who, const E&, const Law& law,
                    const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
                    const Weights& weights, const Takes& takes) {
    using In = typename std::remove_cvref_t<decltype(inputs[0])>::Element;
    using Kernel = cuda::detail::MergeKernel<Law, Out, In>;
    const auto size_of = merged_sizes(outputs, inputs, takes);
    check_merge(who, nullptr, outputs, inputs, size_of);
    std::vector<std::uint64_t> rows, words;
    cuda::detail::StreamWords to(rows, words);
    typename Law::Value numbers[Kernel::weights_each];
    const std::size_t terms = inputs.size() / Kernel::inputs_each;
    cuda::detail::add_merge(outputs, inputs, weights, terms, size_of, numbers, to);
    blocks(Kernel{law, {}, terms, nullptr}, rows, words, N - 1 + inputs.size());
  }

 private:
  template <class Kernel>
  static void blocks(Kernel kernel, const std::vector<std::uint64_t>& rows,
                     const std::vector<std::uint64_t>& words, std::size_t others_each) {
    const auto* const first = reinterpret_cast<const cuda::detail::Row<0>*>(rows.data());
    const std::size_t count = rows.size() / cuda::detail::row_words;
    std::vector<cuda::detail::Chunk> chunks;
    for (std::size_t k = 0; k < count; ++k) {
      for (std::size_t at = 0; at < first[k].size; at += Kernel::chunk) chunks.push_back({k, at});
    }
    kernel.place({chunks.data(), first, words.data(), others_each}, count);
    for (std::size_t b = 0; b < chunks.size(); ++b) kernel(static_cast<unsigned>(b), 0, 1);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
