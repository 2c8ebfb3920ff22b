// SPDX-License-Identifier: Apache-2.0
/// @file
/// Streams: the places of the elements of each tensor of a list. Parameters, gradients, slots and
/// single arrays are kinds of stream.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Elements of type E for each tensor of a list, or one array; E is const for streams that are only
/// read. A view: its source must outlive it.
template <class E>
requires FloatingScalar<std::remove_const_t<E>>
class Stream {
 public:
  using Element = std::remove_const_t<E>;

  Stream(const Layout* layout, const detail::TensorMemory* memory)
      : layout_(layout), memory_(memory) {}
  Stream(const Layout* layout, E* const* pointers) : layout_(layout), pointers_(pointers) {}
  /// Tensor k begins at first + offsets[k].
  Stream(const Layout* layout, E* first, const std::size_t* offsets)
      : layout_(layout), first_(first), offsets_(offsets) {}
  /// One array.
  explicit Stream(std::span<E> array) : first_(array.data()), size_(array.size()) {}
  Stream(E* first, std::size_t size, const MemorySpace* space)
      : first_(first), size_(size), space_(space) {}
  /// Converts a writable stream to a read-only one.
  template <class Other>
  requires(std::is_const_v<E>&& std::same_as<Other, Element>) Stream(const Stream<Other>& other)
      : layout_(other.layout_),
        memory_(other.memory_),
        pointers_(other.pointers_),
        first_(other.first_),
        offsets_(other.offsets_),
        size_(other.size_),
        space_(other.space_) {}

  /// The elements of tensor k, or null.
  [[nodiscard]] E* operator[](std::size_t k) const {
    if (memory_ != nullptr) return static_cast<E*>(memory_[k].data);
    if (pointers_ != nullptr) return pointers_[k];
    if (offsets_ == nullptr) return first_;
    if (offsets_[k] == Slots<Element>::absent) return nullptr;
    // In bytes: of 16 bits E need not be complete.
    const auto place = reinterpret_cast<std::uintptr_t>(first_);
    return reinterpret_cast<E*>(place + offsets_[k] * detail::scalar_bytes<Element>);
  }
  /// Whether there are elements of tensor k. There are none if it has another type, is a buffer
  /// (Role::copy) or frozen, has no gradient, or has no state in a slot.
  [[nodiscard]] bool has(std::size_t k) const {
    if (memory_ == nullptr) return (*this)[k] != nullptr;
    const TensorInfo& info = layout_->tensors[k];
    return info.dtype == detail::dtype_of<Element>() && detail::is_trained(info.role);
  }
  /// Null for a single array, of size() elements.
  [[nodiscard]] const Layout* layout() const { return layout_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Where the elements are. Null for the host's memory, and for an array of plain addresses.
  [[nodiscard]] const MemorySpace* space() const {
    return layout_ != nullptr ? layout_->space.get() : space_;
  }

 private:
  template <class Other>
  requires FloatingScalar<std::remove_const_t<Other>>
  friend class Stream;

  const Layout* layout_ = nullptr;
  const detail::TensorMemory* memory_ = nullptr;
  E* const* pointers_ = nullptr;
  E* first_ = nullptr;
  const std::size_t* offsets_ = nullptr;
  std::size_t size_ = 0;
  const MemorySpace* space_ = nullptr;  // of an array
};

namespace detail {
/// The memory space of an object that knows it.
template <class Array>
[[nodiscard]] const MemorySpace* space_of_array(const Array& array) {
  if constexpr (requires { array.space(); }) {
    return array.space().get();
  } else {
    return nullptr;
  }
}
}  // namespace detail

/// Sources: Parameters, Gradients, spans, vectors, arrays or buffers of numbers, or a Stream.
template <ParameterScalar P>
[[nodiscard]] Stream<const element_t<P>> stream_of(const Parameters<P>& params) {
  return {params.layout().get(), ParameterAccess<P>::memory(params)};
}
template <ParameterScalar P>
[[nodiscard]] Stream<const element_t<P>> stream_of(const Gradients<P>& gradients) {
  return {gradients.layout().get(), gradients.data()};
}
template <class Array>
requires(detail::FlatObject<const Array>&& FloatingScalar<typename Array::value_type>)
    [[nodiscard]] Stream<const typename Array::value_type> stream_of(const Array& array) {
  return {array.data(), static_cast<std::size_t>(array.size()), detail::space_of_array(array)};
}
template <class E>
[[nodiscard]] Stream<const std::remove_const_t<E>> stream_of(const Stream<E>& stream) {
  return stream;
}
/// One slot of a method's state; it has no elements for tensors without state. Throws
/// std::logic_error for a slot that has a shape of its own.
template <StateScalar S>
[[nodiscard]] Stream<S> stream_of(const Slots<S>& slots, std::size_t slot) {
  if (!slots.full(slot)) {
    detail::refuse_order("polyak: slot \"" + slots.names()[slot] +
                         "\" does not have the shape of the parameters");
  }
  return {slots.layout().get(), slots.data(slot), slots.offsets()};
}

namespace detail {

template <ParameterScalar P>
[[nodiscard]] Stream<element_t<P>> output_stream(const Parameters<P>& params) {
  if (params.swapped()) {
    refuse_order("polyak: writing to parameters while an average is swapped in");
  }
  return {params.layout().get(), ParameterAccess<P>::memory(params)};
}
template <class Array>
requires(FlatObject<Array>&& FloatingScalar<typename Array::value_type>)
    [[nodiscard]] Stream<typename Array::value_type> output_stream(Array& array) {
  return {array.data(), static_cast<std::size_t>(array.size()), space_of_array(array)};
}
template <class E>
requires(!std::is_const_v<E>) [[nodiscard]] Stream<E> output_stream(const Stream<E>& stream) {
  return stream;
}

}  // namespace detail

/// The input streams of a sweep, in the order of the law's inputs; see stream_of(). Gradients are
/// read as stored, without scale, clip coefficient and value limit.
template <class... Sources>
[[nodiscard]] auto reads(const Sources&... sources) {
  return std::tuple(stream_of(sources)...);
}

/// The output streams of a sweep, in the order of the law's outputs: all kinds except Gradients.
/// Throws std::logic_error while an average is swapped into the parameters.
template <class... Targets>
[[nodiscard]] auto writes(Targets&&... targets) {
  return std::tuple(detail::output_stream(targets)...);
}

}  // namespace POLYAK_V0
}  // namespace polyak
