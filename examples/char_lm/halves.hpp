// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace char_lm {

/// Does the two halves of a piece of work at the same time. The work is always in two halves, so
/// results do not depend on the number of cores.
class Halves {
 public:
  Halves() : thread_([this] { serve(); }) {}
  Halves(const Halves&) = delete;
  Halves& operator=(const Halves&) = delete;
  ~Halves() {
    start(nullptr);
    thread_.join();
  }

  /// Runs `work(0)` here and `work(1)` on the other thread; `work` must not throw.
  void run(const std::function<void(std::size_t)>& work) {
    const unsigned before = finished_.load(std::memory_order_relaxed);
    start(&work);
    work(0);
    finished_.wait(before, std::memory_order_acquire);
  }

 private:
  void start(const std::function<void(std::size_t)>* work) {
    work_ = work;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_one();
  }

  void serve() {
    for (unsigned seen = 0;; ++seen) {
      started_.wait(seen, std::memory_order_acquire);
      if (work_ == nullptr) return;
      (*work_)(1);
      finished_.fetch_add(1, std::memory_order_release);
      finished_.notify_one();
    }
  }

  const std::function<void(std::size_t)>* work_ = nullptr;
  std::atomic<unsigned> started_{0};
  std::atomic<unsigned> finished_{0};
  std::thread thread_;  // last: it uses the others
};

}  // namespace char_lm
