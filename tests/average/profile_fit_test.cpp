// SPDX-License-Identifier: Apache-2.0
// polyak/average/analysis/profile_target.hpp, profile_fit.hpp.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <polyak/average/analysis/profile_fit.hpp>

#include "catch.hpp"
#include "refusal.hpp"

namespace profile_fit_test {

namespace {

using polyak::GainSequence;
using polyak::Metric;
using polyak::ProfileFitOptions;
using polyak::ProfileSnapshot;
using polyak::ProfileTarget;

/// Power averages of widths 0.05 and 0.10, with snapshots at regular calls.
struct Tracked {
  std::vector<GainSequence> averages{
      GainSequence(polyak::PowerWeighting{polyak::gamma_from_sigma_rel(0.05)}),
      GainSequence(polyak::PowerWeighting{polyak::gamma_from_sigma_rel(0.10)})};
  std::vector<ProfileSnapshot> snapshots;

  explicit Tracked(std::int64_t every, std::int64_t calls = 4096) {
    for (std::size_t average = 0; average < 2; ++average) {
      for (std::int64_t t = every; t <= calls; t += every) snapshots.push_back({average, t});
    }
  }
  [[nodiscard]] polyak::ProfileFit fit(const ProfileTarget& target,
                                       ProfileFitOptions options = {.force = true}) const {
    return polyak::fit_profiles(averages, snapshots, {target}, options)[0];
  }
};

double half_life(double calls) { return std::pow(0.5, 1 / calls); }

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t k = 0; k < a.size(); ++k) worst = std::max(worst, std::fabs(a[k] - b[k]));
  return worst;
}

}  // namespace

TEST_CASE("Each kind of target has its profile") {
  const std::vector<ProfileTarget> targets{
      ProfileTarget::power(3),
      ProfileTarget::sigma_rel(0.2),
      ProfileTarget::ema(0.9),
      ProfileTarget::ema(0.9, polyak::Start::params),
      ProfileTarget::uniform(),
      ProfileTarget::window(7),
      ProfileTarget::tail_from(5),
      ProfileTarget::polynomial(2),
      ProfileTarget::cooldown(polyak::CooldownCurve::linear, 6),
      ProfileTarget::cooldown(polyak::CooldownCurve::cosine, 6, 0.1),
      ProfileTarget::cooldown(polyak::CooldownCurve::one_minus_sqrt, 6),
      ProfileTarget::cooldown(polyak::CooldownCurve::square, 6),
      ProfileTarget::weights({1, 2, 3, 4, 5, 6, 7, 8, 9, -1})};
  for (const ProfileTarget& target : targets) {
    INFO(target.name());
    const auto profile = target.profile(10);
    CHECK(profile.size() == 11);
    CHECK(std::fabs(sum(profile) - 1) < 1e-14);
  }
  const auto power = targets[0].profile(10);
  for (int t = 1; t <= 10; ++t) {
    CHECK(power[static_cast<std::size_t>(t)] ==
          Approx((std::pow(t, 4) - std::pow(t - 1, 4)) / 1e4).epsilon(1e-13));
  }
  CHECK(targets[3].profile(10)[0] == Approx(std::pow(0.9, 10)).epsilon(1e-13));
  CHECK(targets[5].profile(10)[3] == 0);
  CHECK(targets[5].profile(10)[4] == 1 / 7.0);
  // A linear cooldown is the window of its length; the rest follows from the multipliers.
  CHECK(difference(targets[8].profile(10), ProfileTarget::window(6).profile(10)) < 1e-15);
  const auto cosine = targets[9].profile(10);
  double multiplier = 0;
  for (int i = 6; i >= 1; --i) {  // tail sums are the multipliers of the updates
    multiplier += cosine[static_cast<std::size_t>(4 + i)];
    const double u = (i - 1) / 6.0;
    CHECK(multiplier == Approx(0.1 + 0.9 * (1 + std::cos(3.14159265358979323846 * u)) / 2));
  }
  CHECK(targets[12].profile(10)[10] == Approx(-1 / 44.0));
}

TEST_CASE("With weights constrained to sum to 1, a single snapshot has weight 1") {
  Tracked one(4096);
  one.snapshots.resize(1);
  for (const polyak::Normalisation normalisation :
       {polyak::Normalisation::constrained, polyak::Normalisation::by_sum}) {
    const auto fit =
        one.fit(ProfileTarget::sigma_rel(0.05), {.normalisation = normalisation, .force = true});
    REQUIRE(fit.weights.size() == 1);
    CHECK(fit.weights[0] == Approx(1).epsilon(1e-12));
  }
}

TEST_CASE("Fits are as close as power averages of two widths allow") {
  // Relative L2 errors over 4096 calls, in the iterate and in the update metric.
  const Tracked coarse(512), fine(128);
  struct Row {
    ProfileTarget target;
    double coarse, coarse_update, fine, fine_update;
  };
  const std::vector<Row> rows{
      {ProfileTarget::sigma_rel(0.075), 1.3e-2, 7e-4, 9.0e-4, 1e-5},
      {ProfileTarget::sigma_rel(0.15), 3.3e-2, 1e-3, 2.3e-3, 2e-5},
      {ProfileTarget::sigma_rel(0.25), 1.8e-1, 4e-2, 3.4e-2, 4e-3},
      {ProfileTarget::sigma_rel(0.03), 1.0e-1, 9e-3, 1.1e-2, 2e-4},
      {ProfileTarget::ema(half_life(64)), 2.2e-1, 2e-2, 3.4e-2, 8e-4},
      {ProfileTarget::ema(half_life(256)), 6.7e-3, 4e-4, 4.9e-4, 9e-6},
      {ProfileTarget::window(512), 7.3e-2, 5e-3, 4.9e-3, 7e-5},
      {ProfileTarget::window(1000), 1.4e-1, 3e-3, 1.1e-1, 1e-3},
      {ProfileTarget::cooldown(polyak::CooldownCurve::cosine, 1024), 1.6e-1, 9e-3, 1.2e-2, 1e-4},
      {ProfileTarget::cooldown(polyak::CooldownCurve::one_minus_sqrt, 1024), 7.5e-1, 3e-2, 5.9e-1,
       5e-3},
      {ProfileTarget::polynomial(3), 4.3e-2, 2e-3, 3.0e-3, 3e-5},
      {ProfileTarget::uniform(), 4.5e-1, 1.4e-1, 2.1e-1, 4e-2}};
  std::vector<ProfileTarget> targets;
  for (const Row& row : rows) targets.push_back(row.target);
  const auto at_coarse =
      polyak::fit_profiles(coarse.averages, coarse.snapshots, targets, {.force = true});
  const auto at_fine =
      polyak::fit_profiles(fine.averages, fine.snapshots, targets, {.force = true});
  for (std::size_t k = 0; k < rows.size(); ++k) {
    INFO(rows[k].target.name());
    CHECK(at_coarse[k].residual == Approx(rows[k].coarse).epsilon(0.05));
    CHECK(at_coarse[k].update_residual == Approx(rows[k].coarse_update).epsilon(0.45));
    CHECK(at_fine[k].residual == Approx(rows[k].fine).epsilon(0.05));
    CHECK(at_fine[k].update_residual == Approx(rows[k].fine_update).epsilon(0.45));
    CHECK(std::fabs(sum(at_fine[k].weights) - 1) < 1e-10);
  }
  // Each metric is smallest if the fit minimises it.
  const auto updates = polyak::fit_profiles(coarse.averages, coarse.snapshots, targets,
                                            {.metric = Metric::update, .force = true});
  for (std::size_t k = 0; k < rows.size(); ++k) {
    CHECK(updates[k].update_residual <= at_coarse[k].update_residual);
    CHECK(updates[k].residual >= at_coarse[k].residual);
  }
}

TEST_CASE("Fits recover a tracked average exactly") {
  const Tracked tracked(128, 1024);
  for (const double width : {0.05, 0.10}) {
    const auto fit = tracked.fit(ProfileTarget::sigma_rel(width));
    CHECK(fit.residual < 1e-13);
    CHECK(fit.absolute_sum == Approx(1).epsilon(1e-10));
    const auto earlier = tracked.fit(ProfileTarget::sigma_rel(width).at(512));
    CHECK(earlier.calls == 512);
    CHECK(earlier.residual < 1e-13);
    for (std::size_t j = 0; j < tracked.snapshots.size(); ++j) {
      if (tracked.snapshots[j].calls > 512) CHECK(earlier.weights[j] == 0);
    }
  }
  // Every schedule that the library has is exact, rests and copies included.
  const std::vector<GainSequence> averages{
      GainSequence(polyak::ExponentialWeighting{0.99, polyak::Start::params, 3}),
      GainSequence(polyak::UniformWeighting{10, 4}),
      GainSequence(polyak::InverseGammaWeighting{1, 0.66, 0.999}),
      GainSequence(polyak::TfWarmupWeighting{0.98})};
  const std::vector<ProfileSnapshot> snapshots{{0, 60}, {0, 120}, {1, 60}, {1, 120},
                                               {2, 60}, {2, 120}, {3, 60}, {3, 120}};
  const auto fits = polyak::fit_profiles(
      averages, snapshots,
      {ProfileTarget::weighted("a", polyak::ExponentialWeighting{0.99, polyak::Start::params, 3}),
       ProfileTarget::weighted("b", polyak::UniformWeighting{10, 4}),
       ProfileTarget::weighted("c", polyak::InverseGammaWeighting{1, 0.66, 0.999}),
       ProfileTarget::weighted("d", polyak::TfWarmupWeighting{0.98})});
  for (std::size_t k = 0; k < fits.size(); ++k) {
    CHECK(fits[k].residual < 1e-12);
    CHECK(fits[k].weights[2 * k + 1] == Approx(1).epsilon(1e-8));
  }
}

TEST_CASE("Inner products of profiles agree with explicit profiles and with closed forms") {
  const std::vector<GainSequence> averages{
      GainSequence(polyak::ExponentialWeighting{0.9, polyak::Start::first_update, 1}),
      GainSequence(polyak::ExponentialWeighting{0.95, polyak::Start::zero_debiased, 1}),
      GainSequence(polyak::PowerWeighting{5})};
  const std::vector<ProfileSnapshot> snapshots{{0, 30}, {0, 50}, {1, 40},
                                               {1, 50}, {2, 30}, {2, 50}};
  const std::vector<std::vector<double>> target{ProfileTarget::window(20).profile(50)};
  const auto products =
      polyak::detail::profile_products(averages, snapshots, target, 50, Metric::iterate);
  std::vector<std::vector<double>> profiles;
  for (std::size_t j = 0; j < snapshots.size(); ++j) {
    std::vector<double> one(snapshots.size(), 0);
    one[j] = 1;
    profiles.push_back(polyak::achieved_profile(averages, snapshots, one, 50));
  }
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  for (std::size_t i = 0; i < snapshots.size(); ++i) {
    const auto row = static_cast<Eigen::Index>(i);
    for (std::size_t j = 0; j < snapshots.size(); ++j) {
      CHECK(products.gram(row, static_cast<Eigen::Index>(j)) ==
            Approx(dot(profiles[i], profiles[j])).epsilon(1e-14));
    }
    CHECK(products.right(row, 0) == Approx(dot(profiles[i], target[0])).epsilon(1e-14));
  }
  // Debiased exponential averages of one time.
  const double b = 0.95, tail = 1 - std::pow(b, 50);
  CHECK(products.gram(3, 3) ==
        Approx((1 - b) * (1 - b) * (1 - std::pow(b, 100)) / (1 - b * b) / (tail * tail))
            .epsilon(1e-13));
  // A window against any average: differences of its cumulative profile.
  CHECK(products.right(5, 0) == Approx((1 - std::pow(30 / 50.0, 6)) / 20).epsilon(1e-13));
  CHECK(products.right(4, 0) == 0);  // the window begins after that snapshot
}

TEST_CASE("Fits preserve constants and do not depend on the order of snapshots") {
  Tracked tracked(100, 1000);
  const auto target = ProfileTarget::ema(0.99);
  const auto fit = tracked.fit(target);
  CHECK(std::fabs(
            sum(polyak::achieved_profile(tracked.averages, tracked.snapshots, fit.weights, 1000)) -
            1) < 1e-13);
  std::vector<std::size_t> order(tracked.snapshots.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  Tracked shuffled = tracked;
  for (std::size_t k = 0; k < order.size(); ++k)
    shuffled.snapshots[k] = tracked.snapshots[order[k]];
  const auto other = shuffled.fit(target);
  for (std::size_t k = 0; k < order.size(); ++k) {
    CHECK(other.weights[k] == Approx(fit.weights[order[k]]).margin(1e-9));
  }
  // Gains as they were recorded are as good as their formula.
  std::vector<double> gains;
  for (std::int64_t t = 1; t <= 1000; ++t) gains.push_back(tracked.averages[1].gain(t));
  Tracked recorded = tracked;
  recorded.averages[1] = GainSequence::recorded(gains);
  CHECK(difference(recorded.fit(target).weights, fit.weights) < 1e-9);
}

TEST_CASE("Ridge makes weights smaller and keeps their sum") {
  const Tracked tracked(128);
  const auto target = ProfileTarget::ema(half_life(64));
  const auto free = tracked.fit(target);
  const auto held = tracked.fit(target, {.ridge = 1e-4, .force = true});
  CHECK(held.norm < 0.7 * free.norm);
  CHECK(held.residual > free.residual);
  CHECK(held.condition < free.condition);
  CHECK(std::fabs(sum(held.weights) - 1) < 1e-12);
}

TEST_CASE("Fits that cannot be trusted are refused") {
  const Tracked tracked(512);
  const auto fit = [&](const ProfileTarget& target, const ProfileFitOptions& options = {}) {
    return refusal<std::invalid_argument>([&] { static_cast<void>(tracked.fit(target, options)); });
  };
  const auto sqrt = ProfileTarget::cooldown(polyak::CooldownCurve::one_minus_sqrt, 1024);
  CHECK(
      fit(sqrt).starts_with("polyak: target \"cooldown one-minus-sqrt 1024\" is out of the "
                            "snapshots' reach: its residual must be at most 0.5 "
                            "(ProfileFitOptions.residual_limit; force accepts any), got 0.74"));
  CHECK_NOTHROW(tracked.fit(sqrt, {.metric = Metric::update}));
  CHECK_NOTHROW(tracked.fit(sqrt, {.residual_limit = 0.8}));
  CHECK_NOTHROW(tracked.fit(sqrt, {.force = true}));
  fit(ProfileTarget::ema(0.9), {.condition_limit = 2});

  const auto refused = [&](const std::vector<ProfileSnapshot>& snapshots) {
    return refusal<std::invalid_argument>([&] {
      static_cast<void>(polyak::fit_profiles(tracked.averages, snapshots,
                                             {ProfileTarget::uniform()}, {.force = true}));
    });
  };
  CHECK(refused({}) == "polyak: fit_profiles must have at least one snapshot, got 0");
  refused({{2, 10}});
  refused({{0, 0}});
  refused({{0, 10}, {1, 10}, {0, 10}});
  CHECK(fit(ProfileTarget::uniform().at(5000)) ==
        "polyak: target \"uniform\" must be of a call between the first and the last snapshot, 512 "
        "and 4096, got 5000");
  fit(ProfileTarget::uniform().at(511));
  CHECK(fit(ProfileTarget::window(5000)) ==
        "polyak: ProfileTarget \"window 5000\" must not begin before the first iterate, calls must "
        "be "
        ">= 5000, got 4096");
  fit(ProfileTarget::weights({1, 2}).at(4096));
  fit(ProfileTarget::uniform(), {.ridge = -1});
  fit(ProfileTarget::uniform(), {.residual_limit = -1});
  fit(ProfileTarget::uniform(), {.condition_limit = 0});

  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto no_target = [](auto make) { refusal<std::invalid_argument>(make); };
  no_target([&] { static_cast<void>(ProfileTarget::power(-1)); });
  no_target([&] { static_cast<void>(ProfileTarget::power(nan)); });
  no_target([&] { static_cast<void>(ProfileTarget::sigma_rel(0.3)); });
  no_target([&] { static_cast<void>(ProfileTarget::ema(1)); });
  no_target([&] { static_cast<void>(ProfileTarget::window(0)); });
  no_target([&] { static_cast<void>(ProfileTarget::tail_from(0)); });
  no_target([&] { static_cast<void>(ProfileTarget::polynomial(-1)); });
  no_target(
      [&] { static_cast<void>(ProfileTarget::cooldown(polyak::CooldownCurve::linear, 5, 1)); });
  no_target([&] { static_cast<void>(ProfileTarget::weights({1, -1})); });
  no_target([&] { static_cast<void>(ProfileTarget::weights({nan})); });
  no_target([&] { static_cast<void>(GainSequence::recorded({0.5, 1.5})); });
  no_target([&] { static_cast<void>(GainSequence::recorded({0.5}).gain(2)); });
}

}  // namespace profile_fit_test
