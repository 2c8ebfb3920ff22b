// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/state.hpp>
#include <polyak/optim/adamw.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "one_tensor.hpp"

namespace adamw_test {

using polyak::AdamOptions;
using polyak::AdamWOptions;

namespace {

/// The formula of the paper for one element, written down once more.
struct Reference {
  AdamWOptions o;
  double m = 0, v = 0, v_max = 0;
  int t = 0;

  void step(double& x, double gradient, double rate) {
    ++t;
    const double g = gradient + o.coupled_weight_decay * x;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    v_max = std::max(v_max, v);
    const double c1 = o.bias_correction ? 1 - std::pow(o.beta1, t) : 1;
    const double c2 = o.bias_correction ? 1 - std::pow(o.beta2, t) : 1;
    const double second = o.amsgrad ? v_max : v;
    const double denominator = o.epsilon_before_correction
                                   ? (std::sqrt(second) + o.epsilon) / std::sqrt(c2)
                                   : std::sqrt(second / c2) + o.epsilon;
    const double update = denominator == 0 ? 0 : m / c1 / denominator;
    x = (1 - rate * o.weight_decay) * x - rate * update;
  }
};

std::vector<AdamWOptions> variants() {
  std::vector<AdamWOptions> all{{}, {.weight_decay = 0}, {.coupled_weight_decay = 0.1}};
  for (const double beta1 : {0.0, 0.5, 0.9}) {
    for (const bool amsgrad : {false, true}) {
      for (const bool corrected : {true, false}) {
        all.push_back({.beta1 = beta1,
                       .beta2 = 0.95,
                       .epsilon = 1e-3,
                       .weight_decay = 0.05,
                       .coupled_weight_decay = amsgrad ? 0.02 : 0,
                       .amsgrad = amsgrad,
                       .bias_correction = corrected,
                       .epsilon_before_correction = amsgrad == corrected});
      }
    }
  }
  all.push_back({.beta2 = 0});
  all.push_back({.epsilon = 0, .allow_zero_epsilon = true});
  return all;
}

}  // namespace

TEST_CASE("AdamW makes a hand-computed first step", "[adamw]") {
  // m/(1 - beta1) = g, v/(1 - beta2) = g^2: the step is the rate times g/(|g| + epsilon).
  OneTensor<> model({1, 1, 1, 1});
  polyak::Adam<double> optimizer(model.params, {.learning_rate = 0.5, .epsilon = 1});
  model.gradient = {1, -3, 0, 1e9};
  optimizer.step(model.params, model.grads);
  CHECK(model.x[0] == Approx(1 - 0.25).epsilon(1e-14));
  CHECK(model.x[1] == Approx(1 + 0.5 * 3 / 4).epsilon(1e-14));
  CHECK(model.x[2] == 1);
  CHECK(model.x[3] == Approx(0.5).epsilon(1e-8));
  CHECK(optimizer.slot("exp_avg")[0](1) == Approx(-0.3).epsilon(1e-14));
  CHECK(optimizer.slot("exp_avg_sq")[0](1) == Approx(0.009).epsilon(1e-12));
}

TEST_CASE("AdamW's first step is never longer than the learning rate", "[adamw]") {
  OneTensor<float> model(std::vector<float>(64, 0));
  polyak::AdamW optimizer(model.params, {.learning_rate = 0.01});
  RandomNumbers random(1);
  for (std::size_t k = 0; k < 64; ++k) {
    model.gradient[k] = static_cast<float>(random() * std::pow(10.0, 30 * random()));
  }
  optimizer.step(model.params, model.grads);
  for (const float x : model.x) CHECK(std::fabs(x) <= 0.01f * 1.000001f);
}

TEST_CASE("every variant of AdamW follows its formula", "[adamw]") {
  for (const AdamWOptions& options : variants()) {
    INFO("beta1 " << options.beta1 << ", beta2 " << options.beta2 << ", amsgrad " << options.amsgrad
                  << ", corrected " << options.bias_correction << ", epsilon first "
                  << options.epsilon_before_correction);
    OneTensor<> model(RandomNumbers(2).many(19));
    auto expected = model.x;
    polyak::AdamW<double> optimizer(model.params, options);
    std::vector<Reference> references(19, Reference{options});
    RandomNumbers random(3);
    for (int t = 1; t <= 200; ++t) {
      random.fill(model.gradient);
      if (t > 100) {  // the second moment falls, which AMSGrad ignores
        for (double& g : model.gradient) g *= 0.01;
      }
      const double rate = 0.01 / (1 + 0.1 * t);
      optimizer.at(rate).step(model.params, model.grads);
      for (std::size_t k = 0; k < 19; ++k) {
        references[k].step(expected[k], model.gradient[k], rate);
        REQUIRE(model.x[k] == Approx(expected[k]).margin(1e-12));
      }
    }
    if (options.amsgrad) {
      CHECK(optimizer.slot("max_exp_avg_sq")[0](0) == Approx(references[0].v_max).epsilon(1e-12));
      CHECK(references[0].v_max > references[0].v);
    }
  }
}

TEST_CASE("AdamW has the slots that its options need", "[adamw]") {
  using Names = std::vector<std::string>;
  OneTensor<float> model(std::vector<float>(1000, 1));
  const auto names = [&](const AdamWOptions& options) {
    return polyak::AdamW<float>(model.params, options).slots().names();
  };
  CHECK(names({}) == Names{"exp_avg", "exp_avg_sq"});
  CHECK(names({.amsgrad = true}) == Names{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"});
  CHECK(names({.beta1 = 0}) == Names{"exp_avg_sq"});
  CHECK(names({.beta1 = 0, .amsgrad = true}) == Names{"exp_avg_sq", "max_exp_avg_sq"});
  const auto report = polyak::AdamW<float>(model.params).memory_report();
  CHECK(report.slots.size() == 2);
  CHECK(report.total >= 8000);
  CHECK(report.total < 10000);
}

TEST_CASE("AdamW with zero gradients only decays", "[adamw]") {
  const auto start = RandomNumbers(4).many(30);
  OneTensor<> model(start);
  polyak::AdamW<double> optimizer(model.params, {.learning_rate = 0.1, .weight_decay = 0.2});
  for (int t = 0; t < 50; ++t) optimizer.step(model.params, model.grads);
  for (std::size_t k = 0; k < start.size(); ++k) {
    CHECK(model.x[k] == Approx(start[k] * std::pow(1 - 0.1 * 0.2, 50)).epsilon(1e-13));
  }
  OneTensor<> still(start);
  polyak::AdamW<double> without(still.params, {.weight_decay = 0});
  for (int t = 0; t < 5; ++t) without.step(still.params, still.grads);
  CHECK(bytes_of(still.x) == bytes_of(start));
}

TEST_CASE("AdamW does not depend on the scale of its gradients if epsilon is scaled too",
          "[adamw]") {
  constexpr double scale = 1024;  // a power of two: exact
  OneTensor<> a(RandomNumbers(5).many(25)), b(a.x);
  polyak::AdamW<double> small(a.params, {.epsilon = 1e-6});
  polyak::AdamW<double> large(b.params, {.epsilon = 1e-6 * scale});
  RandomNumbers random(6);
  for (int t = 0; t < 100; ++t) {
    random.fill(a.gradient);
    for (std::size_t k = 0; k < 25; ++k) b.gradient[k] = scale * a.gradient[k];
    small.step(a.params, a.grads);
    large.step(b.params, b.grads);
  }
  CHECK(bytes_of(a.x) == bytes_of(b.x));
}

TEST_CASE("Adam without memory and epsilon is sign descent", "[adamw]") {
  OneTensor<> model({0, 0, 0, 0});
  polyak::AdamW<double> optimizer(model.params, {.learning_rate = 0.25,
                                                 .beta1 = 0,
                                                 .beta2 = 0,
                                                 .epsilon = 0,
                                                 .weight_decay = 0,
                                                 .allow_zero_epsilon = true});
  model.gradient = {3, -1e-9, 0, 7};
  optimizer.step(model.params, model.grads);
  CHECK(model.x == std::vector<double>{-0.25, 0.25, 0, -0.25});  // 0/0 counts as 0
  model.gradient = {-5, -4, 0, 0};
  optimizer.step(model.params, model.grads);
  CHECK(model.x == std::vector<double>{0, 0.5, 0, -0.25});
}

TEST_CASE("AMSGrad converges on a problem where Adam goes to the worst point", "[adamw]") {
  // f_t = C x for t = 1, 4, 7, ... and -x otherwise on [-1, 1], with its minimum over time at -1.
  constexpr double c = 3;
  constexpr double beta2 = 1 / (1 + c * c);
  const double base = 0.1 * std::sqrt(1 - beta2);
  const auto run = [&](bool amsgrad) {
    OneTensor<> model({0});
    polyak::AdamW<double> optimizer(model.params, {.beta1 = 0,
                                                   .beta2 = beta2,
                                                   .epsilon = 0,
                                                   .weight_decay = 0,
                                                   .amsgrad = amsgrad,
                                                   .bias_correction = false,
                                                   .allow_zero_epsilon = true});
    double effective = infinity;
    for (int t = 1; t <= 3000; ++t) {
      model.gradient[0] = t % 3 == 1 ? c : -1;
      const double rate = base / std::sqrt(t);
      optimizer.at(rate).step(model.params, model.grads);
      model.x[0] = std::clamp(model.x[0], -1.0, 1.0);
      if (!amsgrad) continue;
      const double now = rate / std::sqrt(optimizer.slot("max_exp_avg_sq")[0](0));
      CHECK(now <= effective);
      effective = now;
    }
    return model.x[0];
  };
  CHECK(run(false) > 0.99);
  CHECK(run(true) < -0.5);
}

TEST_CASE("Adam is AdamW without decoupled decay", "[adamw]") {
  for (const double coupled : {0.0, 0.1}) {
    OneTensor<float> a(RandomNumbers(7).many<float>(40)), b(a.x);
    polyak::Adam adam(a.params, {.learning_rate = 0.01, .coupled_weight_decay = coupled});
    polyak::AdamW adamw(
        b.params, {.learning_rate = 0.01, .weight_decay = 0, .coupled_weight_decay = coupled});
    RandomNumbers random(8);
    for (int t = 0; t < 30; ++t) {
      random.fill(a.gradient);
      std::copy(a.gradient.begin(), a.gradient.end(), b.gradient.begin());
      adam.step(a.params, a.grads);
      adamw.step(b.params, b.grads);
    }
    CHECK(bytes_of(a.x) == bytes_of(b.x));
    CHECK(polyak::state_bytes(adam) == polyak::state_bytes(adamw));
  }
}

TEST_CASE("AdamW in float follows AdamW in double", "[adamw]") {
  OneTensor<float> a(RandomNumbers(9).many<float>(33));
  OneTensor<double> b(std::vector<double>(a.x.begin(), a.x.end()));
  polyak::AdamW<float> narrow(a.params);
  polyak::AdamW<double> wide(b.params);
  RandomNumbers random(10);
  for (int t = 0; t < 300; ++t) {
    random.fill(a.gradient);
    std::copy(a.gradient.begin(), a.gradient.end(), b.gradient.begin());
    narrow.step(a.params, a.grads);
    wide.step(b.params, b.grads);
  }
  for (std::size_t k = 0; k < a.x.size(); ++k) {
    CHECK(static_cast<double>(a.x[k]) == Approx(b.x[k]).margin(1e-5));
  }
}

TEST_CASE("AdamW corrects a tensor that joins late by its own steps", "[adamw]") {
  TwoTensors<> model;
  polyak::AdamW<double> optimizer(model.params, {.learning_rate = 0.5, .weight_decay = 0.1});
  model.first_gradient = {1, 1, 1};
  for (int t = 0; t < 10; ++t) optimizer.step(model.params, model.one);
  CHECK(model.second == std::vector<double>{4, 5});
  model.second_gradient = {-2, 0};
  optimizer.step(model.params, model.both);
  CHECK(model.second[0] == Approx(0.95 * 4 + 0.5).epsilon(1e-8));
  CHECK(model.second[1] == Approx(0.95 * 5).epsilon(1e-14));  // zero is a gradient: it decays
}

TEST_CASE("a refused learning rate leaves the old one in place", "[adamw]") {
  OneTensor<> model({1});
  polyak::AdamW<double> optimizer(model.params);
  check_bad_rates_are_refused(optimizer);
  CHECK(optimizer.learning_rate() == 1e-3);
  CHECK(optimizer.at(0).learning_rate() == 0);
}

TEST_CASE("AdamW refuses options out of range", "[adamw]") {
  using O = AdamWOptions;
  OneTensor<> model({1, 2});
  OneTensor<float> narrow({1, 2});
  const auto make = [&](const O& options) { polyak::AdamW<double> method(model.params, options); };
  const auto make_narrow = [&](const O& options) {
    polyak::AdamW<float> method(narrow.params, options);
  };
  check_refused(make, O{}, &O::learning_rate, "AdamWOptions.learning_rate must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::beta1, "AdamWOptions.beta1 must lie in [0, 1)", not_a_beta);
  check_refused(make, O{}, &O::beta2, "AdamWOptions.beta2 must lie in [0, 1)", not_a_beta);
  const std::string epsilon =
      "AdamWOptions.epsilon must be finite and > 0 (0 with allow_zero_epsilon)";
  check_refused(make, O{}, &O::epsilon, epsilon, {0, -1, nan_value, infinity, -infinity});
  check_refused(make, O{.allow_zero_epsilon = true}, &O::epsilon, epsilon,
                {-1, nan_value, infinity});
  check_refused(make_narrow, O{}, &O::epsilon,
                "AdamWOptions.epsilon must not vanish in the type of the state", {1e-50});
  check_refused(make, O{}, &O::weight_decay, "AdamWOptions.weight_decay must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::coupled_weight_decay,
                "AdamWOptions.coupled_weight_decay must be finite and >= 0", not_a_rate);
  CHECK_NOTHROW(make({.epsilon = 1e-50}));
  CHECK_NOTHROW(make({.epsilon = 0, .allow_zero_epsilon = true}));
  CHECK_NOTHROW(make({.learning_rate = 0, .beta1 = 0, .beta2 = 0}));
  CHECK(model.x == std::vector<double>{1, 2});
  CHECK(narrow.x == std::vector<float>{1, 2});
}

TEST_CASE("Adam refuses options out of range", "[adamw]") {
  using O = AdamOptions;
  OneTensor<> model({1, 2});
  const auto refused = [&](O options, double O::*field, std::initializer_list<double> bad,
                           const std::string& name) {
    for (const double value : bad) {
      options.*field = value;
      const std::string message = refusal<std::invalid_argument>(
          [&] { polyak::Adam<double> method(model.params, options); });
      CHECK(message.find("." + name + " must") != std::string::npos);
      std::ostringstream end;
      end << ", got " << value;
      CHECK(message.ends_with(end.str()));
    }
  };
  refused({}, &O::learning_rate, not_a_rate, "learning_rate");
  refused({}, &O::beta1, not_a_beta, "beta1");
  refused({}, &O::beta2, not_a_beta, "beta2");
  refused({}, &O::epsilon, {0, -1, nan_value, infinity}, "epsilon");
  refused({}, &O::coupled_weight_decay, not_a_rate, "coupled_weight_decay");
  CHECK(model.x == std::vector<double>{1, 2});
}

}  // namespace adamw_test
