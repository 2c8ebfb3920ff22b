// SPDX-License-Identifier: Apache-2.0
/// @file
/// MappedFile: a file's bytes as memory, read when they are looked at.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace polyak {
inline namespace v0 {

/// A read-only map of a whole file, of the size that it has when it is opened. Safe for any number
/// of reading threads.
///
/// The system takes a file that is cut off while it is mapped for a fault of the program (SIGBUS).
/// Files that are replaced by AtomicFile, or by rename in any way, stay whole for those who have
/// them mapped: do not write into them in place.
class MappedFile {
 public:
  /// Throws io_error where the file cannot be read or is none.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Tells the system that a part will be read soon, from front to back.
  void will_read(std::size_t offset, std::size_t count) const;
  /// Lets go of the memory of a part that has been read. It may be read again.
  void drop(std::size_t offset, std::size_t count) const;

 private:
  /// Of the whole pages within, for advice only: that it is not taken is no failure.
  void advise(std::size_t offset, std::size_t count, int advice) const;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/mapped_file.ipp>
#endif
