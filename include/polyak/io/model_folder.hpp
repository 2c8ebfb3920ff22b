// SPDX-License-Identifier: Apache-2.0
/// @file
/// The folder of a model while the model is replaced as a whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/model_index.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Notes what a save writes and removes, so that the next save can finish what a kill interrupted.
inline constexpr std::string_view journal_name = ".model.safetensors.saving";

void sleep_for_milliseconds(long count);

/// Excludes other writers from a folder. It ends with its process, and leaves no file.
class FolderLock {
 public:
  FolderLock() = default;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

  /// Waits for another writer, up to `most` milliseconds. Returns false if the folder was removed
  /// meanwhile. Throws io_error if the folder cannot be opened, or is still locked then.
  ///
  /// Where the file system has no locks, and where the folder must not be read, it goes on without
  /// one.
  [[nodiscard]] bool take(const std::filesystem::path& folder, int most = 10'000);
  /// Whether there is a lock.
  [[nodiscard]] bool exclusive() const { return exclusive_; }
  /// Makes changes of the folder durable. Throws io_error that says that they have been made.
  void sync() const;

 private:
  std::filesystem::path folder_;
  FileDescriptor file_;
  bool exclusive_ = false;
};

/// Creates a folder, and removes it again unless it is kept.
class NewFolder {
 public:
  NewFolder() = default;
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder();

  /// Creates the folder and those above it. Throws io_error if that fails.
  void create(const std::filesystem::path& folder, bool durable);
  void keep() { made_.clear(); }

 private:
  std::vector<std::filesystem::path> made_;  ///< the lowest first
};

/// Replaces the model of a folder: files under new names first, then what makes them the model,
/// then the removal of the old model's files. If it is destroyed before the new model is there, it
/// removes what was written.
class ModelFolder {
 public:
  /// Creates the folder if there is none, and locks it. What a killed save has left there is
  /// removed. Throws io_error.
  POLYAK_ON_USE ModelFolder(const std::filesystem::path& folder, bool durable);
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;
  ~ModelFolder();

  /// Whether "model.safetensors" is a part of the old model of several files. Then a reader must
  /// not find a new one until there is a new index.
  [[nodiscard]] bool needs_index() const;
  /// Names for the files of a new model. Nothing in the folder has one of them. Without locks they
  /// are of this process alone.
  [[nodiscard]] std::vector<std::string> new_names(std::size_t count) const;

  /// Notes that files will be written; none are for "model.safetensors" alone. Throws io_error,
  /// also if the index could not be written later.
  POLYAK_ON_USE void begin(const std::vector<std::string>& names);
  /// Makes the files that this index names the model. Throws io_error.
  void finish_with_index(std::string_view text);
  /// The same where "model.safetensors" is the new model.
  void finish_with_file();

 private:
  POLYAK_ON_USE void read_old();
  POLYAK_ON_USE void remove_leftovers();
  void remove_old(bool also_model);
  /// Removes a file, and notes in `unfinished_` if it stays.
  bool remove(std::string_view name);
  /// Removes the journal, unless the next save needs it.
  void end_journal();
  /// Gives a model in one file its usual name. At each step the folder has the new model: by its
  /// index, then by its name.
  void rename_single();
  [[nodiscard]] bool is_replaced() const;

  std::filesystem::path folder_;
  bool durable_;
  NewFolder created_;
  FolderLock lock_;
  std::optional<AtomicFile> index_;
  std::optional<PinnedFile> old_index_;
  std::set<std::string> old_;    ///< all files of the old model
  std::set<std::string> left_;   ///< files of killed saves that could not be removed
  std::set<std::string> other_;  ///< files of other models in the folder
  std::vector<std::string> new_;
  std::string index_text_;    ///< of the index that is being written
  bool exclusive_ = false;    ///< no other writer can be there
  bool old_is_known_ = true;  ///< false for an index that is damaged
  bool noted_ = false, stray_ = false, done_ = false, unfinished_ = false;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/model_folder.ipp>
#endif
