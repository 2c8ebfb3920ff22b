// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/average/analysis/weight_statistics.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/stream_weighting.hpp>
#include <polyak/average/schedules/weighting.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "allocations.hpp"
#include "catch.hpp"
#include "numbers.hpp"
#include "refuses.hpp"

namespace weight_profile_test {

using namespace polyak;

namespace {

/// A user's weighting, without weighs_initial().
struct Halving {
  double gain(std::int64_t) const { return 0.5; }
  double complement(std::int64_t) const { return 0.5; }
};

/// The same for an average whose initial value has no weight.
struct HalvingOfNothing : Halving {
  bool weighs_initial() const { return false; }
};

/// Copies at call 5, but with a complement that forgot its last digit.
struct SloppyCopy {
  double gain(std::int64_t t) const { return t == 5 ? 1 : 0.25; }
  double complement(std::int64_t t) const { return t == 5 ? 0x1p-53 : 0.75; }
};

template <class Visit>
void for_each_weighting(Visit&& visit) {
  visit("uniform", UniformWeighting{});
  visit("uniform, every 3rd", UniformWeighting{5, 3});
  for (const double decay : {0.0, 0.75, 0.999}) {
    for (const std::int64_t every : {1, 3}) {
      const std::string name = "exponential " + std::to_string(decay) + "/" + std::to_string(every);
      visit(name, ExponentialWeighting{decay, Start::params, every});
      visit(name + ", copied", ExponentialWeighting{decay, Start::first_update, every});
      visit(name + ", debiased", ExponentialWeighting{decay, Start::zero_debiased, every});
    }
  }
  visit("exponential 1", ExponentialWeighting{1, Start::params});
  visit("polynomial", PolynomialWeighting{2.5});
  visit("power", PowerWeighting{6.94});
  visit("tf warmup", TfWarmupWeighting{0.9});
  visit("inverse gamma", InverseGammaWeighting{20, 2.0 / 3.0, 0.9});
  visit("tail", TailWeighting{7});
  std::vector<double> squares;
  for (int t = 1; t <= 200; ++t) squares.push_back(t % 7 == 0 ? 0.0 : t * t);
  visit("stream", StreamWeighting(squares));
  visit("recorded", GainSequence::recorded(std::vector<double>(200, 0.125)));
  visit("user's", Halving{});

  visit("diffusers", DiffusersWeighting{});
  visit(
      "diffusers, warm",
      DiffusersWeighting{
          .decay = 0.99, .min_decay = 0.5, .update_after = 5, .warmup = true, .inverse_gamma = 10});
  visit("timm", TimmWeighting{});
  visit("timm, warm",
        TimmWeighting{.decay = 0.9, .min_decay = 0.2, .update_after = 3, .warmup = true});
  visit("ema-pytorch", EmaPytorchWeighting{});
  visit("ema-pytorch, soon",
        EmaPytorchWeighting{.decay = 0.9, .update_after = 4, .update_every = 2});
  visit("interval", IntervalWeighting{.decay = 0.8, .interval = 3, .warmup = 4});
  visit("annealed", AnnealedWeighting{.min_gain = 0.01, .gamma = 10});
  visit("half-life", HalfLifeWeighting{.half_life = 1e4, .batch_size = 32});
  visit("half-life, rampup alone", HalfLifeWeighting{.half_life = infinity, .batch_size = 32});
  visit("cosine", CosineDecayWeighting{.base_decay = 0.9, .total_steps = 150});
  visit("gain warmup", GainWarmupWeighting{.steps = 50});
  visit("gain warmup, linear",
        GainWarmupWeighting{.steps = 50, .linear = true, .warmup_ratio = 0.3});
  visit("power gain", PowerGainWeighting{.alpha = 0.5, .min_gain = 0.02, .burn_in = 7});
}

template <class W>
void check_ages(const W& weighting, std::int64_t calls, double samples, double mean, double std) {
  CHECK(effective_samples(weighting, calls) == Approx(samples).epsilon(1e-9));
  CHECK(mean_age(weighting, calls) == Approx(mean).epsilon(1e-9).margin(1e-12));
  CHECK(age_std(weighting, calls) == Approx(std).epsilon(1e-9).margin(1e-12));
}

}  // namespace

TEST_CASE("weight() and the widths agree with the profile", "[weight_profile]") {
  for_each_weighting([](const std::string& name, const auto& weighting) {
    for (const std::int64_t calls : {8, 57, 200}) {
      INFO(name << ", " << calls << " calls");
      const auto expected = profile(weighting, calls);
      double sum = 0, squares = 0, mean = 0, square_age = 0;
      for (std::int64_t t = 0; t <= calls; ++t) {
        const double one = expected[static_cast<std::size_t>(t)];
        const auto age = static_cast<double>(calls - t);
        INFO("iterate " << t);
        CHECK(weight(weighting, t, calls) == Approx(one).epsilon(1e-12).margin(1e-300));
        sum += one;
        CHECK(cumulative_weight(weighting, t, calls) == Approx(sum).epsilon(1e-12).margin(1e-300));
        squares += one * one;
        mean += one * age;
        square_age += one * age * age;
      }
      CHECK(sum == Approx(1).epsilon(1e-12));
      CHECK(cumulative_weight(weighting, calls, calls) == 1);
      CHECK(effective_samples(weighting, calls) == Approx(1 / squares).epsilon(1e-12));
      CHECK(mean_age(weighting, calls) == Approx(mean).epsilon(1e-12).margin(1e-12));
      const double deviation = age_std(weighting, calls);
      CHECK(deviation * deviation == Approx(square_age - mean * mean).epsilon(1e-9).margin(1e-9));
    }
  });
}

TEST_CASE("moments of profiles agree with hand-computed values", "[weight_profile]") {
  check_ages(UniformWeighting{}, 1, 1, 0, 0);
  check_ages(UniformWeighting{}, 3, 3, 1, std::sqrt(2 / 3.));
  check_ages(UniformWeighting{2, 2}, 5, 2, 2, 1);  // iterates 2 and 4: ages 3 and 1
  check_ages(PolynomialWeighting{1}, 3, 36 / 14., 4 / 6., std::sqrt(5 / 9.));
  check_ages(ExponentialWeighting{0.5}, 1, 2, 0.5, 0.5);
  check_ages(ExponentialWeighting{1}, 4, 1, 4, 0);  // the initial value is as old as the run
  check_ages(ExponentialWeighting{0}, 4, 1, 0, 0);
  check_ages(ExponentialWeighting{0.5, Start::zero_debiased}, 2, 9 / 5., 1 / 3., std::sqrt(2 / 9.));
  // 1/2 and 1/2, against 1 alone.
  check_ages(Halving{}, 1, 2, 0.5, 0.5);
  check_ages(HalvingOfNothing{}, 1, 1, 0, 0);
  check_ages(HalvingOfNothing{}, 2, 9 / 5., 1 / 3., std::sqrt(2 / 9.));
}

TEST_CASE("weights, ages and widths agree with their closed forms", "[weight_profile]") {
  constexpr std::int64_t calls = 1000;
  const double n = calls;
  check_ages(UniformWeighting{}, calls, n, (n - 1) / 2, std::sqrt((n * n - 1) / 12));
  check_ages(TailWeighting{801}, calls, 200, 199 / 2., std::sqrt(39999 / 12.));
  for (const std::int64_t t : {0, 1, 500, 1000}) {
    const auto time = static_cast<double>(t);
    INFO("iterate " << t);
    CHECK(weight(UniformWeighting{}, t, calls) == Approx(t == 0 ? 0 : 1 / n));
    CHECK(weight(TailWeighting{801}, t, calls) == Approx(t < 801 ? 0 : 1 / 200.));
    CHECK(cumulative_weight(UniformWeighting{}, t, calls) == Approx(time / n));
    const double b = 0.997;
    CHECK(weight(ExponentialWeighting{b}, t, calls) ==
          Approx((t == 0 ? 1 : 1 - b) * std::pow(b, n - time)).epsilon(1e-11));
    CHECK(cumulative_weight(ExponentialWeighting{b}, t, calls) ==
          Approx(std::pow(b, n - time)).epsilon(1e-11));
    const ExponentialWeighting debiased{b, Start::zero_debiased};
    CHECK(
        weight(debiased, t, calls) ==
        Approx(t == 0 ? 0 : (1 - b) * std::pow(b, n - time) / (1 - std::pow(b, n))).epsilon(1e-11));
    for (const double gamma : {0.0, 1.0, 6.94}) {
      CHECK(cumulative_weight(PowerWeighting{gamma}, t, calls) ==
            Approx(std::pow(time / n, gamma + 1)).epsilon(1e-11).margin(0));
    }
    for (const double eta : {0.0, 1.0, 2.5, 8.0}) {
      const double expected = t == 0 ? 0
                                     : std::exp(std::lgamma(n) + std::lgamma(time + 1 + eta) -
                                                std::lgamma(time) - std::lgamma(n + 1 + eta));
      CHECK(cumulative_weight(PolynomialWeighting{eta}, t, calls) ==
            Approx(expected).epsilon(1e-10));
      CHECK(weight(PolynomialWeighting{eta}, t, calls) ==
            Approx(t == 0 ? 0 : expected * (eta + 1) / (time + eta)).epsilon(1e-10));
    }
  }
  // Weights 2t/(T(T+1)): sum of squares 2(2T+1)/(3T(T+1)), mean age (T-1)/3.
  check_ages(PolynomialWeighting{1}, calls, 3 * n * (n + 1) / (2 * (2 * n + 1)), (n - 1) / 3,
             std::sqrt((n - 1) * (n + 2) / 18));
  // q_T of an exponential average that began with its parameters.
  const double b = 0.997, kept = std::pow(b, n), fall = (1 - kept) * b / (1 - b);
  CHECK(effective_samples(ExponentialWeighting{b}, calls) ==
        Approx(1 / (kept * kept + (1 - b) / (1 + b) * (1 - kept * kept))));
  CHECK(mean_age(ExponentialWeighting{b}, calls) == Approx(fall));
}

TEST_CASE("statistics of long runs converge to the conversions of the decay", "[weight_profile]") {
  constexpr double decay = 0.9995;
  for (const Start start : {Start::params, Start::first_update, Start::zero_debiased}) {
    check_ages(ExponentialWeighting{decay, start}, 100'000, effective_samples(decay),
               mean_age(decay), age_std(decay));
  }
  check_ages(TfWarmupWeighting{decay}, 100'000, effective_samples(decay), mean_age(decay),
             age_std(decay));
  check_ages(TimmWeighting{.decay = decay, .warmup = true}, 200'000, effective_samples(decay),
             mean_age(decay), age_std(decay));
  // A power function in fine steps: mean age T/(gamma + 2), width sigma_rel T.
  const PowerWeighting power{gamma_from_sigma_rel(0.1)};
  CHECK(mean_age(power, 100'000) == Approx(1e5 / (power.gamma + 2)).epsilon(1e-4));
  CHECK(age_std(power, 100'000) == Approx(0.1 * 1e5).epsilon(1e-6));
  const double p = power.gamma + 1;
  CHECK(effective_samples(power, 100'000) == Approx(1e5 * (2 * p - 1) / (p * p)).epsilon(1e-4));
}

TEST_CASE("statistics of a million calls are accurate and allocate nothing", "[weight_profile]") {
  constexpr std::int64_t calls = 1'000'000;
  const double n = calls;
  const StreamWeighting list(std::vector<double>(1000, 1));
  const allocations::Counter counter;
  const double samples = effective_samples(UniformWeighting{}, calls);
  const double age = mean_age(UniformWeighting{}, calls);
  const double deviation = age_std(UniformWeighting{}, calls);
  const double first = weight(UniformWeighting{}, 1, calls);
  const double of_list = effective_samples(list, 1000);
  const auto allocated = counter.counts().number;
  CHECK(allocated == 0);
  CHECK(of_list == Approx(1000));
  CHECK(samples == Approx(n).epsilon(1e-9));
  CHECK(age == Approx((n - 1) / 2).epsilon(1e-9));
  CHECK(deviation == Approx(std::sqrt((n * n - 1) / 12)).epsilon(1e-9));
  CHECK(first == Approx(1 / n).epsilon(1e-9));
  const ExponentialWeighting slow{0.999999, Start::zero_debiased};
  CHECK(cumulative_weight(slow, calls / 2, calls) ==
        Approx(std::expm1(n / 2 * std::log(slow.decay)) / std::expm1(n * std::log(slow.decay)) *
               std::pow(slow.decay, n / 2))
            .epsilon(1e-9));
}

TEST_CASE("a gain of 1 removes all earlier weights exactly", "[weight_profile]") {
  CHECK(weight(TailWeighting{7}, 6, 10) == 0);
  CHECK(cumulative_weight(TailWeighting{7}, 6, 10) == 0);
  CHECK(weight(TailWeighting{7}, 7, 10) == 0.25);
  CHECK(weight(SloppyCopy{}, 4, 9) == 0);
  CHECK(weight(SloppyCopy{}, 0, 9) == 0);
  CHECK(cumulative_weight(SloppyCopy{}, 4, 5) == 0);
  CHECK(cumulative_weight(SloppyCopy{}, 5, 5) == 1);
  check_ages(SloppyCopy{}, 5, 1, 0, 0);
}

TEST_CASE("statistics start the clock of a weighting that has one", "[weight_profile]") {
  const PowerClock clock{6.94, 64, 1};
  const PowerWeighting steps{6.94};
  for (const std::int64_t t : {0, 1, 40, 100}) {
    CHECK(weight(clock, t, 100) == Approx(weight(steps, t, 100)).epsilon(1e-12));
    CHECK(cumulative_weight(clock, t, 100) == Approx(cumulative_weight(steps, t, 100)).margin(0));
  }
  check_ages(clock, 100, effective_samples(steps, 100), mean_age(steps, 100), age_std(steps, 100));
  CHECK(clock.time == 0);
  const PowerClock seldom{6.94, 64, 10};
  CHECK(weight(seldom, 95, 100) == 0);
  CHECK(cumulative_weight(seldom, 90, 100) == Approx(std::pow(0.9, 7.94)).epsilon(1e-12));
}

TEST_CASE("statistics refuse iterates and calls out of range", "[weight_profile]") {
  const UniformWeighting uniform;
  CHECK(refuses([&] { (void)weight(uniform, -1, 3); }, {"iterate must lie in [0, 3]", "got -1"}));
  CHECK(refuses([&] { (void)weight(uniform, 4, 3); }, {"iterate must lie in [0, 3]", "got 4"}));
  CHECK(refuses([&] { (void)cumulative_weight(uniform, -1, 3); }, {"[0, 3]", "got -1"}));
  CHECK(refuses([&] { (void)cumulative_weight(uniform, 4, 3); }, {"[0, 3]", "got 4"}));
  for (const std::int64_t calls : {0, -5}) {
    const std::string got = "got " + std::to_string(calls);
    CHECK(refuses([&] { (void)weight(uniform, 0, calls); }, {"calls must be >= 1", got}));
    CHECK(
        refuses([&] { (void)cumulative_weight(uniform, 0, calls); }, {"calls must be >= 1", got}));
    CHECK(refuses([&] { (void)effective_samples(uniform, calls); }, {"calls must be >= 1", got}));
    CHECK(refuses([&] { (void)mean_age(uniform, calls); }, {"calls must be >= 1", got}));
    CHECK(refuses([&] { (void)age_std(uniform, calls); }, {"calls must be >= 1", got}));
  }
}

TEST_CASE("statistics refuse an average before its first update", "[weight_profile]") {
  const auto refused = [](const auto& weighting, std::int64_t calls) {
    return refuses([&] { (void)effective_samples(weighting, calls); }, {"before the first update"});
  };
  CHECK(refused(UniformWeighting{5, 1}, 4));
  CHECK(effective_samples(UniformWeighting{5, 1}, 5) == 1);
  CHECK(refused(ExponentialWeighting{0.9, Start::first_update, 10}, 9));
  CHECK(refused(ExponentialWeighting{0.9, Start::zero_debiased, 10}, 9));
  CHECK(mean_age(ExponentialWeighting{0.9, Start::zero_debiased, 10}, 10) == 0);
  // If the parameters at construction count, they have all the weight.
  CHECK(effective_samples(ExponentialWeighting{0.9, Start::params, 10}, 9) == 1);
  CHECK(mean_age(ExponentialWeighting{0.9, Start::params, 10}, 9) == 9);
  CHECK(refused(IntervalWeighting{.warmup = 4}, 4));
}

}  // namespace weight_profile_test
