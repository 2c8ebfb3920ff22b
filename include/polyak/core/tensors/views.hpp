// SPDX-License-Identifier: Apache-2.0
/// @file
/// Objects that can be registered: Eigen objects, recognised by their members, spans and
/// containers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A matrix, vector, array or map of Eigen, recognised by its members.
template <class T>
concept DenseObject = requires(T& object) {
  object.data();
  object.rows();
  object.cols();
  object.innerStride();
  object.outerStride();
  T::IsRowMajor;
  T::IsVectorAtCompileTime;
};

/// A tensor or tensor map of Eigen's tensor module.
template <class T>
concept TensorObject = requires(T& object) {
  object.data();
  object.dimensions();
  T::NumDimensions;
  T::Layout;
};

/// A span, std::vector, std::array or the like: contiguous, without a shape of its own.
template <class T>
concept FlatObject = !DenseObject<T> && !TensorObject<T> && requires(T & object) {
  object.data();
  object.size();
};

template <class T>
concept Registrable = DenseObject<T> || TensorObject<T> || FlatObject<T>;

/// True for objects that own their memory, so that assignment may move it.
template <class T>
inline constexpr bool owns_its_memory = requires(T& object) {
  object.conservativeResize(0, 0);
}
|| requires(T& object) { object.resize(object.dimensions()); }
|| requires(T& object) { object.push_back(*object.data()); };

/// True for temporaries whose memory dies with them.
template <class T>
inline constexpr bool dies_with_its_memory =
    !std::is_lvalue_reference_v<T> && owns_its_memory<std::remove_cvref_t<T>>;

/// The description of any registrable object.
template <class T>
struct Described {
  T* data;
  Shape shape;
  Order order;
  bool contiguous;
  bool flat;  ///< has no shape of its own, so it matches any shape of its size
};

template <Registrable Object>
[[nodiscard]] auto describe_object(Object& object) {
  using Scalar = std::remove_pointer_t<decltype(object.data())>;
  Described<Scalar> described{object.data(), {}, Order::row_major, true, false};
  if constexpr (DenseObject<Object>) {
    const auto rows = static_cast<std::int64_t>(object.rows());
    const auto columns = static_cast<std::int64_t>(object.cols());
    constexpr bool row_major = static_cast<bool>(Object::IsRowMajor);
    if constexpr (static_cast<bool>(Object::IsVectorAtCompileTime)) {
      described.shape = {rows * columns};
      described.contiguous = object.innerStride() == 1 || rows * columns <= 1;
    } else {
      described.shape = {rows, columns};
      const std::int64_t inner = row_major ? columns : rows;
      const std::int64_t outer = row_major ? rows : columns;
      described.contiguous =
          (object.innerStride() == 1 || inner <= 1) &&
          (static_cast<std::int64_t>(object.outerStride()) == inner || outer <= 1);
    }
    described.order = row_major ? Order::row_major : Order::column_major;
  } else if constexpr (TensorObject<Object>) {
    [[maybe_unused]] const auto& extents = object.dimensions();
    [&]<std::size_t... K>(std::index_sequence<K...>) {  // constants convert to any type of index
      described.shape = {static_cast<std::int64_t>(extents[K])...};
    }
    (std::make_index_sequence<static_cast<std::size_t>(Object::NumDimensions)>{});
    constexpr bool row_major = static_cast<int>(Object::Layout) == 1;
    described.order = row_major ? Order::row_major : Order::column_major;
  } else {
    described.shape = {static_cast<std::int64_t>(object.size())};
    described.flat = true;
  }
  described.order = canonical(described.order, described.shape);
  return described;
}

/// Looks up the elements of an object; see Followed.
template <class Object>
bool read_object(const void* object, const TensorInfo& tensor, void** data, Shape* shape) {
  const Object& now = *static_cast<const Object*>(object);
  *data = const_cast<void*>(static_cast<const void*>(now.data()));
  bool same = static_cast<std::size_t>(now.size()) == tensor.size;
  if constexpr (DenseObject<Object>) {
    if constexpr (!static_cast<bool>(Object::IsVectorAtCompileTime)) {
      same = same && tensor.shape.front() == static_cast<std::int64_t>(now.rows()) &&
             tensor.shape.back() == static_cast<std::int64_t>(now.cols());
    }
  } else if constexpr (TensorObject<Object>) {
    const auto& extents = now.dimensions();
    for (std::size_t k = 0; k < tensor.shape.size(); ++k) {
      same = same && tensor.shape[k] == static_cast<std::int64_t>(extents[k]);
    }
  }
  if (shape != nullptr) *shape = describe_object(now).shape;
  return same;
}

/// How to look up the elements of an object that owns its memory; empty for views.
template <bool Host, class Object>
[[nodiscard]] Followed follow(Object& object) {
  using Plain = std::remove_const_t<Object>;
  if constexpr (Host && owns_its_memory<Plain>) {
    return {&object, &read_object<Plain>};
  } else {
    static_cast<void>(object);
    return {};
  }
}

inline void require_contiguous(bool contiguous, std::string_view name) {
  if (!contiguous) {
    refuse_value(std::string("polyak: tensor \"")
                     .append(name)
                     .append("\" must be contiguous; it has strides between its elements"));
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
