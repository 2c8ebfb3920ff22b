// SPDX-License-Identifier: Apache-2.0
/// @file
/// Numbers for tests, and comparison to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

inline constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// The same numbers in [-1, 1) on every platform, all of them exact in float.
class RandomNumbers {
 public:
  explicit RandomNumbers(std::uint32_t seed) : engine_(seed) {}
  double operator()() { return static_cast<double>(engine_() >> 8) * 0x1p-23 - 1; }

  /// Overwrites the elements; their memory stays where it is.
  template <class Container>
  void fill(Container&& container) {
    for (auto& number : container) number = static_cast<std::decay_t<decltype(number)>>((*this)());
  }

  template <class T = double>
  std::vector<T> many(std::size_t count) {
    std::vector<T> numbers(count);
    fill(numbers);
    return numbers;
  }

 private:
  std::mt19937 engine_;
};

/// The bytes of `count` objects, for comparison with ==.
template <class T>
std::vector<unsigned char> bytes_of(const T* data, std::size_t count = 1) {
  std::vector<unsigned char> bytes(count * sizeof(T));
  if (count != 0) std::memcpy(bytes.data(), static_cast<const void*>(data), bytes.size());
  return bytes;
}
template <class Container>
requires requires(const Container& c) { c.data(); }
std::vector<unsigned char> bytes_of(const Container& container) {
  return bytes_of(container.data(), static_cast<std::size_t>(container.size()));
}
