// SPDX-License-Identifier: Apache-2.0
/// @file
/// The text of the library's headers, for tests that compare a list with the declarations.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "catch.hpp"

#if !defined(POLYAK_INCLUDE_DIR)
#define POLYAK_INCLUDE_DIR "include"
#endif

namespace headers {

struct Line {
  std::string file, text;
  std::string type;  ///< the last struct or class that begins above it
};

/// All lines of all headers.
inline std::vector<Line> lines() {
  std::vector<Line> all;
  const std::filesystem::path folder = std::filesystem::path(POLYAK_INCLUDE_DIR) / "polyak";
  REQUIRE(std::filesystem::is_directory(folder));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".hpp") continue;
    std::ifstream file(entry.path());
    std::string type;
    for (std::string text; std::getline(file, text);) {
      const std::size_t word = text.find_first_not_of(' ');
      for (const std::string keyword : {"struct ", "class "}) {
        if (word == std::string::npos || text.compare(word, keyword.size(), keyword) != 0) continue;
        const std::size_t begin = word + keyword.size();
        const std::size_t end = text.find_first_of(" ;:<{", begin);
        if (text.back() != ';') type = text.substr(begin, end - begin);
      }
      all.push_back({entry.path().string(), text, type});
    }
  }
  return all;
}

}  // namespace headers
