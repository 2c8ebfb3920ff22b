// SPDX-License-Identifier: Apache-2.0
// Optimizers of 16-bit weights that keep their digits: resumed in five ways and from files, on any
// executor, for any selection.
#include <Eigen/Core>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace weight_digits_methods_test {

using namespace polyak;

/// The random bits of an element depend on its tensor and place, and on the optimizer's step. No
/// reset of the moments restarts the digits of weights, as it does no schedule.
template <class Use>
void optimizers(Use use, Accumulate accumulate) {
  const bool random = accumulate == Accumulate::stochastic;
  use({.name = "AdamW",
       .header = "optim/adamw.hpp",
       .one_clock = random,
       .by_tensor = random,
       .scheduled = true},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return AdamW<P>(p, {.learning_rate = 1e-3, .accumulate = accumulate, .seed = 9}, s...);
      });
  use({.name = "Sgd",
       .header = "optim/sgd.hpp",
       .one_clock = random,
       .by_tensor = random,
       .scheduled = true},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Sgd<P>(p, {.learning_rate = 1e-3, .accumulate = accumulate}, s...);
      });
}

TEST_CASE("optimizers that keep 16-bit weights with a rest") {
  method_battery::check<Eigen::bfloat16>([](auto use) { optimizers(use, Accumulate::master); });
  method_battery::check<Eigen::bfloat16>([](auto use) { optimizers(use, Accumulate::kahan); });
}

TEST_CASE("optimizers that round 16-bit weights at random") {
  method_battery::check<Eigen::bfloat16>([](auto use) { optimizers(use, Accumulate::stochastic); });
}

TEST_CASE("Schedule-Free that keeps 16-bit weights with a rest") {
  method_battery::check<Eigen::half>([](auto use) {
    use({.name = "ScheduleFreeSgd",
         .header = "optim/schedule_free_sgd.hpp",
         .one_clock = true,
         .scheduled = true},
        []<class P>(const Parameters<P>& p, const auto&... s) {
          return ScheduleFreeSgd<P>(p, {.learning_rate = 1e-3, .accumulate = Accumulate::master},
                                    s...);
        });
  });
}

}  // namespace weight_digits_methods_test
