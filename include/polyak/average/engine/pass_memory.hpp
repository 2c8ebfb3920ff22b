// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory that a pass over batches changes. It is registered once, saved when the pass begins, and
/// restored when the pass ends.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A piece of that memory. The name is that of its layer.
struct PassPiece {
  void* place;
  std::size_t bytes;
  std::string name;
  std::vector<std::byte> during{};  ///< its fixed content during a pass; empty: none
  std::vector<std::byte> saved{};
};

class PassMemory {
 public:
  /// Allocates everything that append() needs. Throws std::invalid_argument for pieces that overlap
  /// each other or registered pieces.
  POLYAK_ON_USE void reserve(std::vector<PassPiece>& pieces);
  POLYAK_ON_USE void append(std::vector<PassPiece>& pieces) noexcept;

  /// Saves all pieces, and writes the fixed contents.
  POLYAK_ON_USE void begin_pass() noexcept;
  /// Restores the pieces with fixed contents; after a failed pass, all pieces.
  POLYAK_ON_USE void end_pass(bool succeeded) noexcept;

 private:
  std::vector<PassPiece> pieces_;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/pass_memory.ipp>
#endif
