// SPDX-License-Identifier: Apache-2.0
// Laws between parameters of one type and state of another: packs convert as numbers do.
#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/law_battery.hpp"
#include "../support/laws.hpp"

namespace {

template <class P, class S>
constexpr auto battery =
    [](const char* name, const auto& law) { law_battery::check<P, S>(name, law); };

}  // namespace

TEMPLATE_TEST_CASE("laws of averages: state wider than parameters", "", float, Eigen::bfloat16) {
  laws::for_each_average<double>(battery<TestType, double>);
}

TEMPLATE_TEST_CASE("laws of averages: 16-bit parameters", "", Eigen::half, Eigen::bfloat16) {
  laws::for_each_average<float>(battery<TestType, float>);
}

TEST_CASE("laws of averages: state of 16 bits") {
  laws::for_each_average<float>(battery<float, Eigen::half>);
  laws::for_each_average<float>(battery<Eigen::bfloat16, Eigen::bfloat16>);
}

TEST_CASE("laws of optimizers: bfloat16 parameters") {
  laws::for_each_optimizer<float>(battery<Eigen::bfloat16, float>);
}

TEST_CASE("laws of optimizers: float parameters with state of double") {
  laws::for_each_optimizer<double>(battery<float, double>);
}

TEST_CASE("laws of Schedule-Free: half parameters") {
  laws::for_each_schedule_free<float>(battery<Eigen::half, float>);
}

TEST_CASE("laws of Schedule-Free: bfloat16 parameters with state of double") {
  laws::for_each_schedule_free<double>(battery<Eigen::bfloat16, double>);
}
