// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/stream_weighting.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/state.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace weighting_test {

namespace {

using polyak::ExponentialWeighting;
using polyak::InverseGammaWeighting;
using polyak::PolynomialWeighting;
using polyak::PowerWeighting;
using polyak::profile;
using polyak::Start;
using polyak::StreamWeighting;
using polyak::TailWeighting;
using polyak::TfWarmupWeighting;
using polyak::UniformWeighting;

/// Gains listed one by one: an example of a user's own weighting.
struct ListedGains {
  std::vector<double> gains;
  double gain(std::int64_t t) const { return gains.at(static_cast<std::size_t>(t - 1)); }
  double complement(std::int64_t t) const { return 1 - gain(t); }
};

/// Calls `visit(name, weighting)` for every weighting, at ordinary and at extreme settings.
template <class Visit>
void for_each_weighting(Visit&& visit) {
  visit("uniform", UniformWeighting{});
  visit("uniform from call 5, every 3rd", UniformWeighting{5, 3});
  visit("uniform from call 0, every 4th", UniformWeighting{0, 4});
  for (const double decay : {0.0, 0.75, 0.999, 1.0}) {
    for (const std::int64_t every : {1, 3}) {
      const std::string name =
          "exponential " + std::to_string(decay) + " every " + std::to_string(every);
      visit(name, ExponentialWeighting{decay, Start::params, every});
      visit(name + ", copy first", ExponentialWeighting{decay, Start::first_update, every});
      if (decay < 1) {
        visit(name + ", debiased", ExponentialWeighting{decay, Start::zero_debiased, every});
      }
    }
  }
  for (const double eta : {0.0, 1.0, 2.5, 8.0}) {
    visit("polynomial " + std::to_string(eta), PolynomialWeighting{eta});
  }
  for (const double gamma : {0.0, 1.0, 6.94, 16.97}) {
    visit("power " + std::to_string(gamma), PowerWeighting{gamma});
  }
  visit("warmup (1+k)/(10+k)", TfWarmupWeighting{});
  visit("warmup (1+k)/(10+k), low cap", TfWarmupWeighting{0.6});
  visit("inverse gamma", InverseGammaWeighting{});
  visit("inverse gamma, slow", InverseGammaWeighting{20, 2.0 / 3.0, 0.9});
  visit("tail", TailWeighting{});
  visit("tail from call 7", TailWeighting{7});
  visit("stream", StreamWeighting(std::vector<double>(200, 0.5)));
  std::vector<double> squares;
  for (int t = 1; t <= 200; ++t) squares.push_back(t % 7 == 0 ? 0.0 : t * t);
  visit("stream with gaps", StreamWeighting(squares));
}

void check_profile(const std::vector<double>& weights, const std::vector<double>& expected) {
  REQUIRE(weights.size() == expected.size());
  for (std::size_t t = 0; t < weights.size(); ++t) {
    INFO("weight of iterate " << t);
    CHECK(weights[t] == Approx(expected[t]).epsilon(1e-12).margin(1e-300));
  }
}

/// The profile after `calls` calls whose weight of iterate t is `weight(t)`, t = 0, 1, ...
template <class Weight>
std::vector<double> expected_profile(int calls, Weight&& weight) {
  std::vector<double> weights;
  for (int t = 0; t <= calls; ++t) weights.push_back(weight(t));
  return weights;
}

}  // namespace

TEST_CASE("profiles agree with hand-computed values", "[weighting]") {
  check_profile(profile(UniformWeighting{}, 3), {0, 1 / 3., 1 / 3., 1 / 3.});
  check_profile(profile(UniformWeighting{2, 2}, 5), {0, 0, 0.5, 0, 0.5, 0});
  check_profile(profile(UniformWeighting{0, 2}, 5), {0, 0, 0.5, 0, 0.5, 0});
  check_profile(profile(ExponentialWeighting{0.5}, 3), {1 / 8., 1 / 8., 1 / 4., 1 / 2.});
  check_profile(profile(ExponentialWeighting{0.5, Start::first_update}, 3),
                {0, 1 / 4., 1 / 4., 1 / 2.});
  check_profile(profile(ExponentialWeighting{0.5, Start::zero_debiased}, 3),
                {0, 1 / 7., 2 / 7., 4 / 7.});
  check_profile(profile(ExponentialWeighting{0.5, Start::params, 2}, 4),
                {1 / 16., 0, 3 / 16., 0, 3 / 4.});
  check_profile(profile(ExponentialWeighting{0, Start::params}, 2), {0, 0, 1});
  check_profile(profile(ExponentialWeighting{1, Start::params}, 2), {1, 0, 0});
  check_profile(profile(ExponentialWeighting{1, Start::first_update}, 2), {0, 1, 0});
  check_profile(profile(PolynomialWeighting{1}, 3), {0, 1 / 6., 2 / 6., 3 / 6.});
  check_profile(profile(PowerWeighting{1}, 3), {0, 1 / 9., 3 / 9., 5 / 9.});
  check_profile(profile(TailWeighting{2}, 4), {0, 0, 1 / 3., 1 / 3., 1 / 3.});
  check_profile(profile(StreamWeighting({1, 2, 3}), 3), {0, 1 / 6., 2 / 6., 3 / 6.});
  check_profile(profile(TfWarmupWeighting{0.999}, 2), {2 / 110., 18 / 110., 9 / 11.});
  check_profile(profile(InverseGammaWeighting{1, 1, 1}, 3), {0, 1 / 3., 1 / 3., 1 / 3.});
  check_profile(profile(UniformWeighting{}, 0), {1});
}

TEST_CASE("profiles agree with their closed forms", "[weighting]") {
  constexpr int calls = 57;
  const double n = calls;
  const double b = 0.9;
  check_profile(profile(ExponentialWeighting{b}, calls), expected_profile(calls, [&](int t) {
                  return t == 0 ? std::pow(b, n) : (1 - b) * std::pow(b, n - t);
                }));
  check_profile(profile(ExponentialWeighting{b, Start::first_update}, calls),
                expected_profile(calls, [&](int t) {
                  return t == 0 ? 0 : t == 1 ? std::pow(b, n - 1) : (1 - b) * std::pow(b, n - t);
                }));
  check_profile(profile(ExponentialWeighting{b, Start::zero_debiased}, calls),
                expected_profile(calls, [&](int t) {
                  return t == 0 ? 0 : (1 - b) * std::pow(b, n - t) / (1 - std::pow(b, n));
                }));
  for (const double eta : {0.0, 1.0, 2.5, 8.0}) {
    check_profile(profile(PolynomialWeighting{eta}, calls), expected_profile(calls, [&](int t) {
                    return t == 0 ? 0
                                  : (eta + 1) * std::exp(std::lgamma(n) + std::lgamma(t + eta) -
                                                         std::lgamma(t) - std::lgamma(n + 1 + eta));
                  }));
  }
  for (const double gamma : {0.0, 1.0, 6.94, 16.97}) {
    check_profile(profile(PowerWeighting{gamma}, calls), expected_profile(calls, [&](int t) {
                    if (t == 0) return 0.0;
                    return std::pow(t / n, gamma + 1) - std::pow((t - 1) / n, gamma + 1);
                  }));
  }
  check_profile(profile(TailWeighting{18}, calls),
                expected_profile(calls, [](int t) { return t < 18 ? 0 : 1 / 40.; }));
}

TEST_CASE("warmups equal polynomial decay until they reach the cap", "[weighting]") {
  const auto warmup = profile(TfWarmupWeighting{0.999}, 50);
  const auto shifted = profile(PolynomialWeighting{8}, 51);  // x_0 is its first iterate
  REQUIRE(warmup.size() + 1 == shifted.size());
  for (std::size_t t = 0; t < warmup.size(); ++t) {
    CHECK(warmup[t] == Approx(shifted[t + 1]).epsilon(1e-13));
  }
  check_profile(profile(InverseGammaWeighting{1, 1, 1}, 50), profile(UniformWeighting{}, 50));

  for (std::int64_t t = 1; t < 300; ++t) {
    CHECK(TfWarmupWeighting{0.95}.complement(t) <= TfWarmupWeighting{0.95}.complement(t + 1));
    const InverseGammaWeighting slow{20, 2.0 / 3.0, 0.85};
    CHECK(slow.complement(t) <= slow.complement(t + 1));
  }
  CHECK(TfWarmupWeighting{0.95}.complement(300) == 0.95);
  CHECK(InverseGammaWeighting{20, 2.0 / 3.0, 0.85}.complement(400) == 0.85);
}

TEST_CASE("gain and complement sum to 1", "[weighting]") {
  for_each_weighting([](const std::string& name, const auto& weighting) {
    INFO(name);
    for (std::int64_t t = 1; t <= 200; ++t) {
      const double gain = weighting.gain(t), complement = weighting.complement(t);
      INFO("call " << t << ", gain " << gain);
      REQUIRE(gain >= 0);
      REQUIRE(gain <= 1);
      REQUIRE(std::fabs(gain + complement - 1) < 2e-15);
      REQUIRE((gain == 1) == (complement == 0));
    }
  });
  // 1 - c would have lost five digits here.
  CHECK(PowerWeighting{16.97}.complement(2) == Approx(std::exp2(-17.97)).epsilon(1e-15));
  // These copy exactly, although (1 - b)/(1 - b) by way of logarithms does not.
  CHECK(ExponentialWeighting{0.75, Start::zero_debiased}.gain(1) == 1);
  CHECK(PowerWeighting{6.94}.gain(1) == 1);
  CHECK(PolynomialWeighting{8}.gain(1) == 1);
  // 1 - b^n keeps its digits for b close to 1: n (1 - b) (1 - (n - 1)(1 - b)/2 + ...)
  const double complement = 0x1p-40;
  CHECK(ExponentialWeighting{1 - complement, Start::params, 3}.gain(3) ==
        Approx(3 * complement * (1 - complement)).epsilon(1e-15));
}

TEST_CASE("profiles sum to 1 and agree with the running average", "[weighting]") {
  constexpr int calls = 120;
  constexpr std::size_t size = 3;
  for_each_weighting([](const std::string& name, const auto& weighting) {
    INFO(name);
    RandomNumbers random(7);
    std::vector<std::vector<double>> iterates{random.many(size)};
    std::vector<double> x = iterates.front();
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::Average<double, std::decay_t<decltype(weighting)>> average(params, weighting);
    for (int t = 1; t <= calls; ++t) {
      random.fill(x);
      iterates.push_back(x);
      REQUIRE(average.update(params));
    }
    const auto weights = profile(weighting, calls);
    double sum = 0;
    std::vector<double> expected(size, 0);
    for (std::size_t t = 0; t < weights.size(); ++t) {
      sum += weights[t];
      for (std::size_t k = 0; k < size; ++k) expected[k] += weights[t] * iterates[t][k];
    }
    CHECK(sum == Approx(1).epsilon(1e-13));
    for (std::size_t k = 0; k < size; ++k) {
      CHECK(average.view()[0](k) == Approx(expected[k]).margin(1e-12));
    }
  });
}

TEST_CASE("the impulse response of an average is its profile", "[weighting]") {
  constexpr int calls = 60;
  for_each_weighting([](const std::string& name, const auto& weighting) {
    INFO(name);
    // Element t is 1 in iterate t and 0 in all others, so the average is the profile.
    std::vector<double> x(calls + 1, 0);
    x[0] = 1;
    polyak::Parameters<double> params;
    params.add("x", x);
    polyak::Average<double, std::decay_t<decltype(weighting)>> average(params, weighting);
    for (std::size_t t = 1; t <= calls; ++t) {
      x[t - 1] = 0;
      x[t] = 1;
      REQUIRE(average.update(params));
    }
    const auto weights = profile(weighting, calls);
    for (std::size_t t = 0; t <= calls; ++t) {
      INFO("iterate " << t);
      CHECK(average.view()[0](t) == Approx(weights[t]).epsilon(1e-12).margin(1e-15));
    }
  });
}

TEST_CASE("a constant input leaves an average unchanged to the last bit", "[weighting]") {
  for_each_weighting([](const std::string& name, const auto& weighting) {
    INFO(name);
    auto x = RandomNumbers(11).many<float>(37);
    polyak::Parameters<float> params;
    params.add("x", x);
    polyak::Average<float, std::decay_t<decltype(weighting)>> average(params, weighting);
    for (int t = 1; t <= 150; ++t) average.update(params);
    CHECK(bytes_of(average.view()[0]) == bytes_of(x));
  });
}

TEST_CASE("a gain of 1 copies all bits, a gain of 0 changes none", "[weighting]") {
  const auto strange = std::vector<double>{-0.0,       0.0,  nan_value, -nan_value,   infinity,
                                           -infinity,  0.1,  5e-324,    -2.5e-310,    1e308,
                                           -1.0 / 3.0, 1e16, 1,         0x1.fffffep0, 3.5};
  auto x = std::vector<double>(strange.size(), nan_value);
  polyak::Parameters<double> params;
  params.add("x", x);
  polyak::Average<double, ListedGains> average(params, ListedGains{{1, 0.5, 1, 0, 0, 1}});

  average.update(params);
  average.update(params);
  REQUIRE(std::isnan(average.view()[0](0)));
  std::copy(strange.begin(), strange.end(), x.begin());
  average.update(params);  // 1: removes the previous NaNs
  CHECK(bytes_of(average.view()[0]) == bytes_of(strange));
  CHECK(average.count() == 3);

  RandomNumbers(1).fill(x);
  average.update(params);  // 0
  std::fill(x.begin(), x.end(), nan_value);
  average.update(params);  // 0
  CHECK(bytes_of(average.view()[0]) == bytes_of(strange));
  CHECK(average.count() == 3);
  CHECK(average.calls() == 5);
  CHECK(average.gain() == 0);

  RandomNumbers(2).fill(x);
  average.update(params);  // 1
  CHECK(bytes_of(average.view()[0]) == bytes_of(x));
  CHECK(average.gain() == 1);
}

TEST_CASE("StreamWeighting refuses weights that are negative or not finite", "[weighting]") {
  const std::string rule =
      "polyak: StreamWeighting: weights must be finite and >= 0, the first > 0, got ";
  const auto refused = [](std::vector<double> weights) {
    return refusal<std::invalid_argument>([&] { StreamWeighting bad(std::move(weights)); });
  };
  CHECK(refused({0, 1}) == rule + "0");
  CHECK(refused({-1}) == rule + "-1");
  CHECK(refused({1, -0.5}) == rule + "-0.5");
  CHECK(refused({1, 2, nan_value}) == rule + "nan");
  CHECK(refused({infinity}) == rule + "inf");
  CHECK_NOTHROW(StreamWeighting({1, 0, 2}));
  check_profile(profile(StreamWeighting({1, 0, 3}), 3), {0, 0.25, 0, 0.75});
}

TEST_CASE("StreamWeighting refuses no weights, and weights whose sum is infinite", "[weighting]") {
  CHECK(refusal<std::invalid_argument>([] { StreamWeighting bad({}); }) ==
        "polyak: StreamWeighting: there must be at least one weight, got 0");
  CHECK(refusal<std::invalid_argument>([] {
          StreamWeighting bad({1e308, 1e308});
        }) == "polyak: StreamWeighting: the sum of the weights must be finite, got inf");
}

TEST_CASE("A call beyond the weights of a StreamWeighting changes nothing", "[weighting]") {
  StreamWeighting stream({1, 2, 3});
  const std::string rule =
      "polyak: StreamWeighting: the call must be one of those with a weight, 1 to 3, got ";
  const auto refused = [](const StreamWeighting& weighting, std::int64_t t) {
    refusal<std::invalid_argument>([&] { static_cast<void>(weighting.complement(t)); });
    return refusal<std::invalid_argument>([&] { static_cast<void>(weighting.gain(t)); });
  };
  for (const std::int64_t t :
       {std::int64_t{4}, std::int64_t{5}, std::int64_t{0}, std::int64_t{-1},
        std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()}) {
    CHECK(refused(stream, t) == rule + std::to_string(t));
  }
  CHECK(refusal<std::invalid_argument>([&] { static_cast<void>(profile(stream, 4)); }) ==
        rule + "4");

  std::vector<float> x{1, 2};
  polyak::Parameters<float> params;
  params.add("x", x);
  polyak::Ema<float> ema(params, {.decay = 0.5});
  polyak::Average<float, StreamWeighting> average(params, stream);
  const auto both = [&](auto& executor) { polyak::update(executor, params, ema, average); };
  polyak::Serial serial;
  auto other = [](std::size_t count, const auto& range) { range(std::size_t{0}, count); };
  for (int call = 1; call <= 3; ++call) both(serial);
  x = {3, 4};
  for (int again = 0; again < 2; ++again) {
    const auto before = polyak::state_bytes(average);
    const auto before_ema = polyak::state_bytes(ema);
    CHECK(refusal<std::invalid_argument>([&] { both(serial); }) == rule + "4");
    CHECK(refusal<std::invalid_argument>([&] { both(other); }) == rule + "4");
    CHECK(refusal<std::invalid_argument>([&] { polyak::update(params, average, ema); }) ==
          rule + "4");
    CHECK(average.calls() == 3);
    CHECK(polyak::state_bytes(average) == before);
    CHECK(polyak::state_bytes(ema) == before_ema);
  }
  const StreamWeighting moved = std::move(stream);
  CHECK(moved.gain(3) == 0.5);
}

TEST_CASE("profile() refuses a negative number of calls") {
  CHECK_THROWS_AS(polyak::profile(polyak::UniformWeighting{}, -1), std::invalid_argument);
  CHECK(polyak::profile(polyak::UniformWeighting{}, 0) == std::vector<double>{1});
}

}  // namespace weighting_test
