// SPDX-License-Identifier: Apache-2.0
/// @file
/// Folds: laws with accumulators, which reduce many numbers to one, and the folds of the library.
///
/// A fold derives from Fold and has
///   `template <class V> void operator()(const V& x, [const V& y,] V& accumulator...) const`,
/// written like a law (core/law.hpp), where V is a pack of doubles or one double. Accumulators
/// start at 0, and an element that is 0 in every stream must leave them as they are: tails are
/// padded with zeros. The other functions of Fold are hooks that a fold may override.
///
/// The tree is fixed by the shape alone. A row of numbers is cut into blocks of fold_block,
/// element k of a block belongs to lane k mod fold_lanes, lanes are joined by halves, and blocks
/// are combined in groups of fold_group, level by level. So results have the same bits for any
/// executor, number of threads and split, on any instruction set with a fused multiply-add, and on
/// a device.
///
/// Everything is computed in double: a sum differs from the exact one by at most 600 * 2^-53
/// (7e-14) times the sum of the terms' magnitudes, for any number of terms up to 2^36. Products of
/// two floats, or of 16-bit numbers, are exact, and squares of floats neither overflow nor
/// underflow.
#pragma once

#include <cmath>

#include <cstddef>

#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The accumulators of a part of the numbers, and the count of numbers in it.
template <int Accumulators>
struct Folded {
  double value[static_cast<std::size_t>(Accumulators)] = {};
  double count = 0;
};

namespace detail {
/// fold.join() for single numbers.
template <class F>
POLYAK_LAW void join_numbers(const F& fold, double& a, double b) {
  Number<double> joined(a);
  fold.join(joined, Number<double>(b));
  a = joined.value;
}
}  // namespace detail

/// The base of folds: the defaults of all hooks.
template <int Accumulators, int Streams = 1>
struct Fold {
  static constexpr int accumulators = Accumulators;
  static constexpr int streams = Streams;  ///< arrays that are read together
  using Part = Folded<Accumulators>;

  /// Whether a fold gets the difference of each element to the first one of its block.
  static constexpr bool shifted = false;

  /// Joins an accumulator of two lanes or parts; the result is in `a`.
  template <class V>
  POLYAK_LAW static void join(V& a, const V& b) {
    a = a + b;
  }
  /// Called once for each block, with the first element of each stream.
  POLYAK_LAW static void close(Part&, const double*) {}
  /// Combines two parts, neither of them empty; the result is in `a`. The caller adds the counts.
  template <class F>
  POLYAK_LAW static void combine(const F& fold, Part& a, const Part& b) {
    for (int k = 0; k < Accumulators; ++k) detail::join_numbers(fold, a.value[k], b.value[k]);
  }
  /// The result. `all.count` is 0 if there are no numbers.
  POLYAK_LAW static double result(const Part& all) { return all.value[0]; }
};

/// sum x
struct Sum : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum) const {
    sum = sum + x;
  }
};

/// sum x / n; NaN for no numbers
struct Mean : Sum {
  POLYAK_LAW static double result(const Part& all) { return all.value[0] / all.count; }
};

/// sum x^2
struct SquaredNorm : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum) const {
    sum = fma(x, x, sum);
  }
};

/// sqrt(sum x^2): the Euclidean norm, of a matrix the Frobenius norm
struct Norm : SquaredNorm {
  POLYAK_LAW static double result(const Part& all) { return std::sqrt(all.value[0]); }
};

/// sum x^2 / n; NaN for no numbers
struct MeanSquare : SquaredNorm {
  POLYAK_LAW static double result(const Part& all) { return all.value[0] / all.count; }
};

/// sum |x|
struct L1Norm : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum) const {
    sum = sum + abs(x);
  }
};

/// max |x|; NaN where any x is NaN, 0 for no numbers
struct MaxAbs : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& largest) const {
    join(largest, abs(x));
  }
  /// b if b is NaN (0 > -b does not hold), else the larger one: max() then keeps a NaN in `a`.
  template <class V>
  POLYAK_LAW static void join(V& a, const V& b) {
    a = if_zero(max(V(0), V(0) - b), max(b, a), b);
  }
};

/// sum x y
struct Dot : Fold<1, 2> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, const V& y, V& sum) const {
    sum = fma(x, y, sum);
  }
};

/// sum (x - y)^2
struct SquaredDistance : Fold<1, 2> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, const V& y, V& sum) const {
    const V difference = x - y;
    sum = fma(difference, difference, sum);
  }
};

/// sqrt(sum (x - y)^2)
struct Distance : SquaredDistance {
  POLYAK_LAW static double result(const Part& all) { return std::sqrt(all.value[0]); }
};

/// sum x y / sqrt(sum x^2 sum y^2), in one pass; NaN where either norm is 0
struct Cosine : Fold<3, 2> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, const V& y, V& dot, V& xx, V& yy) const {
    dot = fma(x, y, dot);
    xx = fma(x, x, xx);
    yy = fma(y, y, yy);
  }
  POLYAK_LAW static double result(const Part& all) {
    return all.value[0] / (std::sqrt(all.value[1]) * std::sqrt(all.value[2]));
  }
};

/// sum (x - mean)^2 / n, the variance of all n numbers; NaN for none.
///
/// Each block sums the differences to its first element, and their squares; its mean and the sum of
/// squares around the mean follow from these sums. Because the first element belongs to the block,
/// at most log2(block) bits cancel. Chan's formula combines blocks without cancellation.
struct Variance : Fold<2> {
  static constexpr bool shifted = true;

  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum, V& squares) const {
    sum = sum + x;
    squares = fma(x, x, squares);
  }
  /// Replaces the sums by the mean, and by the sum of squares around it.
  POLYAK_LAW static void close(Part& block, const double* first) {
    const double sum = block.value[0], shift = sum / block.count;
    block.value[0] = first[0] + shift;
    const double squares = std::fma(-sum, shift, block.value[1]);
    block.value[1] = 0 > squares ? 0 : squares;
  }
  template <class F>
  POLYAK_LAW static void combine(const F&, Part& a, const Part& b) {
    const double difference = b.value[0] - a.value[0];
    const double share = b.count / (a.count + b.count);
    a.value[0] = std::fma(difference, share, a.value[0]);
    a.value[1] = std::fma(difference * difference, a.count * share, a.value[1] + b.value[1]);
  }
  POLYAK_LAW static double result(const Part& all) { return all.value[1] / all.count; }
};

/// Whether every x is finite; true for no numbers
struct AllFinite : Fold<1> {
  /// x * 0 is NaN where x is not finite, and NaN stays.
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum) const {
    sum = fma(x, V(0), sum);
  }
  POLYAK_LAW static bool result(const Part& all) { return all.value[0] == 0; }
};

/// The type of a fold's result: double, unless the fold says otherwise.
template <class F>
using fold_result_t = decltype(F::result(typename F::Part{}));

}  // namespace POLYAK_V0
}  // namespace polyak
