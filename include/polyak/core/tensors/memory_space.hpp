// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory that the host does not reach by itself, as the core sees it.
#pragma once

#include <cstddef>
#include <cstring>
#include <string_view>

namespace polyak {
inline namespace v0 {

/// Where a list of parameters and the state of its methods lie, if not in the host's memory. What
/// copies does so in the order of the calls, and of the steps between them. cuda::Executor makes
/// one of a GPU's.
class MemorySpace {
 public:
  virtual ~MemorySpace() = default;
  MemorySpace() = default;
  MemorySpace(const MemorySpace&) = delete;
  MemorySpace& operator=(const MemorySpace&) = delete;

  /// Zeroed memory at a multiple of 256 bytes. Throws std::bad_alloc, or what the device says.
  [[nodiscard]] virtual std::byte* allocate(std::size_t bytes) = 0;
  virtual void release(std::byte* memory) noexcept = 0;
  virtual void clear(void* memory, std::size_t bytes) = 0;
  /// From one place in the space to another.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Exchanges the contents of two places. Only here and in `copy` errors may be left for a later
  /// call to report: a SwapGuard must not throw as it ends.
  virtual void exchange(void* a, void* b, std::size_t bytes) noexcept = 0;
  /// To the host, and from it; both return when they are done.
  virtual void read(void* host, const void* from, std::size_t bytes) = 0;
  virtual void write(void* to, const void* host, std::size_t bytes) = 0;
  /// Refuses to hand out the state in a block whose last step may yet turn out to have been
  /// skipped. Throws std::logic_error.
  virtual void require_settled(const void* block) const = 0;
  /// Refuses memory that is not of this space. Throws std::invalid_argument.
  virtual void check(const void* memory, std::string_view tensor) const = 0;
};

namespace detail {

/// std::memcpy where there is no space. Moves nothing for 0 bytes, whatever the addresses.
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
}  // namespace v0
}  // namespace polyak
