// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/schedules/cooldown.hpp>
#include <polyak/optim/anneal.hpp>
#include <polyak/optim/learning_rate.hpp>
#include <polyak/optim/one_cycle.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
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

TEST_CASE("linear decay from the end of the warmup to the end of the run", "[learning_rate]") {
  const PolynomialOptions o{.total_steps = 110, .warmup_steps = 10};
  CooldownOptions cooldown{.total_steps = 110,
                           .warmup_steps = 10,
                           .cooldown_fraction = 1,
                           .shape = CooldownCurve::linear};
  CHECK(polynomial(0, o) == 0.1);
  CHECK(polynomial(9, o) == 1);
  CHECK(polynomial(10, o) == 1);
  CHECK(polynomial(11, o) == 0.99);
  CHECK(polynomial(60, o) == 0.5);
  CHECK(polynomial(109, o) == Approx(0.01).epsilon(1e-13));
  CHECK(polynomial(110, o) == 0);
  for (std::int64_t n = 0; n < 120; ++n)
    REQUIRE(constant_with_cooldown(n, cooldown) == polynomial(n, o));
  // Steps that add up to the whole run are the same.
  cooldown.cooldown_fraction = 100.0 / 110;
  for (std::int64_t n = 0; n < 120; ++n)
    REQUIRE(constant_with_cooldown(n, cooldown) == polynomial(n, o));

  const PolynomialOptions square{.total_steps = 10, .power = 2, .final_factor = 0.5};
  CHECK(polynomial(5, square) == 0.625);
  CHECK(polynomial(99, square) == 0.5);
  const PolynomialOptions root{.total_steps = 16, .power = 0.5};
  CHECK(polynomial(12, root) == 0.5);
  const PolynomialOptions divided{.total_steps = 10, .warmup_steps = 4, .start_divisor = 10};
  CHECK(polynomial(0, divided) == 0.1);
  CHECK(polynomial(4, divided) == 1);
}

TEST_CASE("a warmup may take the whole run", "[learning_rate]") {
  const CosineOptions half_cosine{.total_steps = 10, .warmup_steps = 10, .final_factor = 0.25};
  const CosineOptions flat{
      .total_steps = 10, .warmup_steps = 8, .final_factor = 0.25, .flat_steps = 2};
  const PolynomialOptions line{.total_steps = 10, .warmup_steps = 10, .final_factor = 0.25};
  const CooldownOptions cooldown{
      .total_steps = 10, .warmup_steps = 10, .cooldown_fraction = 1, .final_factor = 0.25};
  for (std::int64_t n = 0; n < 10; ++n) {
    const double up = static_cast<double>(n + 1) / 10;
    CHECK(cosine(n, half_cosine) == up);
    CHECK(polynomial(n, line) == up);
    CHECK(constant_with_cooldown(n, cooldown) == up);
  }
  for (const std::int64_t n : {10, 11, 500}) {
    CHECK(cosine(n, half_cosine) == 0.25);
    CHECK(polynomial(n, line) == 0.25);
    CHECK(constant_with_cooldown(n, cooldown) == 0.25);
  }
  CHECK(cosine(7, flat) == 1);
  CHECK(cosine(8, flat) == 0.25);
}

TEST_CASE("inverse square root, by pencil", "[learning_rate]") {
  const InverseSquareRootOptions usual{.warmup_steps = 100};
  CHECK(inverse_square_root(0, usual) == 0.01);
  CHECK(inverse_square_root(99, usual) == 1);
  CHECK(inverse_square_root(100, usual) == 1);
  CHECK(inverse_square_root(400, usual) == 0.5);  // sqrt(W/n)
  CHECK(inverse_square_root(1'000'000, usual) == 0.01);
  const InverseSquareRootOptions slow{.warmup_steps = 10, .timescale = 1000, .start_divisor = 4};
  CHECK(inverse_square_root(0, slow) == 0.25);
  CHECK(inverse_square_root(10, slow) == 1);
  CHECK(inverse_square_root(3010, slow) == 0.5);
  CHECK(inverse_square_root(0, {.timescale = 4}) == 1);
  CHECK(inverse_square_root(12, {.timescale = 4}) == 0.5);
}

TEST_CASE("one cycle, by pencil", "[learning_rate]") {
  OneCycleOptions o{.total_steps = 11, .rise_fraction = 5.0 / 11, .final_divisor = 100};  // top: 4
  CHECK(one_cycle(0, o) == 0.04);
  CHECK(one_cycle(2, o) == Approx(0.52).epsilon(1e-15));
  CHECK(one_cycle(1, o) == Approx(0.04 + 0.96 * 0.5 * (1 - std::sqrt(0.5))).epsilon(1e-15));
  CHECK(one_cycle(4, o) == 1);
  CHECK(one_cycle(7, o) == Approx((1 + 0.0004) / 2).epsilon(1e-14));
  for (const std::int64_t n : {10, 11, 500})
    CHECK(one_cycle(n, o) == Approx(0.0004).epsilon(1e-15));
  o.strategy = AnnealStrategy::linear;
  CHECK(one_cycle(1, o) == Approx(0.28).epsilon(1e-15));
  CHECK(one_cycle(5, o) == Approx(1 - 0.9996 / 6).epsilon(1e-15));
  o.three_phase = true;  // back to 0.04 at step 8
  CHECK(one_cycle(6, o) == Approx(0.52).epsilon(1e-15));
  CHECK(one_cycle(8, o) == Approx(0.04).epsilon(1e-15));
  CHECK(one_cycle(9, o) == Approx(0.0202).epsilon(1e-14));
  CHECK(one_cycle(10, o) == Approx(0.0004).epsilon(1e-15));
  // The top lies between two steps, or there is no way up.
  const OneCycleOptions between{
      .total_steps = 11, .rise_fraction = 2.5 / 11, .strategy = AnnealStrategy::linear};
  CHECK(one_cycle(1, between) == Approx(0.04 + 0.96 / 1.5).epsilon(1e-14));
  CHECK(one_cycle(2, between) == Approx(1 - (1 - 4e-6) * 0.5 / 8.5).epsilon(1e-14));
  CHECK(one_cycle(0, {.total_steps = 2, .rise_fraction = 0}) == 1);
  CHECK(one_cycle(1, {.total_steps = 2, .rise_fraction = 0}) == Approx(4e-6).epsilon(1e-15));
}

TEST_CASE("piecewise factors, by pencil", "[learning_rate]") {
  const std::vector<SchedulePoint> points{{10, 1}, {20, 0.5}, {40, 0.125}};
  for (const std::int64_t n : {0, 9, 10, 19}) CHECK(piecewise(n, points) == 1);
  for (const std::int64_t n : {20, 39}) CHECK(piecewise(n, points) == 0.5);
  for (const std::int64_t n : {40, 4000}) CHECK(piecewise(n, points) == 0.125);
  const auto line = [&](std::int64_t n) { return piecewise(n, points, Interpolation::linear); };
  CHECK(line(0) == 1);
  CHECK(line(10) == 1);
  CHECK(line(15) == 0.75);
  CHECK(line(20) == 0.5);
  CHECK(line(30) == 0.3125);
  CHECK(line(40) == 0.125);
  CHECK(line(41) == 0.125);
  CHECK(piecewise(35, {{0, 1}, {30, 0.1}}) == 0.1);
}

TEST_CASE("the number of cooldown steps is rounded down", "[learning_rate]") {
  // Every whole percentage of 100 steps, among them 0.29, 0.57 and 0.58.
  for (int percent = 1; percent < 100; ++percent) {
    INFO(percent << " %");
    const CooldownOptions decimal{
        .total_steps = 100, .cooldown_fraction = percent / 100.0, .shape = CooldownCurve::linear};
    CHECK(constant_with_cooldown(100 - percent, decimal) == 1);
    CHECK(constant_with_cooldown(101 - percent, decimal) ==
          Approx(1 - 1.0 / percent).margin(1e-15));
  }
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
                name + "warmup_steps must lie in [0, total_steps - flat_steps]", {-1, 10, 11});
  check_refused(make, usual, &O::final_factor, name + "final_factor must be finite and >= 0",
                {-0.5, nan_value, infinity});
  check_refused(make, usual, &O::start_divisor,
                name + "start_divisor must be 0, or finite and >= 1",
                {0.5, -1, nan_value, infinity});
  CHECK(refused([] { return cosine(0, {}); }) ==
        "polyak: CosineOptions.total_steps must be >= 1, got 0");
}

TEST_CASE("polynomial refuses options out of range", "[learning_rate]") {
  using O = PolynomialOptions;
  const auto make = [](const O& o) { static_cast<void>(polynomial(3, o)); };
  const O usual{.total_steps = 10, .warmup_steps = 2};
  const std::string name = "PolynomialOptions.";
  CHECK(refused([&] { return polynomial(-1, usual); }) ==
        "polyak: polynomial: step must be >= 0, got -1");
  check_refused(make, usual, &O::total_steps, name + "total_steps must be >= 1", {0, -5});
  check_refused(make, usual, &O::warmup_steps, name + "warmup_steps must lie in [0, total_steps]",
                {-1, 11});
  check_refused(make, usual, &O::power, name + "power must be finite and > 0",
                {0, -1, nan_value, infinity});
  check_refused(make, usual, &O::final_factor, name + "final_factor must be finite and >= 0",
                {-0.5, nan_value, infinity});
  check_refused(make, usual, &O::start_divisor,
                name + "start_divisor must be 0, or finite and >= 1",
                {0.5, -1, nan_value, infinity});
}

TEST_CASE("inverse_square_root refuses options out of range", "[learning_rate]") {
  using O = InverseSquareRootOptions;
  const auto make = [](const O& o) { static_cast<void>(inverse_square_root(3, o)); };
  const O usual{.warmup_steps = 2};
  const std::string name = "InverseSquareRootOptions.";
  CHECK(refused([&] { return inverse_square_root(-1, usual); }) ==
        "polyak: inverse_square_root: step must be >= 0, got -1");
  check_refused(make, usual, &O::warmup_steps, name + "warmup_steps must be >= 0", {-1});
  check_refused(make, usual, &O::timescale, name + "timescale must be >= 0", {-1});
  CHECK(refused([] { return inverse_square_root(0, {}); }) ==
        "polyak: InverseSquareRootOptions.timescale must be >= 1 without warmup, got 0");
  check_refused(make, usual, &O::start_divisor,
                name + "start_divisor must be 0, or finite and >= 1",
                {0.5, -1, nan_value, infinity});
}

TEST_CASE("one_cycle refuses options out of range", "[learning_rate]") {
  using O = OneCycleOptions;
  const auto make = [](const O& o) { static_cast<void>(one_cycle(3, o)); };
  const O usual{.total_steps = 10};
  const std::string name = "OneCycleOptions.";
  CHECK(refused([&] { return one_cycle(-1, usual); }) ==
        "polyak: one_cycle: step must be >= 0, got -1");
  check_refused(make, usual, &O::total_steps, name + "total_steps must be >= 2", {1, 0, -5});
  check_refused(make, usual, &O::rise_fraction, name + "rise_fraction must lie in [0, 1)",
                {-0.5, 1, 1.5, nan_value, infinity});
  check_refused(make, usual, &O::start_divisor, name + "start_divisor must be finite and >= 1",
                {0.5, 0, -1, nan_value, infinity});
  check_refused(make, usual, &O::final_divisor, name + "final_divisor must be finite and >= 1",
                {0.5, 0, -1, nan_value, infinity});
  check_refused(make, O{.total_steps = 10, .three_phase = true}, &O::rise_fraction,
                name + "rise_fraction must be <= 0.5 with three_phase", {0.6});
}

TEST_CASE("piecewise refuses points out of range or order", "[learning_rate]") {
  CHECK(refused([] {
          return piecewise(-1, {{0, 1}});
        }) == "polyak: piecewise: step must be >= 0, got -1");
  CHECK(refused([] { return piecewise(0, std::span<const SchedulePoint>{}); }) ==
        "polyak: piecewise: points must not be empty, got 0");
  CHECK(refused([] {
          return piecewise(0, {{0, 1}, {5, 0.5}, {5, 0.25}});
        }) == "polyak: piecewise: steps of points must be >= 0 and rise, got 5");
  CHECK(refused([] {
          return piecewise(0, {{-1, 1}});
        }) == "polyak: piecewise: steps of points must be >= 0 and rise, got -1");
  for (const double bad : {-0.5, nan_value, infinity}) {
    CHECK(refused([&] {
            return piecewise(0, {{0, 1}, {5, bad}});
          }).starts_with("polyak: piecewise: factors must be finite and >= 0"));
  }
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
  check_refused(make, usual, &O::cooldown_fraction, name + "cooldown_fraction must lie in [0, 1]",
                {-0.5, 1.5, nan_value, infinity});
  check_refused(make, usual, &O::warmup_steps,
                name + "warmup_steps must lie in [0, total_steps - cooldown steps]", {-1, 9, 10});
  CHECK(
      refused([] {
        return constant_with_cooldown(
            0, {.total_steps = 10, .warmup_steps = 11, .cooldown_fraction = 1});
      }) ==
      "polyak: CooldownOptions.warmup_steps must lie in [0, total_steps - cooldown steps], got 11");
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
