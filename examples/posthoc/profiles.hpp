// SPDX-License-Identifier: Apache-2.0
/// @file
/// The wanted and the achieved profiles, as a table and a plot.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace posthoc {

/// The weights of the iterates of calls 0, 1, ...
struct ProfilePair {
  std::string name;
  std::vector<double> wanted, achieved;
};

/// Writes profiles.csv and profiles.gp into the folder, and profiles.svg where gnuplot is there.
/// Returns whether it is drawn.
bool draw_profiles(const std::filesystem::path& folder, const std::vector<ProfilePair>& profiles);

}  // namespace posthoc
