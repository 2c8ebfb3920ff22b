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
#include <polyak/core/tensors/swapped_memory.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
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

/// Memory that an object had, kept alive although the object may have moved on.
class KeptMemory {
 public:
  virtual ~KeptMemory() = default;
  /// Whether the elements are still where they were.
  [[nodiscard]] virtual bool intact() const noexcept = 0;
};

/// An object that shares its memory, such as a tensor of another library.
class SharedObject {
 public:
  virtual ~SharedObject() = default;
  /// Keeps the memory that the object has now. Of an object without memory, null.
  [[nodiscard]] virtual std::shared_ptr<const KeptMemory> keep() const = 0;
  /// Throws std::invalid_argument, with its name, if the object is no longer as it was registered.
  virtual void check() const = 0;
};

/// Where the elements of an object with memory of its own are now.
struct Followed {
  const void* object = nullptr;  ///< null for views, whose memory is elsewhere
  /// Sets the address of the elements. Returns false if the object no longer has the tensor's
  /// shape; then, where `shape` is not null, it sets that to the object's.
  bool (*read)(const void* object, const TensorInfo& tensor, void** data, Shape* shape) = nullptr;
  /// The object, if it shares its memory; null for an object of the program, which must outlive
  /// the list.
  std::shared_ptr<const SharedObject> shared = nullptr;
};

/// The memory of the tensors of a list and of its copies.
struct Places {
  std::vector<TensorMemory> memory;  ///< when it was last read
  std::vector<Followed> followed;    ///< of each tensor
  MemoryIndex index;
  bool any_followed = false;
  std::uint64_t moves = 0;    ///< how often the memory of a tensor was seen to have moved
  std::uint64_t indexed = 0;  ///< moves when the index was made
};

/// Tensors in order of registration, and the places of their memory. The memory of objects that own
/// it is looked up at every call, because assignment may have moved it.
class ParameterList {
 public:
  /// An empty list for weights of one type; without a space, in the host's memory.
  ParameterList(DType weights, std::shared_ptr<MemorySpace> space);
  ParameterList(const ParameterList&);
  ParameterList(ParameterList&&) noexcept;
  ParameterList& operator=(const ParameterList&);
  ParameterList& operator=(ParameterList&&) noexcept;
  ~ParameterList();

  /// See Parameters::add and Parameters::rebind. add() sets the tensor's size.
  void add(TensorInfo tensor, void* data, Followed object);
  void rebind(const TensorInfo& given, void* data, const Followed& object);

  // The functions below throw std::logic_error after the list was moved from, and those that return
  // memory std::invalid_argument where an object has another shape than its tensor.

  /// Index of the tensor with this name or alias. Throws std::invalid_argument if there is none.
  [[nodiscard]] std::size_t index_of(std::string_view name) const;
  /// Number of elements of the weights' type.
  [[nodiscard]] std::size_t elements() const;
  /// Number of tensors.
  [[nodiscard]] std::size_t size() const { return places().memory.size(); }

  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const {
    if (layout_ == nullptr) refuse_moved_list();
    return layout_;
  }
  /// The memory of all tensors, as it is now.
  [[nodiscard]] const std::vector<TensorMemory>& memory() const {
    if (places().any_followed) follow();
    return places_->memory;
  }
  /// The memory of one tensor, as it is now.
  [[nodiscard]] const TensorMemory& memory(std::size_t tensor) const {
    if (places().any_followed) follow(tensor);
    return places_->memory[tensor];
  }
  /// The memory of all tensors as the last call of memory() saw it.
  [[nodiscard]] const std::vector<TensorMemory>& memory_seen() const { return places().memory; }
  /// The address of a tensor's elements, or null where its object has another shape now.
  [[nodiscard]] void* address(std::size_t tensor) const noexcept;
  /// Keeps the memory of a tensor; null where the program keeps it.
  [[nodiscard]] std::shared_ptr<const KeptMemory> keep(std::size_t tensor) const;
  /// How often memory was seen to have moved.
  [[nodiscard]] std::uint64_t moves() const { return places().moves; }
  /// Where memory was taken when memory() last looked.
  [[nodiscard]] const MemoryIndex& index() const;
  [[nodiscard]] const std::shared_ptr<std::atomic<bool>>& mark() const {
    if (swapped_ == nullptr) refuse_moved_list();
    return swapped_;
  }
  /// Whether the memory of a tensor holds an average now, through this list or another one.
  [[nodiscard]] bool swapped() const;
  /// Where memory is taken now. The range of a tensor whose bit is not set is empty.
  [[nodiscard]] std::vector<AddressRange> ranges(const std::vector<bool>& tensors) const;

 private:
  [[nodiscard]] Places& places() const {
    if (places_ == nullptr) refuse_moved_list();
    return *places_;
  }
  void follow() const;
  void follow(std::size_t tensor) const;
  void require_memory(const TensorInfo& tensor, const void* data) const;
  Layout& own_layout();
  Places& own_places();

  DType weights_;
  std::shared_ptr<const Layout> layout_;
  std::shared_ptr<Places> places_;
  std::shared_ptr<std::atomic<bool>> swapped_;
};

/// Refuses an object of another shape than its tensor.
[[noreturn]] void refuse_reshaped(std::string_view what, const TensorInfo& tensor,
                                  const Followed& followed);
/// Refuses a number that is no DType.
void require_dtype(DType dtype, std::string_view name);
/// Refuses access to the elements of a tensor as another type.
[[noreturn]] void refuse_data_of(const TensorInfo& tensor);
/// Refuses memory of another size than its shape.
[[noreturn]] void refuse_size(std::string_view name, std::size_t given, std::size_t elements);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/parameter_list.ipp>
#endif
