// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of merging as learning-rate decay.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include <polyak/merge/merge_as_decay.hpp>

#include "case.hpp"
#include "json.hpp"
#include "model.hpp"

namespace golden {
namespace {

/// The multipliers that a row or the hyperparameters describe.
std::vector<double> multipliers_from(const Case& run, const Section& from,
                                     std::int64_t checkpoints) {
  const std::string curve = from.text("curve");
  const std::string abscissa = from.text("abscissa", "(i-1)/K");
  polyak::DecayMultipliersOptions options;
  options.floor = from.number("floor", 0);
  if (abscissa == "i/(K+1)") {
    options.abscissa = polyak::DecayAbscissa::within;
  } else if (abscissa != "(i-1)/K") {
    throw Malformed(run.place(from.path("abscissa") + " is unknown"));
  }
  if (curve == "exponential") return polyak::exponential_decay_multipliers(checkpoints, options);
  static const std::map<std::string, polyak::CooldownCurve> curves{
      {"linear", polyak::CooldownCurve::linear},
      {"cosine", polyak::CooldownCurve::cosine},
      {"one_minus_sqrt", polyak::CooldownCurve::one_minus_sqrt},
      {"square", polyak::CooldownCurve::square}};
  const auto known = curves.find(curve);
  if (known == curves.end()) throw Malformed(run.place(from.path("curve") + " is unknown"));
  return polyak::decay_multipliers(known->second, checkpoints, options);
}

/// Multipliers to weights, and weights back to multipliers.
void compare_decay(Case& run, const Section& row, const std::vector<double>& multipliers) {
  const std::vector<double> weights = polyak::merge_weights(multipliers);
  run.compare(row, "multipliers", multipliers);
  run.compare(row, "weights", weights);
  run.compare(row, "multipliers", polyak::multipliers_of(weights));
}

void replay_tables(Case& run) {
  if (run.inputs.has("rows")) {
    const std::vector<Section> inputs = run.inputs.rows("rows");
    const std::vector<Section> rows = run.expected.rows("rows");
    if (rows.size() != inputs.size()) {
      throw Malformed(run.place("expected.rows does not have one row per row of inputs"));
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      compare_decay(run, rows[i], multipliers_from(run, inputs[i], inputs[i].count("K")));
    }
  }
  // The names contain n and K. Any other name would be reported as not known.
  for (std::int64_t n = 1; n <= 400; ++n) {
    for (std::int64_t decay = 1; decay <= n; ++decay) {
      const std::string key =
          "wsd_schedule_n" + std::to_string(n) + "_decay" + std::to_string(decay);
      if (!run.expected.has(key)) continue;
      for (const Section& row : run.expected.rows(key)) {
        compare_decay(run, row, multipliers_from(run, row, decay));
      }
    }
  }
}

template <class T>
void replay_merge(Case& run) {
  replay_tables(run);
  const std::int64_t checkpoints = run.hyperparameters.count("K");
  const std::vector<double> multipliers = multipliers_from(run, run.hyperparameters, checkpoints);
  compare_decay(run, run.expected, multipliers);

  const std::vector<Tensors> updates = run.calls("updates");
  if (static_cast<std::int64_t>(updates.size()) != checkpoints) {
    throw Malformed(run.place("inputs.updates does not have K entries"));
  }
  std::deque<Model<T>> models;  // x_0..x_K; they do not move
  std::vector<const polyak::Parameters<T>*> lists;
  models.emplace_back(run.layout, run.initial());
  lists.push_back(&models.back().params());
  for (const Tensors& update : updates) {
    const Tensors before = models.back().values();
    models.emplace_back(run.layout, before).add(update);
    lists.push_back(&models.back().params());
  }
  Model<T> merged(run.layout, run.initial());
  polyak::merge_as_decay(merged.params(), lists, multipliers);
  run.compare(run.expected.section("final"), "merged", merged.values());
}

}  // namespace

Replays merge_replays() {
  return {{"merge_as_decay",
           {{"merge_as_decay"}, by_dtype(replay_merge<float>, replay_merge<double>)}}};
}

}  // namespace golden
