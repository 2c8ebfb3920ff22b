// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of averages of the newest iterates and of filtered iterates, of teachers that restore
/// their student, and of averages of models with buffers.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "case.hpp"
#include "library.hpp"
#include "model.hpp"

namespace golden {
namespace {

template <class T>
void replay_window(Case& run) {
  polyak::WindowAverageOptions options;
  options.horizon = run.hyperparameters.integer("horizon", options.horizon);
  options.interval = run.hyperparameters.integer("interval", options.interval);
  const std::vector<Tensors> iterates = run.calls("iterates");
  const auto blocks = static_cast<std::int64_t>(iterates.size()) / options.horizon;
  options.blocks = std::max<std::int64_t>(1, blocks);

  Model<T> model(run.layout, run.initial());
  Model<T> target(run.layout, run.initial());
  polyak::WindowAverage<At<T>> average(model.params(), options);
  History averages, saved;
  std::vector<double> saved_at;
  for (const Tensors& iterate : iterates) {
    model.assign(iterate);
    const std::int64_t before = average.count();
    average.update(model.params());
    averages.push_back(values_of(average.current()));
    if (average.count() == before) continue;
    average.copy_to(target.params());
    saved.push_back(target.values());
    saved_at.push_back(static_cast<double>(average.calls()));
  }
  run.compare(run.expected.section("per_step"), "avg", averages);
  run.compare_final("avg", averages);

  const std::vector<Section> recorded = run.expected.rows("saved");
  run.report().check(run.place("number of blocks"), recorded.size() == saved.size());
  for (std::size_t k = 0; k < recorded.size() && k < saved.size(); ++k) {
    run.compare(recorded[k], "count", saved_at[k], exact);
    run.compare(recorded[k], "avg", *saved[k]);
  }
  const std::vector<Section> sweep = run.expected.rows("sweep");
  for (std::size_t n = 0; n < sweep.size(); ++n) {
    average.copy_to(target.params(), static_cast<std::int64_t>(n) + 1);
    run.compare(sweep[n], "horizon",
                static_cast<double>(options.horizon) * static_cast<double>(n + 1), exact);
    run.compare(sweep[n], "avg", target.values());
  }
}

template <class T>
void replay_lawa(Case& run) {
  polyak::LawaOptions options;
  options.checkpoints = run.hyperparameters.integer("k", options.checkpoints);
  options.period = run.hyperparameters.integer("period", options.period);
  polyak::LawaOptions running_options = options;
  running_options.running_mean = true;

  Model<T> model(run.layout, run.initial());
  Model<T> target(run.layout, run.initial());
  polyak::Lawa<At<T>> average(model.params(), options), running(model.params(), running_options);
  const std::vector<Tensors> iterates = run.calls("iterates");
  const std::vector<Section> recorded = run.expected.rows("per_step");
  run.report().check(run.place("number of calls"), recorded.size() == iterates.size());
  const auto compare = [&](const Section& entry) {
    run.report().check(run.place(entry.path("valid")),
                       entry.flag("valid", false) == average.ready());
    if (!average.ready()) return;
    for (const auto* one : {&average, &running}) {
      one->copy_to(target.params());
      run.compare(entry, "avg", target.values());
    }
  };
  for (std::size_t t = 0; t < iterates.size() && t < recorded.size(); ++t) {
    model.assign(iterates[t]);
    average.update(model.params());
    running.update(model.params());
    compare(recorded[t]);
  }
  compare(run.expected.section("final"));
}

#if !defined(POLYAK_GOLDEN_DEVICE)  // methods of the host

template <class T>
void replay_cotta(Case& run) {
  polyak::CottaOptions options;
  options.decay = run.hyperparameters.number("teacher_decay", options.decay);
  options.any_decay = true;
  (void)run.hyperparameters.number("restore_prob", options.restore_probability);
  const std::vector<Tensors> deltas = run.calls("deltas"), masks = run.calls("restore_masks");
  options.restore_probability = 0;  // the file has the masks

  Model<T> model(run.layout, run.initial());
  polyak::CottaTeacher<T> teacher(model.params(), options);
  History students, teachers;
  for (std::size_t t = 0; t < deltas.size(); ++t) {
    model.add(deltas[t]);
    teacher.update(model.params());
    teacher.restore(model.params(), [&](std::size_t tensor, std::size_t element) {
      return masks[t][tensor][element] != 0;
    });
    students.push_back(model.values());
    teachers.push_back(values_of_average(teacher));
  }
  const Section per_step = run.expected.section("per_step");
  run.compare(per_step, "student", students);
  run.compare(per_step, "teacher", teachers);
  run.compare_final("student", students);
  run.compare_final("teacher", teachers);
}

/// A weight, a float buffer and a counter, as users register them.
template <class T>
struct Buffered {
  std::vector<T> weight, mean;
  std::int64_t counter = 0;
  polyak::Parameters<T> params;

  Buffered(const Section& from, polyak::Role mean_role, polyak::Role counter_role)
      : weight(rounded<T>(from.numbers("weight"))), mean(rounded<T>(from.numbers("running_mean"))) {
    params.add("weight", std::span(weight)).add("running_mean", std::span(mean), mean_role);
    read(from);
    params.add("counter", &counter, {}, counter_role);
  }
  void read(const Section& from) {
    const auto copy = [](const std::vector<T>& values, std::vector<T>& to) {
      std::copy(values.begin(), values.end(), to.begin());
    };
    copy(rounded<T>(from.numbers("weight")), weight);
    copy(rounded<T>(from.numbers("running_mean")), mean);
    counter = from.integer("counter");
  }
};

template <class T>
void replay_buffers(Case& run) {
  using polyak::Role;
  const double decay = run.hyperparameters.number("decay");
  const Section initial = run.initial_section();
  const std::vector<Section> steps = run.inputs.rows("steps");
  const Section policies = run.expected.section("per_policy");
  const auto follow = [&](const char* policy, Role mean, Role counter, auto make,
                          bool truncates = false) {
    if (!policies.has(policy)) return;
    const std::vector<Section> recorded = policies.rows(policy);
    run.report().check(run.place(policies.path(policy)), recorded.size() == steps.size());
    Buffered<T> model(initial, mean, counter), target(initial, mean, counter);
    auto average = make(model.params);
    for (std::size_t t = 0; t < steps.size() && t < recorded.size(); ++t) {
      model.read(steps[t]);
      average.update(model.params);
      average.copy_to(target.params);
      const auto list = [](const std::vector<T>& values) {
        return std::vector<double>(values.begin(), values.end());
      };
      const auto compare = [&](const char* name, const std::vector<double>& actual) {
        run.report().compare(run.place(recorded[t].path(name)), actual, recorded[t].numbers(name),
                             run.tolerance);
      };
      compare("weight", list(target.weight));
      compare("running_mean", list(target.mean));
      const std::int64_t counted = recorded[t].integer("counter");
      // The reference averages integers and truncates. The library does not have this defect.
      if (!truncates) {
        run.report().check(run.place(recorded[t].path("counter")), counted == target.counter);
      }
    }
  };
  const auto ema = [&](polyak::Start start) {
    return [=](const polyak::Parameters<T>& params) {
      polyak::EmaOptions options;
      options.decay = decay;
      options.any_decay = true;
      options.start = start;
      return polyak::Ema<T>(params, options);
    };
  };
  const auto swa = [](const polyak::Parameters<T>& params) { return polyak::Swa<T>(params); };
  const auto polynomial = [](const polyak::Parameters<T>& params) {
    return polyak::Average(params, polyak::PolynomialWeighting{8});
  };
  follow("torch113_swa_use_buffers", Role::average, Role::copy, swa, true);
  follow("torch113_swa_no_buffers", Role::ignore, Role::ignore, swa);
  follow("timm_v3", Role::average, Role::copy, ema(polyak::Start::params));
  follow("timm_v3_exclude_buffers", Role::copy, Role::copy, ema(polyak::Start::params));
  follow("ema_pytorch", Role::average, Role::ignore, ema(polyak::Start::first_update));
  follow("dog_poly_eta8", Role::average, Role::copy, polynomial);

  bool refused = false;
  std::int64_t counter = 0;
  try {
    polyak::Parameters<T> params;
    params.add("counter", &counter, {}, Role::average);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  run.report().check(run.place("an averaged integer is refused"), refused);
}

/// ASWA and NASWA. An iterate is offered before each increment is added.
template <class T>
void replay_aswa(Case& run, polyak::AswaFilter filter) {
  (void)run.hyperparameters.text("mode", "");
  (void)run.hyperparameters.text("norm", "");
  polyak::AswaOptions options;
  options.filter = filter;
  const std::string end = run.hyperparameters.text("epoch_end", "assign");
  if (end != "assign" && end != "exchange") {
    throw Malformed(run.place("unknown epoch_end \"" + end + "\""));
  }
  options.reference_swap = end == "exchange";
  const auto epochs = static_cast<std::size_t>(run.hyperparameters.count("epochs"));
  const auto iterations = static_cast<std::size_t>(run.hyperparameters.count("iterations"));

  const std::string where = run.inputs.path("increments");
  Model<T> model(run.layout, tensors_of(run.inputs.at("w0"), run.layout, run.inputs.path("w0")));
  const Json& increments = list_of(run.inputs.at("increments"), where);
  polyak::Aswa<T> average(model.params(), options);
  History weights;
  std::vector<double> counts;
  std::vector<bool> accepted;
  for (std::size_t epoch = 0; epoch < epochs; ++epoch) {
    const Json& of_epoch = list_of(increments.at(epoch), where);
    for (std::size_t i = 0; i < iterations; ++i) {
      average.update(model.params());
      accepted.push_back(average.accepted());
      model.add(tensors_of(of_epoch.at(i), run.layout, where));
    }
    average.end_epoch(model.params());
    weights.push_back(model.values());
    counts.push_back(static_cast<double>(average.averaged()));
  }
  run.compare(run.expected, "weights_after_each_epoch", weights);
  run.compare(run.expected, "count_after_each_epoch", counts, exact);
  const Json* flags = run.recorded_list(run.expected, "accepted", accepted.size());
  for (std::size_t k = 0; flags != nullptr && k < accepted.size(); ++k) {
    run.report().check(run.place("accepted"), (*flags)[k].get<bool>() == accepted[k]);
  }
}

template <polyak::AswaFilter Filter>
Replay aswa() {
  return {{"Aswa"},
          by_dtype([](Case& run) { replay_aswa<float>(run, Filter); },
                   [](Case& run) { replay_aswa<double>(run, Filter); })};
}

#endif

}  // namespace

Replays window_replays() {
  return {
    {"window_average", {{"WindowAverage"}, by_dtype(replay_window<float>, replay_window<double>)}},
        {"lawa", {{"Lawa"}, by_dtype(replay_lawa<float>, replay_lawa<double>)}},
#if !defined(POLYAK_GOLDEN_DEVICE)
        {"cotta", {{"CottaTeacher"}, by_dtype(replay_cotta<float>, replay_cotta<double>)}},
        {"buffer_policy",
         {{"Swa", "Ema", "Average"}, by_dtype(replay_buffers<float>, replay_buffers<double>)}},
        {"aswa", aswa<polyak::AswaFilter::all>()},
        {"naswa_mean", aswa<polyak::AswaFilter::mean_norm>()},
        {"naswa_max", aswa<polyak::AswaFilter::largest_norm>()},
#endif
  };
}

}  // namespace golden
