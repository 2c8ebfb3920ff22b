// SPDX-License-Identifier: Apache-2.0
/// @file
/// The sweeps of core/streams.hpp in the host's memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/stream_loops.hpp>
#include <polyak/core/stream_merge.hpp>
#include <polyak/core/stream_plan.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A sweep in the host's memory.
template <class E, class Law, class Takes, class... Out, class... In>
void sweep_all(E& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
               const std::tuple<Stream<const In>...>& inputs, const Takes& takes,
               const StreamPlan& plan) {
  using Kernel = StreamKernel<Law, std::tuple<Out...>, std::tuple<In...>>;
  check_executor(executor);
  const auto size_of = swept_sizes(outputs, inputs, takes);
  check_sweep(space_of_executor(executor), outputs, inputs, size_of, !Law::streams.updates);
  const std::size_t tensors = tensors_of(std::get<0>(outputs));
  std::size_t elements = 0;
  for (std::size_t k = 0; k < tensors; ++k) elements += size_of(k);
  if (elements == 0) return;

  std::array<bool, sizeof...(Out)> past_caches{};
  each_stream(outputs, [&]<class O>(std::size_t place, const Stream<O>& to) {
    bool in_place = Law::streams.updates;
    each_stream(inputs, [&](std::size_t, const auto& from) {
      in_place = in_place || writes_in_place(to, from, size_of);
    });
    past_caches[place] = !in_place && elements > plan.streams_above / scalar_bytes<O>;
  });
  const bool any_past =
      std::find(past_caches.begin(), past_caches.end(), true) != past_caches.end();

  const auto part = [&](std::size_t k, std::size_t low, std::size_t high) {
    Kernel kernel{law, {}, {}, high - low, 0, past_caches};
    kernel.out = std::apply(
        [&](const auto&... output) { return std::tuple<Out*...>(output[k] + low...); }, outputs);
    kernel.in = std::apply(
        [&](const auto&... input) { return std::tuple<const In*...>(input[k] + low...); }, inputs);
    kernel.head = elements_before_line(std::get<0>(kernel.out), kernel.count, any_past);
    std::size_t place = 0;
    std::apply(
        [&](const auto*... to) {
          ((kernel.past_caches[place] = kernel.past_caches[place] && begins_line(to + kernel.head),
            ++place),
           ...);
        },
        kernel.out);
    if constexpr (Law::streams.rare) {
      run_rarely_at(plan.level, kernel);
    } else {
      run_at(plan.level, kernel);
    }
  };
  for_ranges(executor, elements, [&](std::size_t begin, std::size_t end) {
    each_part(tensors, size_of, begin, end, part);
    if (any_past) fence_streams();
  });
}

template <Executor E>
struct StreamLoops<E> {
  template <class SomeE, class Law, class Outputs, class Inputs, class Takes>
  static void sweep(SomeE& executor, const Law& law, const Outputs& outputs, const Inputs& inputs,
                    const Takes& takes) {
    sweep_all(executor, law, outputs, inputs, takes, StreamPlan{});
  }
  template <class SomeE, class Law, class Outputs, class Inputs, class Weights, class Takes>
  static void merge(std::string_view who, SomeE& executor, const Law& law, const Outputs& outputs,
                    const Inputs& inputs, const Weights& weights, const Takes& takes,
                    const StreamPlan& plan = {}) {
    merge_all(who, executor, law, outputs, inputs, weights, takes, plan);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
