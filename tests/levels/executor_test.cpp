// SPDX-License-Identifier: Apache-2.0
// Executors: the same bits as in one thread, for any list of tensors and any number of threads.
#define EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/Tensor>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include <polyak/core/executors/openmp.hpp>
#include <polyak/core/executors/thread_pool.hpp>
#include <polyak/polyak.hpp>

#include "../support/allocations.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"

namespace executor_test {

namespace {

using Bytes = std::vector<std::byte>;
using Sizes = std::initializer_list<std::size_t>;

/// All state after a few steps and updates. May run in any thread, so it checks nothing.
template <class P, class E>
std::vector<Bytes> trained(const std::vector<std::size_t>& sizes, E&& executor) {
  Model<P> model(sizes, true);
  polyak::AdamW<P> adamw(model.params, {.learning_rate = 0.1, .weight_decay = 0.1});
  polyak::Ema<P> fused(model.params, {.decay = 0.9}), alone(model.params, {.decay = 0.5});
  for (std::uint64_t step = 0; step < 4; ++step) {
    model.differentiate(step, step == 2 ? std::set<std::size_t>{0} : std::set<std::size_t>{});
    polyak::step(executor, model.params, model.gradients, adamw, fused);
    model.wander(step);
    polyak::update(executor, model.params, alone, fused);
  }
  return {model.bytes(), polyak::state_bytes(adamw), polyak::state_bytes(fused),
          polyak::state_bytes(alone), Bytes(model.margins_intact() ? 0 : 1)};
}

/// One large tensor, tensors of awkward sizes, many small ones, hardly any element, none.
const std::vector<std::vector<std::size_t>>& lists() {
  static const std::vector<std::vector<std::size_t>> all{
      {20'000}, {5, 0, 203, 64, 1000, 31, 32, 33, 6000, 1}, std::vector<std::size_t>(300, 13), {1},
      {0, 0},
  };
  return all;
}

/// `make()` gives the executor for one run.
template <class P, class Make>
void check_equal_to_serial(Make make) {
  for (const auto& sizes : lists()) {
    INFO(sizes.size() << " tensors");
    CHECK(trained<P>(sizes, make()) == trained<P>(sizes, polyak::serial));
  }
}

/// The ranges of an executor, by their first element.
template <class E>
std::vector<std::pair<std::size_t, std::size_t>> ranges(const E& executor, std::size_t elements) {
  std::vector<std::pair<std::size_t, std::size_t>> all;
  std::mutex mutex;
  executor(elements, [&](std::size_t begin, std::size_t end) {
    const std::lock_guard lock(mutex);
    all.emplace_back(begin, end);
  });
  std::sort(all.begin(), all.end());
  return all;
}

/// Whether ranges cover all elements once, cut at granules of 32.
bool cover(const std::vector<std::pair<std::size_t, std::size_t>>& all, std::size_t elements) {
  std::size_t reached = 0;
  for (const auto& [begin, end] : all) {
    if (begin != reached || begin % 32 != 0 || end < begin) return false;
    reached = end;
  }
  return reached == elements;
}

/// A device whose threads never come, or whose queue is out of memory.
struct StubDevice {
  bool out_of_memory = false;
  std::vector<std::function<void()>>* queue = nullptr;
  int threads = 4;
  [[nodiscard]] int numThreads() const { return threads; }
  template <class Task>
  void enqueueNoNotification(Task&& task) const {
    if (out_of_memory) throw std::bad_alloc();
    queue->emplace_back(std::forward<Task>(task));
  }
};

}  // namespace

TEST_CASE("equal shares begin at granules and cover all elements") {
  for (const std::size_t elements : Sizes{0, 1, 31, 32, 33, 64, 1000, 4096, 100'000}) {
    for (const std::size_t shares : Sizes{1, 2, 3, 7, 64, 5000}) {
      std::size_t smallest = elements, largest = 0;
      CHECK(polyak::detail::share_begin(elements, shares, 0) == 0);
      CHECK(polyak::detail::share_begin(elements, shares, shares) == elements);
      for (std::size_t k = 0; k < shares; ++k) {
        const std::size_t begin = polyak::detail::share_begin(elements, shares, k);
        const std::size_t end = polyak::detail::share_begin(elements, shares, k + 1);
        REQUIRE((begin <= end && (begin % 32 == 0 || begin == elements)));
        smallest = std::min(smallest, end - begin);
        largest = std::max(largest, end - begin);
      }
      CHECK(largest - smallest <= 64);
    }
  }
}

TEMPLATE_TEST_CASE("a thread pool gives the bits of one thread", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for (const int threads : {1, 2, 5}) {
    Eigen::ThreadPool pool(threads);
    const Eigen::ThreadPoolDevice device(&pool, threads);
    check_equal_to_serial<TestType>([&] { return polyak::on(device, 0); });
  }
}

TEST_CASE("any split over threads gives the bits of one thread") {
  check_equal_to_serial<float>([] { return Splitter(Split::threads); });
}

TEST_CASE("a thread pool splits only passes that are long enough") {
  Eigen::ThreadPool pool(3);
  const Eigen::ThreadPoolDevice device(&pool, 3), one_thread(&pool, 1);
  const auto usual = polyak::on(device);
  const auto eager = polyak::on(device, 0);
  CHECK(ranges(usual, polyak::ThreadPool<Eigen::ThreadPoolDevice>::usual_serial_below - 1).size() ==
        1);
  CHECK(ranges(usual, polyak::ThreadPool<Eigen::ThreadPoolDevice>::usual_serial_below).size() > 3);
  CHECK(ranges(eager, 64).size() == 2);
  for (const std::size_t elements : Sizes{0, 1, 40, 64, 100, 10'000, 100'001, 1'000'000}) {
    INFO(elements << " elements");
    CHECK(cover(ranges(usual, elements), elements));
    CHECK(cover(ranges(eager, elements), elements));
    CHECK(ranges(polyak::on(one_thread, 0), elements).size() == 1);
  }
}

TEST_CASE("a thread pool can be used from all of its own threads") {
  Eigen::ThreadPool pool(2);
  const Eigen::ThreadPoolDevice device(&pool, 2);
  const auto expected = trained<float>({20'000}, polyak::serial);
  std::vector<std::vector<Bytes>> results(4);
  Eigen::Barrier barrier(static_cast<unsigned>(results.size()));
  for (auto& result : results) {
    device.enqueueNoNotification([&] {
      result = trained<float>({20'000}, polyak::on(device, 0));
      barrier.Notify();
    });
  }
  barrier.Wait();
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("one executor on a pool serves several threads") {
  Eigen::ThreadPool pool(2);
  const Eigen::ThreadPoolDevice device(&pool, 2);
  const auto executor = polyak::on(device, 0);
  const auto expected = trained<float>({20'000}, polyak::serial);
  std::vector<std::vector<Bytes>> results(3);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] { result = trained<float>({20'000}, executor); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("a pass completes even if the pool's threads are busy") {
  std::vector<std::function<void()>> queue;
  const auto expected = trained<float>({20'000}, polyak::serial);
  {
    const StubDevice device{.queue = &queue};
    const auto executor = polyak::on(device, 0);
    CHECK(trained<float>({20'000}, executor) == expected);
    CHECK(queue.size() == 3);  // not more at every step
    for (const auto& task : std::exchange(queue, {})) task();
    CHECK(cover(ranges(executor, 20'000), 20'000));
    CHECK(queue.size() == 3);
  }
  for (const auto& task : queue) task();  // after the executor's end

  CHECK(trained<float>({20'000}, polyak::on(StubDevice{.out_of_memory = true}, 0)) == expected);
  CHECK(trained<float>({20'000}, polyak::on(StubDevice{.threads = 0}, 0)) == expected);
}

TEST_CASE("a step on a thread pool allocates only what the pool's queue allocates") {
  std::vector<std::function<void()>> queue;
  queue.reserve(10);
  const StubDevice device{.queue = &queue};
  const auto executor = polyak::on(device, 0);
  Model<float> model({20'000});
  polyak::AdamW adamw(model.params, {.learning_rate = 0.1});
  model.differentiate(0);
  const allocations::Counter counter;
  polyak::step(executor, model.params, model.gradients, adamw);
  const std::size_t allocated = counter.counts().number;
  CHECK(allocated == 0);
  CHECK(queue.size() == 3);
  for (const auto& task : queue) task();
}

TEST_CASE("OpenMp refuses a negative number of threads before anything changes") {
  Model<float> model({100});
  polyak::AdamW adamw(model.params, {.learning_rate = 0.1});
  polyak::Ema ema(model.params, {.decay = 0.5});
  model.differentiate(0);
  const auto before = std::pair(model.bytes(), polyak::state_bytes(adamw));
  const polyak::OpenMp executor{.threads = -1};
  CHECK(refuses([&] { executor.validate(); }, {"OpenMp.threads must be 0 or more, got -1"}));
#if defined(_OPENMP)
  const auto step = [&] { polyak::step(executor, model.params, model.gradients, adamw, ema); };
  CHECK(refuses(step, {"OpenMp.threads must be 0 or more, got -1"}));
  CHECK(refuses([&] { polyak::update(executor, model.params, ema); }, {"OpenMp.threads"}));
#endif
  CHECK(std::pair(model.bytes(), polyak::state_bytes(adamw)) == before);
  CHECK(ema.count() == 0);
}

#if defined(_OPENMP)

TEMPLATE_TEST_CASE("OpenMp gives the bits of one thread", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for (const int threads : {0, 1, 2, 5}) {
    check_equal_to_serial<TestType>(
        [&] { return polyak::OpenMp{.threads = threads, .serial_below = 0}; });
  }
}

TEST_CASE("OpenMp splits only passes that are long enough") {
  const polyak::OpenMp usual{.threads = 3}, eager{.threads = 3, .serial_below = 0};
  CHECK(ranges(usual, usual.serial_below - 1).size() == 1);
  CHECK(ranges(usual, usual.serial_below).size() == 3);
  CHECK(ranges(eager, 64).size() == 2);  // one of three threads has no work
  CHECK(ranges(polyak::OpenMp{.threads = 1, .serial_below = 0}, 100'000).size() == 1);
  for (const std::size_t elements : Sizes{0, 1, 40, 64, 100, 10'000, 100'001}) {
    INFO(elements << " elements");
    CHECK(cover(ranges(usual, elements), elements));
    CHECK(cover(ranges(eager, elements), elements));
  }
}

TEST_CASE("OpenMp works inside a parallel region") {
  const auto expected = trained<float>({20'000}, polyak::serial);
  std::vector<std::vector<Bytes>> results(3);
#pragma omp parallel for num_threads(3)
  for (int k = 0; k < 3; ++k) {
    results[static_cast<std::size_t>(k)] =
        trained<float>({20'000}, polyak::OpenMp{.serial_below = 0});
  }
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("a step with OpenMp allocates nothing") {
  Model<float> model({20'000, 77});
  polyak::AdamW adamw(model.params, {.learning_rate = 0.1});
  polyak::Ema ema(model.params, {.decay = 0.5});
  const polyak::OpenMp executor{.threads = 2};
  model.differentiate(0);
  polyak::step(executor, model.params, model.gradients, adamw, ema);  // starts the threads
  const allocations::Counter counter;
  for (int step = 0; step < 3; ++step) {
    polyak::step(executor, model.params, model.gradients, adamw, ema);
    polyak::update(executor, model.params, ema);
  }
  CHECK(counter.counts().number == 0);
}

#endif

}  // namespace executor_test
