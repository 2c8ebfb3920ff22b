// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/ema.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/average/switch_ema.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace conversions_test {

namespace {

/// Units in the last place of `expected` between it and `value`.
double ulps(double value, double expected) {
  const double ulp = std::nextafter(std::fabs(expected), infinity) - std::fabs(expected);
  return std::fabs(value - expected) / ulp;
}

const std::vector<double> decays{0.001, 0.1,  0.5,    0.9,     0.99,        0.999,
                                 0.995, 0.75, 0.9999, 0.99999, 1 - 0x1p-30, 1 - 0x1p-48};

}  // namespace

TEST_CASE("conversions of widths agree with hand-computed values", "[conversions]") {
  using namespace polyak;
  CHECK(half_life(0.5) == 1);
  CHECK(half_life(0.25) == 0.5);
  CHECK(half_life(std::sqrt(0.5)) == Approx(2).epsilon(1e-15));
  CHECK(decay_from_half_life(1) == 0.5);
  CHECK(complement_from_half_life(0.5) == Approx(0.75).epsilon(1e-15));
  CHECK(time_constant(1 / std::numbers::e) == Approx(1).epsilon(1e-15));
  CHECK(complement_from_time_constant(1) == Approx(1 - 1 / std::numbers::e).epsilon(1e-15));
  CHECK(span(0.5) == 3);
  CHECK(span(0) == 1);
  CHECK(decay_from_span(3) == 0.5);
  CHECK(decay_from_span(19) == 0.9);
  CHECK(complement_from_span(1) == 1);
  CHECK(mean_age(0.5) == 1);
  CHECK(mean_age(0) == 0);
  CHECK(age_std(0.5) == Approx(std::numbers::sqrt2).epsilon(1e-15));
  CHECK(effective_samples(0.5) == 3);
  CHECK(effective_samples(0) == 1);
  CHECK(scale_decay(0.5, 2) == 0.25);
  CHECK(scale_decay(0.25, 0.5) == 0.5);
  CHECK(half_life_from_sigma_rel(0.1, 1000) == Approx(100 * std::numbers::ln2).epsilon(1e-15));
  CHECK(sigma_rel_from_half_life(std::numbers::ln2, 10) == Approx(0.1).epsilon(1e-15));
}

TEST_CASE("conversions accept the ends of the range of decays", "[conversions]") {
  using namespace polyak;
  CHECK(half_life(0) == 0);
  CHECK(time_constant(0) == 0);
  CHECK(half_life(1) == infinity);
  CHECK(time_constant(1) == infinity);
  CHECK(span(1) == infinity);
  CHECK(mean_age(1) == infinity);
  CHECK(age_std(1) == infinity);
  CHECK(effective_samples(1) == infinity);
  CHECK(complement_from_half_life(infinity) == 0);
  CHECK(decay_from_half_life(infinity) == 1);
  CHECK(complement_from_time_constant(infinity) == 0);
  CHECK(decay_from_time_constant(infinity) == 1);
  CHECK(complement_from_span(infinity) == 0);
  CHECK(scale_decay(0, 3) == 0);
  CHECK(scale_decay(1, 3) == 1);
}

TEST_CASE("round trips of conversions keep 1 - decay within 4 ulp", "[conversions]") {
  using namespace polyak;
  for (const double decay : decays) {
    INFO("1 - decay = " << 1 - decay);
    CHECK(ulps(complement_from_half_life(half_life(decay)), 1 - decay) <= 4);
    CHECK(ulps(complement_from_time_constant(time_constant(decay)), 1 - decay) <= 4);
    CHECK(ulps(complement_from_span(span(decay)), 1 - decay) <= 4);
  }
  for (const double width : {0.3, 1.0, 7.0, 64.0, 1e4, 1e9, 1e15}) {
    INFO("width " << width);
    if (width >= 1e4) {  // 1 - decay keeps its digits however wide the average is
      const double a = std::numbers::ln2 / width;
      CHECK(complement_from_half_life(width) ==
            Approx(a - a * a / 2 + a * a * a / 6).epsilon(1e-13));
    }
    CHECK(1 - decay_from_half_life(width) ==
          Approx(complement_from_half_life(width)).margin(2e-16));
    CHECK(1 - decay_from_time_constant(width) ==
          Approx(complement_from_time_constant(width)).margin(2e-16));
    CHECK(complement_from_half_life(width) ==
          Approx(complement_from_time_constant(width / std::numbers::ln2)).epsilon(1e-14));
    CHECK(half_life_from_sigma_rel(sigma_rel_from_half_life(width, 5000), 5000) ==
          Approx(width).epsilon(1e-14));
  }
}

TEST_CASE("mean age and effective samples agree with the profile", "[conversions]") {
  for (const double decay : {0.1, 0.5, 0.9, 0.97}) {
    double age = 0, square = 0, energy = 0, weight = 1 - decay;
    for (int k = 0; k < 3000; ++k, weight *= decay) {
      age += k * weight;
      square += static_cast<double>(k) * k * weight;
      energy += weight * weight;
    }
    CHECK(polyak::mean_age(decay) == Approx(age).epsilon(1e-12));
    CHECK(polyak::age_std(decay) == Approx(std::sqrt(square - age * age)).epsilon(1e-12));
    CHECK(polyak::effective_samples(decay) == Approx(1 / energy).epsilon(1e-12));
    CHECK(std::pow(decay, polyak::half_life(decay)) == Approx(0.5).epsilon(1e-14));
    CHECK(polyak::span(decay) == Approx(2 * polyak::mean_age(decay) + 1).epsilon(1e-13));
  }
}

TEST_CASE("scaling the batch keeps the half-life in samples", "[conversions]") {
  CHECK(polyak::complement_of_scaled_decay(1 - 1e-12, 8) == Approx(8e-12).epsilon(1e-3));
  CHECK(polyak::complement_of_scaled_decay(0.97, 4) ==
        Approx(1 - polyak::scale_decay(0.97, 4)).epsilon(1e-14));
  for (const double kappa : {0.25, 1.0, 3.0, 8.0}) {
    const double scaled = polyak::scale_decay(0.99, kappa);
    CHECK(polyak::half_life(scaled) * kappa == Approx(polyak::half_life(0.99)).epsilon(1e-12));
  }
}

TEST_CASE("widths and exponents of power functions convert both ways", "[conversions]") {
  using polyak::gamma_from_sigma_rel;
  using polyak::sigma_rel_from_gamma;
  const double widest = 1 / std::sqrt(12.0);
  CHECK(sigma_rel_from_gamma(0) == Approx(widest).epsilon(1e-15));
  CHECK(sigma_rel_from_gamma(1) == Approx(std::sqrt(2.0) / 6).epsilon(1e-15));
  CHECK(sigma_rel_from_gamma(6) == Approx(std::sqrt(7.0) / 24).epsilon(1e-15));
  CHECK(gamma_from_sigma_rel(widest) == 0);
  CHECK(gamma_from_sigma_rel(std::sqrt(2.0) / 6) == Approx(1).epsilon(1e-13));
  CHECK(gamma_from_sigma_rel(std::sqrt(7.0) / 24) == Approx(6).epsilon(1e-13));
  for (const double sigma : {5e-4, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.28, 0.2886}) {
    INFO("sigma_rel " << sigma);
    const double gamma = gamma_from_sigma_rel(sigma);
    CHECK(sigma_rel_from_gamma(gamma) == Approx(sigma).epsilon(1e-13));
    const double s = 1 / (sigma * sigma);  // the cubic whose largest root it is
    const double cubic = ((gamma + 7) * gamma + 16 - s) * gamma + 12 - s;
    CHECK(std::fabs(cubic) < 1e-12 * (s * (gamma + 1) + gamma * gamma * gamma));
  }
  for (const double gamma : {1e-8, 0.01, 0.5, 2.0, 6.94, 16.97, 100.0, 1e6}) {
    CHECK(gamma_from_sigma_rel(sigma_rel_from_gamma(gamma)) ==
          Approx(gamma).epsilon(1e-12).margin(1e-14));
  }
  const double just_below = std::nextafter(widest, 0.0);
  CHECK(gamma_from_sigma_rel(just_below) >= 0);
  CHECK(gamma_from_sigma_rel(just_below) < 1e-6);
}

TEST_CASE("conversions refuse values out of range", "[conversions]") {
  using namespace polyak;
  const auto refused = [](auto function, const std::string& rule, std::vector<double> bad) {
    for (const double value : bad) {
      const std::string message =
          refusal<std::invalid_argument>([&] { static_cast<void>(function(value)); });
      CHECK(message.starts_with("polyak: " + rule + ", got "));
    }
  };
  const std::vector<double> no_decay{-0.1, 1.1, nan_value, infinity, -infinity};
  const std::string rule = "decay must lie in [0, 1]";
  refused([](double v) { return half_life(v); }, rule, no_decay);
  refused([](double v) { return time_constant(v); }, rule, no_decay);
  refused([](double v) { return span(v); }, rule, no_decay);
  refused([](double v) { return mean_age(v); }, rule, no_decay);
  refused([](double v) { return age_std(v); }, rule, no_decay);
  refused([](double v) { return effective_samples(v); }, rule, no_decay);
  refused([](double v) { return scale_decay(v, 2); }, rule, no_decay);
  const std::vector<double> not_positive{0, -1, nan_value, -infinity};
  refused([](double v) { return scale_decay(0.5, v); }, "kappa must be finite and > 0",
          {0, -1, nan_value, infinity});
  refused([](double v) { return complement_of_scaled_decay(v, 2); }, rule, no_decay);
  refused([](double v) { return complement_of_scaled_decay(0.5, v); },
          "kappa must be finite and > 0", {0, -1, nan_value, infinity});
  refused([](double v) { return decay_from_half_life(v); }, "half_life must be > 0", not_positive);
  refused([](double v) { return complement_from_half_life(v); }, "half_life must be > 0",
          not_positive);
  refused([](double v) { return decay_from_time_constant(v); }, "time_constant must be > 0",
          not_positive);
  refused([](double v) { return complement_from_time_constant(v); }, "time_constant must be > 0",
          not_positive);
  refused([](double v) { return decay_from_span(v); }, "span must be >= 1", {0, -1, nan_value});
  refused([](double v) { return complement_from_span(v); }, "span must be >= 1", {0, nan_value});
  refused([](double v) { return sigma_rel_from_gamma(v); }, "gamma must be finite and >= 0",
          {-0.1, nan_value, infinity});
  refused([](double v) { return gamma_from_sigma_rel(v); }, "sigma_rel must lie in (0, 1/sqrt(12)]",
          {0, -0.1, 0.2887, 0.29, 0.31, nan_value, infinity});
  refused([](double v) { return half_life_from_sigma_rel(v, 100); }, "sigma_rel must be > 0",
          not_positive);
  refused([](double v) { return half_life_from_sigma_rel(0.1, v); }, "updates must be > 0",
          not_positive);
  refused([](double v) { return sigma_rel_from_half_life(v, 100); }, "half_life must be > 0",
          not_positive);
  refused([](double v) { return sigma_rel_from_half_life(10, v); }, "updates must be > 0",
          not_positive);
}

TEST_CASE("a refused decay suggests the value that was probably meant", "[conversions]") {
  using namespace polyak;
  CHECK(refuses([] { static_cast<void>(half_life(1000)); },
                {"did you mean a time?", "decay_from_half_life(1000) = 0.99930709", "got 1000"}));
  CHECK(refuses([] { static_cast<void>(decay_from_span(0.9)); },
                {"span must be >= 1", "did you mean a decay?", "span(0.9) = 19"}));
  Parameters params;
  const auto ema = [&](EmaOptions options) {
    return [&, options] { Ema<float>(params, options); };
  };
  CHECK(refuses(ema({.decay = 0.001}), {"EmaOptions.decay", "did you mean 1 - 0.001 = 0.999?",
                                        "any_decay = true", "got 0.001"}));
  CHECK(refuses(ema({.decay = 500}), {"EmaOptions.decay", "did you mean a time?"}));
  CHECK(refuses(ema({.decay = 0.4999}), {"did you mean"}));
  CHECK_NOTHROW(ema({.decay = 0.5})());
  CHECK_NOTHROW(ema({.decay = 0})());
  CHECK_NOTHROW(ema({.decay = 0.001, .any_decay = true})());
  CHECK(refuses([&] { SwitchEma<float>(params, {.decay = 0.01}); },
                {"SwitchEmaOptions.decay", "1 - 0.01 = 0.99"}));
  CHECK(refuses([&] { HareTortoise<float>(params, {.decay = 0.01}); },
                {"HareTortoiseOptions.decay", "1 - 0.01 = 0.99"}));
}

}  // namespace conversions_test
