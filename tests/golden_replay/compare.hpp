// SPDX-License-Identifier: Apache-2.0
/// @file
/// Comparison of the results of a replay with the recorded ones.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"

namespace golden {

/// A value b passes for a recorded value a if |b - a| <= absolute + relative |a|. If both are zero,
/// the bits must agree.
struct Tolerance {
  double relative = 0;
  double absolute = 0;

  [[nodiscard]] bool bitwise() const { return relative == 0 && absolute == 0; }
};

inline constexpr Tolerance exact{};

/// One unit in the last place of |value| in double.
[[nodiscard]] inline double ulp(double value) {
  const double magnitude = std::abs(value);
  return std::nextafter(magnitude, std::numeric_limits<double>::infinity()) - magnitude;
}

/// The compared values of a file: how many failed, and the worst error relative to its tolerance.
class Report {
 public:
  void compare(const std::string& where, double actual, double recorded, Tolerance tolerance) {
    if (tolerance.bitwise()) {
      ++exact_values_;
      const bool same =
          std::bit_cast<std::uint64_t>(actual) == std::bit_cast<std::uint64_t>(recorded) ||
          (std::isnan(actual) && std::isnan(recorded));
      if (!same) {
        ++exact_mismatches_;
        if (first_mismatch_.empty()) {
          first_mismatch_ = describe(where, actual, recorded);
        }
      }
      return;
    }
    compare_within(where, actual, recorded,
                   tolerance.absolute + tolerance.relative * std::abs(recorded));
  }

  /// Passes if the values differ by at most `allowed`.
  void compare_within(const std::string& where, double actual, double recorded, double allowed) {
    ++values_;
    const double ratio = error_ratio(actual, recorded, allowed);
    mismatches_ += ratio > 1;
    if (worst_place_.empty() || ratio > worst_) {
      worst_ = ratio;
      worst_place_ = ratio > 1 ? describe(where, actual, recorded) : where;
    }
  }

  /// A condition that must hold, such as the refusal of an average that is not readable.
  void check(const std::string& where, bool holds) {
    compare(where, holds ? 1.0 : 0.0, 1.0, exact);
  }

  void compare(const std::string& where, const std::vector<double>& actual,
               const std::vector<double>& recorded, Tolerance tolerance) {
    if (actual.size() != recorded.size()) {
      throw Malformed(where + " has " + std::to_string(recorded.size()) + " entries, expected " +
                      std::to_string(actual.size()));
    }
    for (std::size_t k = 0; k < actual.size(); ++k) {
      compare(where + "[" + std::to_string(k) + "]", actual[k], recorded[k], tolerance);
    }
  }

  void compare(const std::string& where, const Layout& layout, const Tensors& actual,
               const Tensors& recorded, Tolerance tolerance) {
    for (std::size_t i = 0; i < layout.names.size(); ++i) {
      compare(where + "." + layout.names[i], actual[i], recorded[i], tolerance);
    }
  }

  [[nodiscard]] bool passed() const { return mismatches_ + exact_mismatches_ == 0; }
  [[nodiscard]] bool empty() const { return values_ + exact_values_ == 0; }

  /// One line: the worst error relative to its tolerance, and the result of the exact comparisons.
  [[nodiscard]] std::string summary() const {
    std::ostringstream line;
    line.precision(3);
    if (values_ != 0) {
      line << "worst error " << worst_ << " of its tolerance at " << worst_place_ << "; ";
      if (mismatches_ != 0) {
        line << mismatches_ << " of ";
      }
      line << values_ << (mismatches_ != 0 ? " values beyond it" : " values");
    }
    if (exact_values_ != 0) {
      line << (values_ != 0 ? "; " : "");
      if (exact_mismatches_ == 0) {
        line << exact_values_ << " exact";
      } else {
        line << exact_mismatches_ << " of " << exact_values_
             << " values that must be exact differ, first " << first_mismatch_;
      }
    }
    return line.str();
  }

 private:
  static double error_ratio(double actual, double recorded, double allowed) {
    if (actual == recorded || (std::isnan(actual) && std::isnan(recorded))) {
      return 0;
    }
    const double ratio = std::abs(actual - recorded) / allowed;
    return std::isfinite(recorded) && ratio >= 0 ? ratio : std::numeric_limits<double>::infinity();
  }

  static std::string describe(const std::string& where, double actual, double recorded) {
    std::ostringstream text;
    text.precision(17);
    text << where << " (" << actual << ", recorded " << recorded << ")";
    return text.str();
  }

  std::size_t values_ = 0;
  std::size_t mismatches_ = 0;
  double worst_ = 0;
  std::string worst_place_;
  std::size_t exact_values_ = 0;
  std::size_t exact_mismatches_ = 0;
  std::string first_mismatch_;
};

}  // namespace golden
