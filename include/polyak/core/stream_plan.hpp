// SPDX-License-Identifier: Apache-2.0
/// @file
/// The common part of sweeps over streams: the parts of a range, the checks of streams, and which
/// outputs are written past the caches.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// Outputs of more bytes are written past the caches, which saves reading them first: 15 to 25 % of
/// the time. The limit is half of the 32 MiB that the cores of one die typically share; smaller
/// results are often still in the cache when they are read next. The cache size reported by the
/// system is not a better guide: virtual machines report the size of their host, here ten times too
/// much.
inline constexpr std::size_t stream_above = std::size_t{16} << 20;

/// How a sweep runs; tests set other values.
struct StreamPlan {
  int level = level_in_use();
  std::size_t streams_above = stream_above;  ///< bytes of output
};

/// Takes all tensors: the default of sweeps.
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

/// Refuses streams that do not have the same tensors.
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
                   .append(" must write over one of its inputs or apart from all of them; its "
                           "output overlaps ") +
               where);
}

/// Refuses an output that overlaps a part of an input, or another tensor of the input. `other`
/// describes the input in the message.
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
    // The tensors of one list do not overlap.
    if (bytes == 0 || begin >= high || begin + bytes <= low || same) continue;
    for (std::size_t i = 0; i < tensors; ++i) {
      const std::size_t other_bytes = size_of(i) * scalar_bytes<In>;
      if (other_bytes != 0 && overlap(to, bytes, input[i], other_bytes)) {
        refuse_overlap(
            who, other(),
            output.layout() == nullptr ? std::string_view() : output.layout()->tensors[i].name);
      }
    }
  }
}

/// Whether one of the tensors is written in the place where it is read.
template <class Out, class In, class Sizes>
[[nodiscard]] bool writes_in_place(const Stream<Out>& output, const Stream<const In>& input,
                                   const Sizes& size_of) {
  for (std::size_t k = 0; k < tensors_of(output); ++k) {
    if (size_of(k) != 0 && static_cast<const void*>(input[k]) == output[k]) return true;
  }
  return false;
}

/// Refuses outputs that overlap each other.
template <class... Out, class Sizes>
void require_outputs_apart(std::string_view who, const std::tuple<Stream<Out>...>& outputs,
                           const Sizes& size_of) {
  const auto pair = [&]<std::size_t I>(std::integral_constant<std::size_t, I>, const auto& other,
                                       std::size_t j) {
    const auto& one = std::get<I>(outputs);
    if (I >= j) return;
    require_apart(who, one, stream_of(other), size_of, false, [&] { return "output " + text(j); });
  };
  const auto all = [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto with = [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
      (pair(std::integral_constant<std::size_t, I>(), std::get<J>(outputs), J), ...);
    };
    (with(std::integral_constant<std::size_t, I>()), ...);
  };
  all(std::index_sequence_for<Out...>{});
}

/// Calls range(begin, end) for each range of the executor, in the caller's mode for denormals.
template <class E, class Range>
void for_ranges(E& executor, std::size_t elements, const Range& range) {
  const FloatMode::Word mode = FloatMode::get();
  const auto as_the_caller = [&](std::size_t begin, std::size_t end) {
    const WithFloatMode as_in_the_caller(mode);
    range(begin, end);
  };
  executor(elements, as_the_caller);
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
