// SPDX-License-Identifier: Apache-2.0
/// @file
/// Executors: who runs the ranges of a pass.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace polyak {
inline namespace v0 {

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
