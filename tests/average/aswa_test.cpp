// SPDX-License-Identifier: Apache-2.0
// polyak/average/aswa.hpp
#include <polyak/average/aswa.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/optim/sgd.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "model.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace aswa_test {

using namespace polyak;

TEST_CASE("ASWA is the equal mean of an epoch, and is copied into the model") {
  Model<double> model({9, 40});
  Aswa<double> average(model.params);
  CHECK_THROWS_AS(average.end_epoch(model.params), std::logic_error);
  std::vector<double> sums(9, 0.0);
  for (std::uint64_t step = 0; step < 7; ++step) {
    model.wander(step);
    for (std::size_t i = 0; i < 9; ++i) sums[i] += model.params[0].data()[i];
    average.update(model.params);
    CHECK(average.accepted());
  }
  average.end_epoch(model.params);
  for (std::size_t i = 0; i < 9; ++i) {
    CHECK(model.params[0].data()[i] == Approx(sums[i] / 7).epsilon(1e-14));
    CHECK(model.params[0].data()[i] == average.view()[0][i]);
  }
  CHECK(average.averaged() == 7);
}

TEST_CASE(
    "reference_swap exchanges weights and average at the end of an epoch, and counts the first "
    "iterate twice") {
  double weight = 0;
  Parameters<double> params;
  params.add("w", &weight, {});
  Aswa<double> average(params, {.reference_swap = true});
  for (const double x : {3.0, 6.0, 12.0}) {
    weight = x;
    average.update(params);
  }
  CHECK(average.averaged() == 4);
  const double mean = average.view()[0][0];
  CHECK(mean == Approx((3 + 3 + 6 + 12) / 4.0).epsilon(1e-15));
  average.end_epoch(params);
  CHECK(weight == mean);
  CHECK(average.view()[0][0] == 12);
  Aswa<double> filtered(params, {.filter = AswaFilter::mean_norm, .reference_swap = true});
  filtered.update(params);
  CHECK(filtered.averaged() == 1);
}

TEST_CASE("NASWA accepts iterates that are farther away than the mean of the rejected ones") {
  double weight = 0;
  Parameters<double> params;
  params.add("w", &weight, {});
  Aswa<double> average(params, {.filter = AswaFilter::mean_norm});
  const auto offer = [&](double x) {
    weight = x;
    average.update(params);
    return average.accepted();
  };
  CHECK(offer(0));        // the first
  CHECK_FALSE(offer(0));  // at no distance
  CHECK(average.norm() == 0);
  CHECK(offer(1));  // farther than the mean of nothing: N = {1}, average 1/2
  CHECK(average.norm() == 1);
  CHECK_FALSE(offer(1.25));   // 0.75: N = {1, 0.75}
  CHECK_FALSE(offer(1.375));  // 0.875 is not above 0.875
  CHECK(offer(1.40625));      // 0.90625 is: N = {0.90625}
  CHECK(average.averaged() == 3);
  CHECK_FALSE(offer(std::numeric_limits<double>::quiet_NaN()));
  CHECK_FALSE(offer(std::numeric_limits<double>::infinity()));
  CHECK(average.view()[0][0] == Approx((0 + 1 + 1.40625) / 3));
  average.end_epoch(params);
  CHECK(weight == average.view()[0][0]);
  CHECK_FALSE(offer(weight));
  CHECK(offer(weight + 1e-3));  // N is empty again
  CHECK(average.calls() == 10);
}

TEST_CASE("the norm is the mean or the largest of the tensors' norms") {
  std::vector<float> a(100, 0.0f), b(3, 0.0f);
  Parameters params;
  params.add("a", std::span(a)).add("b", std::span(b));
  Aswa mean(params, {.filter = AswaFilter::mean_norm}),
      largest(params, {.filter = AswaFilter::largest_norm});
  update(params, mean, largest);
  a.assign(100, 0.5f);
  b = {1, 2, 2};
  update(params, mean, largest);
  CHECK(mean.norm() == Approx((5 + 3) / 2.0).epsilon(1e-12));
  CHECK(largest.norm() == Approx(5).epsilon(1e-12));
}

TEST_CASE("Aswa after an optimizer tests the weights that the optimizer wrote") {
  Model<float> one({70, 33}), two({70, 33});
  const AswaOptions options{.filter = AswaFilter::mean_norm};
  Aswa<float> fused(one.params, options), apart(two.params, options);
  Sgd<float> first(one.params, {.learning_rate = 0.1}), second(two.params, {.learning_rate = 0.1});
  std::int64_t rejected = 0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    one.differentiate(step);
    two.differentiate(step);
    polyak::step(one.params, one.gradients, first, fused);
    second.step(two.params, two.gradients);
    apart.update(two.params);
    CHECK(fused.norm() == apart.norm());
    CHECK(fused.accepted() == apart.accepted());
    rejected += !fused.accepted();
    if (step % 6 == 5) {
      fused.end_epoch(one.params);
      apart.end_epoch(two.params);
    }
    CHECK(one.bytes() == two.bytes());
  }
  CHECK(rejected > 0);
  const auto guard = fused.swap_into(one.params);
  CHECK_THROWS_AS(fused.end_epoch(one.params), std::logic_error);
}

TEST_CASE("a first iterate that is not finite is not accepted") {
  double weight = std::numeric_limits<double>::quiet_NaN();
  Parameters<double> params;
  params.add("w", &weight, {});
  Aswa<double> average(params, {.filter = AswaFilter::largest_norm});
  average.update(params);
  CHECK_FALSE(average.accepted());
  CHECK_FALSE(average.ready());
  weight = 2;
  average.update(params);
  CHECK(average.accepted());
  CHECK(average.view()[0][0] == 2);
}

TEST_CASE(
    "Aswa offers iterates from `start` on, every `period` calls, and tests the norm of chosen "
    "tensors") {
  std::vector<float> a(4, 0.0f), b(4, 0.0f);
  Parameters params;
  params.add("a", std::span(a)).add("b", std::span(b));
  Aswa late(params, {.start = 3, .period = 2});
  for (int t = 1; t <= 8; ++t) {
    late.update(params);
    CHECK(late.accepted() == (t >= 3 && t % 2 == 1));
  }
  CHECK(late.averaged() == 3);
  Aswa chosen(params, {.filter = AswaFilter::mean_norm, .normed = {"b"}});
  chosen.update(params);
  a.assign(4, 7.0f);
  chosen.update(params);
  CHECK(chosen.norm() == 0);
  b.assign(4, 1.0f);
  chosen.update(params);
  CHECK(chosen.norm() == 2);

  const auto make = [&](const AswaOptions& o) { return Aswa<float>(params, o); };
  check_refused(make, AswaOptions{}, &AswaOptions::start, "AswaOptions.start must be >= 1",
                {0, -1});
  check_refused(make, AswaOptions{}, &AswaOptions::period, "AswaOptions.period must be >= 1", {0});
  CHECK(refuses([&] { make({.filter = static_cast<AswaFilter>(9)}); }, {"filter", "9"}));
  CHECK(refuses([&] { make({.normed = {"c"}}); }, {"\"c\""}));
}

TEST_CASE("Aswa waits for averages that write the weights") {
  Model<float> one({70, 33}), two({70, 33});
  const HareTortoiseOptions hare{.decay = 0.9, .switch_every = 3};
  HareTortoise<float> first(one.params, hare), second(two.params, hare);
  Aswa<float> together(one.params, {.filter = AswaFilter::mean_norm});
  Aswa<float> apart(two.params, {.filter = AswaFilter::mean_norm});
  for (std::uint64_t step = 0; step < 12; ++step) {
    one.wander(step);
    two.wander(step);
    update(one.params, first, together);
    second.update(two.params);
    apart.update(two.params);
    CHECK(together.norm() == apart.norm());
    CHECK(together.accepted() == apart.accepted());
  }
  CHECK(first.switches() > 2);
}

TEST_CASE("a skipped call accepts nothing and switches nothing") {
  float weight = 1;
  Parameters params;
  params.add("w", &weight, {});
  Aswa aswa(params, {.nonfinite = Nonfinite::skip_step});
  HareTortoise hare(params, {.decay = 0.9, .switch_every = 1, .nonfinite = Nonfinite::skip_step});
  for (int t = 0; t < 3; ++t) update(params, hare, aswa);
  CHECK(aswa.accepted());
  CHECK(hare.switched());
  weight = std::numeric_limits<float>::infinity();
  CHECK_FALSE(update(params, hare, aswa));
  CHECK_FALSE(aswa.accepted());
  CHECK_FALSE(hare.switched());
  CHECK(aswa.skipped() == 1);
}

}  // namespace aswa_test
