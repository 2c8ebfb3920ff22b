// SPDX-License-Identifier: Apache-2.0
/// @file
/// Replays of tables: conversions between decays, weight profiles, widths of power EMAs.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <polyak/polyak.hpp>
#include <string>
#include <vector>

#include "case.hpp"
#include "json.hpp"

namespace golden {
namespace {

/// Compares a decay with the decay recovered from its half-life, time constant or span. 1 - decay
/// may differ by four units in its last place, and the decay by its rounding to double.
void compare_inverse(Case& run, const Section& row, const std::string& key, double decay,
                     double complement_back, double decay_back) {
  const std::string place = run.place(row.path(key) + " back to decay");
  const double allowed = 4 * ulp(1 - decay);
  run.report().compare_within(place + " (1 - decay)", complement_back, 1 - decay, allowed);
  run.report().compare_within(place, decay_back, decay, allowed + ulp(decay) / 2);
}

void replay_ema_conversions(Case& run) {
  const std::vector<double> decays = run.inputs.numbers("decay");
  const std::vector<Section> rows = run.expected.rows("rows");
  if (rows.size() != decays.size()) {
    throw Malformed("expected.rows does not have one row per decay");
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double decay = decays[i];
    const Section& row = rows[i];
    run.compare(row, "decay", decay, exact);
    run.compare(row, "half_life", polyak::half_life(decay));
    run.compare(row, "time_constant", polyak::time_constant(decay));
    run.compare(row, "mean_age", polyak::mean_age(decay));
    run.compare(row, "std_age", polyak::age_std(decay));
    run.compare(row, "span", polyak::span(decay));
    run.compare(row, "effective_samples", polyak::effective_samples(decay));

    if (row.has("half_life") && row.number("half_life") > 0) {
      const double half_life = row.number("half_life");
      compare_inverse(run, row, "half_life", decay, polyak::complement_from_half_life(half_life),
                      polyak::decay_from_half_life(half_life));
    }
    if (row.has("time_constant") && row.number("time_constant") > 0) {
      const double time_constant = row.number("time_constant");
      compare_inverse(run, row, "time_constant", decay,
                      polyak::complement_from_time_constant(time_constant),
                      polyak::decay_from_time_constant(time_constant));
    }
    if (row.has("span")) {
      const double span = row.number("span");
      compare_inverse(run, row, "span", decay, polyak::complement_from_span(span),
                      polyak::decay_from_span(span));
    }
    if (row.has("scaled")) {
      for (const auto& [kappa, recorded] : row.at("scaled").items()) {
        const std::string place = row.path("scaled." + kappa);
        run.report().compare(run.place(place), polyak::scale_decay(decay, std::stod(kappa)),
                             number_of(recorded, place), run.tolerance);
      }
    }
  }
}

/// Compares gains, weights and energy of one weighting with one row.
template <class Weighting>
void compare_profile(Case& run, const Section& row, const Weighting& weighting,
                     std::int64_t calls) {
  std::vector<double> gains;
  for (std::int64_t t = 1; t <= calls; ++t) {
    gains.push_back(weighting.gain(t));
  }
  const std::vector<double> weights = polyak::profile(weighting, calls);
  double energy = 0;
  for (const double weight : weights) {
    energy += weight * weight;
  }
  run.compare(row, "c", gains);
  run.compare(row, "weights", weights);
  run.compare(row, "sum_sq", energy);
  run.compare(row, "sum_sq", 1 / polyak::effective_samples(weighting, calls));
}

void replay_profile(Case& run, const Section& input, const Section& row, std::int64_t calls) {
  const std::string type = input.text("type");
  const auto compare = [&](const auto& weighting) { compare_profile(run, row, weighting, calls); };
  if (type == "uniform") {
    compare(polyak::UniformWeighting{});
  } else if (type == "ema") {
    const std::string init = input.text("init", "initial_params");
    if (init != "initial_params" && init != "copy_first") {
      throw Malformed(input.path("init") + " is unknown");
    }
    compare(polyak::ExponentialWeighting{input.number("decay"), init == "copy_first"
                                                                    ? polyak::Start::first_update
                                                                    : polyak::Start::params});
  } else if (type == "ema_debiased") {
    compare(polyak::ExponentialWeighting{input.number("decay"), polyak::Start::zero_debiased});
  } else if (type == "poly") {
    compare(polyak::PolynomialWeighting{input.number("eta")});
  } else if (type == "power") {
    compare(polyak::PowerWeighting{input.number("gamma")});
  } else if (type == "tf_warmup") {
    compare(polyak::TfWarmupWeighting{input.number("decay")});
  } else if (type == "inv_gamma") {
    compare(polyak::InverseGammaWeighting{input.number("inv_gamma", 1),
                                          input.number("power", 2.0 / 3.0),
                                          input.number("decay", 0.9999)});
  } else if (type == "tail") {
    compare(polyak::TailWeighting{input.integer("start")});
    std::vector<double> weight(1), gains;
    polyak::Parameters<double> params;
    params.add("weight", weight);
    polyak::Tail<double> tail(params, {.start = input.integer("start")});
    while (tail.calls() < calls) {
      tail.update(params);
      gains.push_back(tail.gain());
    }
    run.compare(row, "c", gains);
  } else if (type == "weighted") {
    if (static_cast<std::int64_t>(input.numbers("weights").size()) != calls) {
      throw Malformed(input.path("weights") + " does not have one entry per call");
    }
    compare(polyak::StreamWeighting{input.numbers("weights")});
  } else {
    throw Malformed("unknown type \"" + type + "\" in " + input.path("type"));
  }
}

void replay_weight_profiles(Case& run) {
  const std::int64_t calls = run.hyperparameters.count("T");
  const std::vector<Section> inputs = run.inputs.rows("rows");
  const std::vector<Section> rows = run.expected.rows("rows");
  if (inputs.size() != rows.size()) {
    throw Malformed("expected.rows does not have one row per row of inputs");
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    replay_profile(run, inputs[i], rows[i], calls);
  }
}

void replay_power_tables(Case& run) {
  constexpr Tolerance high_precision{.relative = 1e-12, .absolute = 0};
  if (run.inputs.has("sigma_rel")) {
    std::vector<double> gammas;
    for (const double sigma_rel : run.inputs.numbers("sigma_rel")) {
      gammas.push_back(polyak::gamma_from_sigma_rel(sigma_rel));
    }
    run.compare(run.expected, "gamma_of_sigma_rel", gammas);
    run.compare(run.expected, "gamma_of_sigma_rel_highprec", gammas, high_precision);
  }
  if (run.inputs.has("gamma")) {
    std::vector<double> sigmas;
    for (const double gamma : run.inputs.numbers("gamma")) {
      sigmas.push_back(polyak::sigma_rel_from_gamma(gamma));
    }
    run.compare(run.expected, "sigma_rel_of_gamma", sigmas);
  }
  if (run.inputs.has("beta_args")) {
    std::vector<double> betas;
    for (const Section& row : run.inputs.rows("beta_args")) {
      const double gamma = polyak::gamma_from_sigma_rel(row.number("sigma_rel"));
      betas.push_back(
          1 - polyak::PowerWeighting::gain(gamma, row.number("t_delta"), row.number("t_next")));
    }
    run.compare(run.expected, "beta", betas);
  }
  if (run.inputs.has("correlation_args")) {
    std::vector<double> correlations;
    for (const Section& row : run.inputs.rows("correlation_args")) {
      correlations.push_back(polyak::power_profile_product(
          polyak::gamma_from_sigma_rel(row.number("sigma_a")), row.number("t_a"),
          polyak::gamma_from_sigma_rel(row.number("sigma_b")), row.number("t_b")));
    }
    run.compare(run.expected, "correlation", correlations);
  }
}

}  // namespace

Replays table_replays() {
  return {
      {"ema_conversions", {{"half_life"}, replay_ema_conversions}},
      {"weight_profiles", {{"Average", "Tail", "effective_samples"}, replay_weight_profiles}},
      {"power_ema_tables", {{"PowerEma"}, replay_power_tables}},
  };
}

}  // namespace golden
