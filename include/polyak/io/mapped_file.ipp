// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/mapped_file.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/descriptors.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/mapped_file.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

POLYAK_DEFINE MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  constexpr int how = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  detail::FileDescriptor file(detail::uninterrupted([&] { return ::open(path.c_str(), how); }));
  if (!file) detail::refuse_errno(path, "opening", errno);
  struct ::stat status {};
  if (::fstat(file.number(), &status) != 0) detail::refuse_errno(path, "fstat", errno);
  if (!S_ISREG(status.st_mode)) detail::refuse_io(path, {}, {}, "is not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (data != MAP_FAILED) {
    data_ = static_cast<const std::byte*>(data);
    size_ = size;
    // Many systems let a program have 1024 files open.
    constexpr int few = 512;
    if (file.number() < few) file_ = std::move(file);
  } else if (errno == ENODEV || errno == ENOSYS || errno == ENOTSUP || errno == EOPNOTSUPP) {
    copy(file.number(), size);
  } else {
    detail::refuse_errno(path, "mmap", errno);
  }
}

POLYAK_DEFINE void MappedFile::copy(int file, std::size_t size) {
  void* const data =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) detail::refuse_errno(path_, "memory for its content", errno);
  const int error = detail::read_part(file, 0, std::span(static_cast<std::byte*>(data), size));
  if (error != 0) {
    ::munmap(data, size);
    refuse_read(error);
  }
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
  copied_ = true;
}

POLYAK_DEFINE MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::move(other.file_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      copied_(other.copied_) {}

POLYAK_DEFINE MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(copied_, other.copied_);
  return *this;
}

POLYAK_DEFINE MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

POLYAK_DEFINE void MappedFile::read(std::size_t offset, std::span<std::byte> to) const {
  if (offset > size_ || to.size() > size_ - offset) {
    detail::refuse_order("polyak: MappedFile::read beyond the size of " + path_.string());
  }
  if (!file_) {
    if (!to.empty()) std::memcpy(to.data(), data_ + offset, to.size());
    return;
  }
  const int error = detail::read_part(file_.number(), offset, to);
  if (error != 0) refuse_read(error);
}

[[noreturn]] POLYAK_DEFINE void MappedFile::refuse_read(int error) const {
  if (error < 0) detail::refuse_io(path_, {}, {}, "has become shorter since it was opened");
  detail::refuse_errno(path_, "reading", error);
}

POLYAK_DEFINE void MappedFile::will_read(std::size_t offset, std::size_t count) const {
  advise(offset, count, MADV_WILLNEED);
}

POLYAK_DEFINE void MappedFile::drop(std::size_t offset, std::size_t count) const {
  advise(offset, count, MADV_DONTNEED);
}

POLYAK_DEFINE void MappedFile::advise(std::size_t offset, std::size_t count, int advice) const {
  static const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (data_ == nullptr || copied_ || offset >= size_) return;
  const std::size_t end = offset + std::min(count, size_ - offset);
  const std::size_t first = offset / page * page;
  if (end > first) ::madvise(const_cast<std::byte*>(data_) + first, end - first, advice);
}

}  // namespace POLYAK_V0
}  // namespace polyak
