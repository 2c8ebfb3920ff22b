// SPDX-License-Identifier: Apache-2.0
/// @file
/// The scalar types of parameters and of state, and the one rounding rule between them.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <polyak/core/law.hpp>

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// What the type of a list says: the type of its numbers, and whether they lie in the memory of a
/// device, which then specialises this for a type of its own.
template <class P>
struct ListType {
  using Element = P;
  static constexpr bool on_device = false;
};
template <class P>
inline constexpr bool on_device = ListType<P>::on_device;
/// The type under which memory of T is registered: T, or Eigen's counterpart of a device's type.
template <class T>
struct Registered {
  using type = T;
};
}  // namespace detail

/// The type of the numbers in a list of P: P on the host, T for a device's type of T.
template <class P>
using element_t = typename detail::ListType<P>::Element;

/// Types of registered tensors. Only floating-point tensors are trained or averaged.
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

/// Floating-point types in memory. Eigen's types are only named here; they need not be complete.
template <class T>
concept FloatingScalar = std::same_as<T, float> || std::same_as<T, double> ||
    std::same_as<T, Eigen::half> || std::same_as<T, Eigen::bfloat16>;

/// Types that a model's parameters may have, on the host or on a device.
template <class P>
concept ParameterScalar = FloatingScalar<element_t<P>>;

/// Types that updates are computed in, and the state of optimizers is stored in.
template <class T>
concept ComputeScalar = std::same_as<T, float> || std::same_as<T, double>;

/// Types that the state of averages may be stored in; 16-bit ones are computed in float.
template <class T>
concept StateScalar = FloatingScalar<T>;

/// The default type of state for a parameter type: double for double, else float.
template <ParameterScalar P>
using default_state_t = std::conditional_t<std::same_as<element_t<P>, double>, double, float>;

namespace detail {

inline constexpr std::size_t cache_line = 64;

template <class T>
inline constexpr std::size_t scalar_bytes = sizeof(T);
template <>
inline constexpr std::size_t scalar_bytes<Eigen::half> = 2;
template <>
inline constexpr std::size_t scalar_bytes<Eigen::bfloat16> = 2;

template <class P>
[[nodiscard]] constexpr DType dtype_of() {
  using T = element_t<P>;
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

[[nodiscard]] POLYAK_LAW std::uint32_t bits_of(float value) {
  return __builtin_bit_cast(std::uint32_t, value);  // std::bit_cast is for the host only
}
[[nodiscard]] POLYAK_LAW float float_of(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

// Conversions of 16-bit numbers, as the hardware does them: to nearest, ties to even; subnormals
// kept; a NaN stays a (quiet) NaN with the upper bits of its payload.

[[nodiscard]] POLYAK_LAW float float_from_half(std::uint16_t h) {
  const std::uint32_t sign = (h & 0x8000u) << 16;
  const std::uint32_t exponent = h & 0x7c00u;
  const std::uint32_t mantissa = h & 0x03ffu;
  if (exponent == 0x7c00u) {
    const std::uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
    return float_of(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
  }
  return float_of(sign | (((exponent | mantissa) << 13) + 0x38000000u));
}

[[nodiscard]] POLYAK_LAW std::uint16_t half_from_float(float value) {
  const auto bits = bits_of(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) {
    rest = 0x7e00u | ((rest >> 13) & 0x03ffu);
  } else if (rest >= 0x477ff000u) {  // 65520 and above round to infinity
    rest = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: the sum with 1/2 rounds to a multiple of 2^-24
    rest = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;
  } else {
    rest = (rest + 0x0fffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<std::uint16_t>(sign | rest);
}

// With 16 random bits they round at random instead, up with the probability of the remainder, so
// that the expectation is the number itself. NaN and infinity are kept.

[[nodiscard]] POLYAK_LAW std::uint16_t half_from_float(float value, std::uint32_t random) {
  const auto bits = bits_of(value);
  const std::uint32_t sign = bits & 0x80000000u;
  std::uint32_t rest = bits & 0x7fffffffu;
  if (rest < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
    const auto fixed = static_cast<std::uint32_t>(float_of(rest) * 0x1p40f);
    rest = bits_of(static_cast<float>((fixed + random) >> 16) * 0x1p-24f);
  } else if (rest < 0x7f800000u) {
    rest = (rest + (random >> 3)) & ~0x1fffu;
  }
  return half_from_float(float_of(sign | rest));
}

[[nodiscard]] POLYAK_LAW float float_from_bfloat16(std::uint16_t b) {
  return float_of(static_cast<std::uint32_t>(b) << 16);
}

[[nodiscard]] POLYAK_LAW std::uint16_t bfloat16_from_float(float value) {
  const auto bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[nodiscard]] POLYAK_LAW std::uint16_t bfloat16_from_float(float value, std::uint32_t random) {
  const auto bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bfloat16_from_float(value);
  return static_cast<std::uint16_t>((bits + random) >> 16);
}

/// The type in which values stored as P are computed; it holds them exactly.
template <class P>
using carrier_t = std::conditional_t<std::same_as<element_t<P>, double>, double, float>;

/// The k-th number of an array of P, widened to `To`.
template <class To, class P>
[[nodiscard]] POLYAK_LAW To widened(const P* data, std::size_t k) {
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
POLYAK_LAW void narrow_into(P* data, std::size_t k, From value) {
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
POLYAK_LAW void narrow_into(P* data, std::size_t k, float value, std::uint32_t random) {
  const std::uint16_t bits = std::same_as<P, Eigen::half> ? half_from_float(value, random)
                                                          : bfloat16_from_float(value, random);
  std::memcpy(reinterpret_cast<std::byte*>(data) + 2 * k, &bits, 2);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
