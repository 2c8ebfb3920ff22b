// SPDX-License-Identifier: Apache-2.0
/// @file
/// Block: the memory of slots and copies, in the host's memory or a device's.
#pragma once

#include <cstddef>
#include <memory>

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/memory_space.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Every tensor in a slot is padded to a multiple of this many elements: whole packs of any type.
inline constexpr std::size_t slot_granule = 32;
inline constexpr std::size_t huge_page = std::size_t{1} << 21;
inline constexpr std::size_t page = 4096;

/// Bytes between the end of one slot and the start of the next. Streams at equal addresses modulo 4
/// KiB alias in the cache, streams at equal addresses modulo large powers of two in the banks of
/// the memory. So the gap is an odd number of lines, and more than a page for large slots.
[[nodiscard]] constexpr std::size_t stagger(std::size_t slot_bytes) {
  return (slot_bytes >= (std::size_t{1} << 20) ? 107 : 11) * cache_line;
}

/// One zeroed, 64-byte aligned block, in the host's memory or a space; on huge pages if it is large
/// and the system grants them. The system places all large blocks at the same address modulo 4 KiB;
/// so a block starts at a line of its first page that depends on the page, and blocks in the same
/// sweep do not alias.
class Block {
 public:
  explicit Block(std::size_t bytes, std::shared_ptr<MemorySpace> space = nullptr);
  Block(const Block& other);
  Block& operator=(const Block&) = delete;
  ~Block();
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t allocated() const { return allocated_; }
  /// Null for the host's memory.
  [[nodiscard]] MemorySpace* space() const { return space_.get(); }

  /// Set while a SwapGuard has exchanged these elements for the weights.
  bool lent = false;

 private:
  std::size_t bytes_ = 0;
  std::size_t allocated_ = 0;
  std::size_t alignment_ = cache_line;
  std::shared_ptr<MemorySpace> space_;
  std::byte* raw_ = nullptr;
  std::byte* data_ = nullptr;
};

/// Makes a block, which guards may share. Not inline, so that programs do not compile it.
[[nodiscard]] std::shared_ptr<Block> make_block(std::size_t bytes,
                                                std::shared_ptr<MemorySpace> space);
[[nodiscard]] std::shared_ptr<Block> copy_of_block(const Block& block);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/block.ipp>
#endif
