// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/swa.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace swa_test {

using polyak::SwaOptions;

TEST_CASE("Swa is the hand-computed mean of the collected weights", "[swa]") {
  double x = 100;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::Swa<double> all(params), some(params, {.start = 3, .period = 2});
  const std::vector<double> means{3, 4, 6, 6, 6};         // of 3; 3, 5; 3, 5, 10; ...
  const std::vector<double> some_means{0, 0, 10, 10, 8};  // of 10; 10, 6
  const std::vector<double> iterates{3, 5, 10, 6, 6};
  for (std::size_t t = 0; t < iterates.size(); ++t) {
    x = iterates[t];
    all.update(params);
    some.update(params);
    CHECK(all.view()[0](0) == Approx(means[t]).epsilon(1e-15));
    if (t >= 2) CHECK(some.view()[0](0) == some_means[t]);
  }
  CHECK(some.calls() == 5);
  CHECK(some.count() == 2);
}

TEST_CASE("Swa is the mean of many iterates in any order", "[swa]") {
  constexpr int steps = 500;
  auto x = RandomNumbers(1).many(23);
  polyak::Parameters<double> params;
  params.add("x", x);
  polyak::Swa<double> swa(params);
  std::vector<long double> sum(x.size(), 0);
  std::vector<std::vector<double>> iterates;
  RandomNumbers random(2);
  for (int t = 1; t <= steps; ++t) {
    random.fill(x);
    iterates.push_back(x);
    for (std::size_t k = 0; k < x.size(); ++k) sum[k] += x[k];
    swa.update(params);
    for (std::size_t k = 0; k < x.size(); ++k) {
      REQUIRE(swa.view()[0](k) == Approx(static_cast<double>(sum[k] / t)).margin(1e-12));
    }
  }

  // The order does not matter but for rounding.
  polyak::Swa<double> backwards(params);
  for (auto iterate = iterates.rbegin(); iterate != iterates.rend(); ++iterate) {
    std::copy(iterate->begin(), iterate->end(), x.begin());
    backwards.update(params);
  }
  for (std::size_t k = 0; k < x.size(); ++k) {
    CHECK(backwards.view()[0](k) == Approx(swa.view()[0](k)).margin(1e-14));
  }
}

TEST_CASE("the average of equal weights has their bits", "[swa]") {
  auto x = RandomNumbers(3).many<float>(29);
  polyak::Parameters<float> params;
  params.add("x", x);
  polyak::Swa<float> swa(params);
  for (int t = 0; t < 1000; ++t) swa.update(params);
  CHECK(bytes_of(swa.view()[0]) == bytes_of(x));
}

TEST_CASE("Swa collects the calls that start and period determine", "[swa]") {
  for (const std::int64_t start : {0, 1, 2, 7, 50}) {
    for (const std::int64_t period : {1, 2, 5}) {
      INFO("start " << start << ", period " << period);
      double x = 0;
      polyak::Parameters<double> params;
      params.add("x", &x, {1});
      polyak::Swa<double> swa(params, {.start = start, .period = period});
      double sum = 0;
      std::int64_t collected = 0;
      for (std::int64_t t = 1; t <= 40; ++t) {
        x = static_cast<double>(t * t);
        swa.update(params, t);
        if (t >= start && (t - start) % period == 0) {
          sum += x;
          ++collected;
        }
        REQUIRE(swa.count() == collected);
        REQUIRE(swa.ready() == (collected > 0));
        if (collected > 0) {
          REQUIRE(swa.view()[0](0) == Approx(sum / static_cast<double>(collected)).epsilon(1e-13));
        }
      }
    }
  }
}

TEST_CASE("Swa is not readable before the first collection", "[swa]") {
  std::vector<double> x{1, 2}, y{3, 4};
  polyak::Parameters<double> params, target;
  params.add("x", x);
  target.add("x", y);
  polyak::Swa<double> swa(params, {.start = 3});
  swa.update(params);
  swa.update(params);
  const std::string message =
      "polyak: the average was never updated; ask for the current weights with or_current if that "
      "is meant";
  CHECK(refusal<std::logic_error>([&] { static_cast<void>(swa.view()); }) == message);
  CHECK(refusal<std::logic_error>([&] { swa.copy_to(target); }) == message);
  CHECK(refusal<std::logic_error>([&] { auto guard = swa.swap_into(params); }) == message);
  CHECK(y == std::vector<double>{3, 4});
  CHECK_FALSE(params.swapped());
  {
    const auto guard = swa.swap_into(params, polyak::or_current);
    CHECK(x == std::vector<double>{1, 2});
    CHECK(params.swapped());
  }
  swa.copy_to(target, polyak::or_current);
  CHECK(y == std::vector<double>{3, 4});

  // The first collection copies: a NaN from the start has no weight.
  x[0] = nan_value;
  polyak::Swa<double> later(params, {.start = 2});
  later.update(params);
  x[0] = 5;
  later.update(params);
  CHECK(later.view()[0](0) == 5);
  later.copy_to(target, polyak::or_current);
  CHECK(y == x);
}

TEST_CASE("Swa refuses options out of range", "[swa]") {
  std::vector<double> x{1, 2};
  polyak::Parameters<double> params;
  params.add("x", x);
  const auto make = [&](const SwaOptions& options) { polyak::Swa<double> swa(params, options); };
  check_refused(make, SwaOptions{}, &SwaOptions::start, "SwaOptions.start must be >= 0", {-1, -99});
  check_refused(make, SwaOptions{}, &SwaOptions::period, "SwaOptions.period must be >= 1", {0, -1});
  CHECK_NOTHROW(make({.start = 0}));
  CHECK(x == std::vector<double>{1, 2});
}

}  // namespace swa_test
