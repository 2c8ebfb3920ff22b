// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of averages that follow given iterates: SWA, EMA, target networks.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"

namespace golden {
namespace {

/// The average, or nothing if it is not readable. The library must then refuse to read it.
template <class T, class Average>
std::optional<Tensors> readable_average(Case& run, const Average& average, Model<T>& target,
                                        bool expect_ready) {
  run.report().check(run.place("average is ready"), average.ready() == expect_ready);
  if (average.ready()) {
    average.copy_to(target.params());
    return target.values();
  }
  bool refused = false;
  try {
    average.copy_to(target.params());
  } catch (const std::logic_error&) {
    refused = true;
  }
  run.report().check(run.place("average before the first collection is refused"), refused);
  return std::nullopt;
}

template <class T>
void replay_swa(Case& run, std::int64_t default_start) {
  polyak::SwaOptions options;
  options.start = run.hyperparameters.integer("start", default_start);
  options.period = run.hyperparameters.integer("period", 1);

  Model<T> model(run.layout, run.initial());
  Model<T> target(run.layout, run.initial_average());
  polyak::Swa<At<T>> average(model.params(), options);

  History averages;
  std::vector<double> counts;
  bool collected = false;
  for (const Tensors& iterate : run.calls("iterates")) {
    model.assign(iterate);
    average.update(model.params());
    const auto call = static_cast<std::int64_t>(averages.size()) + 1;
    collected =
        collected || (call >= options.start && (call - options.start) % options.period == 0);
    averages.push_back(readable_average(run, average, target, collected));
    counts.push_back(static_cast<double>(average.count()));
  }

  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "avg", averages);
  run.compare(per_step, "n_averaged", counts, exact);
  run.compare_final("avg", averages);
}

/// Feeds the iterates to the average. Returns the average after every call, read through its view.
template <class T, class Average>
History follow(const std::vector<Tensors>& iterates, Model<T>& model, Average& average) {
  History averages;
  for (const Tensors& iterate : iterates) {
    model.assign(iterate);
    average.update(model.params());
    averages.push_back(values_of_average(average));
  }
  return averages;
}

template <class T>
void replay_ema(Case& run) {
  polyak::EmaOptions options;
  options.decay = run.hyperparameters.number("decay");
  options.any_decay = true;
  const std::string init = run.hyperparameters.text("init", "initial_params");
  if (init == "copy_first") {
    options.start = polyak::Start::first_update;
  } else if (init == "initial_params") {
    options.start = polyak::Start::params;
  } else {
    throw Malformed(run.place("unknown init \"" + init + "\""));
  }

  const std::vector<Tensors> iterates = run.calls("iterates");
  Model<T> model(run.layout, run.initial_average());
  polyak::Ema<At<T>> average(model.params(), options);
  polyak::EmaBank<At<T>, 1> bank(model.params(), {options.decay},
                                 {.start = options.start, .any_decay = true});
  History averages, of_bank;
  for (const Tensors& iterate : iterates) {
    model.assign(iterate);
    polyak::update(model.params(), average, bank);
    averages.push_back(values_of_average(average));
    of_bank.push_back(values_of_slot(bank, "average.0"));
  }
  for (const History* const history : {&averages, &of_bank}) {
    run.compare(run.expected.section("per_step"), "avg", *history);
    run.compare_final("avg", *history);
  }
}

template <class T>
void replay_debiased_ema(Case& run) {
  polyak::EmaOptions options;
  options.decay = run.hyperparameters.number("decay");
  options.any_decay = true;
  options.start = polyak::Start::zero_debiased;

  Model<T> model(run.layout, run.initial());
  polyak::Ema<At<T>> average(model.params(), options);
  const History averages = follow(run.calls("iterates"), model, average);

  // The library stores only the debiased average. The sum from zero is that times 1 - decay^t.
  History sums = averages;
  for (std::size_t t = 0; t < sums.size(); ++t) {
    const double weight = -std::expm1(static_cast<double>(t + 1) * std::log(options.decay));
    for (auto& tensor : *sums[t]) {
      for (double& value : tensor) {
        value *= weight;
      }
    }
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "avg", averages);
  run.compare(per_step, "raw", sums);
  run.compare_final("avg", averages);
  run.compare_final("raw", sums);
}

template <class T>
void replay_target_update(Case& run) {
  const double step_size = run.hyperparameters.number("step_size");
  polyak::EmaOptions incremental_options;
  incremental_options.decay = 1 - step_size;
  incremental_options.any_decay = true;
  polyak::EmaOptions periodic_options;
  periodic_options.decay = 0;
  periodic_options.update_every = run.hyperparameters.integer("update_period");

  Model<T> model(run.layout, run.initial_average());
  polyak::Ema<At<T>> incremental(model.params(), incremental_options);
  polyak::Ema<At<T>> periodic(model.params(), periodic_options);
  const std::vector<Tensors> iterates = run.calls("iterates");
  const History of_incremental = follow(iterates, model, incremental);
  const History of_periodic = follow(iterates, model, periodic);
  Model<T> target(run.layout, run.initial_average());
  History of_target;
  for (const Tensors& iterate : iterates) {
    model.assign(iterate);
    polyak::soft_update(target.params(), model.params(), step_size);
    of_target.push_back(target.values());
  }

  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "incremental", of_incremental);
  run.compare(per_step, "incremental", of_target);
  run.compare(per_step, "periodic", of_periodic);
  run.compare_final("incremental", of_incremental);
  run.compare_final("periodic", of_periodic);
}

}  // namespace

Replays average_replays() {
  return {
      {"swa_equal",
       {{"Swa"},
        by_dtype([](Case& run) { replay_swa<float>(run, 1); },
                 [](Case& run) { replay_swa<double>(run, 1); })}},
      // The reference script collects from epoch 161 unless told otherwise.
      {"swa_start_period",
       {{"Swa"},
        by_dtype([](Case& run) { replay_swa<float>(run, 161); },
                 [](Case& run) { replay_swa<double>(run, 161); })}},
      {"ema_constant", {{"Ema", "EmaBank"}, by_dtype(replay_ema<float>, replay_ema<double>)}},
      {"ema_zero_debiased",
       {{"Ema"}, by_dtype(replay_debiased_ema<float>, replay_debiased_ema<double>)}},
      {"target_update",
       {{"Ema", "soft_update"},
        by_dtype(replay_target_update<float>, replay_target_update<double>)}},
  };
}

}  // namespace golden
