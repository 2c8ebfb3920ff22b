// SPDX-License-Identifier: Apache-2.0
#include <polyak/optim/lion.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <polyak/core/number.hpp>
#include <polyak/core/state.hpp>

#include "one_tensor.hpp"
#include "refusal_battery.hpp"

namespace lion_test {

using polyak::LionOptions;

namespace {

/// x after each step with the gradients given, and the momentum at the end.
struct Run {
  std::vector<double> path;
  double momentum;
};
Run run(const LionOptions& options, double start, const std::vector<double>& gradients) {
  OneTensor<> model({start});
  polyak::Lion<double> optimizer(model.params, options);
  Run result{};
  for (const double gradient : gradients) {
    model.gradient[0] = gradient;
    optimizer.step(model.params, model.grads);
    result.path.push_back(model.x[0]);
  }
  result.momentum = optimizer.slot("exp_avg")["x"](0);
  return result;
}

}  // namespace

TEST_CASE("Lion makes hand-computed steps", "[lion]") {
  // u = 4, then 0.5 * 1 - 0.5 * 2 = -0.5, then 0.5 * 0.25 + 0.5 * 1 = 0.625;
  // m = 0.25 * 4 = 1, then 0.75 - 0.5 = 0.25, then 0.1875 + 0.25 = 0.4375
  const LionOptions options{.learning_rate = 0.5, .beta1 = 0.5, .beta2 = 0.75};
  const Run plain = run(options, 1, {4, -2, 1});
  CHECK(plain.path == std::vector<double>{0.5, 1, 0.5});
  CHECK(plain.momentum == 0.4375);
  // The decay takes a quarter of x before each step.
  LionOptions decayed = options;
  decayed.weight_decay = 0.5;
  CHECK(run(decayed, 4, {4, -2, 1}).path == std::vector<double>{2.5, 2.375, 1.28125});
}

TEST_CASE("Lion changes direction by beta1 before its momentum does", "[lion]") {
  // m = 1 after many ones. Then u = 0.5 - 0.5 * 1.5 < 0, and m = 0.875 - 0.1875 > 0.
  const LionOptions options{.learning_rate = 1, .beta1 = 0.5, .beta2 = 0.875};
  std::vector<double> gradients(400, 1);
  const double before = run(options, 0, gradients).path.back();
  CHECK(before == -400);
  gradients.push_back(-1.5);
  const Run turned = run(options, 0, gradients);
  CHECK(turned.path.back() == -399);
  CHECK(turned.momentum == Approx(0.6875));
}

TEST_CASE("each element of a Lion step is the learning rate or 0", "[lion]") {
  OneTensor<> model(std::vector<double>(64, 0));
  polyak::Lion<double> optimizer(model.params, {.learning_rate = 0.25});
  RandomNumbers random(1);
  std::vector<double> momentum(64, 0);
  for (int t = 0; t < 50; ++t) {
    random.fill(model.gradient);
    const auto before = model.x;
    optimizer.step(model.params, model.grads);
    for (std::size_t k = 0; k < before.size(); ++k) {
      const double u = 0.9 * momentum[k] + (1 - 0.9) * model.gradient[k];
      CHECK(model.x[k] == before[k] - (u > 0 ? 0.25 : -0.25));
      momentum[k] = 0.99 * momentum[k] + (1 - 0.99) * model.gradient[k];
    }
  }
}

TEST_CASE("Lion does not depend on the scale of its gradients", "[lion]") {
  OneTensor<> model(RandomNumbers(2).many(33)), scaled(model.x);
  polyak::Lion<double> a(model.params, {.learning_rate = 0.1});
  polyak::Lion<double> b(scaled.params, {.learning_rate = 0.1});
  RandomNumbers random(3);
  for (int t = 0; t < 30; ++t) {
    random.fill(model.gradient);
    for (std::size_t k = 0; k < 33; ++k) scaled.gradient[k] = 0x1p-20 * model.gradient[k];
    a.step(model.params, model.grads);
    b.step(scaled.params, scaled.grads);
  }
  CHECK(bytes_of(model.x) == bytes_of(scaled.x));
}

TEST_CASE("Lion makes no step for 0, and NaN for NaN", "[lion]") {
  SECTION("in the law") {
    using V = polyak::detail::Number<float>;
    const polyak::LionLaw<float> law{
        .beta1 = 0, .one_minus_beta1 = 1, .beta2 = 0, .one_minus_beta2 = 1, .step = 2, .shrink = 1};
    const auto stepped = [&](float gradient) {
      V x(5.0F), m(0.0F);
      law(x, V(gradient), m);
      return x.value;
    };
    CHECK(stepped(0.0F) == 5);
    CHECK(stepped(-0.0F) == 5);
    CHECK(stepped(std::numeric_limits<float>::denorm_min()) == 3);
    CHECK(stepped(-std::numeric_limits<float>::denorm_min()) == 7);
    CHECK(stepped(std::numeric_limits<float>::infinity()) == 3);
    CHECK(stepped(-std::numeric_limits<float>::max()) == 7);
    CHECK(std::isnan(stepped(std::numeric_limits<float>::quiet_NaN())));
  }
  SECTION("in a step") {
    OneTensor<float> model({1, -0.0F, 1e-44F, 2});
    const auto start = bytes_of(model.x);
    polyak::Lion<float> optimizer(model.params, {.learning_rate = 0.5});
    model.gradient = {0, -0.0F, 0, -0.0F};
    optimizer.step(model.params, model.grads);
    CHECK(bytes_of(model.x) == start);
    model.gradient = {0, std::numeric_limits<float>::quiet_NaN(), 0, 1};
    optimizer.step(model.params, model.grads);
    CHECK(model.x[0] == 1);
    CHECK(std::isnan(model.x[1]));
    CHECK(std::isnan(optimizer.slot("exp_avg")["x"](1)));
    CHECK(model.x[3] == 1.5F);
  }
}

TEST_CASE("Lion checks its gradients as Nonfinite says", "[lion]") {
  OneTensor<> model({1, 2});
  model.gradient = {1, nan_value};
  polyak::Lion<double> skips(model.params, {.nonfinite = polyak::Nonfinite::skip_step});
  CHECK_FALSE(skips.step(model.params, model.grads));
  CHECK(skips.skipped() == 1);
  CHECK(skips.count() == 0);
  polyak::Lion<double> refuses(model.params, {.nonfinite = polyak::Nonfinite::error});
  CHECK_THROWS_AS(refuses.step(model.params, model.grads), polyak::nonfinite_error);
  CHECK(model.x == std::vector<double>{1, 2});
  CHECK(refuses.count() == 0);
}

TEST_CASE("Lion leaves a tensor without a gradient unchanged", "[lion]") {
  TwoTensors<> model;
  polyak::Lion<double> optimizer(model.params, {.learning_rate = 0.5, .weight_decay = 1});
  model.first_gradient = {1, -1, 0};
  model.second_gradient = {8, 8};
  optimizer.step(model.params, model.both);
  CHECK(model.first == std::vector<double>{0, 1.5, 1.5});
  const auto second = model.second;
  const double momentum = optimizer.slot("exp_avg")["second"](0);
  CHECK(momentum == Approx(0.08));
  optimizer.step(model.params, model.one);
  CHECK(model.second == second);
  CHECK(optimizer.slot("exp_avg")["second"](0) == momentum);
}

TEST_CASE("Lion resumes from its state bytes", "[lion]") {
  OneTensor<float> model(RandomNumbers(4).many<float>(37)), resumed(model.x);
  const LionOptions options{.learning_rate = 0.01, .weight_decay = 0.1};
  polyak::Lion<float> optimizer(model.params, options);
  RandomNumbers random(5);
  for (int t = 0; t < 7; ++t) {
    random.fill(model.gradient);
    optimizer.step(model.params, model.grads);
  }
  polyak::Lion<float> other(resumed.params, options);
  polyak::restore_state(other, polyak::state_bytes(optimizer));
  resumed.x = model.x;
  CHECK(other.count() == 7);
  for (int t = 0; t < 5; ++t) {
    random.fill(model.gradient);
    resumed.gradient = model.gradient;
    optimizer.step(model.params, model.grads);
    other.step(resumed.params, resumed.grads);
  }
  CHECK(bytes_of(model.x) == bytes_of(resumed.x));
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(other));
}

TEST_CASE("Lion has one slot and the defaults of the paper", "[lion]") {
  OneTensor<float> model({1, 2, 3});
  const polyak::Lion optimizer(model.params);
  REQUIRE(optimizer.memory_report().slots.size() == 1);
  CHECK(optimizer.memory_report().slots[0].name == "exp_avg");
  CHECK(optimizer.options().learning_rate == 1e-4);
  CHECK(optimizer.options().beta1 == 0.9);
  CHECK(optimizer.options().beta2 == 0.99);
  CHECK(optimizer.options().weight_decay == 0);
}

TEST_CASE("Lion refuses options out of range", "[lion]") {
  OneTensor<> model({1, 2});
  const auto make = [&](const LionOptions& o) { polyak::Lion<double> method(model.params, o); };
  CHECK(check_refusals<LionOptions>({{}, {.learning_rate = 0, .beta1 = 0, .beta2 = 0}}, make) ==
        4 + 6 + 6 + 4);
  polyak::Lion<double> optimizer(model.params);
  check_bad_rates_are_refused(optimizer);
  CHECK(model.x == std::vector<double>{1, 2});
}

}  // namespace lion_test
