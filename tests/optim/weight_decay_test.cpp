// SPDX-License-Identifier: Apache-2.0
// A decay of 0 must not read the weights: an infinite weight must not become NaN.
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include <limits>
#include <vector>

#include "catch.hpp"

namespace weight_decay_test {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The weight after one step from infinity along a gradient of 1.
template <template <class, class> class Optimizer, class Options>
double step_from_infinity(const Options& options) {
  std::vector<double> x{infinity}, g{1};
  polyak::Parameters<double> params;
  params.add("x", x);
  Optimizer<double, double> optimizer(params, options);
  optimizer.step(params, polyak::like(params, g));
  return x[0];
}

}  // namespace

TEST_CASE("a coupled decay of 0 leaves an infinite weight infinite") {
  using namespace polyak;
  CHECK(step_from_infinity<Sgd>(SgdOptions{.learning_rate = 0.1}) == infinity);
  CHECK(step_from_infinity<Sgd>(SgdOptions{.learning_rate = 0.1, .momentum = 0.9}) == infinity);
  CHECK(step_from_infinity<Adam>(AdamOptions{.amsgrad = true}) == infinity);
  CHECK(step_from_infinity<AdamW>(AdamWOptions{.beta1 = 0, .weight_decay = 0}) == infinity);
}

TEST_CASE("a decay of 0 keeps an infinite weight out of Schedule-Free's direction") {
  std::vector<double> x{infinity}, g{1};
  polyak::Parameters<double> params;
  params.add("x", x);
  const auto gradients = polyak::like(params, g);
  polyak::ScheduleFreeSgd<double> sgd(params);
  sgd.step(params, gradients);
  CHECK(sgd.slot("z")[0](0) == infinity);
  x[0] = infinity;
  polyak::ScheduleFreeAdamW<double> adamw(params);
  adamw.step(params, gradients);
  CHECK(adamw.slot("z")[0](0) == infinity);
}

}  // namespace weight_decay_test
