// SPDX-License-Identifier: Apache-2.0
/// @file
/// Streams: where the elements of each tensor of a list are. Parameters, gradients, slots and single
/// arrays are kinds of stream.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace v0 {

/// Elements of type E, const for what is only read, for each tensor of a list, or one array. A view:
/// what it is made from must outlive it. A tensor has no elements in it where it is of another type
/// or a buffer (Role::copy), where a slot keeps nothing for it, and where it has no gradient.
template <class E>
requires FloatingScalar<std::remove_const_t<E>>
class Stream {
 public:
  using Element = E;

  Stream(const Layout* layout, const detail::TensorMemory* memory)
      : layout_(layout), memory_(memory) {}
  Stream(const Layout* layout, E* const* pointers) : layout_(layout), pointers_(pointers) {}
  /// Tensor k begins at first + offsets[k].
  Stream(const Layout* layout, E* first, const std::size_t* offsets)
      : layout_(layout), first_(first), offsets_(offsets) {}
  /// One array.
  explicit Stream(std::span<E> array) : first_(array.data()), size_(array.size()) {}

  /// The elements of tensor k, or null.
  [[nodiscard]] E* operator[](std::size_t k) const {
    if (memory_ != nullptr) {
      const TensorInfo& info = layout_->tensors[k];
      const bool none = info.role == Role::copy || info.dtype != detail::dtype_of<Number>();
      return none ? nullptr : static_cast<E*>(memory_[k].data);
    }
    if (pointers_ != nullptr) return pointers_[k];
    if (offsets_ == nullptr) return first_;
    return offsets_[k] == Slots<Number>::absent ? nullptr : first_ + offsets_[k];
  }
  /// Null for a single array.
  [[nodiscard]] const Layout* layout() const { return layout_; }
  [[nodiscard]] std::size_t tensors() const {
    return layout_ == nullptr ? 1 : layout_->tensors.size();
  }
  /// Elements of tensor k, whether the stream has them or not.
  [[nodiscard]] std::size_t size(std::size_t k) const {
    return layout_ == nullptr ? size_ : layout_->tensors[k].size;
  }

 private:
  using Number = std::remove_const_t<E>;
  const Layout* layout_ = nullptr;
  const detail::TensorMemory* memory_ = nullptr;
  E* const* pointers_ = nullptr;
  E* first_ = nullptr;
  const std::size_t* offsets_ = nullptr;
  std::size_t size_ = 0;
};

namespace detail {

/// The type of a container's elements.
template <class Container>
using contained_t = std::remove_pointer_t<decltype(std::declval<Container&>().data())>;

/// A span, std::vector or std::array of floating-point numbers.
template <class Array>
concept NumberArray =
    FlatObject<Array> && FloatingScalar<std::remove_const_t<contained_t<Array>>>;

template <FloatingScalar P>
[[nodiscard]] Stream<const P> input_stream(const Parameters<P>& params) {
  return {params.layout().get(), ParameterAccess<P>::memory(params)};
}
template <FloatingScalar P>
[[nodiscard]] Stream<const P> input_stream(const Parameters<P>* params) {
  return input_stream(*params);
}
template <FloatingScalar P>
[[nodiscard]] Stream<const P> input_stream(const Gradients<P>& gradients) {
  return {gradients.layout().get(), gradients.data()};
}
template <class Array>
requires NumberArray<const Array>
[[nodiscard]] auto input_stream(const Array& array) {
  using E = std::remove_const_t<contained_t<const Array>>;
  return Stream<const E>(std::span<const E>(array.data(), array.size()));
}
template <class E>
[[nodiscard]] Stream<const std::remove_const_t<E>> input_stream(const Stream<E>& stream) {
  if constexpr (std::is_const_v<E>) {
    return stream;
  } else {
    static_assert(std::is_const_v<E>, "polyak: a stream that is read is of const numbers");
  }
}

template <FloatingScalar P>
[[nodiscard]] Stream<P> output_stream(const Parameters<P>& params) {
  if (params.swapped()) {
    refuse_order("polyak: writing to parameters while an average is swapped in");
  }
  return {params.layout().get(), ParameterAccess<P>::memory(params)};
}
template <class Array>
requires NumberArray<Array>
[[nodiscard]] auto output_stream(Array& array) {
  using E = contained_t<Array>;
  static_assert(!std::is_const_v<E>, "polyak: what is written must not be const");
  return Stream<E>(std::span<E>(array.data(), array.size()));
}
template <class E>
[[nodiscard]] Stream<E> output_stream(const Stream<E>& stream) {
  return stream;
}

}  // namespace detail

/// One slot of a method's state. Throws std::logic_error for a slot with a shape of its own.
template <StateScalar S>
[[nodiscard]] Stream<S> slot_stream(const Slots<S>& slots, std::size_t slot) {
  if (!slots.full(slot)) {
    detail::refuse_order("polyak: slot \"" + slots.names()[slot] +
                         "\" does not have the shape of the parameters");
  }
  return {slots.layout().get(), slots.data(slot), slots.offsets()};
}

/// What a sweep over streams reads, in the order of the law's inputs: Parameters, Gradients, spans,
/// vectors or arrays of numbers, or a Stream.
template <class... Sources>
[[nodiscard]] auto reads(const Sources&... sources) {
  return std::tuple(detail::input_stream(sources)...);
}

/// What it writes, in the order of the law's outputs: all of these but Gradients. Throws
/// std::logic_error while an average is swapped into the parameters.
template <class... Targets>
[[nodiscard]] auto writes(Targets&&... targets) {
  return std::tuple(detail::output_stream(targets)...);
}

}  // namespace v0
}  // namespace polyak
