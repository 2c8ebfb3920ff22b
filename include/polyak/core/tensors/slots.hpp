// SPDX-License-Identifier: Apache-2.0
/// @file
/// Slots: the state of a method in one aligned block. Most have the layout of the parameters;
/// slot_shape.hpp describes the others.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/block.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slot_shape.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The memory that a method's state takes.
struct MemoryReport {
  struct Slot {
    std::string name;
    DType dtype;
    std::size_t elements;  ///< without padding
    std::size_t bytes;     ///< share of the allocated block, with padding
  };
  std::vector<Slot> slots;
  std::size_t total = 0;  ///< bytes allocated for state
};

/// The tensors for which a method has state.
enum class Kept : std::uint8_t {
  trained,   ///< roles average and ignore
  averaged,  ///< role average
};

namespace detail {

/// Whether a method has state for a tensor, unless a selection leaves it out.
[[nodiscard]] inline bool may_keep(const TensorInfo& tensor, DType parameters, Kept kept) {
  return tensor.dtype == parameters &&
         (tensor.role == Role::average || (tensor.role == Role::ignore && kept == Kept::trained));
}

/// The parts of each tensor in a slot that has a shape of its own.
struct SlotParts {
  std::vector<std::optional<TensorInfo>> tensors;  ///< nullopt if there is no part
  std::vector<std::size_t> offsets;                ///< in the slot
  std::size_t elements = 0;
  std::size_t extent = 0;  ///< with padding
};

[[noreturn]] void refuse_moved_slots();

/// Slots whose type of elements is known at run time: everything in Slots except typed access.
class SlotMemory {
 public:
  static constexpr std::size_t absent = std::numeric_limits<std::size_t>::max();

  SlotMemory(const SlotMemory& other);
  SlotMemory(SlotMemory&& other) noexcept;
  SlotMemory& operator=(const SlotMemory& other);
  SlotMemory& operator=(SlotMemory&& other) noexcept;
  ~SlotMemory();

  [[nodiscard]] std::size_t count() const { return names_.size(); }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  /// Throws std::logic_error after the slots were moved from.
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const {
    if (layout_ == nullptr) refuse_moved_slots();
    return layout_;
  }
  [[nodiscard]] DType dtype() const { return dtype_; }

  /// Whether there is state for the tensor, and its offset in a full slot.
  [[nodiscard]] bool keeps(std::size_t tensor) const { return offsets_[tensor] != absent; }
  [[nodiscard]] std::size_t offset(std::size_t tensor) const { return offsets_[tensor]; }
  [[nodiscard]] const std::size_t* offsets() const { return offsets_.data(); }

  /// Whether a slot has the layout of the parameters, so that a law can be bound to it.
  [[nodiscard]] bool full(std::size_t slot) const { return parts_[slot] == nullptr; }
  [[nodiscard]] bool all_full() const { return all_full_; }
  /// Whether a slot has a part for the tensor: all kept tensors have one, except in free slots.
  [[nodiscard]] bool keeps(std::size_t slot, std::size_t tensor) const;
  /// Name, shape, order and size of the part of a tensor in the slot.
  [[nodiscard]] const TensorInfo& info(std::size_t slot, std::size_t tensor) const;

  /// Address and bytes of one tensor's elements in one slot; null and 0 without state. The address
  /// is not const, even for const slots: constness is up to the interface of the method.
  [[nodiscard]] std::byte* address(std::size_t slot, std::size_t index) const;
  [[nodiscard]] std::size_t bytes(std::size_t slot, std::size_t index) const;
  /// Number of elements of one tensor in one slot.
  [[nodiscard]] std::size_t size(std::size_t slot, std::size_t index) const;
  /// The first byte of a slot; null without state.
  [[nodiscard]] std::byte* first(std::size_t slot) const {
    std::byte* const all = block_->data();
    return all == nullptr ? nullptr : all + starts_[slot];
  }
  /// Null for the host's memory.
  [[nodiscard]] MemorySpace* space() const { return layout()->space.get(); }

  /// Index of a slot. Throws std::invalid_argument for an unknown name.
  [[nodiscard]] std::size_t find(std::string_view name) const;

  [[nodiscard]] MemoryReport memory_report() const;

  /// Copies the state of a tensor from slots of the same names, in which it has another index.
  void copy_tensor(std::size_t tensor, const SlotMemory& from, std::size_t place_there) const;

  /// Throws as layout().
  [[nodiscard]] bool lent() const {
    if (block_ == nullptr) refuse_moved_slots();
    return block_->lent;
  }
  [[nodiscard]] const std::shared_ptr<Block>& block() const { return block_; }

 protected:
  /// Allocates memory for the tensors whose bit is set.
  SlotMemory(std::shared_ptr<const Layout> layout, DType dtype, const std::vector<SlotSpec>& slots,
             const std::vector<bool>& keeps);

 private:
  [[nodiscard]] std::shared_ptr<const SlotParts> parts_of(const SlotSpec& slot) const;
  [[nodiscard]] std::size_t extent_of(std::size_t slot) const;
  [[nodiscard]] std::size_t staggered(std::size_t extent) const;

  std::shared_ptr<const Layout> layout_;
  DType dtype_;
  std::vector<std::string> names_;
  std::vector<std::size_t> starts_;                      // of each slot, in bytes of the block
  std::vector<std::shared_ptr<const SlotParts>> parts_;  // null for full slots
  bool all_full_ = true;
  std::vector<std::size_t> offsets_;       // in a full slot
  std::size_t elements_ = 0, extent_ = 0;  // of a full slot, without padding and with it
  std::shared_ptr<Block> block_;
};

/// Full slots with these names.
[[nodiscard]] std::vector<SlotSpec> specs_of(const std::vector<std::string>& names);

}  // namespace detail

/// The state slots of one method: for each slot, elements of type S for each tensor with state, in
/// the number of the tensor's elements or of the slot's shape.
///
/// One allocation; tensors start at multiples of 64 bytes and are padded to whole packs (single
/// numbers are not), slots are staggered. Slots is a value: a copy has memory of its own. A
/// SwapGuard shares the block, so the guard may outlive a moved or destroyed method.
template <StateScalar S>
class Slots : public detail::SlotMemory {
 public:
  /// State for the tensors of type `parameters` that `kept` includes and for which `takes(index)`
  /// is true. Each slot is a name or a SlotSpec. Throws std::invalid_argument for a shape with a
  /// dimension < 0.
  template <class Takes>
  Slots(const std::shared_ptr<const Layout>& layout, DType parameters, Kept kept,
        const std::vector<SlotSpec>& slots, const Takes& takes)
      : SlotMemory(layout, detail::dtype_of<S>(), slots,
                   kept_tensors(*layout, parameters, kept, takes)) {}
  template <std::same_as<std::string> Name, class Takes>
  Slots(const std::shared_ptr<const Layout>& layout, DType parameters, Kept kept,
        const std::vector<Name>& names, const Takes& takes)
      : Slots(layout, parameters, kept, detail::specs_of(names), takes) {}

  /// State for all tensors that `kept` includes.
  Slots(const std::shared_ptr<const Layout>& layout, DType parameters, Kept kept,
        const std::vector<SlotSpec>& slots)
      : Slots(layout, parameters, kept, slots, [](std::size_t) { return true; }) {}
  template <std::same_as<std::string> Name>
  Slots(const std::shared_ptr<const Layout>& layout, DType parameters, Kept kept,
        const std::vector<Name>& names)
      : Slots(layout, parameters, kept, detail::specs_of(names)) {}

  /// State for the tensors whose bit in `kept` is set.
  Slots(const std::shared_ptr<const Layout>& layout, const std::vector<SlotSpec>& slots,
        const std::vector<bool>& keeps)
      : SlotMemory(layout, detail::dtype_of<S>(), slots, keeps) {}

  /// First element of a slot.
  [[nodiscard]] S* data(std::size_t slot) const { return reinterpret_cast<S*>(first(slot)); }

  /// The elements of one tensor in one slot, in whichever memory they are.
  [[nodiscard]] std::span<S> tensor(std::size_t slot, std::size_t index) const {
    return {reinterpret_cast<S*>(address(slot, index)), size(slot, index)};
  }

 private:
  template <class Takes>
  [[nodiscard]] static std::vector<bool> kept_tensors(const Layout& layout, DType parameters,
                                                      Kept kept, const Takes& takes) {
    std::vector<bool> bits(layout.tensors.size());
    for (std::size_t k = 0; k < bits.size(); ++k) {
      bits[k] = detail::may_keep(layout.tensors[k], parameters, kept) && takes(k);
    }
    return bits;
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/slots.ipp>
#endif
