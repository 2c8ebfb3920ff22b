// SPDX-License-Identifier: Apache-2.0
// Other types and other lists of methods: one call equals one for each.
#include <tuple>

#include <Eigen/Core>
#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/fused.hpp"

namespace fused_types_test {

using fused::check;
using fused::Scripted;

TEST_CASE("fused equals separate: averages that feed back among others") {
  using namespace polyak;
  check<float>(
      "Ema, AdamW, HareTortoise, SwitchEma, PowerEma", [](const Parameters<float>& params) {
        return std::tuple(
            Ema(params, EmaOptions{.decay = 0.75}), AdamW(params, {.learning_rate = 0.1}),
            HareTortoise(params, HareTortoiseOptions{.switch_every = 5}),
            SwitchEma(params, SwitchEmaOptions{.unit = SwitchUnit::iterations, .interval = 4}),
            PowerEma(params, {.gamma = 3}));
      });
}

TEST_CASE("fused equals separate: averages alone") {
  using namespace polyak;
  check<float>("3 averages", [](const Parameters<float>& params) {
    return std::tuple(Scripted<float>(params, 0), Scripted<float>(params, 2),
                      Scripted<float>(params, 3));
  });
}

TEST_CASE("fused equals separate: two optimizers") {
  using namespace polyak;
  check<float>("Sgd, AdamW, average", [](const Parameters<float>& params) {
    const Selection first = named("tensor 0", "tensor 3");
    return std::tuple(Sgd(params, {.learning_rate = 0.1, .momentum = 0.9}, first),
                      AdamW(params, {.learning_rate = 0.1}, !first), Scripted<float>(params, 1));
  });
}

TEST_CASE("fused equals separate: double") {
  using namespace polyak;
  check<double>("AdamW, 2 averages", [](const Parameters<double>& params) {
    return std::tuple(AdamW(params, {.learning_rate = 0.1}), Scripted<double>(params, 0),
                      Scripted<double>(params, 3));
  });
}

TEMPLATE_TEST_CASE("fused equals separate: averages of double with an optimizer of float", "",
                   float, Eigen::bfloat16) {
  using namespace polyak;
  // The optimizer's result is rounded to the parameters' type before an average reads it.
  check<TestType>("AdamW, 2 averages", [](const Parameters<TestType>& params) {
    return std::tuple(AdamW(params, {.learning_rate = 0.1}), Scripted<TestType, double>(params, 0),
                      Scripted<TestType>(params, 3));
  });
}

TEST_CASE("fused equals separate: averages of double around an optimizer of float") {
  using namespace polyak;
  check<Eigen::bfloat16>("average, AdamW, average", [](const Parameters<Eigen::bfloat16>& params) {
    return std::tuple(Scripted<Eigen::bfloat16, double>(params, 5),
                      AdamW(params, {.learning_rate = 0.1}),
                      Scripted<Eigen::bfloat16, double>(params, 2));
  });
}

}  // namespace fused_types_test
