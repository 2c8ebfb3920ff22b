// SPDX-License-Identifier: Apache-2.0
/// @file
/// The common part of sweeps over streams in the host's memory: the parts of a range, and which
/// outputs are written past the caches.
#pragma once

#include <cstddef>

#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
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
}  // namespace POLYAK_V0
}  // namespace polyak
