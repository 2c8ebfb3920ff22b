// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of exponential averages whose decay changes, and of the schedules themselves.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"

namespace golden {
namespace {

polyak::DiffusersWeighting diffusers(const Section& from) {
  polyak::DiffusersWeighting w;
  w.decay = from.number("decay", w.decay);
  w.min_decay = from.number("min_decay", w.min_decay);
  w.update_after = from.integer("update_after_step", w.update_after);
  w.warmup = from.flag("use_ema_warmup", w.warmup);
  w.inverse_gamma = from.number("inv_gamma", w.inverse_gamma);
  w.power = from.number("power", w.power);
  return w;
}

polyak::TimmWeighting timm(const Section& from) {
  polyak::TimmWeighting w;
  w.decay = from.number("decay", w.decay);
  w.min_decay = from.number("min_decay", w.min_decay);
  w.update_after = from.integer("update_after_step", w.update_after);
  w.warmup = from.flag("use_warmup", w.warmup);
  w.inverse_gamma = from.number("warmup_gamma", w.inverse_gamma);
  w.power = from.number("warmup_power", w.power);
  return w;
}

polyak::EmaPytorchWeighting ema_pytorch(const Section& from) {
  polyak::EmaPytorchWeighting w;
  w.decay = from.number("beta", w.decay);
  w.min_decay = from.number("min_value", w.min_decay);
  w.update_after = from.integer("update_after_step", w.update_after);
  w.update_every = from.integer("update_every", w.update_every);
  w.inverse_gamma = from.number("inv_gamma", w.inverse_gamma);
  w.power = from.number("power", w.power);
  return w;
}

polyak::IntervalWeighting interval(const Section& from) {
  polyak::IntervalWeighting w;
  w.decay = from.number("decay", w.decay);
  w.interval = from.integer("interval", w.interval);
  w.warmup = from.integer("warmup", w.warmup);
  return w;
}

polyak::CosineDecayWeighting byol(const Section& from) {
  polyak::CosineDecayWeighting w;
  w.base_decay = from.number("base_decay", w.base_decay);
  w.total_steps = from.integer("total_steps", w.total_steps);
  return w;
}

polyak::PolynomialWeighting polynomial(const Section& from) { return {from.number("eta")}; }

polyak::PowerGainWeighting power_gain(const Section& from) {
  polyak::PowerGainWeighting w;
  w.alpha = from.number("alpha", w.alpha);
  w.min_gain = from.number("gamma_min", w.min_gain);
  w.burn_in = from.integer("burn_in", w.burn_in);
  return w;
}

/// Replays a weighting. Before the first update the average is not readable, and the reference
/// returns the initial value.
template <class T, class W>
void replay(Case& run, const W& weighting) {
  Model<T> model(run.layout, run.initial_average());
  Model<T> target(run.layout, run.initial_average());
  polyak::Average<At<T>, W> average(model.params(), weighting);
  History averages;
  std::vector<double> gains, decays;
  std::vector<std::string> actions;
  for (const Tensors& iterate : run.calls("iterates")) {
    model.assign(iterate);
    average.update(model.params());
    average.copy_to(target.params(), polyak::or_current);
    averages.push_back(target.values());
    gains.push_back(average.gain());
    decays.push_back(weighting.complement(average.calls()));
    actions.emplace_back(average.gain() == 1 ? "copy" : average.gain() == 0 ? "skip" : "lerp");
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "avg", averages);
  run.compare(per_step, "decay", decays);
  run.compare(per_step, "gamma", gains);
  const Json* recorded = run.recorded_list(per_step, "action", actions.size());
  for (std::size_t k = 0; recorded != nullptr && k < actions.size(); ++k) {
    run.report().check(run.place(per_step.path("action")), (*recorded)[k] == actions[k]);
  }
  run.compare_final("avg", averages);
}

template <class T>
void replay_batch_scaling(Case& run) {
  const double decay = run.hyperparameters.number("decay");
  const double kappa = run.hyperparameters.number("kappa");
  const double scaled = polyak::scale_decay(decay, kappa);
  run.compare(run.hyperparameters, "scaled_decay", scaled);
  Model<T> model(run.layout, run.initial_average());
  polyak::Ema<At<T>> fine(model.params(), {.decay = decay, .any_decay = true});
  polyak::Ema<At<T>> coarse(model.params(), {.decay = scaled, .any_decay = true});
  History of_fine, of_coarse;
  for (const Tensors& iterate : run.calls("iterates")) {
    model.assign(iterate);
    for (int k = 0; k < static_cast<int>(kappa); ++k) fine.update(model.params());
    coarse.update(model.params());
    of_fine.push_back(values_of_average(fine));
    of_coarse.push_back(values_of_average(coarse));
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "fine", of_fine);
  run.compare(per_step, "coarse", of_coarse);
  run.compare_final("fine", of_fine);
  run.compare_final("coarse", of_coarse);
}

/// A number, or infinity for "inf" and null.
double or_infinity(const Section& from, const std::string& key) {
  return from.has(key) && !from.at(key).is_null() ? from.number(key)
                                                  : std::numeric_limits<double>::infinity();
}

/// The schedule of a row: the decay that the reference returns for a call, counted from 1.
std::function<double(std::int64_t)> schedule_of(const Section& row) {
  const std::string name = row.text("schedule");
  const Section from = row.section("hp");
  const auto decay = [](const auto& w) {
    validate(w);
    return [w](std::int64_t t) { return w.complement(t); };
  };
  const auto gain = [](const auto& w) {
    validate(w);
    return [w](std::int64_t t) { return w.gain(t); };
  };
  if (name == "diffusers") return decay(diffusers(from));
  if (name == "timm") return decay(timm(from));
  if (name == "ema_pytorch") {
    auto w = ema_pytorch(from);
    w.update_every = 1;  // the decay of every call, applied or not
    return decay(w);
  }
  if (name == "openmixup_warmup") {
    polyak::SwitchEmaOptions options;
    const std::string kind = from.text("kind");
    options.decay = from.number("momentum");
    options.warmup = kind == "constant" ? polyak::SwitchWarmup::constant
                     : kind == "linear" ? polyak::SwitchWarmup::linear
                                        : polyak::SwitchWarmup::exponential;
    options.warmup_iterations = from.integer("warmup_iters");
    options.warmup_ratio = from.number("warmup_ratio");
    const polyak::SwitchWeighting w{options};
    return [w](std::int64_t t) { return w.complement(t); };
  }
  if (name == "detection_exp") {
    return gain(polyak::GainWarmupWeighting{.gain_at_end = from.number("gain"),
                                            .steps = from.integer("total_iter")});
  }
  if (name == "detection_linear") {
    return gain(polyak::GainWarmupWeighting{.gain_at_end = from.number("gain"),
                                            .steps = from.integer("warm_up"),
                                            .linear = true,
                                            .warmup_ratio = from.number("warmup_ratio")});
  }
  if (name == "edm2_traditional") {
    return decay(polyak::HalfLifeWeighting{.half_life = or_infinity(from, "halflife_Mimg") * 1e6,
                                           .rampup = or_infinity(from, "rampup_ratio"),
                                           .batch_size = from.number("batch_size")});
  }
  if (name == "byol") {
    return decay(polyak::CosineDecayWeighting{.base_decay = from.number("base_decay"),
                                              .total_steps = from.integer("total_steps")});
  }
  if (name == "momentum_annealing") {
    return gain(polyak::AnnealedWeighting{.min_gain = from.number("gain_min"),
                                          .gamma = from.number("gamma")});
  }
  throw Malformed("unknown schedule \"" + name + "\" in " + row.path("schedule"));
}

/// The decays of SampleEma at these calls, counted from 1, with the options of a row.
std::vector<double> decays_by_samples(const Section& from, const std::vector<double>& calls) {
  polyak::SampleEmaOptions options;
  options.half_life = or_infinity(from, "halflife_Mimg") * 1e6;
  options.rampup = or_infinity(from, "rampup_ratio");
  options.batch_size = from.number("batch_size");
  const auto nothing = empty_list<double>();
  polyak::SampleEma<At<double>> average(nothing, options);
  std::vector<double> decays;
  for (const double call : calls) {
    while (static_cast<double>(average.calls()) < call) average.update(nothing);
    decays.push_back(1 - average.gain());
  }
  return decays;
}

void replay_schedules(Case& run) {
  const std::vector<Section> inputs = run.inputs.rows("rows");
  const Json* recorded = run.recorded_list(run.expected, "rows", inputs.size());
  if (recorded == nullptr) throw Malformed(run.place("expected.rows is missing"));
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const Section& row = inputs[k];
    if (row.has("note")) (void)row.text("note");
    const auto schedule = schedule_of(row);
    const bool from_one = row.has("call");
    const std::string clock = from_one ? "call" : row.has("steps") ? "steps" : "iteration0";
    std::vector<double> values;
    for (const double call : row.numbers(clock)) {
      values.push_back(schedule(static_cast<std::int64_t>(call) + (from_one ? 0 : 1)));
    }
    const std::string place = "expected.rows[" + std::to_string(k) + "]";
    // One reference computes in float; another deviates from its own formula by 1.2e-13.
    const std::string name = row.text("schedule");
    const double relative = name == "edm2_traditional" ? 1e-12 : 1e-13;
    run.report().compare(
        run.place(place), values, numbers_of((*recorded)[k], place),
        name == "ema_pytorch" ? run.tolerance : Tolerance{.relative = relative, .absolute = 0});
    if (name == "edm2_traditional") {  // recorded as 1 - gain
      run.report().compare(run.place(place + " by samples"),
                           decays_by_samples(row.section("hp"), row.numbers("call")),
                           numbers_of((*recorded)[k], place),
                           {.relative = relative, .absolute = 1e-15});
    }
  }
}

template <auto Read>
Replay replay_of() {
  return {{"Average"},
          by_dtype([](Case& run) { replay<float>(run, Read(run.hyperparameters)); },
                   [](Case& run) { replay<double>(run, Read(run.hyperparameters)); })};
}

}  // namespace

Replays decay_schedule_replays() {
  return {
      {"ema_diffusers", replay_of<diffusers>()},
      {"ema_timm", replay_of<timm>()},
      {"ema_emapytorch", replay_of<ema_pytorch>()},
      {"ema_interval", replay_of<interval>()},
      {"ema_power_gain", replay_of<power_gain>()},
      {"polynomial_decay", replay_of<polynomial>()},
      {"byol_cosine", replay_of<byol>()},
      {"ema_batch_scaling",
       {{"Ema"}, by_dtype(replay_batch_scaling<float>, replay_batch_scaling<double>)}},
      {"decay_schedules", {{"Average", "SwitchEma", "SampleEma"}, replay_schedules}},
  };
}

}  // namespace golden
