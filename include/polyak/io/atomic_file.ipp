// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/atomic_file.hpp.
///
/// Above 300 lines: the steps of one replacement, and what each failure must undo.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/descriptors.hpp>
#include <polyak/io/error.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Opens a folder to make its changes durable.
[[nodiscard]] inline FileDescriptor open_folder(const std::filesystem::path& folder) {
  return FileDescriptor(
      uninterrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
}

POLYAK_DEFINE void sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor open = open_folder(folder);
  if (!open) refuse_errno(folder, "opening the folder", errno);
  if (!synchronise(open.number())) refuse_errno(folder, "fsync of the folder", errno);
}

POLYAK_DEFINE std::filesystem::path file_behind_links(const std::filesystem::path& path) {
  std::filesystem::path place = path;
  for (int links = 0; links < 40; ++links) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(place, error);
    if (error == std::errc::invalid_argument || error == std::errc::no_such_file_or_directory) {
      const auto real = std::filesystem::canonical(place, error);
      return error ? place : real;
    }
    if (error) refuse_errno(path, "reading it as a link", error.value());
    place = place.parent_path() / target;  // `target` alone if it is absolute
  }
  refuse_errno(path, "following its links", ELOOP);
}

POLYAK_DEFINE bool is_temporary_name(std::string_view name, std::string_view suffix) {
  constexpr std::string_view end = ".tmp";
  if (!name.starts_with('.') || !name.ends_with(end)) return false;
  name.remove_suffix(end.size());
  if (name.ends_with(suffix)) return true;
  const std::size_t dot = name.rfind('.');
  return name.find_first_not_of("0123456789", dot + 1) == std::string_view::npos &&
         name.substr(0, dot).ends_with(suffix);
}

/// Whether a path, not followed if it is a link, is the open file. If that cannot be found out,
/// nothing, and errno is set.
[[nodiscard]] inline std::optional<bool> names(const std::filesystem::path& path, int file) {
  struct ::stat held {
  }, named{};
  if (::fstat(file, &held) != 0) return std::nullopt;
  if (::lstat(path.c_str(), &named) != 0) {
    return errno == ENOENT ? std::optional(false) : std::nullopt;
  }
  return held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

POLYAK_DEFINE Leftover remove_leftover(const std::filesystem::path& temporary) {
  for (;;) {
    // A file of any permissions can be locked if it can be read; some file systems lock only for
    // writing.
    constexpr int how = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    const auto opened = [&](int access) {
      return uninterrupted([&] { return ::open(temporary.c_str(), access | how); });
    };
    FileDescriptor file(opened(O_RDWR));
    if (!file && (errno == EACCES || errno == EROFS || errno == EISDIR)) {
      file = FileDescriptor(opened(O_RDONLY));
    }
    if (!file) {
      if (errno == ENOENT) return Leftover::removed;
      if (errno == EACCES) return Leftover::not_permitted;
      refuse_errno(temporary, "opening a temporary file that was left behind", errno);
    }
    struct ::stat status {};
    if (::fstat(file.number(), &status) != 0) refuse_errno(temporary, "fstat", errno);
    if (!S_ISREG(status.st_mode)) {
      refuse_io(temporary, {}, {}, "is in the way of a temporary file, and is not a regular file");
    }
    const ProcessFile locked(std::move(file));
    if (lock_now(locked.number()) == LockResult::held) return Leftover::in_use;
    // The previous holder may have renamed or removed it in between.
    const auto same = names(temporary, locked.number());
    if (!same) refuse_errno(temporary, "stat", errno);
    if (!*same) continue;
    if (::unlink(temporary.c_str()) == 0 || errno == ENOENT) return Leftover::removed;
    if (errno == EACCES || errno == EPERM) return Leftover::not_permitted;
    refuse_errno(temporary, "removing a temporary file that was left behind", errno);
  }
}

}  // namespace detail

POLYAK_DEFINE AtomicFile::AtomicFile(const std::filesystem::path& path, bool durable)
    : target_(detail::file_behind_links(path)), durable_(durable) {
  std::error_code error;
  const auto status = std::filesystem::status(target_, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    detail::refuse_io(path, {}, {}, "is not a regular file, and is not replaced by one");
  }
  if (target_.filename().empty()) detail::refuse_io(path, {}, {}, "is not the name of a file");
  open_temporary();
}

POLYAK_DEFINE AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)),
      sent_(other.sent_),
      size_(other.size_),
      durable_(other.durable_),
      progress_(std::exchange(other.progress_, Progress::committed)) {}

POLYAK_DEFINE AtomicFile::~AtomicFile() { discard(); }

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
  require_open();
  if (progress_ == Progress::staged) return;
  if (durable_) {
    if (!detail::synchronise(file_.number())) fail("fsync", errno);
  } else {
    // Network file systems report what they could not write when a file is closed.
    const int copy = ::dup(file_.number());
    if (copy >= 0 && ::close(copy) != 0 && errno != EINTR) fail("close", errno);
  }
  progress_ = Progress::staged;
}

POLYAK_DEFINE void AtomicFile::commit() {
  stage();
  // Opened first: where it cannot be, nothing has changed.
  detail::FileDescriptor open;
  if (durable_) {
    open = detail::open_folder(folder());
#if defined(__linux__)
    const bool readable = open || errno != EACCES;
#else
    const bool readable = true;
#endif
    if (!open && readable) fail("opening the folder", errno);
  }
  const bool replaces = take_permissions();
  if (!has_its_name()) {
    discard();
    progress_ = Progress::failed;
    detail::refuse_io(target_, {}, {},
                      "is being written by another program too, which took the temporary file");
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename", errno);
  progress_ = Progress::committed;
  bool durable = true;
#if defined(__linux__)
  // A folder that may be written to but not read: the whole file system is written.
  if (durable_ && !open) durable = ::syncfs(file_.number()) == 0;
#endif
  if (open) durable = detail::synchronise(open.number());
  const int error = errno;
  // A new file whose name may not last is no file, as before.
  const bool removed = !durable && !replaces &&
                       detail::names(target_, file_.number()).value_or(false) &&
                       ::unlink(target_.c_str()) == 0;
  discard();
  if (durable) return;
  constexpr const char* call = "fsync of the folder";
  if (removed) detail::refuse_errno(target_, call, error);
  detail::refuse_io({target_,
                     {},
                     {},
                     std::string("is replaced, but ") + call +
                         " failed: " + std::generic_category().message(error) +
                         "; a loss of power may bring back the old file",
                     true,
                     error});
}

POLYAK_DEFINE std::filesystem::path AtomicFile::folder() const {
  const auto parent = target_.parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

POLYAK_DEFINE void AtomicFile::require_open() const {
  if (progress_ == Progress::committed) {
    detail::refuse_order("polyak: AtomicFile is committed already");
  }
  if (progress_ == Progress::failed) {
    detail::refuse_order("polyak: AtomicFile has failed before");
  }
  if (!file_.here()) {
    detail::refuse_order("polyak: AtomicFile of the process from which this one was forked");
  }
}

POLYAK_DEFINE void AtomicFile::open_temporary() {
  struct ::stat replaced {};
  const bool exists = ::stat(target_.c_str(), &replaced) == 0;
  // Until it is complete, the new file can be read by others only if the old one can, and can
  // always be written by its owner.
  const unsigned mode = !exists ? 0666 : (replaced.st_mode & 0004) != 0 ? 0644 : 0600;
  const std::string name = "." + target_.filename().string();
  temporary_ = folder() / (name + ".tmp");
  if (make_temporary(mode)) return;
  temporary_ =
      folder() / (name + "." + detail::text(static_cast<std::uint64_t>(::geteuid())) + ".tmp");
  if (!make_temporary(mode)) fail("removing a temporary file that was left behind", EACCES);
}

POLYAK_DEFINE bool AtomicFile::make_temporary(unsigned mode) {
  for (;;) {
    constexpr int how = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    detail::FileDescriptor file(
        detail::uninterrupted([&] { return ::open(temporary_.c_str(), how, mode); }));
    detail::Leftover there = detail::Leftover::in_use;
    if (file) {
      file_ = detail::ProcessFile(std::move(file));
      if (detail::lock_now(file_.number()) != detail::LockResult::held) {
        if (has_its_name()) return true;
        continue;  // another writer took it for one that was left behind
      }
    } else if (errno != EEXIST) {
      fail("opening a temporary file beside it", errno);
    } else {
      there = detail::remove_leftover(temporary_);
    }
    if (there == detail::Leftover::not_permitted) return false;
    if (there == detail::Leftover::in_use) {
      detail::refuse_io(target_, {}, {},
                        "is being written already (" + temporary_.string() + " is locked)");
    }
  }
}

POLYAK_DEFINE bool AtomicFile::has_its_name() {
  const auto same = detail::names(temporary_, file_.number());
  if (!same) fail("stat", errno);
  return *same;
}

POLYAK_DEFINE bool AtomicFile::take_permissions() {
  struct ::stat replaced {
  }, own{};
  if (::stat(target_.c_str(), &replaced) != 0) {
    if (errno == ENOENT) return false;
    fail("stat", errno);
  }
  if (::fstat(file_.number(), &own) != 0) fail("fstat", errno);
  const auto refused = [](int result) {
    return result != 0 && errno != EPERM && errno != EINVAL && errno != ENOSYS &&
           errno != ENOTSUP && errno != EOPNOTSUPP;
  };
  const auto change_owner = [&](::uid_t user, ::gid_t group) {
    const int result = detail::uninterrupted([&] { return ::fchown(file_.number(), user, group); });
    if (refused(result)) fail("fchown", errno);
    return result == 0;
  };
  constexpr auto same_user = static_cast<::uid_t>(-1);
  bool kept = own.st_uid == replaced.st_uid && own.st_gid == replaced.st_gid;
  if (!kept) kept = change_owner(replaced.st_uid, replaced.st_gid);
  if (!kept && own.st_gid != replaced.st_gid) change_owner(same_user, replaced.st_gid);
  // Another owner's program must not run with his rights.
  const ::mode_t mode = replaced.st_mode & (kept ? 07777 : 0777);
  if (refused(detail::uninterrupted([&] { return ::fchmod(file_.number(), mode); }))) {
    fail("fchmod", errno);
  }
  return true;
}

POLYAK_DEFINE void AtomicFile::discard() noexcept {
  const bool waits = progress_ == Progress::open || progress_ == Progress::staged;
  if (waits && file_.here() && detail::names(temporary_, file_.number()).value_or(false)) {
    ::unlink(temporary_.c_str());
  }
  file_ = detail::ProcessFile();
}

[[noreturn]] POLYAK_DEFINE void AtomicFile::fail(std::string_view call, int error) {
  discard();
  progress_ = Progress::failed;
  detail::refuse_errno(target_, call, error);
}

POLYAK_DEFINE void AtomicFile::put(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (progress_ == Progress::staged) {
    detail::refuse_order("polyak: AtomicFile is written to after stage() or commit()");
  }
  require_open();
  while (!bytes.empty()) {
    // Systems accept at most 2^31 bytes per call.
    const std::size_t part = std::min(bytes.size(), std::size_t{1} << 30);
    const ::ssize_t done = detail::uninterrupted(
        [&] { return ::pwrite(file_.number(), bytes.data(), part, static_cast<::off_t>(offset)); });
    if (done <= 0) fail("writing", done == 0 ? ENOSPC : errno);
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
