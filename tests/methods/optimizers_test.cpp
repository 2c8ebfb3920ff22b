// SPDX-License-Identifier: Apache-2.0
// The battery over every optimizer but Schedule-Free.
#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace optimizers_test {

namespace {

template <class S>
constexpr auto optimizers = [](auto use) { methods::for_each_optimizer<S>(use); };

}  // namespace

TEST_CASE("battery of optimizers: float") { method_battery::check<float>(optimizers<float>); }

TEST_CASE("battery of optimizers: double") {
  method_battery::check_types<double>(optimizers<double>);
}

TEST_CASE("battery of optimizers: 16-bit parameters") {
  method_battery::check_types<Eigen::half>(optimizers<float>);
}

TEST_CASE("battery of optimizers: state wider than parameters") {
  method_battery::check_types<float>(optimizers<double>);
}

}  // namespace optimizers_test
