// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of weighted averages and sums of models.

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include <polyak/merge/linear.hpp>

#include "case.hpp"
#include "json.hpp"
#include "model.hpp"

namespace golden {
namespace {

template <class T>
void replay_linear(Case& run) {
  std::vector<double> weights = run.hyperparameters.numbers("weights");
  if (run.hyperparameters.flag("normalize", true)) {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    for (double& weight : weights) weight /= sum;
  }
  std::deque<Model<T>> models;  // they do not move
  std::vector<const polyak::Parameters<T>*> lists;
  for (const Tensors& values : run.calls("models")) {
    models.emplace_back(run.layout, values);
    lists.push_back(&models.back().params());
  }
  if (models.empty()) throw Malformed(run.place("inputs.models is empty"));
  Model<T> merged(run.layout, models.front().values());
  polyak::average_n(merged.params(), lists, weights);
  run.compare(run.expected, "merged", merged.values());
}

}  // namespace

Replays linear_replays() {
  return {{"linear", {{"average_n"}, by_dtype(replay_linear<float>, replay_linear<double>)}}};
}

}  // namespace golden
