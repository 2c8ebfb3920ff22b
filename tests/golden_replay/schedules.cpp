// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of schedules, which are functions of the step alone.

#include <cstddef>
#include <cstdint>
#include <polyak/polyak.hpp>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "json.hpp"

namespace golden {
namespace {

/// Compares factor_at(step) with `expected.factor` at all recorded steps, counted from 0, including
/// steps beyond the end.
template <class Factor>
void compare_factors(Case& run, Factor factor_at) {
  const std::size_t count = list_of(run.expected.at("factor"), run.expected.path("factor")).size();
  std::vector<double> factors;
  for (std::size_t step = 0; step < count; ++step) {
    factors.push_back(factor_at(static_cast<std::int64_t>(step)));
  }
  run.compare(run.expected, "factor", factors);
}

polyak::CooldownCurve shape_of_cooldown(const Case& run) {
  const std::string name = run.hyperparameters.text("decay_type", "linear");
  using Shape = polyak::CooldownCurve;
  for (const auto& [known, shape] : {
           std::pair{"linear", Shape::linear},
           std::pair{"sqrt", Shape::one_minus_sqrt},
           std::pair{"cosine", Shape::cosine},
           std::pair{"square", Shape::square},
           std::pair{"miror_cosine", Shape::mirror_cosine},
           std::pair{"exp", Shape::exponential},
       }) {
    if (name == known) {
      return shape;
    }
  }
  throw Malformed(run.place("unknown decay_type \"" + name + "\""));
}

void replay_constant_with_cooldown(Case& run) {
  const Section& from = run.hyperparameters;
  polyak::CooldownOptions options;
  options.total_steps = from.integer("n_iterations");
  options.warmup_steps = from.integer("n_warmup", 0);
  options.start_divisor = from.number("init_div_factor", 100);
  options.cooldown_fraction = from.number("fract_decay");
  options.final_factor = from.number("final_lr_factor", 0);
  options.shape = shape_of_cooldown(run);
  compare_factors(run,
                  [&](std::int64_t step) { return polyak::constant_with_cooldown(step, options); });
}

void replay_cosine(Case& run) {
  const Section& from = run.hyperparameters;
  const double divisor =
      from.has("div_factor") ? from.number("div_factor") : from.number("init_div_factor", 100);
  polyak::CosineOptions options;
  options.total_steps = from.integer("n_iterations");
  options.flat_steps = from.integer("n_inf", 0);
  options.warmup_steps = from.integer("n_warmup", 0);
  options.start_divisor = divisor;
  options.final_factor = 1 / (divisor * from.number("final_div_factor"));
  compare_factors(run, [&](std::int64_t step) { return polyak::cosine(step, options); });
}

/// The schedules of AdEMAMix as tables, without and with the guard of the reference.
void replay_ademamix_schedules(Case& run) {
  for (const Section& row : run.expected.rows("rows")) {
    polyak::AdEMAMixOptions options;
    options.alpha = 1;
    options.beta1 = row.number("beta_start");
    options.beta3 = row.number("beta3");
    options.alpha_warmup = row.integer("T");
    options.beta3_warmup = options.alpha_warmup;

    std::vector<double> exact_beta3s;
    std::vector<double> guarded_beta3s;
    std::vector<double> alphas;
    for (const double t : row.numbers("t")) {
      const auto step = static_cast<std::int64_t>(t);
      options.log_guard = 0;
      exact_beta3s.push_back(polyak::beta3_at(options, step));
      options.log_guard = 1e-8;
      guarded_beta3s.push_back(polyak::beta3_at(options, step));
      alphas.push_back(polyak::alpha_at(options, step));
    }
    run.compare(row, "beta3_exact", exact_beta3s);
    run.compare(row, "beta3_guarded", guarded_beta3s);
    run.compare(row, "alpha_over_alpha_final", alphas);
  }
}

}  // namespace

Replays schedule_replays() {
  return {
      {"lr_schedule_constant_cooldown",
       {{"constant_with_cooldown"}, replay_constant_with_cooldown}},
      {"lr_schedule_cosine", {{"cosine"}, replay_cosine}},
      {"ademamix_schedules", {{"AdEMAMix"}, replay_ademamix_schedules}},
  };
}

}  // namespace golden
