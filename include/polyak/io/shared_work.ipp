// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/shared_work.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>

#include <pthread.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/shared_work.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The work of one call of share_work(), which its threads take piece by piece.
struct SharedWork {
  std::size_t count;
  const std::function<void(std::size_t)>& work;
  std::atomic<std::size_t> next{0};

  /// The failure of one thread. All pieces before the one that failed have been taken, so the
  /// smallest of all threads is the smallest of all.
  struct Failure {
    std::size_t place;
    std::exception_ptr what;
  };

  [[nodiscard]] Failure run() {
    for (std::size_t k; (k = next.fetch_add(1)) < count;) {
#if defined(__cpp_exceptions)
      try {
        work(k);
      } catch (...) {
        next.store(count);
        return {k, std::current_exception()};
      }
#else
      work(k);
#endif
    }
    return {count, nullptr};
  }
};

/// A thread that takes part.
struct Helper {
  SharedWork* shared;
  SharedWork::Failure failure;
  ::pthread_t thread;
};

POLYAK_DEFINE_ON_USE void share_work(std::size_t count, std::uint64_t bytes,
                                     const std::function<void(std::size_t)>& work) {
  constexpr std::size_t most = 4;
  constexpr std::uint64_t worth_a_thread = std::uint64_t{8} << 20;
  const auto processors = static_cast<std::size_t>(std::max(::sysconf(_SC_NPROCESSORS_ONLN), 1L));
  const auto threads = static_cast<std::size_t>(
      std::min<std::uint64_t>({most, processors, count, 1 + bytes / worth_a_thread}));
  SharedWork shared{count, work};
  Helper helpers[most - 1];
  std::size_t started = 0;
  while (started + 1 < threads) {  // without a thread, the others do its part
    Helper& helper = helpers[started];
    helper.shared = &shared;
    const auto run = [](void* argument) -> void* {
      auto& own = *static_cast<Helper*>(argument);
      own.failure = own.shared->run();
      return nullptr;
    };
    if (::pthread_create(&helper.thread, nullptr, run, &helper) != 0) break;
    ++started;
  }
  SharedWork::Failure first = shared.run();
  for (std::size_t k = 0; k < started; ++k) {
    ::pthread_join(helpers[k].thread, nullptr);
    if (helpers[k].failure.place < first.place) first = helpers[k].failure;
  }
#if defined(__cpp_exceptions)
  if (first.what != nullptr) std::rethrow_exception(first.what);
#endif
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
