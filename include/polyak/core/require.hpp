// SPDX-License-Identifier: Apache-2.0
/// @file
/// Errors: how polyak rejects misuse, with and without C++ exceptions.
#pragma once

#include <bit>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include <polyak/core/switches.hpp>

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define POLYAK_THROW(type, message) throw type(message)
#else
/// Without exceptions the program ends with the message that the exception would have carried.
#define POLYAK_THROW(type, message) ::polyak::detail::end_program(#type, message)
#endif

#if defined(__GNUC__)
#define POLYAK_COLD __attribute__((cold, noinline))
#else
#define POLYAK_COLD
#endif

namespace polyak {
inline namespace POLYAK_V0 {

/// Thrown if Nonfinite::error finds a NaN or an infinity, and by require_finite(). Nothing has
/// changed then, unless the message says that the update stands.
class nonfinite_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// std::isnan and std::isfinite that also work under -ffast-math, where the standard ones are
/// constants.
[[nodiscard]] inline bool is_nan(double value) {
  return (std::bit_cast<std::uint64_t>(value) << 1) > (std::uint64_t{0x7ff} << 53);
}
[[nodiscard]] inline bool is_finite(double value) {
  return (std::bit_cast<std::uint64_t>(value) << 1) < (std::uint64_t{0x7ff} << 53);
}

[[noreturn]] POLYAK_COLD inline void end_program(const char* type, std::string_view message) {
  std::fprintf(stderr, "%s: %.*s\n", type, static_cast<int>(message.size()), message.data());
  std::terminate();
}

template <class Number>
requires std::integral<Number> || std::floating_point<Number>
[[nodiscard]] std::string text(Number value) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  return {digits, end};
}
[[nodiscard]] inline std::string text(bool value) { return value ? "true" : "false"; }
[[nodiscard]] inline std::string text(std::string_view value) {
  return std::string("\"").append(value).append("\"");
}

[[noreturn]] POLYAK_COLD inline void refuse_value(const std::string& message) {
  POLYAK_THROW(std::invalid_argument, message);
}
[[noreturn]] POLYAK_COLD inline void refuse_order(const std::string& message) {
  POLYAK_THROW(std::logic_error, message);
}
[[noreturn]] POLYAK_COLD inline void refuse_nonfinite(const std::string& message) {
  POLYAK_THROW(nonfinite_error, message);
}

template <class Value>
[[noreturn]] POLYAK_COLD void refuse_argument(std::string_view rule, const Value& value) {
  refuse_value(std::string("polyak: ").append(rule).append(", got ").append(text(value)));
}

}  // namespace detail

/// Throws std::invalid_argument "polyak: RULE, got VALUE" unless `holds`.
///
/// State the condition that must hold, so that NaN fails it:
/// `require(o.decay >= 0 && o.decay <= 1, "EmaOptions.decay must lie in [0, 1]", o.decay)`.
template <class Value>
void require(bool holds, std::string_view rule, const Value& value) {
  if (holds) [[likely]] {
    return;
  }
  detail::refuse_argument(rule, value);
}

}  // namespace POLYAK_V0
}  // namespace polyak
