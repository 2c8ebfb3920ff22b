// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "model.hpp"

namespace char_lm {

/// The settings of the command line. The rates were tuned on Shakespeare's plays, each method on
/// its own, by the validation loss of whole runs; everything else about the methods stands in
/// runs.cpp.
struct Settings {
  std::string corpus;  ///< path of a text file; empty: the library's own sources
  std::string out = "char_lm_out";
  std::int64_t steps = 15000;
  std::uint64_t seed = 1;
  int batch = 128;
  Shape shape;
  std::int64_t validation_windows = 0;  ///< for the final figures; 0: every one there is

  double cosine_rate = 3e-3;
  double constant_rate = 2e-3;
  double ademamix_rate = 2e-3;
  double schedule_free_rate = 5e-3;
};

inline constexpr int curve_points = 20;
inline constexpr std::int64_t curve_windows = 8192;  ///< of the validation text, for the curves
inline constexpr int posthoc_snapshots = 24;

}  // namespace char_lm
