// SPDX-License-Identifier: Apache-2.0
/// @file
/// ParameterList: the part of Parameters that does not depend on the type of the weights.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// The place of a tensor's elements. The sweep reads an array of these.
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

[[noreturn]] void refuse_moved_list();

/// Tensors in order of registration, and the places of their memory.
class ParameterList {
 public:
  /// An empty list for weights of one type; without a space, in the host's memory.
  ParameterList(DType weights, std::shared_ptr<MemorySpace> space);
  ParameterList(const ParameterList&);
  ParameterList(ParameterList&&) noexcept;
  ParameterList& operator=(const ParameterList&);
  ParameterList& operator=(ParameterList&&) noexcept;
  ~ParameterList();

  /// See Parameters::add. It sets the tensor's size.
  void add(TensorInfo tensor, void* data);

  /// Index of the tensor with this name or alias. Throws std::invalid_argument if there is none.
  [[nodiscard]] std::size_t index_of(std::string_view name) const;
  /// Number of elements of the weights' type.
  [[nodiscard]] std::size_t elements() const;

  // All throw std::logic_error after the list was moved from, but for memory(), which is empty.
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const {
    if (layout_ == nullptr) refuse_moved_list();
    return layout_;
  }
  [[nodiscard]] const std::vector<TensorMemory>& memory() const { return memory_; }
  [[nodiscard]] const MemoryIndex& index() const {
    if (layout_ == nullptr) refuse_moved_list();
    return index_;
  }
  [[nodiscard]] const std::shared_ptr<std::atomic<bool>>& mark() const {
    if (swapped_ == nullptr) refuse_moved_list();
    return swapped_;
  }

 private:
  Layout& own_layout();

  DType weights_;
  std::shared_ptr<const Layout> layout_;
  std::vector<TensorMemory> memory_;
  MemoryIndex index_;
  std::shared_ptr<std::atomic<bool>> swapped_;
};

/// Refuses access to the elements of a tensor as another type.
[[noreturn]] void refuse_data_of(const TensorInfo& tensor);
/// Refuses memory of another size than its shape.
[[noreturn]] void refuse_size(std::string_view name, std::size_t given, std::size_t elements);

}  // namespace detail
}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/parameter_list.ipp>
#endif
