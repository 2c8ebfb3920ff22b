// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of core/state_access.hpp.
#pragma once

#include <polyak/core/state_access.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// "Ema has no slot "m"; it has average".
[[noreturn]] inline void refuse_name(std::string_view owner, std::string_view kind,
                                     std::string_view name, std::string_view names) {
  refuse_value(std::string("polyak: ").append(owner).append(" has no ").append(kind) + " \"" +
               std::string(name) + "\"; it has " + std::string(names.empty() ? "none" : names));
}
[[noreturn]] inline void refuse_stateless(std::string_view owner, std::string_view tensor) {
  refuse_value(std::string("polyak: ").append(owner) + " has no state for tensor \"" +
               std::string(tensor) + "\"");
}
[[noreturn]] inline void refuse_tensor(std::string_view tensor) {
  refuse_value("polyak: there is no tensor \"" + std::string(tensor) + "\"");
}
inline void add_name(std::string& names, std::string_view name) {
  names.append(names.empty() ? "" : ", ").append(name);
}

POLYAK_DEFINE void SlotFinder::counters(std::string_view, std::span<const std::int64_t>) {}
POLYAK_DEFINE void SlotFinder::buffers(const Layout&, const std::byte*) {}
POLYAK_DEFINE void SlotFinder::add_scalar(std::string_view, const void*, const StateScalarType&) {}
POLYAK_DEFINE void SlotFinder::slots(const ConstSlots& slots) {
  slots.require_readable();
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    add_name(names_, slots.names()[slot]);
    if (any_slot_ || slots.names()[slot] != slot_) continue;
    any_slot_ = true;
    where_.emplace(slots);
    place_ = slot;
    const std::size_t k = slots.layout().find_any(tensor_);
    any_tensor_ = k < slots.layout().tensors.size();
    if (!any_tensor_ || !slots.keeps(slot, k)) continue;
    found_ = {slots.address(slot, k), slots.bytes(slot, k), slots.info(slot, k), slots.space()};
    found_.info.dtype = slots.dtype();
  }
}
POLYAK_DEFINE const ConstSlots& SlotFinder::where() const {
  if (!any_slot_) refuse_name(owner_, "slot", slot_, names_);
  return *where_;
}
POLYAK_DEFINE const FoundSlot& SlotFinder::found() const {
  static_cast<void>(where());
  if (!any_tensor_) refuse_tensor(tensor_);
  if (found_.info.name.empty()) refuse_stateless(owner_, tensor_);
  return found_;
}

POLYAK_DEFINE void require_slot(const FoundSlot& found, std::string_view slot, DType type,
                                const Shape& shape, Order order, bool flat) {
  const TensorInfo& own = found.info;
  const std::string what = "slot \"" + std::string(slot) + "\" of tensor \"" + own.name + "\"";
  if (type != own.dtype) {
    refuse_argument(what + " holds " + std::string(name_of(own.dtype)), name_of(type));
  }
  if (flat && shape.empty()) return;  // read
  TensorInfo given = own;
  given.shape = shape;
  given.order = order;
  if (flat) {
    const std::size_t size = elements_of(shape, own.name);
    require(size == own.size, what + " has " + text(own.size) + " elements", size);
  } else if (given.shape != own.shape || given.order != own.order) {
    refuse_value("polyak: " + what + " is " + describe(own) + ", the values are " +
                 describe(given));
  }
}

POLYAK_DEFINE void NumberFinder::counters(std::string_view name, std::span<std::int64_t> values) {
  if (name != "tensor_steps") return;
  any_steps_ = true;
  tensor_steps_ = values;
}
POLYAK_DEFINE void NumberFinder::buffers(const Layout&, std::byte*) {}
POLYAK_DEFINE void NumberFinder::slots(SlotMemory& slots) {
  require_readable(slots);
  slots_ = &slots;
}
POLYAK_DEFINE void NumberFinder::add_scalar(std::string_view name, void* value,
                                            const StateScalarType& type) {
  add_name(names_, name);
  if (name == scalar_) number_ = {value, type};
}
POLYAK_DEFINE const NumberFinder::Number& NumberFinder::number() const {
  if (number_.memory == nullptr) refuse_name(owner_, "number", scalar_, names_);
  return number_;
}
POLYAK_DEFINE std::span<std::int64_t> NumberFinder::tensor_steps() const {
  if (!any_steps_) refuse_value("polyak: " + std::string(owner_) + " counts no steps of tensors");
  return tensor_steps_;
}
POLYAK_DEFINE std::size_t NumberFinder::index_of(std::string_view tensor) const {
  const std::size_t k = slots_->layout()->find_any(tensor);
  if (k == slots_->layout()->tensors.size()) refuse_tensor(tensor);
  if (!slots_->keeps(k)) refuse_stateless(owner_, tensor);
  return k;
}

POLYAK_DEFINE void set_found_number(const NumberFinder::Number& number, std::string_view name,
                                    const std::string& value) {
  alignas(std::max_align_t) std::byte read[16];
  if (!number.type.parse(value, read)) {
    refuse_argument("the number \"" + std::string(name) + "\" must have a value of its type",
                    value);
  }
  if (!number.type.allows(read)) {
    refuse_value("polyak: the number \"" + std::string(name) + "\" " +
                 range_text(number.type.range) + ", got " + value);
  }
  std::memcpy(number.memory, read, number.type.bytes);
}
POLYAK_DEFINE void require_steps(std::int64_t steps) {
  require(lies_in(steps, count_range), "set_steps: steps must be >= 0 and at most 2^53", steps);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
