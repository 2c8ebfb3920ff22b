// SPDX-License-Identifier: Apache-2.0
/// @file
/// The memory of models that hold an average now. Two lists may view the same memory, and a guard
/// of one must stop the other, so the record belongs to the memory of the process.
#pragma once

#include <cstdint>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {

/// Data of the process, which units with different switches share (core/switches.hpp).
namespace whole_process {

/// A range of addresses, [begin, end). An empty range is {0, 0}.
struct AddressRange {
  std::uintptr_t begin = 0, end = 0;
};

}  // namespace whole_process

inline namespace POLYAK_V0 {
namespace detail {

using whole_process::AddressRange;

/// The ranges of all guards of this process that live now. The functions may run at the same time.
struct SwappedMemory {
  /// Whether nothing is swapped in anywhere. Costs one load.
  [[nodiscard]] static bool empty();
  /// Whether a range, which may be empty, overlaps one that is taken.
  [[nodiscard]] static bool overlaps(const std::vector<AddressRange>& ranges);
  /// Takes ranges for a guard. Returns false, with nothing taken, if one is taken already.
  [[nodiscard]] static bool take(const void* guard, std::vector<AddressRange> ranges);
  /// Frees the ranges of a guard.
  static void free(const void* guard) noexcept;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/swapped_memory.ipp>
#endif
