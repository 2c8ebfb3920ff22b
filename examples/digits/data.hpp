// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace digits {

inline constexpr Eigen::Index pixel_count = 64, class_count = 10;

/// Labelled 8x8 images.
struct Digits {
  Eigen::MatrixXf pixels;   ///< one image per column, row after row, values in [0, 1]
  std::vector<int> labels;  ///< 0..9, one per column

  Eigen::Index size() const { return pixels.cols(); }
};

/// Random numbers that are the same with every standard library: whose engines are specified to
/// the bit, and whose distributions are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// In [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// One of 0..count-1; the bias of the remainder is below count / 2^64.
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(engine_() % count); }
  /// Mean 0, variance 1: twelve uniform numbers, whose sum needs no function that libraries round
  /// in ways of their own. Never beyond 6.
  double normal() {
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += uniform();
    return sum;
  }

 private:
  std::mt19937_64 engine_;
};

/// Reads lines of 64 comma-separated counts 0..16 and a label 0..9, the format of the UCI data set
/// "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998); counts are divided by 16.
/// Throws std::runtime_error that names the file, the line and the rule.
Digits read_digits(const std::string& path);

/// `count` images of ten drawn digits, each shifted, of its own intensity, noisy, and rounded to
/// counts 0..16 as those of the data set. The same seed gives the same images.
Digits synthetic_digits(Eigen::Index count, std::uint64_t seed);

}  // namespace digits
