// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/model_folder.hpp.
///
/// Above 300 lines: the order of the steps is what survives a kill, and is read as one.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/descriptors.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/model_folder.hpp>
#include <polyak/io/model_index.hpp>
#include <polyak/io/safetensors_header.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Whether a path names anything, a link to nothing included. Throws io_error if that is unknown.
[[nodiscard]] inline bool is_there(const std::filesystem::path& path) {
  struct ::stat status {};
  if (::lstat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) refuse_errno(path, "lstat", errno);
  return false;
}

/// The temporary file of an AtomicFile.
[[nodiscard]] inline std::filesystem::path temporary_of(const std::filesystem::path& path) {
  return path.parent_path() / ("." + path.filename().string() + ".tmp");
}

/// Removes a file that no writer has locked.
inline void remove_unlocked(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file && lock_now(file.number()) == LockResult::locked) ::unlink(path.c_str());
}

POLYAK_DEFINE void sleep_for_milliseconds(long count) {
  struct ::timespec time {};
  time.tv_nsec = count * 1'000'000;
  ::nanosleep(&time, nullptr);
}

POLYAK_DEFINE FolderLock::~FolderLock() {
  // A child that was forked meanwhile has the descriptor too, and must not keep the lock.
  if (exclusive_) ::flock(file_.number(), LOCK_UN);
}

POLYAK_DEFINE bool FolderLock::take(const std::filesystem::path& folder, int most) {
  folder_ = folder;
  file_ = FileDescriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file_) {
    if (errno == ENOENT) return false;
    if (errno == EACCES) return true;
    refuse_errno(folder, "opening the folder", errno);
  }
  for (int waited = 0;;) {
    const LockResult result = lock_now(file_.number());
    exclusive_ = result == LockResult::locked;
    if (exclusive_) break;
    if (result == LockResult::unknown) return true;  // no locks here
    if (waited++ == most) {
      refuse_io(folder, {}, {},
                "another model is being saved there, for longer than " + text(most) + " ms");
    }
    sleep_for_milliseconds(1);
  }
  struct ::stat held {
  }, named{};
  if (::fstat(file_.number(), &held) == 0 && ::stat(folder.c_str(), &named) == 0 &&
      held.st_dev == named.st_dev && held.st_ino == named.st_ino) {
    return true;
  }
  exclusive_ = false;
  file_ = FileDescriptor();
  return false;
}

POLYAK_DEFINE void FolderLock::sync() const {
  if (!file_) {
    ::sync();  // a folder that may be written to but not read
    return;
  }
  if (synchronise(file_.number())) return;
  const int error = errno;
  refuse_io({folder_,
             {},
             {},
             std::string("the model is replaced, but fsync of the folder failed: ") +
                 std::generic_category().message(error) +
                 "; a loss of power may bring back the old model",
             true,
             error});
}

POLYAK_DEFINE NewFolder::~NewFolder() {
  for (const auto& folder : made_) ::rmdir(folder.c_str());
}

POLYAK_DEFINE void NewFolder::create(const std::filesystem::path& folder, bool durable) {
  auto missing = folder.has_filename() ? folder : folder.parent_path();
  while (!missing.empty() && !is_there(missing) && missing != missing.parent_path()) {
    made_.push_back(missing);
    missing = missing.parent_path();
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) refuse_io(folder, {}, {}, "is not a folder: " + error.message());
  if (!durable) return;
  for (const auto& made : made_) {
    const auto above = made.has_parent_path() ? made.parent_path() : std::filesystem::path(".");
    if (::access(above.c_str(), R_OK) == 0) {
      sync_folder(above);
    } else {
      ::sync();
    }
  }
}

POLYAK_DEFINE_ON_USE ModelFolder::ModelFolder(const std::filesystem::path& folder, bool durable)
    : folder_(folder.empty() ? std::filesystem::path(".") : folder), durable_(durable) {
  bool taken = false;
  for (int left = 100; !taken && left > 0; --left) {
    created_.create(folder_, durable);
    taken = lock_.take(folder_);
  }
  if (!taken) refuse_io(folder_, {}, {}, "is removed by another program again and again");
  exclusive_ = lock_.exclusive();
  if (!exclusive_) {
    // Network file systems lock files that are open for writing, but no folders.
    index_.emplace(folder_ / index_name, durable);
    const FileDescriptor file(
        ::open(temporary_of(index_->path()).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    exclusive_ = file && ::flock(file.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  }
  read_old();
  if (exclusive_) remove_leftovers();
}

POLYAK_DEFINE_ON_USE void ModelFolder::read_old() {
  const auto read = [](const PinnedFile& file, std::set<std::string>& names) {
    std::string bytes;
    if (file.read(bytes) != 0) return false;
    const ModelIndex index = read_index(bytes);
    for (const auto& [tensor, name] : index.weight_map) names.insert(name);
    return index.fault.empty();
  };
  const PinnedFile& index = old_index_.emplace(folder_ / index_name);
  std::set<std::string> names;
  for (const int lack : {EMFILE, ENFILE, ENOMEM}) {
    if (index.error() == lack) refuse_errno(folder_ / index_name, "opening", lack);
  }
  old_is_known_ = read(index, names) || index.error() == ENOENT;
  // A damaged index must not forbid what replaces it. It is not trusted with what is removed.
  if (old_is_known_) old_ = std::move(names);
  std::error_code error;
  std::filesystem::directory_iterator entry(folder_, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".index.json") && name != index_name) {
      static_cast<void>(read(PinnedFile(entry->path()), other_));
    }
  }
}

POLYAK_DEFINE_ON_USE void ModelFolder::remove_leftovers() {
  const auto journal = folder_ / journal_name;
  const PinnedFile noted(journal);
  std::string bytes;
  if (old_is_known_ && noted.read(bytes) == 0) {
    for (const auto& [tensor, name] : read_index(bytes).weight_map) {
      if (!name.ends_with(".safetensors") || name == model_name) continue;
      if (old_.contains(name) || other_.contains(name)) continue;
      if (!remove(name)) left_.insert(name);
      remove_unlocked(temporary_of(folder_ / name));
    }
  }
  if (noted.error() == 0) ::unlink(journal.c_str());
  for (const std::string_view name : {model_name, index_name, journal_name}) {
    remove_unlocked(temporary_of(folder_ / name));
  }
}

POLYAK_DEFINE bool ModelFolder::needs_index() const {
  // Also by a link: what is named twice is one file.
  return std::any_of(old_.begin(), old_.end(), [&](const std::string& name) {
    std::error_code error;
    return name == model_name ||
           std::filesystem::equivalent(folder_ / name, folder_ / model_name, error);
  });
}

POLYAK_DEFINE std::vector<std::string> ModelFolder::new_names(std::size_t count) const {
  const auto padded = [](std::size_t number) {
    const std::string digits = detail::text(number);
    return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
  };
  std::string own;
  if (!exclusive_) {
    struct ::timespec now {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    own = "-" + detail::text(::getpid()) + "-" + detail::text(now.tv_sec) + "-" +
          detail::text(now.tv_nsec);
  }
  for (int attempt = 1;; ++attempt) {
    const std::string again = own + (attempt == 1 ? "" : "-" + detail::text(attempt));
    std::vector<std::string> names;
    bool taken = false;
    for (std::size_t k = 1; k <= count; ++k) {
      names.push_back("model-" + padded(k) + "-of-" + padded(count) + again + ".safetensors");
      taken = taken || old_.contains(names.back()) || other_.contains(names.back()) ||
              is_there(folder_ / names.back());
    }
    if (!taken) return names;
  }
}

POLYAK_DEFINE_ON_USE void ModelFolder::begin(const std::vector<std::string>& names) {
  const auto index = folder_ / index_name;
  if (!index_ && (!names.empty() || is_there(index))) index_.emplace(index, durable_);
  stray_ = names.empty() && is_there(index) && !is_there(folder_ / model_name);
  ModelIndex journal;
  for (const std::string& name : old_) journal.weight_map.emplace(name, name);
  for (const std::string& name : left_) journal.weight_map.emplace(name, name);
  for (const std::string& name : names) journal.weight_map.emplace(name, name);
  if (exclusive_ && !journal.weight_map.empty()) {  // else nobody could trust it
    noted_ = true;
    AtomicFile file(folder_ / journal_name, durable_);
    file.append(std::string_view(index_text(journal, 0)));
    file.commit();
  }
  new_ = names;
}

POLYAK_DEFINE void ModelFolder::finish_with_index(std::string_view text) {
  index_->append(text);
  index_->stage();
  index_text_ = text;
  index_->commit();
  done_ = true;
  created_.keep();
  index_.reset();
  const bool single = new_.size() == 1;
  remove_old(true);
  if (single) rename_single();
  end_journal();
}

POLYAK_DEFINE void ModelFolder::finish_with_file() {
  const auto index = folder_ / index_name;
  const bool removed = ::unlink(index.c_str()) == 0;
  if (!removed && errno != ENOENT) {
    refuse_errno(index, "removing the index of the old model", errno);
  }
  done_ = true;
  // Before the old files go: an index without its files would be no model at all.
  if (removed && durable_) lock_.sync();
  created_.keep();
  new_.emplace_back(model_name);
  remove_old(false);
  end_journal();
}

POLYAK_DEFINE void ModelFolder::remove_old(bool also_model) {
  if (also_model) old_.emplace(model_name);
  for (const std::string& name : old_) {
    // Indices come from anywhere, and may name what is no shard, or is one of another model.
    if (!name.ends_with(".safetensors") || other_.contains(name)) continue;
    const auto path = folder_ / name;
    std::error_code error;
    const bool is_new = std::any_of(new_.begin(), new_.end(), [&](const std::string& written) {
      return written == name || std::filesystem::equivalent(path, folder_ / written, error);
    });
    if (!is_new) remove(name);
  }
}

POLYAK_DEFINE void ModelFolder::rename_single() {
  const auto file = folder_ / new_.front(), usual = folder_ / model_name;
  // If the file system has no second names, the index stays.
  if (::link(file.c_str(), usual.c_str()) != 0) return;
  if (durable_) lock_.sync();
  if (::unlink((folder_ / index_name).c_str()) != 0) {
    ::unlink(usual.c_str());
    return;
  }
  if (durable_) lock_.sync();
  remove(new_.front());
}

POLYAK_DEFINE bool ModelFolder::remove(std::string_view name) {
  if (::unlink((folder_ / name).c_str()) == 0 || errno == ENOENT) return true;
  unfinished_ = true;
  return false;
}

POLYAK_DEFINE void ModelFolder::end_journal() {
  if (noted_ && !unfinished_) ::unlink((folder_ / journal_name).c_str());
}

POLYAK_DEFINE bool ModelFolder::is_replaced() const {
  if (done_) return true;
  if (index_text_.empty()) return false;
  // The index may have been replaced although its writer has failed afterwards. If that cannot be
  // found out, it must keep its files; the journal tells the next save.
  const auto index = folder_ / index_name;
  struct ::stat status {};
  if (::stat(index.c_str(), &status) != 0) return errno != ENOENT;
  if (old_index_->error() == 0 || old_index_->error() == ENOENT) {
    return !old_index_->is_still_there();
  }
  std::string bytes;
  return PinnedFile(index).read(bytes) != 0 || bytes == index_text_;
}

POLYAK_DEFINE ModelFolder::~ModelFolder() {
  if (is_replaced()) {
    created_.keep();
    return;  // what the old model has left is in the journal
  }
  for (const std::string& name : new_) remove(name);
  if (stray_) remove(model_name);
  end_journal();
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
