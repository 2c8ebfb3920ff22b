// SPDX-License-Identifier: Apache-2.0
/// @file
/// Merging as learning-rate decay: checkpoints of a run at a constant rate, weighted so that their
/// sum is, to first order, the result of a run with a decaying rate.
///
///   x_i = x_{i-1} + u_i,   i = 1..K;   multipliers 1 >= d_1 >= ... >= d_K >= 0 of the updates
///   sum_j c_j x_j = x_0 + sum_i d_i u_i   <=>   c_0 = 1 - d_1,  c_j = d_j - d_{j+1},  c_K = d_K
///                                         <=>   d_i = sum_{j>=i} c_j
///
/// Exact for the updates given; a run that decayed would have seen other gradients. u_i is the
/// whole change between two checkpoints. A linear decay is the uniform average.
///
/// "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging" (arXiv 2507.17634).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/merge/linear.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The position u of update i on the curve, i = 1..K.
enum class DecayAbscissa : std::uint8_t {
  before,  ///< u = (i-1)/K: d_1 = 1, so x_0 has no weight
  within,  ///< u = i/(K+1): linear weighs all K + 1 checkpoints alike
};

struct DecayMultipliersOptions {
  DecayAbscissa abscissa = DecayAbscissa::before;
  double floor = 0;  ///< f, the last rate divided by the rate before; in [0, 1]
};
template <class Fields>
void fields(DecayMultipliersOptions& o, Fields& field) {
  field("abscissa", o.abscissa);
  field("floor", o.floor, in_closed_0_1);
}

namespace detail {
template <class Multiplier>
[[nodiscard]] std::vector<double> multipliers_along(std::int64_t checkpoints,
                                                    const DecayMultipliersOptions& o,
                                                    Multiplier&& multiplier) {
  require(checkpoints >= 1, "decay multipliers: checkpoints must be >= 1", checkpoints);
  validate(o);
  const bool before = o.abscissa == DecayAbscissa::before;
  std::vector<double> all;
  for (std::int64_t i = 1; i <= checkpoints; ++i) {
    const double u = static_cast<double>(before ? i - 1 : i) /
                     static_cast<double>(before ? checkpoints : checkpoints + 1);
    all.push_back(multiplier(u));
  }
  return all;
}
}  // namespace detail

/// d_1..d_K = f + (1 - f) curve(u), for the K = `checkpoints` >= 1 checkpoints after x_0. Throws
/// std::invalid_argument for options out of range; an exponential curve needs a floor > 0.
[[nodiscard]] inline std::vector<double> decay_multipliers(CooldownCurve curve,
                                                           std::int64_t checkpoints,
                                                           const DecayMultipliersOptions& o = {}) {
  require(curve != CooldownCurve::exponential || o.floor > 0,
          "DecayMultipliersOptions.floor must be > 0 for an exponential decay", o.floor);
  return detail::multipliers_along(
      checkpoints, o, [&](double u) { return detail::cooldown_factor(curve, u, o.floor); });
}

/// The same for an exponential decay, f^u. The floor f must be > 0; it is the least weight of the
/// last checkpoint.
[[nodiscard]] inline std::vector<double> exponential_decay_multipliers(
    std::int64_t checkpoints, const DecayMultipliersOptions& o) {
  return decay_multipliers(CooldownCurve::exponential, checkpoints, o);
}

struct MergeOptions {
  bool allow_negative = false;  ///< any finite multipliers, also with weights < 0
};

template <class Fields>
void fields(MergeOptions& o, Fields& field) {
  field("allow_negative", o.allow_negative);
}

namespace detail {
/// A broken rule of the multipliers, and the number that breaks it.
struct MultiplierFault {
  std::string_view rule = {};  ///< empty: none is broken
  double value = 0;
};
[[nodiscard]] inline MultiplierFault fault_of(std::span<const double> multipliers,
                                              const MergeOptions& o) {
  if (multipliers.empty()) return {"decay multipliers: there must be at least one", 0};
  double last = 1;
  for (const double multiplier : multipliers) {
    if (o.allow_negative) {
      if (!is_finite(multiplier)) return {"decay multipliers must be finite", multiplier};
      continue;
    }
    if (!(multiplier >= 0 && multiplier <= 1)) {
      return {"decay multipliers must lie in [0, 1], unless allow_negative", multiplier};
    }
    if (multiplier > last) {
      return {"decay multipliers must not increase, unless allow_negative", multiplier};
    }
    last = multiplier;
  }
  return {};
}
inline void require_multipliers(std::span<const double> multipliers, const MergeOptions& o) {
  const MultiplierFault fault = fault_of(multipliers, o);
  require(fault.rule.empty(), fault.rule, fault.value);
}
}  // namespace detail

/// c_0..c_K of d_1..d_K. They sum to 1. Throws std::invalid_argument without multipliers, and for
/// multipliers that are outside [0, 1] or increase. If negative weights are allowed, it only
/// rejects multipliers that are not finite.
[[nodiscard]] inline std::vector<double> merge_weights(std::span<const double> multipliers,
                                                       const MergeOptions& o = {}) {
  detail::require_multipliers(multipliers, o);
  std::vector<double> weights;
  double last = 1;
  for (const double multiplier : multipliers) {
    weights.push_back(last - multiplier);
    last = multiplier;
  }
  weights.push_back(last);
  return weights;
}

/// d_1..d_K of c_0..c_K: the decay that given weights of checkpoints correspond to, for example a
/// profile's.
/// Throws std::invalid_argument for fewer than two weights, weights that are not finite, or a sum
/// further than 1e-9 from 1.
[[nodiscard]] inline std::vector<double> multipliers_of(std::span<const double> weights) {
  require(weights.size() >= 2, "multipliers_of must have at least two weights", weights.size());
  bool positive = true;
  for (const double weight : weights) {
    require(detail::is_finite(weight), "multipliers_of: weights must be finite", weight);
    positive = positive && weight >= 0;
  }
  std::vector<double> multipliers(weights.size() - 1);
  double sum = 0;
  for (std::size_t i = multipliers.size(); i >= 1; --i) {
    sum += weights[i];
    // The rounding of the sum must not make a decay begin above 1.
    multipliers[i - 1] = positive ? std::min(sum, 1.0) : sum;
  }
  sum += weights[0];
  require(std::fabs(sum - 1) <= 1e-9, "multipliers_of: weights must sum to 1", sum);
  return multipliers;
}

namespace detail {
template <class Lists>
[[nodiscard]] std::vector<double> weights_for(const Lists& checkpoints,
                                              std::span<const double> multipliers,
                                              const MergeOptions& o) {
  std::vector<double> weights = merge_weights(multipliers, o);
  require(
      checkpoints.size() == weights.size(),
      "merge_as_decay: there must be one checkpoint more than multipliers, " + text(weights.size()),
      checkpoints.size());
  return weights;
}
}  // namespace detail

/// Writes sum_j c_j x_j into `target`, in one pass. `checkpoints` holds x_0..x_K, as Parameters or
/// pointers to Parameters; `multipliers` are d_1..d_K. A NaN or infinity in x_0 propagates even if
/// its weight is 0. Throws as merge_weights and average_n do, and std::invalid_argument unless
/// there is one checkpoint more than multipliers.
///
///     polyak::merge_as_decay(merged, {x0, x1, x2},
///                            polyak::decay_multipliers(polyak::CooldownCurve::one_minus_sqrt, 2));
template <class Accumulator = void, ParameterScalar P, detail::SummedLists<P> Lists>
void merge_as_decay(const Parameters<P>& target, const Lists& checkpoints,
                    std::span<const double> multipliers, const MergeOptions& options = {}) {
  average_n<Accumulator>(target, checkpoints,
                         detail::weights_for(checkpoints, multipliers, options));
}
template <class Accumulator = void, ParameterScalar P>
void merge_as_decay(const Parameters<P>& target,
                    std::initializer_list<std::type_identity_t<Parameters<P>>> checkpoints,
                    std::span<const double> multipliers, const MergeOptions& options = {}) {
  average_n<Accumulator>(target, checkpoints,
                         detail::weights_for(checkpoints, multipliers, options));
}

/// As above, on the executor given.
template <class Accumulator = void, class E, ParameterScalar P, detail::SummedLists<P> Lists>
requires(detail::StreamExecutor<E>) void merge_as_decay(E&& executor, const Parameters<P>& target,
                                                        const Lists& checkpoints,
                                                        std::span<const double> multipliers,
                                                        const MergeOptions& options = {}) {
  average_n<Accumulator>(executor, target, checkpoints,
                         detail::weights_for(checkpoints, multipliers, options));
}
template <class Accumulator = void, class E, ParameterScalar P>
requires(detail::StreamExecutor<E>) void merge_as_decay(
    E&& executor, const Parameters<P>& target,
    std::initializer_list<std::type_identity_t<Parameters<P>>> checkpoints,
    std::span<const double> multipliers, const MergeOptions& options = {}) {
  average_n<Accumulator>(executor, target, checkpoints,
                         detail::weights_for(checkpoints, multipliers, options));
}

/// The same during the run, without storing checkpoints: `Average(params, MergeWeighting(d))`,
/// whose call t = 1..K+1 takes checkpoint x_{t-1}. After each call it is the merge of the
/// checkpoints so far, with their weights divided by their sum. After the last call it is the whole
/// merge and rests.
///
///   c'_t = c_{t-1}/(c_0 + ... + c_{t-1}) = (d_{t-1} - d_t)/(1 - d_t),   d_0 = 1, d_{K+1} = 0
///
/// 1 - c'_t = (1 - d_{t-1})/(1 - d_t). Checkpoints before the first one with a weight are copied.
class MergeWeighting {
 public:
  static constexpr std::string_view type_name = "merge_as_decay";
  /// d_1..d_K. Throws std::invalid_argument without multipliers, and for multipliers that are
  /// outside [0, 1] or increase: a running average has no negative weights.
  explicit MergeWeighting(std::vector<double> multipliers) : multipliers_(std::move(multipliers)) {
    detail::require_multipliers(multipliers_, {});
    find_least_gain();
  }

  template <class Fields>
  friend void fields(MergeWeighting& w, Fields& field) {
    field.list("multiplier", w.multipliers_, 1);
    const detail::MultiplierFault fault = detail::fault_of(w.multipliers_, {});
    field.check(fault.rule.empty(), std::string(": ").append(fault.rule), fault.value);
    field.after_reading([&] { w.find_least_gain(); });
  }
  /// Calls after which it rests: K + 1.
  [[nodiscard]] std::int64_t checkpoints() const {
    return static_cast<std::int64_t>(multipliers_.size()) + 1;
  }
  [[nodiscard]] double least_gain() const { return least_gain_; }
  [[nodiscard]] double gain(std::int64_t t) const {
    if (t > checkpoints()) return 0;
    const double here = multiplier(t);
    return here == 1 ? 1 : (multiplier(t - 1) - here) / (1 - here);
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    if (t > checkpoints()) return 1;
    const double here = multiplier(t);
    return here == 1 ? 0 : (1 - multiplier(t - 1)) / (1 - here);
  }

 private:
  /// d_i, i = 0..K+1.
  [[nodiscard]] double multiplier(std::int64_t i) const {
    return i == 0 ? 1 : i == checkpoints() ? 0 : multipliers_[static_cast<std::size_t>(i - 1)];
  }
  void find_least_gain() {
    least_gain_ = 1;
    for (std::int64_t t = 1; t <= checkpoints(); ++t) {
      if (gain(t) > 0) least_gain_ = std::min(least_gain_, gain(t));
    }
  }
  std::vector<double> multipliers_;
  double least_gain_ = 1;
};

}  // namespace POLYAK_V0
}  // namespace polyak
