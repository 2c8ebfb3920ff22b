// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops of weighted sums of any number of models, in one pass over memory.
///
///   out = w_0 x_0 + w_1 x_1 + ... + w_(N-1) x_(N-1)
///
/// Computed as sum = w_0 x_0, then sum = fma(w_k, x_k, sum) in the order of the inputs, in the type
/// of the accumulator, into which the weights are rounded first. The sum is rounded once, to
/// nearest even, when it is stored (one of doubles reaches 16 bits through float, as everywhere).
/// Every input is read once, and the output written once, without being read: past the caches where
/// it would not fit there. Nothing is allocated.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

// ---- the loops --------------------------------------------------------------------------------

/// Inputs that one loop sums in registers. More streams than this the hardware does not prefetch.
inline constexpr std::size_t summed_at_once = 8;
/// Inputs that each loop adds to the sums so far, where there are more: the fastest number.
inline constexpr std::size_t added_at_once = 4;
/// The sums of a block stay in the second-level cache, and on the stack, between the loops; long
/// enough for the prefetchers, which start anew for each visit to a stream.
inline constexpr std::size_t sum_block_bytes = std::size_t{64} * 1024;

/// [sums +] the products of Least to Most inputs, to `out`.
template <class Out, class In, class Accumulator, bool Continues, std::size_t Least,
          std::size_t Most>
struct SumKernel {
  Out* out;
  std::size_t count;
  const Accumulator* sums;  // null unless it continues
  std::size_t terms;
  std::array<const In*, Most> inputs;
  std::array<Accumulator, Most> weights;
  bool streams;  // past the caches; `out` is then aligned to its type

  template <class Level>
  POLYAK_INLINE void run() const {
    run_some<Level>(std::make_index_sequence<Most - Least + 1>{});
  }

 private:
  template <class Level>
  static constexpr int lanes =
      std::same_as<In, double>&& std::same_as<Out, double> ? native_lanes<double, Level>
                                                           : native_lanes<float, Level>;
  template <class Level>
  using Sum = Pack<Accumulator, lanes<Level>, Level>;

  template <class Level, std::size_t... Extra>
  POLYAK_INLINE void run_some(std::index_sequence<Extra...>) const {
    static_cast<void>(((terms == Least + Extra &&
                        (loop<Level>(std::make_index_sequence<Least + Extra>{}), true)) ||
                       ...));
  }

  template <bool Adds, class Level>
  POLYAK_INLINE static void add(Sum<Level>& sum, const Sum<Level>& weight, const In* from) {
    Pack<carrier_t<In>, lanes<Level>, Level> x;
    load_pack(from, x);
    Sum<Level> term;
    convert(x, term);
    if constexpr (Adds) {
      sum = fma(weight, term, sum);
    } else {
      sum = weight * term;
    }
  }

  template <class Level, std::size_t N, std::size_t... K>
  POLYAK_INLINE static void load(Sum<Level>& sum, const Accumulator* before,
                              const Sum<Level> (&weight)[N], const In* const (&from)[N],
                              std::size_t at, std::index_sequence<K...>) {
    if constexpr (Continues) sum = Sum<Level>::load(before + at);
    (add<(Continues || K != 0), Level>(sum, weight[K], from[K] + at), ...);
  }

  template <class Level>
  POLYAK_INLINE static void store(Out* to, const Sum<Level>& sum, bool past_caches) {
    Pack<carrier_t<Out>, lanes<Level>, Level> rounded;
    convert(sum, rounded);
    if (past_caches) {
      stream_pack(to, rounded);
    } else {
      store_pack(to, rounded);
    }
  }

  /// Up to one pack, through copies.
  template <class Level, std::size_t N, std::size_t... K>
  POLYAK_INLINE static void partial(Out* to, const Accumulator* before, const Sum<Level> (&weight)[N],
                                 const In* const (&from)[N], std::size_t at, std::size_t number,
                                 std::index_sequence<K...> all) {
    constexpr auto step = static_cast<std::size_t>(lanes<Level>);
    alignas(cache_line) In copies[N][step];
    std::memset(static_cast<void*>(copies), 0, sizeof copies);
    (std::memcpy(static_cast<void*>(copies[K]), from[K] + at, number * sizeof(In)), ...);
    const In* const copy[] = {copies[K]...};
    alignas(cache_line) Accumulator sums_copy[step];
    std::memset(sums_copy, 0, sizeof sums_copy);
    if constexpr (Continues) std::memcpy(sums_copy, before + at, number * sizeof(Accumulator));
    Sum<Level> sum;
    load<Level>(sum, sums_copy, weight, copy, 0, all);
    alignas(cache_line) Out result[step];
    store<Level>(result, sum, false);
    std::memcpy(static_cast<void*>(to + at), static_cast<const void*>(result),
                number * sizeof(Out));
  }

  template <class Level, std::size_t... K>
  POLYAK_INLINE void loop(std::index_sequence<K...> all) const {
    constexpr auto step = static_cast<std::size_t>(lanes<Level>);
    // Copies, which no store to `out` can change.
    const In* const from[] = {inputs[K]...};
    const Sum<Level> weight[] = {Sum<Level>(weights[K])...};
    const Accumulator* const before = sums;
    Out* const to = out;
    const std::size_t end = count;
    const bool past_caches = streams;
    // The elements before the first whole line of `out` are worth going one by one where many
    // follow, and necessary for stores past the caches.
    std::size_t head = 0;
    if (past_caches || end >= 64 * step) {
      const auto misalignment = reinterpret_cast<std::uintptr_t>(to) % cache_line;
      head = std::min(end, (cache_line - misalignment) % cache_line / sizeof(Out));
    }
    std::size_t i = 0;
    while (i < end) {
      if (i >= head) {
        for (; i + 2 * step <= end; i += 2 * step) {
          Sum<Level> first, second;
          load<Level>(first, before, weight, from, i, all);
          load<Level>(second, before, weight, from, i + step, all);
          store<Level>(to + i, first, past_caches);
          store<Level>(to + i + step, second, past_caches);
        }
        if (i == end) return;
      }
      const std::size_t number = std::min(step, (i < head ? head : end) - i);
      partial<Level>(to, before, weight, from, i, number, all);
      i += number;
    }
  }
};

/// Bytes of output from which on it is written past the caches, which saves reading it first: 15 to
/// 25 % of the time. Half of the 32 MiB that cores of one die share in processors of today: the
/// results of smaller sums are often still in the cache for who reads them next. The size that the
/// system names is no better guide: virtual machines show their host's, here ten times too much.
inline constexpr std::size_t stream_above = std::size_t{16} << 20;

/// How a sum runs; tests set it otherwise.
struct SumPlan {
  int level = level_in_use();
  std::size_t streams_above = stream_above;  ///< bytes of output
};

/// The type that N inputs are summed in, and the loops that do it. `Source` says where tensors are:
/// Out and In, tensors(), size(tensor) (0 for one left alone), out(tensor), input(tensor, k).
template <class Accumulator, class Source>
struct Summation {
  using Out = typename Source::Out;
  using In = typename Source::In;
  template <class To, bool Continues, std::size_t Least, std::size_t Most>
  using Kernel = SumKernel<To, In, Accumulator, Continues, Least, Most>;

  const Source& source;
  std::span<const double> weights;
  int level;
  bool streams;
  FloatMode::Word mode = FloatMode::get();  ///< of the caller

  /// Elements begin..end, counted through all tensors. A boundary inside a tensor is rounded down
  /// to whole packs, the same from both sides.
  void operator()(std::size_t begin, std::size_t end) const {
    const WithFloatMode as_in_the_caller(mode);
    std::size_t start = 0;  // of the tensor, in the count
    for (std::size_t tensor = 0; tensor < source.tensors() && start < end; ++tensor) {
      const std::size_t size = source.size(tensor);
      const std::size_t from = begin <= start ? 0 : begin - start;
      const std::size_t to = end - start < size ? end - start : size;
      const std::size_t low = from / slot_granule * slot_granule;
      const std::size_t high = to == size ? size : to / slot_granule * slot_granule;
      if (from < size && low < high) sum(tensor, low, high);
      start += size;
    }
    if (streams) fence_streams();
  }

 private:
  /// Adds the inputs first..first+terms for elements at..at+count of the tensor.
  template <class Kernel, class To>
  void run(To* to, const Accumulator* sums, std::size_t tensor, std::size_t at, std::size_t count,
           std::size_t first, std::size_t terms, bool past_caches) const {
    Kernel kernel{to, count, sums, terms, {}, {}, past_caches};
    for (std::size_t k = 0; k < terms; ++k) {
      kernel.inputs[k] = source.input(tensor, first + k) + at;
      kernel.weights[k] = static_cast<Accumulator>(weights[first + k]);
    }
    run_at(level, kernel);
  }

  void sum(std::size_t tensor, std::size_t low, std::size_t high) const {
    Out* const to = source.out(tensor);
    const bool aligned = reinterpret_cast<std::uintptr_t>(to) % sizeof(Out) == 0;
    const bool past_caches = streams && aligned;
    if (weights.size() <= summed_at_once) {
      run<Kernel<Out, false, 1, summed_at_once>>(to + low, nullptr, tensor, low, high - low, 0,
                                                 weights.size(), past_caches);
    } else {
      sum_blocks(to, tensor, low, high, past_caches);
    }
  }

  /// More inputs than one loop takes. The first loop takes so many that fours remain.
  void sum_blocks(Out* to, std::size_t tensor, std::size_t low, std::size_t high,
                  bool past_caches) const {
    constexpr std::size_t most = added_at_once + added_at_once - 1;
    using First =
        std::conditional_t<std::same_as<Out, Accumulator>, Kernel<Out, false, 1, summed_at_once>,
                           Kernel<Accumulator, false, added_at_once, most>>;
    constexpr std::size_t longest = sum_block_bytes / sizeof(Accumulator);
    alignas(cache_line) Accumulator sums[longest];
    const std::size_t begun = added_at_once + weights.size() % added_at_once;
    const std::size_t last = weights.size() - added_at_once;
    // The first block ends where a line of the output does, and so the others do.
    std::size_t end =
        low + longest - reinterpret_cast<std::uintptr_t>(to + low) % cache_line / sizeof(Out);
    for (std::size_t at = low; at < high; at = end, end += longest) {
      const std::size_t count = std::min(end, high) - at;
      run<First>(sums, nullptr, tensor, at, count, 0, begun, false);
      for (std::size_t k = begun; k < last; k += added_at_once) {
        run<Kernel<Accumulator, true, added_at_once, added_at_once>>(sums, sums, tensor, at, count,
                                                                     k, added_at_once, false);
      }
      run<Kernel<Out, true, added_at_once, added_at_once>>(to + at, sums, tensor, at, count, last,
                                                           added_at_once, past_caches);
    }
  }
};

/// Sums all tensors of the source. Arguments have been checked.
template <class Accumulator, class Executor, class Source>
void sum_all(Executor& executor, const Source& source, std::span<const double> weights,
             const SumPlan& plan = {}) {
  std::size_t elements = 0;
  bool in_place = false;
  for (std::size_t tensor = 0; tensor < source.tensors(); ++tensor) {
    if (source.size(tensor) == 0) continue;
    elements += source.size(tensor);
    const void* const out = source.out(tensor);
    for (std::size_t k = 0; k < weights.size(); ++k) {
      in_place = in_place || source.input(tensor, k) == out;
    }
  }
  if (elements == 0) return;
  const bool streams = !in_place && elements > plan.streams_above / sizeof(typename Source::Out);
  const Summation<Accumulator, Source> summation{source, weights, plan.level, streams};
  executor(elements, summation);
}

// ---- what is summed ---------------------------------------------------------------------------

template <class Wanted, class Out, class In>
struct AccumulatorOf {
  static constexpr bool doubles = std::same_as<Out, double> || std::same_as<In, double>;
  using type = std::conditional_t<std::same_as<Wanted, void>,
                                  std::conditional_t<doubles, double, float>, Wanted>;
  static_assert(ComputeScalar<type>, "polyak: the accumulator of average_n is float or double");
  static_assert(!doubles || std::same_as<type, double>,
                "polyak: average_n accumulates doubles in double");
};
template <class Wanted, class Out, class In>
using accumulator_t = typename AccumulatorOf<Wanted, Out, In>::type;

/// The type of a container's elements.
template <class Container>
using contained_t = std::remove_pointer_t<decltype(std::declval<Container&>().data())>;

/// A list, or a pointer to one.
template <class T>
[[nodiscard]] const auto& list_of(const T& list) {
  if constexpr (std::is_pointer_v<T>) {
    return std::as_const(*list);
  } else {
    return list;
  }
}

template <class T>
[[nodiscard]] const T* memory_of(const T* input) {
  return input;
}
template <FlatObject T>
[[nodiscard]] const auto* memory_of(const T& input) {
  return std::as_const(input).data();
}

/// Pointers to numbers, or spans, vectors and the like of them.
template <class T>
concept SummedMemory = FlatObject<T> && requires(const T& inputs) {
  requires ParameterScalar<std::remove_cvref_t<decltype(*memory_of(*inputs.data()))>>;
};

/// Memory that can be written: a span, std::vector, std::array of numbers.
template <class T>
concept SumTarget = FlatObject<std::remove_reference_t<T>> &&
    ParameterScalar<contained_t<std::remove_reference_t<T>>>;

template <class T, class P>
concept SummedLists = FlatObject<T> && requires(const T& lists) {
  { list_of(*lists.data()) } -> std::same_as<const Parameters<P>&>;
};

/// Plain memory as one tensor.
template <class O, class Inputs>
struct MemorySource {
  using Out = O;
  using In = std::remove_cvref_t<decltype(*memory_of(*std::declval<const Inputs&>().data()))>;
  O* to;
  std::size_t elements;
  const Inputs& inputs;
  [[nodiscard]] static std::size_t tensors() { return 1; }
  [[nodiscard]] std::size_t size(std::size_t) const { return elements; }
  [[nodiscard]] O* out(std::size_t) const { return to; }
  [[nodiscard]] const In* input(std::size_t, std::size_t k) const {
    return memory_of(inputs.data()[k]);
  }
};

/// The weights of lists of parameters: buffers have size 0 here.
template <class P, class Lists>
struct ListSource {
  using Out = P;
  using In = P;
  const Parameters<P>& target;
  const Lists& lists;
  [[nodiscard]] std::size_t tensors() const { return target.size(); }
  [[nodiscard]] std::size_t size(std::size_t tensor) const {
    const TensorInfo& info = target.layout()->tensors[tensor];
    return info.dtype == dtype_of<P>() && info.role != Role::copy ? info.size : 0;
  }
  [[nodiscard]] P* out(std::size_t tensor) const {
    return static_cast<P*>(ParameterAccess<P>::memory(target)[tensor].data);
  }
  [[nodiscard]] const P* input(std::size_t tensor, std::size_t k) const {
    return static_cast<const P*>(ParameterAccess<P>::memory(list_of(lists.data()[k]))[tensor].data);
  }
};

template <class Accumulator>
void require_weights(std::size_t inputs, std::span<const double> weights) {
  require(inputs >= 1, "average_n must have at least one input", inputs);
  require(weights.size() == inputs, "average_n must have one weight per input", weights.size());
  for (std::size_t k = 0; k < inputs; ++k) {
    const bool holds =
        is_finite(weights[k]) &&
        std::fabs(weights[k]) <= static_cast<double>(std::numeric_limits<Accumulator>::max());
    if (!holds) {
      require(false,
              "average_n: weight " + text(k) + " must be finite as " +
                  std::string(name_of(dtype_of<Accumulator>())),
              weights[k]);
    }
  }
}

[[noreturn]] POLYAK_COLD inline void refuse_overlap(std::size_t input, std::string_view tensor) {
  std::string where = "input " + text(input);
  if (!tensor.empty()) where.append(", tensor ").append(text(tensor));
  refuse_value(
      "polyak: average_n writes over one of its inputs or apart from all; what it writes "
      "overlaps " +
      where);
}

/// Refuses what is written over a part of an input.
template <class Out, class Inputs>
void require_apart(const MemorySource<Out, Inputs>& source) {
  using In = typename MemorySource<Out, Inputs>::In;
  const std::size_t size = source.elements;
  for (std::size_t k = 0; k < source.inputs.size(); ++k) {
    const In* const input = source.input(0, k);
    const bool same = std::same_as<In, Out> && static_cast<const void*>(input) == source.to;
    if (size != 0 && !same && overlap(source.to, size * sizeof(Out), input, size * sizeof(In))) {
      refuse_overlap(k, {});
    }
  }
}

/// The same for lists, where a tensor of an input may also lie in the place of another one.
template <class P, class Lists>
void require_apart(const ListSource<P, Lists>& source) {
  for (std::size_t k = 0; k < source.lists.size(); ++k) {
    std::uintptr_t low = std::numeric_limits<std::uintptr_t>::max(), high = 0;
    for (std::size_t t = 0; t < source.tensors(); ++t) {
      if (source.size(t) == 0) continue;
      const auto begin = reinterpret_cast<std::uintptr_t>(source.input(t, k));
      low = std::min(low, begin);
      high = std::max(high, begin + source.size(t) * sizeof(P));
    }
    for (std::size_t t = 0; t < source.tensors(); ++t) {
      const P* const to = source.out(t);
      const std::size_t bytes = source.size(t) * sizeof(P);
      const auto begin = reinterpret_cast<std::uintptr_t>(to);
      // The tensors of a list lie apart from each other.
      if (bytes == 0 || begin >= high || begin + bytes <= low || to == source.input(t, k)) continue;
      for (std::size_t other = 0; other < source.tensors(); ++other) {
        const std::size_t other_bytes = source.size(other) * sizeof(P);
        if (other_bytes != 0 && overlap(to, bytes, source.input(other, k), other_bytes)) {
          refuse_overlap(k, source.target.layout()->tensors[other].name);
        }
      }
    }
  }
}

template <class Wanted, class Executor, class Out, class Inputs>
void average_memory(Executor& executor, Out& out, const Inputs& inputs,
                    std::span<const double> weights, const SumPlan& plan = {}) {
  using Source = MemorySource<contained_t<Out>, Inputs>;
  using Accumulator = accumulator_t<Wanted, typename Source::Out, typename Source::In>;
  check_executor(executor);
  require_weights<Accumulator>(inputs.size(), weights);
  const Source source{out.data(), out.size(), inputs};
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    if constexpr (FlatObject<std::remove_cvref_t<decltype(*inputs.data())>>) {
      if (inputs.data()[k].size() != out.size()) {
        require(false,
                "average_n: input " + text(k) + " must have " + text(out.size()) +
                    " elements, as the output has",
                inputs.data()[k].size());
      }
    } else if (inputs.data()[k] == nullptr && out.size() != 0) {
      require(false, "average_n: input " + text(k) + " must have memory; its address",
              std::string_view("null"));
    }
  }
  require_apart(source);
  sum_all<Accumulator>(executor, source, weights, plan);
}

template <class Wanted, class Executor, class P, class Lists>
void average_lists(Executor& executor, const Parameters<P>& target, const Lists& lists,
                   std::span<const double> weights, const SumPlan& plan = {}) {
  using Accumulator = accumulator_t<Wanted, P, P>;
  check_executor(executor);
  require_weights<Accumulator>(lists.size(), weights);
  for (std::size_t k = 0; k < lists.size(); ++k) {
    require_same(list_of(lists.data()[k]).layout(), target.layout(),
                 "an input of average_n and its target");
  }
  if (target.swapped()) refuse_order("polyak: average_n() while an average is swapped in");
  const ListSource<P, Lists> source{target, lists};
  require_apart(source);
  sum_all<Accumulator>(executor, source, weights, plan);
}

}  // namespace detail

}  // namespace v0
}  // namespace polyak
