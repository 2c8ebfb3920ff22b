// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of power-function EMAs and of post-hoc reconstruction.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"

namespace golden {

/// The step-indexed power EMA of ema-pytorch, as a weighting of a user's own. The first of every
/// `every` calls updates; the n-th call, counted from 1, keeps (1 - 1/(n+1))^(gamma+1) of the
/// average. The first call copies.
struct StepIndexWeighting {
  double gamma;
  std::int64_t every = 1;

  [[nodiscard]] bool acts(std::int64_t call) const { return (call - 1) % every == 0; }
  [[nodiscard]] double beta(std::int64_t call) const {
    return std::pow(1 - 1 / static_cast<double>(call + 1), gamma + 1);
  }
  [[nodiscard]] double gain(std::int64_t call) const {
    if (call == 1) {
      return 1;
    }
    return acts(call) ? -std::expm1((gamma + 1) * std::log1p(-1 / static_cast<double>(call + 1)))
                      : 0;
  }
  [[nodiscard]] double complement(std::int64_t call) const {
    if (call == 1) {
      return 0;
    }
    return acts(call) ? beta(call) : 1;
  }
};

namespace {

/// The exponents gamma of a file that gives widths, exponents or both. If both, they are compared.
std::vector<double> gammas_of(Case& run) {
  const Section& from = run.hyperparameters;
  const auto numbers = [&](const std::string& key) {
    return numbers_of(from.at(key), from.path(key));
  };
  if (!from.has("sigma_rel")) {
    return numbers("gamma");
  }
  std::vector<double> gammas;
  for (const double sigma_rel : numbers("sigma_rel")) {
    gammas.push_back(polyak::gamma_from_sigma_rel(sigma_rel));
  }
  if (from.has("gamma")) {
    // The roots that the reference computes are as inaccurate as those in its table.
    run.report().compare(run.place(from.path("gamma")), gammas, numbers("gamma"),
                         {.relative = 1e-9, .absolute = 1e-12});
  }
  return gammas;
}

/// The batch size of every call: one for all, or a list.
std::vector<double> batch_sizes_of(const Case& run, std::size_t calls) {
  const Section& from = run.hyperparameters;
  if (!from.has("batch_sizes")) {
    return std::vector<double>(calls, from.number("batch_size"));
  }
  auto sizes = from.numbers("batch_sizes");
  if (sizes.size() != calls) {
    throw Malformed(run.place(from.path("batch_sizes") + " does not have one entry per call"));
  }
  return sizes;
}

template <class T>
polyak::PowerEma<At<T>> power_ema(Model<T>& model, double gamma) {
  polyak::PowerEmaOptions options;
  options.gamma = gamma;
  return polyak::PowerEma<At<T>>(model.params(), options);
}

template <class T>
void replay_power_ema(Case& run) {
  const std::vector<Tensors> iterates = run.calls("iterates");
  const std::vector<double> batch_sizes = batch_sizes_of(run, iterates.size());
  const std::vector<double> gammas = gammas_of(run);
  const bool several = run.hyperparameters.has("sigma_rel")
                           ? run.hyperparameters.at("sigma_rel").is_array()
                           : run.hyperparameters.at("gamma").is_array();
  const Section per_step = run.expected.section("per_step");

  for (std::size_t i = 0; i < gammas.size(); ++i) {
    Model<T> model(run.layout, run.initial());
    auto average = power_ema(model, gammas[i]);
    History averages;
    std::vector<double> betas;
    for (std::size_t call = 0; call < iterates.size(); ++call) {
      model.assign(iterates[call]);
      average.at(batch_sizes[call]).update(model.params());
      averages.push_back(values_of_average(average));
      betas.push_back(1 - average.gain());
    }
    const std::string suffix = several ? "_" + std::to_string(i) : "";
    run.compare(per_step, "avg" + suffix, averages);
    run.compare(per_step, "beta" + suffix, betas);
    run.compare_final("avg" + suffix, averages);
  }
}

template <class T>
void replay_step_index(Case& run) {
  const std::vector<double> gammas = gammas_of(run);
  if (gammas.size() != 1) {
    throw Malformed(run.place("one sigma_rel is expected"));
  }
  const StepIndexWeighting weighting{gammas[0], run.hyperparameters.count("update_every", 1)};

  Model<T> model(run.layout, run.initial());
  polyak::Average<At<T>, StepIndexWeighting> average(model.params(), weighting);
  History averages;
  std::vector<double> betas;
  for (const Tensors& iterate : run.calls("iterates")) {
    model.assign(iterate);
    average.update(model.params());
    averages.push_back(values_of_average(average));
    // The reference reports its formula for the first call too, although that call copies.
    betas.push_back(average.calls() == 1 ? weighting.beta(1) : 1 - average.gain());
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "avg", averages);
  run.compare(per_step, "beta", betas);
  run.compare_final("avg", averages);
}

#if !defined(POLYAK_GOLDEN_DEVICE)  // snapshots lie on the host

/// The model that reconstructions are written to.
template <class T>
Tensors reconstructed(const Case& run, const polyak::PosthocEma<T>& posthoc,
                      const polyak::PosthocSolution& solution) {
  Model<T> target(run.layout, run.initial());
  posthoc.reconstruct(solution, target.params());
  return target.values();
}

/// L2 norm of the difference, over all tensors together, relative to that of `truth`.
double relative_error(const Tensors& values, const Tensors& truth) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    for (std::size_t k = 0; k < truth[i].size(); ++k) {
      difference += std::pow(values[i][k] - truth[i][k], 2);
      norm += std::pow(truth[i][k], 2);
    }
  }
  return std::sqrt(difference / norm);
}

/// One unit in the last place of binary16, subnormals included.
double half_ulp_at(double value) {
  const int exponent = value == 0 ? -14 : std::max(std::ilogb(value), -14);
  return std::ldexp(1.0, exponent - 10);
}

/// Results that went through binary16 may differ by two units in its last place.
void compare_halves(Case& run, const Section& section, const std::string& key,
                    const History& actual) {
  const Json* recorded = run.recorded_list(section, key, actual.size());
  for (std::size_t j = 0; recorded != nullptr && j < actual.size(); ++j) {
    const std::string place = section.path(key) + "[" + std::to_string(j) + "]";
    const Tensors expected = tensors_of((*recorded)[j], run.layout, place);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      for (std::size_t k = 0; k < expected[i].size(); ++k) {
        run.report().compare_within(run.place(place + "." + run.layout.names[i]),
                                    (*actual[j])[i][k], expected[i][k],
                                    2 * half_ulp_at(expected[i][k]));
      }
    }
  }
}

template <class T>
void replay_posthoc(Case& run) {
  const Section& from = run.hyperparameters;
  const std::vector<Tensors> iterates = run.calls("iterates");
  const double batch_size = from.number("batch_size");
  const std::int64_t every = from.count("snapshot_every_calls");
  const double target_time =
      from.number("target_nimg", batch_size * static_cast<double>(iterates.size()));

  // Twice: with snapshots as they are, and with snapshots stored as binary16.
  Model<T> model(run.layout, run.initial());
  Model<Eigen::half> half_model(run.layout, run.initial());
  polyak::PosthocEma<T> posthoc;
  polyak::PosthocEma<Eigen::half> half_posthoc;
  std::vector<polyak::PowerEma<At<T>>> tracked;
  for (const double sigma_rel : from.numbers("sigma_rel_tracked")) {
    tracked.push_back(power_ema(model, polyak::gamma_from_sigma_rel(sigma_rel)));
  }
  std::vector<double> times;
  std::vector<double> widths;
  History snapshots;
  for (std::size_t call = 0; call < iterates.size(); ++call) {
    model.assign(iterates[call]);
    for (auto& average : tracked) {
      average.at(batch_size).update(model.params());
      if ((static_cast<std::int64_t>(call) + 1) % every != 0) {
        continue;
      }
      posthoc.snapshot(average);
      snapshots.push_back(values_of_average(average));
      half_model.assign(*snapshots.back());
      half_posthoc.snapshot(half_model.params(), average.gamma(), average.updated_time());
      times.push_back(average.updated_time());
      widths.push_back(average.sigma_rel());
    }
  }
  run.compare(run.expected, "snapshot_nimg", times, exact);
  run.compare(run.expected, "snapshot_sigma_rel", widths);
  run.compare(run.expected, "snapshots", snapshots);

  History full;
  History half;
  History truth;
  std::vector<double> errors;
  const std::vector<double> targets = from.numbers("sigma_rel_targets");
  const Json* coefficients = run.recorded_list(run.expected, "coefficients", targets.size());
  for (std::size_t j = 0; j < targets.size(); ++j) {
    const auto solution = posthoc.solve({.sigma_rel = targets[j], .time = target_time});
    if (coefficients != nullptr) {
      // Snapshots after the target time have weight 0 or are missing from the list.
      const std::string place = "expected.coefficients[" + std::to_string(j) + "]";
      const std::vector<double> recorded = numbers_of((*coefficients)[j], place);
      std::vector<double> weights = solution.weights;
      while (weights.size() > recorded.size() && weights.back() == 0) {
        weights.pop_back();
      }
      run.report().compare(run.place(place), weights, recorded, run.tolerance);
    }
    full.push_back(reconstructed(run, posthoc, solution));
    half.push_back(reconstructed(
        run, half_posthoc, half_posthoc.solve({.sigma_rel = targets[j], .time = target_time})));

    auto direct = power_ema(model, polyak::gamma_from_sigma_rel(targets[j]));
    for (std::size_t call = 0; call < iterates.size() && direct.time() < target_time; ++call) {
      model.assign(iterates[call]);
      direct.at(batch_size).update(model.params());
    }
    truth.push_back(values_of_average(direct));
    errors.push_back(relative_error(*full.back(), *truth.back()));
  }
  run.compare(run.expected, "reconstructed_float64", full);
  compare_halves(run, run.expected, "reconstructed_half_pipeline", half);
  run.compare(run.expected, "true_tracked", truth);
  run.compare(run.expected, "relative_error_vs_true", errors);
}

/// The values after they were stored in that type.
Tensors through_checkpoint(const Case& run, const Tensors& values, const std::string& dtype) {
  if (dtype == "float64") {
    return values;
  }
  if (dtype == "float32") {
    return Model<float>(run.layout, values).values();
  }
  if (dtype == "float16") {
    return Model<Eigen::half>(run.layout, values).values();
  }
  throw Malformed(run.place("unknown checkpoint_dtype \"" + dtype + "\""));
}

/// The post-hoc solver of ema-pytorch. Its weights are not normalised, and its averages are indexed
/// by step, so the times of the snapshots are numbers of calls.
template <class T>
void replay_unnormalised_posthoc(Case& run) {
  const Section& from = run.hyperparameters;
  const std::int64_t every = from.count("checkpoint_every");
  const std::string checkpoint_dtype = from.text("checkpoint_dtype", run.dtype);

  Model<T> model(run.layout, run.initial());
  Model<T> checkpoint(run.layout, run.initial());
  polyak::PosthocEma<T> posthoc;
  std::vector<polyak::Average<At<T>, StepIndexWeighting>> tracked;
  for (const double sigma_rel : from.numbers("sigma_rel_tracked")) {
    tracked.emplace_back(model.params(),
                         StepIndexWeighting{polyak::gamma_from_sigma_rel(sigma_rel)});
  }
  std::vector<double> steps;
  std::vector<double> gammas;
  for (const Tensors& iterate : run.calls("iterates")) {
    model.assign(iterate);
    for (auto& average : tracked) {
      average.update(model.params());
      if (average.calls() % every != 0) {
        continue;
      }
      steps.push_back(static_cast<double>(average.calls()));
      gammas.push_back(average.weighting().gamma);
      checkpoint.assign(through_checkpoint(run, values_of_average(average), checkpoint_dtype));
      posthoc.snapshot(checkpoint.params(), gammas.back(), steps.back());
    }
  }
  run.compare(run.expected, "checkpoint_step", steps, exact);
  run.compare(run.expected, "checkpoint_gamma", gammas);

  const auto solution = posthoc.solve(
      {.sigma_rel = from.number("sigma_rel_target"), .normalisation = polyak::Normalisation::none});
  run.compare(run.expected, "weights", solution.weights);
  run.compare(run.expected, "sum_of_weights",
              std::accumulate(solution.weights.begin(), solution.weights.end(), 0.0));
  run.compare_final("avg", {reconstructed(run, posthoc, solution)});
}

#endif

}  // namespace

Replays power_replays() {
  return {
    {"power_ema", {{"PowerEma"}, by_dtype(replay_power_ema<float>, replay_power_ema<double>)}},
        {"power_ema_step_index",
         {{"PowerEma"}, by_dtype(replay_step_index<float>, replay_step_index<double>)}},
#if !defined(POLYAK_GOLDEN_DEVICE)
        {"posthoc_power",
         {{"PosthocEma"}, by_dtype(replay_posthoc<float>, replay_posthoc<double>)}},
        {"posthoc_power_unnormalised",
         {{"PosthocEma"},
          by_dtype(replay_unnormalised_posthoc<float>, replay_unnormalised_posthoc<double>)}},
#endif
  };
}

}  // namespace golden
