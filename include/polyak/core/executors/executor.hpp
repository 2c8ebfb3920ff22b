// SPDX-License-Identifier: Apache-2.0
/// @file
/// Executors: who runs the ranges of a pass.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// Where the k-th of `shares` equal shares of the elements begins, and the (k-1)-th ends: at a
/// multiple of slot_granule, so that no pack and no cache line of a slot has two owners. Where
/// there are more shares than granules some shares are empty.
[[nodiscard]] constexpr std::size_t share_begin(std::size_t elements, std::size_t shares,
                                                std::size_t k) {
  const std::size_t granules = (elements + slot_granule - 1) / slot_granule;
  const std::size_t rest = granules % shares;
  const std::size_t begin = (granules / shares * k + (k < rest ? k : rest)) * slot_granule;
  return begin < elements ? begin : elements;
}

/// Refuses an executor that cannot run, before anything has changed.
template <class E>
void check_executor(const E& executor) {
  if constexpr (requires { executor.validate(); }) executor.validate();
}

}  // namespace detail

/// Calls `range(begin, end)` for ranges that cover 0..elements without overlap, in any order and
/// on any threads, and returns when all have ended. Results do not depend, in any bit, on how the
/// elements are split.
template <class E>
concept Executor = requires(std::remove_reference_t<E>& executor,
                            void (&range)(std::size_t, std::size_t)) {
  executor(std::size_t{}, range);
};

/// Runs everything in the calling thread.
struct Serial {
  template <class Range>
  void operator()(std::size_t elements, Range&& range) const {
    range(std::size_t{0}, elements);
  }
};
inline constexpr Serial serial{};

}  // namespace v0
}  // namespace polyak
