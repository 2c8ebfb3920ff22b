// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/adamw.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace hare_tortoise_test {

using polyak::HareTortoiseOptions;

TEST_CASE("HareTortoise resets the hare to the tortoise as computed by hand", "[hare_tortoise]") {
  double x = 0;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  // power 1 with inverse_gamma 1: decays 0, 1/2, 2/3, then the cap.
  polyak::HareTortoise<double> method(params, {.decay = 0.75, .switch_every = 2, .power = 1});
  const std::vector<double> trained{8, 16, 18, 24, 30};
  const std::vector<double> averages{8, 12, 14, 16.5, 19.875};
  for (std::size_t j = 0; j < trained.size(); ++j) {
    x = trained[j];
    method.update(params);
    CHECK(method.view()[0](0) == Approx(averages[j]).epsilon(1e-15));
    const bool switched = j == 2 || j == 4;
    CHECK(x == (switched ? method.view()[0](0) : trained[j]));
  }
  CHECK(method.switches() == 2);
}

TEST_CASE("blend keeps the given share of the fast weights", "[hare_tortoise]") {
  for (const double blend : {0.0, 0.25, 0.5, 1.0}) {
    auto x = RandomNumbers(1).many(41);
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::HareTortoise<double> method(params, {.decay = 0.9, .switch_every = 3, .blend = blend});
    auto average = x;
    RandomNumbers random(2);
    for (int j = 0; j < 20; ++j) {
      random.fill(x);
      const auto trained = x;
      const double decay = j == 0 ? 0 : std::min(0.9, 1 - std::pow(1.0 + j, -2.0 / 3.0));
      method.update(params);
      const bool switched = j > 0 && j % 3 == 0;
      for (std::size_t k = 0; k < x.size(); ++k) {
        average[k] = decay * average[k] + (1 - decay) * trained[k];
        REQUIRE(method.view()[0](k) == Approx(average[k]).margin(1e-14));
        const double expected =
            switched ? blend * trained[k] + (1 - blend) * average[k] : trained[k];
        REQUIRE(x[k] == Approx(expected).margin(1e-14));
      }
      CHECK(method.switches() == j / 3);
    }
  }
}

TEST_CASE("the tortoise copies, rests and warms up as its options say", "[hare_tortoise]") {
  constexpr std::int64_t after = 6, every = 2;
  for (const std::int64_t switch_every : {3, 4}) {
    for (const double blend : {0.0, 0.5}) {
      double x = -1;
      polyak::Parameters<double> params;
      params.add("x", &x, {1});
      polyak::HareTortoise<double> method(params, {.decay = 0.8,
                                                   .switch_every = switch_every,
                                                   .blend = blend,
                                                   .update_after = after,
                                                   .inverse_gamma = 3,
                                                   .power = 0.5,
                                                   .min_decay = 0.3,
                                                   .update_every = every});
      double average = x;
      std::int64_t switches = 0;
      for (std::int64_t j = 0; j < 60; ++j) {
        INFO("call " << j << ", a switch every " << switch_every << ", blend " << blend);
        const double trained = x = static_cast<double>(j * j % 17);
        method.update(params);
        const bool acts = j % every == 0;
        if (acts) {
          const double warmup = 1 - std::pow(1 + static_cast<double>(j - after) / 3, -0.5);
          const double decay = j <= after ? 0 : std::clamp(warmup, 0.3, 0.8);
          average = decay * average + (1 - decay) * trained;
        }
        const bool copied = acts && j <= after;  // no switch then: a rest may switch, though
        const bool switched = j > 0 && j % switch_every == 0 && !copied;
        switches += switched;
        REQUIRE(method.view()[0](0) == Approx(average).margin(1e-12));
        REQUIRE(x ==
                Approx(switched ? blend * trained + (1 - blend) * average : trained).margin(1e-12));
        REQUIRE(method.switches() == switches);
      }
      CHECK(method.gain() == 0);  // call 59 rested
    }
  }
}

TEST_CASE("with decay 1, the tortoise does not move after its copies", "[hare_tortoise]") {
  double x = 0;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::HareTortoise<double> method(
      params, {.decay = 1, .switch_every = 4, .blend = 0.25, .update_after = 2});
  const std::vector<double> averages{1, 2, 3, 3, 3, 3}, weights{1, 2, 3, 4, 3.5, 6};
  for (std::size_t j = 0; j < averages.size(); ++j) {
    x = static_cast<double>(j) + 1;
    method.update(params);
    CHECK(method.view()[0](0) == averages[j]);
    CHECK(x == weights[j]);
  }
}

TEST_CASE("the profile of HareTortoise sums to 1", "[hare_tortoise]") {
  for (const std::int64_t every : {1, 5}) {
    const polyak::HareTortoiseWeighting weighting{
        {.decay = 0.95, .switch_every = 10, .update_after = 7, .update_every = every}};
    const auto weights = polyak::profile(weighting, 100);
    double sum = 0;
    for (const double weight : weights) sum += weight;
    CHECK(sum == Approx(1).epsilon(1e-14));
    CHECK(weights[0] == 0);
    for (std::int64_t t = 1; t < 200; ++t) {
      CHECK(weighting.gain(t) + weighting.complement(t) == Approx(1).epsilon(1e-15));
    }
  }
}

TEST_CASE("the optimizer keeps its state at the switches of HareTortoise", "[hare_tortoise]") {
  auto x = RandomNumbers(3).many<float>(50), y = x, gradient = x;
  polyak::Parameters<float> params, alone;
  params.add("x", x);
  alone.add("x", y);
  const auto grads = polyak::like(params, gradient), alone_grads = polyak::like(alone, gradient);
  polyak::AdamW optimizer(params), reference(alone);
  polyak::HareTortoise method(params, {.decay = 0.9, .switch_every = 3});
  RandomNumbers random(4);
  for (int i = 0; i < 10; ++i) {
    random.fill(gradient);
    polyak::step(params, grads, optimizer, method);
    polyak::step(alone, alone_grads, reference);
  }
  CHECK(method.switches() == 3);
  CHECK(bytes_of(x) == bytes_of(method.view()[0]));  // call 9 switched
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(reference));
}

TEST_CASE("HareTortoise refuses options out of range", "[hare_tortoise]") {
  using O = HareTortoiseOptions;
  std::vector<float> x{1, 2};
  polyak::Parameters<float> params;
  params.add("x", x);
  const auto make = [&](const O& options) { polyak::HareTortoise<float> method(params, options); };
  check_refused(make, O{}, &O::decay, "HareTortoiseOptions.decay must lie in [0, 1]",
                {-0.5, 1.5, nan_value, infinity});
  check_refused(make, O{}, &O::switch_every, "HareTortoiseOptions.switch_every must be >= 1",
                {0, -1});
  check_refused(make, O{}, &O::blend, "HareTortoiseOptions.blend must lie in [0, 1]",
                {-0.5, 1.5, nan_value, infinity});
  check_refused(make, O{}, &O::update_after, "HareTortoiseOptions.update_after must be >= 0", {-1});
  check_refused(make, O{}, &O::inverse_gamma,
                "HareTortoiseOptions.inverse_gamma must be finite and > 0",
                {0, -1, nan_value, infinity});
  check_refused(make, O{}, &O::power, "HareTortoiseOptions.power must be finite and >= 0",
                {-1, nan_value, infinity});
  check_refused(make, O{.decay = 0.5}, &O::min_decay,
                "HareTortoiseOptions.min_decay must lie in [0, decay]",
                {-0.5, 0.75, nan_value, infinity});
  check_refused(make, O{}, &O::update_every, "HareTortoiseOptions.update_every must be >= 1",
                {0, -1});
  CHECK_NOTHROW(make({.decay = 0}));
  CHECK_NOTHROW(make({.decay = 1}));
  CHECK_NOTHROW(make({.decay = 0.5, .blend = 1, .power = 0, .min_decay = 0.5}));
  CHECK(x == std::vector<float>{1, 2});
}

}  // namespace hare_tortoise_test
