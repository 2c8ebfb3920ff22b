// SPDX-License-Identifier: Apache-2.0
/// @file
/// AtomicFile: after any failure a file is either the old one or the complete new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <unistd.h>

#include <polyak/io/error.hpp>

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

 private:
  int number_ = -1;
};

/// Makes changes of a folder durable: files created, renamed or removed there.
void sync_folder(const std::filesystem::path& folder);

}  // namespace detail

/// Writes a temporary file beside `path`, and replaces `path` with it when it is complete.
///
/// commit() writes everything to the disk (fsync), renames, and makes the new name durable; until
/// then, and after any failure, a kill or a loss of power, `path` is unchanged. The temporary file
/// is hidden, ".NAME.tmp". Destroying an uncommitted AtomicFile removes it; the next AtomicFile
/// reuses one left behind by a kill, so there is never more than one. A symbolic link is kept, and
/// its target replaced; the new file gets the permissions of the old one.
///
/// Every failure throws io_error.
class AtomicFile {
 public:
  /// Throws if the folder does not exist or is not writable, if `path` is a folder or a device, and
  /// while another AtomicFile, of this process or another, writes `path`. With `durable = false`
  /// the system decides when the file reaches the disk: a kill still does no harm, but a loss of
  /// power may.
  explicit AtomicFile(const std::filesystem::path& path, bool durable = true);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  /// The file that will be replaced, not a link to it.
  [[nodiscard]] const std::filesystem::path& path() const { return target_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// Adds bytes at the end.
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);

  /// Overwrites bytes that were appended before.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Writes the bytes to the disk: everything that can take long or fail for lack of space. To
  /// replace several files as one, stage() all of them, then commit() each.
  void stage();

  /// Replaces the file. Nothing may be written afterwards.
  void commit();

 private:
  [[nodiscard]] std::filesystem::path folder() const;

  /// Opens the temporary file, new or left behind, and locks it. The lock ends with its process.
  void open_temporary();
  [[noreturn]] void fail(std::string_view call, int error);

  void put(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Starts the writes to the disk for which stage() will wait.
  void send_ahead();

  std::filesystem::path target_, temporary_;
  detail::FileDescriptor file_;
  std::uint64_t sent_ = 0;
  std::uint64_t size_ = 0;
  bool durable_;
  bool staged_ = false;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/atomic_file.ipp>
#endif
