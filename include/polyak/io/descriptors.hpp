// SPDX-License-Identifier: Apache-2.0
/// @file
/// Open files, their locks, and system calls that signals interrupt.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <unistd.h>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// An open file descriptor, closed by the destructor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }
  [[nodiscard]] int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  /// Gives the descriptor away.
  [[nodiscard]] int release() { return std::exchange(number_, -1); }

 private:
  int number_ = -1;
};

/// An open file of this process alone. A forked child has no copy of it, so that a lock on it ends
/// with this process, even if it is killed while a child goes on.
class ProcessFile {
 public:
  ProcessFile() = default;
  explicit ProcessFile(FileDescriptor file);
  ProcessFile(ProcessFile&& other) noexcept
      : number_(std::exchange(other.number_, -1)), generation_(other.generation_) {}
  ProcessFile& operator=(ProcessFile&& other) noexcept {
    std::swap(number_, other.number_);
    std::swap(generation_, other.generation_);
    return *this;
  }
  ~ProcessFile();

  /// Whether there is a file, opened by this process and not by its parent.
  [[nodiscard]] bool here() const;
  /// Valid if here().
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_ = -1;
  std::uint64_t generation_ = 0;
};

/// Repeats a system call as long as a signal interrupts it.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Reads a part of an open file. Returns 0, the errno of a failure, or -1 if the file is shorter.
[[nodiscard]] int read_part(int file, std::size_t offset, std::span<std::byte> to);

/// The result of lock_now(). `unknown`: the file system has no locks.
enum class LockResult : std::uint8_t { locked, held, unknown };
/// Locks an open file without waiting. The lock ends when the file is closed.
[[nodiscard]] LockResult lock_now(int file);

/// Writes an open file or folder to the disk. Returns false and sets errno if that fails. A file
/// system that has no such call does not need it.
[[nodiscard]] bool synchronise(int file);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/descriptors.ipp>
#endif
