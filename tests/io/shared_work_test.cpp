// SPDX-License-Identifier: Apache-2.0
// Files read by several threads: what is read, and which failure is reported.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <polyak/average/ema.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/mapped_file.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/shared_work.hpp>
#include <polyak/io/tensor_reads.hpp>
#include <polyak/io/weights.hpp>

#include "catch.hpp"
#include "temporary_folder.hpp"

namespace {

constexpr std::uint64_t many = std::uint64_t{1} << 30;  // worth all threads

std::vector<float> numbers(std::size_t count, float first) {
  std::vector<float> all(count);
  for (std::size_t k = 0; k < count; ++k) all[k] = first + static_cast<float>(k % 4099);
  return all;
}

/// Two tensors, larger than what one thread reads and than a piece.
struct TwoTensors {
  std::vector<float> a = numbers(3'000'001, 0.5F);
  std::vector<float> b = numbers(1'500'007, -7.0F);

  void write(const std::filesystem::path& path) const {
    const polyak::SafetensorsType type = polyak::SafetensorsType::F32;
    polyak::SafetensorsWriter writer(path, {{"a", type, {a.size()}}, {"b", type, {b.size()}}});
    writer.append(std::as_bytes(std::span(a)));
    writer.append(std::as_bytes(std::span(b)));
    writer.finish();
  }
};

/// Changes a byte of a tensor without the file's digests.
void damage(const std::filesystem::path& path, const std::string& tensor, std::size_t at) {
  const polyak::SafetensorsFile file(path);
  const auto place = static_cast<std::streamoff>(file.data_start() + file.at(tensor).begin + at);
  std::fstream raw(path, std::ios::in | std::ios::out | std::ios::binary);
  raw.seekg(place);
  const char changed = static_cast<char>(raw.get() ^ 4);
  raw.seekp(place).put(changed);
}

/// The message of the io_error that the call throws.
template <class Call>
std::string failure(Call call) {
  try {
    call();
  } catch (const polyak::io_error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("work is done once, whatever the number of its pieces") {
  for (const std::size_t count : {0U, 1U, 2U, 5U, 1000U}) {
    for (const std::uint64_t bytes : {std::uint64_t{0}, many}) {
      std::vector<std::atomic<int>> done(count);
      polyak::detail::share_work(count, bytes, [&](std::size_t k) { ++done[k]; });
      for (const auto& times : done) REQUIRE(times == 1);
    }
  }
}

TEST_CASE("the first failure is thrown, whichever thread meets one first") {
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::string words;
    std::vector<std::atomic<int>> done(100);
    std::atomic<bool> later_failed{false};
    try {
      polyak::detail::share_work(100, many, [&](std::size_t k) {
        ++done[k];
        if (k < 17) return;
        if (k == 17) {  // fails last, where there are other threads
          for (int wait = 0; wait < 200 && !later_failed; ++wait) ::usleep(100);
        } else {
          later_failed = true;
        }
        throw std::runtime_error("piece " + std::to_string(k));
      });
    } catch (const std::runtime_error& error) {
      words = error.what();
    }
    REQUIRE(words == "piece 17");
    for (std::size_t k = 0; k < 17; ++k) REQUIRE(done[k] == 1);
  }
}

TEST_CASE("a part of a mapped file is copied") {
  const TemporaryFolder folder;
  const auto path = folder.file("file");
  TwoTensors().write(path);
  const polyak::MappedFile file(path);
  std::vector<std::byte> part(1'000'003);
  file.read(777, part);
  REQUIRE(std::equal(part.begin(), part.end(), file.bytes().begin() + 777));
  file.read(file.bytes().size(), {});
  REQUIRE_THROWS_AS(file.read(file.bytes().size() - 1, std::span(part).first(2)), std::logic_error);
  REQUIRE_THROWS_AS(file.read(file.bytes().size() + 1, {}), std::logic_error);
  std::filesystem::resize_file(path, 4096);
  REQUIRE(failure([&] {
            file.read(5000, std::span(part).first(10));
          }).find("has become shorter since it was opened") != std::string::npos);
}

TEST_CASE("parts of a tensor are converted") {
  const TemporaryFolder folder;
  const auto path = folder.file("file");
  const TwoTensors written;
  written.write(path);
  const polyak::SafetensorsFile file(path);
  const auto& tensor = file.at("a");
  std::vector<double> part(100'000);
  file.copy_part(tensor, 2'345'678, std::span(part));
  for (std::size_t k = 0; k < part.size(); ++k) {
    REQUIRE(part[k] == static_cast<double>(written.a[2'345'678 + k]));
  }
  REQUIRE_THROWS_AS(file.copy_part(tensor, 2'900'002, std::span(part)), std::logic_error);
  REQUIRE_THROWS_AS(file.copy_part(tensor, UINT64_MAX / 2, std::span(part)), std::logic_error);
}

TEST_CASE("weights and states of many pieces come back bit for bit") {
  const TemporaryFolder folder;
  const TwoTensors written;
  written.write(folder.file("weights"));
  std::vector<float> a(written.a.size()), b(written.b.size());
  std::vector<double> wide_a(a.size()), wide_b(b.size());
  polyak::Parameters<float> params;
  params.add("a", a);
  params.add("b", b);
  polyak::load_weights(folder.file("weights"), params);
  REQUIRE(a == written.a);
  REQUIRE(b == written.b);
  polyak::Parameters<double> wide;
  wide.add("a", wide_a);
  wide.add("b", wide_b);
  polyak::load_weights(folder.file("weights"), wide);
  REQUIRE(std::equal(wide_a.begin(), wide_a.end(), a.begin()));
  REQUIRE(std::equal(wide_b.begin(), wide_b.end(), b.begin()));

  polyak::Ema<float> ema(params, {.decay = 0.5});
  ema.update(params);
  for (float& x : a) x += 1;
  ema.update(params);
  polyak::save(folder.file("state"), params, ema);
  std::vector<float> again_a(a.size()), again_b(b.size());
  polyak::Parameters<float> again;
  again.add("a", again_a);
  again.add("b", again_b);
  polyak::Ema<float> loaded(again, {.decay = 0.5});
  polyak::load(folder.file("state"), again, loaded);
  REQUIRE(again_a == a);
  REQUIRE(again_b == b);
  std::vector<float> mean(a.size()), mean_again(a.size());
  polyak::Parameters<float> target, target_again;
  target.add("a", mean).add("b", b);
  target_again.add("a", mean_again).add("b", b);
  ema.copy_to(target);
  loaded.copy_to(target_again);
  REQUIRE(mean == mean_again);
}

TEST_CASE("a file that is cut while it is read says that some tensors are loaded") {
  const TemporaryFolder folder;
  const auto path = folder.file("file");
  TwoTensors().write(path);
  const polyak::SafetensorsFile file(path);
  std::filesystem::resize_file(path, 1 << 20);
  std::vector<float> a(3'000'001);
  polyak::detail::TensorReads reads;
  reads.add_pieces(a.size(), sizeof(float), [&](std::uint64_t first, std::uint64_t count) {
    file.copy_part(file.at("a"), first, std::span(a).subspan(first, count));
  });
  const std::string words = failure([&] { reads.run(); });
  REQUIRE(words.find("load them all again") != std::string::npos);
  REQUIRE(words.find("has become shorter since it was opened") != std::string::npos);
}

#if POLYAK_HAS_XXHASH
TEST_CASE("a damaged tensor is refused before any weight has changed") {
  const TemporaryFolder folder;
  const TwoTensors written;
  written.write(folder.file("weights"));
  damage(folder.file("weights"), "b", 6'000'000);
  std::vector<float> a(written.a.size(), 1), b(written.b.size(), 2);
  polyak::Parameters<float> params;
  params.add("a", a);
  params.add("b", b);
  REQUIRE(failure([&] {
            polyak::load_weights(folder.file("weights"), params);
          }).find("tensor \"b\": has changed since it was written: damaged") != std::string::npos);
  REQUIRE(a == std::vector<float>(a.size(), 1));
  REQUIRE(b == std::vector<float>(b.size(), 2));
}
#endif
