// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of core/state.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

POLYAK_DEFINE std::string OptionVisitor::joined(std::string_view name, std::string_view tensor) {
  return std::string(name).append(".").append(tensor);
}
POLYAK_DEFINE void OptionVisitor::add_option(detail::OptionText&&) {}

POLYAK_DEFINE StateVisitor::~StateVisitor() = default;
POLYAK_DEFINE StateEditor::~StateEditor() = default;

namespace detail {

POLYAK_DEFINE void require_readable(const SlotMemory& slots) {
  if (slots.lent()) refuse_order("polyak: the state of a method whose average is swapped in");
  if (slots.space() != nullptr) slots.space()->require_settled(slots.block().get());
}

POLYAK_DEFINE void require_state_size(std::size_t size, std::size_t given) {
  require(size == given, "restore_state: the state must have " + text(size) + " bytes", given);
}

POLYAK_DEFINE void StateWriter::add_scalar(std::string_view, const void* value,
                                           const StateScalarType& type) {
  add(value, type.bytes);
}
POLYAK_DEFINE void StateWriter::counters(std::string_view, std::span<const std::int64_t> values) {
  add(values.data(), values.size_bytes());
}
POLYAK_DEFINE void StateWriter::buffers(const Layout& layout, const std::byte* data) {
  add(data, buffer_bytes(layout), layout.space.get());
}
POLYAK_DEFINE void StateWriter::slots(const ConstSlots& slots) {
  slots.require_readable();
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < slots.layout().tensors.size(); ++k) {
      add(slots.address(slot, k), slots.bytes(slot, k), slots.space());
    }
  }
}
POLYAK_DEFINE void StateWriter::add(const void* data, std::size_t bytes, MemorySpace* space) {
  const std::size_t place = out_.size();
  out_.resize(place + bytes);
  read_bytes(space, out_.data() + place, data, bytes);
}

POLYAK_DEFINE void StateReader::add_scalar(std::string_view, void* value,
                                           const StateScalarType& type) {
  take(value, type.bytes);
}
POLYAK_DEFINE void StateReader::counters(std::string_view, std::span<std::int64_t> values) {
  take(values.data(), values.size_bytes());
}
POLYAK_DEFINE void StateReader::buffers(const Layout& layout, std::byte* data) {
  take(data, buffer_bytes(layout), layout.space.get());
}
POLYAK_DEFINE void StateReader::slots(SlotMemory& slots) {
  require_readable(slots);
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
      take(slots.address(slot, k), slots.bytes(slot, k), slots.space());
    }
  }
}
POLYAK_DEFINE void StateReader::take(void* data, std::size_t bytes, MemorySpace* space) {
  if (in_ != nullptr) write_bytes(space, data, in_ + size_, bytes);
  size_ += bytes;
}

}  // namespace detail

POLYAK_DEFINE void ConstSlots::require_readable() const { detail::require_readable(slots_); }

}  // namespace v0
}  // namespace polyak
