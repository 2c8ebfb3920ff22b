// SPDX-License-Identifier: Apache-2.0
// The C library's functions for files, by system calls of the same arguments. No header of the C
// library that declares them is included, because their declarations differ between libraries.
#include <cerrno>
#include <cstdarg>
#include <cstddef>

#include <sys/syscall.h>

#include "failing_system.hpp"

extern "C" long syscall(long number, ...) noexcept;

namespace failing_system {

namespace {

Plan plan;
bool armed = false;
long count = 0;
std::string name_of_failed;  // NOLINT: of the test's one thread

/// Whether this call fails; sets errno. A call that `persists` fails too after the one that failed.
bool fails(const char* name, bool persists = true) {
  if (!armed) return false;
  ++count;
  const bool now = plan.at > 0 && count == plan.at;
  const bool later = plan.from_then_on && persists && plan.at > 0 && count > plan.at;
  if (!now && !later) return false;
  if (now) {
    armed = false;  // the string's memory is no call of the test
    name_of_failed = name;
    armed = true;
  }
  errno = plan.error;
  return true;
}

constexpr int here = -100;  // AT_FDCWD

}  // namespace

Armed::Armed(const Plan& wanted) {
  plan = wanted;
  count = 0;
  name_of_failed.clear();
  armed = true;
}
Armed::~Armed() { armed = false; }
const std::string& failed() { return name_of_failed; }

}  // namespace failing_system

using failing_system::fails;
using failing_system::here;

namespace {

int as_int(long result) { return static_cast<int>(result); }

template <class Write>
long written(const char* name, std::size_t size, Write write) {
  if (!fails(name)) return write(size);
  return failing_system::plan.half && size > 1 ? write(size / 2) : -1;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  std::va_list more;
  va_start(more, flags);
  const unsigned mode = va_arg(more, unsigned);
  va_end(more);
  return fails("open") ? -1 : as_int(syscall(SYS_openat, here, path, flags, mode));
}
int open64(const char* path, int flags, ...) {
  std::va_list more;
  va_start(more, flags);
  const unsigned mode = va_arg(more, unsigned);
  va_end(more);
  return fails("open") ? -1 : as_int(syscall(SYS_openat, here, path, flags, mode));
}
int openat(int folder, const char* path, int flags, ...) {
  std::va_list more;
  va_start(more, flags);
  const unsigned mode = va_arg(more, unsigned);
  va_end(more);
  return fails("openat") ? -1 : as_int(syscall(SYS_openat, folder, path, flags, mode));
}
int close(int file) {
  // The descriptor is free even if an error is reported.
  const bool failed = fails("close", false);
  const int error = errno;
  const long result = syscall(SYS_close, file);
  if (!failed) return as_int(result);
  errno = error;
  return -1;
}
long write(int file, const void* data, std::size_t size) {
  return written("write", size,
                 [&](std::size_t part) { return syscall(SYS_write, file, data, part); });
}
long pwrite(int file, const void* data, std::size_t size, long offset) {
  return written("pwrite", size,
                 [&](std::size_t part) { return syscall(SYS_pwrite64, file, data, part, offset); });
}
long pwrite64(int file, const void* data, std::size_t size, long offset) {
  return pwrite(file, data, size, offset);
}
long pread(int file, void* data, std::size_t size, long offset) {
  return fails("pread") ? -1 : syscall(SYS_pread64, file, data, size, offset);
}
long pread64(int file, void* data, std::size_t size, long offset) {
  return pread(file, data, size, offset);
}
long read(int file, void* data, std::size_t size) {
  return fails("read") ? -1 : syscall(SYS_read, file, data, size);
}
int fsync(int file) { return fails("fsync") ? -1 : as_int(syscall(SYS_fsync, file)); }
int fdatasync(int file) { return fails("fdatasync") ? -1 : as_int(syscall(SYS_fdatasync, file)); }
int syncfs(int file) noexcept { return fails("syncfs") ? -1 : as_int(syscall(SYS_syncfs, file)); }
int rename(const char* from, const char* to) noexcept {
  return fails("rename") ? -1 : as_int(syscall(SYS_renameat2, here, from, here, to, 0));
}
int renameat(int a, const char* from, int b, const char* to) noexcept {
  return fails("renameat") ? -1 : as_int(syscall(SYS_renameat2, a, from, b, to, 0));
}
int unlink(const char* path) noexcept {
  return fails("unlink", false) ? -1 : as_int(syscall(SYS_unlinkat, here, path, 0));
}
int remove(const char* path) noexcept {
  if (fails("remove", false)) return -1;
  constexpr int folder = 0x200;
  const long result = syscall(SYS_unlinkat, here, path, 0);
  return as_int(result != 0 && errno == EISDIR ? syscall(SYS_unlinkat, here, path, folder)
                                               : result);
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  return fails("unlinkat", false) ? -1 : as_int(syscall(SYS_unlinkat, folder, path, flags));
}
int mkdir(const char* path, unsigned mode) noexcept {
  return fails("mkdir") ? -1 : as_int(syscall(SYS_mkdirat, here, path, mode));
}
int ftruncate(int file, long size) noexcept {
  return fails("ftruncate") ? -1 : as_int(syscall(SYS_ftruncate, file, size));
}
int ftruncate64(int file, long size) noexcept { return ftruncate(file, size); }
void* mmap(void* place, std::size_t size, int access, int how, int file, long offset) noexcept {
  const long failed = -1;
  const long result =
      fails("mmap") ? failed : syscall(SYS_mmap, place, size, access, how, file, offset);
  return reinterpret_cast<void*>(result);  // NOLINT: an address
}
void* mmap64(void* place, std::size_t size, int access, int how, int file, long offset) noexcept {
  return mmap(place, size, access, how, file, offset);
}
int flock(int file, int how) noexcept {
  return fails("flock") ? -1 : as_int(syscall(SYS_flock, file, how));
}
int fchmod(int file, unsigned mode) noexcept {
  return fails("fchmod") ? -1 : as_int(syscall(SYS_fchmod, file, mode));
}
int fchown(int file, unsigned user, unsigned group) noexcept {
  return fails("fchown") ? -1 : as_int(syscall(SYS_fchown, file, user, group));
}
int dup(int file) noexcept { return fails("dup") ? -1 : as_int(syscall(SYS_dup, file)); }
long readlink(const char* path, char* target, std::size_t size) noexcept {
  return fails("readlink", false) ? -1 : syscall(SYS_readlinkat, here, path, target, size);
}
int fstat(int file, void* status) noexcept {
  constexpr int empty_path = 0x1000;
  return fails("fstat", false) ? -1 : as_int(syscall(SYS_newfstatat, file, "", status, empty_path));
}
int stat(const char* path, void* status) noexcept {
  return fails("stat", false) ? -1 : as_int(syscall(SYS_newfstatat, here, path, status, 0));
}
int lstat(const char* path, void* status) noexcept {
  constexpr int no_follow = 0x100;
  return fails("lstat", false) ? -1
                               : as_int(syscall(SYS_newfstatat, here, path, status, no_follow));
}

}  // extern "C"
