// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of the re-estimation of BatchNorm statistics.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <polyak/average/batch_norm.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "json.hpp"

namespace golden {
namespace {

polyak::BatchNormPooling pooling_of(const Case& run) {
  const std::string weighting = run.hyperparameters.text("weighting");
  if (weighting == "batch_equal") return polyak::BatchNormPooling::batches;
  if (weighting == "sample_weighted") return polyak::BatchNormPooling::samples;
  throw Malformed("unknown weighting \"" + weighting + "\"");
}

/// The activations of every batch, samples x channels, in the order of the batches.
template <class T>
std::vector<std::vector<T>> batches_of(const Case& run, std::int64_t channels) {
  const Section recorded = run.inputs.section("batches");
  const auto& names = run.layout.names;
  std::vector<std::vector<T>> batches;
  while (batches.size() < names.size()) {
    const std::string name = "batch_" + std::to_string(batches.size());
    const std::vector<double> values = recorded.numbers(name);
    const auto place = std::find(names.begin(), names.end(), name);
    const auto tensor = static_cast<std::size_t>(place - names.begin());
    if (place == names.end() || run.layout.shapes[tensor].size() != 2 ||
        run.layout.shapes[tensor][1] != channels || run.layout.elements(tensor) != values.size()) {
      throw Malformed(recorded.path(name) + " is not of a shape [samples, channels]");
    }
    batches.emplace_back(values.begin(), values.end());
  }
  return batches;
}

/// The running statistics of a layer.
template <class T>
struct Statistics {
  std::vector<T> mean, variance;

  explicit Statistics(const Tensors& initial)
      : mean(initial[0].begin(), initial[0].end()),
        variance(initial[1].begin(), initial[1].end()) {}

  [[nodiscard]] Tensors values() const {
    return {{mean.begin(), mean.end()}, {variance.begin(), variance.end()}};
  }

  /// Updates the statistics as a layer with a settable momentum does in training mode.
  void update(std::span<const T> batch, double momentum) {
    const std::size_t channels = mean.size(), samples = batch.size() / channels;
    for (std::size_t c = 0; c < channels; ++c) {
      double sum = 0, squares = 0;
      for (std::size_t i = 0; i < samples; ++i) sum += static_cast<double>(batch[i * channels + c]);
      const double average = sum / static_cast<double>(samples);
      for (std::size_t i = 0; i < samples; ++i) {
        squares += std::pow(static_cast<double>(batch[i * channels + c]) - average, 2);
      }
      const auto of = [&](T& running, double statistic) {
        const auto old = static_cast<double>(running);
        running = static_cast<T>(old + momentum * (statistic - old));
      };
      of(mean[c], average);
      of(variance[c], squares / static_cast<double>(samples - 1));
    }
  }
};

template <class T>
void replay_update_bn(Case& run) {
  const std::int64_t channels = run.hyperparameters.count("channels");
  const auto batches = batches_of<T>(run, channels);
  run.layout = {{"running_mean", "running_var"}, {{channels}, {channels}}, true};

  const Section recorded = run.initial_section();
  const Tensors initial{recorded.numbers("running_mean"), recorded.numbers("running_var")};
  for (const auto& statistic : initial) {
    if (statistic.size() != static_cast<std::size_t>(channels)) {
      throw Malformed("initial does not have one value per channel");
    }
  }

  // One layer is observed, and one updates its own statistics by the factor that it gets.
  Statistics<T> observed(initial), itself(initial);
  std::int64_t counter = -1;
  polyak::BatchNormEstimator<T> estimator(pooling_of(run));
  estimator.add("observed", observed.mean, observed.variance, &counter);
  estimator.add("itself", itself.mean, itself.variance);

  History of_observed, of_itself;
  bool first = true;
  estimator.estimate(batches, [&](const std::vector<T>& batch) {
    if (!first) {
      of_observed.emplace_back(observed.values());
      of_itself.emplace_back(itself.values());
    }
    first = false;
    estimator.observe(0, batch);
    const auto samples = static_cast<std::int64_t>(batch.size()) / channels;
    itself.update(batch, estimator.factor(1, samples));
  });
  of_observed.emplace_back(observed.values());
  of_itself.emplace_back(itself.values());

  for (const History* history : {&of_observed, &of_itself}) {
    run.compare(run.expected, "per_step", *history);
    run.compare(run.expected, "final", *history->back());
  }
  run.report().check("number of batches", counter == static_cast<std::int64_t>(batches.size()));
}

/// One layer and one set of batches, pooled in all three ways.
template <class T>
void replay_reestimate(Case& run) {
  std::vector<std::vector<T>> batches;
  const std::string where = run.inputs.path("batches");
  for (const Json& recorded : list_of(run.inputs.at("batches"), where)) {
    const std::size_t k = batches.size();
    const std::vector<double> values = numbers_of(recorded, where);
    if (k >= run.layout.shapes.size() || run.layout.elements(k) != values.size() ||
        run.layout.shapes[k].size() != 2) {
      throw Malformed(run.place(where + " are not of the shapes [samples, channels]"));
    }
    batches.emplace_back(values.begin(), values.end());
  }
  if (batches.empty()) throw Malformed(run.place(where + " is empty"));
  const auto channels = static_cast<std::size_t>(run.layout.shapes[0][1]);
  const auto compare = [&](polyak::BatchNormPooling pooling, const char* mean,
                           const char* variance) {
    Statistics<T> layer({std::vector<double>(channels), std::vector<double>(channels)});
    polyak::BatchNormEstimator<T> estimator(pooling);
    estimator.add("layer", layer.mean, layer.variance);
    estimator.estimate(batches, [&](const std::vector<T>& batch) { estimator.observe(0, batch); });
    const Tensors found = layer.values();
    for (const auto& [key, values] : {std::pair{mean, found[0]}, std::pair{variance, found[1]}}) {
      run.compare(run.expected, key, values);
    }
  };
  compare(polyak::BatchNormPooling::batches, "per_batch_mean", "per_batch_var");
  compare(polyak::BatchNormPooling::samples, "per_sample_mean", "per_sample_var");
  compare(polyak::BatchNormPooling::pooled, "pooled_mean", "pooled_var_unbiased");
}

}  // namespace

Replays batch_norm_replays() {
  return {
      {"update_bn",
       {{"BatchNormEstimator"}, by_dtype(replay_update_bn<float>, replay_update_bn<double>)}},
      {"batchnorm_reestimate",
       {{"BatchNormEstimator"}, by_dtype(replay_reestimate<float>, replay_reestimate<double>)}},
  };
}

}  // namespace golden
