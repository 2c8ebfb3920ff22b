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

#include <polyak/io/descriptors.hpp>
#include <polyak/io/error.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Makes changes of a folder durable: files created, renamed or removed there.
void sync_folder(const std::filesystem::path& folder);

/// The file that a path leads to through links, whether or not it exists. Throws io_error for links
/// that cannot be followed.
[[nodiscard]] std::filesystem::path file_behind_links(const std::filesystem::path& path);

/// Whether a name is that of an AtomicFile's temporary file for a name that ends in `suffix`.
[[nodiscard]] bool is_temporary_name(std::string_view name, std::string_view suffix);

/// Whether a temporary file could be removed. One that is locked is in use by another AtomicFile.
enum class Leftover : std::uint8_t { removed, in_use, not_permitted };
/// Removes a temporary file that a kill left behind. Throws io_error for what is no regular file
/// and if a system call fails for another reason than missing permission.
Leftover remove_leftover(const std::filesystem::path& temporary);

}  // namespace detail

/// Writes a temporary file beside `path`, and replaces `path` with it when it is complete.
///
/// commit() writes everything to the disk (fsync), renames, and makes the new name durable; until
/// then, and after any failure, a kill or a loss of power, `path` is unchanged. The temporary file
/// is hidden, ".NAME.tmp". Destroying an uncommitted AtomicFile removes it, and so does a failure;
/// the next AtomicFile removes one left behind by a kill. (".NAME.USER.tmp" is used beside a
/// leftover that another user may not remove.) A symbolic link is kept, and the file that it leads
/// to replaced or made; the new file gets the permissions of the old one, and its owner and group
/// where that is permitted.
///
/// Every failure throws io_error, and the object is of no more use. If an old file was replaced and
/// only the durability of that is unknown, the message says so, and io_error::replaced() is true; a
/// new file is removed again. Where the file system has no locks, writers are not kept apart.
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

  /// Adds bytes at the end. This and the functions below throw std::logic_error after a failure,
  /// after commit(), and in a forked child of the process that made the object.
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
  /// What has become of the file.
  enum class Progress : std::uint8_t { open, staged, committed, failed };

  [[nodiscard]] std::filesystem::path folder() const;

  /// Refuses a call in the wrong order.
  void require_open() const;

  /// Makes the temporary file and locks it. The lock ends with its process.
  void open_temporary();
  /// Makes `temporary_`. Returns false if a leftover of this name cannot be removed.
  [[nodiscard]] bool make_temporary(unsigned mode);
  /// Whether `temporary_` still names the file that is open here.
  [[nodiscard]] bool has_its_name();
  /// Gives the file the permissions and the owner of the one that it replaces. Returns whether
  /// there is one.
  bool take_permissions();
  /// Removes the temporary file.
  void discard() noexcept;
  /// Discards the file and throws.
  [[noreturn]] void fail(std::string_view call, int error);

  void put(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Starts the writes to the disk for which stage() will wait.
  void send_ahead();

  std::filesystem::path target_, temporary_;
  detail::ProcessFile file_;
  std::uint64_t sent_ = 0;
  std::uint64_t size_ = 0;
  bool durable_;
  Progress progress_ = Progress::open;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/atomic_file.ipp>
#endif
