// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/state.hpp>
#include <polyak/optim/sgd.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "one_tensor.hpp"

namespace sgd_test {

using polyak::SgdOptions;

namespace {

/// x after each of three steps with gradient 1, by default from 0.
std::vector<double> three_steps(SgdOptions options, double start = 0) {
  OneTensor<> model({start});
  polyak::Sgd<double> optimizer(model.params, options);
  std::vector<double> path;
  for (int t = 0; t < 3; ++t) {
    model.gradient[0] = 1;
    optimizer.step(model.params, model.grads);
    path.push_back(model.x[0]);
  }
  return path;
}

}  // namespace

TEST_CASE("every variant of Sgd makes hand-computed steps", "[sgd]") {
  using Path = std::vector<double>;
  CHECK(three_steps({.learning_rate = 0.5}) == Path{-0.5, -1, -1.5});
  // m = 1, 1.5, 1.75
  CHECK(three_steps({.learning_rate = 1, .momentum = 0.5}) == Path{-1, -2.5, -4.25});
  // m = 1 (the first is not dampened), 0.5 + 0.25, 0.375 + 0.25
  CHECK(three_steps({.learning_rate = 1, .momentum = 0.5, .dampening = 0.75}) ==
        Path{-1, -1.75, -2.375});
  // 1 + m/2
  CHECK(three_steps({.learning_rate = 1, .momentum = 0.5, .nesterov = true}) ==
        Path{-1.5, -3.25, -5.125});
  // x <- x/2 - 1/2
  CHECK(three_steps({.learning_rate = 0.5, .weight_decay = 1}, 8) == Path{3.5, 1.25, 0.125});
  CHECK(three_steps({.learning_rate = 0.5, .coupled_weight_decay = 1}, 8) ==
        Path{3.5, 1.25, 0.125});
  // With momentum they differ: m = 9, then 4.5 + (1 + 3.5), then 4.5 + (1 - 1)
  CHECK(three_steps({.learning_rate = 0.5, .momentum = 0.5, .coupled_weight_decay = 1}, 8) ==
        Path{3.5, -1, -3.25});
  // x <- x/2 - m/2 with m = 1, 1.5, 1.75
  CHECK(three_steps({.learning_rate = 0.5, .momentum = 0.5, .weight_decay = 1}, 8) ==
        Path{3.5, 1, -0.375});
}

TEST_CASE("Sgd without momentum subtracts the sum of the gradients", "[sgd]") {
  OneTensor<> model(RandomNumbers(1).many(37));
  const auto start = model.x;
  std::vector<double> sum(model.x.size(), 0);
  polyak::Sgd<double> optimizer(model.params, {.learning_rate = 0.125});
  RandomNumbers random(2);
  for (int t = 0; t < 200; ++t) {
    random.fill(model.gradient);
    for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += model.gradient[k];
    optimizer.step(model.params, model.grads);
  }
  for (std::size_t k = 0; k < sum.size(); ++k) {
    CHECK(model.x[k] == Approx(start[k] - 0.125 * sum[k]).margin(1e-13));
  }
  CHECK(optimizer.memory_report().total == 0);
}

TEST_CASE("with a constant gradient, steps of Sgd converge to learning_rate/(1 - momentum)",
          "[sgd]") {
  for (const bool nesterov : {false, true}) {
    OneTensor<> model({0});
    polyak::Sgd<double> optimizer(model.params,
                                  {.learning_rate = 0.01, .momentum = 0.9, .nesterov = nesterov});
    double before = 0;
    for (int t = 0; t < 400; ++t) {
      before = model.x[0];
      model.gradient[0] = 2;
      optimizer.step(model.params, model.grads);
    }
    CHECK(before - model.x[0] == Approx(0.01 * 2 / (1 - 0.9)).epsilon(1e-12));
  }
}

TEST_CASE("heavy ball converges exactly in its theoretical range", "[sgd]") {
  for (const double momentum : {0.0, 0.5, 0.9}) {
    const double limit = 2 * (1 + momentum);  // of learning rate times curvature
    for (const double curvature : {0.01, 0.99, 1.01}) {
      INFO("momentum " << momentum << ", curvature " << curvature << " of the limit");
      OneTensor<> model({1});
      polyak::Sgd<double> optimizer(model.params, {.learning_rate = 0.5, .momentum = momentum});
      for (int t = 0; t < 8000; ++t) {
        model.gradient[0] = curvature * limit / 0.5 * model.x[0];
        optimizer.step(model.params, model.grads);
        if (!(std::fabs(model.x[0]) < 1e12)) break;
      }
      if (curvature < 1) {
        CHECK(std::fabs(model.x[0]) < 1e-12);
      } else {
        CHECK_FALSE(std::fabs(model.x[0]) < 1e12);
      }
    }
  }
}

TEST_CASE("coupled and decoupled decay agree without momentum", "[sgd]") {
  OneTensor<> a(RandomNumbers(3).many(21)), b(a.x);
  polyak::Sgd<double> coupled(a.params, {.learning_rate = 0.1, .coupled_weight_decay = 0.3});
  polyak::Sgd<double> decoupled(b.params, {.learning_rate = 0.1, .weight_decay = 0.3});
  RandomNumbers random(4);
  for (int t = 0; t < 100; ++t) {
    random.fill(a.gradient);
    std::copy(a.gradient.begin(), a.gradient.end(), b.gradient.begin());
    coupled.step(a.params, a.grads);
    decoupled.step(b.params, b.grads);
  }
  for (std::size_t k = 0; k < a.x.size(); ++k) CHECK(a.x[k] == Approx(b.x[k]).margin(1e-14));
}

TEST_CASE("the momentum buffer does not depend on the learning rate", "[sgd]") {
  OneTensor<> model({0});
  polyak::Sgd<double> optimizer(model.params, {.learning_rate = 1, .momentum = 0.5});
  model.gradient[0] = 4;
  optimizer.step(model.params, model.grads);
  CHECK(optimizer.slot("momentum_buffer")["x"](0) == 4);
  optimizer.at(0.25).step(model.params, model.grads);  // the history is rescaled, too
  CHECK(optimizer.slot("momentum_buffer")["x"](0) == 6);
  CHECK(model.x[0] == -4 - 0.25 * 6);
  optimizer.at(0).step(model.params, model.grads);
  CHECK(model.x[0] == -5.5);
  CHECK(optimizer.slot("momentum_buffer")["x"](0) == 7);
  CHECK(optimizer.count() == 3);
  CHECK(refusal<std::invalid_argument>([&] { static_cast<void>(optimizer.slot("exp_avg")); }) ==
        "polyak: there is no slot \"exp_avg\"; the slots are: momentum_buffer");
  check_bad_rates_are_refused(optimizer);
}

TEST_CASE("Sgd with zero gradients and no decay changes no bit", "[sgd]") {
  auto start = RandomNumbers(5).many<float>(50);
  start[0] = -0.0f;
  start[1] = 1e-44f;
  for (const double momentum : {0.0, 0.9}) {
    OneTensor<float> model(start);
    polyak::Sgd<float> optimizer(model.params, {.learning_rate = 0.1, .momentum = momentum});
    for (int t = 0; t < 3; ++t) optimizer.step(model.params, model.grads);
    CHECK(bytes_of(model.x) == bytes_of(start));
  }
}

TEST_CASE("Sgd leaves a tensor without a gradient alone until it joins", "[sgd]") {
  TwoTensors<> model;
  polyak::Sgd<double> optimizer(
      model.params, {.learning_rate = 1, .momentum = 0.5, .dampening = 0.5, .weight_decay = 0.25});
  model.first_gradient = {1, 1, 1};
  model.second_gradient = {8, 8};
  optimizer.step(model.params, model.one);
  optimizer.step(model.params, model.one);
  CHECK(model.second == std::vector<double>{4, 5});
  CHECK(optimizer.slot("momentum_buffer")["second"](0) == 0);
  optimizer.step(model.params, model.both);
  CHECK(optimizer.slot("momentum_buffer")["second"](0) == 8);  // its first step: not dampened
  CHECK(model.second == std::vector<double>{0.75 * 4 - 8, 0.75 * 5 - 8});
  CHECK(optimizer.slot("momentum_buffer")["first"](0) == 1);
  CHECK(optimizer.count() == 3);
  const auto second = model.second;
  optimizer.step(model.params, model.one);
  CHECK(model.second == second);
}

TEST_CASE("an element's update does not depend on its place", "[sgd]") {
  OneTensor<float> model(RandomNumbers(6).many<float>(45)), turned(model.x);
  const auto turn = [](std::vector<float>& v) { std::rotate(v.begin(), v.begin() + 17, v.end()); };
  turn(turned.x);
  const SgdOptions options{
      .learning_rate = 0.1, .momentum = 0.9, .nesterov = true, .weight_decay = 0.01};
  polyak::Sgd<float> a(model.params, options), b(turned.params, options);
  RandomNumbers random(7);
  for (int t = 0; t < 20; ++t) {
    random.fill(model.gradient);
    std::copy(model.gradient.begin(), model.gradient.end(), turned.gradient.begin());
    turn(turned.gradient);
    const auto gradient = bytes_of(model.gradient);
    a.step(model.params, model.grads);
    b.step(turned.params, turned.grads);
    CHECK(bytes_of(model.gradient) == gradient);  // gradients are only read
  }
  turn(model.x);
  CHECK(bytes_of(model.x) == bytes_of(turned.x));
}

TEST_CASE("Sgd refuses options out of range", "[sgd]") {
  using O = SgdOptions;
  OneTensor<> model({1, 2});
  const auto make = [&](const O& options) { polyak::Sgd<double> method(model.params, options); };
  const O usual{.learning_rate = 0.1};
  check_refused(make, usual, &O::learning_rate, "SgdOptions.learning_rate must be finite and >= 0",
                not_a_rate);
  check_refused(make, usual, &O::momentum, "SgdOptions.momentum must lie in [0, 1)", not_a_beta);
  check_refused(make, usual, &O::dampening, "SgdOptions.dampening must lie in [0, 1]",
                {-0.5, 1.5, nan_value, infinity, -infinity});
  check_refused(make, usual, &O::weight_decay, "SgdOptions.weight_decay must be finite and >= 0",
                not_a_rate);
  check_refused(make, usual, &O::coupled_weight_decay,
                "SgdOptions.coupled_weight_decay must be finite and >= 0", not_a_rate);
  const O nesterov{.learning_rate = 0.1, .momentum = 0.9, .nesterov = true};
  check_refused(make, nesterov, &O::momentum, "SgdOptions.momentum must be > 0 with nesterov", {0});
  check_refused(make, nesterov, &O::dampening, "SgdOptions.dampening must be 0 with nesterov",
                {0.5, 1});
  check_refused(make, O{.learning_rate = 0.1, .weight_decay = 0.5}, &O::coupled_weight_decay,
                "SgdOptions.coupled_weight_decay must be 0 with weight_decay", {0.5});
  CHECK(refusal<std::invalid_argument>([&] { make({}); }) ==  // the rate has no default
        "polyak: SgdOptions.learning_rate must be finite and >= 0, got nan");
  CHECK_NOTHROW(make({.learning_rate = 0, .momentum = 0.9, .dampening = 1}));
  CHECK(model.x == std::vector<double>{1, 2});
}

}  // namespace sgd_test
