// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of average/analysis/profile_fit.hpp.
///
/// Above 300 lines: one fit, from the rows of profiles to its checks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <polyak/average/analysis/profile_fit.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Calls `row(t, a)` with the profiles a_j[t] of the snapshots for t = calls, ..., 1, 0.
template <class Row>
void profile_rows(const std::vector<GainSequence>& averages,
                  const std::vector<ProfileSnapshot>& snapshots, std::int64_t calls, Row row) {
  std::vector<double> share(snapshots.size(), 1.0), values(snapshots.size());
  std::vector<double> gain(averages.size()), complement(averages.size());
  for (std::int64_t t = calls; t >= 1; --t) {
    for (std::size_t k = 0; k < averages.size(); ++k) {
      gain[k] = averages[k].gain(t);
      complement[k] = averages[k].complement(t);
    }
    for (std::size_t j = 0; j < snapshots.size(); ++j) {
      const bool seen = t <= snapshots[j].calls;
      values[j] = seen ? gain[snapshots[j].average] * share[j] : 0;
      if (seen) share[j] *= complement[snapshots[j].average];
    }
    row(t, values);
  }
  row(0, share);  // of the initial value
}

/// Folds the `count` rows from `first` on into the triangle above them, by Householder reflections.
/// Ignore their contents afterwards.
inline void fold_rows(Eigen::MatrixXd& rows, Eigen::Index first, Eigen::Index count) {
  for (Eigen::Index k = 0; k < rows.cols(); ++k) {
    const Eigen::VectorXd below = rows.col(k).segment(first, count);
    const double square = below.squaredNorm();
    if (square == 0) continue;
    const double diagonal = rows(k, k);
    const double length = -std::copysign(std::sqrt(diagonal * diagonal + square), diagonal);
    const double lead = diagonal - length;
    const double scale = 2 / (lead * lead + square);
    rows(k, k) = length;
    for (Eigen::Index j = k + 1; j < rows.cols(); ++j) {
      auto column = rows.col(j).segment(first, count);
      const double along = scale * (lead * rows(k, j) + below.dot(column));
      rows(k, j) -= along * lead;
      column -= along * below;
    }
  }
}

POLYAK_DEFINE ProfileProducts profile_products(const std::vector<GainSequence>& averages,
                                               const std::vector<ProfileSnapshot>& snapshots,
                                               const std::vector<std::vector<double>>& targets,
                                               std::int64_t calls, Metric metric) {
  const auto n = static_cast<Eigen::Index>(snapshots.size());
  const auto width = n + static_cast<Eigen::Index>(targets.size());
  ProfileProducts products;
  products.gram = Eigen::MatrixXd::Zero(n, n);
  products.right = Eigen::MatrixXd::Zero(n, width - n);
  // Rows are gathered below the current triangle and then folded into it.
  const Eigen::Index block = std::max<Eigen::Index>(256, 2 * width);
  Eigen::MatrixXd rows = Eigen::MatrixXd::Zero(width + block, width);
  Eigen::Index filled = 0;
  const auto fold = [&] {
    if (filled == 0) return;
    const auto fresh = rows.middleRows(width, filled);
    products.gram += fresh.leftCols(n).transpose() * fresh.leftCols(n);
    products.right += fresh.leftCols(n).transpose() * fresh.rightCols(width - n);
    fold_rows(rows, width, filled);
    filled = 0;
  };
  Eigen::RowVectorXd sum = Eigen::RowVectorXd::Zero(width);
  profile_rows(averages, snapshots, calls, [&](std::int64_t t, const std::vector<double>& values) {
    if (metric == Metric::update && t == 0) return;  // the initial value has no update
    Eigen::RowVectorXd one(width);
    for (Eigen::Index j = 0; j < n; ++j) one[j] = values[static_cast<std::size_t>(j)];
    for (Eigen::Index j = n; j < width; ++j) {
      one[j] = targets[static_cast<std::size_t>(j - n)][static_cast<std::size_t>(t)];
    }
    sum += one;
    rows.row(width + filled) = metric == Metric::update ? sum : one;
    if (++filled == block) fold();
  });
  fold();
  products.triangle = rows.topRows(width);
  return products;
}

/// argmin |M z - y|, with c^T z = 1 where `constrained`.
[[nodiscard]] inline Eigen::VectorXd least_squares(Eigen::MatrixXd matrix, Eigen::VectorXd right,
                                                   const Eigen::VectorXd& c, bool constrained) {
  const Eigen::Index n = c.size();
  const Eigen::Index free = constrained ? n - 1 : n;
  Eigen::VectorXd z(n), mirror;
  double scale = 0;
  if (constrained) {  // a reflection maps c to the first axis; the other axes are free
    const double length = c.norm();
    mirror = c;
    mirror[0] += c[0] < 0 ? -length : length;
    scale = 2 / mirror.squaredNorm();
    matrix -= scale * (matrix * mirror) * mirror.transpose();
    z[0] = (c[0] < 0 ? 1 : -1) / length;
    right -= z[0] * matrix.col(0);
  }
  if (free > 0) {
    Eigen::MatrixXd rows = Eigen::MatrixXd::Zero(free + 1 + matrix.rows(), free + 1);
    rows.bottomRows(matrix.rows()) << matrix.rightCols(free), right;
    fold_rows(rows, free + 1, matrix.rows());
    const double negligible = rows.topRows(free).cwiseAbs().maxCoeff() * 1e-15;
    auto found = z.tail(free);
    for (Eigen::Index k = free; k-- > 0;) {
      const double rest =
          rows(k, free) - rows.row(k).segment(k + 1, free - k - 1).dot(found.tail(free - k - 1));
      found[k] = std::fabs(rows(k, k)) > negligible ? rest / rows(k, k) : 0;
    }
  }
  if (constrained) z -= scale * mirror.dot(z) * mirror;
  return z;
}

/// Computes the weights for target number `target`, and their condition.
inline void solve_profile(const ProfileProducts& products, Eigen::Index target,
                          const ProfileFitOptions& options, std::vector<double>& weights,
                          double& condition) {
  const Eigen::Index n = products.gram.rows();
  const Eigen::VectorXd norms = (products.gram.diagonal().array() + options.ridge).sqrt().matrix();
  const Eigen::VectorXd inverse = norms.cwiseInverse();
  const bool ridge = options.ridge > 0;
  Eigen::MatrixXd matrix = Eigen::MatrixXd::Zero(ridge ? 2 * n : n, n);
  Eigen::VectorXd right = Eigen::VectorXd::Zero(matrix.rows());
  matrix.topRows(n) = products.triangle.topLeftCorner(n, n) * inverse.asDiagonal();
  right.head(n) = products.triangle.col(n + target).head(n);
  if (ridge) {
    matrix.bottomRows(n).diagonal() = std::sqrt(options.ridge) * inverse;
  }
  Eigen::VectorXd solution =
      least_squares(matrix, right, inverse, options.normalisation == Normalisation::constrained);
  Eigen::VectorXd w = inverse.cwiseProduct(solution);
  if (options.normalisation == Normalisation::by_sum) w /= w.sum();
  weights.assign(w.data(), w.data() + n);
  const Eigen::MatrixXd scaled = matrix.transpose() * matrix;
  const Eigen::LLT<Eigen::MatrixXd> factors(scaled);
  const double reciprocal = factors.info() == Eigen::Success ? factors.rcond() : 0;
  condition = reciprocal > 0 ? 1 / reciprocal : std::numeric_limits<double>::infinity();
}

POLYAK_DEFINE void check_fit(const ProfileTarget& target, const ProfileFit& fit,
                             const ProfileFitOptions& options) {
  if (options.force) return;
  const bool iterate = options.metric == Metric::iterate;
  const double limit = !is_nan(options.residual_limit) ? options.residual_limit
                       : iterate                       ? 0.5
                                                       : 0.2;
  const std::string who = "target \"" + target.name() + "\" ";
  require(fit.condition <= options.condition_limit,
          who +
              "must be fitted from snapshots that differ (drop some, or give a ridge): their "
              "condition must be at most " +
              text(options.condition_limit),
          fit.condition);
  const double residual = iterate ? fit.residual : fit.update_residual;
  require(residual <= limit,
          who + "is out of the snapshots' reach: its residual must be at most " + text(limit) +
              " (ProfileFitOptions.residual_limit; force accepts any)",
          residual);
}

POLYAK_DEFINE void check_snapshots(const std::vector<GainSequence>& averages,
                                   const std::vector<ProfileSnapshot>& snapshots) {
  require(!snapshots.empty(), "fit_profiles must have at least one snapshot", snapshots.size());
  for (std::size_t j = 0; j < snapshots.size(); ++j) {
    require(snapshots[j].average < averages.size(),
            "fit_profiles: a snapshot must be of one of the " + text(averages.size()) +
                " averages; its number",
            snapshots[j].average);
    require(snapshots[j].calls >= 1, "fit_profiles: a snapshot's calls must be >= 1",
            snapshots[j].calls);
    require(snapshots[j].calls <= most_profile_calls,
            "fit_profiles: a snapshot's calls must be at most " + text(most_profile_calls),
            snapshots[j].calls);
    for (std::size_t i = 0; i < j; ++i) {
      require(
          snapshots[i].average != snapshots[j].average || snapshots[i].calls != snapshots[j].calls,
          "fit_profiles: two snapshots of one average must be of different calls",
          snapshots[j].calls);
    }
  }
}

}  // namespace detail

POLYAK_DEFINE std::vector<double> achieved_profile(const std::vector<GainSequence>& averages,
                                                   const std::vector<ProfileSnapshot>& snapshots,
                                                   const std::vector<double>& weights,
                                                   std::int64_t calls) {
  detail::check_snapshots(averages, snapshots);
  require(weights.size() == snapshots.size(),
          "achieved_profile: there must be one weight per snapshot", weights.size());
  require(calls >= 0 && calls <= most_profile_calls,
          "achieved_profile: calls must lie in [0, " + detail::text(most_profile_calls) + "]",
          calls);
  std::vector<double> achieved(static_cast<std::size_t>(calls) + 1);
  detail::profile_rows(averages, snapshots, calls,
                       [&](std::int64_t t, const std::vector<double>& values) {
                         double sum = 0;
                         for (std::size_t j = 0; j < values.size(); ++j) {
                           if (snapshots[j].calls <= calls) sum += weights[j] * values[j];
                         }
                         achieved[static_cast<std::size_t>(t)] = sum;
                       });
  return achieved;
}

POLYAK_DEFINE std::vector<ProfileFit> fit_profiles(const std::vector<GainSequence>& averages,
                                                   const std::vector<ProfileSnapshot>& snapshots,
                                                   const std::vector<ProfileTarget>& targets,
                                                   const ProfileFitOptions& options) {
  validate(options);
  detail::check_snapshots(averages, snapshots);
  std::int64_t first = snapshots[0].calls, last = first;
  for (const ProfileSnapshot& snapshot : snapshots) {
    first = std::min(first, snapshot.calls);
    last = std::max(last, snapshot.calls);
  }
  std::vector<ProfileFit> fits(targets.size());
  for (std::size_t k = 0; k < targets.size(); ++k) {
    fits[k].calls = targets[k].calls() == 0 ? last : targets[k].calls();
    require(fits[k].calls >= first && fits[k].calls <= last,
            "target \"" + targets[k].name() +
                "\" must be of a call between the first and the last snapshot, " +
                detail::text(first) + " and " + detail::text(last),
            fits[k].calls);
  }
  for (std::size_t k = 0; k < targets.size(); ++k) {
    if (!fits[k].weights.empty()) continue;  // solved with an earlier target of the same T
    const std::int64_t calls = fits[k].calls;
    std::vector<std::size_t> used, together;
    std::vector<ProfileSnapshot> taken;
    for (std::size_t j = 0; j < snapshots.size(); ++j) {
      if (snapshots[j].calls > calls) continue;
      used.push_back(j);
      taken.push_back(snapshots[j]);
    }
    std::vector<std::vector<double>> wanted;
    for (std::size_t i = k; i < targets.size(); ++i) {
      if (fits[i].calls != calls) continue;
      together.push_back(i);
      wanted.push_back(targets[i].profile(calls));
    }
    const auto products = detail::profile_products(averages, taken, wanted, calls, options.metric);
    for (std::size_t i = 0; i < together.size(); ++i) {
      ProfileFit& fit = fits[together[i]];
      std::vector<double> weights;
      detail::solve_profile(products, static_cast<Eigen::Index>(i), options, weights,
                            fit.condition);
      const auto achieved = achieved_profile(averages, taken, weights, calls);
      double error = 0, square = 0, update_error = 0, update_square = 0, lost = 0, tail = 0;
      for (std::size_t t = achieved.size(); t-- > 0;) {
        const double difference = achieved[t] - wanted[i][t];
        error += difference * difference;
        square += wanted[i][t] * wanted[i][t];
        if (t == 0) break;
        lost += difference;
        tail += wanted[i][t];
        update_error += lost * lost;
        update_square += tail * tail;
      }
      fit.residual = std::sqrt(error / square);
      fit.update_residual = update_square > 0 ? std::sqrt(update_error / update_square) : 0;
      fit.weights.assign(snapshots.size(), 0);
      for (std::size_t j = 0; j < used.size(); ++j) {
        fit.weights[used[j]] = weights[j];
        fit.absolute_sum += std::fabs(weights[j]);
        fit.norm += weights[j] * weights[j];
      }
      fit.norm = std::sqrt(fit.norm);
      detail::check_fit(targets[together[i]], fit, options);
    }
  }
  return fits;
}

}  // namespace POLYAK_V0
}  // namespace polyak
