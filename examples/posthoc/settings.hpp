// SPDX-License-Identifier: Apache-2.0
/// @file
/// The command line of posthoc, in a file of its own: CLI11 takes longer to compile than the rest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace posthoc {

struct Settings {
  std::filesystem::path folder, out = "averages";
  std::vector<double> sigma_rel, decay, eta;
  std::vector<std::int64_t> window;
  std::vector<std::string> cooldown;
  bool uniform = false, list = false, force = false, demo = false, updates = false;
  std::int64_t at = 0;
  std::string dtype;
  double ridge = 0;
};

/// Reads the command line. Returns the program's exit code where there is nothing left to do.
std::optional<int> parse(Settings& settings, int count, char** arguments);

}  // namespace posthoc
