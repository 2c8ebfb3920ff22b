// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of optimizers on recorded gradients.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"
#include "optimizer_options.hpp"

namespace golden {
namespace {

/// The steps, counted from 1, after which weights are recorded.
std::vector<std::size_t> recorded_steps(const Case& run, std::size_t total) {
  std::vector<std::size_t> steps;
  double previous = 0;
  for (const double step : run.expected.numbers("steps")) {
    if (!(step >= previous + 1 && step <= static_cast<double>(total))) {
      throw Malformed(run.place("expected.steps is not an ascending list of steps"));
    }
    steps.push_back(static_cast<std::size_t>(step));
    previous = step;
  }
  return steps;
}

/// Steps the optimizer through all recorded gradients. After each step it calls observe(recorded)
/// with whether the weights of the step are recorded.
template <class T, class Optimizer, class Observe>
void train(const Case& run, Model<T>& model, Optimizer& optimizer, Observe observe) {
  const std::string where = run.inputs.path("gradients");
  const Json& gradients = list_of(run.inputs.at("gradients"), where);
  if (gradients.empty()) {
    throw Malformed(run.place(where + " is empty"));
  }
  const auto recorded = recorded_steps(run, gradients.size());
  for (std::size_t step = 1; step <= gradients.size(); ++step) {
    const StepGradients<T> gradient(model.params(), run.layout, gradients[step - 1], where);
    optimizer.step(model.params(), gradient.get());
    observe(std::binary_search(recorded.begin(), recorded.end(), step));
  }
}

/// A slot, or nothing if the method has none of that name.
template <class Optimizer>
std::optional<Tensors> slot_values(const Optimizer& optimizer, const std::string& name) {
  for (const auto& slot : optimizer.memory_report().slots) {
    if (slot.name == name) {
      return values_of_slot(optimizer, name);
    }
  }
  return std::nullopt;
}

/// Compares a slot with its record. Null means that the reference has no such state: for any tensor
/// if the method does not use it, or for a tensor that never had a gradient.
void compare_slot(Case& run, const Section& state, const std::string& name,
                  const std::optional<Tensors>& actual) {
  if (!state.has(name)) {
    return;
  }
  const Json& recorded = state.at(name);
  for (std::size_t i = 0; i < run.layout.names.size(); ++i) {
    const std::string place = state.path(name) + "." + run.layout.names[i];
    if (tensor_of(recorded, run.layout, i, state.path(name)).is_null()) {
      const bool untouched = !actual || std::all_of((*actual)[i].begin(), (*actual)[i].end(),
                                                    [](double value) { return value == 0; });
      run.report().check(run.place(place), untouched);
    } else if (!actual) {
      throw Malformed(run.place(place + " is recorded, and the library keeps no such buffer"));
    } else {
      run.report().compare(run.place(place), (*actual)[i],
                           values_of(recorded, run.layout, i, state.path(name)), run.tolerance);
    }
  }
}

template <class T>
void replay_sgd(Case& run) {
  Model<T> model(run.layout, run.initial());
  polyak::Sgd<At<T>> optimizer(model.params(), sgd_options(run.hyperparameters));
  History params;
  train(run, model, optimizer, [&](bool recorded) {
    if (recorded) {
      params.push_back(model.values());
    }
  });
  run.compare(run.expected, "params", params);
  compare_slot(run, run.expected.section("final_state"), "momentum_buffer",
               slot_values(optimizer, "momentum_buffer"));
}

/// Adam with beta1 = 0 stores no first moment, which is then the gradient of the step plus the
/// coupled decay of the weights before the step.
template <class T>
Tensors first_moment_without_memory(const Case& run, const Tensors& before, double coupled_decay) {
  const std::string where = run.inputs.path("gradients");
  Tensors moment = tensors_of(run.inputs.at("gradients").back(), run.layout, where);
  for (std::size_t i = 0; i < moment.size(); ++i) {
    for (std::size_t k = 0; k < moment[i].size(); ++k) {
      moment[i][k] = static_cast<T>(moment[i][k]) + coupled_decay * before[i][k];
    }
  }
  return moment;
}

template <class T, class Optimizer, class Options>
void replay_any_adam(Case& run, const Options& options) {
  Model<T> model(run.layout, run.initial());
  Optimizer optimizer(model.params(), options);
  History params;
  Tensors before;
  Tensors after = model.values();
  train(run, model, optimizer, [&](bool recorded) {
    before = after;
    after = model.values();
    if (recorded) {
      params.push_back(after);
    }
  });
  run.compare(run.expected, "params", params);

  const Section state = run.expected.section("final_state");
  auto first_moment = slot_values(optimizer, "exp_avg");
  if (!first_moment && options.beta1 == 0) {
    first_moment = first_moment_without_memory<T>(run, before, options.coupled_weight_decay);
  }
  compare_slot(run, state, "exp_avg", first_moment);
  for (const char* name : {"exp_avg_sq", "max_exp_avg_sq"}) {
    compare_slot(run, state, name, slot_values(optimizer, name));
  }
}

/// The convex problem on [-1, 1] on which Adam fails and AMSGrad does not. The gradient is a
/// function of the step's number, and every step ends with a projection.
void replay_counterexample(Case& run) {
  (void)run.inputs.text("loss");
  const std::int64_t steps = run.inputs.count("steps");
  const bool periodic = run.inputs.has("C");
  const double growth = periodic ? run.inputs.number("C") : 0;
  const auto big = periodic ? std::vector<double>{} : run.inputs.numbers("big_gradient_steps");
  const auto gradient_at = [&](std::int64_t step) {
    if (periodic) {
      return step % 3 == 1 ? growth : -1.0;
    }
    return std::binary_search(big.begin(), big.end(), static_cast<double>(step)) ? 1010.0 : -10.0;
  };

  const auto options = adamw_options(run.hyperparameters, run.algorithm == "amsgrad");
  if (run.hyperparameters.has("alpha_t") &&
      run.hyperparameters.text("alpha_t") != "alpha0/sqrt(t)") {
    throw Malformed(run.place("unknown alpha_t"));
  }
  const bool decaying = run.hyperparameters.has("alpha0");
  const double rate = decaying ? run.hyperparameters.number("alpha0") : options.learning_rate;

  if (run.layout.names.size() != 1) {
    throw Malformed(run.place("the counter-example has one tensor"));
  }
  Model<double> model(run.layout, run.initial());
  polyak::AdamW<At<double>> optimizer(model.params(), options);

  const auto recorded = recorded_steps(run, static_cast<std::size_t>(steps));
  History trajectory;
  for (std::int64_t step = 1; step <= steps; ++step) {
    Tensors point = model.values();
    const StepGradients<double> gradient(model.params(),
                                         std::vector<double>(point[0].size(), gradient_at(step)));
    optimizer.at(decaying ? rate / std::sqrt(static_cast<double>(step)) : rate)
        .step(model.params(), gradient.get());
    point = model.values();
    for (double& x : point[0]) {
      x = std::clamp(x, -1.0, 1.0);
    }
    model.assign(point);
    if (std::binary_search(recorded.begin(), recorded.end(), static_cast<std::size_t>(step))) {
      trajectory.push_back(point);
    }
  }
  run.compare(run.expected, "params", trajectory);
}

template <class T>
void replay_adam(Case& run) {
  const Section& from = run.hyperparameters;
  const bool amsgrad = run.algorithm == "amsgrad";
  if (run.inputs.has("loss")) {
    replay_counterexample(run);
  } else if (from.has("bias_correction") || from.has("eps_before_correction") ||
             from.has("weight_decay_decoupled") || from.number("eps", 1e-8) == 0) {
    auto options = adamw_options(from, amsgrad);
    options.coupled_weight_decay = from.number("weight_decay", 0);
    options.weight_decay = from.number("weight_decay_decoupled", 0);
    replay_any_adam<T, polyak::AdamW<At<T>>>(run, options);
  } else {
    replay_any_adam<T, polyak::Adam<At<T>>>(run, adam_options(from, amsgrad));
  }
}

template <class T>
void replay_adamw(Case& run) {
  auto options = adamw_options(run.hyperparameters);
  options.weight_decay = run.hyperparameters.number("weight_decay", 1e-2);
  replay_any_adam<T, polyak::AdamW<At<T>>>(run, options);
}

template <class T>
void replay_lion(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::LionOptions options;
  options.learning_rate = from.number("lr", 1e-4);
  const auto betas = betas_of(from, {0.9, 0.99});
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.weight_decay = from.number("weight_decay", 0);

  Model<T> model(run.layout, run.initial());
  polyak::Lion<At<T>> optimizer(model.params(), options);
  History params;
  train(run, model, optimizer, [&](bool recorded) {
    if (recorded) {
      params.push_back(model.values());
    }
  });
  run.compare(run.expected, "params", params);
  compare_slot(run, run.expected.section("final_state"), "exp_avg",
               slot_values(optimizer, "exp_avg"));
}

/// Compares a run with these options with the weights and state recorded in `results` and the
/// scalars recorded in `scalars`.
template <class T>
void compare_ademamix(Case& run, const polyak::AdEMAMixOptions& options, const Section& results,
                      const Section& scalars) {
  Model<T> model(run.layout, run.initial());
  polyak::AdEMAMix<At<T>> optimizer(model.params(), options);
  History params;
  std::vector<double> alphas;
  std::vector<double> beta3s;
  train(run, model, optimizer, [&](bool recorded) {
    if (recorded) {
      params.push_back(model.values());
    }
    const auto step = static_cast<std::int64_t>(alphas.size()) + 1;
    alphas.push_back(polyak::alpha_at(options, step));
    beta3s.push_back(polyak::beta3_at(options, step));
  });
  run.compare(results, "params", params);
  run.compare(scalars, "alpha", alphas);
  run.compare(scalars, "beta3", beta3s);
  for (const char* name : {"exp_avg_fast", "exp_avg_slow", "exp_avg_sq"}) {
    compare_slot(run, results.section("final_state"), name, slot_values(optimizer, name));
  }
}

template <class T>
void replay_ademamix(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::AdEMAMixOptions options;
  options.learning_rate = from.number("lr", 1e-3);
  const auto betas = betas_of(from, {0.9, 0.999, 0.9999});
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.beta3 = betas[2];
  options.alpha = from.number("alpha", 2);  // the default of the reference, not of the library
  read_epsilon(from, options);
  options.weight_decay = from.number("weight_decay", 0);
  options.alpha_warmup = from.integer("alpha_warmup", 0);
  options.beta3_warmup = from.integer("beta3_warmup", 0);
  options.schedule_offset = from.integer("schedule_offset", 0);

  // The reference adds a guard inside the logarithms of the schedule of beta3; the formula has
  // none.
  options.log_guard = from.number("log_guard", 1e-8);
  compare_ademamix<T>(run, options, run.expected, run.expected.section("scalars_every_step"));
  if (run.expected.has("exact_scheduler")) {
    options.log_guard = 0;
    const Section results = run.expected.section("exact_scheduler");
    compare_ademamix<T>(run, options, results, results);
  }
}

/// The model holds y. x is read by a copy, and z is a slot.
template <class T, class Optimizer>
void compare_schedule_free(Case& run, Model<T>& model, Optimizer& optimizer) {
  Model<T> average(run.layout, run.initial());
  History y;
  History x;
  History z;
  std::vector<double> learning_rates;
  std::vector<double> maxima;
  std::vector<double> sums;
  std::vector<double> gains;
  train(run, model, optimizer, [&](bool recorded) {
    if (recorded) {
      optimizer.copy_to(model.params(), average.params());
      y.push_back(model.values());
      x.push_back(average.values());
      z.push_back(values_of_slot(optimizer, "z"));
    }
    const auto scalars = optimizer.scalars();
    learning_rates.push_back(scalars.learning_rate);
    maxima.push_back(scalars.learning_rate_max);
    sums.push_back(scalars.weight_sum);
    gains.push_back(scalars.gain);
  });
  run.compare(run.expected, "y", y);
  run.compare(run.expected, "x", x);
  run.compare(run.expected, "z", z);
  run.compare(run.expected, "params", y);

  const Section scalars = run.expected.section("scalars_every_step");
  run.compare(scalars, "scheduled_lr", learning_rates);
  run.compare(scalars, "lr_max", maxima);
  run.compare(scalars, "weight_sum", sums);
  run.compare(scalars, "ckp1", gains);
  for (const char* name : {"z", "exp_avg_sq", "exp_avg"}) {
    compare_slot(run, run.expected.section("final_state"), name, slot_values(optimizer, name));
  }
}

template <class Options>
void read_averaging(const Section& from, Options& options) {
  options.warmup_steps = from.integer("warmup_steps", 0);
  options.weight_decay = from.number("weight_decay", 0);
  options.r = from.number("r", 0);
  options.weight_lr_power = from.number("weight_lr_power", 2);
}

template <class T>
void replay_schedule_free_sgd(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::ScheduleFreeSgdOptions options;
  options.learning_rate = from.number("lr", 1);
  options.beta = from.number("momentum", 0.9);
  read_averaging(from, options);

  Model<T> model(run.layout, run.initial());
  polyak::ScheduleFreeSgd<At<T>> optimizer(model.params(), options);
  compare_schedule_free(run, model, optimizer);

  std::vector<double> rates;
  for (std::int64_t step = 0; step < optimizer.count(); ++step) {
    rates.push_back(options.learning_rate * polyak::linear_warmup(step, options.warmup_steps));
  }
  run.compare(run.expected.section("scalars_every_step"), "scheduled_lr", rates);
}

template <class T>
void replay_schedule_free_adamw(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::ScheduleFreeAdamWOptions options;
  options.learning_rate = from.number("lr", 2.5e-3);
  const auto betas = betas_of(from, {0.9, 0.999});
  options.beta = betas[0];
  options.beta2 = betas[1];
  options.epsilon = from.number("eps", 1e-8);
  options.inner_momentum = from.number("inner_momentum", 0);
  options.decay_at_z = from.flag("decay_at_z", false);
  options.bias_correction_in_lr = run.algorithm == "schedule_free_adamw_paper";
  read_averaging(from, options);

  Model<T> model(run.layout, run.initial());
  polyak::ScheduleFreeAdamW<At<T>> optimizer(model.params(), options);
  compare_schedule_free(run, model, optimizer);
}

}  // namespace

Replays optimizer_replays() {
  const Replay adam{{"Adam", "AdamW"}, by_dtype(replay_adam<float>, replay_adam<double>)};
  const Replay schedule_free_adamw{
      {"ScheduleFreeAdamW"},
      by_dtype(replay_schedule_free_adamw<float>, replay_schedule_free_adamw<double>)};
  return {
      {"sgd", {{"Sgd"}, by_dtype(replay_sgd<float>, replay_sgd<double>)}},
      {"adam", adam},
      {"amsgrad", adam},
      {"adamw", {{"AdamW"}, by_dtype(replay_adamw<float>, replay_adamw<double>)}},
      {"ademamix", {{"AdEMAMix"}, by_dtype(replay_ademamix<float>, replay_ademamix<double>)}},
      {"lion", {{"Lion"}, by_dtype(replay_lion<float>, replay_lion<double>)}},
      {"schedule_free_sgd",
       {{"ScheduleFreeSgd", "linear_warmup"},
        by_dtype(replay_schedule_free_sgd<float>, replay_schedule_free_sgd<double>)}},
      {"schedule_free_adamw", schedule_free_adamw},
      {"schedule_free_adamw_paper", schedule_free_adamw},
  };
}

}  // namespace golden
