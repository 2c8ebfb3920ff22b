// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace char_lm {

/// Validation losses of one set of weights along its run; absent while there is no average yet.
struct Curve {
  std::string name;
  bool averaged = false;
  std::vector<std::optional<double>> losses;
};

/// The results of one method.
struct MethodResult {
  std::string name;
  std::optional<double> raw_loss;
  std::optional<double> averaged_loss;
  double steps_per_second = 0;
  std::size_t state_bytes = 0;
};

/// One width of a power EMA reconstructed after training.
struct SweepPoint {
  double sigma_rel = 0;
  double residual = 0;
  double loss = 0;
};

/// All that the program measures.
struct Report {
  std::string corpus;
  std::vector<std::int64_t> steps;  ///< when the curves were evaluated
  std::vector<Curve> curves;
  std::vector<MethodResult> methods;
  std::vector<SweepPoint> sweep;
  std::vector<SweepPoint> tracked;  ///< the widths that were tracked in training
};

void print_methods(std::ostream& out, const Report& report);
void print_sweep(std::ostream& out, const Report& report);

/// Creates the folder and makes sure that files can be written there; throws std::runtime_error.
void prepare_folder(const std::filesystem::path& folder);

/// Writes curves.csv, sweep.csv and summary.csv; throws std::runtime_error.
void write_csv(const std::filesystem::path& folder, const Report& report);

}  // namespace char_lm
