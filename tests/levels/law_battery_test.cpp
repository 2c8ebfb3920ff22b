// SPDX-License-Identifier: Apache-2.0
// Every law, in float and double: packs of every level equal single numbers.
#include "../support/law_battery.hpp"
#include "../support/catch.hpp"
#include "../support/laws.hpp"

namespace law_battery_test {

namespace {

template <class T>
constexpr auto battery =
    [](const char* name, const auto& law) { law_battery::check<T>(name, law); };

}  // namespace

TEMPLATE_TEST_CASE("laws of averages give the same bits on packs and on single numbers", "", float,
                   double) {
  laws::for_each_average<TestType>(battery<TestType>);
}

TEMPLATE_TEST_CASE("laws of optimizers give the same bits on packs and on single numbers", "",
                   float, double) {
  laws::for_each_optimizer<TestType>(battery<TestType>);
}

TEMPLATE_TEST_CASE("laws of Schedule-Free give the same bits on packs and on single numbers", "",
                   float, double) {
  laws::for_each_schedule_free<TestType>(battery<TestType>);
}

}  // namespace law_battery_test
