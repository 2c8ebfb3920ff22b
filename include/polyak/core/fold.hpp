// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a fold is: a law with accumulators, which turns many numbers into one. And the folds that
/// the library has.
///
/// A fold derives from Fold and has
///   `template <class V> void operator()(const V& x, [const V& y,] V& accumulator...) const`,
/// written like a law (core/law.hpp), where V is a pack of doubles or one double. Accumulators
/// start at 0, and an element that is 0 in every stream must leave them as they are: tails are
/// padded with zeros. The other functions of Fold are hooks that a fold may hide by its own.
///
/// The tree is fixed by the shape alone. A row of numbers is cut into blocks of fold_block,
/// element k of a block belongs to lane k mod fold_lanes, lanes are joined by halves, and blocks
/// are combined in groups of fold_group, level by level. So results have the same bits for any
/// executor, number of threads and split, on any instruction set with a fused multiply-add, and on
/// a device.
///
/// All of it is computed in double: a sum differs from the exact one by at most 600 * 2^-53 (7e-14)
/// times the sum of the terms' magnitudes, for any number of terms up to 2^36. Products of two
/// floats, or of 16-bit numbers, are exact, and squares of floats neither overflow nor underflow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <polyak/core/law.hpp>

namespace polyak {
inline namespace v0 {

/// The accumulators of a part of the numbers, and how many numbers that part has.
template <int Accumulators>
struct Folded {
  double value[static_cast<std::size_t>(Accumulators)] = {};
  double count = 0;
};

/// The base of folds: the defaults of all that a fold may say.
template <int Accumulators, int Streams = 1>
struct Fold {
  static constexpr int accumulators = Accumulators;
  static constexpr int streams = Streams;  ///< arrays that are read together
  using Part = Folded<Accumulators>;

  /// Whether elements arrive as their difference to the first one of their block.
  static constexpr bool shifted = false;

  /// Joins one accumulator of two lanes, or of two parts, in `a`.
  template <class V>
  POLYAK_LAW static void join(V& a, const V& b) {
    a = a + b;
  }
  /// Called once for each block, with the first element of each stream.
  POLYAK_LAW static void close(Part&, const double*) {}
  /// Combines two parts in `a`, neither of which is empty; the counts are added by the caller.
  template <class F>
  POLYAK_LAW static void combine(const F& fold, Part& a, const Part& b) {
    for (int k = 0; k < Accumulators; ++k) fold.join(a.value[k], b.value[k]);
  }
  /// The result. `all.count` is 0 where there are no numbers.
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
  POLYAK_LAW static double result(const Part& all) { return sqrt(all.value[0]); }
};

/// sum x^2 / n; NaN for no numbers
struct MeanSquare : SquaredNorm {
  POLYAK_LAW static double result(const Part& all) { return all.value[0] / all.count; }
};

/// sum |x|
struct L1Norm : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum) const {
    sum = sum + max(x, V(0) - x);
  }
};

/// max |x|; NaN where any x is NaN, 0 for no numbers
struct MaxAbs : Fold<1> {
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& largest) const {
    join(largest, max(x, V(0) - x));
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
  POLYAK_LAW static double result(const Part& all) { return sqrt(all.value[0]); }
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
    return all.value[0] / (sqrt(all.value[1]) * sqrt(all.value[2]));
  }
};

/// sum (x - mean)^2 / n, the variance of all n numbers; NaN for none.
///
/// Each block sums the differences to its first element and their squares, and has its mean and the
/// squares around it from them. Since that element is one of the block's, at most log2(block) bits
/// cancel. Blocks are combined by Chan's formula, which cancels nothing.
struct Variance : Fold<2> {
  static constexpr bool shifted = true;

  template <class V>
  POLYAK_LAW void operator()(const V& x, V& sum, V& squares) const {
    sum = sum + x;
    squares = fma(x, x, squares);
  }
  /// From then on the mean, and the sum of squares around it.
  POLYAK_LAW static void close(Part& block, const double* first) {
    const double sum = block.value[0], shift = sum / block.count;
    block.value[0] = first[0] + shift;
    block.value[1] = max(0.0, fma(-sum, shift, block.value[1]));
  }
  template <class F>
  POLYAK_LAW static void combine(const F&, Part& a, const Part& b) {
    const double difference = b.value[0] - a.value[0];
    const double share = b.count / (a.count + b.count);
    a.value[0] = fma(difference, share, a.value[0]);
    a.value[1] = fma(difference * difference, a.count * share, a.value[1] + b.value[1]);
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

namespace detail {

/// Elements of a block in a row of numbers; rows of a block where columns are folded.
inline constexpr std::size_t fold_block = 4096;
inline constexpr std::size_t fold_block_rows = 128;
/// Parts that are combined in order, before their results are.
inline constexpr std::size_t fold_group = 64;

/// As many as keep the units for multiplication busy and fit the registers.
template <class F>
inline constexpr int fold_lanes = F::accumulators == 1 ? 32 : 16;

/// A tensor as outer x reduced x inner numbers in memory; each of outer x inner results folds
/// `reduced` of them.
struct FoldShape {
  std::size_t outer = 1, reduced = 0, inner = 1;

  [[nodiscard]] POLYAK_LAW std::size_t size() const { return outer * reduced * inner; }
  [[nodiscard]] POLYAK_LAW std::size_t results() const { return outer * inner; }
  [[nodiscard]] POLYAK_LAW std::size_t block() const {
    return inner == 1 ? fold_block : fold_block_rows;
  }
  [[nodiscard]] POLYAK_LAW std::size_t blocks() const { return (reduced + block() - 1) / block(); }
};

/// Combines `b` into `a`.
template <class F>
POLYAK_LAW void merge(const F& fold, typename F::Part& a, const typename F::Part& b) {
  if (b.count == 0) return;
  if (a.count == 0) {
    a = b;
    return;
  }
  fold.combine(fold, a, b);
  a.count += b.count;
}

/// Joins the lanes of one accumulator by halves: lane k with lane k + half.
template <class F>
POLYAK_LAW double joined(const F& fold, double* lanes, int count) {
  for (int half = count / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) fold.join(lanes[k], lanes[k + half]);
  }
  return lanes[0];
}

/// Parts lie as [node][accumulator][inner]. Node k of a level covers `span` numbers from k span on,
/// of `reduced` in all.
template <class F>
[[nodiscard]] POLYAK_LAW typename F::Part part_of(const double* parts, std::size_t node,
                                                  std::size_t column, std::size_t inner,
                                                  std::size_t span, std::size_t reduced) {
  typename F::Part part;
  const std::size_t rest = reduced - node * span;
  part.count = static_cast<double>(rest < span ? rest : span);
  for (std::size_t a = 0; a < static_cast<std::size_t>(F::accumulators); ++a) {
    part.value[a] = parts[(node * F::accumulators + a) * inner + column];
  }
  return part;
}
template <class F>
POLYAK_LAW void put_part(double* parts, std::size_t node, std::size_t column, std::size_t inner,
                         const typename F::Part& part) {
  for (std::size_t a = 0; a < static_cast<std::size_t>(F::accumulators); ++a) {
    parts[(node * F::accumulators + a) * inner + column] = part.value[a];
  }
}

/// Group `group` of the `nodes` of a level.
template <class F>
[[nodiscard]] POLYAK_LAW typename F::Part combined_group(const F& fold, const double* parts,
                                                         std::size_t nodes, std::size_t group,
                                                         std::size_t column, std::size_t inner,
                                                         std::size_t span, std::size_t reduced) {
  const std::size_t first = group * fold_group;
  const std::size_t last = first + fold_group < nodes ? first + fold_group : nodes;
  typename F::Part all = part_of<F>(parts, first, column, inner, span, reduced);
  for (std::size_t node = first + 1; node < last; ++node) {
    merge(fold, all, part_of<F>(parts, node, column, inner, span, reduced));
  }
  return all;
}

/// Combines parts in place in the same tree: those of whole tensors, some of which may be empty.
template <class F>
[[nodiscard]] POLYAK_LAW typename F::Part combined_all(const F& fold, typename F::Part* parts,
                                                       std::size_t count) {
  if (count == 0) return {};
  for (std::size_t nodes = count; nodes > 1;) {
    const std::size_t groups = (nodes + fold_group - 1) / fold_group;
    for (std::size_t group = 0; group < groups; ++group) {
      const std::size_t first = group * fold_group;
      const std::size_t last = first + fold_group < nodes ? first + fold_group : nodes;
      typename F::Part all = parts[first];
      for (std::size_t node = first + 1; node < last; ++node) merge(fold, all, parts[node]);
      parts[group] = all;
    }
    nodes = groups;
  }
  return parts[0];
}

/// The result, a NaN always with the same bits.
template <class F>
[[nodiscard]] POLYAK_LAW fold_result_t<F> finished(const F& fold, const typename F::Part& all) {
  const fold_result_t<F> result = fold.result(all);
  if constexpr (std::is_same_v<fold_result_t<F>, double>) {
    constexpr std::uint64_t infinite = std::uint64_t{0x7ff} << 53;
    if (__builtin_bit_cast(std::uint64_t, result) << 1 > infinite) {
      return __builtin_bit_cast(double, std::uint64_t{0x7ff8} << 48);
    }
  }
  return result;
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
