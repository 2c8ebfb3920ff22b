// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak_save_load [MIB [ROUNDS [FOLDER]]]: save() and load() of a run of that size against one
/// write and one read of the same bytes, with the same synchronisation with the disk. Rounds are
/// interleaved, ratios are of medians. The files are warm: in the system's cache. Page faults are
/// counted, because some machines take longer for a fault than for copying its page.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <polyak/average/ema.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>

namespace {

void check(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

/// The same bytes in one file: as short as it can be said to the system.
void plain_write(const std::string& path, const std::vector<std::vector<float>>& arrays) {
  const std::string temporary = path + ".tmp";
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  check(file >= 0, "open");
  for (const auto& array : arrays) {
    const auto* bytes = reinterpret_cast<const char*>(array.data());
    std::size_t rest = array.size() * sizeof(float);
    while (rest > 0) {
      const ssize_t part = ::write(file, bytes, rest);
      check(part > 0, "write");
      bytes += part;
      rest -= static_cast<std::size_t>(part);
    }
  }
  check(::fsync(file) == 0 && ::close(file) == 0, "fsync");
  check(::rename(temporary.c_str(), path.c_str()) == 0, "rename");
  const int folder =
      ::open(std::filesystem::path(path).parent_path().c_str(), O_RDONLY | O_DIRECTORY);
  check(folder >= 0 && ::fsync(folder) == 0 && ::close(folder) == 0, "fsync of the folder");
}

void plain_read(const std::string& path, std::vector<std::vector<float>>& arrays) {
  const int file = ::open(path.c_str(), O_RDONLY);
  check(file >= 0, "open");
  for (auto& array : arrays) {
    auto* bytes = reinterpret_cast<char*>(array.data());
    std::size_t rest = array.size() * sizeof(float);
    while (rest > 0) {
      const ssize_t part = ::read(file, bytes, rest);
      check(part > 0, "read");
      bytes += part;
      rest -= static_cast<std::size_t>(part);
    }
  }
  ::close(file);
}

long page_faults() {
  struct ::rusage used {};
  check(::getrusage(RUSAGE_SELF, &used) == 0, "getrusage");
  return used.ru_minflt + used.ru_majflt;
}

/// The rounds of one call.
struct Rounds {
  std::vector<double> seconds;
  long faults = 0;

  template <class Call>
  void time(Call call) {
    const long before = page_faults();
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    seconds.push_back(passed.count());
    faults += page_faults() - before;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  const std::size_t mib = count > 1 ? std::strtoul(arguments[1], nullptr, 10) : 1024;
  const int rounds = count > 2 ? std::atoi(arguments[2]) : 5;
  const std::filesystem::path folder =
      count > 3 ? arguments[3] : std::filesystem::temp_directory_path();
  if (mib < 4 || rounds < 1) {
    std::fprintf(stderr, "usage: polyak_save_load [MIB >= 4 [ROUNDS >= 1 [FOLDER]]]\n");
    return 2;
  }
  const std::string state = (folder / "polyak_save_load.safetensors").string();
  const std::string plain = (folder / "polyak_save_load.plain").string();

  // A quarter each: weights, two moments, average. Eight tensors.
  std::vector<std::vector<float>> weights(8), arrays(32);
  const std::size_t each = (mib << 20) / 32 / sizeof(float);
  for (auto& array : arrays) array.assign(each, 1.5F);
  for (auto& tensor : weights) tensor.assign(each, 0.5F);
  polyak::Parameters<float> params;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    params.add("layer." + std::to_string(k), weights[k]);
  }
  polyak::AdamW<float> adamw(params);
  polyak::Ema<float> ema(params);
  polyak::save(state, params, adamw, ema);  // both files exist: every round replaces one
  plain_write(plain, arrays);

  Rounds save, load, write, read;
  for (int round = 0; round < rounds; ++round) {
    write.time([&] { plain_write(plain, arrays); });
    save.time([&] { polyak::save(state, params, adamw, ema); });
    read.time([&] { plain_read(plain, arrays); });
    load.time([&] { polyak::load(state, params, adamw, ema); });
  }
  const double bytes = static_cast<double>(mib) / 1024;
  const auto report = [&](const char* what, const Rounds& ours, const Rounds& theirs) {
    const double own = median(ours.seconds), other = median(theirs.seconds);
    std::printf("%s %.2f GiB/s, plain %.2f GiB/s: %.2f of plain; page faults %ld, plain %ld\n",
                what, bytes / own, bytes / other, other / own, ours.faults / rounds,
                theirs.faults / rounds);
  };
  std::printf("%zu MiB, medians of %d interleaved rounds\n", mib, rounds);
  report("save", save, write);
  report("load", load, read);
  std::filesystem::remove(state);
  std::filesystem::remove(plain);
  return 0;
}
