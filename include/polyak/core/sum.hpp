// SPDX-License-Identifier: Apache-2.0
/// @file
/// Laws that merge models by weights: the sum, and the mean in its running form.
///
///   sum    w_0 x_0 + w_1 x_1 + ... + w_(N-1) x_(N-1)
///          as sum = w_0 x_0, then sum = fma(w_k, x_k, sum)
///   mean   the same for positive weights that sum to 1
///          as mean = x_0, then mean = fma(c_k, x_k - mean, mean), c_k = w_k / (w_0 + ... + w_k)
///
/// Both use the inputs in their order and compute in T, to which weights and gains are rounded
/// first. The mean returns equal inputs bit for bit, and its error does not grow with N as long as
/// the inputs are close to each other.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>

#include <polyak/core/law.hpp>
#include <polyak/core/scalar.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

template <ComputeScalar T>
struct WeightedSumLaw {
  using Value = T;
  static constexpr LawMerge merges{};
  template <class V>
  POLYAK_LAW void first(V& sum, const V& weight, const V& x) const {
    sum = weight * x;
  }
  template <class V>
  POLYAK_LAW void next(V& sum, const V& weight, const V& x) const {
    sum = fma(weight, x, sum);
  }
  template <class V>
  POLYAK_LAW void finish(V& out, const V& sum) const {
    out = sum;
  }
};

/// The mean and, beside it, the sum. The sum is the result where the mean is infinite or NaN,
/// because of infinite inputs or differences that overflow. Weights of a term: -gain, weight.
template <ComputeScalar T>
struct CarefulMeanLaw {
  using Value = T;
  static constexpr LawMerge merges{.weights = 2, .accumulators = 2, .rare = true};
  template <class V>
  POLYAK_LAW void first(V& mean, V& sum, const V&, const V& weight, const V& x) const {
    mean = x;
    sum = weight * x;
  }
  template <class V>
  POLYAK_LAW void next(V& mean, V& sum, const V& minus_gain, const V& weight, const V& x) const {
    mean = fma(minus_gain, mean - x, mean);
    sum = fma(weight, x, sum);
  }
  template <class V>
  POLYAK_LAW void finish(V& out, const V& mean, const V& sum) const {
    out = if_zero(mean - mean, mean, sum);
  }
};

/// The mean alone. The difference is negated, with a negative gain, so that zeros keep their sign.
template <ComputeScalar T>
struct WeightedMeanLaw {
  using Value = T;
  using Careful = CarefulMeanLaw<T>;
  static constexpr LawMerge merges{.weights = 2};
  template <class V>
  POLYAK_LAW void first(V& mean, const V&, const V&, const V& x) const {
    mean = x;
  }
  template <class V>
  POLYAK_LAW void next(V& mean, const V& minus_gain, const V&, const V& x) const {
    mean = fma(minus_gain, mean - x, mean);
  }
  template <class V>
  POLYAK_LAW void finish(V& out, const V& mean) const {
    out = mean;
  }
};

namespace detail {

/// Whether weights belong to a mean: none is negative, and their sum is 1 up to the rounding of N
/// doubles.
[[nodiscard]] inline bool are_of_a_mean(std::span<const double> weights) {
  double sum = 0;
  for (const double weight : weights) {
    if (!(weight >= 0)) return false;
    sum += weight;
  }
  return std::fabs(sum - 1) <=
         static_cast<double>(weights.size()) * std::numeric_limits<double>::epsilon();
}

/// The order in which a running mean takes its terms: as given, except that the first term with a
/// weight is exchanged with term 0.
struct MeanOrder {
  std::size_t leader = 0;
  explicit MeanOrder(std::span<const double> weights) {
    while (leader + 1 < weights.size() && weights[leader] == 0) ++leader;
  }
  [[nodiscard]] std::size_t operator()(std::size_t k) const {
    return k == 0 ? leader : k == leader ? 0 : k;
  }
};

/// Negative gain and weight of each term. Terms must be requested in order.
struct MeanWeights {
  std::span<const double> weights;
  MeanOrder order;
  double total = 0;
  template <class T>
  void operator()(std::size_t term, T* to) {
    const double weight = weights[order(term)];
    total += weight;
    to[0] = static_cast<T>(-weight / total);
    to[1] = static_cast<T>(weight);
  }
};

/// Inputs in the order of a running mean.
template <class Inputs>
struct OrderedInputs {
  const Inputs& inputs;
  MeanOrder order;
  [[nodiscard]] std::size_t size() const { return inputs.size(); }
  [[nodiscard]] auto operator[](std::size_t k) const { return inputs[order(k)]; }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
