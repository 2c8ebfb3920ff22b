// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model.hpp"

namespace char_lm {

/// A text as numbers: the i-th of its distinct bytes, in ascending order, is i.
struct Corpus {
  std::string name;
  int vocabulary = 0;
  std::vector<std::uint8_t> train;       ///< the first 90 %
  std::vector<std::uint8_t> validation;  ///< the rest

  /// Throws std::runtime_error where a part is too short for one window of `context` characters and
  /// the one that they predict.
  Corpus(std::string name, std::string_view text, int context);
};

/// The bytes of a file; throws std::runtime_error where it cannot be read.
std::string read_text(const std::string& path);

/// The library's own sources, embedded when the program was built.
std::string built_in_text();

/// Number of windows in a text.
inline std::int64_t count_windows(std::span<const std::uint8_t> text, int context) {
  return static_cast<std::int64_t>(text.size()) - context;
}

/// Makes the window that starts at `position` column `column` of the batch.
void set_window(std::span<const std::uint8_t> text, std::int64_t position, Batch& batch,
                Eigen::Index column);

}  // namespace char_lm
