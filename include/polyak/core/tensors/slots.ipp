// SPDX-License-Identifier: Apache-2.0
// The functions of slots.hpp.
#pragma once

#include <polyak/core/tensors/slots.hpp>

#include <algorithm>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/matrix_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE void refuse_moved_slots() {
  refuse_order("polyak: a method is used after it was moved from");
}

/// Number of elements of a tensor, with padding.
[[nodiscard]] constexpr std::size_t padded(std::size_t elements) {
  return (elements + slot_granule - 1) / slot_granule * slot_granule;
}

/// The part of a tensor in a slot, with the tensor's name, role and type; nullopt if a free slot
/// has no part for it.
[[nodiscard]] POLYAK_DEFINE std::optional<TensorInfo> slot_part(const SlotSpec& slot,
                                                                const TensorInfo& tensor) {
  std::optional<TensorInfo> part = tensor;
  const bool matrix = slot.shape == SlotShape::rows || slot.shape == SlotShape::columns;
  if (matrix && tensor.order == Order::channels_last &&
      (slot.shape == SlotShape::columns || slot.view == MatrixView::last_two)) {
    refuse_value("polyak: slot \"" + slot.name + "\" has numbers for each row or column of \"" +
                 tensor.name + "\", which is channels-last; make it row-major");
  }
  switch (slot.shape) {
    case SlotShape::rows:
      part->shape = shape_of_rows(tensor.shape, slot.view);
      break;
    case SlotShape::columns:
      part->shape = shape_of_columns(tensor.shape, slot.view);
      break;
    case SlotShape::scalar:
      part->shape = {};
      break;
    case SlotShape::free: {
      std::optional<Shape> shape = slot.free(tensor);
      if (!shape.has_value()) return std::nullopt;
      part->shape = *std::move(shape);
      break;
    }
    default:
      return part;
  }
  part->size = elements_of(part->shape, tensor.name);
  part->order = canonical(tensor.order, part->shape);
  return part;
}

POLYAK_DEFINE std::vector<SlotSpec> specs_of(const std::vector<std::string>& names) {
  std::vector<SlotSpec> slots;
  slots.reserve(names.size());
  for (const std::string& name : names) slots.push_back(name);
  return slots;
}

POLYAK_DEFINE SlotMemory::SlotMemory(std::shared_ptr<const Layout> layout, DType dtype,
                                     const std::vector<SlotSpec>& slots,
                                     const std::vector<bool>& keeps)
    : layout_(std::move(layout)), dtype_(dtype) {
  offsets_.reserve(layout_->tensors.size());
  for (std::size_t k = 0; k < layout_->tensors.size(); ++k) {
    offsets_.push_back(keeps[k] ? extent_ : absent);
    if (!keeps[k]) continue;
    elements_ += layout_->tensors[k].size;
    extent_ += padded(layout_->tensors[k].size);
  }
  names_.reserve(slots.size());
  starts_.reserve(slots.size());
  parts_.reserve(slots.size());
  std::size_t total = 0, largest = 0;
  for (const SlotSpec& slot : slots) {
    starts_.push_back(total * bytes_of(dtype_));
    names_.push_back(slot.name);
    parts_.push_back(slot.shape == SlotShape::full ? nullptr : parts_of(slot));
    all_full_ = all_full_ && parts_.back() == nullptr;
    const std::size_t extent = extent_of(names_.size() - 1);
    largest = std::max(largest, extent);
    total += staggered(extent);
  }
  block_ = make_block(largest == 0 ? 0 : total * bytes_of(dtype_), layout_->space);
}

POLYAK_DEFINE SlotMemory::SlotMemory(const SlotMemory& other)
    : layout_(other.layout_),
      dtype_(other.dtype_),
      names_(other.names_),
      starts_(other.starts_),
      parts_(other.parts_),
      all_full_(other.all_full_),
      offsets_(other.offsets_),
      elements_(other.elements_),
      extent_(other.extent_) {
  if (other.lent()) refuse_order("polyak: copying a method while its average is swapped in");
  if (other.space() != nullptr) other.space()->require_settled(other.block_.get());
  block_ = copy_of_block(*other.block_);
}
POLYAK_DEFINE SlotMemory::SlotMemory(SlotMemory&&) noexcept = default;
POLYAK_DEFINE SlotMemory& SlotMemory::operator=(const SlotMemory& other) {
  return *this = SlotMemory(other);
}
POLYAK_DEFINE SlotMemory& SlotMemory::operator=(SlotMemory&&) noexcept = default;
POLYAK_DEFINE SlotMemory::~SlotMemory() = default;

POLYAK_DEFINE bool SlotMemory::keeps(std::size_t slot, std::size_t tensor) const {
  return keeps(tensor) && (full(slot) || parts_[slot]->tensors[tensor].has_value());
}
POLYAK_DEFINE const TensorInfo& SlotMemory::info(std::size_t slot, std::size_t tensor) const {
  return full(slot) ? layout_->tensors[tensor] : *parts_[slot]->tensors[tensor];
}

POLYAK_DEFINE std::byte* SlotMemory::address(std::size_t slot, std::size_t index) const {
  if (!keeps(slot, index) || block_->data() == nullptr) return nullptr;
  const std::size_t offset = full(slot) ? offsets_[index] : parts_[slot]->offsets[index];
  return first(slot) + offset * bytes_of(dtype_);
}
POLYAK_DEFINE std::size_t SlotMemory::size(std::size_t slot, std::size_t index) const {
  return keeps(slot, index) ? info(slot, index).size : 0;
}
POLYAK_DEFINE std::size_t SlotMemory::bytes(std::size_t slot, std::size_t index) const {
  return size(slot, index) * bytes_of(dtype_);
}

POLYAK_DEFINE std::size_t SlotMemory::find(std::string_view name) const {
  std::string known;
  for (std::size_t slot = 0; slot < names_.size(); ++slot) {
    if (names_[slot] == name) return slot;
    known += (slot == 0 ? "" : ", ") + names_[slot];
  }
  refuse_value("polyak: there is no slot \"" + std::string(name) + "\"; the slots are: " + known);
}

POLYAK_DEFINE MemoryReport SlotMemory::memory_report() const {
  MemoryReport report;
  const std::size_t beside = block_->allocated() - block_->bytes();
  for (std::size_t slot = 0; slot < names_.size(); ++slot) {
    const std::size_t elements = full(slot) ? elements_ : parts_[slot]->elements;
    const std::size_t own =
        block_->bytes() == 0 ? 0 : staggered(extent_of(slot)) * bytes_of(dtype_);
    report.slots.push_back({names_[slot], dtype_, elements, own + beside / names_.size()});
  }
  report.total = block_->allocated();
  return report;
}

POLYAK_DEFINE void SlotMemory::copy_tensor(std::size_t tensor, const SlotMemory& from,
                                           std::size_t place_there) const {
  for (std::size_t slot = 0; slot < count(); ++slot) {
    copy_bytes(space(), address(slot, tensor), from.address(slot, place_there),
               from.bytes(slot, place_there));
  }
}

POLYAK_DEFINE std::shared_ptr<const SlotParts> SlotMemory::parts_of(const SlotSpec& slot) const {
  std::shared_ptr<SlotParts> parts(new SlotParts);
  for (std::size_t k = 0; k < offsets_.size(); ++k) {
    auto& part = parts->tensors.emplace_back();
    parts->offsets.push_back(absent);
    if (!keeps(k)) continue;
    part = slot_part(slot, layout_->tensors[k]);
    if (!part.has_value()) continue;
    parts->offsets.back() = parts->extent;
    parts->elements += part->size;
    parts->extent += slot.shape == SlotShape::scalar ? 1 : padded(part->size);
  }
  parts->extent = padded(parts->extent);
  return parts;
}
POLYAK_DEFINE std::size_t SlotMemory::extent_of(std::size_t slot) const {
  return full(slot) ? extent_ : parts_[slot]->extent;
}
POLYAK_DEFINE std::size_t SlotMemory::staggered(std::size_t extent) const {
  const std::size_t bytes = bytes_of(dtype_);
  return extent + stagger(extent * bytes) / bytes;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
