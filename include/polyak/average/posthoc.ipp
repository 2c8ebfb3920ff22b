// SPDX-License-Identifier: Apache-2.0
// The functions of posthoc.hpp that solve.
#pragma once

#include <polyak/average/posthoc.hpp>

#include <Eigen/LU>

#include <cmath>
#include <cstddef>
#include <vector>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

template <class Real>
void solve_power_profiles(const std::vector<PowerProfile>& profiles, Normalisation normalisation,
                          PosthocSolution& solution) {
  using Vector = Eigen::VectorX<Real>;
  using Matrix = Eigen::MatrixX<Real>;
  std::vector<std::size_t> used;
  for (std::size_t i = 0; i < profiles.size(); ++i) {
    if (profiles[i].time <= solution.time) used.push_back(i);
  }
  const auto n = static_cast<Eigen::Index>(used.size());
  const PowerProfile target{solution.gamma, solution.time};
  const auto profile = [&](Eigen::Index i) { return profiles[used[static_cast<std::size_t>(i)]]; };
  // Scaled to a unit diagonal: the snapshots' norms differ by orders of magnitude.
  Vector norm(n), right(n);
  for (Eigen::Index i = 0; i < n; ++i) norm[i] = std::sqrt(product(profile(i), profile(i)));
  Matrix gram(n, n);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j < n; ++j) {
      gram(i, j) = product(profile(i), profile(j)) / (norm[i] * norm[j]);
    }
    right[i] = product(profile(i), target) / norm[i];
  }
  const Eigen::PartialPivLU<Matrix> factors(gram);
  Vector scaled = factors.solve(right);
  const Vector ones = norm.cwiseInverse();
  const double sum = ones.dot(scaled);
  if (normalisation == Normalisation::by_sum) {
    scaled /= sum;
  } else if (normalisation == Normalisation::constrained) {
    const Vector direction = factors.solve(ones);
    scaled += direction * ((1 - sum) / ones.dot(direction));
  }
  const double wanted = product(target, target);
  const double square = (scaled.dot(gram * scaled) - 2 * scaled.dot(right) + wanted) / wanted;
  solution.residual = std::sqrt(std::fmax(square, 0.0));
  solution.condition = 1 / factors.rcond();
  solution.weights.assign(profiles.size(), 0);
  for (Eigen::Index i = 0; i < n; ++i) {
    const double weight = scaled[i] / norm[i];
    solution.weights[used[static_cast<std::size_t>(i)]] = weight;
    solution.absolute_sum += std::fabs(weight);
  }
}

#if defined(POLYAK_COMPILED)
template void solve_power_profiles<double>(const std::vector<PowerProfile>&, Normalisation,
                                           PosthocSolution&);
#endif

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
