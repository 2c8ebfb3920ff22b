// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/state.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "one_tensor.hpp"

namespace ademamix_test {

using polyak::AdEMAMixOptions;
using polyak::alpha_at;
using polyak::beta3_at;

namespace {

/// The formula of the paper for one element, written down once more.
struct Reference {
  AdEMAMixOptions o;
  double m1 = 0, m2 = 0, v = 0;
  int t = 0, slow_t = 0;

  void step(double& x, double g, double rate) {
    ++t;
    ++slow_t;
    const double beta3 = beta3_at(o, slow_t);
    m1 = o.beta1 * m1 + (1 - o.beta1) * g;
    m2 = beta3 * m2 + (1 - beta3) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double denominator = std::sqrt(v / (1 - std::pow(o.beta2, t))) + o.epsilon;
    const double numerator = m1 / (1 - std::pow(o.beta1, t)) + alpha_at(o, slow_t) * m2;
    const double update = denominator == 0 ? 0 : numerator / denominator;
    x -= rate * (update + o.weight_decay * x);
  }
};

}  // namespace

TEST_CASE("AdEMAMix makes a hand-computed first step", "[ademamix]") {
  // m1/(1 - beta1) = g, m2 = (1 - beta3) g, v/(1 - beta2) = g^2.
  OneTensor<> model({0, 0, 0});
  polyak::AdEMAMix<double> optimizer(
      model.params, {.learning_rate = 0.5, .beta3 = 0.75, .alpha = 2, .epsilon = 1e-12});
  model.gradient = {4, -3, 0};
  optimizer.step(model.params, model.grads);
  CHECK(model.x[0] == Approx(-0.5 * (1 + 2 * 0.25)).epsilon(1e-10));
  CHECK(model.x[1] == Approx(0.5 * (1 + 2 * 0.25)).epsilon(1e-10));
  CHECK(model.x[2] == 0);
  CHECK(optimizer.slot("exp_avg_slow")[0](0) == 1);
  CHECK(optimizer.slot("exp_avg_fast")[0](0) == Approx(0.4).epsilon(1e-14));
}

TEST_CASE("every variant of AdEMAMix follows its formula", "[ademamix]") {
  const std::vector<AdEMAMixOptions> variants{
      {},
      {.weight_decay = 0.1, .alpha_warmup = 100, .beta3_warmup = 100},
      {.beta1 = 0, .beta3 = 0.99, .alpha = 2, .alpha_warmup = 30, .beta3_warmup = 60},
      {.beta1 = 0.5,
       .beta3 = 0.999,
       .alpha_warmup = 50,
       .beta3_warmup = 80,
       .log_guard = 1e-8,
       .schedule_offset = -1},
      {.beta1 = 0, .epsilon = 0, .allow_zero_epsilon = true},
      {.epsilon = 0, .beta3_warmup = 40, .allow_zero_epsilon = true},
      {.beta2 = 0, .beta3 = 0, .alpha = 0.5}};
  for (const AdEMAMixOptions& options : variants) {
    INFO("beta1 " << options.beta1 << ", beta3 " << options.beta3 << ", alpha " << options.alpha);
    OneTensor<> model(RandomNumbers(1).many(19));
    auto expected = model.x;
    polyak::AdEMAMix<double> optimizer(model.params, options);
    std::vector<Reference> references(19, Reference{options});
    RandomNumbers random(2);
    for (int t = 1; t <= 150; ++t) {
      random.fill(model.gradient);
      model.gradient[0] = 0;  // never any information: 0/0 counts as 0 where epsilon is 0
      const double rate = 0.01 / (1 + 0.1 * t);
      optimizer.at(rate).step(model.params, model.grads);
      for (std::size_t k = 0; k < 19; ++k) {
        references[k].step(expected[k], model.gradient[k], rate);
        REQUIRE(model.x[k] == Approx(expected[k]).margin(1e-12));
      }
    }
    CHECK(optimizer.slot("exp_avg_slow")[0](1) == Approx(references[1].m2).margin(1e-14));
    CHECK(optimizer.slot("exp_avg_sq")[0](1) == Approx(references[1].v).margin(1e-14));
  }
}

TEST_CASE("AdEMAMix has the slots that its options need", "[ademamix]") {
  using Names = std::vector<std::string>;
  OneTensor<float> model(std::vector<float>(1000, 1));
  CHECK(polyak::AdEMAMix<float>(model.params).slots().names() ==
        Names{"exp_avg_fast", "exp_avg_slow", "exp_avg_sq"});
  const polyak::AdEMAMix<float> two(model.params, {.beta1 = 0});
  CHECK(two.slots().names() == Names{"exp_avg_slow", "exp_avg_sq"});
  CHECK(two.memory_report().total < 10000);
}

TEST_CASE("AdEMAMix without the slow average is AdamW", "[ademamix]") {
  for (const double beta1 : {0.0, 0.9}) {
    OneTensor<> a(RandomNumbers(3).many(25)), b(a.x);
    polyak::AdEMAMix<double> mix(a.params, {.beta1 = beta1, .alpha = 0, .weight_decay = 0.1});
    polyak::AdamW<double> adamw(b.params, {.beta1 = beta1, .weight_decay = 0.1});
    RandomNumbers random(4);
    for (int t = 0; t < 200; ++t) {
      random.fill(a.gradient);
      std::copy(a.gradient.begin(), a.gradient.end(), b.gradient.begin());
      mix.step(a.params, a.grads);
      adamw.step(b.params, b.grads);
    }
    for (std::size_t k = 0; k < a.x.size(); ++k) CHECK(a.x[k] == Approx(b.x[k]).margin(1e-14));
  }
}

TEST_CASE("AdEMAMix with one decay for both averages weighs the first moment by 1 + alpha",
          "[ademamix]") {
  constexpr double beta = 0.9, alpha = 3;
  OneTensor<> model(RandomNumbers(5).many(25));
  auto expected = model.x;
  polyak::AdEMAMix<double> mix(
      model.params, {.learning_rate = 0.01, .beta1 = beta, .beta3 = beta, .alpha = alpha});
  std::vector<double> m(25, 0), v(25, 0);
  RandomNumbers random(6);
  for (int t = 1; t <= 100; ++t) {
    random.fill(model.gradient);
    mix.step(model.params, model.grads);
    for (std::size_t k = 0; k < 25; ++k) {
      const double g = model.gradient[k];
      m[k] = beta * m[k] + (1 - beta) * g;
      v[k] = 0.999 * v[k] + 0.001 * g * g;
      expected[k] -= 0.01 * m[k] * (1 / (1 - std::pow(beta, t)) + alpha) /
                     (std::sqrt(v[k] / (1 - std::pow(0.999, t))) + 1e-8);
    }
  }
  for (std::size_t k = 0; k < 25; ++k) CHECK(model.x[k] == Approx(expected[k]).margin(1e-12));
}

TEST_CASE("with a constant gradient, steps of AdEMAMix converge to (1 + alpha) learning_rate",
          "[ademamix]") {
  OneTensor<> model({0});
  polyak::AdEMAMix<double> optimizer(model.params,
                                     {.learning_rate = 0.5, .beta3 = 0.99, .alpha = 4});
  double before = 0;
  for (int t = 0; t < 4000; ++t) {
    before = model.x[0];
    model.gradient[0] = -0.02;
    optimizer.step(model.params, model.grads);
  }
  CHECK(model.x[0] - before == Approx(0.5 * (1 + 4)).epsilon(1e-5));
}

TEST_CASE("AdEMAMix with zero gradients only decays", "[ademamix]") {
  for (const double beta1 : {0.0, 0.9}) {
    OneTensor<> model({3, -5});
    polyak::AdEMAMix<double> optimizer(
        model.params,
        {.learning_rate = 0.1, .beta1 = beta1, .weight_decay = 0.5, .alpha_warmup = 3});
    for (int t = 0; t < 20; ++t) optimizer.step(model.params, model.grads);
    CHECK(model.x[0] == Approx(3 * std::pow(0.95, 20)).epsilon(1e-14));
    CHECK(model.x[1] == Approx(-5 * std::pow(0.95, 20)).epsilon(1e-14));
  }
}

TEST_CASE("alpha of AdEMAMix grows linearly", "[ademamix]") {
  const AdEMAMixOptions warmed{.alpha = 8, .alpha_warmup = 4};
  CHECK(alpha_at(warmed, 1) == 2);
  CHECK(alpha_at(warmed, 2) == 4);
  CHECK(alpha_at(warmed, 3) == 6);
  CHECK(alpha_at(warmed, 4) == 8);
  CHECK(alpha_at(warmed, 5) == 8);
  CHECK(alpha_at(warmed, 1000000) == 8);
  CHECK(alpha_at({.alpha = 8}, 1) == 8);
  CHECK(alpha_at({.alpha = 8, .alpha_warmup = 4, .schedule_offset = -1}, 1) == 0);
  CHECK(alpha_at({.alpha = 8, .alpha_warmup = 4, .schedule_offset = -1}, 5) == 8);
}

TEST_CASE("the time constant of AdEMAMix's beta3 grows linearly", "[ademamix]") {
  constexpr std::int64_t end = 1000;
  for (const double beta1 : {0.5, 0.9, 0.99}) {
    const AdEMAMixOptions o{.beta1 = beta1, .beta3 = 0.9999, .beta3_warmup = end};
    const double first = 1 / std::log(beta1), last = 1 / std::log(0.9999);
    double before = beta1;
    for (std::int64_t t = 1; t <= end; ++t) {
      const double beta3 = beta3_at(o, t), s = static_cast<double>(t) / end;
      REQUIRE(beta3 > before);  // strictly
      REQUIRE(1 / std::log(beta3) == Approx((1 - s) * first + s * last).epsilon(1e-10));
      before = beta3;
    }
    CHECK(beta3_at(o, end) == 0.9999);
    CHECK(beta3_at(o, end + 5) == 0.9999);
    CHECK(0.9999 - beta3_at(o, end - 1) < 2e-7);  // no jump at the end
    AdEMAMixOptions from_zero = o;
    from_zero.schedule_offset = -1;
    CHECK(beta3_at(from_zero, 1) == beta1);
    CHECK(beta3_at(from_zero, 11) == beta3_at(o, 10));
    CHECK(beta3_at(from_zero, end + 1) == 0.9999);

    // The authors' guard inside the logarithms: half-lives are linear.
    AdEMAMixOptions guarded = o;
    guarded.log_guard = 1e-8;
    const auto half_life = [](double beta) { return std::log(0.5) / std::log(beta + 1e-8) - 1; };
    for (const std::int64_t t : {1, 10, 500, 999}) {
      const double s = static_cast<double>(t) / end;
      const double now = (1 - s) * half_life(beta1) + s * half_life(0.9999);
      CHECK(beta3_at(guarded, t) == Approx(std::pow(0.5, 1 / (now + 1))).epsilon(1e-14));
      CHECK(std::fabs(beta3_at(guarded, t) - beta3_at(o, t)) < 1e-5);
    }
    CHECK(beta3_at(guarded, end) == 0.9999);
  }
  // From no memory at all: beta3^(1/s), the limit.
  const AdEMAMixOptions none{.beta1 = 0, .beta3 = 0.81, .beta3_warmup = 4};
  CHECK(beta3_at(none, 2) == Approx(0.81 * 0.81).epsilon(1e-14));
  CHECK(beta3_at(none, 1) == Approx(std::pow(0.81, 4)).epsilon(1e-14));
  CHECK(beta3_at({.beta1 = 0, .beta3 = 0, .beta3_warmup = 4}, 1) == 0);
  CHECK(beta3_at({.beta3 = 0.99}, 1) == 0.99);
}

TEST_CASE("reset_slow resets the slow average and restarts its schedules", "[ademamix]") {
  const AdEMAMixOptions options{.beta3 = 0.99, .alpha = 4, .alpha_warmup = 30, .beta3_warmup = 40};
  OneTensor<> model(RandomNumbers(7).many(9));
  auto expected = model.x;
  polyak::AdEMAMix<double> optimizer(model.params, options);
  std::vector<Reference> references(9, Reference{options});
  optimizer.reset_slow();  // at the start there is nothing to forget
  RandomNumbers random(8);
  for (int t = 1; t <= 100; ++t) {
    if (t == 35 || t == 60) {
      optimizer.reset_slow();
      CHECK(optimizer.slot("exp_avg_slow")[0](3) == 0);
      CHECK(optimizer.slot("exp_avg_fast")[0](3) != 0);
      CHECK(optimizer.slot("exp_avg_sq")[0](3) != 0);
      for (Reference& reference : references) {
        reference.m2 = 0;
        reference.slow_t = 0;
      }
    }
    random.fill(model.gradient);
    optimizer.step(model.params, model.grads);
    for (std::size_t k = 0; k < 9; ++k) {
      references[k].step(expected[k], model.gradient[k], 1e-3);
      REQUIRE(model.x[k] == Approx(expected[k]).margin(1e-12));
    }
  }
  CHECK(optimizer.count() == 100);

  // The clock of the slow average is part of the state.
  polyak::AdEMAMix<double> resumed(model.params, options);
  polyak::restore_state(resumed, polyak::state_bytes(optimizer));
  OneTensor<> other(model.x);
  other.gradient = model.gradient;
  resumed.step(model.params, model.grads);
  optimizer.step(other.params, polyak::like(other.params, model.gradient));
  CHECK(bytes_of(model.x) == bytes_of(other.x));
}

TEST_CASE("a compensated slow average does not stall: 0.9997 at beta3 0.999999", "[ademamix]") {
  using polyak::Accumulate;
  using V = polyak::detail::Number<float>;
  const auto law = [](Accumulate slow) {
    return polyak::AdEMAMixRule::law<float>(
        {.learning_rate = 0, .beta3 = 0.999999, .accumulate_slow = slow}, {});
  };
  const auto plain = std::get<polyak::AdEMAMixLaw<float, true, false>>(law(Accumulate::plain));
  const auto kahan = std::get<polyak::AdEMAMixKahanLaw<float, true>>(law(Accumulate::kahan));
  V x(0), m1(0), v(0), stalls(0), moves(0), low(0);
  const V g(1);
  for (int t = 0; t < 8100000; ++t) {
    plain(x, g, m1, stalls, v);
    kahan(x, g, m1, moves, v, low);
  }
  CHECK(stalls.value == Approx(0.957483).epsilon(1e-5));
  CHECK(moves.value == Approx(-std::expm1(-8.1)).epsilon(1e-6));
}

TEST_CASE("a slow average that would stall is refused", "[ademamix]") {
  using polyak::Accumulate;
  OneTensor<float> model({1, 2, 3});
  OneTensor<double> wide({1, 2, 3});
  const auto make = [&](double beta3, Accumulate slow) {
    return polyak::AdEMAMix<float>(model.params, {.beta3 = beta3, .accumulate_slow = slow});
  };
  CHECK(refusal<std::invalid_argument>([&] { make(0.999998, Accumulate::automatic); }) ==
        "polyak: AdEMAMixOptions.beta3 must be <= 1 - 2.98e-6 with a plain slow average of float, "
        "which would stall more than 1 % from a constant gradient; set accumulate_slow to kahan, "
        "use state of double as in AdEMAMix<float, double>, or set it to plain to accept it; "
        "beta3, got 0.999998");
  CHECK_NOTHROW(make(0.999997, Accumulate::automatic));
  CHECK_NOTHROW(make(0.999999, Accumulate::plain));
  CHECK_NOTHROW(make(0.999999, Accumulate::kahan));
  CHECK_NOTHROW(polyak::AdEMAMix<float, double>(model.params, {.beta3 = 0.999999}));
  CHECK_NOTHROW(polyak::AdEMAMix<double>(wide.params, {.beta3 = 0.999999}));
}

TEST_CASE("a compensated slow average follows the formula, and is reset as a whole", "[ademamix]") {
  using polyak::Accumulate;
  for (const double beta1 : {0.9, 0.0}) {
    const AdEMAMixOptions options{.learning_rate = 1e-3,
                                  .beta1 = beta1,
                                  .beta3 = 0.9999,
                                  .accumulate_slow = Accumulate::kahan};
    OneTensor<float> model(std::vector<float>(9, 1.0f));
    std::vector<double> expected(9, 1.0);
    std::vector<Reference> references(9, Reference{options});
    polyak::AdEMAMix<float> optimizer(model.params, options);
    RandomNumbers random(8);
    for (int t = 1; t <= 3000; ++t) {
      if (t == 1000) {
        optimizer.reset_slow();
        CHECK(optimizer.slot("exp_avg_slow")[0](3) == 0);
        CHECK(optimizer.slot("exp_avg_slow_low")[0](3) == 0);
        CHECK(optimizer.slot("exp_avg_sq")[0](3) != 0);
        for (Reference& reference : references) reference.m2 = 0, reference.slow_t = 0;
      }
      for (float& g : model.gradient) g = static_cast<float>(1 + 0.5 * random());
      optimizer.step(model.params, model.grads);
      for (std::size_t k = 0; k < 9; ++k) {
        references[k].step(expected[k], static_cast<double>(model.gradient[k]), 1e-3);
      }
    }
    for (std::size_t k = 0; k < 9; ++k) {
      const auto slow = optimizer.slot("exp_avg_slow")[0](k);
      CHECK(static_cast<double>(slow) == Approx(references[k].m2).epsilon(2e-7));
      CHECK(static_cast<double>(model.x[k]) == Approx(expected[k]).epsilon(1e-4));
    }
  }
}

TEST_CASE("reset_moments clears all averages, and the schedules go on", "[ademamix]") {
  const AdEMAMixOptions options{
      .beta3 = 0.99, .alpha = 5, .alpha_warmup = 1000, .beta3_warmup = 80};
  OneTensor<> model(RandomNumbers(7).many(9));
  auto expected = model.x;
  polyak::AdEMAMix<double> optimizer(model.params, options);
  std::vector<Reference> references(9, Reference{options});
  RandomNumbers random(8);
  for (int t = 1; t <= 1200; ++t) {
    if (t == 30) {
      optimizer.reset_slow();
      for (Reference& reference : references) reference.m2 = 0, reference.slow_t = 0;
    }
    if (t % 100 == 0) {
      optimizer.reset_moments();
      for (const char* name : {"exp_avg_fast", "exp_avg_slow", "exp_avg_sq"}) {
        CHECK(optimizer.slot(name)[0](3) == 0);
      }
      for (Reference& reference : references) {
        reference.m1 = reference.m2 = reference.v = 0;
        reference.t = 0;
      }
    }
    random.fill(model.gradient);
    optimizer.step(model.params, model.grads);
    for (std::size_t k = 0; k < 9; ++k) {
      references[k].step(expected[k], model.gradient[k], 1e-3);
      REQUIRE(model.x[k] == Approx(expected[k]).margin(1e-12));
    }
  }
  CHECK(optimizer.count() == 1200);
  CHECK(references[0].slow_t > options.alpha_warmup);  // alpha is 5 after twelve resets

  // A clock that began before the reset is part of the state.
  polyak::AdEMAMix<double> resumed(model.params, options);
  polyak::restore_state(resumed, polyak::state_bytes(optimizer));
  OneTensor<> other(model.x);
  other.gradient = model.gradient;
  resumed.step(model.params, model.grads);
  optimizer.step(other.params, polyak::like(other.params, model.gradient));
  CHECK(bytes_of(model.x) == bytes_of(other.x));
}

TEST_CASE("AdEMAMix counts the steps of each tensor", "[ademamix]") {
  TwoTensors<> model;
  const AdEMAMixOptions options{.learning_rate = 0.5,
                                .beta3 = 0.99,
                                .alpha = 4,
                                .weight_decay = 0.1,
                                .alpha_warmup = 20,
                                .beta3_warmup = 20};
  polyak::AdEMAMix<double> optimizer(model.params, options);
  model.first_gradient = {1, -1, 2};
  model.second_gradient = {-2, 3};
  for (int t = 0; t < 7; ++t) optimizer.step(model.params, model.one);
  CHECK(model.second == std::vector<double>{4, 5});
  double x = 4;
  Reference reference{options};
  for (int t = 0; t < 5; ++t) {
    optimizer.step(model.params, model.both);
    reference.step(x, -2, 0.5);
    CHECK(model.second[0] == Approx(x).epsilon(1e-13));
  }
}

TEST_CASE("AdEMAMix refuses options out of range", "[ademamix]") {
  using O = AdEMAMixOptions;
  OneTensor<> model({1, 2});
  OneTensor<float> narrow({1, 2});
  const auto make = [&](const O& o) { polyak::AdEMAMix<double> method(model.params, o); };
  const auto make_narrow = [&](const O& o) { polyak::AdEMAMix<float> method(narrow.params, o); };
  const std::string name = "AdEMAMixOptions.";
  check_refused(make, O{}, &O::learning_rate, name + "learning_rate must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::beta1, name + "beta1 must lie in [0, 1)", not_a_beta);
  check_refused(make, O{}, &O::beta2, name + "beta2 must lie in [0, 1)", not_a_beta);
  check_refused(make, O{}, &O::beta3, name + "beta3 must lie in [0, 1)", not_a_beta);
  check_refused(make, O{}, &O::alpha, name + "alpha must be finite and >= 0", not_a_rate);
  const std::string epsilon = name + "epsilon must be finite and > 0 (0 with allow_zero_epsilon)";
  check_refused(make, O{}, &O::epsilon, epsilon, {0, -1, nan_value, infinity, -infinity});
  check_refused(make, O{.allow_zero_epsilon = true}, &O::epsilon, epsilon,
                {-1, nan_value, infinity});
  check_refused(make_narrow, O{}, &O::epsilon,
                name + "epsilon must not vanish in the type of the state", {1e-50});
  check_refused(make, O{}, &O::weight_decay, name + "weight_decay must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::alpha_warmup, name + "alpha_warmup must be >= 1, or 0 for none",
                {-1, -100});
  check_refused(make, O{}, &O::beta3_warmup, name + "beta3_warmup must be >= 1, or 0 for none",
                {-1, -100});
  check_refused(make, O{.beta1 = 0.75, .beta3_warmup = 10}, &O::beta3,
                name + "beta3 must be >= beta1 with beta3_warmup", {0, 0.5});
  check_refused(make, O{}, &O::log_guard, name + "log_guard must be finite and >= 0", not_a_rate);
  check_refused(make, O{}, &O::schedule_offset, name + "schedule_offset must be 0 or -1",
                {1, -2, 100});
  CHECK_NOTHROW(make({.beta1 = 0.9, .beta3 = 0.5}));  // allowed without the schedule
  CHECK_NOTHROW(make({.beta1 = 0.9, .beta3 = 0.9, .beta3_warmup = 5}));
  CHECK_NOTHROW(make({.schedule_offset = -1}));
  CHECK(model.x == std::vector<double>{1, 2});

  polyak::AdEMAMix<double> optimizer(model.params);
  check_bad_rates_are_refused(optimizer);
}

}  // namespace ademamix_test
