// SPDX-License-Identifier: Apache-2.0
// Files that version 0.1 wrote are read, and their runs go on as they did then.
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/io/weights.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "bits.hpp"
#include "catch.hpp"
#include "earlier_runs.hpp"
#include "temporary_folder.hpp"

namespace earlier_files_test {

#if !defined(POLYAK_TEST_IO_FILES)  // the build gives it; here where one file is compiled by hand
#define POLYAK_TEST_IO_FILES std::filesystem::path(__FILE__).parent_path()
#endif

namespace {

using Bytes = std::vector<std::byte>;

std::filesystem::path file_of_0_1(const std::string& name) {
  return std::filesystem::path(POLYAK_TEST_IO_FILES) / "files_of_0.1" / name;
}

/// Weights and buffers of a list, or all that a method remembers.
template <class Method>
Bytes bytes_of(Method& method) {
  return polyak::state_bytes(method);
}
template <class P>
Bytes bytes_of(polyak::Parameters<P>& params) {
  Bytes all;
  for (std::size_t k = 0; k < params.size(); ++k) {
    const Bytes one =
        bits::bytes(static_cast<const std::byte*>(params[k].raw()), params[k].bytes());
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

template <class Run>
std::vector<Bytes> state_of(Run& run) {
  return run.parts([](auto&... parts) { return std::vector<Bytes>{bytes_of(parts)...}; });
}

template <class Run>
polyak::LoadReport load(Run& run, const std::filesystem::path& path) {
  return run.parts([&](auto&... parts) { return polyak::load(path, parts...); });
}

/// The largest difference between two tensors, relative to the largest number of the second.
double relative_difference(const polyak::SafetensorsFile& a, const polyak::SafetensorsFile& b,
                           const polyak::SafetensorsTensor& tensor) {
  const auto numbers = [&](const polyak::SafetensorsFile& file) {
    const auto raw = file.bytes(file.at(tensor.name));
    std::vector<double> list;
    const auto read = [&]<class T>(T one) {
      for (std::size_t at = 0; at < raw.size(); at += sizeof one) {
        std::memcpy(static_cast<void*>(&one), raw.data() + at, sizeof one);
        list.push_back(static_cast<double>(one));
      }
    };
    switch (tensor.dtype) {
      case polyak::SafetensorsType::F64:
        read(double{});
        break;
      case polyak::SafetensorsType::F32:
        read(float{});
        break;
      case polyak::SafetensorsType::F16:
        read(Eigen::half{});
        break;
      case polyak::SafetensorsType::BF16:
        read(Eigen::bfloat16{});
        break;
      default:
        for (const std::byte one : raw) list.push_back(static_cast<double>(one));
    }
    return list;
  };
  const std::vector<double> left = numbers(a), right = numbers(b);
  double difference = 0, largest = 0;
  for (std::size_t k = 0; k < right.size(); ++k) {
    if (!(std::fabs(left[k] - right[k]) <= difference)) difference = std::fabs(left[k] - right[k]);
    largest = std::fmax(largest, std::fabs(right[k]));
  }
  return largest > 0 ? difference / largest : difference;
}

/// Compares every tensor of `expected` with the one of that name in `found`: bit for bit unless a
/// tolerance is given.
void compare_tensors(const std::filesystem::path& found_path,
                     const std::filesystem::path& expected_path, double tolerance = 0) {
  const polyak::SafetensorsFile found(found_path), expected(expected_path);
  REQUIRE(!expected.tensors().empty());
  CHECK(found.tensors().size() == expected.tensors().size());
  for (const polyak::SafetensorsTensor& tensor : expected.tensors()) {
    INFO(expected_path.filename() << ", tensor " << tensor.name);
    const polyak::SafetensorsTensor* other = found.find(tensor.name);
    REQUIRE(other != nullptr);
    CHECK(other->dtype == tensor.dtype);
    REQUIRE(other->shape == tensor.shape);
    const auto a = found.bytes(*other), b = expected.bytes(tensor);
    if (tolerance > 0) {
      CHECK(relative_difference(found, expected, tensor) <= tolerance);
    } else {
      CHECK(Bytes(a.begin(), a.end()) == Bytes(b.begin(), b.end()));
    }
  }
}

/// The files were written with fused multiply-adds; without them every step rounds otherwise, to
/// the 8 bits of bfloat16 at the coarsest.
bool has_fma() {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return true;
#else
  return polyak::dispatch_level() != polyak::DispatchLevel::baseline;
#endif
}
double tolerance_of_steps() { return has_fma() ? 0 : 0x1p-6; }

template <class Run>
void check_run() {
  const TemporaryFolder folder;
  const auto saved = file_of_0_1(std::string(Run::name) + ".safetensors");
  const auto continued = file_of_0_1(std::string(Run::name) + ".continued.safetensors");
  INFO("run " << Run::name);

  Run run;
  const polyak::LoadReport report = load(run, saved);
  CHECK(report.metadata ==
        std::map<std::string, std::string>{{"epoch", "3"}, {"note", "one \"line\"\nand another"}});
  CHECK(report.overridden.empty());
#if defined(POLYAK_HAS_XXHASH)
  CHECK(report.verified);
#endif

  // All that was in the file is in the run.
  earlier::save(run, folder.file("again"), {.durable = false});
  compare_tensors(folder.file("again"), saved);

  // The loaded run continues like the old one.
  for (std::uint64_t n = earlier::saved_after; n < earlier::steps; ++n) run.step(n);
  earlier::save(run, folder.file("continued"), {.durable = false});
  compare_tensors(folder.file("continued"), continued, tolerance_of_steps());

  // Clocks and other scalars too, which lie in the metadata.
  Run expected;
  CHECK(load(expected, continued).metadata.empty());
  if (has_fma()) CHECK(state_of(run) == state_of(expected));

  // A run from the beginning arrives there as well.
  Run whole;
  for (std::uint64_t n = 0; n < earlier::steps; ++n) whole.step(n);
  if (has_fma()) CHECK(state_of(whole) == state_of(expected));
}

}  // namespace

TEST_CASE("Runs saved by version 0.1 resume bit for bit") {
  earlier::each_run([]<class Run>() { check_run<Run>(); });
}

TEST_CASE("A snapshot store of version 0.1 can be read and extended") {
  const TemporaryFolder folder;
  std::filesystem::copy(file_of_0_1("snapshots"), folder.file("snapshots"));
  earlier::StoreRun run;
  for (std::uint64_t n = 0; n < run.steps; ++n) run.step(n);
  const auto of_powers = [](const polyak::StoredSnapshot& one) { return one.average != "ema"; };
  {
    const auto store = polyak::SnapshotStore::read_only(folder.file("snapshots"));
    CHECK(store.problems().empty());
    REQUIRE(store.snapshots().size() == 11);
    std::map<std::string, int> counts;
    for (const polyak::StoredSnapshot& one : store.snapshots()) {
      ++counts[one.average];
      CHECK(one.run == "earlier");
      CHECK(one.calls % 12 == 0);
      CHECK(one.time == static_cast<double>(one.calls));
      CHECK(one.begun_after == 0);
      CHECK(one.dtype == polyak::DType::float32);
      CHECK(one.type == (one.average == "ema" ? "Ema" : "PowerEma"));
      CHECK(one.weighting == (one.average == "ema" ? "exponential" : "power_clock"));
      CHECK(one.buffers == std::vector<std::string>{"bn.mean", "bn.seen"});
    }
    CHECK(counts == std::map<std::string, int>{{"ema", 1}, {"sharp", 5}, {"smooth", 5}});
    const auto report = polyak::reconstruct(
        store, {{polyak::ProfileTarget::sigma_rel(0.08), folder.file("reconstructed")}},
        {.use = of_powers});
    CHECK(report.snapshots.size() == 10);
    // The fit solves equations, whose rounding depends on the compiler.
    compare_tensors(folder.file("reconstructed"), file_of_0_1("reconstructed.safetensors"), 1e-5);
  }
  polyak::SnapshotStore store(folder.file("snapshots"), {.run = "earlier"});
  run.step(run.steps);
  store.append("ema", run.ema);
  CHECK(store.snapshots().size() == 12);
}

TEST_CASE("Weights saved by version 0.1 can be loaded") {
  earlier::StoreRun run;
  for (std::uint64_t n = 0; n < run.steps; ++n) run.step(n);
  earlier::Model<float> target("");
  polyak::load_weights(file_of_0_1("average.safetensors"), target.params);
  const auto view = run.ema.view();
  for (const std::string name : {"fc.weight", "conv", "fc.bias", "scale"}) {
    INFO(name);
    const auto average = view[name];
    const float* loaded = target.params.at(name).data();
    for (std::size_t k = 0; k < average.size(); ++k) {
      CHECK(loaded[k] == Approx(average(k)).epsilon(has_fma() ? 0 : 1e-5));
    }
  }
}

}  // namespace earlier_files_test
