// SPDX-License-Identifier: Apache-2.0
/// @file
/// MappedFile: a file's bytes as memory, which the system reads on access, or copied by read().
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include <polyak/core/switches.hpp>
#include <polyak/io/descriptors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// A read-only map of a whole file, with the size at the time of opening. Safe for any number of
/// reading threads.
///
/// If a file is truncated while it is mapped, the system ends the program (SIGBUS). So do not write
/// into a mapped file in place. Replacing it by AtomicFile, or by any rename, is safe: existing
/// maps keep the old file.
///
/// A file whose file system has no maps is read into memory instead.
class MappedFile {
 public:
  /// Throws io_error if the file cannot be read or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Copies a part, without touching the map: every page of a map costs a fault at its first
  /// access, on some machines more than the copy. Throws io_error if the file cannot be read or has
  /// become shorter, std::logic_error beyond its size.
  void read(std::size_t offset, std::span<std::byte> to) const;

  /// Tells the system that a part will soon be read from front to back.
  void will_read(std::size_t offset, std::size_t count) const;
  /// Releases the memory of a part that has been read. It may be read again.
  void drop(std::size_t offset, std::size_t count) const;

 private:
  /// Reads the file into memory.
  void copy(int file, std::size_t size);
  /// For a result of read_part().
  [[noreturn]] void refuse_read(int error) const;
  /// Gives advice for the whole pages in a part. A failure is ignored, because it is only advice.
  void advise(std::size_t offset, std::size_t count, int advice) const;

  std::filesystem::path path_;
  detail::FileDescriptor file_;  ///< for read(); closed in a program that has many files open
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool copied_ = false;  ///< the memory is not a map of the file: it must not be dropped
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/mapped_file.ipp>
#endif
