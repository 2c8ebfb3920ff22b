// SPDX-License-Identifier: Apache-2.0
/// @file
/// Looks for NaN and infinity in memory of any type.
#pragma once

#include <cstddef>

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Whether numbers of this type can be NaN or infinite.
[[nodiscard]] constexpr bool is_floating(DType type) { return type >= DType::float16; }

/// False if any of `count` numbers of the type is a NaN or an infinity. `data` needs no alignment.
[[nodiscard]] bool bits_finite(const void* data, DType type, std::size_t count);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/finite.ipp>
#endif
