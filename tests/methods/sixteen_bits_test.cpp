// SPDX-License-Identifier: Apache-2.0
// The battery over averages of 16-bit weights, and over averages that are stored in 16 bits.
#include <vector>

#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace sixteen_bits_test {

namespace {

using Eigen::bfloat16;
using polyak::Accumulate;

/// Rounding at random is by tensor and element, so it depends on how tensors divide the memory.
auto at_random(auto for_each) {
  return [for_each](auto use) {
    for_each(
        [use](methods::Method method, auto make) {
          method.by_tensor = true;
          use(method, make);
        },
        Accumulate::stochastic);
  };
}

}  // namespace

TEST_CASE("battery of averages: 16-bit parameters") {
  method_battery::check_types<bfloat16>([](auto use) { methods::for_each_average<float>(use); });
}

TEST_CASE("battery of averages: 16-bit state with compensation") {
  method_battery::check<bfloat16>([](auto use) {
    methods::for_each_average<bfloat16>(
        [use](const methods::Method& method, auto make) {
          // Gains that fall to 0 are refused.
          if (method.header == "average/ema.hpp" || method.header == "average/hare_tortoise.hpp") {
            use(method, make);
          }
        },
        Accumulate::kahan);
  });
}

TEST_CASE("battery of averages and windows: 16-bit state rounded at random") {
  method_battery::check<bfloat16>(at_random([](auto use, Accumulate accumulate) {
    methods::for_each_average<bfloat16>(use, accumulate);
    methods::for_each_window<bfloat16>(use, accumulate);
  }));
}

}  // namespace sixteen_bits_test
