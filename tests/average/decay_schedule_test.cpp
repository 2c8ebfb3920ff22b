// SPDX-License-Identifier: Apache-2.0
// polyak/average/schedules/decay_schedule.hpp: common properties of the schedules, and cases in
// which they equal others.
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/decay_schedule.hpp>
#include <polyak/average/schedules/weighting.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "catch.hpp"
#include "refuses.hpp"

namespace decay_schedule_test {

using namespace polyak;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Visit>
void for_each_schedule(Visit&& visit) {
  visit("diffusers", DiffusersWeighting{});
  visit("diffusers, warm", DiffusersWeighting{.warmup = true});
  visit("diffusers, bounded", DiffusersWeighting{.decay = 0.99,
                                                 .min_decay = 0.5,
                                                 .update_after = 5,
                                                 .warmup = true,
                                                 .inverse_gamma = 10,
                                                 .power = 0.75});
  visit("timm", TimmWeighting{});
  visit("timm, warm",
        TimmWeighting{.decay = 0.9, .min_decay = 0.2, .update_after = 3, .warmup = true});
  visit("ema-pytorch", EmaPytorchWeighting{});
  visit("ema-pytorch, soon",
        EmaPytorchWeighting{.decay = 0.9, .update_after = 4, .update_every = 2});
  visit("ema-pytorch, decay 1",
        EmaPytorchWeighting{.decay = 1, .update_after = 4, .update_every = 1});
  visit("interval", IntervalWeighting{.decay = 0.8, .interval = 3, .warmup = 4});
  visit("annealed", AnnealedWeighting{});
  visit("annealed, soon", AnnealedWeighting{.min_gain = 0.01, .gamma = 10});
  visit("half-life", HalfLifeWeighting{.half_life = 1e4, .batch_size = 32});
  visit("half-life, rampup alone", HalfLifeWeighting{.half_life = infinity, .batch_size = 32});
  visit("half-life, no rampup",
        HalfLifeWeighting{.half_life = 1e3, .rampup = infinity, .batch_size = 32});
  visit("cosine", CosineDecayWeighting{.base_decay = 0.9, .total_steps = 150});
  visit("gain warmup", GainWarmupWeighting{.steps = 50});
  visit("gain warmup, linear",
        GainWarmupWeighting{.steps = 50, .linear = true, .warmup_ratio = 0.3});
  visit("power gain", PowerGainWeighting{});
  visit("power gain, bounded", PowerGainWeighting{.alpha = 0.5, .min_gain = 0.2, .burn_in = 7});
}

}  // namespace

TEST_CASE("gain and complement of decay schedules sum to 1") {
  for_each_schedule([](const std::string& name, const auto& w) {
    for (std::int64_t t = 1; t <= 300; ++t) {
      INFO(name << ", call " << t);
      CHECK(w.gain(t) >= 0);
      CHECK(w.gain(t) <= 1);
      CHECK(w.gain(t) + w.complement(t) == Approx(1).epsilon(1e-15).margin(1e-15));
    }
    double sum = 0;
    for (const double weight : profile(w, 300)) sum += weight;
    INFO(name);
    CHECK(sum == Approx(1).epsilon(1e-12));
    if constexpr (requires { w.least_gain(); }) {
      for (std::int64_t t = 1; t <= 300; ++t) {
        CHECK((w.gain(t) == 0 || w.gain(t) >= w.least_gain() * (1 - 1e-12)));
      }
    }
  });
}

TEST_CASE("the decay of a warmup never falls") {
  const auto check = [](const auto& w) {
    for (std::int64_t t = 2; t <= 2000; ++t) CHECK(w.gain(t) <= w.gain(t - 1));
  };
  check(DiffusersWeighting{});
  check(DiffusersWeighting{.warmup = true});
  check(TimmWeighting{.warmup = true});
  check(AnnealedWeighting{});
  check(HalfLifeWeighting{.half_life = 1e3});
  check(CosineDecayWeighting{.total_steps = 1500});
  check(GainWarmupWeighting{});
  check(PowerGainWeighting{.min_gain = 0.01});
}

TEST_CASE("special cases of decay schedules are the simpler averages") {
  const DiffusersWeighting uniform{.decay = 1, .warmup = true, .inverse_gamma = 1, .power = 1};
  const PowerGainWeighting harmonic{.alpha = 1};
  const AnnealedWeighting annealed{.min_gain = 1e-12, .gamma = 1};
  const DiffusersWeighting tf;  // its first iterate corresponds to the initial value of eta = 8
  for (std::int64_t t = 1; t <= 200; ++t) {
    INFO("call " << t);
    const double expected = UniformWeighting{}.gain(t);
    CHECK(uniform.gain(t) == Approx(expected).epsilon(1e-14));
    CHECK(harmonic.gain(t) == Approx(expected).epsilon(1e-14));
    CHECK(annealed.gain(t) == Approx(expected).epsilon(1e-14));
    if (t >= 2) CHECK(tf.gain(t) == Approx(PolynomialWeighting{8}.gain(t + 1)).epsilon(1e-14));
  }
  CHECK(TimmWeighting{.decay = 0.9}.gain(2) == 1 - 0.9);
  CHECK(HalfLifeWeighting{.half_life = 64, .rampup = infinity, .batch_size = 64}.gain(1) == 0.5);
  CHECK(CosineDecayWeighting{.base_decay = 0.99, .total_steps = 10}.gain(1) ==
        Approx(0.01).epsilon(1e-14));
  CHECK(CosineDecayWeighting{.total_steps = 10}.gain(11) == 0);
}

TEST_CASE("an annealed gain falls to its minimum and stays there") {
  const AnnealedWeighting annealed{.min_gain = 0.01, .gamma = 10};
  CHECK(annealed.gain(1) == 1);
  CHECK(annealed.gain(991) == Approx(10 / 1000.0).epsilon(1e-15));
  CHECK(annealed.gain(992) == 0.01);
  CHECK(annealed.gain(1'000'000) == 0.01);
  CHECK(annealed.complement(1'000'000) == 0.99);
}

TEST_CASE("an average follows a schedule, and refuses a wrong one") {
  std::vector<double> weights{8};
  Parameters<double> params;
  params.add("w", weights);
  Average average(params, DiffusersWeighting{.decay = 0.5, .update_after = 1});
  const std::vector<double> iterates{1, 2, 4};
  double expected = 8;
  for (const double x : iterates) {
    weights[0] = x;
    average.update(params);
    const double gain = average.calls() <= 2 ? 1 : 0.9 - 0.9 + 9.0 / 11;
    expected += std::fmax(gain, 0.5) * (x - expected);
    CHECK(average.view()["w"][0] == Approx(expected).epsilon(1e-15));
  }
  const auto made = [&](const auto& w) { return [&params, w] { const Average wrong(params, w); }; };
  CHECK(refuses(made(DiffusersWeighting{.decay = 1.5}), {"DiffusersWeighting.decay", "1.5"}));
  CHECK(refuses(made(DiffusersWeighting{.decay = not_a_number}), {"DiffusersWeighting.decay"}));
  CHECK(refuses(made(DiffusersWeighting{.decay = 0.5, .min_decay = 0.6}), {"min_decay", "0.6"}));
  CHECK(refuses(made(DiffusersWeighting{.update_after = -1}), {"update_after", "-1"}));
  CHECK(refuses(made(DiffusersWeighting{.inverse_gamma = 0}), {"inverse_gamma"}));
  CHECK(refuses(made(DiffusersWeighting{.power = -1}), {"power", "-1"}));
  CHECK(refuses(made(TimmWeighting{.decay = -0.1}), {"TimmWeighting.decay"}));
  CHECK(refuses(made(TimmWeighting{.min_decay = not_a_number}), {"TimmWeighting.min_decay"}));
  CHECK(refuses(made(EmaPytorchWeighting{.update_every = 0}), {"update_every", "0"}));
  CHECK(refuses(made(EmaPytorchWeighting{.power = infinity}), {"EmaPytorchWeighting.power"}));
  CHECK(refuses(made(IntervalWeighting{.decay = 2}), {"IntervalWeighting.decay"}));
  CHECK(refuses(made(IntervalWeighting{.interval = 0}), {"interval"}));
  CHECK(refuses(made(IntervalWeighting{.warmup = -1}), {"warmup"}));
  CHECK(refuses(made(AnnealedWeighting{.min_gain = 0}), {"min_gain"}));
  CHECK(refuses(made(AnnealedWeighting{.gamma = not_a_number}), {"gamma"}));
  CHECK(refuses(made(HalfLifeWeighting{.half_life = 0}), {"half_life"}));
  CHECK(refuses(made(HalfLifeWeighting{.rampup = not_a_number}), {"rampup"}));
  CHECK(refuses(made(HalfLifeWeighting{.batch_size = infinity}), {"batch_size"}));
  CHECK(refuses(made(CosineDecayWeighting{.base_decay = 1.01}), {"base_decay"}));
  CHECK(refuses(made(CosineDecayWeighting{.total_steps = 0}), {"total_steps"}));
  CHECK(refuses(made(GainWarmupWeighting{.gain_at_end = 0}), {"gain_at_end"}));
  CHECK(refuses(made(GainWarmupWeighting{.steps = 0}), {"steps"}));
  CHECK(refuses(made(GainWarmupWeighting{.warmup_ratio = 2}), {"warmup_ratio"}));
  CHECK(refuses(made(PowerGainWeighting{.alpha = 0}), {"alpha"}));
  CHECK(refuses(made(PowerGainWeighting{.min_gain = -1}), {"min_gain"}));
  CHECK(refuses(made(PowerGainWeighting{.burn_in = -1}), {"burn_in"}));
}

TEST_CASE("decays scale with the batch by their power") {
  CHECK(scale_decay(0.97, 4) == Approx(std::pow(0.97, 4)).epsilon(1e-15));
  CHECK(complement_of_scaled_decay(0.9999999, 0.5) == Approx(5.0000001250000e-08).epsilon(1e-9));
  CHECK(half_life(scale_decay(0.99, 8)) == Approx(half_life(0.99) / 8).epsilon(1e-13));
  CHECK(refuses([] { static_cast<void>(scale_decay(0.9, 0)); }, {"kappa", "0"}));
  CHECK(refuses([] { static_cast<void>(scale_decay(1.1, 2)); }, {"decay", "1.1"}));
}

}  // namespace decay_schedule_test
