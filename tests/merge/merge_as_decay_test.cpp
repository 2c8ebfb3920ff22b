// SPDX-License-Identifier: Apache-2.0
#include <polyak/merge/merge_as_decay.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/learning_rate.hpp>

#include "allocations.hpp"
#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace merge_as_decay_test {

using namespace polyak;

namespace {

using Numbers = std::vector<double>;

constexpr std::array curves{CooldownCurve::linear, CooldownCurve::cosine,
                            CooldownCurve::one_minus_sqrt, CooldownCurve::square};
constexpr std::array abscissas{DecayAbscissa::before, DecayAbscissa::within};

/// Calls `visit(multipliers)` for every curve, abscissa and floor.
template <class Visit>
void for_each_decay(std::int64_t checkpoints, Visit&& visit) {
  for (const DecayAbscissa abscissa : abscissas) {
    for (const double floor : {0.0, 1e-3, 0.1, 0.3, 1.0}) {
      const DecayMultipliersOptions options{abscissa, floor};
      INFO("K " << checkpoints << ", floor " << floor << ", abscissa "
                << static_cast<int>(abscissa));
      for (const CooldownCurve curve : curves) {
        visit(decay_multipliers(curve, checkpoints, options));
      }
      if (floor > 0) visit(exponential_decay_multipliers(checkpoints, options));
    }
  }
}

void check_close(const Numbers& actual, const Numbers& expected, double margin) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t k = 0; k < actual.size(); ++k) {
    INFO("number " << k);
    CHECK(std::fabs(actual[k] - expected[k]) <= margin);
  }
}

/// The checkpoints x_0..x_K of a random walk, in separate memory.
template <class T>
struct Checkpoints {
  Checkpoints(std::size_t count, std::size_t size) {
    RandomNumbers random(5);
    for (std::size_t k = 0; k < count; ++k) {
      auto& next = values.emplace_back(random.many<T>(size));
      for (std::size_t e = 0; k > 0 && e < size; ++e) {
        next[e] = values[k - 1][e] + next[e] / T(4);
      }
      lists.emplace_back().add("x", next);
    }
  }
  std::deque<std::vector<T>> values;
  std::vector<Parameters<T>> lists;
};

/// x_0 + sum_i d_i u_i, in long double.
template <class T>
Numbers decayed_run(const Checkpoints<T>& run, const Numbers& multipliers) {
  Numbers sums;
  for (std::size_t e = 0; e < run.values[0].size(); ++e) {
    long double sum = run.values[0][e];
    for (std::size_t i = 1; i <= multipliers.size(); ++i) {
      sum += static_cast<long double>(multipliers[i - 1]) *
             (static_cast<long double>(run.values[i][e]) - run.values[i - 1][e]);
    }
    sums.push_back(static_cast<double>(sum));
  }
  return sums;
}

template <class T>
void check_merges(std::size_t updates, const Numbers& multipliers) {
  const double rounding = std::is_same_v<T, float> ? 1e-6 : 2e-15;
  Checkpoints<T> run(updates + 1, 37);
  const Numbers expected = decayed_run(run, multipliers);
  std::vector<T> merged(37, T(99)), model = run.values[0];
  Parameters<T> target, params;
  target.add("x", merged);
  params.add("x", model);
  merge_as_decay(target, run.lists, multipliers);
  check_close(Numbers(merged.begin(), merged.end()), expected, rounding);

  Average average(params, MergeWeighting(multipliers));
  for (const auto& checkpoint : run.values) {
    model = checkpoint;
    average.update(params);
  }
  const auto read = [&] {
    Numbers all;
    for (std::size_t e = 0; e < 37; ++e) all.push_back(static_cast<double>(average.view()[0](e)));
    return all;
  };
  const Numbers online = read();
  check_close(online, expected, rounding);
  check_close(online, Numbers(merged.begin(), merged.end()), rounding);

  // After the last checkpoint it rests.
  model.assign(37, T(1000));
  average.update(params);
  average.update(params);
  CHECK(read() == online);
  CHECK(average.gain() == 0);
}

}  // namespace

TEST_CASE("multipliers and weights agree with hand-computed values", "[merge_as_decay]") {
  const DecayMultipliersOptions within{.abscissa = DecayAbscissa::within};
  CHECK(decay_multipliers(CooldownCurve::linear, 4) == Numbers{1, 0.75, 0.5, 0.25});
  CHECK(decay_multipliers(CooldownCurve::linear, 3, within) == Numbers{0.75, 0.5, 0.25});
  CHECK(decay_multipliers(CooldownCurve::linear, 4, {.floor = 0.5}) ==
        Numbers{1, 0.875, 0.75, 0.625});
  check_close(decay_multipliers(CooldownCurve::cosine, 3), {1, 0.75, 0.25}, 1e-15);
  CHECK(decay_multipliers(CooldownCurve::one_minus_sqrt, 4)[1] == 0.5);
  CHECK(decay_multipliers(CooldownCurve::square, 4) == Numbers{1, 0.9375, 0.75, 0.4375});
  CHECK(decay_multipliers(CooldownCurve::square, 1, within) == Numbers{0.75});
  CHECK(exponential_decay_multipliers(2, {.floor = 0.25}) == Numbers{1, 0.5});
  CHECK(exponential_decay_multipliers(1, {DecayAbscissa::within, 0.25}) == Numbers{0.5});

  CHECK(merge_weights(Numbers{1, 0.75, 0.5}) == Numbers{0, 0.25, 0.25, 0.5});
  CHECK(merge_weights(Numbers{0.5}) == Numbers{0.5, 0.5});
  CHECK(merge_weights(Numbers{0, 0}) == Numbers{1, 0, 0});
  CHECK(merge_weights(Numbers{1, 1}) == Numbers{0, 0, 1});
  CHECK(merge_weights(Numbers{0.5, 0.75}, {.allow_negative = true}) == Numbers{0.5, -0.25, 0.75});
  CHECK(merge_weights(Numbers{2}, {.allow_negative = true}) == Numbers{-1, 2});
  CHECK(multipliers_of(Numbers{0, 0.25, 0.25, 0.5}) == Numbers{1, 0.75, 0.5});
  CHECK(multipliers_of(Numbers{0.5, -0.25, 0.75}) == Numbers{0.5, 0.75});

  // One checkpoint after the first: before, only the last counts; within, the mean of both.
  for (const CooldownCurve curve : curves) CHECK(decay_multipliers(curve, 1) == Numbers{1});
  CHECK(merge_weights(decay_multipliers(CooldownCurve::linear, 1, within)) == Numbers{0.5, 0.5});
}

TEST_CASE("a linear decay is a uniform average", "[merge_as_decay]") {
  const auto linear = [](std::int64_t checkpoints, DecayAbscissa abscissa) {
    return merge_weights(
        decay_multipliers(CooldownCurve::linear, checkpoints, {.abscissa = abscissa}));
  };
  Numbers last(10, 1 / 9.);
  last[0] = 0;
  check_close(linear(9, DecayAbscissa::before), last, 1e-15);
  check_close(linear(9, DecayAbscissa::within), Numbers(10, 0.1), 1e-15);
}

TEST_CASE("the weights of a decay are positive, sum to 1 and give the decay back",
          "[merge_as_decay]") {
  for (const std::int64_t checkpoints : {1, 2, 3, 8, 200}) {
    for_each_decay(checkpoints, [&](const Numbers& multipliers) {
      REQUIRE(static_cast<std::int64_t>(multipliers.size()) == checkpoints);
      const Numbers weights = merge_weights(multipliers);
      REQUIRE(weights.size() == multipliers.size() + 1);
      double sum = 0;
      for (const double weight : weights) {
        REQUIRE(weight >= 0);
        sum += weight;
      }
      CHECK(sum == Approx(1).epsilon(1e-14));
      const Numbers back = multipliers_of(weights);
      check_close(back, multipliers, 1e-14);
      check_close(merge_weights(back), weights, 1e-14);  // not refused for a sum that rounds up
    });
  }
  for (const double floor : {0.0, 0.1, 0.3, 0.7, 1.0}) {
    for (const CooldownCurve curve : curves) {
      CHECK(decay_multipliers(curve, 7, {.floor = floor})[0] == 1);
    }
  }
}

TEST_CASE("decays agree with the schedule and with the cooldown targets", "[merge_as_decay]") {
  const auto schedule = [](CooldownCurve shape, double floor) {
    // 10 of 20 steps; the half keeps the rounding of the product away.
    const CooldownOptions options{
        .total_steps = 20, .cooldown_fraction = 10.5 / 20, .final_factor = floor, .shape = shape};
    Numbers factors;
    for (std::int64_t step = 10; step < 20; ++step) {
      factors.push_back(constant_with_cooldown(step, options));
    }
    return factors;
  };
  for (const double floor : {0.0, 0.125}) {
    for (std::size_t k = 0; k < curves.size(); ++k) {
      INFO("curve " << k << ", floor " << floor);
      const Numbers multipliers = decay_multipliers(curves[k], 10, {.floor = floor});
      check_close(multipliers, schedule(curves[k], floor), 1e-15);
      check_close(merge_weights(multipliers),
                  ProfileTarget::cooldown(curves[k], 10, floor).profile(10), 1e-15);
      // Within is before with one checkpoint more, whose first multiplier is 1.
      Numbers more = decay_multipliers(curves[k], 11, {.floor = floor});
      more.erase(more.begin());
      check_close(decay_multipliers(curves[k], 10, {DecayAbscissa::within, floor}), more, 1e-15);
    }
  }
  check_close(exponential_decay_multipliers(10, {.floor = 0.125}),
              schedule(CooldownCurve::exponential, 0.125), 1e-15);
  // Equal ratios, which the floor ends.
  const Numbers falling = exponential_decay_multipliers(5, {DecayAbscissa::within, 0.01});
  for (std::size_t i = 1; i < falling.size(); ++i) {
    CHECK(falling[i] / falling[i - 1] == Approx(std::pow(0.01, 1 / 6.)).epsilon(1e-14));
  }
  CHECK(falling.back() > 0.01);
  CHECK(exponential_decay_multipliers(3, {.floor = 1}) == Numbers{1, 1, 1});
}

TEST_CASE("any average corresponds to a decay", "[merge_as_decay]") {
  constexpr std::int64_t calls = 6;
  const double b = 0.75;
  const Numbers multipliers = multipliers_of(profile(ExponentialWeighting{b}, calls));
  for (std::int64_t i = 1; i <= calls; ++i) {
    CHECK(multipliers[static_cast<std::size_t>(i - 1)] ==
          Approx(1 - std::pow(b, static_cast<double>(calls - i + 1))).epsilon(1e-15));
  }
  const Numbers polynomial = profile(PolynomialWeighting{2}, calls);
  check_close(
      profile(MergeWeighting(multipliers_of(polynomial)), calls + 1),
      [&] {
        Numbers shifted{0};  // call 1 is x_0
        shifted.insert(shifted.end(), polynomial.begin(), polynomial.end());
        return shifted;
      }(),
      1e-15);
}

TEST_CASE("a merge equals a run with the decay, offline and online", "[merge_as_decay]") {
  for (const std::size_t updates : {1U, 2U, 9U, 40U}) {
    for_each_decay(static_cast<std::int64_t>(updates), [&](const Numbers& multipliers) {
      check_merges<double>(updates, multipliers);
      check_merges<float>(updates, multipliers);
    });
    // The first checkpoint alone, the last alone, and leading and inner weights of 0.
    check_merges<double>(updates, Numbers(updates, 0.0));
    check_merges<double>(updates, Numbers(updates, 1.0));
    if (updates == 9) {
      check_merges<double>(9, {1, 1, 1, 0.75, 0.75, 0.5, 0.5, 0, 0});
      check_merges<float>(9, {0.75, 0.75, 0.75, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25});
    }
  }
}

TEST_CASE("negative weights can be merged offline on request", "[merge_as_decay]") {
  Checkpoints<double> run(4, 11);
  const Numbers multipliers{1.5, 0.25, 0.5};
  Numbers merged(11);
  Parameters<double> target;
  target.add("x", merged);
  merge_as_decay(target, run.lists, multipliers, {.allow_negative = true});
  check_close(merged, decayed_run(run, multipliers), 2e-15);
}

TEST_CASE("checkpoints can be lists, pointers or in braces", "[merge_as_decay]") {
  Numbers a{1, 2}, b{3, 4}, c{5, 8}, merged(2);
  Parameters<double> first, second, third, target;
  first.add("x", a);
  second.add("x", b);
  third.add("x", c);
  target.add("x", merged);
  const Numbers multipliers{0.75, 0.5};  // weights 1/4, 1/4, 1/2
  const auto check = [&] {
    CHECK(merged == Numbers{3.5, 5.5});
    merged.assign(2, -1);
  };
  merge_as_decay(target, std::vector{first, second, third}, multipliers);
  check();
  merge_as_decay(target, std::array{&first, &second, &third}, multipliers);
  check();
  merge_as_decay(target, {first, second, third}, multipliers);
  check();
  merge_as_decay(serial, target, {first, second, third}, multipliers);
  check();
  merge_as_decay<double>(serial, target, std::vector{first, second, third}, multipliers);
  check();
  merge_as_decay(third, {first, second, third}, multipliers);  // in place
  CHECK(c == Numbers{3.5, 5.5});
  merge_as_decay(target, {first, second}, decay_multipliers(CooldownCurve::cosine, 1));
  CHECK(merged == b);
}

TEST_CASE("the gains of a merge are shares of the sum of the weights so far", "[merge_as_decay]") {
  const MergeWeighting quarter(Numbers{1, 0.75, 0.75, 0.5});  // weights 0, 1/4, 0, 1/4, 1/2
  CHECK(quarter.checkpoints() == 5);
  const Numbers gains{1, 1, 0, 0.5, 0.5, 0, 0};
  for (std::size_t t = 1; t <= gains.size(); ++t) {
    CHECK(quarter.gain(static_cast<std::int64_t>(t)) == gains[t - 1]);
    CHECK(quarter.complement(static_cast<std::int64_t>(t)) == 1 - gains[t - 1]);
  }
  CHECK(quarter.least_gain() == 0.5);

  for (const std::int64_t checkpoints : {1, 2, 8, 200}) {
    for_each_decay(checkpoints, [&](const Numbers& multipliers) {
      const MergeWeighting weighting(multipliers);
      const Numbers weights = merge_weights(multipliers);
      double sum = 0;
      for (std::int64_t t = 1; t <= weighting.checkpoints(); ++t) {
        const double gain = weighting.gain(t), complement = weighting.complement(t);
        const double weight = weights[static_cast<std::size_t>(t - 1)];
        sum += weight;
        REQUIRE(gain >= 0);
        REQUIRE(gain <= 1);
        REQUIRE(std::fabs(gain + complement - 1) < 1e-15);
        REQUIRE((gain == 1) == (complement == 0));
        REQUIRE((gain == 0 || gain >= weighting.least_gain()));
        if (sum > 0) REQUIRE(gain == Approx(weight / sum).epsilon(1e-11).margin(1e-13));
      }
      CHECK(weighting.gain(weighting.checkpoints() + 1) == 0);
      CHECK(weighting.complement(weighting.checkpoints() + 1) == 1);
      Numbers expected{0};
      expected.insert(expected.end(), weights.begin(), weights.end());
      check_close(profile(weighting, weighting.checkpoints()), expected, 1e-14);
    });
  }
  // 1 - gain would have lost all digits here.
  CHECK(MergeWeighting({1 - 0x1p-40, 0}).complement(2) == 0x1p-40);
}

TEST_CASE("a checkpoint of weight 0 leaves the running merge unchanged", "[merge_as_decay]") {
  Numbers x{nan_value};
  Parameters<double> params;
  params.add("x", x);
  Average average(params, MergeWeighting(decay_multipliers(CooldownCurve::linear, 2)));
  average.update(params);  // copied, until there is one with a weight
  CHECK(std::isnan(average.view()[0](0)));
  x[0] = 1;
  average.update(params);
  CHECK(average.view()[0](0) == 1);
  x[0] = 2;
  average.update(params);
  CHECK(average.view()[0](0) == 1.5);
  x[0] = nan_value;
  average.update(params);
  CHECK(average.view()[0](0) == 1.5);
  CHECK(average.calls() == 4);
  CHECK(average.count() == 3);
}

TEST_CASE("a running merge resumes from its state and allocates nothing", "[merge_as_decay]") {
  const Numbers multipliers = decay_multipliers(CooldownCurve::one_minus_sqrt, 3);
  const MergeWeighting weighting(multipliers);
  polyak::detail::OptionTexts options;
  for (std::size_t k = 0; k < 3; ++k) {
    options.push_back(
        {"multiplier." + std::to_string(k + 1), polyak::detail::text(multipliers[k])});
  }
  CHECK(polyak::detail::option_texts(weighting) == options);
  CHECK(MergeWeighting::type_name == "merge_as_decay");

  Checkpoints<float> run(4, 21);
  std::vector<float> x = run.values[0];
  Parameters<float> params;
  params.add("x", x);
  Average whole(params, MergeWeighting(multipliers)), halved(params, MergeWeighting(multipliers));
  for (std::size_t k = 0; k < 4; ++k) {
    x = run.values[k];
    if (k == 2) {
      Average resumed(params, MergeWeighting(multipliers));
      restore_state(resumed, state_bytes(halved));
      halved = resumed;
    }
    const allocations::Counter counter;
    whole.update(params);
    CHECK(counter.counts().number == 0);
    halved.update(params);
  }
  CHECK(state_bytes(whole) == state_bytes(halved));
}

TEST_CASE("multipliers that are not a decay are refused", "[merge_as_decay]") {
  const auto multipliers = [](std::int64_t checkpoints, double floor) {
    return [=] {
      static_cast<void>(decay_multipliers(CooldownCurve::linear, checkpoints, {.floor = floor}));
    };
  };
  for (const std::int64_t bad : {0, -1}) {
    CHECK(refuses(multipliers(bad, 0), {"checkpoints must be >= 1", "got " + std::to_string(bad)}));
  }
  for (const double bad : {-0.1, 1.1, nan_value, infinity}) {
    CHECK(refuses(multipliers(3, bad), {"DecayMultipliersOptions.floor must lie in [0, 1]"}));
  }
  for (const double bad : {0.0, -1.0, nan_value}) {
    CHECK(refuses([&] { static_cast<void>(exponential_decay_multipliers(3, {.floor = bad})); },
                  {"DecayMultipliersOptions.floor must be > 0 for an exponential decay"}));
  }
  CHECK(refuses([] { static_cast<void>(exponential_decay_multipliers(3, {.floor = 2})); },
                {"floor must lie in [0, 1]", "got 2"}));
  CHECK(refuses([] { static_cast<void>(exponential_decay_multipliers(0, {.floor = 0.5})); },
                {"checkpoints must be >= 1", "got 0"}));

  const auto weights = [](const Numbers& d, bool allow_negative) {
    return [=] { static_cast<void>(merge_weights(d, {.allow_negative = allow_negative})); };
  };
  CHECK(refuses(weights({}, false), {"at least one", "got 0"}));
  CHECK(refuses(weights({}, true), {"at least one", "got 0"}));
  CHECK(refuses(weights({1.25, 1}, false), {"lie in [0, 1]", "got 1.25"}));
  CHECK(refuses(weights({1, -0.5}, false), {"lie in [0, 1]", "got -0.5"}));
  CHECK(refuses(weights({1, nan_value}, false), {"lie in [0, 1]", "got nan"}));
  CHECK(refuses(weights({0.5, 0.75}, false), {"must not increase", "allow_negative", "got 0.75"}));
  CHECK(refuses(weights({nan_value}, true), {"must be finite", "got nan"}));
  CHECK(refuses(weights({1, infinity}, true), {"must be finite", "got inf"}));

  const auto back = [](const Numbers& c) { return [=] { static_cast<void>(multipliers_of(c)); }; };
  CHECK(refuses(back({1}), {"at least two", "got 1"}));
  CHECK(refuses(back({0.5, 0.25}), {"sum to 1", "got 0.75"}));
  CHECK(refuses(back({0.5, nan_value}), {"finite", "got nan"}));

  for (const Numbers& bad :
       {Numbers{}, Numbers{1.5}, Numbers{-0.5}, Numbers{0.25, 0.5}, Numbers{nan_value}}) {
    CHECK(refuses([&] { MergeWeighting never(bad); }, {"decay multipliers"}));
  }
}

TEST_CASE("a merge that is refused writes nothing", "[merge_as_decay]") {
  Checkpoints<double> run(3, 5);
  Numbers merged(5, 7), other_x(5);
  Parameters<double> target, other;
  target.add("x", merged);
  other.add("y", other_x);
  const auto merge = [&](const auto& lists, const Numbers& multipliers) {
    return [&target, lists, multipliers] { merge_as_decay(target, lists, multipliers); };
  };
  CHECK(
      refuses(merge(run.lists, {1}),
              {"merge_as_decay: there must be one checkpoint more than multipliers, 2", "got 3"}));
  CHECK(refuses(merge(run.lists, {1, 0.5, 0.25}), {"multipliers, 4", "got 3"}));
  CHECK(refuses(merge(run.lists, {0.5, 1}), {"must not increase", "got 1"}));
  CHECK(refuses(merge(std::vector{run.lists[0], run.lists[1], other}, {1, 0.5}),
                {"\"x\" is missing"}));
  CHECK(merged == Numbers(5, 7));
}

}  // namespace merge_as_decay_test
