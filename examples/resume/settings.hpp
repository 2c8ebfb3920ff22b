// SPDX-License-Identifier: Apache-2.0
/// @file
/// The command line of resume, in a file of its own: CLI11 takes longer to compile than the rest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace resume {

struct Settings {
  std::filesystem::path file = "resume.safetensors";
  std::int64_t steps = 2000;
  std::int64_t save_every = 20;
  unsigned seed = 1;
  int kills = 0;
};

/// Reads the command line. Returns the program's exit code where there is nothing left to do.
std::optional<int> parse(Settings& settings, int count, char** arguments);

}  // namespace resume
