// SPDX-License-Identifier: Apache-2.0
/// @file
/// TensorView and SlotView: reading the state of a method, tensor by tensor.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The read-only elements of one tensor. If a float average is stored in double, elements are
/// rounded as they are read. If the memory is a device's, data() is an address there, and reading
/// an element copies it to the host: use it for inspection, not in loops.
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
  /// Throws std::logic_error if the elements are stored in double.
  [[nodiscard]] const S* data() const {
    if (wide_ != nullptr) {
      detail::refuse_order("polyak: the average of \"" + info_->name +
                           "\" is stored in double; read it element by element, or copy it");
    }
    return data_;
  }
  /// These throw std::logic_error if the elements are on a device.
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

/// Read-only view of one slot, tensor by tensor. Lives as long as the method does not move.
template <StateScalar S>
class SlotView {
 public:
  SlotView(const Slots<S>& slots, std::size_t slot, const Slots<double>* wide = nullptr)
      : slots_(&slots), slot_(slot), wide_(wide) {}

  /// Number of tensors of the parameter list.
  [[nodiscard]] std::size_t size() const { return slots_->layout()->tensors.size(); }

  /// The elements of the i-th tensor. Throws std::invalid_argument if there is no state for it.
  [[nodiscard]] TensorView<S> operator[](std::size_t index) const {
    const bool wide = wide_ != nullptr;
    if (!(wide ? wide_->keeps(slot_, index) : slots_->keeps(slot_, index))) {
      detail::refuse_value("polyak: slot \"" + (wide ? wide_->names() : slots_->names())[slot_] +
                           "\" has no state for tensor \"" + slots_->layout()->tensors[index].name +
                           "\"");
    }
    if (wide) {
      return {wide_->info(slot_, index), nullptr, wide_->tensor(slot_, index).data(),
              slots_->space()};
    }
    return {slots_->info(slot_, index), slots_->tensor(slot_, index).data(), nullptr,
            slots_->space()};
  }

  /// The elements of the tensor with this name or alias.
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

}  // namespace POLYAK_V0
}  // namespace polyak
