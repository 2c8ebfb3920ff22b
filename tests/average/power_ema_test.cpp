// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/power_ema.hpp>

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace power_ema_test {

using polyak::PowerEmaOptions;

TEST_CASE("PowerEma of gamma 1 has hand-computed linear weights", "[power_ema]") {
  double x = 100;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::PowerEma<double> power(params, {.gamma = 1});
  x = 9;
  power.update(params);
  CHECK(power.view()[0](0) == 9);  // the first call copies
  CHECK(power.gain() == 1);
  x = 18;
  power.update(params);
  CHECK(power.view()[0](0) == Approx((9 + 3 * 18) / 4.0).epsilon(1e-15));
  x = 0;
  power.update(params);
  CHECK(power.view()[0](0) == Approx((9 + 3 * 18 + 5 * 0) / 9.0).epsilon(1e-15));
  CHECK(power.time() == 3);
}

TEST_CASE("PowerEma weighs batches of any size by their share of the time", "[power_ema]") {
  const std::vector<double> batches{64, 64, 1, 250, 7.5, 64, 1000, 0.25, 3, 128, 128, 33};
  for (const double gamma : {0.0, 1.0, 6.94, 16.97}) {
    for (const std::int64_t every : {1, 3}) {
      INFO("gamma " << gamma << ", every " << every);
      // Element k is 1 in iterate k and 0 in all others, so the average is the profile.
      std::vector<double> x(batches.size(), 0);
      polyak::Parameters<double> params;
      params.add("x", x);
      polyak::PowerEma<double> power(params, {.gamma = gamma, .update_every = every});
      double time = 0, updated_time = 0;
      std::vector<double> begin(batches.size(), 0), end(batches.size(), 0);
      for (std::size_t k = 0; k < batches.size(); ++k) {
        if (k > 0) x[k - 1] = 0;
        x[k] = 1;
        power.at(batches[k]).update(params);
        time += batches[k];
        if (static_cast<std::int64_t>(k + 1) % every != 0) continue;
        begin[k] = updated_time;
        end[k] = updated_time = time;
        CHECK(power.updated_time() == updated_time);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double weight = std::pow(end[i] / updated_time, gamma + 1) -
                                std::pow(begin[i] / updated_time, gamma + 1);
          REQUIRE(power.view()[0](i) == Approx(weight).margin(1e-14));
        }
      }
      CHECK(power.time() == time);
      CHECK(power.calls() == static_cast<std::int64_t>(batches.size()));
      CHECK(power.count() == power.calls() / every);
    }
  }
}

TEST_CASE("neither the unit of time nor update_every changes the width", "[power_ema]") {
  auto x = RandomNumbers(1).many(31);
  polyak::Parameters<double> params;
  params.add("x", x);
  polyak::PowerEma<double> steps(params, {.sigma_rel = 0.1});
  polyak::PowerEma<double> images(params, {.sigma_rel = 0.1, .batch_size = 2048});
  polyak::PowerEma<double> sparse(params, {.sigma_rel = 0.1, .update_every = 4});
  RandomNumbers random(2);
  for (int t = 0; t < 400; ++t) {
    random.fill(x);
    polyak::update(params, steps, images, sparse);
  }
  CHECK(images.time() == 2048.0 * 400);
  CHECK(sparse.updated_time() == 400);
  double rate = steps.gain();
  CHECK(images.gain() == Approx(rate).epsilon(1e-14));
  CHECK(sparse.gain() == Approx(1 - std::pow(1 - 4 / 400.0, steps.gamma() + 1)).epsilon(1e-14));
  for (std::size_t k = 0; k < x.size(); ++k) {
    CHECK(images.view()[0](k) == Approx(steps.view()[0](k)).margin(1e-14));
  }
}

TEST_CASE("the measured width of the profile is sigma_rel", "[power_ema]") {
  constexpr int calls = 4000;
  for (const double sigma_rel : {0.05, 0.1, 0.2, 0.28}) {
    std::vector<double> moments(2, 0);  // of the time, under the weights
    polyak::Parameters<double> params;
    params.add("t, t^2", moments);
    polyak::PowerEma<double> power(params, {.sigma_rel = sigma_rel});
    for (int t = 1; t <= calls; ++t) {
      const double middle = (t - 0.5) / calls;
      moments = {middle, middle * middle};
      power.update(params);
    }
    const double mean = power.view()[0](0);
    CHECK(std::sqrt(power.view()[0](1) - mean * mean) == Approx(sigma_rel).epsilon(1e-4));
    CHECK(power.sigma_rel() == Approx(sigma_rel).epsilon(1e-13));
  }
}

TEST_CASE("PowerEma takes a width or an exponent", "[power_ema]") {
  double x = 0;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  const std::vector<std::pair<double, double>> known{
      {0.05, 16.97}, {0.1, 6.94}, {0.25, 0.72}};  // exponents to the digits given
  for (const auto& [sigma_rel, gamma] : known) {
    CHECK(polyak::PowerEma<double>(params, {.sigma_rel = sigma_rel}).gamma() ==
          Approx(gamma).margin(0.006));
  }
  const double widest = 1 / std::sqrt(12.0);
  CHECK(polyak::PowerEma<double>(params, {.sigma_rel = widest}).gamma() == 0);
  CHECK(polyak::PowerEma<double>(params, {.sigma_rel = 1e-4}).gamma() ==
        Approx(1e4 - 3).epsilon(1e-6));
  CHECK(polyak::PowerEma<double>(params, {.gamma = 0}).sigma_rel() ==
        Approx(widest).epsilon(1e-15));
}

TEST_CASE("PowerEma refuses options out of range", "[power_ema]") {
  std::vector<double> x{1, 2};
  polyak::Parameters<double> params;
  params.add("x", x);
  const auto make = [&](const PowerEmaOptions& options) {
    polyak::PowerEma<double> power(params, options);
  };
  const std::string one_of = "PowerEmaOptions.sigma_rel must be set if gamma is not, and only then";
  check_refused(make, PowerEmaOptions{.sigma_rel = 0.1}, &PowerEmaOptions::sigma_rel, one_of,
                {nan_value});
  check_refused(make, PowerEmaOptions{.gamma = 1}, &PowerEmaOptions::sigma_rel, one_of, {0.1, 0});
  check_refused(make, PowerEmaOptions{.sigma_rel = 0.1}, &PowerEmaOptions::sigma_rel,
                "PowerEmaOptions.sigma_rel must lie in (0, 1/sqrt(12)]",
                {0, -0.1, 0.29, 1, infinity, -infinity});
  check_refused(make, PowerEmaOptions{.gamma = 1}, &PowerEmaOptions::gamma,
                "PowerEmaOptions.gamma must be finite and >= 0", {-0.5, -1, infinity, -infinity});
  check_refused(make, PowerEmaOptions{.gamma = 1}, &PowerEmaOptions::batch_size,
                "PowerEmaOptions.batch_size must be finite and > 0", {0, -1, nan_value, infinity});
  check_refused(make, PowerEmaOptions{.gamma = 1}, &PowerEmaOptions::update_every,
                "PowerEmaOptions.update_every must be >= 1", {0, -2});
  CHECK(x == std::vector<double>{1, 2});
}

TEST_CASE("a refused batch size leaves the old one in place", "[power_ema]") {
  double x = 1;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::PowerEma<double> power(params, {.gamma = 1, .batch_size = 3});
  for (const double bad : {0.0, -1.0, nan_value, infinity}) {
    CHECK(refusal<std::invalid_argument>([&] {
            power.at(bad);
          }).starts_with("polyak: batch_size must be finite and > 0, got "));
  }
  power.update(params);
  CHECK(power.time() == 3);
  power.at(5).update(params);
  CHECK(power.time() == 8);
  power.update(params);
  CHECK(power.time() == 13);
}

}  // namespace power_ema_test
