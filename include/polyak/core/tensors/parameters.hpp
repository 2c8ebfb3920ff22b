// SPDX-License-Identifier: Apache-2.0
/// @file
/// Named, shaped views of a model's tensors, used in place.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// Where a tensor's elements are. The walk reads an array of these.
struct TensorMemory {
  void* data = nullptr;
  std::size_t size = 0;
};

[[nodiscard]] inline bool overlap(const void* a, std::size_t a_bytes, const void* b,
                                  std::size_t b_bytes) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a);
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b);
  return a_begin < b_begin + b_bytes && b_begin < a_begin + a_bytes;
}

}  // namespace detail

/// One registered tensor, as `params[i]` hands it out.
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

  /// The elements, in the order of the layout. Throws std::invalid_argument for a tensor of
  /// another type than P (a counter, say).
  [[nodiscard]] element_t<P>* data() const {
    if (info_->dtype != detail::dtype_of<P>()) {
      detail::refuse_value("polyak: tensor \"" + info_->name + "\" holds " +
                           std::string(detail::name_of(info_->dtype)));
    }
    return static_cast<element_t<P>*>(memory_.data);
  }

 private:
  const TensorInfo* info_;
  detail::TensorMemory memory_;
};

/// A list of a model's tensors: names, shapes, roles and where their memory is. Owns no memory.
///
/// Weights are of type P; integers and other types can be registered with Role::copy or
/// Role::ignore. Copies of a list refer to the same tensors, and share the mark that says whether
/// an average is swapped in.
template <ParameterScalar P = float>
class Parameters {
 public:
  Parameters() requires(!detail::on_device<P>)
      : layout_(std::make_shared<Layout>()), swapped_(std::make_shared<std::atomic<bool>>(false)) {}

  /// A list in the memory of a device: `polyak::cuda::Parameters<float> params(executor)`.
  template <class Executor>
  requires(detail::on_device<P>) explicit Parameters(const Executor& executor)
      : layout_(std::make_shared<Layout>()), swapped_(std::make_shared<std::atomic<bool>>(false)) {
    own_layout().space = executor.space();
  }

  /// Registers an Eigen matrix, array, map, tensor or tensor map, whose shape and storage order it
  /// takes over (vectors have one dimension), or a span, std::vector or std::array of one
  /// dimension. The memory must be contiguous and outlive the list.
  ///
  /// The very memory of an earlier tensor makes `name` an alias of it. Throws
  /// std::invalid_argument for an empty or used name, partial overlap (naming both tensors), null
  /// memory, a type other than P with Role::average, or strides.
  template <class Object>
  requires detail::Registrable<std::remove_reference_t<Object>> Parameters& add(
      std::string name, Object&& object, Role role = Role::average) {
    static_assert(!detail::dies_with_its_memory<Object>,
                  "polyak: Parameters view memory, they cannot keep a temporary alive");
    auto described = detail::describe_object(object);
    detail::require_contiguous(described.contiguous, name);
    return add_memory(std::move(name), described.data, std::move(described.shape), role,
                      described.order);
  }

  /// Registers a span, std::vector or std::array of `shape`, row-major unless told otherwise.
  /// Throws as above, and where the sizes differ.
  template <class Object>
  requires detail::FlatObject<std::remove_reference_t<Object>> Parameters& add(
      std::string name, Object&& object, Shape shape, Role role = Role::average,
      Order order = Order::row_major) {
    static_assert(!detail::dies_with_its_memory<Object>,
                  "polyak: Parameters view memory, they cannot keep a temporary alive");
    const std::size_t elements = detail::elements_of(shape, name);
    if (elements != object.size()) {
      detail::refuse_argument("the shape of tensor \"" + name + "\" must have " +
                                  detail::text(object.size()) + " elements",
                              elements);
    }
    return add_memory(std::move(name), object.data(), std::move(shape), role, order);
  }

  /// Registers raw memory.
  template <class T>
  Parameters& add(std::string name, T* data, Shape shape, Role role = Role::average,
                  Order order = Order::row_major) {
    return add_memory(std::move(name), data, std::move(shape), role, order);
  }

  /// Distinct tensors; aliases do not count.
  [[nodiscard]] std::size_t size() const { return memory_.size(); }

  /// All elements of type P, aliases counted once.
  [[nodiscard]] std::size_t elements() const {
    std::size_t sum = 0;
    for (const TensorInfo& tensor : layout_->tensors) {
      if (tensor.dtype == detail::dtype_of<P>()) sum += tensor.size;
    }
    return sum;
  }

  [[nodiscard]] TensorRef<P> operator[](std::size_t index) const {
    return {layout_->tensors[index], memory_[index]};
  }

  /// The tensor of that name or alias. Throws std::invalid_argument where there is none.
  [[nodiscard]] TensorRef<P> at(std::string_view name) const {
    const std::size_t index = layout_->find_any(name);
    if (index == size()) {
      detail::refuse_value(std::string("polyak: there is no tensor \"").append(name).append("\""));
    }
    return (*this)[index];
  }

  /// Names, shapes and roles; two lists of equal layout can stand for each other.
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const { return layout_; }

  /// Whether the memory holds an average now, through a SwapGuard.
  [[nodiscard]] bool swapped() const { return swapped_->load(); }

 private:
  template <ParameterScalar>
  friend struct ParameterAccess;

  template <class T>
  Parameters& add_memory(std::string name, T* data, Shape shape, Role role, Order order) {
    static_assert(!std::is_const_v<T>, "polyak: parameters must be writable");
    return add_typed(TensorInfo{std::move(name), std::move(shape), order, role,
                                detail::dtype_of<typename detail::Registered<T>::type>(), 0},
                     data);
  }

  Parameters& add_typed(TensorInfo tensor, void* data) {
    const std::string& name = tensor.name;
    tensor.size = detail::elements_of(tensor.shape, name);
    tensor.order = detail::canonical(tensor.order, tensor.shape);
    const std::size_t bytes = tensor.size * detail::bytes_of(tensor.dtype);
    require(!name.empty(), "a tensor's name must not be empty", name);
    require(layout_->find_any(name) == size(), "a tensor's name must be new", name);
    if (tensor.role == Role::average && tensor.dtype != detail::dtype_of<P>()) {
      detail::refuse_argument("tensor \"" + name + "\" is not of the list's type " +
                                  std::string(detail::name_of(detail::dtype_of<P>())) +
                                  ": its role must be copy or ignore; its type",
                              detail::name_of(tensor.dtype));
    }
    if (data == nullptr && bytes != 0) {
      detail::refuse_argument("tensor \"" + name + "\" must have memory; its address",
                              std::string_view("null"));
    }
    if (layout_->space != nullptr && bytes != 0) layout_->space->check(data, name);
    if (swapped()) detail::refuse_order("polyak: add() while an average is swapped in");
    if (const std::size_t k = index_.first_overlap(data, bytes); k != detail::MemoryIndex::none) {
      const TensorInfo& other = layout_->tensors[k];
      const bool same = data == memory_[k].data &&
                        bytes == other.size * detail::bytes_of(other.dtype) &&
                        tensor.dtype == other.dtype && tensor.role == other.role;
      if (!same) {
        detail::refuse_value("polyak: the memory of tensor \"" + name + "\" overlaps that of \"" +
                             other.name + "\"; only the same memory, type and role is an alias");
      }
      own_layout().add_alias(name, other.name);
      return *this;
    }
    detail::make_room(memory_);  // so that nothing can fail between the three lists
    index_.make_room();
    Layout& layout = own_layout();
    layout.make_room();
    memory_.push_back({data, tensor.size});
    index_.add(data, bytes);
    layout.add(std::move(tensor));
    return *this;
  }

  /// The layout, copied first where a method or another list holds it.
  Layout& own_layout() {
    auto own = layout_.use_count() > 1 ? std::make_shared<Layout>(*layout_)
                                       : std::const_pointer_cast<Layout>(layout_);
    layout_ = own;
    return *own;
  }

  std::shared_ptr<const Layout> layout_;
  std::vector<detail::TensorMemory> memory_;
  detail::MemoryIndex index_;
  std::shared_ptr<std::atomic<bool>> swapped_;
};

/// The door through which the walk and the guard reach a list's memory and mark.
template <ParameterScalar P>
struct ParameterAccess {
  [[nodiscard]] static const detail::MemoryIndex& index(const Parameters<P>& params) {
    return params.index_;
  }
  [[nodiscard]] static const detail::TensorMemory* memory(const Parameters<P>& params) {
    return params.memory_.data();
  }
  [[nodiscard]] static const std::shared_ptr<std::atomic<bool>>& mark(const Parameters<P>& params) {
    return params.swapped_;
  }
};

}  // namespace v0
}  // namespace polyak
