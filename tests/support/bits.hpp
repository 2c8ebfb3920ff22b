// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bits of numbers: how the tests compare and make them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

namespace bits {

template <class T>
using word_t = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

template <class T>
[[nodiscard]] word_t<T> of(const T& value) {
  word_t<T> word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

/// A number of the given bits.
template <class T>
[[nodiscard]] T number(word_t<T> word) {
  T value{};
  std::memcpy(static_cast<void*>(&value), &word, sizeof word);
  return value;
}

template <class T>
[[nodiscard]] bool is_nan(const T& value) {
  return static_cast<double>(value) != static_cast<double>(value);
}

/// The same bits, or NaN both.
template <class T>
[[nodiscard]] bool same(const T& a, const T& b) {
  return of(a) == of(b) || (is_nan(a) && is_nan(b));
}

/// Where two arrays differ among begin..end, or end.
template <class T>
[[nodiscard]] std::size_t difference(const T* a, const T* b, std::size_t begin, std::size_t end) {
  while (begin < end && same(a[begin], b[begin])) ++begin;
  return begin;
}

/// The bytes of an array.
template <class T>
[[nodiscard]] std::vector<std::byte> bytes(const T* data, std::size_t count) {
  std::vector<std::byte> copy(count * sizeof(T));
  if (count != 0) std::memcpy(copy.data(), data, copy.size());
  return copy;
}
template <class Array>
[[nodiscard]] std::vector<std::byte> bytes(const Array& array) {
  return bytes(array.data(), static_cast<std::size_t>(array.size()));
}

/// 64 bits that look random, always the same for the same numbers.
[[nodiscard]] inline std::uint64_t mixed(std::uint64_t a, std::uint64_t b = 0) {
  std::uint64_t word = (a + 1) * 0x9e3779b97f4a7c15u ^ (b + 1) * 0xd1b54a32d192ed03u;
  for (int round = 0; round < 3; ++round) {
    word = (word ^ (word >> 29)) * 0xbf58476d1ce4e5b9u;
  }
  return word ^ (word >> 32);
}

/// A number in [-1, 1), always the same for the same numbers.
[[nodiscard]] inline double uniform(std::uint64_t a, std::uint64_t b = 0) {
  return static_cast<double>(mixed(a, b) >> 11) * 0x1p-52 - 1;
}

}  // namespace bits
