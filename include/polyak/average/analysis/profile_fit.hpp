// SPDX-License-Identifier: Apache-2.0
/// @file
/// fit_profiles: the weights of snapshots that come closest to any profile, exact for any schedule.
///
///   snapshots s_j = sum_t a_j[t] x_t,   target y = sum_t b[t] x_t,   A = [a_1 ... a_n]
///   iterate metric:  w = argmin |A w - b|^2 + ridge |w|^2   subject to  sum w = 1
///   update metric:   the same of tail sums S_a[t] = sum_{s>=t} a[s]: x_t = x_{t-1} + u_t
///
/// The iterate metric is the expected error if iterates scatter independently around a point, the
/// update metric if they drift. For targets with an atom (one large weight), such as cooldowns,
/// only the update metric is useful. The constraint reproduces a constant offset of all iterates
/// exactly. A is never formed: its rows are computed from last to first, from the gains of the
/// averages, and folded into a triangle by Householder reflections, which do not square the
/// condition number as A^T A does. (Not part of polyak.hpp, because Eigen's decompositions are slow
/// to compile.)
///
/// Generalises "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv
/// 2312.02696), section 3.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/Core>

#include <polyak/average/analysis/normalisation.hpp>
#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The measure of the distance between two profiles.
enum class Metric : std::uint8_t { iterate, update };

/// A snapshot: the number of its average, and the call after which it was taken.
struct ProfileSnapshot {
  std::size_t average = 0;
  std::int64_t calls = 0;  ///< in [1, most_profile_calls]
};

struct ProfileFitOptions {
  Metric metric = Metric::iterate;
  Normalisation normalisation = Normalisation::constrained;
  /// Cost of |w|^2, >= 0: (noise of a snapshot's elements / scatter of the iterates)^2.
  double ridge = 0;
  /// Largest residual that is accepted, in the metric of the fit; NaN: 0.5 for iterates, 0.2 for
  /// updates.
  double residual_limit = std::numeric_limits<double>::quiet_NaN();
  double condition_limit = 1e12;  ///< largest condition that is accepted
  bool force = false;             ///< accepts any residual and condition
};

template <class Fields>
void fields(ProfileFitOptions& o, Fields& field) {
  constexpr Rule<double> not_negative_or_none{[](double v) { return detail::is_nan(v) || v >= 0; },
                                              "must be >= 0",
                                              {-0.5, -detail::infinite}};
  constexpr Rule<double> one_or_more{
      [](double v) { return v >= 1; }, "must be >= 1", {0, 0.5, detail::nan_value}};
  field("metric", o.metric);
  field("normalisation", o.normalisation);
  field("ridge", o.ridge, finite_and_not_negative);
  field("residual_limit", o.residual_limit, not_negative_or_none);
  field("condition_limit", o.condition_limit, one_or_more);
  field("force", o.force);
}

/// The weights of the snapshots, and the quality of the result.
struct ProfileFit {
  std::int64_t calls = 0;       ///< T of the target
  std::vector<double> weights;  ///< one per snapshot, 0 for snapshots after T
  double residual = 0;          ///< |A w - b| / |b| over the iterates
  double update_residual = 0;   ///< the same for the tail sums
  double condition = 0;         ///< estimated 1-norm condition of A^T A + ridge, of unit diagonal
  double absolute_sum = 0;      ///< sum of |w|: multiplies the rounding of the snapshots
  double norm = 0;              ///< |w|: multiplies their independent noise
};

/// The largest number of calls of a profile. Its time and memory grow with the calls, and a number
/// from a damaged file must not ask for more than there is.
inline constexpr std::int64_t most_profile_calls = 1'000'000'000;

namespace detail {

/// Refuses a fit whose residual or condition is above its limit.
void check_fit(const ProfileTarget& target, const ProfileFit& fit,
               const ProfileFitOptions& options);

void check_snapshots(const std::vector<GainSequence>& averages,
                     const std::vector<ProfileSnapshot>& snapshots);

/// Inner products of profiles, and the triangle of [A B].
struct ProfileProducts {
  Eigen::MatrixXd gram;      ///< A^T A
  Eigen::MatrixXd right;     ///< A^T B
  Eigen::MatrixXd triangle;  ///< R of [A B] = Q R
};

/// The products of snapshots and targets, all at the same T.
[[nodiscard]] ProfileProducts profile_products(const std::vector<GainSequence>& averages,
                                               const std::vector<ProfileSnapshot>& snapshots,
                                               const std::vector<std::vector<double>>& targets,
                                               std::int64_t calls, Metric metric);

}  // namespace detail

/// The profile that a combination of snapshots achieves: entry t is the weight of the iterate of
/// call t, from t = 0 (the initial value) to `calls`. Throws std::invalid_argument for snapshots
/// and calls out of range, and unless there is one weight per snapshot.
[[nodiscard]] std::vector<double> achieved_profile(const std::vector<GainSequence>& averages,
                                                   const std::vector<ProfileSnapshot>& snapshots,
                                                   const std::vector<double>& weights,
                                                   std::int64_t calls);

/// The weights of the snapshots for each target, from the snapshots up to its T. `averages` are the
/// gains of the averages in the snapshots. One pass over the calls for all targets with the same T:
/// O(calls x snapshots^2) time, and memory for the targets' profiles.
///
/// Throws std::invalid_argument for options, snapshots and targets out of range (T after the last
/// snapshot or before the first; a target that reaches back before the first iterate), and, unless
/// forced, for a target that the snapshots cannot reach: its residual or condition is above the
/// limit.
[[nodiscard]] std::vector<ProfileFit> fit_profiles(const std::vector<GainSequence>& averages,
                                                   const std::vector<ProfileSnapshot>& snapshots,
                                                   const std::vector<ProfileTarget>& targets,
                                                   const ProfileFitOptions& options = {});

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/analysis/profile_fit.ipp>
#endif
