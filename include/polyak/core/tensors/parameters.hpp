// SPDX-License-Identifier: Apache-2.0
/// @file
/// Named, shaped views of a model's tensors, used in place.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// One registered tensor: the result of `params[i]`.
template <ParameterScalar P>
class TensorRef {
 public:
  TensorRef(const TensorInfo& info, detail::TensorMemory memory) : info_(&info), memory_(memory) {}

  [[nodiscard]] const TensorInfo& info() const { return *info_; }
  [[nodiscard]] const std::string& name() const { return info_->name; }
  [[nodiscard]] const Shape& shape() const { return info_->shape; }
  [[nodiscard]] std::size_t size() const { return memory_.size; }
  [[nodiscard]] std::size_t bytes() const { return memory_.size * detail::bytes_of(info_->dtype); }
  [[nodiscard]] void* raw() const { return memory_.data; }

  /// The elements, in the order of the layout. Throws std::invalid_argument for a tensor of a type
  /// other than P, such as a counter.
  [[nodiscard]] element_t<P>* data() const {
    if (info_->dtype != detail::dtype_of<P>()) {
      detail::refuse_data_of(*info_);
    }
    return static_cast<element_t<P>*>(memory_.data);
  }

 private:
  const TensorInfo* info_;
  detail::TensorMemory memory_;
};

/// A list of a model's tensors: names, shapes, roles and memory addresses. Owns no memory.
///
/// Weights are of type P; integers and other types can be registered with Role::copy, Role::ignore
/// or Role::frozen. Copies of a list refer to the same tensors and share the flag for a swapped-in
/// average.
///
/// Objects that own their memory, such as Eigen::MatrixXf or std::vector, are followed: every call
/// looks up where their elements are now, so weights may be assigned and moved into
/// (`W = std::move(other)`). An object of another shape is rejected by the tensor's name before
/// anything changes. The first call after an assignment must not run at the same time as another
/// one on the list. Maps, spans and raw memory stay where they are.
///
/// The list refers to the object itself. A copy of a model class is another model: its own list
/// must be made from its own objects, since a copied list still refers to the original. A model
/// that moves to another address must rebind() its tensors.
template <ParameterScalar P = float>
class Parameters {
 public:
  Parameters() requires(!detail::on_device<P>) : list_(detail::dtype_of<P>(), nullptr) {}

  /// A list in the memory of the executor's device.
  template <class Executor>
  requires(detail::on_device<P>) explicit Parameters(const Executor& executor)
      : list_(detail::dtype_of<P>(), executor.space()) {}

  /// Registers an Eigen matrix, array, map, tensor or tensor map, whose shape and storage order it
  /// takes over (vectors have one dimension), or a span, std::vector or std::array of one
  /// dimension. The memory must be contiguous and outlive the list.
  ///
  /// If the memory is exactly that of an earlier tensor, `name` becomes an alias of it: the tensors
  /// are tied. An alias may be flat, but not transposed or reshaped otherwise. Throws
  /// std::invalid_argument for such an alias and for partial overlap (naming both tensors), an
  /// empty or used name, null memory, a type other than P with Role::average, or strides.
  template <class Object>
  requires detail::Registrable<std::remove_reference_t<Object>> Parameters& add(
      std::string name, Object&& object, Role role = Role::average) {
    static_assert(!detail::dies_with_its_memory<Object>,
                  "polyak: Parameters view memory, they cannot keep a temporary alive");
    auto described = detail::describe_object(object);
    detail::require_contiguous(described.contiguous, name);
    return add_memory(std::move(name), described.data, std::move(described.shape), role,
                      described.order, detail::follow<!detail::on_device<P>>(object));
  }

  /// Registers a span, std::vector or std::array of `shape`, by default row-major. Throws as above,
  /// and if the sizes differ.
  template <class Object>
  requires detail::FlatObject<std::remove_reference_t<Object>> Parameters& add(
      std::string name, Object&& object, Shape shape, Role role = Role::average,
      Order order = Order::row_major) {
    static_assert(!detail::dies_with_its_memory<Object>,
                  "polyak: Parameters view memory, they cannot keep a temporary alive");
    const std::size_t elements = detail::elements_of(shape, name);
    if (elements != object.size()) detail::refuse_size(name, object.size(), elements);
    return add_memory(std::move(name), object.data(), std::move(shape), role, order,
                      detail::follow<!detail::on_device<P>>(object));
  }

  /// Registers raw memory.
  template <class T>
  Parameters& add(std::string name, T* data, Shape shape, Role role = Role::average,
                  Order order = Order::row_major) {
    return add_memory(std::move(name), data, std::move(shape), role, order, {});
  }

  /// Registers raw memory of a type that is known only at run time, such as that of a tensor of
  /// another library. `data` is the first of `shape` elements of type `dtype`. Throws
  /// std::invalid_argument as above, and for a `dtype` that is no DType.
  Parameters& add(std::string name, void* data, DType dtype, Shape shape, Role role = Role::average,
                  Order order = Order::row_major) {
    detail::require_dtype(dtype, name);
    list_.add({std::move(name), std::move(shape), order, role, dtype, 0}, data, {});
    return *this;
  }

  /// Gives a tensor other memory: that of an object of its type, shape and order, or for a span,
  /// std::vector or std::array of its type and size. Copies of the list see it too. For a model
  /// that has moved, and for weights that live elsewhere from now on. State of methods stays.
  ///
  /// Throws std::invalid_argument, with both descriptions, for another type or shape, for memory
  /// that overlaps another tensor, and for an unknown name, std::logic_error while an average is
  /// swapped in. Nothing has changed then.
  template <class Object>
  requires detail::Registrable<std::remove_reference_t<Object>> Parameters& rebind(
      std::string_view name, Object&& object) {
    static_assert(!detail::dies_with_its_memory<Object>,
                  "polyak: Parameters view memory, they cannot keep a temporary alive");
    auto described = detail::describe_object(object);
    detail::require_contiguous(described.contiguous, name);
    const TensorInfo& tensor = at(name).info();
    TensorInfo given{tensor.name, std::move(described.shape),      described.order,
                     tensor.role, registered_type(described.data), 0};
    if (described.flat && static_cast<std::size_t>(object.size()) == tensor.size) {
      given.shape = tensor.shape;
      given.order = tensor.order;
    }
    list_.rebind(given, described.data, detail::follow<!detail::on_device<P>>(object));
    return *this;
  }

  /// The same for raw memory of the tensor's type, size and order.
  template <class T>
  Parameters& rebind(std::string_view name, T* data) {
    TensorInfo given = layout()->tensors[list_.index_of(name)];
    given.dtype = registered_type(data);
    list_.rebind(given, data, {});
    return *this;
  }
  /// The same for a type that is known only at run time, which `dtype` names.
  Parameters& rebind(std::string_view name, void* data, DType dtype) {
    TensorInfo given = layout()->tensors[list_.index_of(name)];
    given.dtype = dtype;
    list_.rebind(given, data, {});
    return *this;
  }

  /// Number of distinct tensors, without aliases.
  [[nodiscard]] std::size_t size() const { return list_.size(); }

  /// Number of elements of type P; aliases count once.
  [[nodiscard]] std::size_t elements() const { return list_.elements(); }

  [[nodiscard]] TensorRef<P> operator[](std::size_t index) const {
    return {layout()->tensors[index], list_.memory(index)};
  }

  /// The tensor with this name or alias. Throws std::invalid_argument if there is none.
  [[nodiscard]] TensorRef<P> at(std::string_view name) const {
    return (*this)[list_.index_of(name)];
  }

  /// Names, shapes and roles; lists of equal layout are interchangeable.
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const { return list_.layout(); }

  /// Whether an average is swapped in now, by a SwapGuard of this list or of another one that views
  /// some of its memory.
  [[nodiscard]] bool swapped() const { return list_.swapped(); }

 private:
  template <ParameterScalar>
  friend struct ParameterAccess;

  template <class T>
  [[nodiscard]] static DType registered_type(T*) {
    static_assert(!std::is_const_v<T>, "polyak: parameters must be writable");
    return detail::dtype_of<typename detail::Registered<T>::type>();
  }
  template <class T>
  Parameters& add_memory(std::string name, T* data, Shape shape, Role role, Order order,
                         const detail::Followed& object) {
    list_.add({std::move(name), std::move(shape), order, role, registered_type(data), 0}, data,
              object);
    return *this;
  }

  detail::ParameterList list_;
};

namespace detail {
template <class T>
inline constexpr bool is_parameters = false;
template <class P>
inline constexpr bool is_parameters<Parameters<P>> = true;
template <class P>
inline constexpr bool is_parameters<const Parameters<P>> = true;
}  // namespace detail

/// Access to a list's memory and its swapped-in flag, for sweeps and guards.
template <ParameterScalar P>
struct ParameterAccess {
  [[nodiscard]] static const detail::ParameterList& list(const Parameters<P>& params) {
    return params.list_;
  }
  /// Registers a tensor of another library.
  static void add(Parameters<P>& params, TensorInfo tensor, void* data, detail::Followed object) {
    params.list_.add(std::move(tensor), data, std::move(object));
  }
  /// The memory of all tensors as it is now.
  [[nodiscard]] static const detail::TensorMemory* memory(const Parameters<P>& params) {
    return params.list_.memory().data();
  }
  /// The memory of all tensors when the last call looked.
  [[nodiscard]] static const detail::TensorMemory* memory_seen(const Parameters<P>& params) {
    return params.list_.memory_seen().data();
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
