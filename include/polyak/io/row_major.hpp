// SPDX-License-Identifier: Apache-2.0
/// @file
/// Files are row-major. Tensors of another order in memory are permuted as they are written and
/// read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

[[nodiscard]] std::size_t bytes_of_shape(std::span<const std::uint64_t> shape,
                                         std::size_t element_bytes);

/// Passes a tensor in memory to `append`, row-major and in pieces.
void append_row_major(const std::function<void(std::span<const std::byte>)>& append,
                      const std::byte* data, std::span<const std::uint64_t> shape,
                      std::size_t element_bytes, Order order);

/// Reads a tensor into memory. read(offset, to) copies its row-major bytes from that offset on.
void take_row_major(std::byte* data, std::span<const std::uint64_t> shape,
                    std::size_t element_bytes, Order order,
                    const std::function<void(std::size_t, std::span<std::byte>)>& read);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/row_major.ipp>
#endif
