// SPDX-License-Identifier: Apache-2.0
/// @file
/// Profiles: the weight of each iterate in an average. GainSequence holds the gains of an existing
/// average, ProfileTarget describes a profile wanted after training.
///
///   avg_T = sum_t a[t] x_t,   t = 0 (the initial value), 1, ..., T;   sum_t a[t] = 1
///   cooldown: multipliers d_i = f((i-1)/K) on the last K updates <=> a[T-K+i] = d_i - d_{i+1}
///
/// The mapping of cooldowns: "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging" (arXiv
/// 2507.17634).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/schedules/conversions.hpp>
#include <polyak/average/schedules/cooldown.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The gains of an average, call by call, independent of the type of its weighting.
class GainSequence {
 public:
  /// From a weighting whose gains are functions of the call.
  template <Weighting W>
  requires(!requires(W & w) { w.advance(std::int64_t{1}); }) explicit GainSequence(W weighting)
      : gain_([weighting](std::int64_t t) { return static_cast<double>(weighting.gain(t)); }),
        complement_([weighting = std::move(weighting)](std::int64_t t) {
          return static_cast<double>(weighting.complement(t));
        }) {}

  /// From recorded gains of calls 1, 2, ..., for schedules without a formula. Complements are
  /// computed by subtraction, which loses digits for gains close to 1.
  static GainSequence recorded(std::vector<double> gains) {
    for (const double gain : gains) {
      require(gain >= 0 && gain <= 1, "GainSequence: recorded gains must lie in [0, 1]", gain);
    }
    return GainSequence(Recorded{std::move(gains)});
  }

  /// The same average, begun after `steps` >= 0 calls of the other averages. Its initial value must
  /// have no weight.
  [[nodiscard]] static GainSequence begun_after(std::int64_t steps, GainSequence own) {
    require(steps >= 0, "GainSequence::begun_after: steps must be >= 0", steps);
    GainSequence later = own;
    later.gain_ = [steps, own](std::int64_t t) { return t <= steps ? 0 : own.gain(t - steps); };
    later.complement_ = [steps, own = std::move(own)](std::int64_t t) {
      return t <= steps ? 1 : own.complement(t - steps);
    };
    return later;
  }

  /// c_t and 1 - c_t of call t >= 1. Recorded gains throw std::invalid_argument beyond their end.
  [[nodiscard]] double gain(std::int64_t t) const { return gain_(t); }
  [[nodiscard]] double complement(std::int64_t t) const { return complement_(t); }

 private:
  struct Recorded {
    std::vector<double> gains;
    [[nodiscard]] double gain(std::int64_t t) const {
      require(
          t >= 1 && static_cast<std::size_t>(t) <= gains.size(),
          "GainSequence: the call must be among those recorded, 1 to " + detail::text(gains.size()),
          t);
      return gains[static_cast<std::size_t>(t - 1)];
    }
    [[nodiscard]] double complement(std::int64_t t) const { return 1 - gain(t); }
  };

  std::function<double(std::int64_t)> gain_, complement_;
};

/// The wanted profile of an average at call T. Make it with one of the functions below; each throws
/// std::invalid_argument for arguments out of range.
class ProfileTarget {
 public:
  /// Power function: weights proportional to t^(gamma+1) - (t-1)^(gamma+1).
  [[nodiscard]] static ProfileTarget power(double gamma) {
    require(gamma >= 0 && detail::is_finite(gamma),
            "ProfileTarget::power: gamma must be finite and >= 0", gamma);
    ProfileTarget target = weighted("power gamma " + detail::text(gamma), PowerWeighting{gamma});
    target.gamma_ = gamma;
    return target;
  }
  /// The same, by its width relative to the training time, in (0, 1/sqrt(12)].
  [[nodiscard]] static ProfileTarget sigma_rel(double sigma_rel) {
    require(sigma_rel > 0 && sigma_rel <= 1 / std::sqrt(12.0),
            "ProfileTarget::sigma_rel must lie in (0, 1/sqrt(12)]", sigma_rel);
    ProfileTarget target = power(gamma_from_sigma_rel(sigma_rel));
    target.name_ = "sigma_rel " + detail::text(sigma_rel);
    return target;
  }
  /// Exponential, decay in [0, 1), from the initial value, the first iterate, or debiased.
  [[nodiscard]] static ProfileTarget ema(double decay, Start start = Start::zero_debiased) {
    require(decay >= 0 && decay < 1, "ProfileTarget::ema: decay must lie in [0, 1)", decay);
    return weighted("ema decay " + detail::text(decay), ExponentialWeighting{decay, start, 1});
  }
  /// Equal weights of all iterates.
  [[nodiscard]] static ProfileTarget uniform() { return weighted("uniform", UniformWeighting{}); }
  /// Equal weights of the last `calls` iterates, >= 1.
  [[nodiscard]] static ProfileTarget window(std::int64_t calls) {
    require(calls >= 1, "ProfileTarget::window: calls must be >= 1", calls);
    return tail("window " + detail::text(calls), calls,
                [calls](std::int64_t) { return 1 / static_cast<double>(calls); });
  }
  /// Equal weights from call `start` on, >= 1.
  [[nodiscard]] static ProfileTarget tail_from(std::int64_t start) {
    require(start >= 1, "ProfileTarget::tail_from: start must be >= 1", start);
    return weighted("tail from " + detail::text(start), TailWeighting{start});
  }
  /// Polynomial decay, eta >= 0.
  [[nodiscard]] static ProfileTarget polynomial(double eta) {
    require(eta >= 0 && detail::is_finite(eta),
            "ProfileTarget::polynomial: eta must be finite and >= 0", eta);
    return weighted("polynomial eta " + detail::text(eta), PolynomialWeighting{eta});
  }
  /// To first order, the result of a learning rate that falls over the last `calls` updates to the
  /// fraction `floor` of the rate before. One weight is large (an atom), so fit it by
  /// Metric::update.
  [[nodiscard]] static ProfileTarget cooldown(CooldownCurve curve, std::int64_t calls,
                                              double floor = 0) {
    require(calls >= 1, "ProfileTarget::cooldown: calls must be >= 1", calls);
    require(floor >= 0 && floor < 1, "ProfileTarget::cooldown: floor must lie in [0, 1)", floor);
    require(curve != CooldownCurve::exponential || floor > 0,
            "ProfileTarget::cooldown: floor must be > 0 for an exponential cooldown", floor);
    std::string name(name_of(curve));
    std::replace(name.begin(), name.end(), '_', '-');
    const auto multiplier = [curve, calls, floor](std::int64_t i) {
      if (i > calls) return 0.0;
      const double u = static_cast<double>(i - 1) / static_cast<double>(calls);
      return detail::cooldown_factor(curve, u, floor);
    };
    return tail("cooldown " + name + " " + detail::text(calls), calls,
                [multiplier](std::int64_t i) { return multiplier(i) - multiplier(i + 1); });
  }
  /// The profile of any average.
  template <Weighting W>
  [[nodiscard]] static ProfileTarget weighted(std::string name, W weighting) {
    ProfileTarget target;
    target.name_ = std::move(name);
    target.make_ = [weighting](std::int64_t calls) { return polyak::profile(weighting, calls); };
    return target;
  }
  /// Weights of the iterates 1, 2, ..., finite and of any sign. They are divided by their sum,
  /// which must not be 0.
  [[nodiscard]] static ProfileTarget weights(std::vector<double> weights) {
    double sum = 0;
    for (const double weight : weights) {
      require(detail::is_finite(weight), "ProfileTarget::weights must be finite", weight);
      sum += weight;
    }
    require(sum != 0, "ProfileTarget::weights must have a sum other than 0", sum);
    for (double& weight : weights) weight /= sum;
    ProfileTarget target;
    target.name_ = "weights of " + detail::text(weights.size()) + " iterates";
    target.calls_ = static_cast<std::int64_t>(weights.size());
    target.make_ = [weights = std::move(weights)](std::int64_t calls) {
      require(calls == static_cast<std::int64_t>(weights.size()),
              "ProfileTarget::weights must be as many as there are calls, " + detail::text(calls),
              weights.size());
      std::vector<double> all(weights.size() + 1, 0.0);
      std::copy(weights.begin(), weights.end(), all.begin() + 1);
      return all;
    };
    return target;
  }

  /// The same target at call `calls` >= 1, instead of the call of the last snapshot.
  [[nodiscard]] ProfileTarget at(std::int64_t calls) const {
    require(calls >= 1, "ProfileTarget::at: calls must be >= 1", calls);
    ProfileTarget target = *this;
    target.calls_ = calls;
    return target;
  }

  /// For reports: "sigma_rel 0.15".
  [[nodiscard]] const std::string& name() const { return name_; }
  /// T; 0 means the call of the last snapshot.
  [[nodiscard]] std::int64_t calls() const { return calls_; }
  /// The exponent of a power function; NaN for all others.
  [[nodiscard]] double gamma() const { return gamma_; }
  /// a[0..calls]. Throws std::invalid_argument if the profile would begin before the first iterate.
  [[nodiscard]] std::vector<double> profile(std::int64_t calls) const { return make_(calls); }

 private:
  ProfileTarget() = default;
  /// A profile of weight(i), i = 1..count, on the last `count` iterates.
  template <class Weight>
  static ProfileTarget tail(std::string name, std::int64_t count, Weight weight) {
    ProfileTarget target;
    target.make_ = [name, count, weight](std::int64_t calls) {
      require(
          count <= calls,
          "ProfileTarget \"" + name +
              "\" must not begin before the first iterate, calls must be >= " + detail::text(count),
          calls);
      std::vector<double> all(static_cast<std::size_t>(calls) + 1, 0.0);
      for (std::int64_t i = 1; i <= count; ++i) {
        all[static_cast<std::size_t>(calls - count + i)] = weight(i);
      }
      return all;
    };
    target.name_ = std::move(name);
    return target;
  }

  std::string name_;
  std::function<std::vector<double>(std::int64_t)> make_;
  std::int64_t calls_ = 0;
  double gamma_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace POLYAK_V0
}  // namespace polyak
