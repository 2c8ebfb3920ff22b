// SPDX-License-Identifier: Apache-2.0
// polyak/average/sample_ema.hpp and polyak/average/schedules/repeated_weighting.hpp
#include <polyak/average/analysis/weight_statistics.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/repeated_weighting.hpp>

#include <cmath>
#include <cstdint>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace sample_ema_test {

using namespace polyak;

TEST_CASE("SampleEma halves a weight within its half-life in samples, for any batch sizes") {
  double weight = 1;
  Parameters<double> params;
  params.add("w", &weight, {});
  SampleEma<double> ema(params, {.half_life = 100});
  weight = 0;
  for (const double batch : {10.0, 50.0, 40.0}) ema.at(batch).update(params);
  CHECK(ema.samples() == 100);
  CHECK(ema.view()[0][0] == Approx(0.5).epsilon(1e-14));
  for (const double batch : {64.0, 36.0}) ema.at(batch).update(params);
  CHECK(ema.view()[0][0] == Approx(0.25).epsilon(1e-14));

  Ema<double> steps(params, {.decay = decay_from_half_life(4)});
  SampleEma<double> samples(params, {.half_life = 128, .batch_size = 32});
  weight = 3;
  for (int t = 0; t < 9; ++t) update(params, steps, samples);
  CHECK(samples.view()[0][0] == Approx(steps.view()[0][0]).epsilon(1e-14));
}

TEST_CASE("the rampup of SampleEma equals that of HalfLifeWeighting, and infinity disables it") {
  const HalfLifeWeighting fixed{.half_life = 1000, .rampup = 0.09, .batch_size = 16};
  SampleClock clock{1000, 0.09, 16, 0};
  for (std::int64_t t = 1; t < 2000; ++t) {
    CHECK(clock.gain(t) == fixed.gain(t));
    CHECK(clock.complement(t) == fixed.complement(t));
    clock.advance(t);
  }
}

TEST_CASE("profile() advances the clock of the weighting") {
  const SampleClock clock{300, 0.09, 16, 0};
  const auto weights = profile(clock, 40);
  for (std::int64_t t = 0; t <= 40; ++t) {
    CHECK(weights[static_cast<std::size_t>(t)] == Approx(weight(clock, t, 40)).epsilon(1e-12));
  }
  float x = 1;
  Parameters one;
  one.add("x", &x, {});
  SampleEma<float, Eigen::bfloat16> sixteen(
      one, {.half_life = 1e6, .batch_size = 65536, .accumulate = Accumulate::stochastic});
  CHECK(refuses([&] { sixteen.at(1); }, {"bfloat16", "stochastic"}));
  CHECK_NOTHROW(sixteen.at(4096).update(one));
}

TEST_CASE("SampleEma refuses options out of range") {
  Parameters params;
  using O = SampleEmaOptions;
  const auto make = [&](const O& o) { return SampleEma<float>(params, o); };
  check_refused(make, O{}, &O::half_life, "SampleEmaOptions.half_life must be > 0",
                {0, -1, nan_value});
  check_refused(make, O{}, &O::rampup, "SampleEmaOptions.rampup must be > 0", {0, nan_value});
  check_refused(make, O{}, &O::batch_size, "SampleEmaOptions.batch_size must be finite and > 0",
                {0, -1, nan_value, infinity});
  auto ema = make({});
  CHECK(refuses([&] { ema.at(0); }, {"batch_size", "0"}));
}

TEST_CASE("one call of RepeatedWeighting equals `repeats` calls with the same weights") {
  const auto check = [](const auto& weighting, std::int64_t repeats) {
    using W = std::remove_cvref_t<decltype(weighting)>;
    const RepeatedWeighting<W> repeated{weighting, repeats};
    double fine = 0.7, coarse = 0.7;
    RandomNumbers numbers(4);
    for (std::int64_t t = 1; t <= 40; ++t) {
      const double x = numbers();
      for (std::int64_t s = (t - 1) * repeats + 1; s <= t * repeats; ++s) {
        fine = weighting.gain(s) == 1 ? x : fine + weighting.gain(s) * (x - fine);
      }
      const double gain = repeated.gain(t);
      coarse = gain == 1 ? x : coarse + gain * (x - coarse);
      CHECK(coarse == Approx(fine).margin(1e-13));
      CHECK(repeated.complement(t) == Approx(1 - gain).margin(1e-13));
    }
  };
  check(DiffusersWeighting{}, 4);
  check(DiffusersWeighting{.update_after = 6, .warmup = true}, 8);
  check(AnnealedWeighting{}, 3);
  check(ExponentialWeighting{0.97, Start::params, 1}, 16);
  CHECK(RepeatedWeighting<ExponentialWeighting>{{0.97, Start::params, 1}, 4}.complement(5) ==
        Approx(scale_decay(0.97, 4)).epsilon(1e-14));
  // Repeating once changes nothing, in every function of profiles.
  const RepeatedWeighting<TfWarmupWeighting> once{{0.9}, 1};
  CHECK(effective_samples(once, 7) == effective_samples(TfWarmupWeighting{0.9}, 7));
  CHECK(mean_age(once, 7) == mean_age(TfWarmupWeighting{0.9}, 7));
  CHECK(profile(once, 7) == profile(TfWarmupWeighting{0.9}, 7));
  Parameters params;
  const auto make = [&](std::int64_t repeats) {
    return [&, repeats] { Average(params, RepeatedWeighting<AnnealedWeighting>{{}, repeats}); };
  };
  CHECK(refuses(make(0), {"repeats", "0"}));
  CHECK(refuses(make(2'000'000), {"repeats"}));
  CHECK_NOTHROW(make(2)());
  CHECK(refuses(
      [&] {
        Average(params, RepeatedWeighting<AnnealedWeighting>{{.gamma = 0}, 2});
      },
      {"gamma"}));
}

}  // namespace sample_ema_test
