// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of the learning rates of SWA.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <polyak/optim/swa_learning_rate.hpp>

#include "case.hpp"
#include "json.hpp"

namespace golden {
namespace {

/// The rows of inputs and the rows of expected results, which correspond.
std::vector<Section> expected_rows(const Case& run, std::size_t inputs) {
  std::vector<Section> rows = run.expected.rows("rows");
  if (rows.size() != inputs) {
    throw Malformed(run.place("expected.rows does not have one row per row of inputs"));
  }
  return rows;
}

/// The rates after construction and after each step. A row may also change a rate from outside.
void replay_row(Case& run, const Section& from, const Section& row, bool rebase) {
  polyak::SwaLearningRateOptions options;
  const std::string strategy = from.text("strategy");
  if (strategy != "cos" && strategy != "linear") {
    throw Malformed(run.place(from.path("strategy") + " is unknown"));
  }
  options.strategy =
      strategy == "cos" ? polyak::AnnealStrategy::cosine : polyak::AnnealStrategy::linear;
  options.anneal_epochs = from.integer("anneal_epochs");
  options.swa_learning_rate = from.numbers("swa_lr");
  options.rebase = rebase;
  polyak::SwaLearningRate rate(from.numbers("initial_lr"), options);

  const Section external = from.section("external");
  const std::int64_t changed =
      from.has("external") ? external.integer("before_step") : std::int64_t{-1};
  const std::string place = row.path("lr");
  const Json& recorded = list_of(row.at("lr"), place);
  for (std::size_t k = 0; k < recorded.size(); ++k) {
    if (static_cast<std::int64_t>(k) == changed) {
      std::vector<double> rates = rate.rates();
      for (double& value : rates) value *= external.number("multiply_lr_by");
      rate.step(rates);
    } else if (k != 0) {
      rate.step();
    }
    const std::string at = place + "[" + std::to_string(k) + "]";
    run.report().compare(run.place(at), rate.rates(), numbers_of(recorded[k], at), run.tolerance);
  }
}

void replay_swalr(Case& run) {
  const std::vector<Section> inputs = run.inputs.rows("rows");
  const std::vector<Section> rows = expected_rows(run, inputs.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    replay_row(run, inputs[i], rows[i], true);
    if (!inputs[i].has("external")) replay_row(run, inputs[i], rows[i], false);
  }
}

std::vector<double> constant_rates(const Section& from) {
  polyak::SwaConstantOptions options;
  const std::int64_t epochs = from.integer("epochs"), start = from.integer("swa_start");
  const bool averaged = from.flag("swa", true);
  options.learning_rate = from.number("lr_init");
  options.swa_learning_rate = from.number("swa_lr");
  options.start = start;
  if (!averaged) {
    options.start = epochs;
    options.swa_learning_rate = 0.01 * options.learning_rate;
  }
  std::vector<double> rates;
  for (const double epoch : from.numbers("epoch")) {
    rates.push_back(polyak::swa_constant(static_cast<std::int64_t>(epoch), options));
  }
  return rates;
}

std::vector<double> cyclic_rates(const Section& from) {
  polyak::SwaCyclicOptions options;
  options.first_rate = from.number("lr_start");
  options.last_rate = from.number("lr_end");
  options.cycle = from.integer("cycle");
  std::vector<double> rates;
  for (const double iteration : from.numbers("iteration")) {
    rates.push_back(polyak::swa_cyclic(static_cast<std::int64_t>(iteration), options));
  }
  return rates;
}

void replay_swa_lr_schedule(Case& run) {
  const std::vector<Section> inputs = run.inputs.rows("rows");
  const std::vector<Section> rows = expected_rows(run, inputs.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string kind = inputs[i].text("kind");
    if (kind != "constant" && kind != "cyclic") {
      throw Malformed(run.place(inputs[i].path("kind") + " is unknown"));
    }
    run.compare(rows[i], "lr",
                kind == "constant" ? constant_rates(inputs[i]) : cyclic_rates(inputs[i]));
  }
}

}  // namespace

Replays swa_rate_replays() {
  return {
      {"swalr", {{"SwaLearningRate"}, replay_swalr}},
      {"swa_lr_schedule", {{"swa_constant", "swa_cyclic"}, replay_swa_lr_schedule}},
  };
}

}  // namespace golden
