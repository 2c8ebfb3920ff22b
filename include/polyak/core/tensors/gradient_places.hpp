// SPDX-License-Identifier: Apache-2.0
/// @file
/// GradientPlaces: checks of the tensors and the memory of gradients, independent of their type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

class GradientPlaces {
 public:
  struct Trained {
    std::size_t tensor;
    std::size_t bytes;
    mutable std::size_t gap;  ///< the gap between parameters in which the gradient was last
  };

  GradientPlaces(const ParameterList& params, DType weights);

  [[nodiscard]] const ParameterList& params() const { return params_; }
  [[nodiscard]] const TensorInfo& info(std::size_t tensor) const {
    return params_.layout()->tensors[tensor];
  }
  /// In order of registration.
  [[nodiscard]] const std::vector<Trained>& trained() const { return trained_; }

  /// Index of a tensor by name. Throws std::invalid_argument for an alias and an unknown name.
  [[nodiscard]] std::size_t index_of(std::string_view name) const;
  /// Checks the memory of a gradient and returns its address, which is not null even for an empty
  /// tensor. Throws std::invalid_argument.
  [[nodiscard]] const void* place_of(std::size_t index, const void* data) const;
  /// Throw std::invalid_argument unless a gradient has the tensor's shape and order, or its size.
  void require_shape(std::size_t index, const Shape& shape, Order order) const;
  void require_size(std::size_t index, std::size_t size) const;
  /// Throws std::invalid_argument unless there is a pointer for each trained tensor.
  void require_number(std::string_view function, std::size_t given) const;

  /// Checks the memory of all gradients: one pointer for each trained tensor; null means no
  /// gradient.
  template <class T>
  void check_all(T* const* pointers) const {
    find_gaps();
    std::size_t last = 0;
    for (std::size_t k = 0; k < trained_.size(); ++k) {
      if (pointers[k] != nullptr && trained_[k].bytes != 0) check(trained_[k], pointers[k], last);
    }
  }

  /// Checks the memory of an object that has moved.
  void check_moved(const Trained& trained, const void* data) const {
    std::size_t last = trained.gap;
    if (trained.bytes != 0) check(trained, data, last);
  }

 private:
  void check(const Trained& trained, const void* data, std::size_t& last) const {
    const std::uintptr_t begin = MemoryIndex::address(data);
    const std::uintptr_t end = begin + trained.bytes;
    // Usually the gap of this gradient in the last call, or the gap of the previous gradient.
    std::size_t& gap = trained.gap;
    if (!free_.fits(gap, begin, end)) {
      gap = free_.fits(last, begin, end) ? last : free_.gap_before(end);
      if (!free_.fits(gap, begin, end)) gap = gap_or_refusal(trained.tensor, data, begin, end);
    }
    last = gap;
    if (params_.layout()->space != nullptr) check_space(trained.tensor, data);
  }
  /// Looks for parameters that have moved.
  void find_gaps() const;
  /// The gap for memory that is in none of the known ones.
  [[nodiscard]] std::size_t gap_or_refusal(std::size_t index, const void* data,
                                           std::uintptr_t begin, std::uintptr_t end) const;
  void check_space(std::size_t index, const void* data) const;
  [[noreturn]] void refuse_overlap(std::size_t index, const void* data) const;

  ParameterList params_;
  DType weights_;
  std::vector<Trained> trained_;
  mutable FreeMemory free_;  // when the parameters had moved `moves_` times
  mutable std::uint64_t moves_ = 0;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/gradient_places.ipp>
#endif
