// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/descriptors.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/descriptors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The numbers of all ProcessFiles, which a forked child closes first of all.
class ProcessFiles {
 public:
  static ProcessFiles& all() {
    static auto& files = *new ProcessFiles;  // outlives objects of static storage
    return files;
  }
  /// Returns the generation of this process: one more than that of its parent.
  std::uint64_t add(int number) {
    const Lock lock(mutex_);
    numbers_.push_back(number);
    return generation_;
  }
  void close(int number) {
    const Lock lock(mutex_);
    std::erase(numbers_, number);
    ::flock(number, LOCK_UN);  // a child that was forked this moment still has the file
    ::close(number);
  }
  [[nodiscard]] std::uint64_t generation() const { return generation_; }

 private:
  class Lock {
   public:
    explicit Lock(::pthread_mutex_t& mutex) : mutex_(mutex) { ::pthread_mutex_lock(&mutex_); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock() { ::pthread_mutex_unlock(&mutex_); }

   private:
    ::pthread_mutex_t& mutex_;
  };

  ProcessFiles() {
    // The mutex is held during a fork, so that the child finds the list whole.
    ::pthread_atfork([] { ::pthread_mutex_lock(&all().mutex_); },
                     [] { ::pthread_mutex_unlock(&all().mutex_); },
                     [] {
                       for (const int number : all().numbers_) ::close(number);
                       all().numbers_.clear();
                       ++all().generation_;
                       ::pthread_mutex_unlock(&all().mutex_);
                     });
  }

  ::pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  std::vector<int> numbers_;
  std::uint64_t generation_ = 1;  // changes only in a child that has no other thread yet
};

POLYAK_DEFINE ProcessFile::ProcessFile(FileDescriptor file) {
  if (!file) return;
  generation_ = ProcessFiles::all().add(file.number());
  number_ = file.release();
}

POLYAK_DEFINE ProcessFile::~ProcessFile() {
  if (here()) ProcessFiles::all().close(number_);
}

POLYAK_DEFINE bool ProcessFile::here() const {
  return number_ >= 0 && generation_ == ProcessFiles::all().generation();
}

POLYAK_DEFINE int read_part(int file, std::size_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    // Systems read at most 2^31 bytes per call.
    const std::size_t most = std::min(to.size(), std::size_t{1} << 30);
    const ::ssize_t done =
        uninterrupted([&] { return ::pread(file, to.data(), most, static_cast<::off_t>(offset)); });
    if (done < 0) return errno;
    if (done == 0) return -1;
    to = to.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::size_t>(done);
  }
  return 0;
}

POLYAK_DEFINE LockResult lock_now(int file) {
  if (uninterrupted([&] { return ::flock(file, LOCK_EX | LOCK_NB); }) == 0) {
    return LockResult::locked;
  }
  return errno == EWOULDBLOCK ? LockResult::held : LockResult::unknown;
}

POLYAK_DEFINE bool synchronise(int file) {
  return uninterrupted([&] { return ::fsync(file); }) == 0 || errno == EINVAL || errno == ENOSYS ||
         errno == ENOTSUP || errno == EOPNOTSUPP;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
