// SPDX-License-Identifier: Apache-2.0
/// @file
/// The profiles that were wanted, and those that were achieved, as a table and a plot.
#pragma once

#include <filesystem>
#include <vector>

#include <polyak/io/reconstruct.hpp>

namespace posthoc {

/// Writes profiles.csv and profiles.gp into the folder, and profiles.svg where gnuplot is there.
/// Returns whether it is drawn.
bool draw_profiles(const std::filesystem::path& folder,
                   const std::vector<polyak::ReconstructOutput>& outputs,
                   const polyak::ReconstructReport& report);

}  // namespace posthoc
