// SPDX-License-Identifier: Apache-2.0
// The scan of a store's folder: whatever one of its files holds, it is a snapshot or a problem.
// The input is the metadata of a snapshot, or else a whole file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <unistd.h>

#include <polyak/io/snapshot_store.hpp>

namespace {
void check(bool holds) {
  if (!holds) std::abort();
}

/// A folder of this process, in memory where the system has such files.
std::filesystem::path make_folder() {
  const std::filesystem::path memory = "/dev/shm";
  std::error_code ignored;
  const auto parent = std::filesystem::is_directory(memory, ignored)
                          ? memory
                          : std::filesystem::temp_directory_path();
  const auto folder = parent / ("polyak-fuzz-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::atexit([] {
    std::error_code error;
    std::filesystem::remove_all("/dev/shm/polyak-fuzz-" + std::to_string(::getpid()), error);
  });
  return folder;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path folder = make_folder();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto file = folder / "one.safetensors";
  const std::string record(text);
  if (text.starts_with("{") && polyak::detail::is_utf8(text)) {
    polyak::SafetensorsWriter writer(file, {{"w", polyak::SafetensorsType::F32, {0}}},
                                     {{"polyak.snapshot", record}}, {.durable = false});
    writer.finish();
  } else {
    polyak::AtomicFile writer(file, false);
    writer.append(text);
    writer.commit();
  }
  const auto store = polyak::SnapshotStore::read_only(folder);
  check(store.snapshots().size() + store.problems().size() == 1);
  for (const polyak::StoredSnapshot& one : store.snapshots()) {
    check(one.calls >= 1 && one.time > 0);
  }
  return 0;
}
