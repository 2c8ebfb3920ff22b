// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sweeps over streams: a law over any number of lists or arrays in one pass over memory.
///
///   struct Interpolate {                     // a fixed number of streams
///     using Value = float;                   // the type that the law computes in: float or double
///     static constexpr LawStreams streams{.outputs = 1, .inputs = 2};
///     float t;
///     template <class V>
///     POLYAK_LAW void operator()(V& out, const V& a, const V& b) const { out = fma(t, b - a, a); }
///   };
///   sweep_streams(executor, Interpolate{0.5F}, writes(target), reads(first, second));
///
/// A law that merges any number of inputs, term by term, has accumulators:
///
///   struct WeightedSum {                     // core/sum.hpp
///     static constexpr LawMerge merges{};    // one input and one weight in each term
///     first(V& sum, const V& weight, const V& x)     of the first term
///     next(V& sum, const V& weight, const V& x)      of each later one, in their order
///     finish(V& out, const V& sum)
///   };
///   merge_streams(executor, WeightedSum{}, writes(target), models, weights);
///
/// Laws follow the contract of core/law.hpp. Streams may be of different types; each number is
/// rounded once, to nearest even, when it is stored. An output may be one of the inputs; otherwise
/// it must not overlap any input. No bit of a result depends on the executor, its split, or the
/// level among those with fused multiply-adds. Nothing is allocated. Large outputs that are not
/// read are written past the caches, which saves reading them first.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/stream_loops.hpp>
#include <polyak/core/stream_merge.hpp>
#include <polyak/core/stream_plan.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

template <class E, class Law, class Takes, class... Out, class... In>
void sweep_all(E& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
               const std::tuple<Stream<const In>...>& inputs, const Takes& takes,
               const StreamPlan& plan) {
  static_assert(sizeof...(Out) == static_cast<std::size_t>(Law::streams.outputs) &&
                    sizeof...(In) == static_cast<std::size_t>(Law::streams.inputs),
                "polyak: the numbers of streams must be those of LawStreams");
  using Kernel = StreamKernel<Law, std::tuple<Out...>, std::tuple<In...>>;
  check_executor(executor);
  const auto& first = std::get<0>(outputs);
  const auto for_all = [&](const auto& use) {
    std::apply([&](const auto&... stream) { (use(stream), ...); }, outputs);
    std::apply([&](const auto&... stream) { (use(stream), ...); }, inputs);
  };
  for_all([&](const auto& stream) { require_same_tensors(stream, first); });
  const std::size_t tensors = tensors_of(first);
  const auto size_of = [&](std::size_t k) {
    bool taken = first.layout() == nullptr || takes(first.layout()->tensors[k]);
    for_all([&](const auto& stream) { taken = taken && stream.has(k); });
    return taken ? size_in(first, k) : 0;
  };
  require_outputs_apart("a sweep", outputs, size_of);
  std::size_t elements = 0;
  for (std::size_t k = 0; k < tensors; ++k) elements += size_of(k);
  if (elements == 0) return;

  std::array<bool, sizeof...(Out)> past_caches{};
  std::apply(
      [&](const auto&... output) {
        std::size_t place = 0;
        const auto decide = [&]<class O>(const Stream<O>& to) {
          bool in_place = Law::streams.updates;
          std::size_t number = 0;
          const auto compare = [&]<class I>(const Stream<const I>& from) {
            require_apart("a sweep", to, from, size_of, !Law::streams.updates,
                          [&] { return "input " + text(number); });
            in_place = in_place || writes_in_place(to, from, size_of);
            ++number;
          };
          std::apply([&](const auto&... input) { (compare(input), ...); }, inputs);
          past_caches[place++] = !in_place && elements > plan.streams_above / scalar_bytes<O>;
        };
        (decide(output), ...);
      },
      outputs);
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

/// A list, or a pointer to one.
template <class T>
[[nodiscard]] const auto& list_of(const T& list) {
  if constexpr (std::is_pointer_v<T>) {
    return std::as_const(*list);
  } else {
    return list;
  }
}

/// The streams of a container of sources of reads(), or of pointers to such.
template <class Container>
struct InputsOf {
  const Container& all;
  [[nodiscard]] std::size_t size() const { return all.size(); }
  [[nodiscard]] auto operator[](std::size_t k) const { return stream_of(list_of(all.data()[k])); }
};

}  // namespace detail

/// One pass of a law with a fixed number of streams: `outputs` from writes(), `inputs` from
/// reads(). Runs on the tensors that all streams have and for which `takes(tensor)` is true, for
/// example a Selection. Buffers (Role::copy) are left alone.
///
/// Throws std::invalid_argument for lists of other tensors or arrays of other sizes, and for an
/// output that overlaps a part of another stream; nothing has been written then.
template <class E, class Law, class... Out, class... In, class Takes = detail::AnyTensor>
requires Executor<E>
void sweep_streams(E&& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
                   const std::tuple<Stream<In>...>& inputs, const Takes& takes = {}) {
  detail::sweep_all(executor, law, outputs, inputs, takes, detail::StreamPlan{});
}

/// One pass of a law that merges any number of terms. `inputs` is a container of lists, arrays or
/// streams, or of pointers to lists: first the inputs of the first term, then of the next.
/// `weights` has LawMerge::weights numbers for each term, which are rounded to the law's type. All
/// outputs have the same type.
///
/// Throws as sweep_streams(), and std::invalid_argument without inputs, for inputs that do not make
/// whole terms, for another number of weights, and for weights that are not finite.
template <class E, class Law, class Out, class... Outs, class Inputs,
          class Takes = detail::AnyTensor>
requires(Executor<E> && (std::same_as<Out, Outs> && ...)) void merge_streams(
    E&& executor, const Law& law, const std::tuple<Stream<Out>, Stream<Outs>...>& outputs,
    const Inputs& inputs, std::span<const double> weights, const Takes& takes = {}) {
  constexpr auto inputs_each = static_cast<std::size_t>(Law::merges.inputs);
  constexpr auto weights_each = static_cast<std::size_t>(Law::merges.weights);
  detail::check_executor(executor);
  const detail::InputsOf<Inputs> streams{inputs};
  require(streams.size() >= 1 && streams.size() % inputs_each == 0,
          "merge_streams: inputs must be " + detail::text(inputs_each) +
              " for each of one or more terms",
          streams.size());
  require(weights.size() == streams.size() / inputs_each * weights_each,
          "merge_streams: weights must be " + detail::text(weights_each) + " for each term",
          weights.size());
  for (std::size_t k = 0; k < weights.size(); ++k) {
    using T = typename Law::Value;
    const bool fits = detail::is_finite(static_cast<double>(static_cast<T>(weights[k])));
    if (!fits) {
      require(false,
              "merge_streams: weight " + detail::text(k) + " must be finite as " +
                  std::string(detail::name_of(detail::dtype_of<T>())),
              weights[k]);
    }
  }
  const auto all = std::apply(
      [](const auto&... output) { return std::array<Stream<Out>, 1 + sizeof...(Outs)>{output...}; },
      outputs);
  for (const auto& output : all) detail::require_same_tensors(output, all[0]);
  for (std::size_t k = 0; k < streams.size(); ++k) {
    detail::require_same_tensors(streams[k], all[0]);
  }
  detail::merge_all("a merge", executor, law, all, streams,
                    detail::GivenWeights{weights, weights_each}, takes, detail::StreamPlan{});
}

}  // namespace v0
}  // namespace polyak
