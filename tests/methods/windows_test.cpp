// SPDX-License-Identifier: Apache-2.0
// The battery over banks, windows, teachers and filtered averages.
#include <Eigen/Core>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace windows_test {

namespace {

using polyak::Accumulate;

template <class S>
auto windows(Accumulate accumulate) {
  return [accumulate](auto use) { methods::for_each_window<S>(use, accumulate); };
}

}  // namespace

TEST_CASE("battery of windows: float") {
  method_battery::check<float>(windows<float>(Accumulate::plain));
}

TEST_CASE("battery of windows: float with compensation and in double") {
  method_battery::check<float>(windows<float>(Accumulate::kahan));
  method_battery::check<float>(windows<float>(Accumulate::float64));
}

}  // namespace windows_test
