// SPDX-License-Identifier: Apache-2.0
// Every optimizer with one to three averages: one call equals one for each, to the last bit.
#include <string>
#include <tuple>

#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/fused.hpp"

namespace {

using fused::check;

/// One optimizer before, between and after one to three averages.
template <class P, class O, class Options>
void check_positions(const std::string& name, const Options& options) {
  using Average = fused::Scripted<P>;
  using List = polyak::Parameters<P>;
  check<P>(name + ", average",
           [&](const List& params) { return std::tuple(O(params, options), Average(params, 0)); });
  check<P>("average, " + name,
           [&](const List& params) { return std::tuple(Average(params, 1), O(params, options)); });
  check<P>("average, " + name + ", average", [&](const List& params) {
    return std::tuple(Average(params, 3), O(params, options), Average(params, 0));
  });
  check<P>(name + ", 3 averages", [&](const List& params) {
    return std::tuple(O(params, options), Average(params, 0), Average(params, 1),
                      Average(params, 3));
  });
}

}  // namespace

TEST_CASE("fused equals separate: Sgd") {
  using Sgd = polyak::Sgd<float>;
  using polyak::SgdOptions;
  check_positions<float, Sgd>("Sgd momentum", SgdOptions{.learning_rate = 0.1, .momentum = 0.9});
  check_positions<float, Sgd>("Sgd Nesterov",
                              SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .nesterov = true});
  check_positions<float, Sgd>("Sgd plain", SgdOptions{.learning_rate = 0.1, .weight_decay = 0.1});
}

TEST_CASE("fused equals separate: AdamW") {
  using AdamW = polyak::AdamW<float>;
  using polyak::AdamWOptions;
  check_positions<float, AdamW>("AdamW", AdamWOptions{.learning_rate = 0.1});
  check_positions<float, AdamW>("AdamW amsgrad",
                                AdamWOptions{.learning_rate = 0.1, .beta2 = 0.5, .amsgrad = true});
  check_positions<float, AdamW>("AdamW beta1 = 0", AdamWOptions{.learning_rate = 0.1, .beta1 = 0});
}

TEST_CASE("fused equals separate: AdEMAMix") {
  using AdEMAMix = polyak::AdEMAMix<float>;
  using polyak::AdEMAMixOptions;
  check_positions<float, AdEMAMix>(
      "AdEMAMix", AdEMAMixOptions{.learning_rate = 0.1, .alpha_warmup = 5, .beta3_warmup = 7});
  check_positions<float, AdEMAMix>("AdEMAMix beta1 = 0",
                                   AdEMAMixOptions{.learning_rate = 0.1, .beta1 = 0});
}

TEST_CASE("fused equals separate: ScheduleFreeSgd") {
  check_positions<float, polyak::ScheduleFreeSgd<float>>(
      "ScheduleFreeSgd", polyak::ScheduleFreeSgdOptions{.learning_rate = 0.5, .warmup_steps = 3});
}

TEST_CASE("fused equals separate: ScheduleFreeAdamW") {
  using AdamW = polyak::ScheduleFreeAdamW<float>;
  using polyak::ScheduleFreeAdamWOptions;
  check_positions<float, AdamW>("ScheduleFreeAdamW",
                                ScheduleFreeAdamWOptions{.learning_rate = 0.1});
  check_positions<float, AdamW>(
      "ScheduleFreeAdamW momentum",
      ScheduleFreeAdamWOptions{
          .learning_rate = 0.1, .inner_momentum = 0.7, .weight_decay = 0.1, .decay_at_z = true});
}
