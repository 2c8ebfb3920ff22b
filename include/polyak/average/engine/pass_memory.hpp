// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory that a pass over batches changes: registered once, kept as it was when the pass begins,
/// restored when it ends.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// A piece of it, named after what it belongs to.
struct PassPiece {
  void* place;
  std::size_t bytes;
  std::string name;
  std::vector<std::byte> during{};  ///< what it holds during a pass, if that is fixed
  std::vector<std::byte> saved{};
};

class PassMemory {
 public:
  /// Throws std::invalid_argument for pieces that overlap each other or registered ones. Allocates
  /// all that append() needs.
  void reserve(std::vector<PassPiece>& pieces);
  void append(std::vector<PassPiece>& pieces) noexcept;

  /// Keeps what is there, and writes what is fixed during a pass.
  void begin_pass() noexcept;
  /// Restores what is fixed during a pass, and after one that failed the rest too.
  void end_pass(bool succeeded) noexcept;

 private:
  std::vector<PassPiece> pieces_;
};

}  // namespace detail
}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/pass_memory.ipp>
#endif
