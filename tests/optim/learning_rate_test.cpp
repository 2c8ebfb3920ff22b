// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/schedules/cooldown.hpp>
#include <polyak/optim/learning_rate.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace learning_rate_test {

using namespace polyak;

namespace {

const std::vector<CooldownCurve> shapes{CooldownCurve::linear,        CooldownCurve::one_minus_sqrt,
                                        CooldownCurve::cosine,        CooldownCurve::square,
                                        CooldownCurve::mirror_cosine, CooldownCurve::exponential};

template <class Call>
std::string refused(Call&& call) {
  return refusal<std::invalid_argument>([&] { static_cast<void>(call()); });
}

}  // namespace

TEST_CASE("warmups agree with hand-computed values", "[learning_rate]") {
  CHECK(linear_warmup(0, 4) == 0.25);
  CHECK(linear_warmup(1, 4) == 0.5);
  CHECK(linear_warmup(3, 4) == 1);
  CHECK(linear_warmup(1000, 4) == 1);
  CHECK(linear_warmup(0, 0) == 1);
  CHECK(linear_warmup(0, 1) == 1);
  CHECK(linear_warmup_from(0, 4, 100) == 0.01);
  CHECK(linear_warmup_from(2, 4, 100) == Approx(0.505).epsilon(1e-15));
  CHECK(linear_warmup_from(4, 4, 100) == 1);
  CHECK(linear_warmup_from(2, 4, 1) == 1);
  CHECK(linear_warmup_from(0, 0, 100) == 1);
}

TEST_CASE("cosine agrees with hand-computed values", "[learning_rate]") {
  const CosineOptions plain{.total_steps = 12};
  CHECK(cosine(0, plain) == 1);
  CHECK(cosine(4, plain) == Approx(0.75).epsilon(1e-15));  // 60 degrees
  CHECK(cosine(6, plain) == Approx(0.5).epsilon(1e-15));
  CHECK(cosine(8, plain) == Approx(0.25).epsilon(1e-14));
  CHECK(cosine(12, plain) == 0);
  CHECK(cosine(1000, plain) == 0);

  const CosineOptions full{
      .total_steps = 20, .warmup_steps = 5, .final_factor = 0.25, .flat_steps = 5};
  CHECK(cosine(0, full) == 0.2);
  CHECK(cosine(4, full) == 1);
  CHECK(cosine(5, full) == 1);
  CHECK(cosine(10, full) == Approx(0.625).epsilon(1e-15));
  CHECK(cosine(14, full) > 0.25);
  for (const std::int64_t n : {15, 19, 20, 99}) CHECK(cosine(n, full) == 0.25);

  const CosineOptions divided{.total_steps = 20, .warmup_steps = 5, .start_divisor = 10};
  CHECK(cosine(0, divided) == 0.1);
  CHECK(cosine(0, divided) == linear_warmup_from(0, 5, 10));
  CHECK(cosine(4, divided) == Approx(0.82).epsilon(1e-15));
}

TEST_CASE("cooldowns agree with hand-computed values", "[learning_rate]") {
  // 20 steps, the last 4 of them cooldown: s = 1/4 at step 17.
  CooldownOptions o{.total_steps = 20, .warmup_steps = 2, .cooldown_fraction = 0.2};
  const auto at = [&](CooldownCurve shape, std::int64_t step, double floor) {
    o.shape = shape;
    o.final_factor = floor;
    return constant_with_cooldown(step, o);
  };
  CHECK(at(CooldownCurve::linear, 0, 0) == 0.5);
  CHECK(at(CooldownCurve::linear, 1, 0) == 1);
  CHECK(at(CooldownCurve::linear, 15, 0) == 1);
  CHECK(at(CooldownCurve::linear, 17, 0) == 0.75);
  CHECK(at(CooldownCurve::linear, 17, 0.5) == 0.875);
  CHECK(at(CooldownCurve::one_minus_sqrt, 17, 0) == 0.5);
  CHECK(at(CooldownCurve::one_minus_sqrt, 17, 0.5) == 0.75);
  CHECK(at(CooldownCurve::cosine, 18, 0) == Approx(0.5).epsilon(1e-15));
  CHECK(at(CooldownCurve::cosine, 17, 0) == Approx((1 + std::sqrt(0.5)) / 2).epsilon(1e-15));
  CHECK(at(CooldownCurve::square, 18, 0) == 0.75);
  CHECK(at(CooldownCurve::mirror_cosine, 17, 0) ==
        Approx(1.5 - (1 + std::sqrt(0.5)) / 2).epsilon(1e-15));
  CHECK(at(CooldownCurve::exponential, 18, 0.25) == 0.5);
  CHECK(CooldownOptions{}.shape == CooldownCurve::one_minus_sqrt);
}

TEST_CASE("every schedule rises to 1, stays there, and falls to its floor", "[learning_rate]") {
  constexpr std::int64_t total = 400, warmup = 40;
  for (const double floor : {0.0, 0.125}) {
    for (const double divisor : {0.0, 50.0}) {
      for (const CooldownCurve shape : shapes) {
        if (shape == CooldownCurve::exponential && floor == 0) continue;
        INFO("shape " << static_cast<int>(shape) << ", floor " << floor);
        const CooldownOptions o{total, warmup, 0.25, floor, shape, divisor};
        const auto factor = [&](std::int64_t n) { return constant_with_cooldown(n, o); };
        for (std::int64_t n = 0; n < warmup; ++n) REQUIRE(factor(n) <= factor(n + 1));
        for (std::int64_t n = warmup; n <= 300; ++n) REQUIRE(factor(n) == 1);
        CHECK(factor(301) < 1);
        for (std::int64_t n = 301; n < total; ++n) {
          REQUIRE(factor(n) < factor(n - 1));
          REQUIRE(factor(n) > floor);
        }
        for (const std::int64_t n : {total, total + 1, 10 * total}) CHECK(factor(n) == floor);
      }
      const CosineOptions o{total, warmup, floor, 50, divisor};
      for (std::int64_t n = 0; n < warmup; ++n) REQUIRE(cosine(n, o) < cosine(n + 1, o) + 1e-15);
      for (std::int64_t n = warmup; n < 350; ++n) {
        REQUIRE(cosine(n + 1, o) < cosine(n, o));
        REQUIRE(cosine(n, o) - cosine(n + 1, o) < 0.01);  // no jump
      }
      CHECK(cosine(350, o) == floor);
    }
  }
  // Without cooldown steps it is constant until the end.
  const CooldownOptions none{.total_steps = 10, .cooldown_fraction = 0.05};
  CHECK(constant_with_cooldown(9, none) == 1);
  CHECK(constant_with_cooldown(10, none) == 0);
}

TEST_CASE("the number of cooldown steps is rounded down", "[learning_rate]") {
  const CooldownOptions o{.total_steps = 13,
                          .cooldown_fraction = 0.2,
                          .final_factor = 0,
                          .shape = CooldownCurve::linear};  // 2.6 steps
  CHECK(constant_with_cooldown(11, o) == 1);
  CHECK(constant_with_cooldown(12, o) == 0.5);
}

TEST_CASE("linear_warmup and linear_warmup_from refuse arguments out of range", "[learning_rate]") {
  CHECK(refused([] { return linear_warmup(-1, 4); }) ==
        "polyak: linear_warmup: step must be >= 0, got -1");
  CHECK(refused([] { return linear_warmup(0, -4); }) ==
        "polyak: linear_warmup: warmup_steps must be >= 0, got -4");
  CHECK(refused([] { return linear_warmup_from(-1, 4, 2); }) ==
        "polyak: linear_warmup_from: step must be >= 0, got -1");
  CHECK(refused([] { return linear_warmup_from(0, -4, 2); }) ==
        "polyak: linear_warmup_from: warmup_steps must be >= 0, got -4");
  for (const double bad : {0.5, 0.0, -1.0, nan_value, infinity}) {
    CHECK(refused([&] {
            return linear_warmup_from(0, 4, bad);
          }).starts_with("polyak: linear_warmup_from: start_divisor must be finite and >= 1"));
  }
}

TEST_CASE("cosine refuses options out of range", "[learning_rate]") {
  using O = CosineOptions;
  const auto make = [](const O& o) { static_cast<void>(cosine(3, o)); };
  const O usual{.total_steps = 10, .warmup_steps = 2, .flat_steps = 1};
  const std::string name = "CosineOptions.";
  CHECK(refused([&] { return cosine(-1, usual); }) == "polyak: cosine: step must be >= 0, got -1");
  check_refused(make, O{.total_steps = 10}, &O::total_steps, name + "total_steps must be >= 1",
                {0, -5});
  check_refused(make, usual, &O::flat_steps, name + "flat_steps must lie in [0, total_steps)",
                {-1, 10, 11});
  check_refused(make, usual, &O::warmup_steps,
                name + "warmup_steps must lie in [0, total_steps - flat_steps)", {-1, 9, 10});
  check_refused(make, usual, &O::final_factor, name + "final_factor must be finite and >= 0",
                {-0.5, nan_value, infinity});
  check_refused(make, usual, &O::start_divisor,
                name + "start_divisor must be 0, or finite and >= 1",
                {0.5, -1, nan_value, infinity});
  CHECK(refused([] { return cosine(0, {}); }) ==
        "polyak: CosineOptions.total_steps must be >= 1, got 0");
}

TEST_CASE("constant_with_cooldown refuses options out of range", "[learning_rate]") {
  using O = CooldownOptions;
  const auto make = [](const O& o) { static_cast<void>(constant_with_cooldown(3, o)); };
  const O usual{.total_steps = 10, .warmup_steps = 2, .cooldown_fraction = 0.25};
  const std::string name = "CooldownOptions.";
  CHECK(refused([&] { return constant_with_cooldown(-1, usual); }) ==
        "polyak: constant_with_cooldown: step must be >= 0, got -1");
  check_refused(make, O{.total_steps = 10}, &O::total_steps, name + "total_steps must be >= 1",
                {0, -5});
  check_refused(make, usual, &O::cooldown_fraction, name + "cooldown_fraction must lie in [0, 1)",
                {-0.5, 1, 1.5, nan_value, infinity});
  check_refused(make, usual, &O::warmup_steps,
                name + "warmup_steps must lie in [0, total_steps - cooldown steps)", {-1, 8, 10});
  check_refused(make, usual, &O::final_factor, name + "final_factor must lie in [0, 1]",
                {-0.5, 1.5, nan_value, infinity});
  O exponential = usual;
  exponential.shape = CooldownCurve::exponential;
  exponential.final_factor = 0.5;
  check_refused(make, exponential, &O::final_factor,
                name + "final_factor must be > 0 for an exponential cooldown", {0});
  check_refused(make, usual, &O::start_divisor,
                name + "start_divisor must be 0, or finite and >= 1",
                {0.5, -1, nan_value, infinity});
}

}  // namespace learning_rate_test
