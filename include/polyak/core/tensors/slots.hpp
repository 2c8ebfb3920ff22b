// SPDX-License-Identifier: Apache-2.0
/// @file
/// Slots: the state of a method in one aligned block. Most have the layout of the parameters;
/// slot_shape.hpp has the others.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/slot_shape.hpp>

namespace polyak {
inline namespace v0 {

/// What a method's state costs.
struct MemoryReport {
  struct Slot {
    std::string name;
    DType dtype;
    std::size_t elements;  ///< without padding
    std::size_t bytes;     ///< allocated, with padding; its share of the block
  };
  std::vector<Slot> slots;
  std::size_t total = 0;  ///< bytes allocated for state
};

/// The read-only elements of one tensor. Where a float average is kept in double, elements are
/// rounded as they are read. Where the memory is a device's, data() is an address there, and each
/// element that is read is a copy to the host: for a look, not for loops.
template <class S>
class TensorView {
 public:
  TensorView(const TensorInfo& info, const S* data, const double* wide = nullptr,
             MemorySpace* space = nullptr)
      : info_(&info), data_(data), wide_(wide), space_(space) {}
  [[nodiscard]] const std::string& name() const { return info_->name; }
  [[nodiscard]] const Shape& shape() const { return info_->shape; }
  [[nodiscard]] Order order() const { return info_->order; }
  [[nodiscard]] std::size_t size() const { return info_->size; }
  /// Throws std::logic_error where the elements are kept in double.
  [[nodiscard]] const S* data() const {
    if (wide_ != nullptr) {
      detail::refuse_order("polyak: the average of \"" + info_->name +
                           "\" is kept in double; read it element by element, or copy it");
    }
    return data_;
  }
  /// Throw std::logic_error where the elements are on a device.
  [[nodiscard]] const S* begin() const {
    if (space_ != nullptr) {
      detail::refuse_order("polyak: \"" + info_->name +
                           "\" lies on a device; read it element by "
                           "element, or copy it");
    }
    return data();
  }
  [[nodiscard]] const S* end() const { return begin() + size(); }
  [[nodiscard]] S operator()(std::size_t k) const {
    if constexpr (std::same_as<S, float>) {
      if (wide_ != nullptr) return static_cast<float>(read(wide_, k));
    }
    return read(data_, k);
  }
  [[nodiscard]] S operator[](std::size_t k) const { return (*this)(k); }

 private:
  template <class T>
  [[nodiscard]] T read(const T* from, std::size_t k) const {
    if (space_ == nullptr) return from[k];
    T element{};
    space_->read(&element, from + k, sizeof element);
    return element;
  }
  const TensorInfo* info_;
  const S* data_;
  const double* wide_;
  MemorySpace* space_;
};

namespace detail {

/// Elements that every tensor's slot is padded to a multiple of: whole packs of any type.
inline constexpr std::size_t slot_granule = 32;
inline constexpr std::size_t huge_page = std::size_t{1} << 21;
inline constexpr std::size_t page = 4096;

/// Bytes between the end of one slot and the start of the next. Streams at equal addresses modulo
/// 4 KiB alias in the cache, those of large powers of two in the banks of the memory: an odd number
/// of lines, above a page where the slots are large.
[[nodiscard]] constexpr std::size_t stagger(std::size_t slot_bytes) {
  return (slot_bytes >= (std::size_t{1} << 20) ? 107 : 11) * cache_line;
}

/// One zeroed, 64-byte aligned block, in the host's memory or a space; on huge pages where it is
/// large and the system grants them. The system puts all larger blocks at one address modulo 4 KiB;
/// they start at a line of their first page that depends on the page, so that blocks which are
/// walked together do not alias.
class Block {
 public:
  explicit Block(std::size_t bytes, std::shared_ptr<MemorySpace> space = nullptr)
      : bytes_(bytes),
        allocated_(bytes >= 16 * page && space == nullptr ? bytes + page : bytes),
        alignment_(bytes >= 2 * huge_page ? huge_page : cache_line),
        space_(std::move(space)) {
    if (bytes == 0) return;
    if (space_ != nullptr) {
      raw_ = data_ = space_->allocate(bytes);
      return;
    }
    raw_ = static_cast<std::byte*>(::operator new (allocated_, std::align_val_t{alignment_}));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment_ == huge_page) ::madvise(raw_, allocated_, MADV_HUGEPAGE);
#endif
    std::memset(raw_, 0, allocated_);
    data_ = raw_;
    if (allocated_ > bytes) {
      const auto number = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(raw_) / page);
      data_ += (number * 0x9e3779b97f4a7c15u >> 58) * cache_line;  // one of the page's 64 lines
    }
  }
  Block(const Block& other) : Block(other.bytes_, other.space_) {
    copy_bytes(space_.get(), data_, other.data_, bytes_);
  }
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (raw_ == nullptr) return;
    if (space_ != nullptr) {
      space_->release(raw_);
    } else {
      ::operator delete (raw_, std::align_val_t{alignment_});
    }
  }
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t allocated() const { return allocated_; }
  /// Null for the host's memory.
  [[nodiscard]] MemorySpace* space() const { return space_.get(); }

  /// Set while a SwapGuard has exchanged these elements for the weights.
  bool lent = false;

 private:
  std::size_t bytes_ = 0;
  std::size_t allocated_ = 0;
  std::size_t alignment_ = cache_line;
  std::shared_ptr<MemorySpace> space_;
  std::byte* raw_ = nullptr;
  std::byte* data_ = nullptr;
};

}  // namespace detail

/// Which tensors a method keeps state for.
enum class Kept : std::uint8_t {
  trained,   ///< roles average and ignore
  averaged,  ///< role average
};

namespace detail {
/// Whether a method keeps state for a tensor, unless a selection leaves it out.
[[nodiscard]] inline bool may_keep(const TensorInfo& tensor, DType parameters, Kept kept) {
  return tensor.dtype == parameters &&
         (tensor.role == Role::average || (tensor.role == Role::ignore && kept == Kept::trained));
}

/// The elements of a tensor with their padding.
[[nodiscard]] constexpr std::size_t padded(std::size_t elements) {
  return (elements + slot_granule - 1) / slot_granule * slot_granule;
}

/// The parts of the tensors in a slot that has a shape of its own.
struct SlotParts {
  std::vector<std::optional<TensorInfo>> tensors;  ///< none where nothing is kept
  std::vector<std::size_t> offsets;                ///< in the slot
  std::size_t elements = 0;
  std::size_t extent = 0;  ///< with padding
};

}  // namespace detail

/// The state slots of one method: for each slot, elements of type S for each kept tensor, as many
/// as the tensor has or as the slot's shape says.
///
/// One allocation; tensors start at multiples of 64 bytes and are padded to whole packs (single
/// numbers are not), slots are staggered. A value: a copy has memory of its own. A SwapGuard shares
/// the block, so that it survives a moved or destroyed method.
template <StateScalar S>
class Slots {
 public:
  static constexpr std::size_t absent = std::numeric_limits<std::size_t>::max();

  /// State for the tensors of type `parameters` that `kept` says and `takes(index)` does not leave
  /// out. Slots are named, or described by a SlotSpec. Throws std::invalid_argument for a shape
  /// with a dimension < 0.
  template <class Takes>
  Slots(std::shared_ptr<const Layout> layout, DType parameters, Kept kept,
        const std::vector<SlotSpec>& slots, const Takes& takes)
      : Slots(std::move(layout), slots, takes_of(parameters, kept, takes)) {}
  template <std::same_as<std::string> Name, class Takes>
  Slots(std::shared_ptr<const Layout> layout, DType parameters, Kept kept,
        const std::vector<Name>& names, const Takes& takes)
      : Slots(std::move(layout), names, takes_of(parameters, kept, takes)) {}

  /// State for all of them.
  Slots(std::shared_ptr<const Layout> layout, DType parameters, Kept kept,
        const std::vector<SlotSpec>& slots)
      : Slots(std::move(layout), parameters, kept, slots, [](std::size_t) { return true; }) {}
  template <std::same_as<std::string> Name>
  Slots(std::shared_ptr<const Layout> layout, DType parameters, Kept kept,
        const std::vector<Name>& names)
      : Slots(std::move(layout), parameters, kept, names, [](std::size_t) { return true; }) {}

  Slots(const Slots& other)
      : layout_(other.layout_),
        names_(other.names_),
        starts_(other.starts_),
        parts_(other.parts_),
        all_full_(other.all_full_),
        offsets_(other.offsets_),
        elements_(other.elements_),
        extent_(other.extent_) {
    if (other.lent())
      detail::refuse_order("polyak: copying a method while its average is swapped in");
    if (other.space() != nullptr) other.space()->require_settled(other.block_.get());
    block_ = std::make_shared<detail::Block>(*other.block_);
  }
  Slots(Slots&&) noexcept = default;
  Slots& operator=(const Slots& other) { return *this = Slots(other); }
  Slots& operator=(Slots&&) noexcept = default;
  ~Slots() = default;

  [[nodiscard]] std::size_t count() const { return names_.size(); }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const { return layout_; }

  /// Whether there is state for the tensor, and where it begins in a full slot.
  [[nodiscard]] bool keeps(std::size_t tensor) const { return offsets_[tensor] != absent; }
  [[nodiscard]] std::size_t offset(std::size_t tensor) const { return offsets_[tensor]; }
  [[nodiscard]] const std::size_t* offsets() const { return offsets_.data(); }

  /// Whether a slot has the layout of the parameters, so that a law can be bound to it.
  [[nodiscard]] bool full(std::size_t slot) const { return parts_[slot] == nullptr; }
  [[nodiscard]] bool all_full() const { return all_full_; }
  /// Whether a slot has a part for the tensor: all kept tensors have one, except in free slots.
  [[nodiscard]] bool keeps(std::size_t slot, std::size_t tensor) const {
    return keeps(tensor) && (full(slot) || parts_[slot]->tensors[tensor].has_value());
  }
  /// Name, shape, order and size of the part of a tensor that the slot keeps.
  [[nodiscard]] const TensorInfo& info(std::size_t slot, std::size_t tensor) const {
    return full(slot) ? layout_->tensors[tensor] : *parts_[slot]->tensors[tensor];
  }

  /// First element of a slot. State belongs to the method, so a const method has const state only
  /// by the manners of its interface.
  [[nodiscard]] S* data(std::size_t slot) const {
    std::byte* const first = block_->data();
    return reinterpret_cast<S*>(first == nullptr ? nullptr
                                                 : first + starts_[slot] * detail::scalar_bytes<S>);
  }

  /// Where the elements of one tensor in one slot are, and their bytes; none where not kept.
  [[nodiscard]] std::byte* address(std::size_t slot, std::size_t index) const {
    if (!keeps(slot, index) || block_->data() == nullptr) return nullptr;
    const std::size_t offset = full(slot) ? offsets_[index] : parts_[slot]->offsets[index];
    return block_->data() + (starts_[slot] + offset) * detail::scalar_bytes<S>;
  }
  [[nodiscard]] std::size_t bytes(std::size_t slot, std::size_t index) const {
    return keeps(slot, index) ? info(slot, index).size * detail::scalar_bytes<S> : 0;
  }
  /// Null for the host's memory.
  [[nodiscard]] MemorySpace* space() const { return layout_->space.get(); }

  /// The elements of one tensor in one slot, wherever the memory is.
  [[nodiscard]] std::span<S> tensor(std::size_t slot, std::size_t index) const {
    if (!keeps(slot, index)) return {};
    return {reinterpret_cast<S*>(address(slot, index)), info(slot, index).size};
  }

  /// Index of a slot. Throws std::invalid_argument where there is none of that name.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    std::string known;
    for (std::size_t slot = 0; slot < names_.size(); ++slot) {
      if (names_[slot] == name) return slot;
      known += (slot == 0 ? "" : ", ") + names_[slot];
    }
    detail::refuse_value("polyak: there is no slot \"" + std::string(name) +
                         "\"; the slots are: " + known);
  }

  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report;
    const std::size_t beside = block_->allocated() - block_->bytes();
    for (std::size_t slot = 0; slot < names_.size(); ++slot) {
      const std::size_t elements = full(slot) ? elements_ : parts_[slot]->elements;
      const std::size_t own =
          block_->bytes() == 0 ? 0 : staggered(extent_of(slot)) * detail::scalar_bytes<S>;
      report.slots.push_back(
          {names_[slot], detail::dtype_of<S>(), elements, own + beside / names_.size()});
    }
    report.total = block_->allocated();
    return report;
  }

  [[nodiscard]] bool lent() const { return block_->lent; }
  [[nodiscard]] const std::shared_ptr<detail::Block>& block() const { return block_; }

 private:
  /// Memory for slots that are named or described, of the tensors that `keeps(index)` says.
  template <class Slot, class Keeps>
  Slots(std::shared_ptr<const Layout> layout, const std::vector<Slot>& slots, const Keeps& keeps)
      : layout_(std::move(layout)) {
    offsets_.reserve(layout_->tensors.size());
    for (std::size_t k = 0; k < layout_->tensors.size(); ++k) {
      const bool keep = keeps(*layout_, k);
      offsets_.push_back(keep ? extent_ : absent);
      if (!keep) continue;
      elements_ += layout_->tensors[k].size;
      extent_ += detail::padded(layout_->tensors[k].size);
    }
    names_.reserve(slots.size());
    starts_.reserve(slots.size());
    parts_.reserve(slots.size());
    std::size_t total = 0, largest = 0;
    for (const Slot& slot : slots) {
      starts_.push_back(total);
      if constexpr (std::same_as<Slot, SlotSpec>) {
        names_.push_back(slot.name);
        parts_.push_back(slot.shape == SlotShape::full ? nullptr : parts_of(slot));
      } else {
        names_.push_back(slot);
        parts_.push_back(nullptr);
      }
      all_full_ = all_full_ && parts_.back() == nullptr;
      largest = std::max(largest, extent_of(names_.size() - 1));
      total += staggered(extent_of(names_.size() - 1));
    }
    block_ = std::make_shared<detail::Block>(largest == 0 ? 0 : total * detail::scalar_bytes<S>,
                                             layout_->space);
  }
  template <class Takes>
  [[nodiscard]] static auto takes_of(DType parameters, Kept kept, const Takes& takes) {
    return [parameters, kept, &takes](const Layout& layout, std::size_t k) {
      return detail::may_keep(layout.tensors[k], parameters, kept) && takes(k);
    };
  }

  [[nodiscard]] std::shared_ptr<const detail::SlotParts> parts_of(const SlotSpec& slot) const {
    auto parts = std::make_shared<detail::SlotParts>();
    for (std::size_t k = 0; k < offsets_.size(); ++k) {
      auto& part = parts->tensors.emplace_back();
      parts->offsets.push_back(absent);
      if (!keeps(k)) continue;
      part = detail::slot_part(slot, layout_->tensors[k]);
      if (!part.has_value()) continue;
      parts->offsets.back() = parts->extent;
      parts->elements += part->size;
      parts->extent += slot.shape == SlotShape::scalar ? 1 : detail::padded(part->size);
    }
    parts->extent = detail::padded(parts->extent);
    return parts;
  }
  [[nodiscard]] std::size_t extent_of(std::size_t slot) const {
    return full(slot) ? extent_ : parts_[slot]->extent;
  }
  [[nodiscard]] static std::size_t staggered(std::size_t extent) {
    return extent + detail::stagger(extent * detail::scalar_bytes<S>) / detail::scalar_bytes<S>;
  }

  std::shared_ptr<const Layout> layout_;
  std::vector<std::string> names_;
  std::vector<std::size_t> starts_;                              // of the slots in the block
  std::vector<std::shared_ptr<const detail::SlotParts>> parts_;  // null for full slots
  bool all_full_ = true;
  std::vector<std::size_t> offsets_;       // in a full slot
  std::size_t elements_ = 0, extent_ = 0;  // of a full slot, without padding and with it
  std::shared_ptr<detail::Block> block_;
};

/// Read-only view of one slot, tensor by tensor. Lives as long as the method does not move.
template <StateScalar S>
class SlotView {
 public:
  SlotView(const Slots<S>& slots, std::size_t slot, const Slots<double>* wide = nullptr)
      : slots_(&slots), slot_(slot), wide_(wide) {}

  /// Number of tensors of the parameter list.
  [[nodiscard]] std::size_t size() const { return slots_->layout()->tensors.size(); }

  /// The elements of the i-th tensor. Throws std::invalid_argument where no state is kept for it.
  [[nodiscard]] TensorView<S> operator[](std::size_t index) const {
    const bool wide = wide_ != nullptr;
    if (!(wide ? wide_->keeps(slot_, index) : slots_->keeps(slot_, index))) {
      detail::refuse_value("polyak: slot \"" + (wide ? wide_->names() : slots_->names())[slot_] +
                           "\" keeps nothing for tensor \"" +
                           slots_->layout()->tensors[index].name + "\"");
    }
    if (wide) {
      return {wide_->info(slot_, index), nullptr, wide_->tensor(slot_, index).data(),
              slots_->space()};
    }
    return {slots_->info(slot_, index), slots_->tensor(slot_, index).data(), nullptr,
            slots_->space()};
  }

  /// The elements of the tensor of that name or alias.
  [[nodiscard]] TensorView<S> operator[](std::string_view name) const {
    const std::size_t index = slots_->layout()->find_any(name);
    if (index == size()) {
      detail::refuse_value(std::string("polyak: there is no tensor \"").append(name).append("\""));
    }
    return (*this)[index];
  }

 private:
  const Slots<S>* slots_;
  std::size_t slot_;
  const Slots<double>* wide_;
};

}  // namespace v0
}  // namespace polyak
