// SPDX-License-Identifier: Apache-2.0
/// @file
/// The weights that a replay trains, registered as a user of the library registers them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "json.hpp"
#include "library.hpp"

namespace golden {

/// Converts any type to double; 16-bit types by way of float.
template <class T>
[[nodiscard]] double widened(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return value;
  } else {
    return static_cast<float>(value);
  }
}

/// Numbers of type T, one tensor after the other, in the memory that the library works on.
template <class T>
class Memory {
 public:
  explicit Memory(std::vector<T> values) : size_(values.size()) {
#if defined(POLYAK_GOLDEN_DEVICE)
    // One more element, so that an empty tensor has an address too.
    values.resize(size_ + 1);
    device_ = std::make_unique<polyak::cuda::Buffer<T>>(executor(), values);
#else
    host_ = std::move(values);
#endif
  }
  void write(std::vector<T> values) {
#if defined(POLYAK_GOLDEN_DEVICE)
    values.resize(size_ + 1);
    device_->upload(values);
#else
    std::copy(values.begin(), values.end(), host_.begin());
#endif
  }
  [[nodiscard]] std::vector<T> read() const {
#if defined(POLYAK_GOLDEN_DEVICE)
    std::vector<T> values = device_->download();
    values.resize(size_);
    return values;
#else
    return host_;
#endif
  }
  [[nodiscard]] T* data() {
#if defined(POLYAK_GOLDEN_DEVICE)
    return device_->data();
#else
    return host_.data();
#endif
  }

 private:
  std::size_t size_;
#if defined(POLYAK_GOLDEN_DEVICE)
  std::unique_ptr<polyak::cuda::Buffer<T>> device_;
#else
  std::vector<T> host_;
#endif
};

template <class T>
[[nodiscard]] std::vector<T> rounded(const std::vector<double>& values) {
  std::vector<T> list;
  for (const double value : values) list.push_back(static_cast<T>(value));
  return list;
}

/// An empty list for the memory that the library works on.
template <class T>
[[nodiscard]] polyak::Parameters<At<T>> empty_list() {
#if defined(POLYAK_GOLDEN_DEVICE)
  return polyak::Parameters<At<T>>(executor());
#else
  return {};
#endif
}

/// Tensors of type T with their own memory, registered with the library.
template <class T>
class Model {
 public:
  Model(const Layout& layout, const Tensors& values) : params_(empty_list<T>()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      storage_.emplace_back(rounded<T>(values[i]));
      params_.add(layout.names[i], storage_[i].data(), layout.shapes[i]);
    }
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] polyak::Parameters<At<T>>& params() { return params_; }

  void assign(const Tensors& values) {
    for (std::size_t i = 0; i < values.size(); ++i) storage_[i].write(rounded<T>(values[i]));
  }

  /// Changes the weights as a step of an optimizer would.
  void add(const Tensors& deltas) {
    for (std::size_t i = 0; i < deltas.size(); ++i) {
      std::vector<T> sums = storage_[i].read();
      for (std::size_t k = 0; k < sums.size(); ++k) sums[k] += static_cast<T>(deltas[i][k]);
      storage_[i].write(std::move(sums));
    }
  }

  [[nodiscard]] Tensors values() const {
    Tensors all(storage_.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const T value : storage_[i].read()) all[i].push_back(widened(value));
    }
    return all;
  }

 private:
  std::vector<Memory<T>> storage_;
  polyak::Parameters<At<T>> params_;
};

/// The gradients of one step. A tensor for which null is recorded has none.
template <class T>
class StepGradients {
 public:
  StepGradients(const polyak::Parameters<At<T>>& params, const Layout& layout, const Json& recorded,
                const std::string& where)
      : gradients_(params) {
    for (std::size_t i = 0; i < layout.names.size(); ++i) {
      if (tensor_of(recorded, layout, i, where).is_null()) {
        continue;
      }
      set(layout.names[i], values_of(recorded, layout, i, where));
    }
  }
  /// The gradient of the only tensor.
  StepGradients(const polyak::Parameters<At<T>>& params, const std::vector<double>& values)
      : gradients_(params) {
    set(params[0].name(), values);
  }
  StepGradients(const StepGradients&) = delete;
  StepGradients& operator=(const StepGradients&) = delete;

  [[nodiscard]] const polyak::Gradients<At<T>>& get() const { return gradients_; }

 private:
  void set(const std::string& name, const std::vector<double>& values) {
    storage_.push_back(std::make_unique<Memory<T>>(rounded<T>(values)));
    gradients_.set(name, storage_.back()->data());
  }
  std::vector<std::unique_ptr<Memory<T>>> storage_;
  polyak::Gradients<At<T>> gradients_;
};

/// The numbers of a slot, by its name.
template <class Method>
[[nodiscard]] Tensors values_of_slot(const Method& method, const std::string& name) {
  using S = typename Method::State;
  const auto& slots = method.slots();
  const std::size_t slot = slots.find(name);
  Tensors all(slots.layout()->tensors.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::vector<S> numbers(slots.keeps(i) ? slots.layout()->tensors[i].size : 0);
    polyak::detail::read_bytes(slots.space(), numbers.data(), slots.address(slot, i),
                               slots.bytes(slot, i));
    for (const S value : numbers) all[i].push_back(static_cast<double>(value));
  }
  return all;
}

/// The numbers of a view.
template <class View>
[[nodiscard]] Tensors values_of(const View& view) {
  Tensors all(view.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t k = 0; k < view[i].size(); ++k)
      all[i].push_back(static_cast<double>(view[i][k]));
  }
  return all;
}

/// The numbers of an average; on the host, read through its view.
template <class Average>
[[nodiscard]] Tensors values_of_average(const Average& average) {
#if defined(POLYAK_GOLDEN_DEVICE)
  return values_of_slot(average, "average");
#else
  return values_of(average.view());
#endif
}

}  // namespace golden
