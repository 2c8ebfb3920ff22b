// SPDX-License-Identifier: Apache-2.0
// The list of methods is complete, and the tables of the READMEs and the benchmarks agree with it.
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "../support/catch.hpp"
#include "../support/headers.hpp"
#include "../support/methods.hpp"
#include "../support/model.hpp"

namespace list_test {

namespace {

const std::filesystem::path root = std::filesystem::path(POLYAK_INCLUDE_DIR) / "polyak";
const std::filesystem::path bench = root / ".." / ".." / "bench";

/// All entries, of methods and of other functions.
std::vector<methods::Method> entries() {
  std::vector<methods::Method> all(std::begin(methods::others), std::end(methods::others));
  methods::for_each<float>(
      [&](const methods::Method& method, const auto&) { all.push_back(method); });
  return all;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  INFO(path);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What the group of the pattern matches, from the first to the last.
std::vector<std::string> matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  return {std::sregex_token_iterator(text.begin(), text.end(), regex, 1), {}};
}

/// The cells of a row of a table.
using Row = std::vector<std::string>;

/// The rows of the tables whose first line begins with one of the heads.
template <class... Head>
std::vector<Row> rows_of(const std::string& text, const Head&... heads) {
  std::vector<Row> rows;
  std::istringstream lines(text);
  bool wanted = false;
  for (std::string line, before; std::getline(lines, line); before = line) {
    if (!line.starts_with("| ")) {
      wanted = wanted && line.starts_with("|-");
    } else if (!before.starts_with("|")) {
      wanted = (line.starts_with(heads) || ...);
    } else if (wanted && !line.starts_with("| -")) {
      rows.push_back(matches(line, R"(\| *([^|]*[^| ])? *(?=\|))"));
    }
  }
  return rows;
}

std::vector<Row> readme_rows() {
  return rows_of(text_of(root / "README.md"), "| average | header |", "| optimizer | header |",
                 "| after training | header |");
}

/// Whether the row is of the entry: names it, and links to its header.
bool is_of(const Row& row, const methods::Method& entry) {
  return row[0].find("`" + std::string(entry.title()) + "`") != std::string::npos &&
         row[1].find("](" + std::string(entry.header) + ")") != std::string::npos;
}

/// The length of the name of an entry, or of its header, with which the name of a benchmark's
/// subject begins; 0 where it does not.
std::size_t named_after(const std::string& subject, const methods::Method& entry) {
  std::string title(entry.title());
  for (char& c : title) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::size_t length = 0;
  for (const auto& name : {title, std::filesystem::path(entry.header).stem().string()}) {
    if (!subject.starts_with(name)) continue;
    const std::string rest = subject.substr(name.size());
    if (rest.empty() || std::isalpha(static_cast<unsigned char>(rest[0])) == 0) {
      length = std::max(length, name.size());
    }
  }
  return length;
}

/// Whether a subject of the benchmarks runs the method alone, by its name.
bool is_subject_of(const std::string& subject, const methods::Method& method) {
  const std::size_t length = named_after(subject, method);
  if (length == 0 || subject.find('+') != std::string::npos) return false;
  for (const auto& other : entries()) {  // ema_bank3 is no Ema
    if (named_after(subject, other) > length) return false;
  }
  return true;
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

TEST_CASE("the README's tables of methods have a row for every entry of the list and no other") {
  const std::vector<Row> rows = readme_rows();
  CHECK(rows.size() > 20);
  for (const auto& entry : entries()) {
    const auto of_entry = [&](const Row& row) { return is_of(row, entry); };
    INFO("include/polyak/README.md needs one row with `" << entry.title() << "` and a link to "
                                                         << entry.header);
    CHECK(std::count_if(rows.begin(), rows.end(), of_entry) == 1);
  }
  for (const Row& row : rows) {
    INFO(row[0] << " in include/polyak/README.md");
    REQUIRE(row.size() == 4);
    const std::vector<std::string> links = matches(row[1], R"(\]\(([^)]*)\))");
    CHECK(!links.empty());
    for (const std::string& link : links) {
      INFO("tests/support/methods.hpp has no entry of this row for " << link);
      bool found = false;
      for (const auto& entry : entries()) {
        found = found || (entry.header == link && is_of(row, entry));
      }
      CHECK(found);
    }
  }
}

TEST_CASE("the README counts the words that a method's slots say") {
  std::map<std::string, std::set<std::size_t>> counted;  // by row, of the variants in it
  const std::vector<Row> rows = readme_rows();
  Model<float> model({4});
  const auto count = [&](const methods::Method& method, auto make) {
    using M = methods::made_t<float, decltype(make)>;
    const std::size_t slots = make(model.params).slots().count();
    for (const Row& row : rows) {
      // x and g in, x out; an average reads x alone. Each slot in and out.
      if (is_of(row, method)) counted[row[0]].insert((M::trains ? 3 : 1) + 2 * slots);
    }
  };
  const auto check = [&](bool first_alone) {
    CHECK(!counted.empty());
    for (const Row& row : rows) {
      if (!counted.contains(row[0])) continue;
      // Numbers in backticks are options.
      const std::string cell = std::regex_replace(row[2], std::regex("`[^`]*`"), "");
      std::set<std::size_t> written;
      for (const std::string& number : matches(cell, "([0-9]+)")) {
        if (first_alone && !written.empty()) break;
        written.insert(std::stoul(number));
      }
      INFO(row[0] << ": " << row[2]);
      CHECK(written == counted[row[0]]);
    }
    counted.clear();
  };
  methods::for_each_optimizer<float>(count);
  methods::for_each_schedule_free<float>(count);
  check(false);
  // What more a switch moves, slots do not say; nor what windows and teachers move at which call.
  methods::for_each_average<float>(count);
  check(true);
}

TEST_CASE("the README names papers that the headers name") {
  const std::string number = R"(\b([0-9]{4}\.[0-9]{4,5})\b)";
  std::vector<std::string> before;
  for (const Row& row : readme_rows()) {
    REQUIRE(row.size() == 4);
    std::vector<std::string> papers = matches(row[3], number);
    if (row[3].find("the same") != std::string::npos) {
      papers.insert(papers.end(), before.begin(), before.end());
    }
    before = papers;
    std::set<std::string> known;
    for (const std::string& link : matches(row[1], R"(\]\(([^)]*)\))")) {
      for (const std::string& paper : matches(text_of(root / link), number)) known.insert(paper);
    }
    INFO(row[0] << " in include/polyak/README.md: " << row[3]);
    for (const std::string& paper : papers) {
      INFO(paper);
      CHECK(known.contains(paper));
    }
    bool method = false;
    methods::for_each<float>(
        [&](const methods::Method& entry, const auto&) { method = method || is_of(row, entry); });
    if (method && !known.empty()) CHECK(!papers.empty());
  }
}

TEST_CASE("the tables of bench/README.md are of subjects and methods that there are") {
  const std::string readme = text_of(bench / "README.md");
  std::string sources;
  for (const auto& file : std::filesystem::directory_iterator(bench)) {
    if (file.path().extension() == ".hpp") sources += text_of(file.path());
  }
  const auto quoted = [&](const std::string& name) {
    return sources.find('"' + name + '"') != std::string::npos;
  };
  std::vector<std::string> measured;
  std::map<std::string, Row> seen;
  for (const Row& row : rows_of(readme, "| method | case |")) {
    INFO(row[0] << " in bench/README.md");
    REQUIRE(row.size() >= 8);
    // A row that is in both tables says the same in both.
    const Row& first = seen.try_emplace(row[0] + row[1] + row[2], row).first->second;
    CHECK(std::equal(row.begin(), row.begin() + 8, first.begin()));
    const std::string name = row[0].substr(1, row[0].size() - 2);
    measured.push_back(name);
    for (const std::string& part : matches(name, "([^+]+)")) {
      CHECK((quoted(part) || (part.starts_with("average_n") && quoted("average_n"))));
    }
    CHECK(quoted(row[1]));
    CHECK((row[2] == "1" || row[2] == "2"));
    CHECK(std::stod(row[3]) > 0);
    CHECK(std::stod(row[4]) > 0);
  }
  CHECK(measured.size() > 20);
  // A method is measured alone, or named where the README says of which there are no figures yet.
  const std::size_t begin = readme.find("No figures yet: ");
  REQUIRE(begin != std::string::npos);
  const std::vector<std::string> waiting =
      matches(readme.substr(begin, readme.find('.', begin) - begin), "`([^`]*)`");
  std::set<std::string> waited_for;
  methods::for_each<float>([&](const methods::Method& method, const auto&) {
    const auto is_its = [&](const std::string& name) { return is_subject_of(name, method); };
    const auto found = std::find_if(waiting.begin(), waiting.end(), is_its);
    const bool waits = found != waiting.end();
    if (waits) waited_for.insert(*found);
    INFO(method.name << " in bench/README.md");
    CHECK(std::any_of(measured.begin(), measured.end(), is_its) != waits);
  });
  CHECK(waited_for.size() == waiting.size());
}

TEST_CASE("every method of the list has a line in the benchmarks") {
  const std::vector<std::string> names =
      matches(text_of(bench / "methods.hpp") + text_of(bench / "windows.hpp"), "\"([^\"\n]*)\"");
  methods::for_each<float>([&](const methods::Method& method, const auto&) {
    INFO("bench/methods.hpp and bench/windows.hpp have no subject of " << method.name);
    CHECK(std::any_of(names.begin(), names.end(),
                      [&](const std::string& name) { return is_subject_of(name, method); }));
  });
}

}  // namespace list_test
