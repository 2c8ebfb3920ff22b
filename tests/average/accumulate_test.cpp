// SPDX-License-Identifier: Apache-2.0
// Averages that do not stall (compensated, in double, rounded at random), and averages that would.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/average/engine/accumulation.hpp>
#include <polyak/polyak.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace accumulate_test {

namespace {

using polyak::Accumulate;
using polyak::Ema;
using polyak::EmaOptions;
using polyak::Parameters;

// Without optimisation (under sanitizers, say) the long runs are a tenth as long.
#if defined(__OPTIMIZE__) || !defined(__GNUC__)
constexpr int shorter = 1;
#else
constexpr int shorter = 10;
#endif

template <class P>
struct Weights {
  std::vector<P> values;
  Parameters<P> params;
  explicit Weights(std::size_t count, double value = 1)
      : values(count, static_cast<P>(static_cast<float>(value))) {
    params.add("weights", values);
  }
  void set(double value) {
    for (P& one : values) one = static_cast<P>(static_cast<float>(value));
  }
};

template <class Average>
double first(const Average& average) {
  return static_cast<double>(static_cast<float>(average.view()["weights"][0]));
}

/// Mean over all elements.
template <class Average>
double mean(const Average& average) {
  double sum = 0;
  const auto view = average.view()["weights"];
  for (std::size_t k = 0; k < view.size(); ++k) {
    sum += static_cast<double>(static_cast<float>(view[k]));
  }
  return sum / static_cast<double>(view.size());
}

}  // namespace

TEST_CASE("Kahan keeps a float average within 1e-7 of double over 3 million noisy steps") {
  for (const double decay : {0.99999, 0.999999}) {
    Weights<float> weights(4);
    Ema<float, double> exact(weights.params, {.decay = decay});
    Ema<float> plain(weights.params, {.decay = decay});
    Ema<float> kahan(weights.params, {.decay = decay, .accumulate = Accumulate::kahan});
    Ema<float> wide(weights.params, {.decay = decay, .accumulate = Accumulate::float64});
    for (std::uint64_t step = 0; step < 3'000'000 / shorter; ++step) {
      const double drift = 1 + 1e-7 * static_cast<double>(step);
      weights.set(drift + 2e-3 * bits::uniform(step));
      polyak::update(weights.params, exact, plain);
      kahan.update(weights.params);
      wide.update(weights.params);
    }
    const double expected = exact.view()["weights"][0];
    INFO("decay " << decay << ", expected " << expected);
    CHECK(std::abs(first(kahan) / expected - 1) < 1e-7);
    CHECK(first(wide) == static_cast<double>(static_cast<float>(expected)));
    CHECK(std::abs(first(plain) / expected - 1) > 1e-4);  // the reason for the other ways
  }
}

TEST_CASE(
    "the compensation holds what a sum loses, also if the change is larger than the average") {
  Weights<float> weights(3);
  weights.set(0x1p-30);
  Ema<float> kahan(weights.params, {.decay = 0.5, .accumulate = Accumulate::kahan});
  weights.set(1);
  kahan.update(weights.params);
  CHECK(first(kahan) == 0.5);
  CHECK(kahan.slots().names()[1] == "compensation");
  CHECK(kahan.slots().data(1)[0] == 0x1p-30F);
}

TEST_CASE(
    "a compensated average reaches a constant input at which a plain float average stalls early") {
  Weights<float> weights(3);
  const double decay = 1 - 1e-5 * shorter;
  Ema<float> plain(weights.params, {.decay = decay});
  Ema<float> kahan(weights.params, {.decay = decay, .accumulate = Accumulate::kahan});
  weights.set(1.5);
  for (int step = 0; step < 3'000'000 / shorter; ++step) {
    plain.update(weights.params);
    kahan.update(weights.params);
  }
  CHECK(std::abs(first(kahan) / 1.5 - 1) < 1e-7);
  CHECK(std::abs(first(plain) / 1.5 - 1) > 1e-4);
  CHECK(std::abs(first(plain) / 1.5 - 1) <= polyak::dead_zone<float>(1 - decay));
}

TEMPLATE_TEST_CASE("16-bit averages follow a step where they are compensated or random", "",
                   Eigen::half, Eigen::bfloat16) {
  constexpr std::size_t count = 4096;
  for (const double decay : {0.9, 0.99, 0.999}) {
    Weights<float> weights(count);
    Ema<float> exact(weights.params, {.decay = decay});
    Ema<float, TestType> kahan(weights.params, {.decay = decay, .accumulate = Accumulate::kahan});
    Ema<float, TestType> random(weights.params,
                                {.decay = decay, .accumulate = Accumulate::stochastic, .seed = 7});
    weights.set(2);
    const double ulp = std::is_same_v<TestType, Eigen::half> ? 0x1p-10 : 0x1p-7;
    for (int step = 1; step <= 6000; ++step) {
      polyak::update(weights.params, exact);
      kahan.update(weights.params);
      random.update(weights.params);
      if (step != 100 && step != 700 && step != 6000) continue;
      INFO("decay " << decay << ", step " << step);
      CHECK(std::abs(first(kahan) - first(exact)) <=
            ulp / 2 + 2 * polyak::dead_zone<TestType>(1 - decay, Accumulate::kahan));
      // The mean over elements, within 5 standard errors: an element scatters by a few ulp.
      CHECK(std::abs(mean(random) - first(exact)) <=
            5 * 4 * ulp / std::sqrt(static_cast<double>(count)));
    }
  }
}

TEST_CASE("stochastic rounding depends only on seed, call, tensor and element") {
  const auto bits_after = [](std::uint64_t seed, std::size_t tensors, bool tail_first) {
    std::vector<float> memory(1000);
    for (std::size_t k = 0; k < memory.size(); ++k) {
      memory[k] = static_cast<float>(bits::uniform(k));
    }
    Parameters<float> params;
    if (tail_first) params.add("tail", memory.data() + 960, {40});
    for (std::size_t k = 0; k < tensors; ++k) {
      params.add("t" + std::to_string(k), memory.data() + 320 * k, {320});
    }
    Ema<float, Eigen::bfloat16> ema(
        params, {.decay = 0.999, .accumulate = Accumulate::stochastic, .seed = seed});
    for (float& value : memory) value += 0.25F;
    for (int step = 0; step < 3; ++step) ema.update(params);
    std::vector<std::byte> all;
    for (std::size_t k = 0; k < params.size(); ++k) {
      const auto more = bits::bytes(ema.view()[k].data(), ema.view()[k].size());
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  };
  CHECK(bits_after(1, 3, false) == bits_after(1, 3, false));
  CHECK(bits_after(1, 3, false) != bits_after(2, 3, false));
  auto part = bits_after(1, 3, false);
  part.resize(2 * 640);
  CHECK(part == bits_after(1, 2, false));  // later tensors do not matter
}

TEST_CASE("equal numbers in different tensors and calls are rounded differently") {
  std::vector<float> memory(640);
  for (std::size_t k = 0; k < 640; ++k) memory[k] = static_cast<float>(bits::uniform(k % 320));
  Parameters<float> params;
  params.add("first", memory.data(), {320}).add("second", memory.data() + 320, {320});
  Ema<float, Eigen::bfloat16> ema(
      params, {.decay = 0, .accumulate = Accumulate::stochastic});  // copies, rounded at random
  const auto now = [&](std::size_t tensor) { return bits::bytes(ema.view()[tensor].data(), 320); };
  ema.update(params);
  const auto before = now(0);
  CHECK(before != now(1));
  ema.update(params);
  CHECK(before != now(0));
}

TEST_CASE("an average stored in double is read, copied and swapped like one stored in float") {
  Weights<float> weights(70, 1);
  Ema<float> wide(weights.params, {.decay = 0.9, .accumulate = Accumulate::float64});
  Ema<float, double> exact(weights.params, {.decay = 0.9});
  weights.set(3);
  wide.update(weights.params);
  exact.update(weights.params);
  const auto expected = static_cast<float>(exact.view()["weights"][69]);
  CHECK(wide.view()["weights"][69] == expected);
  CHECK(wide.view()["weights"](0) == expected);
  CHECK(refusal<std::logic_error>([&] {
          static_cast<void>(wide.view()["weights"].data());
        }).find("stored in double") != std::string::npos);
  CHECK(wide.gain() == exact.gain());
  CHECK(wide.memory_report().total == exact.memory_report().total);
  {
    const auto guard = wide.swap_into(weights.params);
    CHECK(weights.values[3] == expected);
  }
  CHECK(weights.values[3] == 3.0F);
  Weights<float> other(70, 0);
  wide.copy_to(other.params);
  CHECK(other.values[5] == expected);
}

TEST_CASE("a compensated average is swapped in place and then continues unchanged") {
  Weights<float> weights(70, 1), twin(70, 1);
  const EmaOptions options{.decay = 0.999, .accumulate = Accumulate::kahan};
  Ema<float> ema(weights.params, options), undisturbed(twin.params, options);
  for (int step = 0; step < 50; ++step) {
    weights.set(2 + 0.01 * step);
    twin.set(2 + 0.01 * step);
    ema.update(weights.params);
    undisturbed.update(twin.params);
    const auto guard = ema.swap_into(weights.params);
    CHECK(weights.values[0] != twin.values[0]);
  }
  CHECK(polyak::state_bytes(ema) == polyak::state_bytes(undisturbed));
}

TEMPLATE_TEST_CASE("compensated averages copy every number, NaN and infinity included", "", float,
                   Eigen::half, Eigen::bfloat16) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> specials{0.0F, -0.0F, Limits::infinity(), -Limits::infinity(),
                                    1.0F, -1.5F, Limits::quiet_NaN()};
  std::vector<TestType> values;
  for (const float value : specials) values.push_back(static_cast<TestType>(value));
  Parameters<TestType> params;
  params.add("weights", values);
  Ema<TestType, TestType> ema(
      params,
      {.decay = 0.999, .start = polyak::Start::first_update, .accumulate = Accumulate::kahan});
  ema.update(params);
  std::vector<TestType> copy(values.size());
  Parameters<TestType> target;
  target.add("weights", copy);
  ema.copy_to(target);
  for (std::size_t k = 0; k < values.size(); ++k) {
    INFO(k);
    CHECK(bits::same(copy[k], values[k]));
  }
}

TEST_CASE("an average that would stall is refused, and the error states the distance") {
  Weights<float> weights(8);
  const auto make = [&]<class S>(S, EmaOptions options) {
    return [&weights, options] { Ema<float, S>(weights.params, options); };
  };
  const Eigen::bfloat16 bfloat16{};
  const Eigen::half half{};
  CHECK(refuses(make(bfloat16, {.decay = 0.999}),
                {"average of bfloat16 with accumulate = plain", "stochastic", "got 3.90"}));
  CHECK(refuses(make(half, {.decay = 0.999}), {"average of float16", "got 0.488"}));
  CHECK(refuses(make(bfloat16, {.decay = 0.99999, .accumulate = Accumulate::kahan}),
                {"accumulate = kahan", "got 0.76"}));
  CHECK_NOTHROW(make(bfloat16, {.decay = 0.6})());
  CHECK_NOTHROW(make(half, {.decay = 0.95})());
  CHECK_NOTHROW(make(half, {.decay = 0.999, .accumulate = Accumulate::kahan})());
  CHECK_NOTHROW(make(bfloat16, {.decay = 0.99999, .accumulate = Accumulate::stochastic})());
  // Its sums are formed in float, and stall where a float average does.
  CHECK(refuses(make(bfloat16, {.decay = 0.999999, .accumulate = Accumulate::stochastic}),
                {"accumulate = stochastic", "float with kahan", "got 0.0596"}));
  CHECK(polyak::dead_zone<Eigen::bfloat16>(1e-5, Accumulate::stochastic) ==
        polyak::dead_zone<float>(1e-5));
  // The gain of a uniform average has no lower bound.
  CHECK(refuses([&] { polyak::Swa<float, Eigen::half>(weights.params, {}); }, {"got inf"}));
  CHECK_NOTHROW(
      polyak::Swa<float, Eigen::half>(weights.params, {.accumulate = Accumulate::stochastic}));
  CHECK(refuses(make(1.0F, {.accumulate = Accumulate::stochastic}), {"16 bits", "float32"}));
  CHECK(refuses(make(1.0, {.accumulate = Accumulate::kahan}), {"16 or 32 bits", "float64"}));
  CHECK(refuses(make(1.0, {.accumulate = Accumulate::float64}), {"averages of float", "float64"}));
  CHECK(refuses(make(half, {.accumulate = Accumulate::float64}), {"averages of float"}));
}

TEST_CASE(
    "snapshots of averages that are stored in other ways hold the numbers that a view reads") {
  Weights<float> weights(40, 1);
  polyak::PowerEma<float> plain(weights.params, {.sigma_rel = 0.1});
  polyak::PowerEma<float> wide(weights.params,
                               {.sigma_rel = 0.1, .accumulate = Accumulate::float64});
  polyak::PowerEma<float> kahan(weights.params,
                                {.sigma_rel = 0.2, .accumulate = Accumulate::kahan});
  polyak::PosthocEma<float> posthoc;
  for (int step = 1; step <= 40; ++step) {
    weights.set(step);
    polyak::update(weights.params, plain, wide, kahan);
  }
  posthoc.snapshot(wide, kahan);
  CHECK(posthoc.snapshots()[0].average.tensor(0, 0)[7] == wide.view()[0][7]);
  CHECK(posthoc.snapshots()[1].average.tensor(0, 0)[7] == kahan.view()[0][7]);
  CHECK(posthoc.snapshots()[1].average.count() == 1);
}

}  // namespace accumulate_test
