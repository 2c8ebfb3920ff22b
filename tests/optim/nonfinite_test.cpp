// SPDX-License-Identifier: Apache-2.0
// Nonfinite: gradients that overflow moments, weights that overflow in a step, buffers, and
// averages of skipped steps. core/step_test.cpp has the NaNs and infinities.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <polyak/core/clip.hpp>
#include <polyak/core/require_finite.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/polyak.hpp>

#include "catch.hpp"
#include "one_tensor.hpp"
#include "refusal.hpp"

namespace nonfinite_test {

namespace {

using polyak::Nonfinite;
using polyak::nonfinite_error;

/// Calls check(make, largest) for each optimizer with moments: make(params, policy) constructs it,
/// `largest` is the largest gradient that it accepts.
template <class P, class Check>
void each_optimizer(Check check) {
  using S = polyak::default_state_t<P>;
  using Params = polyak::Parameters<P>;
  constexpr bool wide = sizeof(S) == 8;
  const double squared = wide ? 0x1p511 : 0x1p63, averaged = wide ? 0x1p1023 : 0x1p127;
  constexpr double rate = 1e-30;
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::AdamW<P>(
            p, {.learning_rate = rate, .nonfinite = n, .accumulate = polyak::Accumulate::plain});
      },
      squared);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::Adam<P>(p, {.learning_rate = rate,
                                   .amsgrad = true,
                                   .nonfinite = n,
                                   .accumulate = polyak::Accumulate::plain});
      },
      squared);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::AdEMAMix<P>(
            p, {.learning_rate = rate, .nonfinite = n, .accumulate = polyak::Accumulate::plain});
      },
      squared);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::ScheduleFreeAdamW<P>(
            p, {.learning_rate = rate, .nonfinite = n, .accumulate = polyak::Accumulate::plain});
      },
      squared);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::Lion<P>(
            p, {.learning_rate = rate, .nonfinite = n, .accumulate = polyak::Accumulate::plain});
      },
      averaged);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::Sgd<P>(p, {.learning_rate = rate,
                                  .momentum = 0.9,
                                  .nonfinite = n,
                                  .accumulate = polyak::Accumulate::plain});
      },
      averaged / 10);
  check(
      [&](const Params& p, Nonfinite n) {
        return polyak::Sgd<P>(p, {.learning_rate = rate,
                                  .momentum = 0.9,
                                  .dampening = 0.9,
                                  .nonfinite = n,
                                  .accumulate = polyak::Accumulate::plain});
      },
      averaged);
}

}  // namespace

TEMPLATE_TEST_CASE("a gradient that would overflow a moment is skipped or refused", "[nonfinite]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  const double highest = static_cast<double>(std::numeric_limits<P>::max());
  each_optimizer<P>([&](auto make, double largest) {
    for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
      for (const std::size_t place : {std::size_t{0}, std::size_t{17}, std::size_t{36}}) {
        OneTensor<P> model(std::vector<P>(37, P(1)));
        std::fill(model.gradient.begin(), model.gradient.end(), P(0.5F));
        auto optimizer = make(model.params, policy);
        INFO(optimizer.type_name << " " << name_of(policy) << " at " << place);
        CHECK(optimizer.step(model.params, model.grads));

        model.gradient[place] = static_cast<P>(-std::fmin(0.98 * largest, highest));
        for (int step = 0; step < 100; ++step) optimizer.step(model.params, model.grads);
        CHECK(optimizer.count() == 101);
        CHECK_NOTHROW(polyak::require_finite(optimizer));
        if (1.02 * largest > highest) continue;  // every number of this type is accepted

        model.gradient[place] = static_cast<P>(1.02 * largest);
        const auto state = polyak::state_bytes(optimizer);
        const auto weights = bytes_of(model.x);
        if (policy == Nonfinite::error) {
          CHECK(refusal<nonfinite_error>([&] { optimizer.step(model.params, model.grads); }) ==
                "polyak: a gradient holds a NaN or an infinity, or a number so large that a moment "
                "could overflow; nothing was changed");
          CHECK(polyak::state_bytes(optimizer) == state);
        } else {
          CHECK_FALSE(optimizer.step(model.params, model.grads));
          CHECK(optimizer.skipped() == 1);
          CHECK(optimizer.count() == 101);
          CHECK_NOTHROW(polyak::require_finite(optimizer));
        }
        CHECK(bytes_of(model.x) == weights);
      }
    }
  });
}

TEST_CASE("one gradient of 1e21 kills an element for ever unless the step is skipped",
          "[nonfinite]") {
  for (const Nonfinite policy : {Nonfinite::propagate, Nonfinite::skip_step}) {
    OneTensor<float> model({1, 1, 1});
    polyak::AdamW<float> optimizer(model.params, {.weight_decay = 0, .nonfinite = policy});
    model.gradient = {1, 1e21F, 1};
    CHECK(optimizer.step(model.params, model.grads) == (policy == Nonfinite::propagate));
    model.gradient = {1, 1, 1};
    for (int step = 0; step < 100; ++step) optimizer.step(model.params, model.grads);
    CHECK(model.x[0] < 0.91F);
    if (policy == Nonfinite::skip_step) {
      CHECK(model.x[1] == model.x[0]);
      CHECK_NOTHROW(polyak::require_finite(optimizer));
    } else {
      CHECK(model.x[1] == 1);
      CHECK(refusal<nonfinite_error>([&] { polyak::require_finite(optimizer); }) ==
            "polyak: slot \"exp_avg_sq\" of tensor \"x\" holds a NaN or an infinity");
    }
  }
}

TEST_CASE("the check looks at gradients with their scale, clip coefficient and limit",
          "[nonfinite]") {
  OneTensor<float> model({1, 1, 1});
  polyak::AdamW<float> optimizer(model.params, {.nonfinite = Nonfinite::skip_step});
  const auto made = [&] { return optimizer.step(model.params, model.grads); };
  model.gradient = {1, 1e21F, 1};
  CHECK_FALSE(made());
  model.grads.scale(1e-3);
  CHECK(made());
  model.grads.scale(1);
  polyak::clip_norm(model.grads, 1.0);
  CHECK(made());
  model.grads.scale(1).clip_value(1e19);  // above the largest, 2^63
  CHECK_FALSE(made());
  model.grads.clip_value(9e18);
  CHECK(made());
  model.gradient[1] = std::numeric_limits<float>::infinity();  // in memory
  CHECK_FALSE(made());

  model.grads.clip_value(std::numeric_limits<double>::infinity()).scale(1e10);
  model.gradient[1] = 1e8F;
  CHECK(made());
  model.gradient[1] = 1e10F;
  CHECK_FALSE(made());
  CHECK_NOTHROW(polyak::require_finite(optimizer));

  // Without moments, a gradient only must not overflow itself.
  polyak::Sgd<float> plain(model.params,
                           {.learning_rate = 1e-30, .nonfinite = Nonfinite::skip_step});
  model.grads.scale(1);
  model.gradient[1] = 3e38F;
  CHECK(plain.step(model.params, model.grads));
  model.grads.scale(2);
  CHECK_FALSE(plain.step(model.params, model.grads));
  model.grads.clip_value(1);
  CHECK(plain.step(model.params, model.grads));
}

TEST_CASE("each optimizer of a step has its own largest gradient", "[nonfinite]") {
  TwoTensors<float> model;
  polyak::AdamW<float> adamw(model.params, {.nonfinite = Nonfinite::skip_step},
                             polyak::named("first"));
  polyak::Sgd<float> sgd(model.params, {.learning_rate = 0}, polyak::named("second"));
  const auto made = [&] { return polyak::step(model.params, model.both, adamw, sgd); };
  model.second_gradient[1] = 1e21F;
  CHECK(made());
  model.first_gradient[2] = 1e21F;
  CHECK_FALSE(made());
  CHECK(sgd.count() == 1);
}

TEMPLATE_TEST_CASE("weights that overflow in the step itself count as non-finite", "[nonfinite]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  const double highest = static_cast<double>(std::numeric_limits<P>::max());
  for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
    OneTensor<P> model(std::vector<P>(37, P(1)));
    polyak::Sgd<P> sgd(model.params, {.learning_rate = 1, .nonfinite = policy});
    polyak::Ema<P> careful(model.params, {.nonfinite = Nonfinite::skip_step});
    CHECK(polyak::step(model.params, model.grads, sgd, careful));
    // In half: 65000 + 1000.
    model.x[36] = static_cast<P>(0.99 * highest);
    model.gradient[36] = static_cast<P>(-0.02 * highest);
    if (policy == Nonfinite::error) {
      CHECK(refusal<nonfinite_error>(
                [&] { polyak::step(model.params, model.grads, sgd, careful); }) ==
            "polyak: after the optimizer's update a weight is NaN or infinite; the update stands");
    } else {
      CHECK_FALSE(polyak::step(model.params, model.grads, sgd, careful));
    }
    CHECK(std::isinf(static_cast<double>(model.x[36])));
    CHECK(sgd.count() == 2);
    CHECK(sgd.skipped() == 0);
    CHECK(careful.calls() == 1);
    CHECK_NOTHROW(polyak::require_finite(careful));
  }
}

TEMPLATE_TEST_CASE("an average that checks looks at buffers too", "[nonfinite]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  std::vector<float> x(5, 1);
  std::vector<TestType> statistics(7, TestType(1));
  std::vector<std::int64_t> counter(3, -1);  // all bits are set: no number of floating point
  polyak::Parameters<float> params;
  params.add("x", x)
      .add("statistics", statistics, polyak::Role::copy)
      .add("counter", counter.data(), {3}, polyak::Role::copy);
  polyak::Ema<float> strict(params, {.nonfinite = Nonfinite::error});
  polyak::EmaBank careful(params, std::array{0.9, 0.99}, {.nonfinite = Nonfinite::skip_step});
  CHECK(polyak::update(params, strict, careful));
  std::int64_t skipped = 0;
  for (const double bad : {nan_value, infinity, -infinity}) {
    for (const std::size_t place : {std::size_t{0}, std::size_t{3}, std::size_t{6}}) {
      INFO(bad << " at " << place);
      const auto state = polyak::state_bytes(strict);
      statistics[place] = static_cast<TestType>(bad);
      CHECK(refusal<nonfinite_error>([&] { strict.update(params); }) ==
            "polyak: a weight or buffer holds a NaN or an infinity; nothing was changed");
      CHECK((polyak::state_bytes(strict) == state));
      CHECK_FALSE(careful.update(params));
      CHECK(careful.skipped() == ++skipped);
      statistics[place] = TestType(1);
    }
  }
  CHECK(careful.calls() == 1);
  CHECK(polyak::update(params, strict, careful));
}

TEST_CASE("require_finite names what is not finite", "[nonfinite]") {
  std::vector<double> x(5, 1);
  std::vector<float> statistics(3, 2);
  polyak::Parameters<double> params;
  params.add("x", x).add("statistics", statistics, polyak::Role::copy);
  polyak::Ema<double> ema(params);
  polyak::Ema<double> debiased(params, {.start = polyak::Start::zero_debiased});
  polyak::Lawa<double> lawa(params, {.checkpoints = 2});
  polyak::update(params, ema, debiased, lawa);
  CHECK_NOTHROW(polyak::require_finite(ema));
  CHECK_NOTHROW(polyak::require_finite(debiased));
  CHECK_NOTHROW(polyak::require_finite(lawa));
  statistics[2] = std::numeric_limits<float>::quiet_NaN();
  ema.update(params);
  CHECK(refusal<nonfinite_error>([&] { polyak::require_finite(ema); }) ==
        "polyak: the copy of tensor \"statistics\" holds a NaN or an infinity");
  statistics[2] = 2;
  x[4] = infinity;
  ema.update(params);
  lawa.update(params);
  CHECK(refusal<nonfinite_error>([&] {
          polyak::require_finite(ema);
        }).find("\"average\" of tensor \"x\"") != std::string::npos);
  CHECK_THROWS_AS(polyak::require_finite(lawa), nonfinite_error);
  x[4] = 1;
  ema = polyak::Ema<double>(params);
  {
    polyak::update(params, ema);
    const auto guard = ema.swap_into(params);
    CHECK_THROWS_AS(polyak::require_finite(ema), std::logic_error);
  }
  CHECK_NOTHROW(polyak::require_finite(ema));
}

TEST_CASE("averages rest in a skipped step, fused and in separate calls", "[nonfinite]") {
  for (const bool averages_check : {false, true}) {
    const Nonfinite policy = averages_check ? Nonfinite::skip_step : Nonfinite::propagate;
    OneTensor<float> fused({1, 2, 3, 4, 5}), alone({1, 2, 3, 4, 5});
    const auto optimizer_of = [](OneTensor<float>& model) {
      return polyak::AdamW<float>(model.params,
                                  {.learning_rate = 0.1, .nonfinite = Nonfinite::skip_step});
    };
    auto optimizer = optimizer_of(fused), optimizer_alone = optimizer_of(alone);
    polyak::Ema<float> ema(fused.params, {.decay = 0.9, .nonfinite = policy}),
        ema_alone(alone.params, {.decay = 0.9, .nonfinite = policy});
    polyak::Swa<float> swa(fused.params), swa_alone(alone.params);
    for (int step = 0; step < 12; ++step) {
      const bool bad = step == 0 || step == 4 || step == 5 || step == 11;
      for (auto* model : {&fused, &alone}) {
        std::fill(model->gradient.begin(), model->gradient.end(), static_cast<float>(step) - 5.5F);
        if (bad) model->gradient[3] = step == 4 ? 1e21F : std::numeric_limits<float>::infinity();
      }
      CHECK(polyak::step(fused.params, fused.grads, optimizer, ema, swa) == !bad);
      if (optimizer_alone.step(alone.params, alone.grads)) {
        ema_alone.update(alone.params);
        swa_alone.update(alone.params);
      }
    }
    CHECK(bytes_of(fused.x) == bytes_of(alone.x));
    CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(optimizer_alone));
    CHECK(polyak::state_bytes(swa) == polyak::state_bytes(swa_alone));
    CHECK(ema.calls() == 8);
    CHECK(ema.skipped() == (averages_check ? 4 : 0));
    CHECK(ema_alone.skipped() == 0);
    for (std::size_t k = 0; k < 5; ++k) CHECK(ema.view()[0](k) == ema_alone.view()[0](k));
  }
}

}  // namespace nonfinite_test
