// SPDX-License-Identifier: Apache-2.0
// The battery over every average of one gain.
#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace averages_test {

namespace {

using polyak::Accumulate;

template <class S>
constexpr auto averages = [](auto use) { methods::for_each_average<S>(use); };

/// Stored in other ways than rounded to nearest.
template <class S>
auto stored(Accumulate accumulate) {
  return [accumulate](auto use) { methods::for_each_average<S>(use, accumulate); };
}

}  // namespace

TEST_CASE("battery of averages: float") { method_battery::check<float>(averages<float>); }

TEST_CASE("battery of averages: float with compensation and in double") {
  method_battery::check<float>(stored<float>(Accumulate::kahan));
  method_battery::check<float>(stored<float>(Accumulate::float64));
}

TEST_CASE("battery of averages: double") { method_battery::check_types<double>(averages<double>); }

TEST_CASE("battery of averages: state of double") {
  method_battery::check_types<float>(averages<double>);
}

}  // namespace averages_test
