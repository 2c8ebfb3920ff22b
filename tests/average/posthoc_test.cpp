// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/analysis/normalisation.hpp>
#include <polyak/average/posthoc.hpp>
#include <polyak/average/schedules/weighting.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace posthoc_test {

namespace {

using polyak::Normalisation;
using polyak::Parameters;
using polyak::PosthocEma;
using polyak::PowerEma;

constexpr int run_length = 4096;

/// A random walk of 4096 steps, tracked with widths 0.05 and 0.10 and with others directly.
struct Run {
  std::vector<double> x, target;
  Parameters<double> params, out;
  PosthocEma<double> posthoc;
  std::vector<std::unique_ptr<PowerEma<double>>> tracked;  // directly, for comparison

  explicit Run(int every, const std::vector<double>& widths = {}) : x(40, 0), target(40, 0) {
    params.add("x", x);
    out.add("x", target);
    PowerEma<double> sharp(params, {.sigma_rel = 0.05}), smooth(params, {.sigma_rel = 0.1});
    for (const double width : widths) {
      tracked.push_back(
          std::make_unique<PowerEma<double>>(params, polyak::PowerEmaOptions{.sigma_rel = width}));
    }
    RandomNumbers random(5);
    for (int t = 1; t <= run_length; ++t) {
      for (double& number : x) number += random();
      polyak::update(params, sharp, smooth);
      for (auto& one : tracked) one->update(params);
      if (t % every == 0) posthoc.snapshot(sharp, smooth);
    }
  }

  double error(const PowerEma<double>& truth) const {
    double difference = 0, size = 0;
    for (std::size_t k = 0; k < target.size(); ++k) {
      difference += std::pow(target[k] - truth.view()[0](k), 2);
      size += std::pow(truth.view()[0](k), 2);
    }
    return std::sqrt(difference / size);
  }
};

/// |achieved - wanted| / |wanted| of the discrete profiles, one iterate per unit of time.
template <class P>
double profile_error(const PosthocEma<P>& posthoc, const polyak::PosthocSolution& solution) {
  const auto steps = static_cast<std::int64_t>(std::llround(solution.time));
  const auto wanted = polyak::profile(polyak::PowerWeighting{solution.gamma}, steps);
  std::vector<double> achieved(wanted.size(), 0);
  for (std::size_t i = 0; i < solution.weights.size(); ++i) {
    if (solution.weights[i] == 0) continue;
    const auto& snapshot = posthoc.snapshots()[i];
    const auto one = polyak::profile(polyak::PowerWeighting{snapshot.gamma},
                                     static_cast<std::int64_t>(std::llround(snapshot.time)));
    for (std::size_t t = 0; t < one.size(); ++t) achieved[t] += solution.weights[i] * one[t];
  }
  double difference = 0, size = 0;
  for (std::size_t t = 0; t < wanted.size(); ++t) {
    difference += std::pow(achieved[t] - wanted[t], 2);
    size += std::pow(wanted[t], 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace

TEST_CASE("inner products of power profiles equal the integrals", "[posthoc]") {
  using polyak::power_profile_product;
  CHECK(power_profile_product(0, 1, 0, 1) == 1);                              // uniform on (0, 1]
  CHECK(power_profile_product(0, 4, 0, 4) == 0.25);                           // and on (0, 4]
  CHECK(power_profile_product(1, 1, 1, 1) == Approx(4 / 3.).epsilon(1e-15));  // int (2t)^2
  CHECK(power_profile_product(0, 2, 1, 1) == 0.5);                            // int_0^1 1/2 2t
  CHECK(power_profile_product(1, 1, 0, 2) == 0.5);
  for (const double ga : {0.5, 6.94}) {
    for (const double gb : {2.0, 16.97}) {
      double sum = 0;  // midpoint rule over the support they share
      constexpr int n = 20000;
      for (int k = 0; k < n; ++k) {
        const double t = (k + 0.5) / n * 3;
        sum += (ga + 1) * std::pow(t / 3, ga) / 3 * (gb + 1) * std::pow(t / 5, gb) / 5 * 3 / n;
      }
      CHECK(power_profile_product(ga, 3, gb, 5) == Approx(sum).epsilon(1e-6));
      CHECK(power_profile_product(gb, 5, ga, 3) == Approx(sum).epsilon(1e-6));
    }
  }
}

TEST_CASE("two uniform snapshots give a hand-computed linear average", "[posthoc]") {
  // Uniform on (0, 1] and on (0, 2] against 2t/4 on (0, 2]: G = [1, 1/2; 1/2, 1/2], h = [1/4, 1/2].
  double x = 3;
  Parameters<double> params;
  params.add("x", &x, {1});
  PosthocEma<double> posthoc;
  posthoc.snapshot(params, 0, 1);
  x = 5;
  posthoc.snapshot(params, 0, 2);
  const auto free = posthoc.solve({.gamma = 1, .normalisation = Normalisation::none});
  REQUIRE(free.weights.size() == 2);
  CHECK(free.weights[0] == Approx(-0.5).epsilon(1e-14));
  CHECK(free.weights[1] == Approx(1.5).epsilon(1e-14));
  CHECK(free.absolute_sum == Approx(2).epsilon(1e-14));
  // achieved: 1/4 then 3/4; wanted t/2: int of the squared difference 1/24, of the square 2/3
  CHECK(free.residual == Approx(std::sqrt(1 / 16.)).epsilon(1e-13));
  CHECK(free.gamma == 1);
  CHECK(free.time == 2);
  posthoc.reconstruct(free, params);
  CHECK(x == Approx(-0.5 * 3 + 1.5 * 5).epsilon(1e-14));
}

TEST_CASE("PosthocEma reconstructs a tracked width exactly", "[posthoc]") {
  Run run(512, {0.05, 0.1});
  for (const auto normalisation :
       {Normalisation::by_sum, Normalisation::constrained, Normalisation::none}) {
    for (std::size_t wanted = 0; wanted < run.posthoc.snapshots().size(); ++wanted) {
      const auto& snapshot = run.posthoc.snapshots()[wanted];
      INFO("gamma " << snapshot.gamma << " at " << snapshot.time);
      const auto solution = run.posthoc.solve(
          {.gamma = snapshot.gamma, .time = snapshot.time, .normalisation = normalisation});
      for (std::size_t i = 0; i < solution.weights.size(); ++i) {
        CHECK(solution.weights[i] == Approx(i == wanted ? 1 : 0).margin(1e-12));
      }
      CHECK(solution.residual < 3e-8);
      run.posthoc.reconstruct(solution, run.out);
      for (std::size_t k = 0; k < run.target.size(); ++k) {
        const double truth = snapshot.average.tensor(0, 0)[k];
        REQUIRE(run.target[k] == Approx(truth).epsilon(1e-12).margin(1e-11));
      }
    }
  }
  // By width, at the last snapshot: exactly the stored averages.
  for (const auto& truth : run.tracked) {
    run.posthoc.reconstruct(run.posthoc.solve({.sigma_rel = truth->sigma_rel()}), run.out);
    CHECK(run.error(*truth) < 1e-12);
  }
}

TEST_CASE("PosthocEma reconstructs other widths as closely as the theory predicts", "[posthoc]") {
  // Relative L2 errors of the profile with snapshots every 512 and every 128 steps of 4096.
  struct Row {
    double sigma_rel, few, many;
  };
  const std::vector<Row> table{{0.075, 1.3e-2, 9.0e-4},
                               {0.15, 3.3e-2, 2.3e-3},
                               {0.25, 1.8e-1, 3.4e-2},
                               {0.03, 1.0e-1, 1.1e-2}};
  std::vector<double> widths;
  for (const Row& row : table) widths.push_back(row.sigma_rel);
  Run few(512, widths), many(128, widths);
  REQUIRE(few.posthoc.snapshots().size() == 16);
  REQUIRE(many.posthoc.snapshots().size() == 64);
  for (std::size_t i = 0; i < table.size(); ++i) {
    const Row& row = table[i];
    INFO("sigma_rel " << row.sigma_rel);
    for (Run* run : {&few, &many}) {
      const double expected = run == &few ? row.few : row.many;
      INFO("expected error " << expected);
      const auto solution = run->posthoc.solve(
          {.sigma_rel = row.sigma_rel, .normalisation = Normalisation::constrained});
      CHECK(solution.residual == Approx(expected).epsilon(0.07));
      CHECK(profile_error(run->posthoc, solution) == Approx(solution.residual).epsilon(0.04));
      run->posthoc.reconstruct(solution, run->out);
      // Iterates that drift are forgiving: their tensors are closer than their profiles.
      CHECK(run->error(*run->tracked[i]) < solution.residual / 2);
      CHECK(run->error(*run->tracked[i]) > 1e-9);

      const auto by_sum = run->posthoc.solve({.sigma_rel = row.sigma_rel});
      CHECK(by_sum.residual == Approx(solution.residual).epsilon(0.02));
      CHECK(profile_error(run->posthoc, by_sum) == Approx(by_sum.residual).epsilon(0.04));
    }
  }
}

TEST_CASE("a time between snapshots uses only the snapshots before it", "[posthoc]") {
  Run run(128);
  const auto& snapshots = run.posthoc.snapshots();
  for (const double time : {1024.0, 1100.0, 1151.0, 3000.0}) {
    INFO("time " << time);
    const auto solution = run.posthoc.solve({.sigma_rel = 0.12, .time = time});
    CHECK(solution.time == time);
    std::size_t used = 0;
    for (std::size_t i = 0; i < snapshots.size(); ++i) {
      CHECK((solution.weights[i] != 0) == (snapshots[i].time <= time));
      used += solution.weights[i] != 0;
    }
    CHECK(used == 2 * static_cast<std::size_t>(time / 128));
    CHECK(profile_error(run.posthoc, solution) == Approx(solution.residual).epsilon(0.04));
  }
  // The later the last snapshot, the better: half a gap is worse than none.
  CHECK(run.posthoc.solve({.sigma_rel = 0.12, .time = 1088}).residual >
        3 * run.posthoc.solve({.sigma_rel = 0.12, .time = 1024}).residual);
  // Only one snapshot to combine.
  PosthocEma<double> one;
  one.snapshot(run.params, 5, 100);
  const auto only = one.solve({.gamma = 2, .time = 100});
  CHECK(only.weights == std::vector<double>{1});
  CHECK(only.condition == Approx(1).epsilon(1e-12));
}

TEST_CASE("the three normalisations of weights follow their definitions", "[posthoc]") {
  Run run(512);
  for (const double sigma_rel : {0.03, 0.15, 0.25, 0.28}) {
    const auto none =
        run.posthoc.solve({.sigma_rel = sigma_rel, .normalisation = Normalisation::none});
    const auto by_sum = run.posthoc.solve({.sigma_rel = sigma_rel});
    const auto constrained =
        run.posthoc.solve({.sigma_rel = sigma_rel, .normalisation = Normalisation::constrained});
    double none_sum = 0, sum = 0, constrained_sum = 0, absolute = 0;
    for (std::size_t i = 0; i < none.weights.size(); ++i) {
      none_sum += none.weights[i];
      sum += by_sum.weights[i];
      constrained_sum += constrained.weights[i];
      absolute += std::fabs(by_sum.weights[i]);
    }
    CHECK(sum == Approx(1).epsilon(1e-13));
    CHECK(constrained_sum == Approx(1).epsilon(1e-12));
    CHECK(std::fabs(none_sum - 1) > 1e-5);
    for (std::size_t i = 0; i < none.weights.size(); ++i) {
      CHECK(by_sum.weights[i] == Approx(none.weights[i] / none_sum).epsilon(1e-12).margin(1e-14));
    }
    CHECK(by_sum.absolute_sum == Approx(absolute).epsilon(1e-14));
    // Least squares without a constraint is best, the constrained minimum second.
    CHECK(none.residual <= constrained.residual * (1 + 1e-9));
    CHECK(constrained.residual <= by_sum.residual * (1 + 1e-9));
    CHECK(by_sum.residual <= constrained.residual * 1.02);
    CHECK(none.condition == Approx(by_sum.condition));
    CHECK(none.condition > 10);
    CHECK(none.condition < 1e5);
  }
}

TEST_CASE("constant iterates are reconstructed exactly by weights that sum to 1", "[posthoc]") {
  auto x = RandomNumbers(1).many(33);
  std::vector<double> target(33, 0);
  Parameters<double> params, out;
  params.add("x", x);
  out.add("x", target);
  PowerEma<double> sharp(params, {.sigma_rel = 0.05}), smooth(params, {.sigma_rel = 0.1});
  PosthocEma<double> posthoc;
  for (int t = 1; t <= 400; ++t) {
    polyak::update(params, sharp, smooth);
    if (t % 50 == 0) posthoc.snapshot(sharp, smooth);
  }
  for (const double sigma_rel : {0.03, 0.15, 0.28}) {
    for (const auto normalisation : {Normalisation::by_sum, Normalisation::constrained}) {
      posthoc.reconstruct(posthoc.solve({.sigma_rel = sigma_rel, .normalisation = normalisation}),
                          out);
      for (std::size_t k = 0; k < x.size(); ++k) {
        CHECK(target[k] == Approx(x[k]).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("tensors of any size and role are combined block by block", "[posthoc]") {
  const std::vector<std::size_t> sizes{40001, 16384, 0, 1, 16385, 31};
  std::vector<std::vector<float>> tensors, results;
  for (const std::size_t size : sizes) {
    tensors.emplace_back(size, 0.0f);
    results.emplace_back(size, -1.0f);
  }
  std::vector<float> free{7}, statistics{8}, other_free{7}, other_statistics{8};
  Parameters<float> params, out;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    params.add("t" + std::to_string(k), tensors[k]);
    out.add("t" + std::to_string(k), results[k]);
    if (k == 2) {
      params.add("free", free, polyak::Role::ignore);
      out.add("free", other_free, polyak::Role::ignore);
    }
  }
  params.add("statistics", statistics, polyak::Role::copy);
  out.add("statistics", other_statistics, polyak::Role::copy);
  for (const int count : {1, 3, 4, 5, 8, 11}) {
    INFO(count << " snapshots");
    PosthocEma<float> posthoc;
    polyak::PosthocSolution solution;
    RandomNumbers random(static_cast<std::uint32_t>(count));
    std::vector<std::vector<double>> expected;
    for (const std::size_t size : sizes) expected.emplace_back(size, 0.0);
    for (int i = 1; i <= count; ++i) {
      solution.weights.push_back(random());
      for (std::size_t k = 0; k < sizes.size(); ++k) {
        random.fill(tensors[k]);
        for (std::size_t e = 0; e < sizes[k]; ++e) {
          expected[k][e] += static_cast<double>(static_cast<float>(solution.weights.back())) *
                            static_cast<double>(tensors[k][e]);
        }
      }
      posthoc.snapshot(params, 3, i);
    }
    posthoc.reconstruct(solution, out);
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      double worst = 0;
      for (std::size_t e = 0; e < sizes[k]; ++e) {
        worst = std::max(worst, std::fabs(static_cast<double>(results[k][e]) - expected[k][e]));
      }
      CHECK(worst < 2e-6);
    }
    CHECK(other_free == std::vector<float>{7});
    CHECK(other_statistics == std::vector<float>{8});
    CHECK(posthoc.memory_report().slots.size() == static_cast<std::size_t>(count));
    CHECK(posthoc.memory_report().total >=
          static_cast<std::size_t>(count) * 4 * (40001 + 16384 + 1 + 16385 + 31));
  }
}

TEST_CASE("times may have any unit, and snapshots several widths", "[posthoc]") {
  std::vector<float> x{0, 0}, result{0, 0}, truth{0, 0};
  Parameters<float> params, out, file;
  params.add("x", x);
  out.add("x", result);
  file.add("x", truth);
  PowerEma<float, double> sharp(params, {.sigma_rel = 0.05}), smooth(params, {.sigma_rel = 0.1});
  PowerEma<float, double> wanted(params, {.sigma_rel = 0.08});
  PowerEma<float, double> sparse(params, {.sigma_rel = 0.15, .update_every = 7});
  PosthocEma<float, double> posthoc;
  double time = 0;
  for (int t = 1; t <= 900; ++t) {
    const double batch = t % 3 == 0 ? 64 : 100.5;
    x = {std::sin(0.01f * static_cast<float>(t)), static_cast<float>(t)};
    polyak::update(params, sharp.at(batch), smooth.at(batch), wanted.at(batch), sparse.at(batch));
    time += batch;
    if (t % 90 == 0) posthoc.snapshot(sharp);
    if (t % 90 == 0) posthoc.snapshot(smooth);
    if (t == 600) posthoc.snapshot(sparse);
  }
  CHECK(posthoc.snapshots().size() == 21);
  CHECK(posthoc.snapshots().back().time == time);
  const auto& one = posthoc.snapshots()[12];
  CHECK(one.gamma == sparse.gamma());
  CHECK(one.time < posthoc.snapshots()[13].time);  // of its last update, call 595
  CHECK(one.time == Approx(time * 595 / 900).epsilon(1e-3));
  const auto solution = posthoc.solve({.sigma_rel = 0.08});
  CHECK(solution.time == time);
  posthoc.reconstruct(solution, out);
  for (std::size_t k = 0; k < 2; ++k) {
    CHECK(static_cast<double>(result[k]) == Approx(wanted.view()[0](k)).epsilon(2e-3));
  }

  // Weights from elsewhere, such as a file, are a snapshot like any other.
  wanted.copy_to(file);
  posthoc.snapshot(file, wanted.gamma(), time);
  const auto exact = posthoc.solve({.gamma = wanted.gamma()});
  CHECK(exact.weights.back() == Approx(1).epsilon(1e-9));
  CHECK(exact.residual < 1e-7);
}

TEST_CASE("PosthocEma refuses what cannot be a snapshot", "[posthoc]") {
  std::vector<double> x{1, 2}, y{1, 2, 3};
  Parameters<double> params, other;
  params.add("x", x);
  other.add("x", y);
  PowerEma<double> a(params, {.gamma = 7}), b(params, {.gamma = 17}), of_other(other, {.gamma = 3});
  PosthocEma<double> posthoc;
  CHECK(refusal<std::logic_error>([&] { posthoc.snapshot(a, b); }).find("never updated") !=
        std::string::npos);
  a.update(params);
  b.update(params);
  of_other.update(other);
  {
    const auto guard = a.swap_into(params);
    CHECK(refusal<std::logic_error>([&] { posthoc.snapshot(b, a); }).find("swapped in") !=
          std::string::npos);
  }
  CHECK(posthoc.snapshots().empty());

  // All or nothing: b alone would have been accepted.
  CHECK(refusal<std::invalid_argument>([&] { posthoc.snapshot(b, a, b); }) ==
        "polyak: a snapshot of gamma 17 must be of a new time, got 1");
  CHECK(posthoc.snapshots().empty());
  posthoc.snapshot(a);
  CHECK(refusal<std::invalid_argument>([&] { posthoc.snapshot(b, a); }) ==
        "polyak: a snapshot of gamma 7 must be of a new time, got 1");
  CHECK(refusal<std::invalid_argument>([&] { posthoc.snapshot(params, 7, 1); }) ==
        "polyak: a snapshot of gamma 7 must be of a new time, got 1");
  CHECK(refusal<std::invalid_argument>([&] { posthoc.snapshot(b, of_other); }) ==
        "polyak: the snapshots differ: \"x\" is float64 [3], expected float64 [2]");
  CHECK(posthoc.snapshots().size() == 1);
  posthoc.snapshot(b);
  for (const double bad : {-0.5, nan_value, infinity}) {
    CHECK(refusal<std::invalid_argument>([&] {
            posthoc.snapshot(params, bad, 5);
          }).starts_with("polyak: a snapshot's gamma must be finite and >= 0, got "));
  }
  for (const double bad : {0.0, -1.0, nan_value, infinity}) {
    CHECK(refusal<std::invalid_argument>([&] {
            posthoc.snapshot(params, 5, bad);
          }).starts_with("polyak: a snapshot's time must be finite and > 0, got "));
  }
  CHECK(posthoc.snapshots().size() == 2);
}

TEST_CASE("PosthocEma refuses what it cannot solve or reconstruct", "[posthoc]") {
  using Target = polyak::PosthocTarget;
  std::vector<double> x{1, 2}, y{1, 2, 3};
  Parameters<double> params, other;
  params.add("x", x);
  other.add("y", y);
  PosthocEma<double> posthoc;
  CHECK(refusal<std::logic_error>([&] { static_cast<void>(posthoc.solve({.gamma = 1})); }) ==
        "polyak: solve() without snapshots");
  CHECK_THROWS_AS(posthoc.reconstruct({}, params), std::invalid_argument);
  posthoc.snapshot(params, 7, 10);
  posthoc.snapshot(params, 7, 20);
  const auto solve = [&](const Target& target) { static_cast<void>(posthoc.solve(target)); };
  check_refused(solve, Target{.gamma = 1}, &Target::time,
                "PosthocTarget.time must lie between the first and the last snapshot, 10 and 20",
                {9, 21, 0, -10, infinity, -infinity});
  CHECK_NOTHROW(solve({.gamma = 1, .time = 10}));
  CHECK_NOTHROW(solve({.gamma = 1, .time = 20}));
  for (const Target& bad : {Target{}, Target{.sigma_rel = 0.1, .gamma = 1}, Target{.sigma_rel = 0},
                            Target{.sigma_rel = 0.3}, Target{.sigma_rel = infinity},
                            Target{.gamma = -0.1}, Target{.gamma = infinity}}) {
    const std::string message = refusal<std::invalid_argument>([&] { solve(bad); });
    CHECK(
        message.find(std::isnan(bad.gamma) || !std::isnan(bad.sigma_rel) ? "sigma_rel" : "gamma") !=
        std::string::npos);
  }

  auto solution = posthoc.solve({.gamma = 1});
  CHECK(refusal<std::invalid_argument>([&] { posthoc.reconstruct(solution, other); }) ==
        "polyak: the target and the snapshots differ: \"x\" is missing; \"y\" is extra");
  posthoc.snapshot(params, 7, 30);
  CHECK(refusal<std::invalid_argument>([&] { posthoc.reconstruct(solution, params); }) ==
        "polyak: a solution must have one weight per snapshot, got 2");
  PowerEma<double> power(params, {.gamma = 1});
  power.update(params);
  {
    const auto guard = power.swap_into(params);
    solution = posthoc.solve({.gamma = 1});
    CHECK(refusal<std::logic_error>([&] { posthoc.reconstruct(solution, params); }) ==
          "polyak: reconstruct() while an average is swapped in");
  }
  CHECK(x == std::vector<double>{1, 2});
  CHECK(y == std::vector<double>{1, 2, 3});
}

}  // namespace posthoc_test
