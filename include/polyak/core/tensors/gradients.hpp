// SPDX-License-Identifier: Apache-2.0
/// @file
/// Read-only views of gradients, matched to parameters by name, shape and storage order.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace v0 {

/// Stands for the gradient of a tensor that has none this step.
struct NoGradient {};
inline constexpr NoGradient no_gradient{};

/// The gradients of a parameter list. A tensor whose gradient is not set is left alone by
/// optimizers: no decay, no change of state, no step counted. (A gradient of zeros is a gradient.)
/// Owns no memory and never writes to it.
template <ParameterScalar P = float>
class Gradients {
 public:
  explicit Gradients(const Parameters<P>& params)
      : params_(params), data_(params.size(), nullptr) {}

  /// Sets the gradient of tensor `name`: an Eigen object of its shape and storage order, or a span,
  /// std::vector or std::array of its size (taken to be in its storage order).
  ///
  /// Throws std::invalid_argument that lists what differs, for a buffer (Role::copy), an alias
  /// (give its tensor the summed gradient), or memory that overlaps a parameter.
  template <class Object>
  requires detail::Registrable<std::remove_reference_t<Object>> Gradients& set(
      std::string_view name, Object&& object) {
    return set_at(index_of(name), std::forward<Object>(object));
  }

  /// Sets the gradient of tensor `name` to raw memory of its size and storage order.
  Gradients& set(std::string_view name, const element_t<P>* data) {
    return set_pointer(index_of(name), data);
  }

  /// The same, of a type of CUDA that stands for the list's.
  template <class U>
  requires(!std::same_as<U, element_t<P>> &&
           std::same_as<typename detail::Registered<U>::type, element_t<P>>)
      Gradients& set(std::string_view name, const U* data) {
    return set(name, reinterpret_cast<const element_t<P>*>(data));
  }

  /// Tensor `name` has no gradient from now on.
  Gradients& set(std::string_view name, NoGradient) {
    data_[index_of(name)] = nullptr;
    return *this;
  }

  /// The gradient of the i-th tensor, or null.
  [[nodiscard]] const element_t<P>* operator[](std::size_t index) const { return data_[index]; }
  [[nodiscard]] const element_t<P>* const* data() const { return data_.data(); }
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const { return params_.layout(); }

  /// Sets the gradient of the i-th tensor, as `set` by name.
  template <class Object>
  Gradients& set_at(std::size_t index, Object&& object) {
    if constexpr (std::same_as<std::remove_cvref_t<Object>, NoGradient>) {
      data_[index] = nullptr;
      return *this;
    } else {
      static_assert(!detail::dies_with_its_memory<Object>,
                    "polyak: Gradients view memory, they cannot keep a temporary alive");
      const TensorInfo& tensor = params_[index].info();
      const auto described = detail::describe_object(object);
      static_assert(std::same_as<std::remove_cv_t<std::remove_pointer_t<decltype(described.data)>>,
                                 element_t<P>> ||
                        std::same_as<typename detail::Registered<std::remove_cv_t<
                                         std::remove_pointer_t<decltype(described.data)>>>::type,
                                     element_t<P>>,
                    "polyak: gradients must have the type of the parameters");
      detail::require_contiguous(described.contiguous, tensor.name);
      if (described.flat) {
        require(static_cast<std::size_t>(object.size()) == tensor.size,
                "the gradient of \"" + tensor.name + "\" must have " + detail::text(tensor.size) +
                    " elements",
                static_cast<std::size_t>(object.size()));
      } else if (described.shape != tensor.shape || described.order != tensor.order) {
        TensorInfo given = tensor;
        given.shape = described.shape;
        given.order = described.order;
        detail::refuse_value("polyak: the gradient of \"" + tensor.name + "\" is " +
                             detail::describe(given) + ", expected " + detail::describe(tensor));
      }
      return set_pointer(index, described.data);
    }
  }

 private:
  [[nodiscard]] std::size_t index_of(std::string_view name) const {
    const auto& layout = params_.layout();
    for (const auto& [alias, target] : layout->aliases) {
      if (alias == name) {
        detail::refuse_value(std::string("polyak: \"").append(name) + "\" is an alias of \"" +
                             target + "\": give that tensor the summed gradient");
      }
    }
    const std::size_t index = layout->find(name);
    if (index == layout->tensors.size()) {
      detail::refuse_value(std::string("polyak: there is no tensor \"").append(name).append("\""));
    }
    return index;
  }

  Gradients& set_pointer(std::size_t index, const element_t<P>* data) {
    const TensorInfo& tensor = params_[index].info();
    if (tensor.role == Role::copy || tensor.dtype != detail::dtype_of<P>()) {
      detail::refuse_value("polyak: \"" + tensor.name + "\" is not trained, it takes no gradient");
    }
    require(data != nullptr || tensor.size == 0,
            "the gradient of \"" + tensor.name + "\" must have memory; its address",
            std::string_view("null"));
    for (std::size_t k = 0; k < params_.size(); ++k) {
      if (tensor.size > 0 && params_[k].size() > 0 &&
          detail::overlap(data, tensor.size * detail::scalar_bytes<P>, params_[k].raw(),
                          params_[k].bytes())) {
        detail::refuse_value("polyak: the gradient of \"" + tensor.name +
                             "\" overlaps the memory of tensor \"" + params_[k].name() + "\"");
      }
    }
    if (MemorySpace* const space = params_.layout()->space.get();
        space != nullptr && tensor.size != 0) {
      space->check(data, tensor.name);
    }
    // An empty tensor has a gradient too, though no memory.
    alignas(double) static constexpr char nowhere = 0;
    const void* const place = data != nullptr ? static_cast<const void*>(data) : &nowhere;
    data_[index] = static_cast<const element_t<P>*>(place);
    return *this;
  }

  Parameters<P> params_;
  std::vector<const element_t<P>*> data_;
};

/// The gradients of all trained tensors (roles average and ignore), in the order of registration:
/// one object each, or `no_gradient`. Throws std::invalid_argument as Gradients::set does, and for
/// a wrong number of objects.
template <ParameterScalar P, class... Objects>
[[nodiscard]] Gradients<P> like(const Parameters<P>& params, Objects&&... objects) {
  Gradients<P> gradients(params);
  std::vector<std::size_t> trained;
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& tensor = params[k].info();
    if (tensor.role != Role::copy && tensor.dtype == detail::dtype_of<P>()) trained.push_back(k);
  }
  require(sizeof...(Objects) == trained.size(),
          "like() must be given one gradient for each of the " + detail::text(trained.size()) +
              " trained tensors",
          sizeof...(Objects));
  std::size_t next = 0;
  (gradients.set_at(trained[next++], std::forward<Objects>(objects)), ...);
  return gradients;
}

}  // namespace v0
}  // namespace polyak
