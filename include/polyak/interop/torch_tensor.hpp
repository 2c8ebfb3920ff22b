// SPDX-License-Identifier: Apache-2.0
/// @file
/// A tensor of LibTorch as the lists of polyak follow it: which tensors are accepted, where their
/// elements are now, and where those of their gradients are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace torch {
namespace detail {

[[noreturn]] inline void refuse_tensor(std::string_view name, std::string_view what) {
  polyak::detail::refuse_value(
      std::string("polyak: tensor \"").append(name).append("\" ").append(what));
}

/// The type of the elements; nullopt for types that polyak does not know.
[[nodiscard]] inline std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::boolean;
    case at::kChar:
      return DType::int8;
    case at::kByte:
      return DType::uint8;
    case at::kShort:
      return DType::int16;
    case at::kInt:
      return DType::int32;
    case at::kLong:
      return DType::int64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    case at::kFloat:
      return DType::float32;
    case at::kDouble:
      return DType::float64;
    default:
      return std::nullopt;
  }
}

/// Whether the dimensions, given from the outermost to the innermost, follow each other in memory
/// without gaps.
template <class Dimension>
[[nodiscard]] bool dense(const at::Tensor& tensor, Dimension dimension) {
  std::int64_t stride = 1;
  for (std::int64_t k = tensor.dim(); k-- > 0;) {
    const std::int64_t d = dimension(k);
    if (tensor.size(d) != 1 && tensor.stride(d) != stride) return false;
    stride *= tensor.size(d);
  }
  return true;
}
/// Whether the elements lie in this order, without gaps.
[[nodiscard]] inline bool lies_in(const at::Tensor& tensor, Order order) {
  const std::int64_t last = tensor.dim() - 1;
  switch (order) {
    case Order::row_major:
      return tensor.is_contiguous();
    case Order::column_major:
      return dense(tensor, [&](std::int64_t k) { return last - k; });
    default:
      return last >= 2 && dense(tensor, [&](std::int64_t k) {
               return k == 0 ? 0 : k == last ? 1 : k + 1;
             });
  }
}
[[nodiscard]] inline std::optional<Order> order_of(const at::Tensor& tensor) {
  for (const Order order : {Order::row_major, Order::channels_last, Order::column_major}) {
    if (lies_in(tensor, order)) return order;
  }
  return std::nullopt;
}

/// Refuses a tensor, or the gradient of one, whose elements cannot be read from the host's memory.
inline void require_elements(const at::Tensor& tensor, std::string_view name,
                             std::string_view whose = "") {
  const auto refuse = [&](const std::string& what) {
    refuse_tensor(name, std::string(whose).append(what));
  };
  if (!tensor.defined()) refuse("is not defined any more");
  if (tensor.layout() != at::kStrided) refuse("is sparse; it must be strided: use to_dense()");
  if (!tensor.device().is_cpu()) {
    refuse("is on the device " + tensor.device().str() +
           "; it must be in the host's memory: use to(torch::kCPU)");
  }
  if (tensor.is_quantized() || !dtype_of(tensor.scalar_type()).has_value()) {
    refuse(std::string("has elements of the type ") + c10::toString(tensor.scalar_type()) +
           ", which polyak does not know");
  }
  if (!tensor.has_storage()) refuse("has no storage");
}

/// The storage of a tensor, kept by a guard.
class KeptStorage final : public polyak::detail::KeptMemory {
 public:
  explicit KeptStorage(at::Storage storage)
      : storage_(std::move(storage)), begin_(storage_.data_ptr().get()) {}
  /// resize_() moves the elements of a storage.
  [[nodiscard]] bool intact() const noexcept override {
    return storage_.data_ptr().get() == begin_;
  }

 private:
  at::Storage storage_;
  const void* begin_;
};

/// A parameter or a buffer of a module. It shares the tensor with the module, so it sees where
/// set_data(), torch::load() and the like put the elements, and keeps them after the module's end.
class SharedTensor final : public polyak::detail::SharedObject {
 public:
  at::Tensor tensor;
  std::string name;
  Shape shape;
  Order order;
  DType dtype;
  /// Tensors of other names that shared the memory when they were registered.
  std::vector<std::shared_ptr<SharedTensor>> tied;
  at::Tensor gradient;  ///< that the last step read, or reads

  SharedTensor(std::string its_name, at::Tensor its_tensor)
      : tensor(std::move(its_tensor)), name(std::move(its_name)) {
    require_elements(tensor, name);
    shape.assign(tensor.sizes().begin(), tensor.sizes().end());
    dtype = *dtype_of(tensor.scalar_type());
    const std::optional<Order> its_order = order_of(tensor);
    if (!its_order.has_value()) {
      refuse_tensor(
          name, "must be contiguous, channels-last or column-major; use set_data(contiguous())");
    }
    order = polyak::detail::canonical(*its_order, shape);
  }

  [[nodiscard]] void* data() const { return tensor.data_ptr(); }
  [[nodiscard]] std::size_t bytes() const {
    return static_cast<std::size_t>(tensor.numel()) * polyak::detail::bytes_of(dtype);
  }

  /// As detail::Followed wants it.
  [[nodiscard]] static polyak::detail::Followed follow(
      const std::shared_ptr<const SharedTensor>& object) {
    return {object.get(), &read, object};
  }

  [[nodiscard]] std::shared_ptr<const polyak::detail::KeptMemory> keep() const override {
    if (!tensor.has_storage()) return nullptr;
    return std::make_shared<KeptStorage>(tensor.storage());
  }

  void check() const override {
    require_elements(tensor, name);
    if (as_registered()) return;
    const auto words = [](DType type, at::IntArrayRef sizes) {
      return std::string(polyak::detail::name_of(type)) + " " +
             polyak::detail::shape_text({sizes.begin(), sizes.end()});
    };
    const std::string now = words(*dtype_of(tensor.scalar_type()), tensor.sizes());
    const std::string then = words(dtype, shape);
    refuse_tensor(name, now != then ? "is " + now + " now, expected " + then
                                    : "has other strides now; make a Model of the module again");
  }

  /// The gradient's elements in the order of the tensor's, or null where there is no gradient.
  /// Copies a gradient of other strides, and the sum of those of tied tensors.
  [[nodiscard]] const void* read_gradient() {
    gradient = checked_gradient();
    for (const auto& other : tied) {
      if (other->tensor.is_same(tensor)) continue;  // autograd has summed
      const at::Tensor more = other->checked_gradient();
      if (!more.defined()) continue;
      copy_gradient(more, gradient.defined());
    }
    if (!gradient.defined()) return nullptr;
    if (!lies_in(gradient, order) || gradient.is_neg()) copy_gradient(gradient, false);
    alignas(double) static constexpr char nowhere = 0;
    return gradient.numel() == 0 ? &nowhere : gradient.data_ptr();
  }
  /// Lets go of the gradient, so that its memory is free when the module lets go of it too.
  void release_gradient() { gradient.reset(); }

 private:
  [[nodiscard]] bool as_registered() const {
    return tensor.defined() && tensor.layout() == at::kStrided && tensor.device().is_cpu() &&
           tensor.has_storage() && dtype_of(tensor.scalar_type()) == dtype &&
           tensor.sizes() == at::IntArrayRef(shape) && lies_in(tensor, order);
  }
  static bool read(const void* object, const TensorInfo&, void** data, Shape* now) {
    const SharedTensor& self = *static_cast<const SharedTensor*>(object);
    if (now != nullptr) now->assign(self.tensor.sizes().begin(), self.tensor.sizes().end());
    if (!self.as_registered()) return false;
    *data = self.data();
    return true;
  }

  /// The gradient as autograd left it, which may be undefined.
  [[nodiscard]] at::Tensor checked_gradient() const {
    if (!tensor.requires_grad()) return {};
    at::Tensor found = tensor.grad();
    if (!found.defined()) return found;
    require_elements(found, name, "has a gradient that ");
    if (found.scalar_type() != tensor.scalar_type()) {
      refuse_tensor(name, std::string("has a gradient of ") +
                              std::string(polyak::detail::name_of(*dtype_of(found.scalar_type()))) +
                              ", expected " + std::string(polyak::detail::name_of(dtype)));
    }
    if (found.sizes() != tensor.sizes()) {
      refuse_tensor(name, "has a gradient of another shape");
    }
    return found;
  }
  /// Makes `gradient` a copy of `from`, or adds it to what `gradient` is.
  void copy_gradient(const at::Tensor& from, bool add) {
    const c10::NoGradGuard no_graph;
    if (!copy_.defined()) copy_ = at::empty_strided(shape, tensor.strides(), tensor.options());
    if (add) {
      if (!gradient.is_same(copy_)) copy_.copy_(gradient);
      copy_.add_(from);
    } else {
      copy_.copy_(from);
    }
    gradient = copy_;
  }

  at::Tensor copy_;
};

}  // namespace detail
}  // namespace torch
}  // namespace POLYAK_V0
}  // namespace polyak
