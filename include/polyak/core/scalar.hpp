// SPDX-License-Identifier: Apache-2.0
/// @file
/// The scalar types of parameters and of state, and the one rounding rule between them.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace polyak {
inline namespace v0 {

/// Types of registered tensors. Only the floating-point ones are trained or averaged.
enum class DType : std::uint8_t {
  boolean,
  int8,
  uint8,
  int16,
  uint16,
  int32,
  uint32,
  int64,
  uint64,
  float16,
  bfloat16,
  float32,
  float64
};

/// Types that a model's parameters may have.
template <class T>
concept ParameterScalar = std::same_as<T, float> || std::same_as<T, double> ||
    std::same_as<T, Eigen::half> || std::same_as<T, Eigen::bfloat16>;

/// Types that updates are computed in, and the state of optimizers is stored in.
template <class T>
concept ComputeScalar = std::same_as<T, float> || std::same_as<T, double>;

/// Types that the state of averages may be stored in; 16-bit ones are computed in float.
template <class T>
concept StateScalar = ParameterScalar<T>;

/// State of a parameter type unless told otherwise: double for double, else float.
template <ParameterScalar P>
using default_state_t = std::conditional_t<std::same_as<P, double>, double, float>;

namespace detail {

inline constexpr std::size_t cache_line = 64;

template <class T>
inline constexpr std::size_t scalar_bytes = sizeof(T);
template <>
inline constexpr std::size_t scalar_bytes<Eigen::half> = 2;
template <>
inline constexpr std::size_t scalar_bytes<Eigen::bfloat16> = 2;

template <class T>
[[nodiscard]] constexpr DType dtype_of() {
  if constexpr (std::same_as<T, bool>) {
    return DType::boolean;
  } else if constexpr (std::same_as<T, Eigen::half>) {
    return DType::float16;
  } else if constexpr (std::same_as<T, Eigen::bfloat16>) {
    return DType::bfloat16;
  } else if constexpr (std::same_as<T, float>) {
    return DType::float32;
  } else if constexpr (std::same_as<T, double>) {
    return DType::float64;
  } else {
    static_assert(std::integral<T>, "polyak: tensors hold floating-point numbers or integers");
    constexpr bool is_signed = std::is_signed_v<T>;
    switch (sizeof(T)) {
      case 1:
        return is_signed ? DType::int8 : DType::uint8;
      case 2:
        return is_signed ? DType::int16 : DType::uint16;
      case 4:
        return is_signed ? DType::int32 : DType::uint32;
      default:
        return is_signed ? DType::int64 : DType::uint64;
    }
  }
}

[[nodiscard]] inline std::string_view name_of(DType dtype) {
  constexpr std::string_view names[] = {"bool",     "int8",    "uint8",  "int16",  "uint16",
                                        "int32",    "uint32",  "int64",  "uint64", "float16",
                                        "bfloat16", "float32", "float64"};
  return names[static_cast<std::size_t>(dtype)];
}

[[nodiscard]] inline std::size_t bytes_of(DType dtype) {
  constexpr std::uint8_t bytes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
  return bytes[static_cast<std::size_t>(dtype)];
}

// Conversions of 16-bit numbers, as the hardware does them: to nearest, ties to even; subnormals
// kept; a NaN stays a (quiet) NaN with the upper bits of its payload.

[[nodiscard]] inline float float_from_half(std::uint16_t h) {
  const std::uint32_t sign = (h & 0x8000u) << 16;
  const std::uint32_t exponent = h & 0x7c00u;
  const std::uint32_t mantissa = h & 0x03ffu;
  if (exponent == 0x7c00u) {
    const std::uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (((exponent | mantissa) << 13) + 0x38000000u));
}

[[nodiscard]] inline std::uint16_t half_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) {
    rest = 0x7e00u | ((rest >> 13) & 0x03ffu);
  } else if (rest >= 0x477ff000u) {  // 65520 and above round to infinity
    rest = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: the sum with 1/2 rounds to a multiple of 2^-24
    rest = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  } else {
    rest = (rest + 0x0fffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<std::uint16_t>(sign | rest);
}

// With 16 random bits they round at random instead, up with the probability of the remainder: the
// expectation is the number itself. NaN and infinity stay what they are.

[[nodiscard]] inline std::uint16_t half_from_float(float value, std::uint32_t random) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits & 0x80000000u;
  std::uint32_t rest = bits & 0x7fffffffu;
  if (rest < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
    const auto fixed = static_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p40f);
    rest = std::bit_cast<std::uint32_t>(static_cast<float>((fixed + random) >> 16) * 0x1p-24f);
  } else if (rest < 0x7f800000u) {
    rest = (rest + (random >> 3)) & ~0x1fffu;
  }
  return half_from_float(std::bit_cast<float>(sign | rest));
}

[[nodiscard]] inline float float_from_bfloat16(std::uint16_t b) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

[[nodiscard]] inline std::uint16_t bfloat16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[nodiscard]] inline std::uint16_t bfloat16_from_float(float value, std::uint32_t random) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bfloat16_from_float(value);
  return static_cast<std::uint16_t>((bits + random) >> 16);
}

/// The type that a value stored as P is computed in, and that holds it exactly.
template <class P>
using carrier_t = std::conditional_t<std::same_as<P, double>, double, float>;

/// The k-th number of an array of P, widened to `To`.
template <class To, class P>
[[nodiscard]] To widened(const P* data, std::size_t k) {
  if constexpr (scalar_bytes<P> == 2) {
    std::uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<const std::byte*>(data) + 2 * k, 2);
    return static_cast<To>(std::same_as<P, Eigen::half> ? float_from_half(bits)
                                                        : float_from_bfloat16(bits));
  } else {
    return static_cast<To>(data[k]);
  }
}

/// Rounds `value` into the k-th number of an array of P. A double reaches 16 bits through float.
template <class P, class From>
void narrow_into(P* data, std::size_t k, From value) {
  if constexpr (scalar_bytes<P> == 2) {
    const auto single = static_cast<float>(value);
    const std::uint16_t bits =
        std::same_as<P, Eigen::half> ? half_from_float(single) : bfloat16_from_float(single);
    std::memcpy(reinterpret_cast<std::byte*>(data) + 2 * k, &bits, 2);
  } else {
    data[k] = static_cast<P>(value);
  }
}

/// Rounds `value` at random into the k-th number of an array of 16-bit P, by 16 random bits.
template <class P>
void narrow_into(P* data, std::size_t k, float value, std::uint32_t random) {
  const std::uint16_t bits = std::same_as<P, Eigen::half> ? half_from_float(value, random)
                                                          : bfloat16_from_float(value, random);
  std::memcpy(reinterpret_cast<std::byte*>(data) + 2 * k, &bits, 2);
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
