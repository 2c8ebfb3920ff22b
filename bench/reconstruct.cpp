// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak_reconstruct [SNAPSHOTS [MIB [TARGETS [ROUNDS [FOLDER]]]]]: makes averages from a store of
/// snapshots, against reading all snapshots once and writing files of the size of the outputs, with
/// the same synchronisation with the disk. Rounds are interleaved, ratios are of medians; the files
/// are warm: in the system's cache.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <polyak/average/power_ema.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>

namespace {

void check(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

/// As `cat` of the files to /dev/null.
void read_all(const std::vector<polyak::StoredSnapshot>& snapshots) {
  std::vector<char> buffer(std::size_t{128} * 1024);
  for (const auto& one : snapshots) {
    const int file = ::open(one.file.c_str(), O_RDONLY);
    check(file >= 0, "open");
    while (::read(file, buffer.data(), buffer.size()) > 0) {
    }
    ::close(file);
  }
}

void write_all(const std::filesystem::path& folder, std::size_t files,
               const std::vector<char>& bytes) {
  for (std::size_t k = 0; k < files; ++k) {
    const auto path = folder / ("plain" + std::to_string(k));
    const auto temporary = path.string() + ".tmp";
    const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    check(file >= 0, "open");
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t part = ::write(file, bytes.data() + done, bytes.size() - done);
      check(part > 0, "write");
      done += static_cast<std::size_t>(part);
    }
    check(::fsync(file) == 0 && ::close(file) == 0, "fsync");
    check(::rename(temporary.c_str(), path.c_str()) == 0, "rename");
    const int names = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
    check(names >= 0 && ::fsync(names) == 0 && ::close(names) == 0, "fsync of the folder");
  }
}

template <class Call>
double seconds(Call call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Memory of this process that belongs to no file, in MiB.
double anonymous_memory() {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kib = 0;
  while (status >> word) {
    if (word == "RssAnon:") status >> kib;
  }
  return kib / 1024;
}

}  // namespace

int main(int count, char** arguments) {
  const auto argument = [&](int k, std::size_t otherwise) {
    return count > k ? std::strtoul(arguments[k], nullptr, 10) : otherwise;
  };
  const std::size_t snapshots = argument(1, 32), mib = argument(2, 64), targets = argument(3, 8),
                    rounds = argument(4, 5);
  const std::filesystem::path folder =
      (count > 5 ? std::filesystem::path(arguments[5]) : std::filesystem::temp_directory_path()) /
      "polyak_reconstruct";
  if (snapshots < 4 || mib < 1 || targets < 1 || rounds < 1) {
    std::fprintf(stderr,
                 "usage: polyak_reconstruct [SNAPSHOTS >= 4 [MIB [TARGETS [ROUNDS [FOLDER]]]]]\n");
    return 2;
  }
  std::filesystem::remove_all(folder);
  {
    std::vector<float> weights((mib << 20) / sizeof(float), 0.5F);
    polyak::Parameters<float> params;
    params.add("weights", weights);
    polyak::PowerEma<float> sharp(params, {.sigma_rel = 0.05}), smooth(params, {.sigma_rel = 0.10});
    polyak::SnapshotStore store(folder / "snapshots", {.durable = false});
    for (std::size_t k = 0; k < snapshots / 2; ++k) {
      for (float& weight : weights) weight += 0.125F;
      for (int step = 0; step < 4; ++step) polyak::update(params, sharp, smooth);
      store.append("sharp", sharp);
      store.append("smooth", smooth);
    }
  }
  const auto store = polyak::SnapshotStore::read_only(folder / "snapshots");
  std::vector<polyak::ReconstructOutput> outputs;
  for (std::size_t k = 0; k < targets; ++k) {
    outputs.push_back({polyak::ProfileTarget::sigma_rel(0.06 + 0.1 * static_cast<double>(k) /
                                                                   static_cast<double>(targets)),
                       folder / ("average" + std::to_string(k) + ".safetensors")});
  }
  const std::vector<char> plain(mib << 20, 1);
  std::vector<double> ours, limit, unverified;
  double memory = 0;
  const double before = anonymous_memory();
  const auto progress = [&](std::uint64_t, std::uint64_t) {
    memory = std::max(memory, anonymous_memory() - before);
    return true;
  };
  ::sync();
  for (std::size_t round = 0; round <= rounds; ++round) {
    const double a = seconds([&] { polyak::reconstruct(store, outputs); });
    const double b = seconds([&] {
      read_all(store.snapshots());
      write_all(folder, targets, plain);
    });
    const double c = seconds([&] { polyak::reconstruct(store, outputs, {.verify = false}); });
    if (round == 0) continue;  // fills the cache, and creates the files that others replace
    ours.push_back(a);
    limit.push_back(b);
    unverified.push_back(c);
  }
  polyak::reconstruct(store, outputs, {.progress = progress});
  std::printf("%zu targets from %zu snapshots of %zu MiB, medians of %zu interleaved rounds\n",
              targets, snapshots, mib, rounds);
  std::printf("reconstruct %.2f s, read and write %.2f s: %.2f of it\n", median(ours),
              median(limit), median(ours) / median(limit));
  std::printf("without checking digests %.2f s: %.2f of it\n", median(unverified),
              median(unverified) / median(limit));
  std::printf("memory beyond the mapped files: %.1f MiB\n", memory);
  std::filesystem::remove_all(folder);
  return 0;
}
