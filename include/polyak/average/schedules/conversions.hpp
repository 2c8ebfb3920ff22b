// SPDX-License-Identifier: Apache-2.0
/// @file
/// Conversions between measures of an average's width: decay, half-life, time constant, window,
/// age, effective samples; gamma and sigma_rel of power functions.
///
/// Times are in updates. Inverse maps come in pairs, decay and 1 - decay: the second keeps its
/// digits if the decay is close to 1.
#pragma once

#include <cmath>
#include <numbers>
#include <string>
#include <string_view>

#include <polyak/core/compiled.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// The hint for a decay out of range, which may have been meant as a time.
[[nodiscard]] std::string time_hint(double decay);
/// The hint for a decay below 0.5, which may have been meant as a gain.
[[nodiscard]] std::string gain_hint(double decay);
}  // namespace detail

/// Rule of every decay: in [0, 1].
inline constexpr Rule<double> decay_in_0_1{
    in_closed_0_1.holds,
    in_closed_0_1.words,
    {-0.5, 1.5, 1000, detail::nan_value, detail::infinite, -detail::infinite},
    &detail::time_hint};
/// Rule of the decay that an average is constructed with: decays in (0, 0.5) are refused unless
/// any_decay is set.
[[nodiscard]] constexpr Rule<double> likely_decay(bool any_decay) {
  if (any_decay) return {[](double) { return true; }, "", {}};
  return {[](double v) { return v == 0 || !(v < 0.5); },
          "must be 0 or at least 0.5 (below it forgets at once)",
          {1e-3, 0.25, 0.49},
          &detail::gain_hint};
}

namespace detail {
inline void require_decay(double decay) { require_rule("decay", decay, decay_in_0_1); }
}  // namespace detail

/// Updates after which a weight has halved: -ln 2 / ln decay; infinity for decay 1.
[[nodiscard]] inline double half_life(double decay) {
  detail::require_decay(decay);
  return std::numbers::ln2 / std::fabs(std::log(decay));
}
/// 1 - decay of a half-life > 0: 1 - 2^(-1/h); 0 for infinity.
[[nodiscard]] inline double complement_from_half_life(double half_life) {
  detail::require_rule("half_life", half_life, above_0);
  return -std::expm1(-std::numbers::ln2 / half_life);
}
[[nodiscard]] inline double decay_from_half_life(double half_life) {
  return 1 - complement_from_half_life(half_life);
}

/// Updates after which a weight has fallen by e: -1 / ln decay.
[[nodiscard]] inline double time_constant(double decay) {
  detail::require_decay(decay);
  return 1 / std::fabs(std::log(decay));
}
/// 1 - decay of a time constant > 0: 1 - exp(-1/tau).
[[nodiscard]] inline double complement_from_time_constant(double time_constant) {
  detail::require_rule("time_constant", time_constant, above_0);
  return -std::expm1(-1 / time_constant);
}
[[nodiscard]] inline double decay_from_time_constant(double time_constant) {
  return 1 - complement_from_time_constant(time_constant);
}

/// The window N whose decay is (N - 1)/(N + 1): 2/(1 - decay) - 1.
[[nodiscard]] inline double span(double decay) {
  detail::require_decay(decay);
  return 2 / (1 - decay) - 1;
}
/// 1 - decay of a window N >= 1: 2/(N + 1).
[[nodiscard]] inline double complement_from_span(double span) {
  if (span > 0 && span < 1) {
    require(false,
            "span must be >= 1; did you mean a decay? It has span(" + detail::text(span) +
                ") = " + detail::text(2 / (1 - span) - 1),
            span);
  }
  require(span >= 1, "span must be >= 1", span);
  return 2 / (span + 1);
}
[[nodiscard]] inline double decay_from_span(double span) { return 1 - complement_from_span(span); }

/// Mean age of the iterates in the average: decay/(1 - decay).
[[nodiscard]] inline double mean_age(double decay) {
  detail::require_decay(decay);
  return decay / (1 - decay);
}
/// Standard deviation of that age: sqrt(decay)/(1 - decay).
[[nodiscard]] inline double age_std(double decay) {
  detail::require_decay(decay);
  return std::sqrt(decay) / (1 - decay);
}
/// 1 / sum of squared weights: (1 + decay)/(1 - decay).
[[nodiscard]] inline double effective_samples(double decay) {
  detail::require_decay(decay);
  return (1 + decay) / (1 - decay);
}

/// The decay for kappa times the batch size, kappa finite and > 0: decay^kappa, which keeps the
/// half-life in samples. "How to Scale Your EMA" (arXiv 2307.13813). Do not scale a schedule this
/// way: let its clock count samples, with SampleEma, PowerEma or RepeatedWeighting.
[[nodiscard]] inline double scale_decay(double decay, double kappa) {
  detail::require_decay(decay);
  detail::require_rule("kappa", kappa, finite_and_positive);
  return std::pow(decay, kappa);
}
/// The gain for kappa times the batch size: 1 - decay^kappa, computed without cancellation.
[[nodiscard]] inline double complement_of_scaled_decay(double decay, double kappa) {
  detail::require_decay(decay);
  detail::require_rule("kappa", kappa, finite_and_positive);
  return decay == 0 ? 1 : -std::expm1(kappa * std::log(decay));
}

/// Width of the power function t^gamma as a fraction of the training time, gamma >= 0:
/// sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).
/// "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).
[[nodiscard]] inline double sigma_rel_from_gamma(double gamma) {
  detail::require_rule("gamma", gamma, finite_and_not_negative);
  return std::sqrt(gamma + 1) / ((gamma + 2) * std::sqrt(gamma + 3));
}

/// Rule of the width of a power function: in (0, 1/sqrt(12)].
inline constexpr Rule<double> width_of_power{
    [](double v) { return v > 0 && v <= 1 / std::sqrt(12.0); },
    "must lie in (0, 1/sqrt(12)]",
    {-0.1, 0, 0.3, 1, detail::infinite, detail::nan_value}};

/// The rules of a width and of an exponent that may be unset (NaN).
inline constexpr Rule<double> width_of_power_or_none{
    [](double v) { return detail::is_nan(v) || width_of_power.holds(v); },
    width_of_power.words,
    {-0.1, 0, 0.3, 1, detail::infinite, -detail::infinite}};
inline constexpr Rule<double> finite_and_not_negative_or_none{
    [](double v) { return detail::is_nan(v) || finite_and_not_negative.holds(v); },
    finite_and_not_negative.words,
    {-0.5, -1, detail::infinite, -detail::infinite}};

/// The exponent of a width in (0, 1/sqrt(12)], by Newton's method on ln sigma_rel(gamma). Outside
/// that range, two exponents or none have the width.
[[nodiscard]] inline double gamma_from_sigma_rel(double sigma_rel) {
  detail::require_rule("sigma_rel", sigma_rel, width_of_power);
  if (sigma_rel == 1 / std::sqrt(12.0)) return 0;
  double gamma = 1 / sigma_rel - 3;
  const double target = std::log(sigma_rel);
  for (int iteration = 0; iteration < 100; ++iteration) {
    const double value = 0.5 * std::log1p(gamma) - std::log(gamma + 2) - 0.5 * std::log(gamma + 3);
    const double slope = 0.5 / (gamma + 1) - 1 / (gamma + 2) - 0.5 / (gamma + 3);
    const double change = (value - target) / slope;
    gamma -= change;
    if (std::fabs(change) < 1e-14 * (1 + gamma)) break;
  }
  return gamma > 0 ? gamma : 0;
}

/// Half-life, in updates, of the exponential average that at time T is as wide (standard deviation
/// of the age) as the power average of this sigma_rel: a rule of thumb for changing from one to the
/// other.
[[nodiscard]] inline double half_life_from_sigma_rel(double sigma_rel, double updates) {
  detail::require_rule("sigma_rel", sigma_rel, above_0);
  detail::require_rule("updates", updates, above_0);
  return std::numbers::ln2 * sigma_rel * updates;
}
/// The inverse: sigma_rel of the power average that at time T is as wide as an exponential average
/// of this half-life.
[[nodiscard]] inline double sigma_rel_from_half_life(double half_life, double updates) {
  detail::require_rule("half_life", half_life, above_0);
  detail::require_rule("updates", updates, above_0);
  return half_life / (std::numbers::ln2 * updates);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/schedules/conversions.ipp>
#endif
