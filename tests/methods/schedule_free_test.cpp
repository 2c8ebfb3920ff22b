// SPDX-License-Identifier: Apache-2.0
// The battery over the Schedule-Free optimizers.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace schedule_free_test {

namespace {

template <class S>
constexpr auto optimizers = [](auto use) { methods::for_each_schedule_free<S>(use); };

}  // namespace

TEST_CASE("battery of Schedule-Free: float") { method_battery::check<float>(optimizers<float>); }

TEST_CASE("battery of Schedule-Free: double") {
  method_battery::check_types<double>(optimizers<double>);
}

TEST_CASE("battery of Schedule-Free: 16-bit parameters") {
  method_battery::check_types<Eigen::bfloat16>(optimizers<float>);
}

TEST_CASE("battery of Schedule-Free: state wider than parameters") {
  method_battery::check_types<float>(optimizers<double>);
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

}  // namespace schedule_free_test
