// SPDX-License-Identifier: Apache-2.0
/// @file
/// MemorySpace: the core's interface to memory that the host cannot access directly.
#pragma once

#include <cstddef>
#include <cstring>
#include <string_view>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// A memory other than the host's, for a list of parameters and the state of its methods. Copies
/// and exchanges take effect in the order of the calls, relative to each other and to steps. The
/// executor of a device makes it.
class MemorySpace {
 public:
  virtual ~MemorySpace() = default;
  MemorySpace() = default;
  MemorySpace(const MemorySpace&) = delete;
  MemorySpace& operator=(const MemorySpace&) = delete;

  /// Zeroed memory at a multiple of 256 bytes. Throws std::bad_alloc, or the device's error.
  [[nodiscard]] virtual std::byte* allocate(std::size_t bytes) = 0;
  virtual void release(std::byte* memory) noexcept = 0;
  virtual void clear(void* memory, std::size_t bytes) = 0;
  /// Copies from one place in the space to another.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Exchanges the contents of two places. Only `exchange` and `copy` may leave an error for a
  /// later call to report, because a SwapGuard must not throw when it ends.
  virtual void exchange(void* a, void* b, std::size_t bytes) noexcept = 0;
  /// Copies to the host, and from the host; both return when the copy is done.
  virtual void read(void* host, const void* from, std::size_t bytes) = 0;
  virtual void write(void* to, const void* host, std::size_t bytes) = 0;
  /// Throws std::logic_error while it is not known whether the last step on the block was skipped;
  /// its state is not readable then.
  virtual void require_settled(const void* block) const = 0;
  /// Throws std::invalid_argument for memory that is not in this space.
  virtual void check(const void* memory, std::string_view tensor) const = 0;
};

namespace detail {

/// Copies in a space, by std::memcpy without a space. 0 bytes are allowed with any addresses.
inline void copy_bytes(MemorySpace* space, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  if (space == nullptr) {
    std::memcpy(to, from, bytes);
  } else {
    space->copy(to, from, bytes);
  }
}
inline void read_bytes(MemorySpace* space, void* host, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  if (space == nullptr) {
    std::memcpy(host, from, bytes);
  } else {
    space->read(host, from, bytes);
  }
}
inline void write_bytes(MemorySpace* space, void* to, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  if (space == nullptr) {
    std::memcpy(to, host, bytes);
  } else {
    space->write(to, host, bytes);
  }
}
inline void clear_bytes(MemorySpace* space, void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  if (space == nullptr) {
    std::memset(memory, 0, bytes);
  } else {
    space->clear(memory, bytes);
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
