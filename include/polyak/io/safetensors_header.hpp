// SPDX-License-Identifier: Apache-2.0
/// @file
/// The header of a safetensors file: its rules, and how to read it safely.
///
///   8 bytes: length N of the header, little-endian;  N bytes: a JSON object;  then the data
///   "name": {"dtype": "F32", "shape": [3, 4], "data_offsets": [begin, end]}   relative to the data
///   "__metadata__": {"key": "text"}
///
/// A file that breaks one of these rules is refused; io_error::rule names the rule:
///   R1 shorter than 8 bytes            R7  metadata is no object of strings
///   R2 N > 100,000,000                 R8  an entry lacks something or has it in another form
///   R3 the header ends after the file  R9  tensors overlap, leave a hole, or end before they begin
///   R4 not UTF-8, or a byte-order mark R10 a size that needs more than 64 bits
///   R5 not one JSON object             R11 shape, dtype and offsets disagree
///   R6 a name twice in one object      R12 the file ends before or after its last tensor
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/error.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The types of the format, in the reverse order of the official writer's sorting.
enum class SafetensorsType : std::uint8_t {
  BOOL,
  F4,
  F6_E2M3,
  F6_E3M2,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  F8_E4M3FNUZ,
  F8_E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

namespace detail {
struct SafetensorsTypeInfo {
  std::string_view name;
  std::uint8_t bits;
};
inline constexpr std::array<SafetensorsTypeInfo, 22> safetensors_types{{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};
}  // namespace detail

[[nodiscard]] constexpr std::string_view name_of(SafetensorsType type) {
  return detail::safetensors_types[static_cast<std::size_t>(type)].name;
}
/// Bits of one element; elements of fewer than 8 bits are packed.
[[nodiscard]] constexpr unsigned bits_of(SafetensorsType type) {
  return detail::safetensors_types[static_cast<std::size_t>(type)].bits;
}

/// The format's type for a type of parameters.
[[nodiscard]] constexpr SafetensorsType safetensors_type(DType dtype) {
  using enum SafetensorsType;
  constexpr std::array types{BOOL, I8, U8, I16, U16, I32, U32, I64, U64, F16, BF16, F32, F64};
  return types[static_cast<std::size_t>(dtype)];
}
/// The type of parameters for a type of the format; nullopt for types that parameters cannot have.
[[nodiscard]] constexpr std::optional<DType> parameter_type(SafetensorsType type) {
  for (int k = 0; k <= static_cast<int>(DType::float64); ++k) {
    if (safetensors_type(static_cast<DType>(k)) == type) return static_cast<DType>(k);
  }
  return std::nullopt;
}

/// A tensor of a file.
struct SafetensorsTensor {
  std::string name;
  SafetensorsType dtype = SafetensorsType::F32;
  std::vector<std::uint64_t> shape;  ///< row-major; empty for a single number
  std::uint64_t begin = 0, end = 0;  ///< bytes, counted from the beginning of the data
};

/// The content of a header.
struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;       ///< in the order of their data
  std::map<std::string, std::string> metadata;  ///< empty without "__metadata__"
  std::uint64_t data_start = 0;                 ///< bytes before the data
};

namespace detail {

inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;
inline constexpr std::string_view safetensors_metadata_name = "__metadata__";

/// Whether `text` is UTF-8, without overlong forms, surrogates or anything beyond U+10FFFF.
POLYAK_ON_USE [[nodiscard]] bool is_utf8(std::string_view text);

/// Elements x bits in bytes, multiplied in the given order. A refused size has the broken rule.
struct TensorBytes {
  std::uint64_t bytes = 0;
  const char* rule = nullptr;
  const char* what = nullptr;
};
POLYAK_ON_USE [[nodiscard]] TensorBytes tensor_bytes(std::span<const std::uint64_t> shape,
                                                     SafetensorsType type);

}  // namespace detail

/// Reads the header of a file; `file` has all bytes of it. Every size is checked against the file
/// before it is used; memory is bounded by the header's length. Throws io_error with the broken
/// rule; `path` is for its message.
POLYAK_ON_USE [[nodiscard]] SafetensorsHeader parse_safetensors(std::span<const std::byte> file,
                                                                const std::filesystem::path& path);

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/safetensors_header.ipp>
#endif
