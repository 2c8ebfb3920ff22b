// SPDX-License-Identifier: Apache-2.0
// The battery over the Schedule-Free optimizers.
#include <cmath>
#include <set>
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
  using Sgd = ScheduleFreeSgd<P, S>;
  using AdamW = ScheduleFreeAdamW<P, S>;
  return {
      entry<Sgd>("ScheduleFreeSgd", ScheduleFreeSgdOptions{.learning_rate = 0.5}),
      entry<Sgd>("ScheduleFreeSgd with warmup",
                 ScheduleFreeSgdOptions{.learning_rate = 0.5,
                                        .warmup_steps = 5,
                                        .weight_decay = 0.1,
                                        .r = 1,
                                        .average_weight = AverageWeight::learning_rate}),
      entry<AdamW>("ScheduleFreeAdamW", ScheduleFreeAdamWOptions{.learning_rate = 0.1}),
      entry<AdamW>("ScheduleFreeAdamW decay at z",
                   ScheduleFreeAdamWOptions{.learning_rate = 0.1,
                                            .warmup_steps = 4,
                                            .weight_decay = 0.1,
                                            .decay_at_z = true,
                                            .bias_correction_in_lr = true}),
      entry<AdamW>("ScheduleFreeAdamW momentum",
                   ScheduleFreeAdamWOptions{
                       .learning_rate = 0.1, .inner_momentum = 0.7, .weight_decay = 0.1}),
      entry<AdamW>("ScheduleFreeAdamW momentum, decay at z",
                   ScheduleFreeAdamWOptions{.learning_rate = 0.1,
                                            .inner_momentum = 0.7,
                                            .weight_decay = 0.1,
                                            .decay_at_z = true,
                                            .r = 2}),
  };
}

constexpr bool one_clock = true;  // the averaging weights count the steps of the optimizer

}  // namespace

TEMPLATE_TEST_CASE("battery of Schedule-Free: parameters and state of one type", "", float,
                   double) {
  method_battery::check(methods<TestType, TestType>(), one_clock);
}

TEST_CASE("battery of Schedule-Free: 16-bit parameters") {
  method_battery::check(methods<Eigen::bfloat16, float>(), one_clock);
}

TEST_CASE("battery of Schedule-Free: state wider than parameters") {
  method_battery::check(methods<float, double>(), one_clock);
}

TEST_CASE("a tensor that joins ScheduleFreeAdamW late has its own z and bias correction") {
  Model<double> model({3, 8});
  polyak::ScheduleFreeAdamW optimizer(model.params, {.learning_rate = 0.25});
  const double* y = model.params[1].data();
  for (std::uint64_t step = 0; step < 3; ++step) {
    model.differentiate(step, {1});
    optimizer.step(model.params, model.gradients);
  }
  const std::vector<double> start(y, y + 8);
  model.differentiate(3);
  optimizer.step(model.params, model.gradients);
  const auto z = optimizer.slot("z")["tensor 1"];
  const auto squares = optimizer.slot("exp_avg_sq")["tensor 1"];
  for (std::size_t k = 0; k < 8; ++k) {
    // Corrected, the first second moment is g^2: the direction is the sign of g.
    const double gradient = model.gradients[1][k];
    CHECK(squares(k) == Approx(0.001 * gradient * gradient));
    CHECK(z(k) == Approx(start[k] - std::copysign(0.25, gradient)).epsilon(1e-6));
  }
}
