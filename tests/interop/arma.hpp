// SPDX-License-Identifier: Apache-2.0
/// @file
/// Stands in for Armadillo: the members of its dense matrices and cubes that polyak uses.
#pragma once

#include <cstddef>
#include <vector>

namespace arma {

using uword = unsigned long long;

template <class T>
class Mat {
 public:
  using elem_type = T;
  uword n_rows = 0, n_cols = 0, n_elem = 0;

  Mat() = default;
  Mat(uword rows, uword columns) { set_size(rows, columns); }
  void set_size(uword rows, uword columns) {
    n_rows = rows;
    n_cols = columns;
    n_elem = rows * columns;
    elements_.resize(n_elem);
  }
  [[nodiscard]] T* memptr() { return elements_.data(); }
  [[nodiscard]] const T* memptr() const { return elements_.data(); }
  [[nodiscard]] T& operator()(uword row, uword column) { return elements_[row + column * n_rows]; }

 private:
  std::vector<T> elements_;
};
using mat = Mat<double>;
using fmat = Mat<float>;

template <class T>
class Cube {
 public:
  using elem_type = T;
  uword n_rows = 0, n_cols = 0, n_slices = 0, n_elem = 0;

  Cube(uword rows, uword columns, uword slices) { set_size(rows, columns, slices); }
  void set_size(uword rows, uword columns, uword slices) {
    n_rows = rows;
    n_cols = columns;
    n_slices = slices;
    n_elem = rows * columns * slices;
    elements_.resize(n_elem);
  }
  [[nodiscard]] T* memptr() { return elements_.data(); }
  [[nodiscard]] const T* memptr() const { return elements_.data(); }

 private:
  std::vector<T> elements_;
};
using cube = Cube<double>;

}  // namespace arma
