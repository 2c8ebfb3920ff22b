// SPDX-License-Identifier: Apache-2.0
/// @file
/// Weightings: the gains c_t that turn one recurrence into every average.
///
///   avg_t = avg_{t-1} + c_t (x_t - avg_{t-1})           t = 1, 2, ... counts the calls
///   w_{t,T} = c_t prod_{s=t+1..T} (1 - c_s)             weight of x_t in avg_T
///   w_{0,T} = prod_{s=1..T} (1 - c_s)                   weight of the initial value
///
/// A weighting is a value with `gain(t)` = c_t (1: copy, 0: rest) and `complement(t)` = 1 - c_t,
/// computed directly, because the subtraction loses digits that profiles need. A weighting whose
/// gains do not go to 0 has `least_gain()`, its smallest gain above 0; one that cannot count to
/// 2^53 has `last_call()`. Average validates its `fields` (core/options.hpp) and saves them, and
/// its name, so that loading can refuse a state of another weighting: its `type_name`, or else the
/// name of its type without namespaces and template arguments. `list_state` (core/state.hpp) lists
/// the numbers that `advance(t)` changes after call t. Write your own and pass it to Average.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <polyak/average/schedules/decay_warmup.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

template <class W>
concept Weighting = requires(const W& weighting, std::int64_t t) {
  { weighting.gain(t) } -> std::convertible_to<double>;
  { weighting.complement(t) } -> std::convertible_to<double>;
};
namespace detail {
/// The name of a weighting in the state of an Average.
template <class W>
struct WeightingName {
  static constexpr bool listed = true;  ///< false: the fields list it
  static constexpr std::string_view option = "weighting";
  [[nodiscard]] static constexpr std::string_view name() {
    if constexpr (requires { W::type_name; }) {
      return W::type_name;
    } else {
      return plain_type_name<W>();
    }
  }
};
}  // namespace detail
/// The value of an exponential average before its first update.
enum class Start : std::uint8_t {
  params,         ///< the parameters at construction, with their weight
  first_update,   ///< nothing: the first update copies
  zero_debiased,  ///< nothing: zero, divided by the sum of the weights so far
};

[[nodiscard]] constexpr std::string_view name_of(Start value) {
  switch (value) {
    case Start::params:
      return "params";
    case Start::first_update:
      return "first_update";
    default:
      return "zero_debiased";
  }
}

/// Profile w_{0..T, T}: the weight of the initial value, then of each call's iterate. Sums to 1.
/// Pass a weighting with a clock of its own in its state before call 1. Throws
/// std::invalid_argument for calls < 0.
template <Weighting W>
[[nodiscard]] std::vector<double> profile(const W& weighting, std::int64_t calls) {
  require(calls >= 0, "profile: calls must be >= 0", calls);
  std::vector<double> weights(static_cast<std::size_t>(calls) + 1), kept(weights.size());
  W clock = weighting;
  for (std::int64_t t = 1; t <= calls; ++t) {
    const auto place = static_cast<std::size_t>(t);
    weights[place] = clock.gain(t);
    kept[place] = clock.complement(t);
    if constexpr (requires { clock.advance(t); }) clock.advance(t);
  }
  double rest = 1;
  for (std::size_t t = weights.size() - 1; t >= 1; --t) {
    weights[t] *= rest;
    rest *= kept[t];
  }
  weights[0] = rest;
  return weights;
}

/// Equal weights of the calls start, start + period, ...: c = 1/n for the n-th of them.
struct UniformWeighting {
  static constexpr std::string_view type_name = "uniform";
  std::int64_t start = 1;   ///< first call that counts, >= 0
  std::int64_t period = 1;  ///< calls from one counted call to the next, >= 1

  [[nodiscard]] bool counts(std::int64_t t) const {
    return t >= start && (t - start) % period == 0;
  }
  [[nodiscard]] double gain(std::int64_t t) const {
    const std::int64_t before = (t - first()) / period;
    return counts(t) ? 1 / (static_cast<double>(before) + 1) : 0;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const std::int64_t whole = (t - first()) / period;
    const auto before = static_cast<double>(whole);
    return counts(t) ? before / (before + 1) : 1;
  }

 private:
  /// The first call that counts: calls are counted from 1, and `start` may be 0.
  [[nodiscard]] std::int64_t first() const { return start > 0 ? start : period; }
};
template <class Fields>
void fields(UniformWeighting& w, Fields& field) {
  field("start", w.start, at_least_0);
  field("period", w.period, at_least_1);
}

/// Weights that fall by the factor `decay` per call, for each way to start.
struct ExponentialWeighting {
  static constexpr std::string_view type_name = "exponential";
  double decay = 0.999;  ///< b in [0, 1]
  Start start = Start::params;
  std::int64_t update_every = 1;  ///< calls per update; the update's decay is b^update_every

  /// Whether the initial value has a weight of its own.
  [[nodiscard]] bool weighs_initial() const { return start == Start::params; }
  [[nodiscard]] double least_gain() const { return fall(update_every); }
  [[nodiscard]] double gain(std::int64_t t) const {
    if (rests(t)) return 0;
    if (t == update_every && start != Start::params) return 1;
    const double gain = fall(update_every);
    return start == Start::zero_debiased ? gain / fall(t) : gain;
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    if (rests(t)) return 1;
    if (t == update_every && start != Start::params) return 0;
    const double kept = std::pow(decay, static_cast<double>(update_every));
    return start == Start::zero_debiased ? kept * fall(t - update_every) / fall(t) : kept;
  }

 private:
  [[nodiscard]] bool rests(std::int64_t t) const {
    return update_every != 1 && t % update_every != 0;  // a division takes longer than a small loop
  }
  /// 1 - b^n, without cancellation for b close to 1.
  [[nodiscard]] double fall(std::int64_t n) const {
    if (n == 1) return 1 - decay;  // exact for b >= 1/2
    return decay == 0 ? 1 : -std::expm1(static_cast<double>(n) * std::log(decay));
  }
};
namespace detail {
/// The fields that this weighting shares with the options of Ema and EmaBank. The rule of a decay
/// differs, and a bank has several.
template <class O, class Fields>
void exponential_fields(O& o, Fields& field) {
  if constexpr (requires { o.decay; }) {
    field.check(o.decay < 1 || o.start != Start::zero_debiased,
                "decay must be below 1 with Start::zero_debiased", o.decay);
  }
  field("start", o.start);
  field("update_every", o.update_every, at_least_1);
}
}  // namespace detail
template <class Fields>
void fields(ExponentialWeighting& w, Fields& field) {
  field("decay", w.decay, in_closed_0_1);
  detail::exponential_fields(w, field);
}

/// Polynomial decay, "Stochastic Gradient Descent for Non-smooth Optimization" (arXiv 1212.1824):
/// c_t = (eta + 1)/(t + eta). eta = 0 is uniform, eta = 1 has weights proportional to t.
struct PolynomialWeighting {
  static constexpr std::string_view type_name = "polynomial";
  double eta = 8;  ///< >= 0

  [[nodiscard]] double gain(std::int64_t t) const {
    return (eta + 1) / (static_cast<double>(t) + eta);
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto n = static_cast<double>(t);
    return (n - 1) / (n + eta);
  }
};
template <class Fields>
void fields(PolynomialWeighting& w, Fields& field) {
  field("eta", w.eta, finite_and_not_negative);
}

/// Weights proportional to t^p - (t-1)^p, p = gamma + 1: the power function of PowerEma in steps.
struct PowerWeighting {
  static constexpr std::string_view type_name = "power";
  double gamma = 6.94;  ///< >= 0

  /// c = 1 - (1 - elapsed/time)^(gamma+1) of an update at `time`, `elapsed` after the one before.
  [[nodiscard]] static double gain(double gamma, double elapsed, double time) {
    return elapsed == time ? 1 : -std::expm1((gamma + 1) * std::log1p(-elapsed / time));
  }
  [[nodiscard]] double gain(std::int64_t t) const { return gain(gamma, 1, static_cast<double>(t)); }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto n = static_cast<double>(t);
    return std::pow((n - 1) / n, gamma + 1);
  }
};
template <class Fields>
void fields(PowerWeighting& w, Fields& field) {
  field("gamma", w.gamma, finite_and_not_negative);
}

/// Exponential with the warmup decay min(b, (1 + k)/(10 + k)), k = t - 1.
struct TfWarmupWeighting {
  static constexpr std::string_view type_name = "tf_warmup";
  double decay = 0.999;  ///< cap b, in [0, 1]

  [[nodiscard]] double gain(std::int64_t t) const {
    return std::fmax(1 - decay, 9 / (9 + static_cast<double>(t)));
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto n = static_cast<double>(t);
    return std::fmin(decay, n / (9 + n));
  }
};
template <class Fields>
void fields(TfWarmupWeighting& w, Fields& field) {
  field("decay", w.decay, in_closed_0_1);
}

/// Exponential with the warmup decay min(b, 1 - (1 + k/inverse_gamma)^-power), k = t - 1.
struct InverseGammaWeighting {
  static constexpr std::string_view type_name = "inverse_gamma";
  double inverse_gamma = 1;  ///< > 0
  double power = 1;          ///< >= 0
  double decay = 0.9999;     ///< cap b, in [0, 1]

  [[nodiscard]] double gain(std::int64_t t) const {
    return std::fmax(1 - decay,
                     detail::inverse_gamma_gain(static_cast<double>(t - 1), inverse_gamma, power));
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    return std::fmin(decay,
                     detail::inverse_gamma_decay(static_cast<double>(t - 1), inverse_gamma, power));
  }
};
template <class Fields>
void fields(InverseGammaWeighting& w, Fields& field) {
  field("inverse_gamma", w.inverse_gamma, finite_and_positive);
  field("power", w.power, finite_and_not_negative);
  field("decay", w.decay, in_closed_0_1);
}

/// Equal weights of the calls from `start` on; before `start`, the newest iterate.
struct TailWeighting {
  static constexpr std::string_view type_name = "tail";
  std::int64_t start = 1;  ///< first call of the tail, >= 1

  [[nodiscard]] double gain(std::int64_t t) const {
    return t <= start ? 1 : 1 / static_cast<double>(t - start + 1);
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const auto n = static_cast<double>(t - start + 1);
    return t <= start ? 0 : (n - 1) / n;
  }
};
template <class Fields>
void fields(TailWeighting& w, Fields& field) {
  field("start", w.start, at_least_1);
}

}  // namespace POLYAK_V0
}  // namespace polyak
