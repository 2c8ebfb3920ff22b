// SPDX-License-Identifier: Apache-2.0
// polyak/io/snapshot_store.hpp, reconstruct.hpp; core/sum_many.hpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <polyak/average/ema.hpp>
#include <polyak/average/posthoc.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/sum.hpp>
#include <polyak/core/sum_many.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace snapshot_store_test {

namespace {

using polyak::ProfileTarget;

/// A model of three tensors that wanders, and two power averages of it.
struct Wandering {
  std::vector<float> w = std::vector<float>(5000), b = std::vector<float>(7), mean{1, 2};
  std::vector<std::int64_t> seen{0};
  polyak::Parameters<float> params = list();
  polyak::PowerEma<float> sharp{params, {.sigma_rel = 0.05}}, smooth{params, {.sigma_rel = 0.10}};
  std::uint64_t calls = 0;

  Wandering() = default;
  Wandering(const Wandering&) = delete;
  Wandering& operator=(const Wandering&) = delete;

  polyak::Parameters<float> list() {
    polyak::Parameters<float> tensors;
    tensors.add("w", w, {50, 100}, polyak::Role::average, polyak::Order::column_major)
        .add("b", b)
        .add("mean", mean, polyak::Role::copy)
        .add("seen", seen, polyak::Role::copy);
    return tensors;
  }
  void move() {
    ++calls;
    for (std::size_t k = 0; k < w.size(); ++k) {
      w[k] += static_cast<float>(0.1 * bits::uniform(k, calls) + 0.01);
    }
    for (std::size_t k = 0; k < b.size(); ++k) {
      b[k] = 0.5F * b[k] + static_cast<float>(bits::uniform(k, 1000 + calls));
    }
    mean[0] += 1;
    seen[0] += 3;
  }
  void step() {
    move();
    polyak::update(params, sharp, smooth);
  }
};

/// Appends both averages every `every` calls.
void fill(polyak::SnapshotStore& store, Wandering& run, int calls, int every) {
  for (int call = 1; call <= calls; ++call) {
    run.step();
    if (call % every != 0) continue;
    store.append("sharp", run.sharp);
    store.append("smooth", run.smooth);
  }
}

std::vector<float> floats(const polyak::SafetensorsFile& file, const std::string& name) {
  const auto& tensor = file.at(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.end - tensor.begin) * 8 /
                            polyak::bits_of(tensor.dtype));
  file.copy_to(tensor, std::span(values));
  return values;
}

/// The weighted sum of as many numbers from each address as `out` has.
void sum_of(std::vector<float>& out, const std::vector<const float*>& inputs,
            const std::vector<double>& weights) {
  std::vector<std::span<const float>> arrays;
  for (const float* const input : inputs) arrays.emplace_back(input, out.size());
  polyak::merge_streams(polyak::serial, polyak::WeightedSumLaw<float>{}, polyak::writes(out),
                        arrays, weights);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, square = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    error += std::pow(static_cast<double>(a[k]) - static_cast<double>(b[k]), 2);
    square += std::pow(static_cast<double>(b[k]), 2);
  }
  return std::sqrt(error / square);
}

}  // namespace

TEST_CASE("A store keeps snapshots of averages and lists them by time") {
  const TemporaryFolder folder;
  Wandering run;
  {
    polyak::SnapshotStore store(folder.path() / "store", {.run = "first"});
    fill(store, run, 20, 10);
    CHECK(store.recovered().empty());
  }
  polyak::SnapshotStore store(folder.path() / "store", {.run = "first"});
  CHECK(store.problems().empty());
  REQUIRE(store.snapshots().size() == 4);
  const polyak::StoredSnapshot& last = store.snapshots()[3];
  CHECK(last.average == "smooth");
  CHECK(last.type == "PowerEma");
  CHECK(last.weighting == "power_clock");
  CHECK(last.calls == 20);
  CHECK(last.time == 20);
  CHECK(last.run == "first");
  CHECK(last.buffers == std::vector<std::string>{"mean", "seen"});
  CHECK(last.rms_error == 0);
  CHECK(names_in(store.folder()) ==
        std::vector<std::string>{
            ".lock", "sharp-000000000010.safetensors", "sharp-000000000020.safetensors",
            "smooth-000000000010.safetensors", "smooth-000000000020.safetensors"});
  const polyak::SafetensorsFile file(last.file);
  CHECK(file.at("w").shape == std::vector<std::uint64_t>{50, 100});
  const auto view = run.smooth.view();
  const auto w = floats(file, "w");
  for (std::size_t i = 0; i < 50; ++i) {
    for (std::size_t j = 0; j < 100; ++j) {
      if (w[100 * i + j] != view["w"][i + 50 * j]) FAIL(i << ", " << j);
    }
  }
  CHECK(floats(file, "mean") == run.mean);
  CHECK(file.view<std::int64_t>("seen")[0] == 60);

  SECTION("what does not fit is refused, and leaves no trace") {
    const auto before = names_in(store.folder());
    const auto refused = [&](auto call) {
      const std::string message = refusal<std::invalid_argument>(call);
      CHECK(names_in(store.folder()) == before);
      CHECK(store.snapshots().size() == 4);
      return message;
    };
    CHECK(refused([&] { store.append("sharp", run.sharp); }) ==
          "polyak: the snapshots of \"sharp\" must be of different calls, got 20");
    for (const char* name : {"", ".hidden", "a/b", "a b"}) {
      refused([&] { store.append(name, run.sharp); });
    }
    std::vector<float> other(4);
    polyak::Parameters<float> params;
    params.add("w", other).add("x", other.data() + 3, {0});
    polyak::Ema<float> ema(params);
    CHECK(refusal<std::logic_error>([&] { store.append("ema", ema); }).find("never updated") !=
          std::string::npos);
    ema.update(params);
    CHECK(refused([&] { store.append("ema", ema); }) ==
          "polyak: the tensors of the average and of the snapshots in " + store.folder().string() +
              " differ: \"w\" has another shape; \"x\" is new; \"b\" is missing; \"mean\" is "
              "missing; \"seen\" is missing");
    refused([&] { store.remove("sharp", 11); });
    refused([&] { store.thin(1); });
    run.step();
    const auto guard = run.sharp.swap_into(run.params);
    refusal<std::logic_error>([&] { store.append("sharp", run.sharp); });
    CHECK(names_in(store.folder()) == before);
  }
  SECTION("another run is refused") {
    store = polyak::SnapshotStore(folder.path() / "elsewhere");
    polyak::SnapshotStore again(folder.path() / "store", {.run = "second"});
    run.step();
    CHECK(refusal<std::invalid_argument>([&] { again.append("sharp", run.sharp); }) ==
          "polyak: a store's snapshots must be of one run, \"first\"; this is of, got \"second\"");
  }
  SECTION("a reader reads beside the writer, and cannot write") {
    auto reader = polyak::SnapshotStore::read_only(store.folder());
    CHECK(reader.snapshots().size() == 4);
    refusal<std::logic_error>([&] { reader.append("sharp", run.sharp); });
    refusal<std::logic_error>([&] { reader.remove("sharp", 10); });
    refusal<polyak::io_error>(
        [&] { static_cast<void>(polyak::SnapshotStore::read_only(folder.path() / "none")); });
  }
  SECTION("a second writer is refused, in this process and in another") {
    const std::string expected = "polyak: " + store.folder().string() +
                                 ": is open for writing already, by process " +
                                 std::to_string(::getpid());
    CHECK(refusal<polyak::io_error>([&] { polyak::SnapshotStore second(store.folder()); }) ==
          expected);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        polyak::SnapshotStore second(store.folder());
      } catch (const polyak::io_error& error) {
        ::_exit(error.what() == expected ? 7 : 8);
      }
      ::_exit(9);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 7);
  }
}

TEST_CASE("Thinning keeps the first and last snapshots and about equal ratios of times") {
  const TemporaryFolder folder;
  Wandering run;
  polyak::SnapshotStore store(folder.path(), {.most = 6, .durable = false});
  fill(store, run, 160, 5);
  std::vector<std::int64_t> calls;
  for (const auto& one : store.snapshots()) {
    if (one.average == "sharp") calls.push_back(one.calls);
  }
  REQUIRE(calls.size() == 6);
  CHECK(calls.front() == 5);
  CHECK(calls.back() == 160);
  for (std::size_t k = 1; k < calls.size(); ++k) {
    const double ratio = static_cast<double>(calls[k]) / static_cast<double>(calls[k - 1]);
    CHECK(ratio > 1.1);
    CHECK(ratio < 3.5);
  }
  CHECK(names_in(folder.path()).size() == 13);
  store.thin(2);
  CHECK(store.snapshots().size() == 4);
  store.remove("sharp", 5);
  CHECK(polyak::SnapshotStore::read_only(folder.path()).snapshots().size() == 3);
}

TEST_CASE("A store measures the rounding of snapshots and refuses overflow") {
  const TemporaryFolder folder;
  Wandering run;
  for (int k = 0; k < 5; ++k) run.step();
  for (const auto dtype : {polyak::DType::float16, polyak::DType::bfloat16}) {
    polyak::SnapshotStore store(folder.path() / std::string(polyak::detail::name_of(dtype)),
                                {.dtype = dtype});
    const auto one = store.append("sharp", run.sharp);
    CHECK(one.dtype == dtype);
    const auto stored = floats(polyak::SafetensorsFile(one.file), "b");
    double error = 0, square = 0, worst = 0, largest = 0;
    for (const char* name : {"w", "b"}) {
      const auto view = run.sharp.view()[name];
      const auto back = floats(polyak::SafetensorsFile(one.file), name);
      for (std::size_t k = 0; k < view.size(); ++k) {
        const bool turned = std::string(name) == "w";
        const std::size_t place = turned ? k % 50 * 100 + k / 50 : k;
        const double value = static_cast<double>(view[k]);
        const double lost = std::fabs(value - static_cast<double>(back[place]));
        error += lost * lost;
        square += value * value;
        worst = std::max(worst, lost);
        largest = std::max(largest, std::fabs(value));
      }
    }
    CHECK(one.rms_error == Approx(std::sqrt(error / square)).epsilon(1e-9));
    CHECK(one.largest_error == Approx(worst / largest).epsilon(1e-9));
    CHECK(one.rms_error > 0);
    CHECK(one.rms_error < (dtype == polyak::DType::float16 ? 5e-4 : 4e-3));
    CHECK(polyak::SnapshotStore::read_only(store.folder()).snapshots()[0].rms_error ==
          one.rms_error);
  }
  run.b[3] = 1e6F;
  for (int k = 0; k < 50; ++k) polyak::update(run.params, run.sharp);
  polyak::SnapshotStore store(folder.path() / "half", {.dtype = polyak::DType::float16});
  CHECK(refusal<std::invalid_argument>([&] { store.append("sharp", run.sharp); })
            .starts_with("polyak: tensor \"b\" must fit into float16 to be stored; an element, "
                         "got "));
  CHECK(names_in(store.folder()) == std::vector<std::string>{".lock"});
  refusal<std::invalid_argument>(
      [&] { polyak::SnapshotStore integers(folder.path() / "x", {.dtype = polyak::DType::int8}); });
}

TEST_CASE("A kill while snapshots are appended loses at most the newest one") {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  std::int64_t last = 0;
  useconds_t longest = 9000;  // more where that is too short to get anywhere
  for (int kills = 0; kills < 60; ++kills) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      Wandering run;
      polyak::SnapshotStore store(folder.path(), {.most = 5});
      for (std::int64_t call = 1;; ++call) {
        run.step();
        if (call > last) store.append("sharp", run.sharp);
      }
    }
    ::usleep(std::uniform_int_distribution<useconds_t>(1, longest)(random));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    polyak::SnapshotStore store(folder.path(), {.most = 5});
    INFO("kill " << kills);
    CHECK(store.recovered().size() <= 1);
    REQUIRE(store.problems().empty());
    for (const auto& one : store.snapshots()) polyak::SafetensorsFile(one.file).verify();
    CHECK(store.snapshots().size() <= 5);
    const bool stood = store.snapshots().empty() || store.snapshots().back().calls == last;
    if (stood && longest < 300'000) longest += longest / 4;
    if (store.snapshots().empty()) continue;
    REQUIRE(store.snapshots().back().calls >= last);
    last = store.snapshots().back().calls;
  }
  CHECK(last > 10);
  for (const auto& name : names_in(folder.path())) CHECK_FALSE(name.ends_with(".tmp"));
}

TEST_CASE("A store reports foreign files and leaves them alone") {
  const TemporaryFolder folder;
  Wandering run;
  {
    polyak::SnapshotStore store(folder.path());
    fill(store, run, 20, 10);
  }
  const auto path = [&](const char* name) { return folder.path() / name; };
  std::ofstream(path("notes.txt")) << "notes";
  std::ofstream(path("broken.safetensors")) << "broken";
  std::ofstream(path(".sharp-000000000030.safetensors.tmp")) << "half";
  std::ofstream(path(".own.tmp")) << "of someone else";
  { polyak::SafetensorsWriter(path("model.safetensors"), {}).finish(); }
  std::filesystem::copy(path("sharp-000000000010.safetensors"), path("copy.safetensors"));
  {
    polyak::SafetensorsWriter(path("record.safetensors"), {},
                              {{"polyak.snapshot", "{\"format\":\"polyak-snapshot-1\"}"}})
        .finish();
  }
  const auto reader = polyak::SnapshotStore::read_only(folder.path());
  CHECK(reader.snapshots().size() == 4);
  CHECK(std::filesystem::exists(path(".sharp-000000000030.safetensors.tmp")));
  const polyak::SnapshotStore store(folder.path());
  CHECK(store.snapshots().size() == 4);
  CHECK(store.recovered() ==
        std::vector<std::filesystem::path>{path(".sharp-000000000030.safetensors.tmp")});
  CHECK_FALSE(std::filesystem::exists(path(".sharp-000000000030.safetensors.tmp")));
  REQUIRE(store.problems().size() == 6);
  CHECK(std::filesystem::exists(path(".own.tmp")));
  CHECK(store.problems()[0] == path(".own.tmp").string() + " is not a snapshot");
  CHECK(store.problems()[1].find("broken.safetensors") != std::string::npos);
  CHECK(store.problems()[2] == path("model.safetensors").string() + " is not a snapshot");
  CHECK(store.problems()[3] == path("notes.txt").string() + " is not a snapshot");
  CHECK(store.problems()[4].ends_with(
      "is a snapshot whose record is damaged, or of a later version"));
  CHECK(store.problems()[5].ends_with("is the same snapshot as copy.safetensors"));
  CHECK(std::filesystem::exists(path("notes.txt")));
}

TEST_CASE("A store reports a record that does not fit its tensors") {
  const TemporaryFolder folder;
  Wandering run;
  polyak::SnapshotStore store(folder.path());
  fill(store, run, 10, 10);
  const polyak::SafetensorsFile file(store.snapshots()[0].file);
  const std::string record = file.metadata().at("polyak.snapshot");
  // The record of a snapshot with tensors of other types, in a file that is well-formed.
  const auto write = [&](const char* name, polyak::SafetensorsType weights,
                         polyak::SafetensorsType seen, bool with_mean) {
    std::vector<polyak::SafetensorsSpec> specs{
        {"w", weights, {50, 100}}, {"b", weights, {7}}, {"seen", seen, {1}}};
    if (with_mean) specs.push_back({"mean", polyak::SafetensorsType::F32, {2}});
    polyak::SafetensorsWriter writer(folder.path() / name, specs, {{"polyak.snapshot", record}});
    std::size_t size = 0;
    for (const auto& tensor : writer.tensors()) size += tensor.end - tensor.begin;
    writer.append(std::vector<std::byte>(size));
    writer.finish();
  };
  using Type = polyak::SafetensorsType;
  write("a.safetensors", Type::I8, Type::I64, true);
  write("b.safetensors", Type::F8_E4M3, Type::I64, true);
  write("c.safetensors", Type::F32, Type::I64, false);
  write("sharp-1.safetensors", Type::F32, Type::F64, true);
  const auto reader = polyak::SnapshotStore::read_only(folder.path());
  CHECK(reader.snapshots().size() == 2);
  REQUIRE(reader.problems().size() == 4);
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(reader.problems()[k].ends_with("is a snapshot whose record does not fit its tensors"));
  }
  CHECK(reader.problems()[3].find("is a snapshot of other tensors than") != std::string::npos);
}

TEST_CASE("Snapshots keep the roles of tensors and the types of buffers") {
  const TemporaryFolder folder;
  std::vector<float> w(4, 1), mean(2, 2);
  std::vector<std::int32_t> narrow{3};
  std::vector<std::int64_t> wide{3};
  polyak::Parameters<float> before, types, roles;
  before.add("w", w).add("mean", mean).add("seen", narrow, polyak::Role::copy);
  types.add("w", w).add("mean", mean).add("seen", wide, polyak::Role::copy);
  roles.add("w", w).add("mean", mean, polyak::Role::copy).add("seen", narrow, polyak::Role::copy);
  polyak::Ema<float> first(before), second(types), third(roles);
  first.update(before);
  second.update(types);
  third.update(roles);
  polyak::SnapshotStore store(folder.path());
  store.append("first", first);
  const std::string differ = "polyak: the tensors of the average and of the snapshots in " +
                             folder.path().string() + " differ: ";
  CHECK(refusal<std::invalid_argument>([&] { store.append("second", second); }) ==
        differ + "\"seen\" has another type");
  CHECK(refusal<std::invalid_argument>([&] { store.append("third", third); }) ==
        differ + "\"mean\" is copied here");
  CHECK(store.snapshots().size() == 1);
  CHECK(refusal<std::invalid_argument>([&] {
          polyak::SnapshotStore one(folder.path() / "other", {.most = 1});
        }) == "polyak: SnapshotStoreOptions.most must be 0 or at least 2, got 1");
}

TEST_CASE("Reconstructed buffers come from the newest call, whatever the clocks of the averages") {
  const TemporaryFolder folder;
  Wandering run;
  polyak::Ema<float> ema(run.params, {.decay = 0.9, .start = polyak::Start::first_update});
  polyak::SnapshotStore store(folder.path() / "store", {.durable = false});
  for (int call = 1; call <= 32; ++call) {
    run.move();
    run.smooth.at(1000).update(run.params);  // far ahead of the other clock
    ema.update(run.params);
    if (call % 4 == 0 && call <= 16) store.append("smooth", run.smooth);
    if (call % 4 == 0) store.append("ema", ema);
  }
  const auto file = folder.path() / "ema.safetensors";
  polyak::reconstruct(store, {{ProfileTarget::ema(0.9), file}}, {.fit = {.force = true}});
  CHECK(floats(polyak::SafetensorsFile(file), "mean") == run.mean);
}

TEST_CASE("Reconstructing several outputs at once gives the bits of each alone") {
  for (const std::size_t terms : {1U, 2U, 9U}) {
    std::vector<std::vector<float>> inputs(terms), outputs(6);
    std::vector<std::vector<double>> weights(6, std::vector<double>(terms));
    for (std::size_t k = 0; k < terms; ++k) {
      for (std::size_t i = 0; i < 416; ++i) {
        inputs[k].push_back(static_cast<float>(bits::uniform(i, k)));
      }
      for (std::size_t m = 0; m < 6; ++m) weights[m][k] = bits::uniform(m, 50 + k);
    }
    std::vector<const float*> from;
    std::vector<float*> to;
    for (const auto& input : inputs) from.push_back(input.data());
    for (auto& output : outputs) {
      output.resize(416, -1);
      to.push_back(output.data());
    }
    polyak::detail::SumMany<float> sums(weights);
    sums(415, std::span<const float* const>(from), std::span<float* const>(to));
    for (std::size_t m = 0; m < 6; ++m) {
      std::vector<float> alone(416);
      sum_of(alone, from, weights[m]);
      CHECK(bits::bytes(outputs[m]) == bits::bytes(alone));
    }
  }
}

TEST_CASE("A store gives averages of other widths") {
  const TemporaryFolder folder;
  const auto path = [&](const char* name) { return folder.path() / name; };
  Wandering run;
  polyak::SnapshotStore store(path("store"), {.durable = false});
  polyak::PowerEma<float> wanted(run.params, {.sigma_rel = 0.075});
  polyak::Ema<float> ema(run.params, {.decay = 0.98, .start = polyak::Start::zero_debiased});
  polyak::PosthocEma<float> posthoc;
  std::vector<float> mean_at_200;
  for (int call = 1; call <= 256; ++call) {
    run.step();
    polyak::update(run.params, wanted, ema);
    if (call % 8 == 0) {
      store.append("sharp", run.sharp);
      store.append("smooth", run.smooth);
      posthoc.snapshot(run.sharp, run.smooth);
    }
    if (call == 200) mean_at_200 = run.mean;
  }
  const auto direct = [&](const auto& average) {
    std::vector<float> values;
    const auto view = average.view()["w"];
    for (std::size_t i = 0; i < 50; ++i) {
      for (std::size_t j = 0; j < 100; ++j) values.push_back(view[i + 50 * j]);
    }
    return values;
  };

  SECTION("one pass, several targets") {
    std::uint64_t last = 0, all = 0;
    const auto report =
        polyak::reconstruct(store,
                            {{ProfileTarget::sigma_rel(0.075), path("wanted.safetensors")},
                             {ProfileTarget::ema(0.98), path("ema.safetensors")},
                             {ProfileTarget::sigma_rel(0.1), path("smooth.safetensors")},
                             {ProfileTarget::sigma_rel(0.1).at(200), path("earlier.safetensors")},
                             {ProfileTarget::window(64), path("window.safetensors")}},
                            {.progress = [&](std::uint64_t done, std::uint64_t total) {
                              CHECK(done > last);
                              last = done;
                              all = total;
                              return true;
                            }});
    CHECK(report.complete);
    CHECK(last == all);
    CHECK(all == 64 * (5007 * sizeof(float)));
    CHECK(report.fits[0].residual < 0.01);
    const auto profile = polyak::achieved_profile(report, 2);  // of a width that was tracked
    const auto wish = ProfileTarget::sigma_rel(0.1).profile(256);
    for (std::size_t t = 0; t <= 256; ++t) CHECK(std::fabs(profile[t] - wish[t]) < 1e-12);
    const polyak::SafetensorsFile made(path("wanted.safetensors"));
    made.verify();
    CHECK(made.metadata().at("polyak.target") == "sigma_rel 0.075");
    CHECK(made.metadata().at("format") == "pt");
    CHECK(distance(floats(made, "w"), direct(wanted)) < 1e-3);
    CHECK(distance(floats(polyak::SafetensorsFile(path("ema.safetensors")), "w"), direct(ema)) <
          1e-2);
    CHECK(distance(floats(polyak::SafetensorsFile(path("smooth.safetensors")), "w"),
                   direct(run.smooth)) < 1e-6);
    CHECK(floats(made, "mean") == run.mean);  // of the newest snapshot
    CHECK(made.view<std::int64_t>("seen")[0] == 768);
    CHECK(floats(polyak::SafetensorsFile(path("earlier.safetensors")), "mean") == mean_at_200);
    for (const auto& name : names_in(folder.path())) CHECK_FALSE(name.ends_with(".tmp"));

    // Element by element, the weighted sum of the snapshots.
    std::vector<std::vector<float>> snapshots;
    std::vector<const float*> inputs;
    for (const auto& one : report.snapshots) {
      snapshots.push_back(floats(polyak::SafetensorsFile(one.file), "w"));
    }
    for (const auto& one : snapshots) inputs.push_back(one.data());
    std::vector<float> sum(5000);
    sum_of(sum, inputs, report.fits[0].weights);
    CHECK(bits::bytes(sum) == bits::bytes(floats(made, "w")));

    // The solution in memory, by its closed form in continuous time, is the same but for O(1/T).
    const auto solution =
        posthoc.solve({.sigma_rel = 0.075, .normalisation = polyak::Normalisation::constrained});
    CHECK(solution.residual == Approx(report.fits[0].residual).epsilon(0.05));
  }
  SECTION("in 16 bits, and by some of the snapshots") {
    const auto report = polyak::reconstruct(
        store, {{ProfileTarget::sigma_rel(0.08), path("half.safetensors")}},
        {.dtype = polyak::DType::bfloat16,
         .use = [](const polyak::StoredSnapshot& one) { return one.calls % 16 == 0; }});
    CHECK(report.snapshots.size() == 32);
    const polyak::SafetensorsFile file(path("half.safetensors"));
    CHECK(file.at("w").dtype == polyak::SafetensorsType::BF16);
    CHECK(file.at("mean").dtype == polyak::SafetensorsType::F32);  // a buffer stays as it is
  }
  SECTION("from snapshots of 16 bits") {
    for (const auto dtype : {polyak::DType::float16, polyak::DType::bfloat16}) {
      const auto folder_of_it = path("half") / std::string(polyak::detail::name_of(dtype));
      polyak::SnapshotStore half(folder_of_it, {.dtype = dtype, .durable = false});
      Wandering again;
      fill(half, again, 96, 16);
      const auto report =
          polyak::reconstruct(half, {{ProfileTarget::sigma_rel(0.08), path("made.safetensors")}});
      std::vector<std::vector<float>> snapshots;
      std::vector<const float*> inputs;
      for (const auto& one : report.snapshots) {
        snapshots.push_back(floats(polyak::SafetensorsFile(one.file), "b"));
      }
      for (const auto& one : snapshots) inputs.push_back(one.data());
      std::vector<float> sum(7);
      sum_of(sum, inputs, report.fits[0].weights);
      CHECK(bits::bytes(sum) ==
            bits::bytes(floats(polyak::SafetensorsFile(path("made.safetensors")), "b")));
    }
  }
  SECTION("what is refused leaves nothing") {
    const auto refused = [&]<class Error>(Error*, const std::vector<polyak::ReconstructOutput>& to,
                                          const polyak::ReconstructOptions& options = {}) {
      const std::string message = refusal<Error>([&] { polyak::reconstruct(store, to, options); });
      CHECK(names_in(folder.path()) == std::vector<std::string>{"store"});
      return message;
    };
    const auto invalid = static_cast<std::invalid_argument*>(nullptr);
    const auto target = ProfileTarget::sigma_rel(0.08);
    refused(invalid, {});
    refused(invalid, {{target, path("a")}, {target, path("b") / ".." / "a"}});
    refused(invalid, {{target, path("a")}}, {.dtype = polyak::DType::uint8});
    refused(invalid, {{target, path("a")}},
            {.use = [](const polyak::StoredSnapshot&) { return false; }});
    CHECK(refused(invalid, {{target, path("a")},
                            {ProfileTarget::cooldown(polyak::CooldownCurve::one_minus_sqrt, 100),
                             path("b")}})
              .find("out of the snapshots' reach") != std::string::npos);
    refused(static_cast<polyak::io_error*>(nullptr),
            {{target, path("a")}, {target, path("no such folder") / "b"}});
    int calls = 0;
    const auto report = polyak::reconstruct(
        store, {{target, path("a")}},
        {.progress = [&](std::uint64_t, std::uint64_t) { return ++calls < 2; }});
    CHECK_FALSE(report.complete);
    CHECK(names_in(folder.path()) == std::vector<std::string>{"store"});
    // A damaged snapshot is found while it is read.
    std::fstream file(store.snapshots()[5].file, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-5, std::ios::end);
    file.put('\x7f');
    file.close();
    if (polyak::detail::has_digest) {
      CHECK(refused(static_cast<polyak::io_error*>(nullptr), {{target, path("a")}})
                .find("has changed since it was written") != std::string::npos);
    }
    CHECK_NOTHROW(polyak::reconstruct(store, {{target, path("a")}}, {.verify = false}));
  }
}

TEST_CASE(
    "Reconstruction accepts averages of several kinds and types, and power averages at any pace") {
  const TemporaryFolder folder;
  const auto path = [&](const char* name) { return folder.path() / name; };
  Wandering run;
  polyak::Ema<float, double> fast(run.params, {.decay = 0.9, .start = polyak::Start::first_update});
  polyak::Ema<float> slow(run.params, {.decay = 0.99,
                                       .start = polyak::Start::zero_debiased,
                                       .accumulate = polyak::Accumulate::kahan});
  polyak::SnapshotStore store(path("store"), {.durable = false});
  std::optional<polyak::Ema<float>> late;
  for (int call = 1; call <= 96; ++call) {
    run.step();
    polyak::update(run.params, fast, slow);
    if (call == 32) {
      late.emplace(run.params,
                   polyak::EmaOptions{.decay = 0.75, .start = polyak::Start::first_update});
    } else if (late) {
      late->update(run.params);
    }
    if (call % 8 != 0) continue;
    if (call > 32) store.append("late", *late, 32);
    store.append("fast", fast);  // float64
    store.append("slow", slow);  // float32
    if (call > 48) store.append("smooth", run.smooth);
  }
  const auto report =
      polyak::reconstruct(store, {{ProfileTarget::ema(0.95), path("ema.safetensors")}});
  CHECK(report.fits[0].residual < 0.02);
  const polyak::SafetensorsFile made(path("ema.safetensors"));
  CHECK(made.at("w").dtype == polyak::SafetensorsType::F64);

  // The calls of an average that began later are counted from there.
  std::vector<double> wish(96, 0.0);
  for (int t = 33; t <= 96; ++t) {
    wish[static_cast<std::size_t>(t - 1)] = (t == 33 ? 1 : 0.25) * std::pow(0.75, 96 - t);
  }
  const auto shifted =
      polyak::reconstruct(store, {{ProfileTarget::weights(wish), path("late.safetensors")}});
  CHECK(shifted.fits[0].calls == 96);
  CHECK(shifted.fits[0].residual < 1e-12);
  CHECK(distance(floats(polyak::SafetensorsFile(path("late.safetensors")), "b"),
                 {late->view()["b"].begin(), late->view()["b"].end()}) < 1e-6);
  refusal<std::invalid_argument>([&] { store.append("negative", *late, -1); });

  polyak::Ema<float> changed(run.params, {.decay = 0.5, .start = polyak::Start::first_update});
  for (int call = 0; call < 100; ++call) changed.update(run.params);
  store.append("slow", changed);
  CHECK(refusal<std::invalid_argument>([&] {
          polyak::reconstruct(store, {{ProfileTarget::ema(0.95), path("x")}});
        }).starts_with("polyak: the options of average \"slow\" changed between "));

  polyak::SnapshotStore varied(path("varied"), {.durable = false});
  Wandering other;
  for (int call = 1; call <= 64; ++call) {
    other.move();
    other.sharp.at(1 + call % 3).update(other.params);
    other.smooth.at(1 + call % 3).update(other.params);
    if (call % 8 != 0) continue;
    varied.append("sharp", other.sharp);
    varied.append("smooth", other.smooth);
  }
  const auto by_time =
      polyak::reconstruct(varied, {{ProfileTarget::sigma_rel(0.1), path("smooth.safetensors")}});
  CHECK(by_time.fits[0].residual < 1e-6);
  CHECK(by_time.fits[0].weights.back() == Approx(1));
  CHECK(refusal<std::invalid_argument>([&] {
          polyak::reconstruct(varied, {{ProfileTarget::ema(0.9), path("x")}});
        }).find("only power functions are not") != std::string::npos);
}

}  // namespace snapshot_store_test
