// SPDX-License-Identifier: Apache-2.0
/// @file
/// MatrixView: how a tensor is treated as a matrix with rows and columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// How a tensor of more than two dimensions is treated as a matrix. A tensor of fewer than two
/// dimensions is a single row.
enum class MatrixView : std::uint8_t {
  /// d0 rows; the dimensions after the first are flattened into the columns, in the tensor's order.
  first_by_rest,
  /// A stack of matrices of the last two dimensions, one for each index of the dimensions before.
  /// Results have the order of a tensor of the shape (d0, ..., rows) or (d0, ..., columns).
  last_two,
};

namespace detail {

/// The shape of a tensor with one number for each row of a tensor of `shape`.
[[nodiscard]] inline Shape shape_of_rows(const Shape& shape, MatrixView view) {
  if (shape.size() < 2) return {1};
  if (view == MatrixView::first_by_rest) return {shape.front()};
  return {shape.begin(), shape.end() - 1};
}

/// The same for each column.
[[nodiscard]] inline Shape shape_of_columns(const Shape& shape, MatrixView view) {
  if (shape.size() < 2) return shape.empty() ? Shape{1} : shape;
  if (view == MatrixView::first_by_rest) return {shape.begin() + 1, shape.end()};
  Shape columns(shape.begin(), shape.end() - 1);
  columns.back() = shape.back();
  return columns;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
