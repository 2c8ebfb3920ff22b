// SPDX-License-Identifier: Apache-2.0
/// @file
/// MappedFile: a file's bytes as memory, read when they are looked at.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <polyak/io/atomic_file.hpp>
#include <polyak/io/error.hpp>

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
  explicit MappedFile(const std::filesystem::path& path) : path_(path) {
    const detail::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file) detail::refuse_errno(path, "opening", errno);
    struct ::stat status {};
    if (::fstat(file.number(), &status) != 0) detail::refuse_errno(path, "fstat", errno);
    if (!S_ISREG(status.st_mode)) detail::refuse_io(path, {}, {}, "is not a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;
    void* const data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
    if (data == MAP_FAILED) detail::refuse_errno(path, "mmap", errno);
    data_ = static_cast<const std::byte*>(data);
  }
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Tells the system that a part will be read soon, from front to back.
  void will_read(std::size_t offset, std::size_t count) const {
    advise(offset, count, MADV_WILLNEED);
  }
  /// Lets go of the memory of a part that has been read. It may be read again.
  void drop(std::size_t offset, std::size_t count) const { advise(offset, count, MADV_DONTNEED); }

 private:
  /// Of the whole pages within, for advice only: that it is not taken is no failure.
  void advise(std::size_t offset, std::size_t count, int advice) const {
    static const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    if (data_ == nullptr || offset >= size_) return;
    const std::size_t end = offset + std::min(count, size_ - offset);
    const std::size_t first = offset / page * page;
    if (end > first) ::madvise(const_cast<std::byte*>(data_) + first, end - first, advice);
  }

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace v0
}  // namespace polyak
