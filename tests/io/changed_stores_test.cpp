// SPDX-License-Identifier: Apache-2.0
// polyak/io/snapshot_store.hpp and reconstruct.hpp where other programs, users and damage change
// the folder.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyak/average/analysis/profile_fit.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/known_weightings.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>

#include "catch.hpp"
#include "child_process.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace changed_stores_test {

namespace {

using polyak::io_error;
using polyak::ProfileTarget;
using polyak::SnapshotStore;

/// A model of one tensor and a buffer, and an average of it.
struct Run {
  explicit Run(std::size_t size) : w(size, 1) {
    params.add("w", w).add("seen", seen, polyak::Role::copy);
    ema.emplace(params, polyak::EmaOptions{.decay = 0.9, .start = polyak::Start::first_update});
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void step() {
    w[0] += 1;
    ema->update(params);
  }
  /// Appends a snapshot at each of `calls` calls.
  void fill(SnapshotStore& store, int calls) {
    for (int call = 0; call < calls; ++call) {
      step();
      store.append("ema", *ema);
    }
  }

  std::vector<float> w, seen{3};
  polyak::Parameters<float> params;
  std::optional<polyak::Ema<float>> ema;
};

/// Writes a snapshot's file with some entries of its record changed.
void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
             const std::vector<std::pair<std::string, std::string>>& changes) {
  std::map<std::string, std::string> metadata;
  std::vector<polyak::SafetensorsSpec> specs;
  std::vector<std::byte> bytes;
  {
    const polyak::SafetensorsFile file(from);
    metadata[std::string(polyak::detail::snapshot_key)] =
        file.metadata().at(std::string(polyak::detail::snapshot_key));
    for (const auto& tensor : file.tensors()) {
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
      const auto own = file.bytes(tensor);
      bytes.insert(bytes.end(), own.begin(), own.end());
    }
  }
  std::string& record = metadata.begin()->second;
  for (const auto& [before, after] : changes) {
    const std::size_t place = record.find(before);
    REQUIRE(place != std::string::npos);
    record.replace(place, before.size(), after);
  }
  polyak::SafetensorsWriter writer(to, specs, metadata);
  writer.append(bytes);
  writer.finish();
}

}  // namespace

TEST_CASE("A snapshot that was replaced after the store was opened is refused") {
  const TemporaryFolder folder;
  Run run(100'000);
  SnapshotStore store(folder.path() / "store", {.durable = false});
  run.fill(store, 4);
  const auto output = folder.path() / "out.safetensors";
  const auto refused = [&] {
    const std::string message = refusal<io_error>([&] {
      polyak::reconstruct(store, {{ProfileTarget::ema(0.9), output}}, {.fit = {.force = true}});
    });
    CHECK_FALSE(std::filesystem::exists(output));
    CHECK(names_in(folder.path()) == std::vector<std::string>{"store"});
    return message;
  };
  const std::string changed = "is not the snapshot that was there when the store was opened";
  const auto at = [&](std::size_t place) { return store.snapshots()[place].file; };
  SECTION("by smaller tensors, which would be read beyond their end") {
    for (const std::size_t place : {0U, 2U}) {
      Run smaller(10);
      SnapshotStore other(folder.path() / "store" / "other", {.durable = false});
      smaller.fill(other, 4);
      std::filesystem::copy_file(other.snapshots()[place].file, at(place),
                                 std::filesystem::copy_options::overwrite_existing);
      std::filesystem::remove_all(other.folder());
      CHECK(refused().find(changed) != std::string::npos);
    }
  }
  SECTION("by another snapshot") {
    std::filesystem::copy_file(at(0), at(2), std::filesystem::copy_options::overwrite_existing);
    CHECK(refused().find(changed) != std::string::npos);
  }
  SECTION("by another type of a buffer, or of a number") {
    for (const auto type : {polyak::SafetensorsType::I32, polyak::SafetensorsType::F8_E4M3}) {
      const bool buffer = type == polyak::SafetensorsType::I32;
      const std::string record =
          polyak::SafetensorsFile(at(1)).metadata().at(std::string(polyak::detail::snapshot_key));
      std::filesystem::remove(at(1));
      polyak::SafetensorsWriter writer(
          at(1),
          {{"w", buffer ? polyak::SafetensorsType::F32 : type, {100'000}},
           {"seen", buffer ? type : polyak::SafetensorsType::F32, {1}}},
          {{std::string(polyak::detail::snapshot_key), record}});
      writer.append(std::vector<std::byte>(static_cast<std::size_t>(writer.data_size())));
      writer.finish();
      CHECK(refused().find(changed) != std::string::npos);
    }
  }
  SECTION("by no snapshot at all, or nothing") {
    { polyak::SafetensorsWriter(at(3), {}).finish(); }
    CHECK(refused().find(changed) != std::string::npos);
    std::ofstream(at(3), std::ios::trunc) << "x";
    refused();
    std::filesystem::remove(at(3));
    refused();
  }
  SECTION("but not by the same one") {
    rewrite(at(1), folder.path() / "again", {});
    std::filesystem::rename(folder.path() / "again", at(1));
    CHECK(polyak::reconstruct(store, {{ProfileTarget::ema(0.9), output}}, {.fit = {.force = true}})
              .complete);
  }
}

TEST_CASE("Numbers of calls in a snapshot's record are bounded") {
  const TemporaryFolder folder;
  Run run(10);
  const auto path = folder.path() / "store";
  {
    SnapshotStore store(path, {.durable = false});
    run.fill(store, 3);
  }
  const auto file = path / "ema-000000000003.safetensors";
  const auto changed = [&](const std::string& entry, const std::string& value) {
    const auto copy = folder.path() / "copy";
    std::filesystem::remove_all(copy);
    std::filesystem::copy(path, copy);
    std::filesystem::remove(copy / ".lock");
    const std::string before = entry == "begun_after" ? "0" : "3";
    rewrite(file, copy / file.filename(),
            {{"\"" + entry + "\":\"" + before + "\"", "\"" + entry + "\":\"" + value + "\""}});
    return SnapshotStore::read_only(copy);
  };
  // Numbers that no run has are damage.
  for (const char* entry : {"calls", "begun_after"}) {
    for (const char* value : {"-1", "9223372036854775807", "9223372036854775808", "1e19", "1e300",
                              "inf", "nan", "0.5", "", "x"}) {
      INFO(entry << " " << value);
      const auto store = changed(entry, value);
      CHECK(store.snapshots().size() == 2);
      REQUIRE(store.problems().size() == 1);
      CHECK(store.problems()[0].ends_with("is damaged, or of a later version"));
    }
  }
  CHECK(changed("calls", "0").problems().size() == 1);
  // Numbers that take too long and too much memory are refused when a profile is made.
  for (const char* entry : {"calls", "begun_after"}) {
    for (const char* value : {"1000000001", "4503599627370496"}) {
      const auto store = changed(entry, value);
      REQUIRE(store.problems().empty());
      const auto& used = store.snapshots().back();
      CHECK(refusal<std::invalid_argument>([&] {
              polyak::reconstruct(store, {{ProfileTarget::ema(0.9), folder.path() / "out"}},
                                  {.use = [&](const polyak::StoredSnapshot& one) {
                                    return one.file == used.file;
                                  }});
            }).find("a snapshot's calls must be at most 1000000000") != std::string::npos);
    }
  }
  CHECK_FALSE(std::filesystem::exists(folder.path() / "out"));
}

TEST_CASE("Profiles of more calls than there is memory for are refused") {
  const std::vector<polyak::GainSequence> averages{
      polyak::GainSequence(polyak::ExponentialWeighting{.decay = 0.9})};
  for (const std::int64_t calls : {polyak::most_profile_calls + 1, std::int64_t{1} << 53,
                                   std::numeric_limits<std::int64_t>::max()}) {
    CHECK(refusal<std::invalid_argument>([&] {
            static_cast<void>(
                polyak::fit_profiles(averages, {{0, calls}}, {ProfileTarget::ema(0.9)}));
          }) == "polyak: fit_profiles: a snapshot's calls must be at most 1000000000, got " +
                    std::to_string(calls));
    CHECK(refusal<std::invalid_argument>([&] {
            static_cast<void>(polyak::achieved_profile(averages, {{0, 3}}, {1.0}, calls));
          }) == "polyak: achieved_profile: calls must lie in [0, 1000000000], got " +
                    std::to_string(calls));
  }
  CHECK_THROWS_AS(polyak::achieved_profile(averages, {{0, 3}}, {1.0}, -1), std::invalid_argument);
}

TEST_CASE("A temporary file that is being written is left to its writer") {
  const TemporaryFolder folder;
  Run run(10);
  {
    SnapshotStore store(folder.path());
    run.fill(store, 2);
  }
  polyak::AtomicFile mine(folder.path() / "other.safetensors");
  mine.append(std::string("half"));
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    polyak::AtomicFile file(folder.path() / "theirs.safetensors");
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  const auto theirs = folder.path() / ".theirs.safetensors.tmp";
  {
    const SnapshotStore store(folder.path());
    CHECK(store.recovered().empty());
    CHECK(store.problems().empty());
  }
  CHECK(std::filesystem::exists(theirs));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  {
    const SnapshotStore store(folder.path());
    CHECK(store.recovered() == std::vector<std::filesystem::path>{theirs});
  }
  mine.commit();
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("What is in the way of a temporary file is a problem of the store, and stays") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / ".a.safetensors.tmp");
  std::filesystem::create_symlink("nothing", folder.path() / ".b.safetensors.tmp");
  const SnapshotStore store(folder.path());
  CHECK(store.recovered().empty());
  CHECK(store.problems().size() == 2);
  CHECK(names_in(folder.path()).size() == 3);
}

TEST_CASE("A forked child does not keep a store open, and opens it again to change it") {
  const TemporaryFolder folder;
  Run run(10);
  std::optional<SnapshotStore> store(std::in_place, folder.path());
  run.fill(*store, 2);
  CHECK(in_child([&] {
          run.step();
          int refusals = 0;
          const auto refused = [&](auto call) {
            try {
              call();
            } catch (const io_error& error) {
              if (std::string(error.what()).find("open for writing already") != std::string::npos) {
                ++refusals;
              }
            }
          };
          refused([&] { store->append("ema", *run.ema); });
          refused([&] { store->remove("ema", 1); });
          refused([&] { store->thin(2); });
          store.reset();
          return refusals;
        }) == 3);
  CHECK(names_in(folder.path()).size() == 3);

  int hold[2];
  REQUIRE(::pipe(hold) == 0);
  const ::pid_t child = start_child([&] {
    ::close(hold[1]);
    char byte = 0;
    if (::read(hold[0], &byte, 1) != 1) return 1;
    // The parent has appended, then closed its store.
    run.step();
    run.step();
    store->append("ema", *run.ema);
    return store->snapshots().size() == 4 ? 0 : 2;
  });
  run.fill(*store, 1);
  store.reset();
  {
    SnapshotStore again(folder.path());  // the child has no lock
    CHECK(again.snapshots().size() == 3);
  }
  REQUIRE(::write(hold[1], "x", 1) == 1);
  CHECK(result_of(child) == 0);
  ::close(hold[0]);
  ::close(hold[1]);
  CHECK(SnapshotStore(folder.path()).snapshots().size() == 4);
}

TEST_CASE("Two users may open a store one after the other") {
  if (::geteuid() != 0) return;
  const TemporaryFolder folder;
  const auto path = folder.path() / "store";
  Run run(10);
  {
    SnapshotStore store(path);
    run.fill(store, 2);
  }
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  REQUIRE(::chmod(path.c_str(), 0777) == 0);
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int result = 1;
    try {
      if (::setuid(65534) == 0) {
        SnapshotStore store(path);
        run.fill(store, 1);
        result = store.snapshots().size() == 3 ? 0 : 2;
      }
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
  const SnapshotStore store(path);
  CHECK(store.snapshots().size() == 3);
}

TEST_CASE("Snapshots are not passed over for want of descriptors") {
  const TemporaryFolder folder;
  Run run(10);
  {
    SnapshotStore store(folder.path(), {.durable = false});
    run.fill(store, 3);
  }
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const ::rlimit limit{64, 64};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(1);
    std::vector<int> taken;
    for (int file = ::open("/dev/null", O_RDONLY); file >= 0;
         file = ::open("/dev/null", O_RDONLY)) {
      taken.push_back(file);
    }
    int refused = 0, read = 0;
    for (std::size_t free = 0; free <= 4; ++free) {
      try {
        const auto store = SnapshotStore::read_only(folder.path());
        read += store.snapshots().size() == 3 && store.problems().empty() ? 1 : 100;
      } catch (const io_error&) {
        ++refused;
      }
      ::close(taken[free]);
    }
    ::_exit(refused >= 1 && read >= 1 && refused + read == 5 ? 0 : 2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("A snapshot that is missing can be removed from the list") {
  const TemporaryFolder folder;
  Run run(10);
  SnapshotStore store(folder.path(), {.durable = false});
  run.fill(store, 3);
  std::filesystem::remove(store.snapshots()[1].file);
  store.remove("ema", 2);
  CHECK(store.snapshots().size() == 2);
}

}  // namespace changed_stores_test
