// SPDX-License-Identifier: Apache-2.0
/// @file
/// PowerEma: average with weights that grow as a power of time.
///
///   c = 1 - (1 - dt/t)^(gamma+1)            t: time including this update, dt: since the last one
///   weight of the iterate at t_k in the average at T:   (t_k/T)^(gamma+1) - (t_{k-1}/T)^(gamma+1)
///   sigma_rel = sqrt(gamma+1) / ((gamma+2) sqrt(gamma+3))     width over the training time
///
/// "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and update.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Options of PowerEma. Set either the width or the exponent.
struct PowerEmaOptions {
  double sigma_rel = std::numeric_limits<double>::quiet_NaN();  ///< in (0, 1/sqrt(12)]
  double gamma = std::numeric_limits<double>::quiet_NaN();      ///< finite, >= 0
  double batch_size = 1;          ///< time per call, in any unit; finite, > 0
  std::int64_t update_every = 1;  ///< calls per update, >= 1; dt is the time of all of them
  Accumulate accumulate = Accumulate::plain;  ///< how the average is stored
  std::uint64_t seed = 0;                     ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(PowerEmaOptions& o, Fields& field) {
  field.check(detail::is_nan(o.sigma_rel) != detail::is_nan(o.gamma),
              "sigma_rel must be set if gamma is not, and only then", o.sigma_rel);
  field("sigma_rel", o.sigma_rel, width_of_power_or_none);
  field("gamma", o.gamma, finite_and_not_negative_or_none);
  field("batch_size", o.batch_size, finite_and_positive);
  field("update_every", o.update_every, at_least_1);
  detail::average_fields(o, field);
}

/// The power weighting on a clock whose pace may change. gain() is for the next call only.
struct PowerClock {
  static constexpr std::string_view type_name = "power_clock";
  double gamma = 0;
  double batch_size = 1;
  std::int64_t update_every = 1;
  double time = 0;          ///< after the last call
  double updated_time = 0;  ///< after the last update

  [[nodiscard]] double gain(std::int64_t t) const {
    const double next = time + batch_size;
    return t % update_every == 0 ? PowerWeighting::gain(gamma, next - updated_time, next) : 0;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    return t % update_every == 0 ? std::pow(updated_time / (time + batch_size), gamma + 1) : 1;
  }
  void advance(std::int64_t t) {
    time += batch_size;
    if (t % update_every == 0) updated_time = time;
  }
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.scalar("batch_size", self.batch_size, finite_positive_range);
    visit.scalar("time", self.time, not_negative_range);
    visit.scalar("updated_time", self.updated_time, not_negative_range);
  }
};
template <class Fields>
void fields(PowerClock& w, Fields& field) {
  field("gamma", w.gamma, finite_and_not_negative);
  field("update_every", w.update_every, at_least_1);
}

/// Power-function average of a model's weights. From snapshots of two or more widths, PosthocEma
/// makes any other width after training. Throws std::invalid_argument for options out of range; for
/// everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class PowerEma final : public AverageOf<PowerEma<P, S>, P, PowerClock, S> {
 public:
  static constexpr std::string_view type_name = "PowerEma";

  explicit PowerEma(const Parameters<P>& params, PowerEmaOptions options,
                    const Selection& selection = {})
      : AverageOf<PowerEma<P, S>, P, PowerClock, S>(params, clock(options), options.nonfinite,
                                                    {options.accumulate, options.seed, selection}) {
  }

  /// The next calls advance the time by `batch_size`: `power.at(64).update(params)`. Throws
  /// std::invalid_argument unless it is finite and > 0.
  PowerEma& at(double batch_size) {
    detail::require_rule("batch_size", batch_size, finite_and_positive);
    this->mutable_weighting().batch_size = batch_size;
    return *this;
  }

  [[nodiscard]] double gamma() const { return this->weighting().gamma; }
  [[nodiscard]] double sigma_rel() const { return sigma_rel_from_gamma(gamma()); }
  /// Time so far: the sum of the batch sizes of all calls.
  [[nodiscard]] double time() const { return this->weighting().time; }
  /// Time of the last update; a snapshot taken now has this time.
  [[nodiscard]] double updated_time() const { return this->weighting().updated_time; }

 private:
  static PowerClock clock(const PowerEmaOptions& options) {
    validate(options);
    const double gamma =
        detail::is_nan(options.gamma) ? gamma_from_sigma_rel(options.sigma_rel) : options.gamma;
    return {gamma, options.batch_size, options.update_every, 0, 0};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
