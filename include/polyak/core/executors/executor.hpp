// SPDX-License-Identifier: Apache-2.0
/// @file
/// Executors: objects that run the ranges of a sweep.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// The first element of the k-th of `shares` equal shares, which is the end of the (k-1)-th. It is
/// a multiple of slot_granule, so that no pack and no cache line of a slot belongs to two shares.
/// If there are more shares than granules, some shares are empty.
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
/// on any threads, and returns when all calls have returned. No bit of a result depends on how the
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

namespace detail {

/// A type-erased reference to a callable on ranges: code that takes one is compiled once for all
/// callables.
class RangeRef {
 public:
  template <class Range>
  requires(!std::same_as<std::remove_cv_t<Range>, RangeRef>) explicit RangeRef(Range& range)
      : range_(&range), call_([](const void* object, std::size_t begin, std::size_t end) {
          (*static_cast<Range*>(const_cast<void*>(object)))(begin, end);
        }) {}
  void operator()(std::size_t begin, std::size_t end) const { call_(range_, begin, end); }

 private:
  const void* range_;
  void (*call_)(const void*, std::size_t, std::size_t);
};

}  // namespace detail

/// A type-erased reference to an executor, passed to `prepare` and `finish` of methods. It must not
/// outlive the executor.
class ExecutorRef {
 public:
  template <class E>
  requires(!std::same_as<std::remove_cv_t<E>, ExecutorRef>) ExecutorRef(E& executor)
      : executor_(&executor),
        call_([](const void* object, std::size_t elements, const detail::RangeRef& range) {
          if constexpr (Executor<E>) {
            (*static_cast<E*>(const_cast<void*>(object)))(elements, range);
          } else {  // a device's executor: its loops are launched
            range(std::size_t{0}, elements);
          }
        }),
        serial_(!Executor<E> || std::same_as<std::remove_cv_t<E>, Serial>) {}

  /// Runs `range(begin, end)`, see Executor.
  template <class Range>
  void operator()(std::size_t elements, Range&& range) const {
    call_(executor_, elements, detail::RangeRef(range));
  }
  /// Whether everything runs in the calling thread.
  [[nodiscard]] bool is_serial() const { return serial_; }

 private:
  const void* executor_;
  void (*call_)(const void*, std::size_t, const detail::RangeRef&);
  bool serial_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
