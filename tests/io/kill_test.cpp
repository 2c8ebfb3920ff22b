// SPDX-License-Identifier: Apache-2.0
// polyak/io/save.hpp: a training process is killed at random moments, again and again.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <polyak/io/save.hpp>

#include "catch.hpp"
#include "small_run.hpp"
#include "temporary_folder.hpp"

namespace {

constexpr std::int64_t steps = 60;

/// Trains to the end, saving after every step. Runs in a process of its own.
[[noreturn]] void train(const std::string& path) {
  Run run;
  if (std::filesystem::exists(path)) run.load(path);
  while (run.adamw.count() < steps) {
    run.step(static_cast<std::uint64_t>(run.adamw.count()));
    run.save(path);
  }
  ::_exit(0);
}

}  // namespace

TEST_CASE("200 kills of a training process lose nothing that was saved") {
  std::vector<std::vector<Bytes>> undisturbed;  // after each number of steps
  {
    Run run;
    for (std::int64_t n = 0; n <= steps; ++n) {
      undisturbed.push_back(run.bytes());
      run.step(static_cast<std::uint64_t>(n));
    }
  }
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  std::mt19937 random(1);
  std::int64_t last = 0;
  int kills = 0, finished = 0;
  while (kills < 200) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) train(path);
    ::usleep(std::uniform_int_distribution<useconds_t>(1, 12000)(random));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) {
      ++kills;
    } else {
      REQUIRE(WEXITSTATUS(status) == 0);
    }
    Run resumed;
    if (std::filesystem::exists(path)) resumed.load(path);
    const std::int64_t now = resumed.adamw.count();
    INFO("kill " << kills << ", step " << now << " after step " << last);
    REQUIRE(now >= last);
    REQUIRE(resumed.bytes() == undisturbed[static_cast<std::size_t>(now)]);
    last = now;
    if (last == steps) {  // the next run begins anew
      ++finished;
      last = 0;
      std::filesystem::remove(path);
    }
  }
  INFO(finished << " runs came to their end");
  // What a kill leaves behind is used by the next save: there is never more of it.
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    ++files;
  }
  CHECK(files <= 2);
}
