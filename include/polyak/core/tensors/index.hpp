// SPDX-License-Identifier: Apache-2.0
/// @file
/// Indexes of a list of tensors: by name, and by the memory that the tensors occupy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Allocates for one more item, so that the next push_back cannot fail.
template <class T>
void make_room(std::vector<T>& items) {
  if (items.size() == items.capacity()) items.reserve(items.empty() ? 8 : 2 * items.size());
}

/// A hash table from names to numbers that does not store the names. Costs O(1) for each name.
class NameIndex {
 public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  /// The number of the entry that was added under `name`, or `none`. `is(k)` returns whether entry
  /// k has that name; it is called only if the hashes agree.
  template <class Is>
  [[nodiscard]] std::size_t find(std::string_view name, const Is& is) const {
    if (cells_.empty()) return none;
    const std::size_t hash = hash_of(name);
    for (std::size_t at = hash & mask(); cells_[at].number != none; at = (at + 1) & mask()) {
      if (cells_[at].hash == hash && is(cells_[at].number)) return cells_[at].number;
    }
    return none;
  }

  /// Allocates for one more entry, so that the next add() cannot fail.
  void make_room();

  /// Adds entry `number`, whose name must not be in the index yet.
  void add(std::string_view name, std::size_t number);

 private:
  struct Cell {
    std::size_t hash = 0;
    std::size_t number = none;
  };

  [[nodiscard]] static std::size_t hash_of(std::string_view name) {
    return std::hash<std::string_view>{}(name);
  }
  [[nodiscard]] std::size_t mask() const { return cells_.size() - 1; }
  void put(const Cell& cell);

  std::vector<Cell> cells_;  // a power of two, at most half of them used
  std::size_t used_ = 0;
};

/// The ranges of memory of a list's tensors, which do not overlap. Costs O(log n) for each tensor.
///
/// It is a treap: a search tree by address and a heap by pseudo-random priority. So its shape and
/// depth do not depend on the order in which addresses are added. Node k is tensor k.
class MemoryIndex {
 public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  /// The first tensor, in order of registration, that overlaps this memory, or `none`. A range of 0
  /// bytes overlaps nothing.
  [[nodiscard]] std::size_t first_overlap(const void* data, std::size_t bytes) const;

  /// Allocates for one more tensor, so that the next add() cannot fail.
  void make_room();

  /// Adds the next tensor, which must not overlap another. A tensor of 0 bytes occupies nothing.
  void add(const void* data, std::size_t bytes);

  /// Forgets all tensors, and keeps the memory for them.
  void clear() {
    nodes_.clear();
    root_ = none;
  }

  /// Appends begin and end of all ranges, in the order of the addresses.
  void list(std::vector<std::uintptr_t>& begins, std::vector<std::uintptr_t>& ends) const;
  /// Number of tensors, tensors of 0 bytes included.
  [[nodiscard]] std::size_t size() const { return nodes_.size(); }

  [[nodiscard]] static std::uintptr_t address(const void* data) {
    return reinterpret_cast<std::uintptr_t>(data);
  }

 private:
  struct Node {
    std::uintptr_t begin = 0, end = 0;  // empty if the tensor occupies nothing
    std::size_t left = none, right = none;
  };

  [[nodiscard]] static std::uint64_t priority(std::size_t node) {
    std::uint64_t bits = (node + 1) * std::uint64_t{0x9e3779b97f4a7c15};
    bits = (bits ^ (bits >> 30)) * std::uint64_t{0xbf58476d1ce4e5b9};
    return bits ^ (bits >> 31);
  }
  [[nodiscard]] std::size_t& side(std::size_t node, std::uintptr_t begin) {
    return nodes_[node].begin < begin ? nodes_[node].right : nodes_[node].left;
  }
  void list_subtree(std::size_t node, std::vector<std::uintptr_t>& begins,
                    std::vector<std::uintptr_t>& ends) const;

  std::vector<Node> nodes_;
  std::size_t root_ = none;
};

/// The gaps between the ranges of a MemoryIndex, in sorted arrays, for thousands of look-ups in a
/// row. Gap k is between range k - 1 and range k.
class FreeMemory {
 public:
  explicit FreeMemory(const MemoryIndex& taken) { find(taken); }

  /// Finds the gaps anew.
  void find(const MemoryIndex& taken);

  /// Whether [begin, end), which must not be empty, is in the gap.
  [[nodiscard]] bool fits(std::size_t gap, std::uintptr_t begin, std::uintptr_t end) const {
    return ends_[gap] <= begin && end <= begins_[gap];
  }

  /// The only gap that can contain memory up to `end`: the number of ranges that begin before
  /// `end`, found bit by bit without a branch.
  [[nodiscard]] std::size_t gap_before(std::uintptr_t end) const {
    const std::uintptr_t* const begins = begins_.data();
    std::size_t gap = 0;
    for (unsigned bit = bits_; bit-- > 0;) {
      const std::size_t step = std::size_t{1} << bit;
      gap += static_cast<std::size_t>(begins[gap + step - 1] < end) << bit;
    }
    return gap;
  }

 private:
  std::vector<std::uintptr_t> begins_;  // padded to 2^bits_ > number of ranges
  std::vector<std::uintptr_t> ends_;    // end of range k at k + 1; 0 first
  unsigned bits_ = 0;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/index.ipp>
#endif
