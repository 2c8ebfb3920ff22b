// SPDX-License-Identifier: Apache-2.0
// The battery over Sgd, AdamW, Adam, Lion and AdEMAMix.
#include <vector>

#include <Eigen/Core>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace {

using method_battery::entry;

template <class P, class S>
std::vector<method_battery::Entry<P>> methods() {
  using namespace polyak;
  return {
      entry<Sgd<P, S>>("Sgd plain", SgdOptions{.learning_rate = 0.1}),
      entry<Sgd<P, S>>("Sgd coupled",
                       SgdOptions{.learning_rate = 0.1, .coupled_weight_decay = 0.1}),
      entry<Sgd<P, S>>(
          "Sgd momentum",
          SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1}),
      entry<Sgd<P, S>>("Sgd Nesterov",
                       SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}),
      entry<AdamW<P, S>>("AdamW", AdamWOptions{.learning_rate = 0.1}),
      entry<AdamW<P, S>>("AdamW coupled", AdamWOptions{.learning_rate = 0.1,
                                                       .coupled_weight_decay = 0.1,
                                                       .bias_correction = false,
                                                       .epsilon_before_correction = true}),
      entry<AdamW<P, S>>("AdamW amsgrad",
                         AdamWOptions{.learning_rate = 0.1, .beta2 = 0.5, .amsgrad = true}),
      entry<AdamW<P, S>>("AdamW beta1 = 0", AdamWOptions{.learning_rate = 0.1, .beta1 = 0}),
      entry<AdamW<P, S>>("AdamW beta1 = 0, amsgrad, epsilon = 0",
                         AdamWOptions{.learning_rate = 0.1,
                                      .beta1 = 0,
                                      .beta2 = 0.5,
                                      .epsilon = 0,
                                      .amsgrad = true,
                                      .allow_zero_epsilon = true}),
      entry<Adam<P, S>>("Adam", AdamOptions{.learning_rate = 0.1}),
      entry<Lion<P, S>>("Lion", LionOptions{.learning_rate = 0.01, .weight_decay = 0.1}),
      entry<AdEMAMix<P, S>>("AdEMAMix", AdEMAMixOptions{.learning_rate = 0.1, .weight_decay = 0.1}),
      entry<AdEMAMix<P, S>>(
          "AdEMAMix with schedules",
          AdEMAMixOptions{.learning_rate = 0.1, .alpha_warmup = 5, .beta3_warmup = 7}),
      entry<AdEMAMix<P, S>>("AdEMAMix beta1 = 0",
                            AdEMAMixOptions{.learning_rate = 0.1, .beta1 = 0, .beta3_warmup = 4}),
      entry<AdEMAMix<P, S>>(
          "AdEMAMix epsilon = 0",
          AdEMAMixOptions{.learning_rate = 0.1, .epsilon = 0, .allow_zero_epsilon = true}),
      entry<AdEMAMix<P, S>>(
          "AdEMAMix beta1 = 0, epsilon = 0",
          AdEMAMixOptions{
              .learning_rate = 0.1, .beta1 = 0, .epsilon = 0, .allow_zero_epsilon = true}),
  };
}

}  // namespace

TEMPLATE_TEST_CASE("battery of optimizers: parameters and state of one type", "", float, double) {
  method_battery::check(methods<TestType, TestType>());
}

TEST_CASE("battery of optimizers: 16-bit parameters") {
  method_battery::check(methods<Eigen::half, float>());
}

TEST_CASE("battery of optimizers: state wider than parameters") {
  method_battery::check(methods<float, double>());
}
