// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/ema.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace ema_test {

namespace {

using polyak::EmaOptions;
using polyak::Start;

/// Feeds 8, 4, 2 to an average that began at 16.
std::vector<double> after_each_of_three(EmaOptions options) {
  double x = 16;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::Ema<double> ema(params, options);
  std::vector<double> averages;
  for (const double next : {8.0, 4.0, 2.0}) {
    x = next;
    ema.update(params);
    averages.push_back(ema.view()[0](0));
  }
  return averages;
}

}  // namespace

TEST_CASE("the three starts of Ema give hand-computed averages", "[ema]") {
  const auto from_params = after_each_of_three({.decay = 0.5});
  CHECK(from_params == std::vector<double>{12, 8, 5});
  const auto from_first = after_each_of_three({.decay = 0.5, .start = Start::first_update});
  CHECK(from_first == std::vector<double>{8, 6, 4});
  const auto debiased = after_each_of_three({.decay = 0.5, .start = Start::zero_debiased});
  CHECK(debiased[0] == 8);
  CHECK(debiased[1] == Approx((8 + 2 * 4) / 3.0).epsilon(1e-15));
  CHECK(debiased[2] == Approx((8 + 2 * 4 + 4 * 2) / 7.0).epsilon(1e-15));
}

TEST_CASE("a debiased Ema is the average from zero divided by the sum of its weights", "[ema]") {
  for (const double decay : {0.1, 0.9, 0.995}) {
    auto x = RandomNumbers(3).many(40);
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::Ema<double> ema(params,
                            {.decay = decay, .any_decay = true, .start = Start::zero_debiased});
    std::vector<double> raw(x.size(), 0);
    RandomNumbers random(4);
    for (int t = 1; t <= 300; ++t) {
      random.fill(x);
      ema.update(params);
      for (std::size_t k = 0; k < x.size(); ++k) {
        raw[k] = decay * raw[k] + (1 - decay) * x[k];
        const double expected = raw[k] / -std::expm1(t * std::log(decay));
        REQUIRE(ema.view()[0](k) == Approx(expected).margin(1e-13));
      }
    }
  }
}

TEST_CASE("an Ema of decay 0 is the newest iterate, of decay 1 the initial value, bit for bit",
          "[ema]") {
  const std::vector<float> strange = {
      -0.0f, 0.1f, 1e-45f, 3e38f, static_cast<float>(nan_value), static_cast<float>(-infinity)};
  for (const Start start : {Start::params, Start::first_update, Start::zero_debiased}) {
    std::vector<float> x(strange.size(), static_cast<float>(nan_value));
    polyak::Parameters<float> params;
    params.add("x", x);
    polyak::Ema<float> ema(params, {.decay = 0, .start = start});
    for (int t = 0; t < 3; ++t) {
      std::copy(strange.begin(), strange.end(), x.begin());
      std::rotate(x.begin(), x.begin() + t, x.end());
      ema.update(params);
      CHECK(bytes_of(ema.view()[0]) == bytes_of(x));
    }
  }

  std::vector<float> x = strange;
  polyak::Parameters<float> params;
  params.add("x", x);
  polyak::Ema<float> from_params(params, {.decay = 1});
  polyak::Ema<float> from_first(params, {.decay = 1, .start = Start::first_update});
  RandomNumbers(5).fill(x);
  const auto first = x;
  for (int t = 0; t < 3; ++t) {
    from_params.update(params);
    from_first.update(params);
    RandomNumbers(6).fill(x);
  }
  CHECK(bytes_of(from_first.view()[0]) == bytes_of(first));
  // The start has all the weight: that is the average, though no call changed it.
  CHECK(from_params.ready());
  CHECK(from_params.count() == 0);
  CHECK(bytes_of(from_params.view()[0]) == bytes_of(strange));
}

TEST_CASE("an average begins as a copy of the parameters", "[ema]") {
  auto x = RandomNumbers(8).many<float>(71);
  polyak::Parameters<float> params;
  params.add("x", x);
  const polyak::Ema<float> ema(params, {.decay = 0.5});
  const polyak::Ema<float, double> wide(params, {.decay = 0.5});
  CHECK(bytes_of(ema.slots().tensor(0, 0)) == bytes_of(x));
  for (std::size_t k = 0; k < x.size(); ++k) {
    CHECK(wide.slots().tensor(0, 0)[k] == static_cast<double>(x[k]));
  }
}

TEST_CASE("two calls with the same weights equal one call with the squared decay", "[ema]") {
  for (const double decay : {0.3, 0.9, 0.9999}) {
    auto x = RandomNumbers(9).many(50);
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::Ema<double> twice(params, {.decay = decay, .any_decay = true});
    polyak::Ema<double> once(params, {.decay = decay * decay, .any_decay = true});
    polyak::Ema<double> every_second(params,
                                     {.decay = decay, .any_decay = true, .update_every = 2});
    RandomNumbers random(10);
    for (int t = 0; t < 20; ++t) {
      random.fill(x);
      twice.update(params);
      twice.update(params);
      once.update(params);
      every_second.update(params);
      every_second.update(params);
      for (std::size_t k = 0; k < x.size(); ++k) {
        REQUIRE(twice.view()[0](k) == Approx(once.view()[0](k)).margin(1e-14));
        REQUIRE(every_second.view()[0](k) == Approx(once.view()[0](k)).margin(1e-14));
      }
    }
  }
}

TEST_CASE("update_every averages every n-th iterate with the decay of n calls", "[ema]") {
  for (const Start start : {Start::params, Start::first_update, Start::zero_debiased}) {
    auto x = RandomNumbers(12).many(9);
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::Ema<double> sparse(params, {.decay = 0.9, .start = start, .update_every = 5});
    polyak::Ema<double> dense(params, {.decay = std::pow(0.9, 5), .start = start});
    RandomNumbers random(13);
    for (int t = 1; t <= 60; ++t) {
      random.fill(x);
      const auto before = bytes_of(sparse.slots().tensor(0, 0));
      sparse.update(params);
      CHECK(sparse.calls() == t);
      CHECK(sparse.count() == t / 5);
      CHECK(sparse.ready() == (t >= 5 || start == Start::params));
      if (t % 5 != 0) {
        REQUIRE(bytes_of(sparse.slots().tensor(0, 0)) == before);
        continue;
      }
      dense.update(params);
      for (std::size_t k = 0; k < x.size(); ++k) {
        REQUIRE(sparse.view()[0](k) == Approx(dense.view()[0](k)).margin(1e-14));
      }
    }
  }
}

TEST_CASE("a float average stalls near a constant, a double average does not", "[ema]") {
  constexpr double gain = 1.0 / 128;  // 1 - decay is exact in float
  std::vector<float> x{0, 2};         // one comes from below, one from above
  polyak::Parameters<float> params;
  params.add("x", x);
  polyak::Ema<float> narrow(params, {.decay = 1 - gain});
  polyak::Ema<float, double> wide(params, {.decay = 1 - gain});
  x = {1, 1};
  for (int t = 0; t < 5000; ++t) polyak::update(params, narrow, wide);
  // A step c |x - avg| below half an ulp of avg is lost: 2^-25 below 1, 2^-24 above it.
  const std::vector<double> half_ulp{0x1p-25, 0x1p-24};
  for (std::size_t k = 0; k < 2; ++k) {
    const double rest = std::fabs(1 - static_cast<double>(narrow.view()[0](k)));
    CHECK(rest <= half_ulp[k] / gain);
    CHECK(rest > 0.9 * half_ulp[k] / gain);
    CHECK(std::fabs(1 - wide.view()[0](k)) < 1e-13);
  }
  const auto before = bytes_of(narrow.view()[0]);
  narrow.update(params);
  CHECK(bytes_of(narrow.view()[0]) == before);
}

TEST_CASE("Ema averages tensors of all shapes with the same gain", "[ema]") {
  auto a = RandomNumbers(14).many<float>(1), b = RandomNumbers(15).many<float>(100);
  std::vector<float> empty;
  polyak::Parameters<float> params;
  params.add("a", a).add("b", b, {4, 25}).add("empty", empty, {0, 3});
  polyak::Ema ema(params, {.decay = 0.75});
  const auto a0 = a, b0 = b;
  RandomNumbers(16).fill(a);
  RandomNumbers(17).fill(b);
  ema.update(params);
  CHECK(ema.view()["a"](0) == Approx(0.75 * a0[0] + 0.25 * a[0]).margin(1e-7));
  for (std::size_t k = 0; k < b.size(); ++k) {
    CHECK(ema.view()["b"](k) == Approx(0.75 * b0[k] + 0.25 * b[k]).margin(1e-7));
  }
  CHECK(ema.view()["empty"].size() == 0);
  CHECK(ema.view()["b"].shape() == polyak::Shape{4, 25});
}

TEST_CASE("Ema refuses options out of range", "[ema]") {
  std::vector<double> x{1, 2};
  polyak::Parameters<double> params;
  params.add("x", x);
  const auto make = [&](const EmaOptions& options) { polyak::Ema<double> ema(params, options); };
  check_refused(make, EmaOptions{}, &EmaOptions::decay, "EmaOptions.decay must lie in [0, 1]",
                {-0.1, 1.5, nan_value, infinity, -infinity});
  check_refused(make, EmaOptions{.start = Start::zero_debiased}, &EmaOptions::decay,
                "EmaOptions.decay must be below 1 with Start::zero_debiased", {1});
  check_refused(make, EmaOptions{}, &EmaOptions::update_every,
                "EmaOptions.update_every must be >= 1", {0, -3});
  CHECK_NOTHROW(make({.decay = 0}));
  CHECK_NOTHROW(make({.decay = 1}));
  CHECK_NOTHROW(make({.decay = 1, .start = Start::first_update}));
  CHECK(x == std::vector<double>{1, 2});
}

}  // namespace ema_test
