// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/atomic_file.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/error.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE void sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor open(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!open) refuse_errno(folder, "opening the folder", errno);
  // Some file systems do not support fsync of folders, and do not need it.
  if (::fsync(open.number()) != 0 && errno != EINVAL && errno != ENOTSUP) {
    refuse_errno(folder, "fsync of the folder", errno);
  }
}

}  // namespace detail

POLYAK_DEFINE AtomicFile::AtomicFile(const std::filesystem::path& path, bool durable)
    : target_(path), durable_(durable) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (!error) target_ = real;
  const auto status = std::filesystem::status(target_, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    detail::refuse_io(path, {}, {}, "is not a regular file, and is not replaced by one");
  }
  if (target_.filename().empty()) detail::refuse_io(path, {}, {}, "is not the name of a file");
  temporary_ = folder() / ("." + target_.filename().string() + ".tmp");
  open_temporary();
  struct ::stat replaced {};
  if (::stat(target_.c_str(), &replaced) == 0) {
    // If that is not permitted, the file keeps the permissions of new files.
    static_cast<void>(::fchmod(file_.number(), replaced.st_mode & 07777) == 0);
  }
}

POLYAK_DEFINE AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)),
      sent_(other.sent_),
      size_(other.size_),
      durable_(other.durable_),
      staged_(other.staged_) {}

POLYAK_DEFINE AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

POLYAK_DEFINE void AtomicFile::append(std::span<const std::byte> bytes) {
  put(size_, bytes);
  size_ += bytes.size();
  send_ahead();
}

POLYAK_DEFINE void AtomicFile::append(std::string_view text) {
  append(std::as_bytes(std::span(text)));
}

POLYAK_DEFINE void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > size_ || bytes.size() > size_ - offset) {
    detail::refuse_order("polyak: AtomicFile::write_at beyond what was appended");
  }
  put(offset, bytes);
}

POLYAK_DEFINE void AtomicFile::stage() {
  if (temporary_.empty()) detail::refuse_order("polyak: AtomicFile is committed already");
  if (durable_ && !staged_) {
    int result = 0;
    do {
      result = ::fsync(file_.number());
    } while (result != 0 && errno == EINTR);
    if (result != 0) detail::refuse_errno(target_, "fsync", errno);
  }
  staged_ = true;
}

POLYAK_DEFINE void AtomicFile::commit() {
  stage();
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    detail::refuse_errno(target_, "rename", errno);
  }
  temporary_.clear();
  file_ = detail::FileDescriptor();
  if (durable_) detail::sync_folder(folder());
}

POLYAK_DEFINE std::filesystem::path AtomicFile::folder() const {
  const auto parent = target_.parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

POLYAK_DEFINE void AtomicFile::open_temporary() {
  for (;;) {
    constexpr int how = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    detail::FileDescriptor file(::open(temporary_.c_str(), how, 0666));
    if (!file) fail("opening a temporary file beside it", errno);
    if (::flock(file.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      const std::string name = std::exchange(temporary_, {}).string();
      detail::refuse_io(target_, {}, {}, "is being written already (" + name + " is locked)");
    }
    // The previous holder may have renamed or removed it in between.
    struct ::stat held {
    }, named{};
    if (::fstat(file.number(), &held) != 0) fail("fstat", errno);
    if (::stat(temporary_.c_str(), &named) != 0 || held.st_ino != named.st_ino ||
        held.st_dev != named.st_dev) {
      continue;
    }
    file_ = std::move(file);
    if (::ftruncate(file_.number(), 0) != 0) fail("ftruncate", errno);
    return;
  }
}

[[noreturn]] POLYAK_DEFINE void AtomicFile::fail(std::string_view call, int error) {
  temporary_.clear();  // may be another writer's: do not remove it
  detail::refuse_errno(target_, call, error);
}

POLYAK_DEFINE void AtomicFile::put(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (temporary_.empty() || staged_) {
    detail::refuse_order("polyak: AtomicFile is written to after stage() or commit()");
  }
  while (!bytes.empty()) {
    // Systems accept at most 2^31 bytes per call.
    const std::size_t part = std::min(bytes.size(), std::size_t{1} << 30);
    const ::ssize_t done =
        ::pwrite(file_.number(), bytes.data(), part, static_cast<::off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) detail::refuse_errno(target_, "writing", done == 0 ? ENOSPC : errno);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

POLYAK_DEFINE void AtomicFile::send_ahead() {
#if defined(__linux__)
  constexpr std::uint64_t piece = std::uint64_t{8} << 20;
  if (!durable_ || size_ - sent_ < piece) return;
  static_cast<void>(::sync_file_range(file_.number(), static_cast<::off64_t>(sent_),
                                      static_cast<::off64_t>(size_ - sent_),
                                      SYNC_FILE_RANGE_WRITE) == 0);  // advice only
  sent_ = size_;
#endif
}

}  // namespace POLYAK_V0
}  // namespace polyak
