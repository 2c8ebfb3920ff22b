// SPDX-License-Identifier: Apache-2.0
// Distinct objects are independent across threads, and the level of dispatch may change under them.
// With executor_test.cpp this is what the preset `thread` runs under the thread sanitizer.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/levels.hpp"
#include "../support/model.hpp"

namespace concurrency_test {

namespace {

std::vector<std::vector<std::byte>> trained(std::uint64_t seed) {
  Model<float> model({5, 203, 1000}, true);
  polyak::AdamW adamw(model.params, {.learning_rate = 0.1});
  polyak::Ema ema(model.params, {.decay = 0.9});
  for (std::uint64_t step = 0; step < 40; ++step) {
    model.differentiate(100 * seed + step);
    polyak::step(model.params, model.gradients, adamw, ema);
    const auto guard = ema.swap_into(model.params);
  }
  return {model.bytes(), polyak::state_bytes(adamw), polyak::state_bytes(ema)};
}

}  // namespace

TEST_CASE("distinct objects train in separate threads while the dispatch level changes") {
  constexpr std::size_t count = 4;
  const bool same_bits =
      levels::baseline_rounds_once || polyak::dispatch_level() == polyak::DispatchLevel::baseline;
  std::vector<std::vector<std::vector<std::byte>>> expected(count), results(count);
  for (std::size_t k = 0; k < count; ++k) expected[k] = trained(k);

  std::atomic<bool> done{false};
  std::thread changer([&] {
    bool narrow = false;
    while (!done.load()) {
      // Never the baseline where that has other bits.
      polyak::cap_dispatch_level(narrow ? same_bits ? polyak::DispatchLevel::baseline
                                                    : polyak::DispatchLevel::x86_64_v3
                                        : polyak::DispatchLevel::x86_64_v4);
      narrow = !narrow;
    }
    polyak::cap_dispatch_level(polyak::DispatchLevel::x86_64_v4);
  });
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < count; ++k) {
    threads.emplace_back([&, k] { results[k] = trained(k); });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  changer.join();
  for (std::size_t k = 0; k < count; ++k) CHECK(results[k] == expected[k]);
}

}  // namespace concurrency_test
