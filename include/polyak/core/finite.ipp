// SPDX-License-Identifier: Apache-2.0
// The functions of finite.hpp.
#pragma once

#include <polyak/core/finite.hpp>

#include <cstdint>
#include <cstring>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A number is a NaN or an infinity where all bits of its exponent are set.
template <class Bits>
[[nodiscard]] bool bits_finite(const void* data, Bits exponent, std::size_t count) {
  bool finite = true;
  for (std::size_t k = 0; k < count; ++k) {
    Bits bits;
    std::memcpy(&bits, static_cast<const std::byte*>(data) + k * sizeof bits, sizeof bits);
    finite = finite && (bits & exponent) != exponent;
  }
  return finite;
}

POLYAK_DEFINE bool bits_finite(const void* data, DType type, std::size_t count) {
  switch (type) {
    case DType::float16:
      return bits_finite<std::uint16_t>(data, 0x7c00, count);
    case DType::bfloat16:
      return bits_finite<std::uint16_t>(data, 0x7f80, count);
    case DType::float32:
      return bits_finite<std::uint32_t>(data, 0x7f800000, count);
    case DType::float64:
      return bits_finite<std::uint64_t>(data, 0x7ff0000000000000, count);
    default:
      return true;
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
