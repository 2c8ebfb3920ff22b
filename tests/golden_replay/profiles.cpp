// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of post-hoc reconstruction with averages and targets of every kind.
#include <Eigen/Eigenvalues>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <polyak/average/analysis/profile_fit.hpp>
#include <polyak/average/schedules/stream_weighting.hpp>

#include "case.hpp"

namespace golden {
namespace {

/// The start of an exponential average that a file names.
polyak::Start start_of(const Case& run, const Section& from) {
  const std::string init = from.text("init");
  if (init == "copy_first") {
    return polyak::Start::first_update;
  }
  if (init == "initial_params") {
    return polyak::Start::params;
  }
  throw Malformed(run.place(from.path("init") + " is \"" + init + "\""));
}

/// Calls `make(weighting)` with the weighting that a file describes. Returns false if it is not
/// one.
template <class Make>
bool with_weighting(const Case& run, const Section& from, Make make) {
  const std::string type = from.text("type");
  if (type == "uniform") {
    make(polyak::UniformWeighting{});
  } else if (type == "ema") {
    make(polyak::ExponentialWeighting{from.number("decay"), start_of(run, from), 1});
  } else if (type == "ema_debiased") {
    make(polyak::ExponentialWeighting{from.number("decay"), polyak::Start::zero_debiased, 1});
  } else if (type == "poly") {
    make(polyak::PolynomialWeighting{from.number("eta")});
  } else if (type == "power") {
    make(polyak::PowerWeighting{from.number("gamma")});
  } else if (type == "tf_warmup") {
    make(polyak::TfWarmupWeighting{from.number("decay")});
  } else if (type == "inv_gamma") {
    make(polyak::InverseGammaWeighting{from.number("inv_gamma"), from.number("power"),
                                       from.number("decay")});
  } else if (type == "tail") {
    make(polyak::TailWeighting{from.count("start")});
  } else if (type == "weighted") {
    make(polyak::StreamWeighting(from.numbers("weights")));
  } else {
    return false;
  }
  return true;
}

polyak::ProfileTarget target_of(const Case& run, const Section& from) {
  polyak::ProfileTarget target = polyak::ProfileTarget::uniform();
  const std::string type = from.text("type");
  if (with_weighting(run, from, [&](auto weighting) {
        target = polyak::ProfileTarget::weighted(type, std::move(weighting));
      })) {
    return target;
  }
  if (type == "window") {
    return polyak::ProfileTarget::window(from.count("n"));
  }
  if (type == "cooldown") {
    static const std::map<std::string, polyak::CooldownCurve> curves{
        {"linear", polyak::CooldownCurve::linear},
        {"cosine", polyak::CooldownCurve::cosine},
        {"one_minus_sqrt", polyak::CooldownCurve::one_minus_sqrt},
        {"square", polyak::CooldownCurve::square}};
    const auto curve = curves.find(from.text("curve"));
    if (curve != curves.end()) {
      return polyak::ProfileTarget::cooldown(curve->second, from.count("K"));
    }
  }
  throw Malformed(run.place("unknown target \"" + type + "\""));
}

/// sum_t weights[t] x_t, t = 0 the initial value.
Tensors weighted_sum(const std::vector<double>& weights, const Tensors& initial,
                     const std::vector<Tensors>& iterates) {
  Tensors sum = initial;
  for (std::size_t i = 0; i < sum.size(); ++i) {
    for (std::size_t k = 0; k < sum[i].size(); ++k) {
      sum[i][k] *= weights[0];
      for (std::size_t t = 0; t < iterates.size(); ++t) {
        sum[i][k] += weights[t + 1] * iterates[t][i][k];
      }
    }
  }
  return sum;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) {
    result = std::max(result, std::fabs(value));
  }
  return result;
}

/// Compares weights with recorded ones; they may differ by `share` of the largest.
void compare_weights(Case& run, const Section& row, const std::string& key,
                     const std::vector<double>& actual, double share) {
  if (!row.has(key)) {
    return;
  }
  const std::vector<double> recorded = row.numbers(key);
  if (recorded.size() != actual.size()) {
    throw Malformed(run.place(row.path(key) + " has another length than there are snapshots"));
  }
  for (std::size_t k = 0; k < actual.size(); ++k) {
    run.report().compare_within(run.place(row.path(key) + "[" + std::to_string(k) + "]"), actual[k],
                                recorded[k], share * largest(recorded));
  }
}

void replay_general(Case& run) {
  const auto calls = run.hyperparameters.count("T");
  const std::vector<Tensors> iterates = run.calls("iterates");
  if (static_cast<std::int64_t>(iterates.size()) != calls) {
    throw Malformed(run.place("there are not T iterates"));
  }
  (void)run.hyperparameters.count("snapshot_every", 1);  // the snapshots are listed
  std::vector<polyak::GainSequence> averages;
  for (const Section& averager : run.hyperparameters.rows("averagers")) {
    if (!with_weighting(run, averager,
                        [&](auto weighting) { averages.emplace_back(std::move(weighting)); })) {
      throw Malformed(run.place("unknown averager \"" + averager.text("type") + "\""));
    }
  }
  std::vector<polyak::ProfileSnapshot> snapshots;
  for (const Section& snapshot : run.inputs.rows("snapshots")) {
    snapshots.push_back(
        {static_cast<std::size_t>(snapshot.integer("averager")), snapshot.count("step")});
  }
  std::vector<polyak::ProfileTarget> targets;
  for (const Section& target : run.inputs.rows("targets")) {
    targets.push_back(target_of(run, target).at(calls));
  }
  std::vector<std::vector<double>> wanted;
  for (const auto& target : targets) {
    wanted.push_back(target.profile(calls));
  }
  const auto products =
      polyak::detail::profile_products(averages, snapshots, wanted, calls, polyak::Metric::iterate);
  const auto n = static_cast<Eigen::Index>(snapshots.size());
  const Json* gram = run.recorded_list(run.expected, "gram", snapshots.size());
  for (Eigen::Index i = 0; gram != nullptr && i < n; ++i) {
    const std::string place = "expected.gram[" + std::to_string(i) + "]";
    const Eigen::VectorXd row = products.gram.row(i);
    run.report().compare(run.place(place), std::vector<double>(row.begin(), row.end()),
                         numbers_of((*gram)[static_cast<std::size_t>(i)], place),
                         {.relative = 1e-12, .absolute = 0});
  }
  const Eigen::VectorXd spectrum =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(products.gram).eigenvalues();
  const double condition = spectrum[n - 1] / spectrum[0];
  run.compare(run.expected, "cond_gram", condition, {.relative = condition * 1e-15, .absolute = 0});

  const auto fitted = [&](polyak::Normalisation normalisation, double ridge) {
    return polyak::fit_profiles(averages, snapshots, targets,
                                {.normalisation = normalisation, .ridge = ridge, .force = true});
  };
  const double ridge = run.hyperparameters.number("ridge_relative", 0) * products.gram.trace() /
                       static_cast<double>(n);
  const auto constrained = fitted(polyak::Normalisation::constrained, 0);
  const auto rescaled = fitted(polyak::Normalisation::by_sum, 0);
  const auto regularised = fitted(polyak::Normalisation::constrained, ridge);
  const auto rows = run.expected.rows("rows");
  if (rows.size() != targets.size()) {
    throw Malformed(run.place("expected.rows has another length than inputs.targets"));
  }
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const Section& row = rows[k];
    (void)target_of(run, row.section("target"));
    const Eigen::VectorXd right = products.right.col(static_cast<Eigen::Index>(k));
    const std::vector<double> recorded = row.numbers("rhs");
    run.report().compare(run.place(row.path("rhs")),
                         std::vector<double>(right.begin(), right.end()), recorded,
                         {.relative = 1e-12, .absolute = 0});
    compare_weights(run, row, "weights_constrained", constrained[k].weights, condition * 1e-15);
    compare_weights(run, row, "weights_rescaled", rescaled[k].weights, condition * 1e-15);
    compare_weights(run, row, "weights_ridge", regularised[k].weights, 1e-7);
    run.compare(row, "ridge", ridge, {.relative = 1e-12, .absolute = 0});
    const Section errors = row.section("profile_error");
    const Tolerance error_tolerance{.relative = 1e-6, .absolute = 0};
    run.compare(errors, "constrained", constrained[k].residual, error_tolerance);
    run.compare(errors, "rescaled", rescaled[k].residual, error_tolerance);
    run.compare(errors, "ridge", regularised[k].residual, error_tolerance);
    if (row.has("reconstructed")) {
      const auto profile =
          polyak::achieved_profile(averages, snapshots, constrained[k].weights, calls);
      const std::string place = row.path("reconstructed");
      run.report().compare(run.place(place), run.layout,
                           weighted_sum(profile, run.initial(), iterates),
                           tensors_of(row.at("reconstructed"), run.layout, place),
                           {.relative = 1e-7, .absolute = 1e-10});
    }
  }
}

}  // namespace

Replays profile_replays() { return {{"posthoc_general", {{"fit_profiles"}, replay_general}}}; }

}  // namespace golden
