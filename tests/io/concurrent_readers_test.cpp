// SPDX-License-Identifier: Apache-2.0
// polyak/io/safetensors.hpp, mapped_file.hpp: files that several threads read at once, while
// another replaces them.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <polyak/io/safetensors.hpp>

#include "catch.hpp"
#include "temporary_folder.hpp"

namespace concurrent_readers_test {

namespace {

void write(const std::string& path, float first) {
  std::vector<float> values(4000);
  std::iota(values.begin(), values.end(), first);
  polyak::SafetensorsWriter writer(path, {{"a", polyak::SafetensorsType::F32, {4000}}},
                                   {{"first", std::to_string(first)}}, {.durable = false});
  writer.append(std::as_bytes(std::span(values)));
  writer.finish();
}

/// Whether the file is one that write() made, as a whole.
bool whole(const polyak::SafetensorsFile& file) {
  file.verify();
  std::vector<float> values(4000);
  file.copy_to("a", std::span(values));
  const float first = std::stof(file.metadata().at("first"));
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (values[k] != first + static_cast<float>(k)) return false;
  }
  return file.view<float>("a")[7] == first + 7;
}

}  // namespace

TEST_CASE("A file can be read by several threads, and replaced while they read") {
  const TemporaryFolder folder;
  const std::string path = folder.file("file.safetensors");
  write(path, 0);
  const polyak::SafetensorsFile shared(path);
  std::atomic<bool> ends = false;
  std::atomic<int> reads = 0, failures = 0;
  std::vector<std::thread> readers;
  for (int k = 0; k < 3; ++k) {
    readers.emplace_back([&] {
      do {
        if (!whole(shared) || !whole(polyak::SafetensorsFile(path))) ++failures;
        ++reads;
      } while (!ends);
    });
  }
  for (int n = 1; n < 60; ++n) write(path, static_cast<float>(n));
  while (reads < 30) std::this_thread::yield();
  ends = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(failures == 0);
  CHECK(std::stof(shared.metadata().at("first")) == 0);  // the file that was opened
}

}  // namespace concurrent_readers_test
