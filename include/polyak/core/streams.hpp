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
///
/// With the executor of a device the streams lie in its memory, and the sweep is one launch.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/merge_terms.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/tensors/stream.hpp>
#if !defined(__CUDACC__)
#include <polyak/core/stream_sweep.hpp>
#endif

namespace polyak {
inline namespace POLYAK_V0 {

/// One pass of a law with a fixed number of streams: `outputs` from writes(), `inputs` from
/// reads(). Runs on the tensors that all streams have and for which `takes(tensor)` is true, for
/// example a Selection. Buffers (Role::copy) and frozen weights are left alone.
///
/// Throws std::invalid_argument for lists of other tensors or arrays of other sizes, for streams
/// that are not in the executor's memory, and for an output that overlaps a part of another stream;
/// nothing has been written then.
template <class E, class Law, class... Out, class... In, class Takes = detail::AnyTensor>
requires(detail::StreamExecutor<E>) void sweep_streams(E&& executor, const Law& law,
                                                       const std::tuple<Stream<Out>...>& outputs,
                                                       const std::tuple<Stream<In>...>& inputs,
                                                       const Takes& takes = {}) {
  static_assert(sizeof...(Out) == static_cast<std::size_t>(Law::streams.outputs) &&
                    sizeof...(In) == static_cast<std::size_t>(Law::streams.inputs),
                "polyak: the numbers of streams must be those of LawStreams");
  detail::StreamLoops<std::remove_cvref_t<E>>::sweep(executor, law, outputs, inputs, takes);
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
requires(detail::StreamExecutor<E> && (std::same_as<Out, Outs> && ...)) void merge_streams(
    E&& executor, const Law& law, const std::tuple<Stream<Out>, Stream<Outs>...>& outputs,
    const Inputs& inputs, std::span<const double> weights, const Takes& takes = {}) {
  const detail::InputsOf<Inputs> streams{inputs};
  detail::require_terms<Law>(streams.size(), weights);
  const auto all = std::apply(
      [](const auto&... output) { return std::array<Stream<Out>, 1 + sizeof...(Outs)>{output...}; },
      outputs);
  for (const auto& output : all) detail::require_same_tensors(output, all[0]);
  for (std::size_t k = 0; k < streams.size(); ++k) {
    detail::require_same_tensors(streams[k], all[0]);
  }
  constexpr auto weights_each = static_cast<std::size_t>(Law::merges.weights);
  detail::StreamLoops<std::remove_cvref_t<E>>::merge(
      "a merge", executor, law, all, streams, detail::GivenWeights{weights, weights_each}, takes);
}

}  // namespace POLYAK_V0
}  // namespace polyak
