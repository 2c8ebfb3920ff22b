// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/row_major.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/io/row_major.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// A tensor of another order in memory as rows of its first dimension: row i has all elements with
/// first index i, in row-major order.
class PermutedRows {
 public:
  PermutedRows(std::span<const std::uint64_t> shape, std::size_t element_bytes, Order order)
      : rows_(static_cast<std::size_t>(shape[0])),
        bytes_(element_bytes),
        channels_last_(order == Order::channels_last) {
    for (const std::uint64_t extent : shape.subspan(1)) {
      extents_.push_back(static_cast<std::size_t>(extent));
      row_ *= extents_.back();
    }
  }

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t row_bytes() const { return row_ * bytes_; }
  /// Rows to transpose at a time: whole cache lines of memory, and enough to be worth a call.
  [[nodiscard]] std::size_t rows_at_once() const {
    const std::size_t line = std::max<std::size_t>(64 / bytes_, 1);
    const std::size_t wanted = row_bytes() == 0 ? rows_ : (std::size_t{1} << 18) / row_bytes();
    return std::max(line, wanted / line * line);
  }

  /// Writes the rows first..last of `memory`, one after another, to `out`.
  void read(const std::byte* memory, std::size_t first, std::size_t last, std::byte* out) const {
    by_size([&](auto size) {
      each(first, last, [&](std::size_t in_memory, std::size_t in_rows) {
        std::memcpy(out + in_rows * size, memory + in_memory * size, size);
      });
    });
  }
  /// Reads the rows first..last from `in` into `memory`.
  void write(std::byte* memory, std::size_t first, std::size_t last, const std::byte* in) const {
    by_size([&](auto size) {
      each(first, last, [&](std::size_t in_memory, std::size_t in_rows) {
        std::memcpy(memory + in_memory * size, in + in_rows * size, size);
      });
    });
  }

 private:
  template <std::size_t N>
  struct Size {
    constexpr operator std::size_t() const { return N; }
  };
  template <class Copy>
  void by_size(Copy copy) const {
    if (bytes_ == 1) copy(Size<1>());
    if (bytes_ == 2) copy(Size<2>());
    if (bytes_ == 4) copy(Size<4>());
    if (bytes_ == 8) copy(Size<8>());
  }
  template <class Copy>
  void each(std::size_t first, std::size_t last, Copy copy) const {
    std::vector<std::size_t> index(extents_.size(), 0);
    for (std::size_t column = 0; column < row_; ++column) {
      std::size_t before = 0;  // the place in a row of memory
      for (std::size_t k = index.size(); k-- > 0 && !channels_last_;) {
        before = before * extents_[k] + index[k];
      }
      if (channels_last_) {
        for (std::size_t k = 1; k < index.size(); ++k) before = before * extents_[k] + index[k];
        before = before * extents_[0] + index[0];
      }
      for (std::size_t i = first; i < last; ++i) {
        copy(channels_last_ ? i * row_ + before : before * rows_ + i, (i - first) * row_ + column);
      }
      for (std::size_t k = index.size(); k-- > 0;) {
        if (++index[k] < extents_[k]) break;
        index[k] = 0;
      }
    }
  }

  std::size_t rows_, row_ = 1, bytes_;
  bool channels_last_;
  std::vector<std::size_t> extents_;
};

POLYAK_DEFINE std::size_t bytes_of_shape(std::span<const std::uint64_t> shape,
                                         std::size_t element_bytes) {
  std::size_t bytes = element_bytes;
  for (const std::uint64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
  return bytes;
}

POLYAK_DEFINE void append_row_major(const std::function<void(std::span<const std::byte>)>& append,
                                    const std::byte* data, std::span<const std::uint64_t> shape,
                                    std::size_t element_bytes, Order order) {
  const std::size_t bytes = bytes_of_shape(shape, element_bytes);
  if (order == Order::row_major || bytes == 0) {
    append(std::span<const std::byte>(data, bytes));
    return;
  }
  const PermutedRows turned(shape, element_bytes, order);
  const std::size_t step = std::min(turned.rows_at_once(), turned.rows());
  std::vector<std::byte> rows(step * turned.row_bytes());
  for (std::size_t first = 0; first < turned.rows(); first += step) {
    const std::size_t last = std::min(first + step, turned.rows());
    turned.read(data, first, last, rows.data());
    append(std::span<const std::byte>(rows.data(), (last - first) * turned.row_bytes()));
  }
}

POLYAK_DEFINE void take_row_major(
    std::byte* data, std::span<const std::uint64_t> shape, std::size_t element_bytes, Order order,
    const std::function<void(std::size_t, std::span<std::byte>)>& read) {
  const std::size_t bytes = bytes_of_shape(shape, element_bytes);
  if (bytes == 0) return;
  if (order == Order::row_major) {
    read(0, std::span<std::byte>(data, bytes));
    return;
  }
  const PermutedRows turned(shape, element_bytes, order);
  const std::size_t step = std::min(turned.rows_at_once(), turned.rows());
  std::vector<std::byte> rows(step * turned.row_bytes());
  for (std::size_t first = 0; first < turned.rows(); first += step) {
    const std::size_t last = std::min(first + step, turned.rows());
    const auto part = std::span(rows).first((last - first) * turned.row_bytes());
    read(first * turned.row_bytes(), part);
    turned.write(data, first, last, part.data());
  }
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
