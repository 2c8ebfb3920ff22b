// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tensors of a module of LibTorch, with their roles, and checks that they are as they were.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/interop/torch_tensor.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace torch {
namespace detail {

class ModuleTensors {
 public:
  struct Item {
    std::shared_ptr<SharedTensor> tensor;
    Role role;
  };

  /// Throws std::invalid_argument for a tensor that SharedTensor refuses.
  explicit ModuleTensors(const ::torch::nn::Module& module) {
    const auto find = [&](const auto& tensors, bool buffers) {
      for (const auto& item : tensors) {
        const at::Tensor& tensor = item.value();
        if (!tensor.defined()) continue;
        const Role role = buffers || !tensor.is_floating_point() ? Role::copy
                          : tensor.requires_grad()               ? Role::average
                                                                 : Role::frozen;
        items_.push_back({std::make_shared<SharedTensor>(item.key(), tensor), role});
        if (role == Role::average) types_ |= bit(items_.back().tensor->dtype);
      }
    };
    find(module.named_parameters(), false);
    find(module.named_buffers(), true);
  }

  /// Parameters, then buffers, in the module's order. Of tied tensors all.
  [[nodiscard]] const std::vector<Item>& items() const { return items_; }
  /// Whether there are trained weights of this type.
  [[nodiscard]] bool trains(DType dtype) const { return (types_ & bit(dtype)) != 0; }

  /// Notes that a list took an item, under its own name, or as an alias of the tensor `name`.
  void took(const Item& item) { own_.push_back(item); }
  void took_alias(const Item& item, const std::string& name) {
    for (const Item& one : own_) {
      if (one.tensor->name == name) one.tensor->tied.push_back(item.tensor);
    }
  }

  /// Looks whether the tensors are as they were registered, wherever they are. Throws
  /// std::invalid_argument if not, if tied ones have come apart, and if others share memory now.
  void check() {
    bool moved = seen_.size() != own_.size();
    seen_.resize(own_.size());
    for (std::size_t k = 0; k < own_.size(); ++k) {
      const SharedTensor& tensor = *own_[k].tensor;
      tensor.check();
      void* const data = tensor.data();
      moved = moved || data != seen_[k];
      for (const auto& other : tensor.tied) {
        other->check();
        if (other->data() != data) {
          seen_.clear();
          refuse_tensor(other->name, "was tied to \"" + tensor.name +
                                         "\" and has memory of its own now; make a Model of the "
                                         "module again");
        }
      }
      seen_[k] = data;
    }
    if (moved) require_apart();
  }

  /// Throws std::invalid_argument for a frozen weight that has got a gradient.
  void require_frozen() const {
    for (const Item& item : own_) {
      const at::Tensor& tensor = item.tensor->tensor;
      if (item.role == Role::frozen && tensor.requires_grad() && tensor.grad().defined()) {
        refuse_tensor(item.tensor->name,
                      "was frozen when the Model was made, and has a gradient now; make a Model "
                      "of the module again");
      }
    }
  }

  /// Lets go of all gradients.
  void release_gradients() {
    for (const Item& item : own_) item.tensor->release_gradient();
  }

 private:
  [[nodiscard]] static unsigned bit(DType dtype) { return 1U << static_cast<unsigned>(dtype); }

  void require_apart() {
    by_place_.clear();
    for (const Item& item : own_) {
      if (item.tensor->bytes() != 0) by_place_.push_back(item.tensor.get());
    }
    std::sort(by_place_.begin(), by_place_.end(), [](const auto* a, const auto* b) {
      return std::less<const void*>()(a->data(), b->data());
    });
    for (std::size_t k = 1; k < by_place_.size(); ++k) {
      const SharedTensor &a = *by_place_[k - 1], &b = *by_place_[k];
      if (polyak::detail::overlap(a.data(), a.bytes(), b.data(), b.bytes())) {
        seen_.clear();
        refuse_tensor(b.name, "overlaps the memory of \"" + a.name + "\"");
      }
    }
  }

  std::vector<Item> items_;
  std::vector<Item> own_;  // without aliases
  std::vector<const SharedTensor*> by_place_;
  std::vector<void*> seen_;  // where they were at the last look
  unsigned types_ = 0;       // of the trained weights, a bit each
};

}  // namespace detail
}  // namespace torch
}  // namespace POLYAK_V0
}  // namespace polyak
