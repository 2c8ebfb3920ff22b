// SPDX-License-Identifier: Apache-2.0
/// @file
/// The fixed tree in which the parts of a fold are combined, for the host and for devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <polyak/core/fold.hpp>
#include <polyak/core/law.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Elements of a block in a row of numbers; rows of a block where columns are folded.
inline constexpr std::size_t fold_block = 4096;
inline constexpr std::size_t fold_block_rows = 128;
/// Number of parts that are combined in order to one part of the next level.
inline constexpr std::size_t fold_group = 64;

/// Enough lanes to keep the multipliers busy, and few enough to fit the registers.
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
    for (int k = 0; k < half; ++k) join_numbers(fold, lanes[k], lanes[k + half]);
  }
  return lanes[0];
}

/// Parts are stored as [node][accumulator][inner]. Node k of a level covers the numbers k span to
/// (k + 1) span, up to `reduced`.
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

/// Combines group `group` of the `nodes` of a level.
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

/// Combines the parts of whole tensors in place, in the same tree. Parts may be empty.
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

/// The result; every NaN has the same bits.
template <class F>
[[nodiscard]] POLYAK_LAW fold_result_t<F> finished(const F& fold, const typename F::Part& all) {
  const fold_result_t<F> result = fold.result(all);
  if constexpr (std::is_same_v<fold_result_t<F>, double>) {
    constexpr std::uint64_t infinity_shifted = std::uint64_t{0x7ff} << 53;
    if (__builtin_bit_cast(std::uint64_t, result) << 1 > infinity_shifted) {
      return __builtin_bit_cast(double, std::uint64_t{0x7ff8} << 48);
    }
  }
  return result;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
