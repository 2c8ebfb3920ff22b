// SPDX-License-Identifier: Apache-2.0
/// @file
/// The weights that a replay trains, as a user of the library holds them.
#pragma once

#include <cstddef>
#include <polyak/polyak.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "json.hpp"

namespace golden {

/// Every type's way to double; 16-bit numbers have none but through float.
template <class T>
[[nodiscard]] double widened(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return value;
  } else {
    return static_cast<float>(value);
  }
}

/// Tensors of type T in memory of their own, registered with the library.
template <class T>
class Model {
 public:
  Model(const Layout& layout, const Tensors& values) {
    storage_.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      storage_[i].resize(values[i].size());
      params_.add(layout.names[i], storage_[i], layout.shapes[i]);
    }
    assign(values);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] polyak::Parameters<T>& params() { return params_; }

  void assign(const Tensors& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      for (std::size_t k = 0; k < values[i].size(); ++k) {
        storage_[i][k] = static_cast<T>(values[i][k]);
      }
    }
  }

  /// What an optimizer step would do to the weights.
  void add(const Tensors& deltas) {
    for (std::size_t i = 0; i < deltas.size(); ++i) {
      for (std::size_t k = 0; k < deltas[i].size(); ++k) {
        storage_[i][k] += static_cast<T>(deltas[i][k]);
      }
    }
  }

  [[nodiscard]] Tensors values() const {
    Tensors all(storage_.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const T value : storage_[i]) {
        all[i].push_back(widened(value));
      }
    }
    return all;
  }

 private:
  std::vector<std::vector<T>> storage_;
  polyak::Parameters<T> params_;
};

/// The gradients of one step; a tensor for which null is recorded has none.
template <class T>
class StepGradients {
 public:
  StepGradients(const polyak::Parameters<T>& params, const Layout& layout, const Json& recorded,
                const std::string& where)
      : storage_(layout.names.size()), gradients_(params) {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if (tensor_of(recorded, layout, i, where).is_null()) {
        continue;
      }
      for (const double value : values_of(recorded, layout, i, where)) {
        storage_[i].push_back(static_cast<T>(value));
      }
      gradients_.set(layout.names[i], storage_[i]);
    }
  }
  StepGradients(const StepGradients&) = delete;
  StepGradients& operator=(const StepGradients&) = delete;

  [[nodiscard]] const polyak::Gradients<T>& get() const { return gradients_; }

 private:
  std::vector<std::vector<T>> storage_;
  polyak::Gradients<T> gradients_;
};

/// The numbers behind a view of the library's.
template <class View>
[[nodiscard]] Tensors values_of_view(const View& view) {
  Tensors all(view.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto tensor = view[i];
    for (std::size_t k = 0; k < static_cast<std::size_t>(tensor.size()); ++k) {
      all[i].push_back(static_cast<double>(tensor(k)));
    }
  }
  return all;
}

}  // namespace golden
