// SPDX-License-Identifier: Apache-2.0
/// @file
/// polyak_golden FILE...: replays recorded runs of reference implementations through the library,
/// and checks the safetensors files that a manifest.json describes. Prints one line per file, and
/// fails if one does not match or cannot be replayed completely. With --complete FOLDER it compares
/// the files of a folder, the replays and the list of methods.

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "case.hpp"
#include "compare.hpp"
#include "json.hpp"
#include "library.hpp"

namespace golden {
namespace {

Replays collected_replays() {
  Replays all;
  for (auto family : {average_replays, decay_schedule_replays, switch_replays, window_replays,
                      power_replays, optimizer_replays}) {
    all.merge(family());
  }
#if !defined(POLYAK_GOLDEN_DEVICE)  // functions of the host
  for (auto family : {profile_replays, table_replays, schedule_replays, swa_rate_replays,
                      merge_replays, linear_replays, batch_norm_replays}) {
    all.merge(family());
  }
#endif
  return all;
}

const Replays& all_replays() {
  static const Replays all = collected_replays();
  return all;
}

void replay_case(const Json& document, const std::string& label, Report& report) {
  const Replays& replays = all_replays();
  const std::string algorithm = document.value("algorithm", "");
  const auto replay = replays.find(algorithm);
#if defined(POLYAK_GOLDEN_DEVICE)
  if (replay == replays.end()) {
    report.check("a replay on the host alone", true);
    return;
  }
#endif
  if (replay == replays.end()) {
    throw Malformed(label + "unknown algorithm \"" + algorithm + "\"");
  }
  Case run(document, label, report);
  replay->second.replay(run);
  run.finish();
}

Json parsed(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) {
    throw Malformed("cannot be read");
  }
  return Json::parse(stream);
}

Report replay_file(const std::filesystem::path& file) {
  Report report;
  const Json document = parsed(file);
  const auto recorded = document.is_object() ? document.find("format") : document.end();
  const std::string format = recorded == document.end() ? ""
                             : recorded->is_string()    ? recorded->get<std::string>()
                                                        : recorded->dump();
#if defined(POLYAK_GOLDEN_DEVICE)
  if (format.empty()) {
    report.check("a manifest of files", true);
    return report;
  }
#else
  if (document.is_object() && (document.contains("valid") || document.contains("malformed"))) {
    return check_manifest(document, file.parent_path());
  }
#endif
  if (format == "polyak-golden-1") {
    replay_case(document, "", report);
  } else if (format == "polyak-golden-optimizers/1" || format == "1") {
    for (const Json& entry : list_of(document.at("cases"), "cases")) {
      const std::string name = entry.at("name").get<std::string>();
      try {
        replay_case(entry, name + ": ", report);
      } catch (const Malformed&) {
        throw;
      } catch (const std::exception& error) {
        throw Malformed(name + ": " + error.what());
      }
    }
  } else {
    throw Malformed("unknown format \"" + format + "\"");
  }
  if (report.empty()) {
    throw Malformed("records nothing to compare with");
  }
  return report;
}

/// Returns whether the file matches, and prints the result in one line.
bool passes(const std::filesystem::path& file) {
  std::string line;
  bool passed = false;
  try {
    const Report report = replay_file(file);
    passed = report.passed();
    line = report.summary();
  } catch (const std::exception& error) {
    line = error.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
  }
  std::cout << (passed ? "ok    " : "FAIL  ") << file.filename().string() << "  " << line
            << std::endl;
  return passed;
}

#if !defined(POLYAK_GOLDEN_DEVICE)
/// Returns whether golden files, replays and methods are complete, and prints a line for each that
/// lacks another.
bool is_complete(const std::filesystem::path& folder) {
  const std::vector<std::string> missing = missing_replays(all_replays(), folder);
  for (const std::string& line : missing) std::cout << "FAIL  " << line << std::endl;
  if (missing.empty()) {
    std::cout << "ok    " << all_replays().size() << " replays, each of a method and of a file"
              << std::endl;
  }
  return missing.empty();
}
#endif

}  // namespace
}  // namespace golden

int main(int count, char** arguments) {
  if (count < 2 || std::string(arguments[1]) == "--help") {
    std::cout << "usage: polyak_golden FILE...\n"
                 "       polyak_golden --complete FOLDER\n"
                 "Replays golden files and compares with what they record; of a manifest.json it\n"
                 "checks the safetensors files beside it. Each line gives the\n"
                 "worst error divided by its tolerance. Fails if any file does not match, names\n"
                 "an unknown algorithm, or holds an entry that the replay does not use.\n"
                 "--complete fails for a file of the folder that nothing replays, for a replay\n"
                 "without a file, and for a method of the library without a replay.\n";
    return count < 2 ? 2 : 0;
  }
#if defined(POLYAK_GOLDEN_DEVICE)
  try {
    (void)golden::executor();
  } catch (const polyak::cuda::error& error) {
    std::cout << "skipped: " << error.what() << std::endl;
    return 77;
  }
#else
  if (std::string(arguments[1]) == "--complete") {
    return count == 3 && golden::is_complete(arguments[2]) ? 0 : 1;
  }
#endif
  bool all_pass = true;
  for (int i = 1; i < count; ++i) {
    all_pass = golden::passes(arguments[i]) && all_pass;
  }
  return all_pass ? 0 : 1;
}
