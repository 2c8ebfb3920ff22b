// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of averages that are copied back into the model: Switch EMA and the every-k switch.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"
#include "optimizer_options.hpp"

namespace golden {
namespace {

polyak::SwitchEmaOptions switch_options(const Case& run) {
  const Section& from = run.hyperparameters;
  polyak::SwitchEmaOptions options;
  options.decay = from.number("momentum");
  options.any_decay = true;
  const std::string unit = from.text("unit", "epoch");
  if (unit != "epoch" && unit != "iteration") {
    throw Malformed(run.place("unknown unit \"" + unit + "\""));
  }
  options.unit = unit == "epoch" ? polyak::SwitchUnit::epochs : polyak::SwitchUnit::iterations;
  options.start = from.integer("start", options.start);
  options.end = from.integer("end", options.end);
  options.interval = from.integer("interval", options.interval);
  (void)from.text("rule", "");  // the switching condition in words; the library has it built in

  const std::string warmup = from.text("warmup", "none");
  if (warmup == "constant") {
    options.warmup = polyak::SwitchWarmup::constant;
  } else if (warmup == "linear") {
    options.warmup = polyak::SwitchWarmup::linear;
  } else if (warmup == "exp") {
    options.warmup = polyak::SwitchWarmup::exponential;
  } else if (warmup != "none") {
    throw Malformed(run.place("unknown warmup \"" + warmup + "\""));
  }
  options.warmup_iterations = from.integer("warmup_iters", options.warmup_iterations);
  options.warmup_ratio = from.number("warmup_ratio", options.warmup_ratio);
  return options;
}

/// The history of a run with switches: after every iteration, at the end of every epoch, and the
/// times at which the average was copied into the model.
struct SwitchHistory {
  History online;
  History averages;
  History at_epoch_end;
  std::vector<double> switched_at;
};

/// Runs all epochs and records the history. In iteration i, `train(i)` changes the weights, and
/// then the average is updated.
template <class T, class Train>
SwitchHistory train_epochs(const Case& run, std::size_t iterations, Model<T>& model, Train train) {
  const auto epochs = static_cast<std::size_t>(run.hyperparameters.count("epochs"));
  const auto per_epoch = static_cast<std::size_t>(run.hyperparameters.count("iters_per_epoch"));
  if (epochs * per_epoch != iterations) {
    throw Malformed(run.place("epochs and iters_per_epoch do not agree with the inputs"));
  }
  const polyak::SwitchEmaOptions options = switch_options(run);
  polyak::SwitchEma<At<T>> average(model.params(), options);
  const bool by_epoch = options.unit == polyak::SwitchUnit::epochs;

  SwitchHistory history;
  for (std::size_t iteration = 0; iteration < iterations; ++iteration) {
    if (by_epoch && iteration % per_epoch == 0 && average.begin_epoch(model.params())) {
      history.switched_at.push_back(static_cast<double>(iteration / per_epoch));
    }
    train(iteration);
    const std::int64_t switches = average.switches();
    average.update(model.params());
    if (average.switches() != switches) {
      history.switched_at.push_back(static_cast<double>(iteration));
    }
    history.online.push_back(model.values());
    history.averages.push_back(values_of_average(average));
    if ((iteration + 1) % per_epoch == 0) {
      history.at_epoch_end.push_back(history.averages.back());
    }
  }
  return history;
}

void compare_switches(Case& run, const SwitchHistory& history) {
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "online", history.online);
  run.compare(per_step, "avg", history.averages);
  run.compare(run.expected.section("per_epoch"), "eval_params", history.at_epoch_end);
  run.compare(run.expected, "switch_at", history.switched_at, exact);
  run.compare_final("online", history.online);
  run.compare_final("avg", history.averages);
}

template <class T>
void replay_switch_ema(Case& run) {
  const std::vector<Tensors> deltas = run.calls("deltas");
  Model<T> model(run.layout, run.initial());
  compare_switches(run, train_epochs(run, deltas.size(), model,
                                     [&](std::size_t iteration) { model.add(deltas[iteration]); }));
}

/// The optimizer keeps its state at the switches.
template <class T, class Optimizer>
void replay_switch_around(Case& run, Model<T>& model, Optimizer optimizer) {
  const std::string where = run.inputs.path("gradients");
  const Json& gradients = list_of(run.inputs.at("gradients"), where);
  compare_switches(run, train_epochs(run, gradients.size(), model, [&](std::size_t iteration) {
                     const StepGradients<T> gradient(model.params(), run.layout,
                                                     gradients[iteration], where);
                     optimizer.step(model.params(), gradient.get());
                   }));
}

template <class T>
void replay_switch_ema_optimizer(Case& run) {
  const Section from = run.hyperparameters.section("optimizer");
  const std::string name = from.text("name");
  Model<T> model(run.layout, run.initial());
  if (name == "sgd") {
    replay_switch_around(run, model, polyak::Sgd<At<T>>(model.params(), sgd_options(from)));
  } else if (name == "adam") {
    replay_switch_around(run, model, polyak::Adam<At<T>>(model.params(), adam_options(from)));
  } else {
    throw Malformed(run.place("unknown optimizer \"" + name + "\""));
  }
}

template <class T>
void replay_switch_every_k(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::HareTortoiseOptions options;
  options.decay = from.number("beta", 0.9999);
  options.any_decay = true;
  options.min_decay = from.number("min_value", 0);
  options.inverse_gamma = from.number("inv_gamma", 1);
  options.power = from.number("power", 2.0 / 3.0);
  options.update_after = from.integer("update_after_step", 100);
  options.update_every = from.count("update_every", 10);
  options.blend = from.number("update_model_with_ema_beta", 0);

  // Without a period in the file there is no switch.
  const std::vector<Tensors> deltas = run.calls("deltas");
  const auto never = options.update_every * (static_cast<std::int64_t>(deltas.size()) + 1);
  options.switch_every = from.integer("update_model_with_ema_every", never);

  Model<T> model(run.layout, run.initial());
  polyak::HareTortoise<At<T>> average(model.params(), options);
  History online;
  History averages;
  for (const Tensors& delta : deltas) {
    model.add(delta);
    average.update(model.params());
    online.push_back(model.values());
    averages.push_back(values_of_average(average));
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "online", online);
  run.compare(per_step, "avg", averages);
  run.compare_final("online", online);
  run.compare_final("avg", averages);
}

}  // namespace

Replays switch_replays() {
  return {
      {"switch_ema",
       {{"SwitchEma"}, by_dtype(replay_switch_ema<float>, replay_switch_ema<double>)}},
      {"switch_ema_optimizer",
       {{"SwitchEma"},
        by_dtype(replay_switch_ema_optimizer<float>, replay_switch_ema_optimizer<double>)}},
      {"switch_every_k",
       {{"HareTortoise"}, by_dtype(replay_switch_every_k<float>, replay_switch_every_k<double>)}},
  };
}

}  // namespace golden
