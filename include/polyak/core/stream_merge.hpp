// SPDX-License-Identifier: Apache-2.0
/// @file
/// Merges of any number of streams, block by block if there are more than one loop reads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/merge_terms.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/stream_loops.hpp>
#include <polyak/core/stream_plan.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A merge over parts of tensors. `inputs[k]` is a Stream<const In>, for k < `inputs.size()`;
/// `weights(term, to)` writes the weights of a term and is called for one term after the other.
template <class Law, class Out, class Inputs, class Weights>
struct MergeSweep {
  using In = typename std::remove_cvref_t<decltype(std::declval<const Inputs&>()[0])>::Element;
  using Kernel = MergeKernel<Law, Out, In>;
  using T = typename Law::Value;
  static constexpr std::size_t each = Kernel::inputs_each;
  static constexpr std::size_t most = Kernel::most_terms;
  static constexpr std::size_t added = std::max<std::size_t>(1, added_at_once / each);
  static constexpr std::size_t longest = merge_block_bytes / sizeof(T) / Kernel::accumulators;

  const Law& law;
  const std::array<Stream<Out>, Kernel::outputs>& outputs;
  const Inputs& inputs;
  const Weights& weights;
  std::array<bool, Kernel::outputs> past_caches;
  int level;

  /// Sets `fails` if a law that may fail has failed.
  void operator()(std::size_t tensor, std::size_t low, std::size_t high, bool& fails) const {
    const std::size_t terms = inputs.size() / each;
    if (terms <= most) {
      Weights own = weights;
      Kernel kernel = terms_of(tensor, low, high - low, 0, terms, own);
      end(kernel, tensor, low, fails);
    } else {
      blocks(tensor, low, high, terms, fails);
    }
  }

 private:
  Kernel terms_of(std::size_t tensor, std::size_t at, std::size_t count, std::size_t first,
                  std::size_t terms, Weights& own) const {
    Kernel kernel{.law = law, .count = count, .terms = terms, .inputs = {}, .weights = {}};
    for (std::size_t k = 0; k < terms; ++k) {
      for (std::size_t g = 0; g < each; ++g) {
        kernel.inputs[k * each + g] = inputs[(first + k) * each + g][tensor] + at;
      }
      own(first + k, kernel.weights.data() + k * Kernel::weights_each);
    }
    return kernel;
  }
  /// The last terms, whose loop writes the outputs.
  void end(Kernel& kernel, std::size_t tensor, std::size_t at, bool& fails) const {
    kernel.fails = &fails;
    for (std::size_t o = 0; o < Kernel::outputs; ++o) kernel.out[o] = outputs[o][tensor] + at;
    const bool any_past =
        std::find(past_caches.begin(), past_caches.end(), true) != past_caches.end();
    kernel.head = elements_before_line(kernel.out[0], kernel.count, any_past);
    for (std::size_t o = 0; o < Kernel::outputs; ++o) {
      kernel.past_caches[o] = past_caches[o] && begins_line(kernel.out[o] + kernel.head);
    }
    dispatch(kernel);
  }
  void dispatch(const Kernel& kernel) const {
    if constexpr (Law::merges.rare) {
      run_rarely_at(level, kernel);
    } else {
      run_at(level, kernel);
    }
  }

  /// For more terms than one loop takes. The first loop takes as many terms as leave a multiple of
  /// `added`.
  void blocks(std::size_t tensor, std::size_t low, std::size_t high, std::size_t terms,
              bool& fails) const {
    alignas(cache_line) T sums[Kernel::accumulators][longest];
    std::array<T*, Kernel::accumulators> after;
    std::array<const T*, Kernel::accumulators> before;
    for (std::size_t a = 0; a < Kernel::accumulators; ++a) before[a] = after[a] = sums[a];
    const std::size_t begun = added + terms % added;
    const std::size_t last = terms - added;
    // The first block ends at the end of a cache line of the output, and so do the others.
    const auto place = reinterpret_cast<std::uintptr_t>(outputs[0][tensor] + low);
    std::size_t end_of_block = low + longest - place % cache_line / scalar_bytes<Out>;
    for (std::size_t at = low; at < high; at = end_of_block, end_of_block += longest) {
      const std::size_t count = std::min(end_of_block, high) - at;
      Weights own = weights;
      Kernel kernel = terms_of(tensor, at, count, 0, begun, own);
      kernel.after = after;
      dispatch(kernel);
      for (std::size_t k = begun; k < last; k += added) {
        kernel = terms_of(tensor, at, count, k, added, own);
        kernel.before = before;
        kernel.after = after;
        dispatch(kernel);
      }
      kernel = terms_of(tensor, at, count, last, added, own);
      kernel.before = before;
      end(kernel, tensor, at, fails);
    }
  }
};

/// Merges all tensors that every stream has. The streams are known to have the same tensors.
template <class E, class Law, class Out, std::size_t N, class Inputs, class Weights, class Takes>
void merge_all(std::string_view who, E& executor, const Law& law,
               const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
               const Weights& weights, const Takes& takes, const StreamPlan& plan) {
  static_assert(N == static_cast<std::size_t>(Law::merges.outputs),
                "polyak: the number of outputs must be LawMerge::outputs");
  check_executor(executor);
  const std::size_t tensors = tensors_of(outputs[0]);
  const auto size_of = merged_sizes(outputs, inputs, takes);
  check_merge(who, space_of_executor(executor), outputs, inputs, size_of);
  std::size_t elements = 0;
  for (std::size_t k = 0; k < tensors; ++k) elements += size_of(k);
  std::array<bool, N> past_caches{};
  bool any_in_place = false;
  for (std::size_t o = 0; o < N; ++o) {
    bool in_place = false;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      in_place = in_place || writes_in_place(outputs[o], inputs[i], size_of);
    }
    past_caches[o] = !in_place && elements > plan.streams_above / scalar_bytes<Out>;
    any_in_place = any_in_place || in_place;
  }
  if (elements == 0) return;
  const auto merge = [&]<class Some>(const Some& one, std::size_t k, std::size_t low,
                                     std::size_t high, bool& fails) {
    MergeSweep<Some, Out, Inputs, Weights>{one, outputs, inputs, weights, past_caches, plan.level}(
        k, low, high, fails);
  };
  const auto part = [&](std::size_t k, std::size_t low, std::size_t high) {
    bool fails = false;
    if constexpr (may_fail<Law>) {
      // A merge that wrote over an input cannot be repeated.
      if (!any_in_place) merge(law, k, low, high, fails);
      if (any_in_place || fails) merge(typename Law::Careful{}, k, low, high, fails);
    } else {
      merge(law, k, low, high, fails);
    }
  };
  for_ranges(executor, elements, [&](std::size_t begin, std::size_t end) {
    each_part(tensors, size_of, begin, end, part);
    fence_streams();
  });
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
