// SPDX-License-Identifier: Apache-2.0
// The battery over every average.
#include <vector>

#include <Eigen/Core>
#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace {

using method_battery::entry;

template <class P, class S>
std::vector<method_battery::Entry<P>> methods() {
  using namespace polyak;
  return {
      entry<Average<P, PolynomialWeighting, S>>("Average", PolynomialWeighting{3}),
      entry<Swa<P, S>>("Swa", SwaOptions{}),
      entry<Swa<P, S>>("Swa later", SwaOptions{.start = 3, .period = 2}),
      entry<Ema<P, S>>("Ema from the parameters", EmaOptions{.decay = 0.75}),
      entry<Ema<P, S>>("Ema from the first update",
                       EmaOptions{.decay = 0.75, .start = Start::first_update}),
      entry<Ema<P, S>>("Ema debiased", EmaOptions{.decay = 0.75, .start = Start::zero_debiased}),
      entry<Ema<P, S>>("Ema of every other call", EmaOptions{.decay = 0.75, .update_every = 2}),
      entry<PowerEma<P, S>>("PowerEma of gamma", PowerEmaOptions{.gamma = 3}),
      entry<PowerEma<P, S>>("PowerEma of sigma_rel",
                            PowerEmaOptions{.sigma_rel = 0.1, .batch_size = 32, .update_every = 3}),
      entry<SwitchEma<P, S>>("SwitchEma of iterations",
                             SwitchEmaOptions{.decay = 0.75,
                                              .unit = SwitchUnit::iterations,
                                              .interval = 3,
                                              .start = 1,
                                              .warmup = SwitchWarmup::linear,
                                              .warmup_iterations = 4}),
      entry<SwitchEma<P, S>>("SwitchEma of epochs", SwitchEmaOptions{.decay = 0.75}),
      entry<HareTortoise<P, S>>("HareTortoise",
                                HareTortoiseOptions{.decay = 0.75, .switch_every = 2}),
      entry<HareTortoise<P, S>>("HareTortoise blending", HareTortoiseOptions{.decay = 0.75,
                                                                             .switch_every = 4,
                                                                             .blend = 0.25,
                                                                             .update_after = 2,
                                                                             .update_every = 2}),
      entry<HareTortoise<P, S>>(
          "HareTortoise switching between updates",
          HareTortoiseOptions{.decay = 0.75, .switch_every = 2, .update_every = 3}),
      entry<HareTortoise<P, S>>(
          "HareTortoise blending between updates",
          HareTortoiseOptions{.decay = 0.75, .switch_every = 3, .blend = 0.5, .update_every = 2}),
  };
}

}  // namespace

TEMPLATE_TEST_CASE("battery of averages: parameters and state of one type", "", float, double) {
  method_battery::check(methods<TestType, TestType>());
}

// Laws meet half in the battery of laws; here types only have to be of 16 bits.
TEST_CASE("battery of averages: 16-bit parameters") {
  method_battery::check(methods<Eigen::bfloat16, float>());
}

TEMPLATE_TEST_CASE("battery of averages: state of double", "", float, Eigen::bfloat16) {
  method_battery::check(methods<TestType, double>());
}

namespace {

/// Averages that are kept in other ways than rounded to nearest.
template <class P, class S>
std::vector<method_battery::Entry<P>> kept(polyak::Accumulate accumulate) {
  using namespace polyak;
  return {entry<Ema<P, S>>(
              "Ema", EmaOptions{.decay = 0.75, .accumulate = accumulate, .seed = 0x123456789}),
          entry<Ema<P, S>>("Ema from the first update of every other call",
                           EmaOptions{.decay = 0.75,
                                      .start = Start::first_update,
                                      .update_every = 2,
                                      .accumulate = accumulate}),
          entry<HareTortoise<P, S>>("HareTortoise", HareTortoiseOptions{.decay = 0.75,
                                                                        .switch_every = 3,
                                                                        .blend = 0.5,
                                                                        .update_every = 2,
                                                                        .accumulate = accumulate})};
}

}  // namespace

TEST_CASE("battery of averages: float with compensation and in double") {
  method_battery::check(kept<float, float>(polyak::Accumulate::kahan));
  method_battery::check(kept<float, float>(polyak::Accumulate::float64));
}

TEST_CASE("battery of averages: 16-bit state") {
  method_battery::check(kept<Eigen::bfloat16, Eigen::bfloat16>(polyak::Accumulate::kahan));
  method_battery::check(kept<float, Eigen::half>(polyak::Accumulate::stochastic), false, true);
}
