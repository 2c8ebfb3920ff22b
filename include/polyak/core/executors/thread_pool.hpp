// SPDX-License-Identifier: Apache-2.0
/// @file
/// An executor that runs a sweep on the user's Eigen::ThreadPoolDevice.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include <polyak/core/executors/executor.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// The used part of Eigen::ThreadPoolDevice. This header does not include Eigen's tensor module.
template <class D>
concept PoolDevice = requires(const D& device, void (*task)()) {
  { device.numThreads() } -> std::convertible_to<int>;
  requires requires { device.enqueueNoNotification(+task); } || requires {
    { device.enqueue(+task) } -> std::same_as<void>;  // the name in later versions
  };
};

/// Returns false if the task could not be queued for lack of memory.
template <class D, class Task>
[[nodiscard]] bool enqueue(const D& device, Task task) {
#if defined(__cpp_exceptions)
  try {
#endif
    if constexpr (requires { device.enqueueNoNotification(static_cast<Task&&>(task)); }) {
      device.enqueueNoNotification(static_cast<Task&&>(task));
    } else {
      device.enqueue(static_cast<Task&&>(task));
    }
    return true;
#if defined(__cpp_exceptions)
  } catch (...) {
    return false;
  }
#endif
}

/// Sweeps that a calling thread shares with the threads of a pool, one sweep at a time.
///
/// The caller takes shares from the front and the helpers from the back, as many as they can. So
/// the caller waits only for shares in progress, never for a helper that sleeps, is busy elsewhere
/// or could not be queued; and a thread gets much the same elements in every step. A helper may
/// start after its sweep has ended, so it holds a reference. The references are counted by hand,
/// because a std::function allocates nothing if it is trivial to copy.
class SharedSweeps {
 public:
  static constexpr std::size_t most_shares = 1 << 15;

  struct Release {
    void operator()(SharedSweeps* shared) const { shared->release(); }
  };
  void retain() { owners_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  /// Returns false if another thread is in a call.
  template <class D, class Range>
  [[nodiscard]] bool share(const D& device, std::size_t elements, std::size_t shares, int helpers,
                           Range& range) {
    if (in_use_.exchange(true, std::memory_order_acquire)) return false;
    elements_ = elements;
    shares_ = shares;
    range_ = std::addressof(range);
    call_ = [](const void* to_run, std::size_t begin, std::size_t end) {
      (*static_cast<Range*>(const_cast<void*>(to_run)))(begin, end);
    };
    unfinished_.store(static_cast<int>(shares), std::memory_order_relaxed);
    const std::uint64_t pass = (open_.load(std::memory_order_relaxed) >> 32) + 1;
    open_.store(pass << 32 | shares, std::memory_order_release);
    while (helpers_.load(std::memory_order_relaxed) < helpers) {
      retain();
      helpers_.fetch_add(1, std::memory_order_relaxed);
      if (!enqueue(device, [this] { help(); })) {
        helpers_.fetch_sub(1, std::memory_order_relaxed);
        release();
        break;
      }
    }
    while (take_share(true)) {
    }
    wait();
    in_use_.store(false, std::memory_order_release);
    return true;
  }

 private:
  void help() {
    while (take_share(false)) {
    }
    helpers_.fetch_sub(1, std::memory_order_relaxed);
    release();
  }

  /// Takes a share, if one is left, and runs it.
  bool take_share(bool first) {
    // The upper half is the number of the sweep, so that a state never repeats. Then come 16 bits
    // each for the first remaining share and for the end of the remaining shares.
    std::uint64_t open = open_.load(std::memory_order_acquire);
    std::size_t k = 0;
    for (;;) {
      const std::uint64_t begin = open >> 16 & 0xffff;
      const std::uint64_t end = open & 0xffff;
      if (begin == end) return false;
      k = static_cast<std::size_t>(first ? begin : end - 1);
      const std::uint64_t left = first ? open + 0x10000 : open - 1;
      if (open_.compare_exchange_weak(open, left, std::memory_order_acquire)) break;
    }
    call_(range_, share_begin(elements_, shares_, k), share_begin(elements_, shares_, k + 1));
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1 && !first) {
      unfinished_.notify_one();
    }
    return true;
  }

  void wait() {
    constexpr int patience = 2000;  // a few microseconds: helpers end about when the caller does
    for (int spin = 0; spin < patience; ++spin) {
      if (unfinished_.load(std::memory_order_acquire) == 0) return;
    }
    for (int n; (n = unfinished_.load(std::memory_order_acquire)) != 0;) unfinished_.wait(n);
  }

  std::atomic<std::uint64_t> open_{0};
  std::atomic<int> unfinished_{0};  ///< shares of the sweep
  std::atomic<int> helpers_{0};     ///< queued or running
  std::atomic<int> owners_{1};
  std::atomic<bool> in_use_{false};
  // The current sweep, for the threads that hold a share of it.
  std::size_t elements_ = 0, shares_ = 1;
  const void* range_ = nullptr;
  void (*call_)(const void*, std::size_t, std::size_t) = nullptr;
};

}  // namespace detail

/// Runs sweeps on the calling thread and the threads of an Eigen::ThreadPoolDevice, numThreads() in
/// all. See on().
///
/// A sweep ends as soon as its work is done, with or without the pool: it does not wait for threads
/// that sleep or have other work. Calls from the pool's own threads are allowed. A call while
/// another thread is in a call of the same executor runs in the calling thread only. In a step,
/// only the pool's queue may allocate.
template <detail::PoolDevice D>
class ThreadPool {
 public:
  /// A pool's threads sleep between steps. Waking one costs the caller as much time as about 25,000
  /// elements of AdamW with two averages; from about 100,000 elements on it is worth it.
  static constexpr std::size_t usual_serial_below = 1 << 17;

  /// The device must outlive the executor, which allocates about a hundred bytes.
  explicit ThreadPool(const D& device, std::size_t serial_below = usual_serial_below)
      : device_(&device), serial_below_(serial_below), shared_(new detail::SharedSweeps) {}
  ThreadPool(const ThreadPool& other) : ThreadPool(*other.device_, other.serial_below_) {}
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() = default;

  template <class Range>
  void operator()(std::size_t elements, Range&& range) const {
    const int threads = static_cast<int>(device_->numThreads());
    const std::size_t granules = elements / detail::slot_granule;
    if (elements >= serial_below_ && threads > 1 && granules > 1) {
      // Several shares for each thread, but no share so small that taking it costs more than
      // running it.
      const std::size_t worthwhile = elements / small_share;
      const auto wanted = shares_per_thread * static_cast<std::size_t>(threads);
      std::size_t shares = wanted < worthwhile ? wanted : worthwhile;
      if (shares < 2) shares = 2;
      if (shares > detail::SharedSweeps::most_shares) shares = detail::SharedSweeps::most_shares;
      const int others = threads - 1;
      const int helpers =
          others < static_cast<int>(shares) - 1 ? others : static_cast<int>(shares) - 1;
      if (shared_->share(*device_, elements, shares, helpers, range)) return;
    }
    range(std::size_t{0}, elements);
  }

 private:
  static constexpr std::size_t shares_per_thread = 4;
  static constexpr std::size_t small_share = 1 << 12;

  const D* device_;
  std::size_t serial_below_;
  std::unique_ptr<detail::SharedSweeps, detail::SharedSweeps::Release> shared_;
};

/// An executor on the user's Eigen::ThreadPoolDevice, which must outlive it. Sweeps over fewer
/// elements than `serial_below` stay in the calling thread. Construct it once, next to the methods:
/// `const auto threads = polyak::on(device);`, then `polyak::step(threads, params, grads, adamw)`.
template <detail::PoolDevice D>
[[nodiscard]] ThreadPool<D> on(const D& device,
                               std::size_t serial_below = ThreadPool<D>::usual_serial_below) {
  return ThreadPool<D>(device, serial_below);
}

}  // namespace POLYAK_V0
}  // namespace polyak
