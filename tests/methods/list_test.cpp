// SPDX-License-Identifier: Apache-2.0
// The list of methods is complete, and so are the README's table and the benchmarks.
#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "../support/catch.hpp"
#include "../support/headers.hpp"
#include "../support/methods.hpp"

namespace list_test {

namespace {

const std::filesystem::path root = std::filesystem::path(POLYAK_INCLUDE_DIR) / "polyak";

/// All entries, of methods and of what lies beside them.
std::vector<methods::Method> entries() {
  std::vector<methods::Method> all(std::begin(methods::others), std::end(methods::others));
  methods::for_each<float>(
      [&](const methods::Method& method, const auto&) { all.push_back(method); });
  return all;
}

}  // namespace

TEST_CASE("every header of a method is in the list of methods") {
  std::set<std::string> listed;
  for (const auto& entry : entries()) listed.emplace(entry.header);
  for (const std::string& header : listed) {
    INFO(header);
    CHECK(std::filesystem::is_regular_file(root / header));
  }
  for (const std::string folder : {"average", "optim", "merge"}) {
    std::size_t found = 0;
    for (const auto& file : std::filesystem::directory_iterator(root / folder)) {
      if (file.path().extension() != ".hpp") continue;
      ++found;
      const std::string header = folder + "/" + file.path().filename().string();
      INFO("tests/support/methods.hpp has no entry for " << header);
      CHECK(listed.contains(header));
    }
    CHECK(found > 0);
  }
}

TEST_CASE("names in the list of methods are unique") {
  std::set<std::string> names;
  for (const auto& entry : entries()) {
    INFO(entry.name);
    CHECK(names.emplace(entry.name).second);
  }
}

TEST_CASE("every entry of the list of methods has its row in the README") {
  std::ifstream file(root / "README.md");
  REQUIRE(file);
  std::vector<std::string> rows;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| ")) rows.push_back(line);
  }
  for (const auto& entry : entries()) {
    const std::string title = "`" + std::string(entry.title()) + "`";
    const std::string link = "](" + std::string(entry.header) + ")";
    bool found = false;
    for (const std::string& row : rows) {
      found =
          found || (row.find(title) != std::string::npos && row.find(link) != std::string::npos);
    }
    INFO("include/polyak/README.md needs a row with " << title << " and a link to "
                                                      << entry.header);
    CHECK(found);
  }
}

TEST_CASE("every method of the list has a line in the benchmarks") {
  std::string text;
  const std::filesystem::path bench = root / ".." / ".." / "bench";
  for (const char* const name : {"methods.hpp", "windows.hpp"}) {
    std::ifstream file(bench / name);
    REQUIRE(file);
    for (std::string line; std::getline(file, line);) text += line + '\n';
  }
  methods::for_each<float>([&](const methods::Method& method, const auto&) {
    std::string title(method.title());
    for (char& c : title) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    // Subjects are named after the method's header, or after the method.
    const std::string header = std::filesystem::path(method.header).stem().string();
    INFO("bench/methods.hpp and bench/windows.hpp have no subject \"" << header << "...\" or \""
                                                                      << title << "...\"");
    CHECK((text.find('"' + header) != std::string::npos ||
           text.find('"' + title) != std::string::npos));
  });
}

}  // namespace list_test
