// SPDX-License-Identifier: Apache-2.0
// Saves models into folders while system calls fail, one at a time, and while the power may go at
// any moment: the folder has the old model or the new one, whole, and the call says which.
//
// The program defines some of the system's functions itself, so it is one of its own. A loss of
// power keeps what a folder's fsync has made durable, and any part of what came later.
#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <polyak/io/weights.hpp>

#include "temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;

const std::string model_name = "model.safetensors";
const std::string index_name = "model.safetensors.index.json";

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

using Files = std::map<std::string, std::string>;

Files contents(const fs::path& folder) {
  Files files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = content(entry.path());
  }
  return files;
}

/// A change of a folder's names: `name` gets these bytes, or goes.
struct Change {
  std::string name;
  std::optional<std::string> bytes;
};

/// What the functions below do and note.
struct Watch {
  bool on = false;
  int calls = 0, failing = 0, error = EIO;  ///< the call that fails, from 1 on
  bool failed = false, unread = false;      ///< whether the index could not be read
  fs::path folder;
  std::set<std::pair<::dev_t, ::ino_t>> dirty;  ///< files with bytes that are not durable
  std::vector<Change> changes;                  ///< not yet durable
  std::vector<std::vector<Change>> history;     ///< each as it was before an fsync of the folder
  bool early = false;  ///< a file got its name before its bytes are durable

  bool fails() {
    if (!on || ++calls != failing) return false;
    failed = true;
    errno = error;
    return true;
  }
  static std::pair<::dev_t, ::ino_t> identity(const struct ::stat& status) {
    return {status.st_dev, status.st_ino};
  }
  void note(const char* path, bool gone) {
    if (!on || fs::path(path).parent_path() != folder) return;
    on = false;
    const std::string name = fs::path(path).filename().string();
    if (gone) {
      changes.push_back({name, std::nullopt});
    } else {
      struct ::stat status {};
      early = early || (::stat(path, &status) == 0 && dirty.contains(identity(status)));
      changes.push_back({name, content(path)});
    }
    on = true;
  }
};
Watch watch;

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  ::mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    std::va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, ::mode_t);
    va_end(rest);
  }
  if (watch.fails()) {
    watch.unread = fs::path(path).filename() == index_name;
    return -1;
  }
  return real(path, flags, mode);
}

::ssize_t pwrite(int file, const void* bytes, std::size_t count, ::off_t offset) {
  static const auto real = next<::ssize_t (*)(int, const void*, std::size_t, ::off_t)>("pwrite");
  if (watch.fails()) return -1;
  struct ::stat status {};
  if (watch.on && ::fstat(file, &status) == 0) watch.dirty.insert(Watch::identity(status));
  return real(file, bytes, count, offset);
}

int fsync(int file) {
  if (watch.fails()) return -1;
  struct ::stat status {};
  if (watch.on && ::fstat(file, &status) == 0) {
    watch.dirty.erase(Watch::identity(status));
    if (S_ISDIR(status.st_mode)) watch.history.push_back(std::exchange(watch.changes, {}));
  }
  return 0;  // the disk itself is not tested
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  if (watch.fails()) return -1;
  const int result = real(from, to);
  if (result == 0) watch.note(to, false);
  return result;
}

int link(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("link");
  if (watch.fails()) return -1;
  const int result = real(from, to);
  if (result == 0) watch.note(to, false);
  return result;
}

int unlink(const char* path) noexcept {
  static const auto real = next<int (*)(const char*)>("unlink");
  if (watch.fails()) return -1;
  const int result = real(path);
  if (result == 0) watch.note(path, true);
  return result;
}

int flock(int file, int operation) noexcept {
  static const auto real = next<int (*)(int, int)>("flock");
  return watch.fails() ? -1 : real(file, operation);
}

}  // extern "C"

namespace {

int failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("failed: %s\n", what.c_str());
  ++failures;
}

/// Three tensors of the same number.
struct Model {
  std::vector<float> a, b, c;
  polyak::Parameters<float> params;
  explicit Model(float number) : a(4, number), b(4, number), c(4, number) {
    params.add("a", a).add("b", b).add("c", c);
  }
};

/// The number of a folder's model; 0 if there is none, -1 if it is mixed, -2 if it cannot be read.
float number_in(const fs::path& folder) {
  if (!fs::exists(folder / index_name) && !fs::exists(folder / model_name)) return 0;
  Model model(7);
  try {
    polyak::load_weights(folder, model.params);
  } catch (const std::exception&) {
    return -2;
  }
  for (const auto* tensor : {&model.a, &model.b, &model.c}) {
    for (const float x : *tensor) {
      if (x != model.a[0]) return -1;
    }
  }
  return model.a[0];
}

/// The old models, and the ways to save a new one.
const std::vector<std::string> olds{"none", "one file", "files", "an index of one file",
                                    "an index of one file and others"};
const std::vector<std::string> ways{"one file", "files", "the usual name"};

void save(const fs::path& folder, const std::string& way, float number) {
  const Model model(number);
  if (way == "the usual name") {
    polyak::save_weights(folder / model_name, model.params);
  } else {
    polyak::save_weights(folder, model.params, {.shard_bytes = way == "files" ? 1U : 1000U});
  }
}

void make_old(const fs::path& folder, const std::string& old) {
  fs::remove_all(folder);
  fs::create_directory(folder);
  if (old == "none") return;
  save(folder, old == "files" ? "files" : "one file", 1);
  if (!old.starts_with("an index")) return;
  // As other programs write it.
  std::string other = model_name;
  if (old.ends_with("others")) {
    other = "others.safetensors";
    fs::copy_file(folder / model_name, folder / other);
  }
  std::ofstream(folder / index_name)
      << "{\"weight_map\": {\"a\": \"" << model_name << "\", \"b\": \"" << other << "\", \"c\": \""
      << other << "\"}}";
}

/// The files that a folder may have: those of its model alone.
bool is_tidy(const fs::path& folder) {
  for (const auto& [name, bytes] : contents(folder)) {
    if (name == index_name || (name == model_name && !fs::exists(folder / index_name))) continue;
    if (content(folder / index_name).find("\"" + name + "\"") == std::string::npos) return false;
  }
  return true;
}

void fail_each_call(const fs::path& folder, const std::string& old, const std::string& way,
                    int error) {
  bool more = true;
  for (int failing = 1; more; ++failing) {
    make_old(folder, old);
    const Files before = contents(folder);
    const float was = number_in(folder);
    watch = {};
    watch.folder = folder;
    watch.failing = failing;
    watch.error = error;
    std::string message;
    watch.on = true;
    try {
      save(folder, way, 2);
    } catch (const std::exception& thrown) {
      message = thrown.what();
    }
    watch.on = false;
    more = watch.failed;
    const std::string place = old + " to " + way + ", call " + std::to_string(failing) +
                              " fails with " + std::to_string(error) + " (" + message + "): ";
    const float is = number_in(folder);
    if (message.empty()) {
      check(is == 2, place + "the model is not the new one");
    } else if (is == was) {
      check(contents(folder) == before, place + "the folder has changed");
    } else {
      check(is == 2, place + "the folder has neither model");
    }
    save(folder, way, 3);
    check(number_in(folder) == 3, place + "the next save is lost");
    // The files of an index that cannot be read are not known.
    check(watch.unread || is_tidy(folder), place + "files are left");
  }
}

void lose_power(const fs::path& folder, const std::string& old, const std::string& way) {
  make_old(folder, old);
  Files durable = contents(folder);
  const float was = number_in(folder);
  watch = {};
  watch.folder = folder;
  watch.on = true;
  save(folder, way, 2);
  watch.on = false;
  const std::string place = old + " to " + way + ", without power: ";
  check(!watch.early, place + "a file has its name before its bytes are durable");
  auto moments = std::move(watch.history);
  moments.push_back(std::move(watch.changes));
  const fs::path after = folder.parent_path() / "after";
  for (std::size_t m = 0; m < moments.size(); ++m) {
    std::vector<Change> changes;
    for (const Change& change : moments[m]) {
      if (!change.name.starts_with(".")) changes.push_back(change);
    }
    check(changes.size() < 12, place + "too many changes at once");
    for (std::uint64_t part = 0; part < std::uint64_t{1} << changes.size(); ++part) {
      Files left = durable;
      for (std::size_t k = 0; k < changes.size(); ++k) {
        if ((part >> k & 1) == 0) continue;
        left.erase(changes[k].name);
        if (changes[k].bytes) left.emplace(changes[k].name, *changes[k].bytes);
      }
      fs::remove_all(after);
      fs::create_directory(after);
      for (const auto& [name, bytes] : left) {
        std::ofstream(after / name, std::ios::binary) << bytes;
      }
      const float is = number_in(after);
      check(is == 2 || (is == was && m + 1 < moments.size()),
            place + "moment " + std::to_string(m) + ", part " + std::to_string(part) + ": model " +
                std::to_string(is));
    }
    for (const Change& change : changes) {
      durable.erase(change.name);
      if (change.bytes) durable.emplace(change.name, *change.bytes);
    }
  }
}

}  // namespace

int main() {
  const TemporaryFolder place;
  const fs::path folder = fs::canonical(place.path()) / "model";
  for (const std::string& old : olds) {
    for (const std::string& way : ways) {
      for (const int error : {EIO, ENOSPC, EACCES, EMFILE, ENOLCK}) {
        fail_each_call(folder, old, way, error);
      }
      lose_power(folder, old, way);
    }
  }
  if (failures == 0) std::printf("each failure leaves the old model or the new one\n");
  return failures == 0 ? 0 : 1;
}
