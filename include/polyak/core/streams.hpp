// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sweeps over streams: a law over any number of lists or arrays in one pass over memory.
///
///   struct Interpolate {                     // a fixed number of streams
///     using Value = float;                   // what the law computes in: float or double
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
/// Laws keep to the contract of core/law.hpp. Streams may be of different types; each number is
/// rounded once, to nearest even, when it is stored. An output may be one of the inputs, else it
/// lies apart from all. No bit of a result depends on the executor, its split, or the level among
/// those with fused multiply-adds. Nothing is allocated. Outputs that are not read are written past
/// the caches where they are larger than half of the last one, which saves reading them first.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/stream_loops.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// Bytes of output from which on it is written past the caches, which saves reading it first: 15 to
/// 25 % of the time. Half of the 32 MiB that cores of one die share in processors of today: smaller
/// results are often still in the cache for who reads them next. The size that the system names is
/// no better guide: virtual machines show their host's, here ten times too much.
inline constexpr std::size_t stream_above = std::size_t{16} << 20;

/// How a sweep runs; tests set it otherwise.
struct StreamPlan {
  int level = level_in_use();
  std::size_t streams_above = stream_above;  ///< bytes of output
};

/// All tensors, for sweeps that are not told otherwise.
struct AnyTensor {
  bool operator()(const TensorInfo&) const { return true; }
};

/// Calls use(tensor, low, high) for the parts of elements begin..end, counted through all tensors.
/// A boundary inside a tensor is rounded down to whole packs, the same from both sides.
template <class Sizes, class Use>
void each_part(std::size_t tensors, const Sizes& size_of, std::size_t begin, std::size_t end,
               const Use& use) {
  std::size_t start = 0;  // of the tensor, in the count
  for (std::size_t tensor = 0; tensor < tensors && start < end; ++tensor) {
    const std::size_t size = size_of(tensor);
    const std::size_t from = begin <= start ? 0 : begin - start;
    const std::size_t to = end - start < size ? end - start : size;
    const std::size_t low = from / slot_granule * slot_granule;
    const std::size_t high = to == size ? size : to / slot_granule * slot_granule;
    if (from < size && low < high) use(tensor, low, high);
    start += size;
  }
}

template <class E>
[[nodiscard]] std::size_t size_in(const Stream<E>& stream, std::size_t tensor) {
  return stream.layout() == nullptr ? stream.size() : stream.layout()->tensors[tensor].size;
}
template <class E>
[[nodiscard]] std::size_t tensors_of(const Stream<E>& stream) {
  return stream.layout() == nullptr ? 1 : stream.layout()->tensors.size();
}

/// Refuses streams that do not go over the same tensors.
template <class A, class B>
void require_same_tensors(const Stream<A>& given, const Stream<B>& expected) {
  if (given.layout() == nullptr || expected.layout() == nullptr) {
    if (given.layout() != expected.layout()) {
      refuse_value("polyak: the streams of a sweep are lists or arrays, not both");
    }
    require(given.size() == expected.size(),
            "the arrays of a sweep must have " + text(expected.size()) +
                " elements, as its first output has",
            given.size());
    return;
  }
  if (given.layout() == expected.layout()) return;
  if (given.layout()->tensors == expected.layout()->tensors) return;
  const std::string list = differences(*given.layout(), *expected.layout());
  if (!list.empty()) refuse_value("polyak: the streams of a sweep differ: " + list);
}

[[noreturn]] POLYAK_COLD inline void refuse_overlap(std::string_view who, const std::string& other,
                                                    std::string_view tensor) {
  std::string where = other;
  if (!tensor.empty()) where.append(", tensor ").append(text(tensor));
  refuse_value(std::string("polyak: ")
                   .append(who)
                   .append(" writes over one of its inputs or apart from all; what it writes "
                           "overlaps ") +
               where);
}

/// Refuses an output that lies over a part of an input, or over another of its tensors. `other`
/// names the input in words.
template <class Out, class In, class Sizes, class Words>
void require_apart(std::string_view who, const Stream<Out>& output, const Stream<const In>& input,
                   const Sizes& size_of, bool in_place, const Words& other) {
  const std::size_t tensors = tensors_of(output);
  std::uintptr_t low = std::numeric_limits<std::uintptr_t>::max(), high = 0;
  for (std::size_t k = 0; k < tensors; ++k) {
    if (size_of(k) == 0) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(input[k]);
    low = std::min(low, begin);
    high = std::max(high, begin + size_of(k) * scalar_bytes<In>);
  }
  for (std::size_t k = 0; k < tensors; ++k) {
    const Out* const to = output[k];
    const std::size_t bytes = size_of(k) * scalar_bytes<Out>;
    const auto begin = reinterpret_cast<std::uintptr_t>(to);
    const bool same = in_place && std::same_as<In, Out> && static_cast<const void*>(input[k]) == to;
    // The tensors of a list lie apart from each other.
    if (bytes == 0 || begin >= high || begin + bytes <= low || same) continue;
    for (std::size_t i = 0; i < tensors; ++i) {
      const std::size_t other_bytes = size_of(i) * scalar_bytes<In>;
      if (other_bytes != 0 && overlap(to, bytes, input[i], other_bytes)) {
        refuse_overlap(who, other(),
                       output.layout() == nullptr ? std::string_view()
                                                  : output.layout()->tensors[i].name);
      }
    }
  }
}

/// Whether one of the tensors is written where it is read.
template <class Out, class In, class Sizes>
[[nodiscard]] bool writes_in_place(const Stream<Out>& output, const Stream<const In>& input,
                                   const Sizes& size_of) {
  for (std::size_t k = 0; k < tensors_of(output); ++k) {
    if (size_of(k) != 0 && static_cast<const void*>(input[k]) == output[k]) return true;
  }
  return false;
}

/// All outputs apart from each other.
template <class... Out, class Sizes>
void require_outputs_apart(std::string_view who, const std::tuple<Stream<Out>...>& outputs,
                           const Sizes& size_of) {
  const auto pair = [&]<std::size_t I>(std::integral_constant<std::size_t, I>, const auto& other,
                                       std::size_t j) {
    const auto& one = std::get<I>(outputs);
    if (I >= j) return;
    require_apart(who, one, stream_of(other), size_of, false,
                  [&] { return "output " + text(j); });
  };
  const auto all = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto with = [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
      (pair(std::integral_constant<std::size_t, I>(), std::get<J>(outputs), J), ...);
    };
    (with(std::integral_constant<std::size_t, I>()), ...);
  };
  all(std::index_sequence_for<Out...>{});
}

/// Runs `range` in the executor's ranges, in the caller's mode for denormals.
template <class E, class Range>
void run_ranges(E& executor, std::size_t elements, const Range& range) {
  const FloatMode::Word mode = FloatMode::get();
  const auto as_the_caller = [&](std::size_t begin, std::size_t end) {
    const WithFloatMode as_in_the_caller(mode);
    range(begin, end);
  };
  executor(elements, as_the_caller);
}

template <class E, class Law, class Takes, class... Out, class... In>
void sweep_all(E& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
               const std::tuple<Stream<const In>...>& inputs, const Takes& takes,
               const StreamPlan& plan) {
  static_assert(sizeof...(Out) == static_cast<std::size_t>(Law::streams.outputs) &&
                    sizeof...(In) == static_cast<std::size_t>(Law::streams.inputs),
                "polyak: a law is given as many streams as it says");
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
  const bool any_past = std::find(past_caches.begin(), past_caches.end(), true) != past_caches.end();

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
  run_ranges(executor, elements, [&](std::size_t begin, std::size_t end) {
    each_part(tensors, size_of, begin, end, part);
    if (any_past) fence_streams();
  });
}

/// The weights of terms as they are given.
struct GivenWeights {
  std::span<const double> weights;
  std::size_t each = 1;
  template <class T>
  void operator()(std::size_t term, T* to) const {
    for (std::size_t w = 0; w < each; ++w) to[w] = static_cast<T>(weights[term * each + w]);
  }
};

/// A merge over parts of tensors. `inputs[k]` is a Stream<const In>, `inputs.size()` says how many
/// there are; `weights(term, to)` gives the weights of a term, called for one after the other.
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

  void operator()(std::size_t tensor, std::size_t low, std::size_t high) const {
    const std::size_t terms = inputs.size() / each;
    if (terms <= most) {
      Weights own = weights;
      Kernel kernel = terms_of(tensor, low, high - low, 0, terms, own);
      end(kernel, tensor, low);
    } else {
      blocks(tensor, low, high, terms);
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
  /// The last terms, which end in the outputs.
  void end(Kernel& kernel, std::size_t tensor, std::size_t at) const {
    for (std::size_t o = 0; o < Kernel::outputs; ++o) kernel.out[o] = outputs[o][tensor] + at;
    const bool any_past =
        std::find(past_caches.begin(), past_caches.end(), true) != past_caches.end();
    kernel.head = elements_before_line(kernel.out[0], kernel.count, any_past);
    for (std::size_t o = 0; o < Kernel::outputs; ++o) {
      kernel.past_caches[o] = past_caches[o] && begins_line(kernel.out[o] + kernel.head);
    }
    run(kernel);
  }
  void run(const Kernel& kernel) const {
    if constexpr (Law::merges.rare) {
      run_rarely_at(level, kernel);
    } else {
      run_at(level, kernel);
    }
  }

  /// More terms than one loop takes. The first loop takes so many that equal numbers remain.
  void blocks(std::size_t tensor, std::size_t low, std::size_t high, std::size_t terms) const {
    alignas(cache_line) T sums[Kernel::accumulators][longest];
    std::array<T*, Kernel::accumulators> after;
    std::array<const T*, Kernel::accumulators> before;
    for (std::size_t a = 0; a < Kernel::accumulators; ++a) before[a] = after[a] = sums[a];
    const std::size_t begun = added + terms % added;
    const std::size_t last = terms - added;
    // The first block ends where a line of the output does, and so the others do.
    const auto place = reinterpret_cast<std::uintptr_t>(outputs[0][tensor] + low);
    std::size_t end_of_block = low + longest - place % cache_line / scalar_bytes<Out>;
    for (std::size_t at = low; at < high; at = end_of_block, end_of_block += longest) {
      const std::size_t count = std::min(end_of_block, high) - at;
      Weights own = weights;
      Kernel kernel = terms_of(tensor, at, count, 0, begun, own);
      kernel.after = after;
      run(kernel);
      for (std::size_t k = begun; k < last; k += added) {
        kernel = terms_of(tensor, at, count, k, added, own);
        kernel.before = before;
        kernel.after = after;
        run(kernel);
      }
      kernel = terms_of(tensor, at, count, last, added, own);
      kernel.before = before;
      end(kernel, tensor, at);
    }
  }
};

/// Merges all tensors that every stream has. Arguments have been checked, but for overlaps.
template <class E, class Law, class Out, std::size_t N, class Inputs, class Weights, class Takes>
void merge_all(std::string_view who, E& executor, const Law& law,
               const std::array<Stream<Out>, N>& outputs, const Inputs& inputs,
               const Weights& weights, const Takes& takes, const StreamPlan& plan) {
  static_assert(N == static_cast<std::size_t>(Law::merges.outputs),
                "polyak: a law is given as many outputs as it says");
  const Stream<Out>& first = outputs[0];
  const std::size_t tensors = tensors_of(first);
  const auto size_of = [&](std::size_t k) {
    bool taken = first.layout() == nullptr || takes(first.layout()->tensors[k]);
    for (const auto& output : outputs) taken = taken && output.has(k);
    for (std::size_t i = 0; taken && i < inputs.size(); ++i) taken = inputs[i].has(k);
    return taken ? size_in(first, k) : 0;
  };
  std::size_t elements = 0;
  for (std::size_t k = 0; k < tensors; ++k) elements += size_of(k);
  std::array<bool, N> past_caches{};
  for (std::size_t o = 0; o < N; ++o) {
    bool in_place = false;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      require_apart(who, outputs[o], inputs[i], size_of, true, [&] { return "input " + text(i); });
      in_place = in_place || writes_in_place(outputs[o], inputs[i], size_of);
    }
    for (std::size_t other = 0; other < o; ++other) {
      require_apart(who, outputs[o], stream_of(outputs[other]), size_of, false,
                    [&] { return "output " + text(other); });
    }
    past_caches[o] = !in_place && elements > plan.streams_above / scalar_bytes<Out>;
  }
  if (elements == 0) return;
  const MergeSweep<Law, Out, Inputs, Weights> sweep{law,     outputs,     inputs,
                                                    weights, past_caches, plan.level};
  run_ranges(executor, elements, [&](std::size_t begin, std::size_t end) {
    each_part(tensors, size_of, begin, end, sweep);
    fence_streams();
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

/// The streams of a container of what reads() takes, or of pointers to such.
template <class Container>
struct InputsOf {
  const Container& all;
  [[nodiscard]] std::size_t size() const { return all.size(); }
  [[nodiscard]] auto operator[](std::size_t k) const { return stream_of(list_of(all.data()[k])); }
};

}  // namespace detail

/// One pass of a law with a fixed number of streams: `outputs` as writes() gives them, `inputs` as
/// reads() does. Goes over the tensors that all streams have and that `takes(tensor)` takes, a
/// Selection, say; buffers (Role::copy) are left alone.
///
/// Throws std::invalid_argument for lists of other tensors or arrays of other sizes, and for an
/// output that lies over a part of another stream; nothing has been written then.
template <class E, class Law, class... Out, class... In, class Takes = detail::AnyTensor>
requires Executor<E>
void sweep_streams(E&& executor, const Law& law, const std::tuple<Stream<Out>...>& outputs,
                   const std::tuple<Stream<In>...>& inputs, const Takes& takes = {}) {
  detail::sweep_all(executor, law, outputs, inputs, takes, detail::StreamPlan{});
}

/// One pass of a law that merges any number of terms. `inputs` is a container of lists, arrays or
/// streams, or of pointers to lists: those of the first term, then of the next. `weights` has as
/// many for each term as the law says; they are rounded to its type. Outputs have one type.
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
              " for each of one or more terms; they are",
          streams.size());
  require(weights.size() == streams.size() / inputs_each * weights_each,
          "merge_streams: weights must be " + detail::text(weights_each) +
              " for each term; they are",
          weights.size());
  for (std::size_t k = 0; k < weights.size(); ++k) {
    using T = typename Law::Value;
    const bool fits = detail::is_finite(static_cast<T>(weights[k]));
    if (!fits) {
      require(false, "merge_streams: weight " + detail::text(k) + " must be finite as " +
                         std::string(detail::name_of(detail::dtype_of<T>())),
              weights[k]);
    }
  }
  const auto all = std::apply(
      [](const auto&... output) {
        return std::array<Stream<Out>, 1 + sizeof...(Outs)>{output...};
      },
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
