// SPDX-License-Identifier: Apache-2.0
// The functions of require_finite.hpp.
#pragma once

#include <polyak/core/require_finite.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include <polyak/core/finite.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Refuses numbers that are not all finite.
inline void require_finite_bytes(const std::string& what, const TensorInfo& tensor, DType type,
                                 MemorySpace* space, const std::byte* data, std::size_t bytes) {
  if (!is_floating(type)) return;
  std::vector<std::byte> copy;
  if (space != nullptr) {
    copy.resize(bytes);
    read_bytes(space, copy.data(), data, bytes);
    data = copy.data();
  }
  if (bits_finite(data, type, bytes / bytes_of(type))) return;
  refuse_nonfinite("polyak: " + what + " of tensor \"" + tensor.name +
                   "\" holds a NaN or an infinity");
}

POLYAK_DEFINE void FiniteVisitor::counters(std::string_view, std::span<const std::int64_t>) {}
POLYAK_DEFINE void FiniteVisitor::add_scalar(std::string_view, const void*,
                                             const StateScalarType&) {}

POLYAK_DEFINE void FiniteVisitor::buffers(const Layout& layout, const std::byte* data) {
  for (const TensorInfo& tensor : layout.tensors) {
    if (tensor.role != Role::copy) continue;
    const std::size_t bytes = tensor.size * bytes_of(tensor.dtype);
    require_finite_bytes("the copy", tensor, tensor.dtype, layout.space.get(), data, bytes);
    data += bytes;
  }
}

POLYAK_DEFINE void FiniteVisitor::slots(const ConstSlots& slots) {
  slots.require_readable();
  const auto& tensors = slots.layout().tensors;
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < tensors.size(); ++k) {
      if (!slots.keeps(slot, k)) continue;
      require_finite_bytes("slot \"" + slots.names()[slot] + "\"", tensors[k], slots.dtype(),
                           slots.space(), slots.address(slot, k), slots.bytes(slot, k));
    }
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
