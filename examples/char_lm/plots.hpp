// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "report.hpp"

namespace char_lm {

/// Writes curves.gp and sweep.gp beside the CSV files and lets gnuplot make SVG plots of them.
/// Returns whether it did: without gnuplot there are none.
bool draw_plots(const std::filesystem::path& folder, const Report& report);

}  // namespace char_lm
