// SPDX-License-Identifier: Apache-2.0
// polyak/average/lawa.hpp, window_average.hpp, windowed.hpp
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/core/state.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "model.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace windowed_test {

using namespace polyak;

namespace {

/// Weights that follow given numbers, and the mean of some of them.
template <class P>
struct Run {
  std::vector<std::vector<P>> iterates;
  std::vector<P> weights = std::vector<P>(40), read = std::vector<P>(40);
  Parameters<P> params, target;

  Run() {
    params.add("w", std::span(weights));
    target.add("w", std::span(read));
  }
  void move(RandomNumbers& numbers) {
    numbers.fill(weights);
    iterates.push_back(weights);
  }
  /// The mean of the iterates with these numbers, from 1.
  [[nodiscard]] double mean(std::size_t element, const std::vector<std::int64_t>& calls) const {
    double sum = 0;
    for (const std::int64_t t : calls) {
      sum += static_cast<double>(iterates[static_cast<std::size_t>(t - 1)][element]);
    }
    return sum / static_cast<double>(calls.size());
  }
};

template <class P>
void check_mean(const Run<P>& run, const std::vector<std::int64_t>& calls, double tolerance) {
  for (std::size_t i = 0; i < run.read.size(); ++i) {
    CHECK(static_cast<double>(run.read[i]) == Approx(run.mean(i, calls)).margin(tolerance));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Lawa is the mean of the k latest checkpoints", "", float, double) {
  const double tolerance = std::is_same_v<TestType, float> ? 1e-6 : 1e-14;
  for (const std::int64_t k : {1, 2, 4, 6, 9}) {
    for (const bool running : {false, true}) {
      Run<TestType> run;
      RandomNumbers numbers(5);
      const std::int64_t period = k == 4 ? 3 : 1;
      Lawa<TestType> lawa(run.params,
                          {.checkpoints = k, .period = period, .running_mean = running});
      for (std::int64_t t = 1; t <= 60; ++t) {
        run.move(numbers);
        lawa.update(run.params);
        const std::int64_t held = t / period;
        CHECK(lawa.count() == held);
        CHECK(lawa.held() == std::min(held, k));
        CHECK(lawa.ready() == (held >= k));
        if (!lawa.ready()) {
          CHECK_THROWS_AS(lawa.copy_to(run.target), std::logic_error);
          continue;
        }
        lawa.copy_to(run.target);
        std::vector<std::int64_t> latest;
        for (std::int64_t j = 0; j < k; ++j) latest.push_back((held - j) * period);
        check_mean(run, latest, tolerance);
      }
    }
  }
}

TEST_CASE("Lawa of as many checkpoints as calls is the uniform mean") {
  Run<double> run;
  RandomNumbers numbers(6);
  Lawa<double> lawa(run.params, {.checkpoints = 12});
  Swa<double> swa(run.params);
  for (int t = 0; t < 12; ++t) {
    run.move(numbers);
    update(run.params, lawa, swa);
  }
  for (std::size_t i = 0; i < 40; ++i)
    CHECK(lawa.view()[0][i] == Approx(swa.view()[0][i]).epsilon(1e-14));
}

TEMPLATE_TEST_CASE("the mean of a window of equal weights has their bits", "", float, double) {
  std::vector<TestType> weights = RandomNumbers(7).many<TestType>(70);
  Parameters<TestType> params;
  params.add("w", std::span(weights));
  Lawa<TestType> lawa(params, {.checkpoints = 7}),
      running(params, {.checkpoints = 7, .running_mean = true});
  WindowAverage<TestType> window(params, {.horizon = 6, .interval = 2, .blocks = 4});
  for (int t = 0; t < 24; ++t) update(params, lawa, running, window);
  std::vector<TestType> read(70);
  Parameters<TestType> target;
  target.add("w", std::span(read));
  const auto same = [&] { return bytes_of(read) == bytes_of(weights); };
  lawa.copy_to(target);
  CHECK(same());
  running.copy_to(target);
  CHECK(same());
  for (const std::int64_t blocks : {1, 2, 3, 4}) {
    window.copy_to(target, blocks);
    CHECK(same());
  }
}

TEST_CASE("a NaN disappears with its checkpoint, or when the running mean is recomputed") {
  for (const bool running : {false, true}) {
    float weight = 1;
    Parameters params;
    params.add("w", &weight, {});
    Lawa<float> lawa(params, {.checkpoints = 3, .running_mean = running});
    for (int t = 1; t <= 12; ++t) {
      weight = t == 5 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(t);
      lawa.update(params);
      if (t < 3) continue;
      // A running mean is recomputed at calls 4, 7 and 10, whose checkpoints take the first place
      // of the ring.
      const bool poisoned = t >= 5 && t <= (running ? 9 : 7);
      CHECK(std::isnan(lawa.view()[0][0]) == poisoned);
      if (!poisoned) CHECK(lawa.view()[0][0] == Approx(t - 1));
    }
  }
}

TEST_CASE("WindowAverage samples the first call of each interval, in blocks") {
  Run<double> run;
  RandomNumbers numbers(8);
  WindowAverage<double> window(run.params, {.horizon = 8, .interval = 2, .blocks = 3});
  CHECK_THROWS_AS(window.current(), std::logic_error);
  for (std::int64_t t = 1; t <= 50; ++t) {
    run.move(numbers);
    window.update(run.params);
    const std::int64_t complete = t / 8;
    CHECK(window.count() == complete);
    CHECK(window.ready() == (complete > 0));
    if (complete == 0) continue;
    window.copy_to(run.target);
    const auto samples = [&](std::int64_t blocks) {
      std::vector<std::int64_t> calls;
      for (std::int64_t s = (complete - blocks) * 8 + 1; s <= complete * 8; s += 2)
        calls.push_back(s);
      return calls;
    };
    check_mean(run, samples(1), 1e-14);
    const std::int64_t held = window.held();
    CHECK(held == std::min<std::int64_t>(complete, 3));
    for (std::int64_t blocks = 1; blocks <= held; ++blocks) {
      window.copy_to(run.target, blocks);
      check_mean(run, samples(blocks), 1e-14);
      const auto before = bytes_of(run.weights);
      {
        const auto guard = window.swap_into(run.params, blocks);
        CHECK(bytes_of(run.weights) == bytes_of(run.read));
        CHECK_THROWS_AS(window.update(run.params), std::logic_error);
      }
      CHECK(bytes_of(run.weights) == before);
    }
    CHECK(refuses([&] { window.copy_to(run.target, held + 1); }, {"complete blocks"}));
    CHECK(refuses([&] { window.copy_to(run.target, 0); }, {"complete blocks", "0"}));
  }
}

TEST_CASE("windows support every way of storing an average") {
  const auto follow = [](auto make, double tolerance) {
    Run<float> run;
    RandomNumbers numbers(9);
    auto window = make(run.params);
    for (int t = 0; t < 64; ++t) {
      run.move(numbers);
      window.update(run.params);
    }
    std::vector<std::int64_t> calls;
    for (std::int64_t s = 33; s <= 64; ++s) calls.push_back(s);
    window.copy_to(run.target, 2);
    check_mean(run, calls, tolerance);
  };
  const WindowAverageOptions options{.horizon = 16, .interval = 1, .blocks = 2};
  auto kahan = options, wide = options, random = options;
  kahan.accumulate = Accumulate::kahan;
  wide.accumulate = Accumulate::float64;
  random.accumulate = Accumulate::stochastic;
  follow([&](const auto& p) { return WindowAverage<float>(p, options); }, 1e-6);
  follow([&](const auto& p) { return WindowAverage<float>(p, kahan); }, 6e-8);
  follow([&](const auto& p) { return WindowAverage<float>(p, wide); }, 6e-8);
  follow([&](const auto& p) { return WindowAverage<float, Eigen::bfloat16>(p, random); }, 0.03);
  follow([&](const auto& p) { return WindowAverage<float, Eigen::bfloat16>(p, kahan); }, 0.01);
}

TEST_CASE("windows of 16 bits whose mean would stall are refused") {
  Model<float> model({5});
  using B = Eigen::bfloat16;
  CHECK(
      refuses([&] { Lawa<float, B>(model.params, {.checkpoints = 100}); }, {"plain", "got 0.39"}));
  CHECK_NOTHROW(Lawa<float, B>(model.params, {.checkpoints = 2}));
  CHECK_NOTHROW(
      Lawa<float, B>(model.params, {.checkpoints = 100, .accumulate = Accumulate::stochastic}));
}

TEST_CASE("Lawa and WindowAverage refuse options out of range") {
  Model<float> model({5});
  const auto lawa = [&](const LawaOptions& o) { return Lawa<float>(model.params, o); };
  check_refused(lawa, LawaOptions{}, &LawaOptions::checkpoints,
                "LawaOptions.checkpoints must lie in [1, 65536]", {0, -1, 65537});
  check_refused(lawa, LawaOptions{}, &LawaOptions::period, "LawaOptions.period must be >= 1", {0});
  const auto window = [&](const WindowAverageOptions& o) {
    return WindowAverage<float>(model.params, o);
  };
  using O = WindowAverageOptions;
  check_refused(window, O{}, &O::horizon,
                "WindowAverageOptions.horizon must be a positive multiple of interval", {0, -5, 7});
  check_refused(window, O{}, &O::interval, "WindowAverageOptions.interval must be >= 1", {0, -1});
  check_refused(window, O{}, &O::blocks, "WindowAverageOptions.blocks must lie in [1, 65535]",
                {0, 65536});
}

TEST_CASE("banks and windows continue with a model that grew") {
  std::vector<float> a{1, 2, 3}, added{5, 6};
  Parameters before, after;
  before.add("a", std::span(a));
  after.add("added", std::span(added)).add("a", std::span(a));
  const WindowAverageOptions options{.horizon = 4, .interval = 1, .blocks = 2};
  EmaBank<float, 2> bank(before, {0.9, 0.5}), small_bank(before, {0.9, 0.5});
  WindowAverage<float> window(before, options), small_window(before, options);
  for (int t = 1; t <= 12; ++t) {
    a[1] += 1;
    const bool grown = t > 6;  // in the middle of a block
    if (t == 7) {
      bank.grow(after);
      window.grow(after);
    }
    added[0] += grown ? 1 : 0;
    update(before, small_bank, small_window);
    if (grown) {
      update(after, bank, window);
    } else {
      update(before, bank, window);
    }
    for (std::size_t k = 0; k < 2; ++k) {
      if (t > 0) CHECK(bank.view(k)["a"][1] == small_bank.view(k)["a"][1]);
    }
    if (window.ready()) CHECK(window.view()["a"][1] == small_window.view()["a"][1]);
  }
  CHECK(window.view()["added"][0] == Approx((8 + 9 + 10 + 11) / 4.0));
  std::vector<float> read_a(3), read_added(2);
  Parameters target;
  target.add("added", std::span(read_added)).add("a", std::span(read_a));
  window.copy_to(target, 2);  // the block of calls 5 to 8 had 5 where the tensor was not there
  CHECK(read_added[0] == Approx(((5 + 5 + 6 + 7) + (8 + 9 + 10 + 11)) / 8.0));
  const auto state = state_bytes(bank);
  CHECK_THROWS_AS(bank.grow(before), std::invalid_argument);
  CHECK(state_bytes(bank) == state);
}

TEST_CASE("no count in a state leads outside the ring, and only the mean is written") {
  static_assert(written_slots<FoldLaw<float, 4>> == 1);
  Model<float> model({40}), other({40});
  WindowAverage<float> window(model.params, {.horizon = 4, .interval = 2, .blocks = 3});
  for (int t = 0; t < 9; ++t) window.update(model.params);
  auto bytes = state_bytes(window);
  std::uint64_t description = 0;  // the number of its bytes comes first
  std::memcpy(&description, bytes.data(), sizeof description);
  std::byte* const calls = bytes.data() + sizeof description + description;
  for (const std::int64_t count :
       {std::int64_t{-7}, -(std::int64_t{1} << 40) - 3, (std::int64_t{1} << 40) + 3}) {
    std::memcpy(calls + sizeof count, &count, sizeof count);  // after the calls
    WindowAverage<float> odd(model.params, {.horizon = 4, .interval = 2, .blocks = 3});
    restore_state(odd, bytes);
    CHECK(odd.count() == count);
    CHECK(odd.held() == (count < 0 ? 0 : 3));
    CHECK(odd.ready() == (count > 0));
    for (int t = 0; t < 9; ++t) odd.update(model.params);
    if (odd.ready()) odd.copy_to(other.params, 3);
    CHECK(other.margins_intact());
  }
}

}  // namespace windowed_test
