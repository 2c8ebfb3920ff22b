// SPDX-License-Identifier: Apache-2.0
/// @file
/// Forms in which a layer's activations and moments are read.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A type with rows (samples), columns (channels) and elements: Eigen's matrices, arrays, maps and
/// expressions.
template <class X>
concept ActivationMatrix = requires(const X& x) {
  x.rows();
  x.cols();
  x(x.rows(), x.cols());
};

/// A vector or array of Eigen, or a span or container, of floating-point numbers.
template <class X>
concept FloatingVector = (DenseObject<const X> || FlatObject<const X>)&&FloatingScalar<
    std::remove_cvref_t<decltype(*std::declval<const X&>().data())>>;

/// Contiguous numbers without a shape of their own.
template <class X>
concept ActivationArray = FloatingVector<X> && !ActivationMatrix<X>;

template <class Value>
[[nodiscard]] double to_double(const Value& value) {
  if constexpr (std::is_arithmetic_v<Value>) {
    return static_cast<double>(value);
  } else {  // 16-bit types convert to float alone
    return static_cast<double>(static_cast<float>(value));
  }
}

/// The k-th number of a vector or container.
template <class Object>
[[nodiscard]] double element(const Object& object, std::size_t k) {
  if constexpr (DenseObject<const Object>) {
    return widened<double>(object.data(), k * static_cast<std::size_t>(object.innerStride()));
  } else {
    return widened<double>(object.data(), k);
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
