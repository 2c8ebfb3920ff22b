// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/switch_ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/sgd.hpp>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace switch_ema_test {

using polyak::SwitchEmaOptions;
using polyak::SwitchUnit;
using polyak::SwitchWarmup;

TEST_CASE("SwitchEma continues training from the average as computed by hand", "[switch_ema]") {
  double x = 0;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::SwitchEma<double> switch_ema(
      params, {.decay = 0.5, .unit = SwitchUnit::iterations, .interval = 2});
  const std::vector<double> averages{1, 2.5, 3.5, 5}, weights{2, 2.5, 4.5, 5};
  for (std::size_t i = 0; i < 4; ++i) {
    x += 2;  // a step of training
    switch_ema.update(params);
    CHECK(switch_ema.view()[0](0) == averages[i]);
    CHECK(x == weights[i]);  // the switches after i = 1 and i = 3 take it back in part
  }
  CHECK(switch_ema.switches() == 2);
}

TEST_CASE("the lag of SwitchEma follows L <- b (L + d) between switches", "[switch_ema]") {
  constexpr double d = 0.01;
  constexpr int n = 25;
  for (const bool epochs : {true, false}) {
    for (const double b : {0.5, 0.9, 0.99}) {
      INFO("decay " << b << (epochs ? ", epochs" : ", iterations"));
      double x = 1;
      polyak::Parameters<double> params;
      params.add("x", &x, {1});
      polyak::SwitchEma<double> switch_ema(
          params, {.decay = b,
                   .unit = epochs ? SwitchUnit::epochs : SwitchUnit::iterations,
                   .interval = epochs ? 1 : n});
      const double lag_after_n = d * b * (1 - std::pow(b, n)) / (1 - b);
      for (int epoch = 0; epoch < 6; ++epoch) {
        const double begin = x;
        if (epochs) CHECK(switch_ema.begin_epoch(params) == (epoch > 0));
        double lag = 0;
        for (int i = 0; i < n; ++i) {
          x += d;
          switch_ema.update(params);
          lag = b * (lag + d);
          const bool switched = !epochs && i == n - 1;
          REQUIRE(x - switch_ema.view()[0](0) == Approx(switched ? 0 : lag).margin(1e-14));
        }
        CHECK(lag == Approx(lag_after_n).epsilon(1e-13));
        if (epochs) x = switch_ema.view()[0](0);  // as begin_epoch() will do
        CHECK(x - begin == Approx(n * d - lag_after_n).margin(1e-13));
      }
      CHECK(switch_ema.switches() == (epochs ? 5 : 6));
    }
  }
}

TEST_CASE("SwitchEma switches after the iterations that its options determine", "[switch_ema]") {
  for (const std::int64_t interval : {1, 2, 5}) {
    for (const std::int64_t start : {0, 3, 4}) {
      for (const std::int64_t end : {4, 11, 1000}) {
        INFO("interval " << interval << ", start " << start << ", end " << end);
        double x = 0;
        polyak::Parameters<double> params;
        params.add("x", &x, {1});
        polyak::SwitchEma<double> switch_ema(params, {.decay = 0.75,
                                                      .unit = SwitchUnit::iterations,
                                                      .interval = interval,
                                                      .start = start,
                                                      .end = end});
        std::int64_t switches = 0;
        for (std::int64_t i = 0; i < 20; ++i) {
          const double trained = x += 1;
          switch_ema.update(params);
          const bool expected = i > start && i <= end && (i + 1) % interval == 0;
          switches += expected;
          REQUIRE(x == (expected ? switch_ema.view()[0](0) : trained));
          REQUIRE(switch_ema.switches() == switches);
        }
      }
    }
  }
}

TEST_CASE("SwitchEma switches before the epochs that its options determine", "[switch_ema]") {
  for (const std::int64_t interval : {1, 2, 3}) {
    for (const std::int64_t start : {0, 2}) {
      for (const std::int64_t end : {2, 6, 1000}) {
        INFO("interval " << interval << ", start " << start << ", end " << end);
        double x = 0;
        polyak::Parameters<double> params;
        params.add("x", &x, {1});
        polyak::SwitchEma<double> switch_ema(
            params, {.decay = 0.75, .interval = interval, .start = start, .end = end});
        for (std::int64_t epoch = 0; epoch < 10; ++epoch) {
          const bool expected = epoch > start && epoch <= end && (epoch + 1) % interval == 0;
          const double before = x;
          REQUIRE(switch_ema.begin_epoch(params) == expected);
          REQUIRE(x == (expected ? switch_ema.view()[0](0) : before));
          for (int i = 0; i < 3; ++i) {
            const double trained = x += 1;
            switch_ema.update(params);
            REQUIRE(x == trained);  // in this unit no update switches
          }
        }
      }
    }
  }
}

TEST_CASE("a switch leaves the average and the optimizer's state alone", "[switch_ema]") {
  auto x = RandomNumbers(1).many<float>(77), y = x, gradient = x;
  polyak::Parameters<float> params, alone;
  params.add("x", x);
  alone.add("x", y);
  const auto grads = polyak::like(params, gradient);
  const auto alone_grads = polyak::like(alone, gradient);
  polyak::AdamW optimizer(params, {.learning_rate = 0.05}),
      reference(alone, {.learning_rate = 0.05});
  polyak::Sgd momentum(params, {.learning_rate = 0.05, .momentum = 0.9});
  polyak::Sgd reference_momentum(alone, {.learning_rate = 0.05, .momentum = 0.9});
  polyak::SwitchEma by_iteration(params, {.decay = 0.8,
                                          .unit = SwitchUnit::iterations,
                                          .interval = 4,
                                          .warmup = SwitchWarmup::linear,
                                          .warmup_iterations = 9});
  polyak::SwitchEma by_epoch(params, {.decay = 0.8});
  RandomNumbers random(2);
  for (int i = 0; i < 22; ++i) {
    if (i % 5 == 0) {
      const auto average = bytes_of(by_epoch.slots().tensor(0, 0));
      const bool switched = by_epoch.begin_epoch(params);
      CHECK(switched == (i > 0));
      CHECK(bytes_of(by_epoch.slots().tensor(0, 0)) == average);
      if (switched) CHECK(bytes_of(x) == average);
    }
    random.fill(gradient);
    momentum.step(params, grads);
    polyak::step(params, grads, optimizer, by_iteration, by_epoch);
    reference_momentum.step(alone, alone_grads);
    reference.step(alone, alone_grads);
    CHECK(by_iteration.calls() == i + 1);  // the clock of the warmup continues, too
  }
  CHECK(by_iteration.switches() == 5);
  CHECK(by_epoch.switches() == 4);
  CHECK(bytes_of(x) != bytes_of(y));
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(reference));
  CHECK(polyak::state_bytes(momentum) == polyak::state_bytes(reference_momentum));
}

TEMPLATE_TEST_CASE("moments that are reset at a switch start from zero", "[switch_ema]",
                   polyak::AdamW<float>, polyak::Sgd<float>, polyak::AdEMAMix<float>) {
  auto x = RandomNumbers(1).many<float>(77), y = x, gradient = x;
  polyak::Parameters<float> params, fresh;
  params.add("x", x);
  fresh.add("x", y);
  const auto grads = polyak::like(params, gradient), fresh_grads = polyak::like(fresh, gradient);
  const auto make = [](const auto& list) {
    if constexpr (std::is_same_v<TestType, polyak::Sgd<float>>) {
      return TestType(list, {.learning_rate = 0.05, .momentum = 0.9});
    } else {
      return TestType(list, {.learning_rate = 0.05});
    }
  };
  TestType optimizer = make(params);
  polyak::SwitchEma average(params, {.decay = 0.8, .unit = SwitchUnit::iterations, .interval = 5});
  RandomNumbers random(2);
  std::optional<TestType> anew;
  int switches = 0;
  for (int i = 0; i < 23; ++i) {
    random.fill(gradient);
    polyak::step(params, grads, optimizer, average);
    if (anew) {
      anew->step(fresh, fresh_grads);
      if (!average.switched()) CHECK(bytes_of(x) == bytes_of(y));
      for (const std::string& slot : optimizer.slots().names()) {
        CHECK(bytes_of(optimizer.slots().tensor(optimizer.slots().find(slot), 0)) ==
              bytes_of(anew->slots().tensor(anew->slots().find(slot), 0)));
      }
    }
    CHECK(average.switched() == (i > 0 && (i + 1) % 5 == 0));
    if (average.switched()) {
      optimizer.reset_moments();
      CHECK(optimizer.count() == i + 1);  // schedules go on
      y = x;
      anew.emplace(make(fresh));
      ++switches;
    }
  }
  CHECK(switches == 4);
}

TEST_CASE("the warmups of SwitchEma follow their formulas", "[switch_ema]") {
  constexpr double b = 0.96, r = 0.25;
  constexpr std::int64_t w = 8;
  const auto decay = [](SwitchWarmup warmup, std::int64_t i) {
    const polyak::SwitchWeighting weighting{
        {.decay = b, .warmup = warmup, .warmup_iterations = w, .warmup_ratio = r}};
    CHECK(weighting.gain(i + 1) == Approx(1 - weighting.complement(i + 1)).epsilon(1e-15));
    return weighting.complement(i + 1);
  };
  for (std::int64_t i = 0; i < 20; ++i) {
    INFO("iteration " << i);
    const double part = std::min(1.0, static_cast<double>(i) / w);
    CHECK(decay(SwitchWarmup::none, i) == b);
    CHECK(decay(SwitchWarmup::constant, i) == (i <= w ? r * b : b));
    CHECK(decay(SwitchWarmup::linear, i) == Approx(b * (r + (1 - r) * part)).epsilon(1e-14));
    CHECK(decay(SwitchWarmup::exponential, i) == Approx(b * std::pow(r, 1 - part)).epsilon(1e-14));
  }
  CHECK(decay(SwitchWarmup::linear, 0) == Approx(r * b).epsilon(1e-15));
  CHECK(decay(SwitchWarmup::exponential, 4) == Approx(b / 2).epsilon(1e-15));

  // With gains 1 - b_i on zeros and one 1 the average shows the product of the decays.
  double x = 1;
  polyak::Parameters<double> params;
  params.add("x", &x, {1});
  polyak::SwitchEma<double> switch_ema(
      params,
      {.decay = b, .warmup = SwitchWarmup::linear, .warmup_iterations = w, .warmup_ratio = r});
  x = 0;
  double product = 1;
  for (std::int64_t i = 0; i < 15; ++i) {
    switch_ema.update(params);
    product *= decay(SwitchWarmup::linear, i);
    CHECK(switch_ema.view()[0](0) == Approx(product).epsilon(1e-13));
  }
}

TEST_CASE("a switch changes only averaged tensors", "[switch_ema]") {
  std::vector<float> weight{1, 2}, free{3, 4}, statistics{5, 6};
  polyak::Parameters<float> params;
  params.add("weight", weight)
      .add("free", free, polyak::Role::ignore)
      .add("statistics", statistics, polyak::Role::copy);
  polyak::SwitchEma switch_ema(params, {.decay = 0.5});
  switch_ema.begin_epoch(params);
  weight = {3, 6};
  free = {30, 40};
  statistics = {50, 60};
  switch_ema.update(params);
  statistics = {51, 61};
  CHECK(switch_ema.begin_epoch(params));
  CHECK(weight == std::vector<float>{2, 4});
  CHECK(free == std::vector<float>{30, 40});
  CHECK(statistics == std::vector<float>{51, 61});  // still the online model's
}

TEST_CASE("begin_epoch refuses wrong times and other parameters", "[switch_ema]") {
  std::vector<float> x{1, 2}, y{1, 2, 3};
  polyak::Parameters<float> params, other;
  params.add("x", x);
  other.add("x", y);
  polyak::SwitchEma iterations(params, {.unit = SwitchUnit::iterations});
  CHECK(refusal<std::logic_error>([&] { iterations.begin_epoch(params); }) ==
        "polyak: begin_epoch() of a SwitchEma that counts iterations");

  polyak::SwitchEma epochs(params, {.decay = 0.5});
  CHECK_FALSE(epochs.begin_epoch(params));
  CHECK(refusal<std::invalid_argument>([&] {
          epochs.begin_epoch(other);
        }).find("\"x\" is float32 [3], expected float32 [2]") != std::string::npos);
  x = {3, 4};
  epochs.update(params);
  {
    const auto guard = epochs.swap_into(params);
    CHECK(refusal<std::logic_error>([&] { epochs.begin_epoch(params); }) ==
          "polyak: begin_epoch() while an average is swapped in");
    CHECK(x == std::vector<float>{2, 3});
  }
  CHECK(x == std::vector<float>{3, 4});
  CHECK(epochs.begin_epoch(params));  // the refused calls began no epoch: this one is number 1
  CHECK(x == std::vector<float>{2, 3});
  CHECK(y == std::vector<float>{1, 2, 3});

  // Without updates there is no average to continue from.
  polyak::SwitchEma idle(params, {.decay = 0.5});
  x = {7, 8};
  CHECK_FALSE(idle.begin_epoch(params));
  CHECK_FALSE(idle.begin_epoch(params));
  CHECK(x == std::vector<float>{7, 8});
}

TEST_CASE("SwitchEma refuses options out of range", "[switch_ema]") {
  using O = SwitchEmaOptions;
  std::vector<float> x{1, 2};
  polyak::Parameters<float> params;
  params.add("x", x);
  const auto make = [&](const O& options) { polyak::SwitchEma<float> method(params, options); };
  check_refused(make, O{}, &O::decay, "SwitchEmaOptions.decay must lie in (0, 1)",
                {0, 1, -0.5, 1.5, nan_value, infinity});
  check_refused(make, O{}, &O::interval, "SwitchEmaOptions.interval must be >= 1", {0, -1});
  check_refused(make, O{}, &O::start, "SwitchEmaOptions.start must be >= 0", {-1});
  check_refused(make, O{.start = 5}, &O::end, "SwitchEmaOptions.end must be >= start", {4, -1});
  for (const auto warmup :
       {SwitchWarmup::constant, SwitchWarmup::linear, SwitchWarmup::exponential}) {
    check_refused(make, O{.warmup = warmup, .warmup_iterations = 1}, &O::warmup_iterations,
                  "SwitchEmaOptions.warmup_iterations must be >= 1 with a warmup", {0, -1});
  }
  check_refused(make, O{}, &O::warmup_ratio, "SwitchEmaOptions.warmup_ratio must lie in (0, 1]",
                {0, -0.1, 1.5, nan_value, infinity});
  CHECK_NOTHROW(make({.start = 5, .end = 5}));
  CHECK_NOTHROW(make({.warmup_ratio = 1}));
  CHECK(x == std::vector<float>{1, 2});
}

}  // namespace switch_ema_test
