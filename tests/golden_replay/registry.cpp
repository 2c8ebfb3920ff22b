// SPDX-License-Identifier: Apache-2.0
/// @file
/// Compares golden files, replays and the list of methods: each entry of one needs its counterpart
/// in the others.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "../support/methods.hpp"
#include "case.hpp"
#include "json.hpp"

namespace golden {
namespace {

namespace fs = std::filesystem;

/// The titles in the list of methods, each with the reason why it has no golden file, if any.
std::map<std::string_view, std::string_view> listed_methods() {
  std::map<std::string_view, std::string_view> listed;
  const auto add = [&](const methods::Method& method, const auto&...) {
    std::string_view& reason = listed[method.title()];
    if (!method.unrecorded.empty()) reason = method.unrecorded;
  };
  methods::for_each<float>(add);
  for (const methods::Method& other : methods::others) add(other);
  return listed;
}

/// The algorithms of a golden file; none if the file is not a golden file.
std::set<std::string> algorithms_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  const Json document = Json::parse(stream, nullptr, false);
  std::set<std::string> algorithms;
  const auto add = [&](const Json& run) {
    if (run.is_object()) algorithms.insert(run.value("algorithm", ""));
  };
  const auto cases = document.find("cases");
  if (cases != document.end()) {
    std::for_each(cases->begin(), cases->end(), add);
  } else {
    add(document);
  }
  return algorithms;
}

/// Whether the file is the manifest of its folder, or the manifest describes it.
bool in_manifest(const fs::path& file) {
  const fs::path manifest = file.parent_path() / "manifest.json";
  std::ifstream stream(manifest, std::ios::binary);
  if (!stream) return false;
  const Json document = Json::parse(stream, nullptr, false);
  const std::string name = file.filename().string();
  const auto holds = [&](const char* group) {
    return document.is_object() && document.contains(group) && document[group].contains(name);
  };
  // The index joins two of the valid files; check_manifest() opens it by its name.
  return file == manifest || name == "model.safetensors.index.json" || holds("valid") ||
         holds("malformed");
}

}  // namespace

std::vector<std::string> missing_replays(const Replays& replays, const fs::path& folder) {
  std::vector<std::string> missing;
  std::set<std::string> recorded;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const fs::path place = fs::relative(entry.path(), folder);
    if (!entry.is_regular_file() || place == "README.md" || in_manifest(entry.path())) continue;
    // The tests replay FOLDER/NAME.json.
    if (place.extension() != ".json" || std::distance(place.begin(), place.end()) != 2) {
      missing.push_back(place.generic_string() + ": nothing reads this file");
      continue;
    }
    const std::set<std::string> algorithms = algorithms_of(entry.path());
    if (algorithms.empty()) missing.push_back(place.generic_string() + ": it records no run");
    for (const std::string& algorithm : algorithms) {
      recorded.insert(algorithm);
      if (!replays.contains(algorithm)) {
        missing.push_back(place.generic_string() + ": nothing replays \"" + algorithm + "\"");
      }
    }
  }

  const auto listed = listed_methods();
  std::set<std::string_view> replayed;
  for (const auto& [algorithm, replay] : replays) {
    const std::string place = "the replay of \"" + algorithm + "\"";
    if (!recorded.contains(algorithm)) missing.push_back(place + " has no golden file");
    if (replay.methods.empty()) missing.push_back(place + " names no method");
    for (const std::string_view method : replay.methods) {
      if (recorded.contains(algorithm)) replayed.insert(method);
      if (!listed.contains(method)) {
        missing.push_back(place + " is of \"" + std::string(method) +
                          "\", which tests/support/methods.hpp does not list");
      }
    }
  }
  for (const auto& [method, reason] : listed) {
    if (replayed.contains(method) != reason.empty()) {
      missing.push_back(std::string(method) +
                        (reason.empty() ? " is replayed by no golden file, and "
                                          "tests/support/methods.hpp does not say why"
                                        : " is replayed, though tests/support/methods.hpp says "
                                          "that nothing is recorded of it"));
    }
  }
  return missing;
}

}  // namespace golden
