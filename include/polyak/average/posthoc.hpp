// SPDX-License-Identifier: Apache-2.0
/// @file
/// PosthocEma: after training, a power average of any width at any time, from snapshots of a few
/// power averages.
///
///   snapshots i at times t_i of exponents g_i, target r:  x = argmin | sum_i x_i p_i - p_r |
///   G x = h,   G_ij = <i, j>,   h_i = <i, r>
///   <i, j> = (g_i+1)(g_j+1) / ((g_i+g_j+1) max(t_i, t_j)) (t_small/t_large)^(g of the later one)
///   average at t_r = sum_i x_i snapshot_i
///
/// "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), section
/// 3.2 and appendix C. Memory: one copy of the average per snapshot.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <polyak/average/analysis/normalisation.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/sweep.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The power average to reconstruct: its time, and either its width or its exponent.
struct PosthocTarget {
  double sigma_rel = std::numeric_limits<double>::quiet_NaN();  ///< in (0, 1/sqrt(12)]
  double gamma = std::numeric_limits<double>::quiet_NaN();      ///< finite, >= 0
  double time = std::numeric_limits<double>::quiet_NaN();  ///< in (0, last snapshot]; NaN: last
  Normalisation normalisation = Normalisation::by_sum;
};

template <class Fields>
void fields(PosthocTarget& o, Fields& field) {
  field.check(detail::is_nan(o.sigma_rel) != detail::is_nan(o.gamma),
              "sigma_rel must be set if gamma is not, and only then", o.sigma_rel);
  field("sigma_rel", o.sigma_rel, width_of_power_or_none);
  field("gamma", o.gamma, finite_and_not_negative_or_none);
  field("time", o.time);
  field("normalisation", o.normalisation);
}

/// The weights of the snapshots, and the quality of the result.
struct PosthocSolution {
  double gamma = 0;
  double time = 0;
  std::vector<double> weights;  ///< one per snapshot, 0 for snapshots after `time`
  double residual = 0;      ///< |achieved - wanted profile| / |wanted|, L2; resolved to about 1e-8
  double condition = 0;     ///< estimated 1-norm condition of G with unit diagonal; weights from
                            ///< beyond 1e12 (snapshots that hardly differ) are not to be trusted
  double absolute_sum = 0;  ///< sum of |weights|: multiplies the rounding of the snapshots
};

/// <i, j> of two power profiles: the integral of the product of their densities. Exponents >= 0,
/// times > 0.
[[nodiscard]] inline double power_profile_product(double gamma_i, double time_i, double gamma_j,
                                                  double time_j) {
  const double later_gamma = time_i >= time_j ? gamma_i : gamma_j;
  const double later = std::fmax(time_i, time_j);
  const double ratio = std::fmin(time_i, time_j) / later;
  return (gamma_i + 1) * (gamma_j + 1) / ((gamma_i + gamma_j + 1) * later) *
         std::pow(ratio, later_gamma);
}

namespace detail {

/// A power profile: exponent and time.
struct PowerProfile {
  double gamma, time;
};
[[nodiscard]] inline double product(const PowerProfile& a, const PowerProfile& b) {
  return power_profile_product(a.gamma, a.time, b.gamma, b.time);
}

/// Computes weights, residual and condition of `solution`, whose gamma and time are set, from the
/// profiles up to that time. A template on `Real`, so that Eigen's solver is compiled only where it
/// is used.
template <class Real>
void solve_power_profiles(const std::vector<PowerProfile>& profiles, Normalisation normalisation,
                          PosthocSolution& solution);

}  // namespace detail

/// Snapshots of power averages in memory, and averages made from them. SnapshotStore (io/) keeps
/// snapshots of any average on disk and supports other targets.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
class PosthocEma {
 public:
  /// A snapshot, its exponent and its time.
  struct Snapshot {
    double gamma;
    double time;
    Slots<S> average;
  };

  /// Stores a copy of each average as it is now. Two or more averages of different widths, at
  /// regular times, give the best results. Throws std::logic_error for an average that is not
  /// readable, std::invalid_argument for other parameters than before, or for a time and exponent
  /// that are stored already.
  template <std::same_as<PowerEma<P, S>>... Averages>
  void snapshot(const Averages&... averages) {
    std::vector<Snapshot> added;
    (added.push_back({averages.gamma(), averages.updated_time(), copied(averages)}), ...);
    keep(std::move(added));
  }

  /// Stores a copy of weights that hold such an average, for example from a file.
  /// gamma >= 0, time > 0.
  void snapshot(const Parameters<P>& average, double gamma, double time) {
    require(gamma >= 0 && detail::is_finite(gamma), "a snapshot's gamma must be finite and >= 0",
            gamma);
    require(time > 0 && detail::is_finite(time), "a snapshot's time must be finite and > 0", time);
    Slots<S> slots(average.layout(), detail::dtype_of<P>(), Kept::averaged, {"average"});
    detail::Sweep<P>::all(serial, average, detail::bind_law(CopyLaw<S>{}, slots));
    std::vector<Snapshot> added;
    added.push_back({gamma, time, std::move(slots)});
    keep(std::move(added));
  }

  [[nodiscard]] const std::vector<Snapshot>& snapshots() const { return snapshots_; }

  /// Bytes of all snapshots.
  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report;
    for (const Snapshot& snapshot : snapshots_) {
      const MemoryReport one = snapshot.average.memory_report();
      for (const auto& slot : one.slots) report.slots.push_back(slot);
      report.total += one.total;
    }
    return report;
  }

  /// Solves for the weights that come closest to the target's profile, from the snapshots up to its
  /// time. Throws std::invalid_argument for a target out of range, std::logic_error without
  /// snapshots.
  [[nodiscard]] PosthocSolution solve(const PosthocTarget& target) const {
    if (snapshots_.empty()) detail::refuse_order("polyak: solve() without snapshots");
    validate(target);
    double last = 0, first = std::numeric_limits<double>::infinity();
    for (const Snapshot& snapshot : snapshots_) {
      last = std::fmax(last, snapshot.time);
      first = std::fmin(first, snapshot.time);
    }
    PosthocSolution solution;
    solution.gamma =
        detail::is_nan(target.gamma) ? gamma_from_sigma_rel(target.sigma_rel) : target.gamma;
    solution.time = detail::is_nan(target.time) ? last : target.time;
    require(solution.time >= first && solution.time <= last,
            "PosthocTarget.time must lie between the first and the last snapshot, " +
                detail::text(first) + " and " + detail::text(last),
            solution.time);
    std::vector<detail::PowerProfile> profiles;
    for (const Snapshot& one : snapshots_) profiles.push_back({one.gamma, one.time});
    detail::solve_power_profiles<double>(profiles, target.normalisation, solution);
    return solution;
  }

  /// Writes the combination into `target`, a list of the snapshots' layout, in one pass over the
  /// snapshots: the sum of core/sum.hpp, in their order and type, rounded once. Buffers
  /// (Role::copy), frozen weights and tensors that the averages leave out stay as they are. Throws
  /// std::logic_error while an average is swapped in, std::invalid_argument for other parameters or
  /// other snapshots.
  void reconstruct(const PosthocSolution& solution, const Parameters<P>& target) const {
    require(solution.weights.size() == snapshots_.size() && !snapshots_.empty(),
            "a solution must have one weight per snapshot", solution.weights.size());
    if (target.swapped())
      detail::refuse_order("polyak: reconstruct() while an average is swapped in");
    const Slots<S>& first = snapshots_.front().average;
    detail::require_same(target.layout(), first.layout(), "the target and the snapshots");
    std::vector<Stream<S>> terms;
    std::vector<double> weights;
    for (std::size_t i = 0; i < snapshots_.size(); ++i) {
      if (solution.weights[i] == 0) continue;
      terms.push_back(stream_of(snapshots_[i].average, 0));
      weights.push_back(solution.weights[i]);
    }
    if (terms.empty()) {
      terms.push_back(stream_of(first, 0));
      weights.push_back(0);
    }
    merge_streams(serial, WeightedSumLaw<S>{}, writes(target), terms, weights);
  }

 private:
  static Slots<S> copied(const PowerEma<P, S>& average) {
    const auto view = average.view();  // throws if the average is not readable
    if (average.accumulate() == Accumulate::plain) return average.slots();
    const auto& layout = average.slots().layout();
    Slots<S> slots(layout, detail::dtype_of<P>(), Kept::averaged, {"average"},
                   [&](std::size_t k) { return average.slots().keeps(k); });
    for (std::size_t k = 0; k < layout->tensors.size(); ++k) {
      if (!slots.keeps(k)) continue;
      const auto elements = slots.tensor(0, k);
      for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = view[k][i];
    }
    return slots;
  }

  void keep(std::vector<Snapshot> added) {
    for (std::size_t i = 0; i < added.size(); ++i) {
      const Snapshot& one = added[i];
      const auto known = [&](const Snapshot& other) {
        return other.time == one.time && other.gamma == one.gamma;
      };
      const auto end = added.begin() + static_cast<std::ptrdiff_t>(i);
      if (std::any_of(snapshots_.begin(), snapshots_.end(), known) ||
          std::any_of(added.begin(), end, known)) {
        require(false, "a snapshot of gamma " + detail::text(one.gamma) + " must be of a new time",
                one.time);
      }
      const Slots<S>& reference =
          snapshots_.empty() ? added.front().average : snapshots_.front().average;
      detail::require_same(one.average.layout(), reference.layout(), "the snapshots");
      for (std::size_t k = 0; k < reference.layout()->tensors.size(); ++k) {
        if (one.average.keeps(k) == reference.keeps(k)) continue;
        detail::refuse_value(
            "polyak: the snapshots must be of averages of the same tensors; only "
            "some of them have \"" +
            reference.layout()->tensors[k].name + "\"");
      }
    }
    snapshots_.reserve(snapshots_.size() + added.size());
    for (Snapshot& one : added) snapshots_.push_back(std::move(one));
  }

  std::vector<Snapshot> snapshots_;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/posthoc.ipp>
#endif
