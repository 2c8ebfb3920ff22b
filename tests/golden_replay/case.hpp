// SPDX-License-Identifier: Apache-2.0
/// @file
/// One recorded run: its parts, and the comparison with the results of a replay.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "json.hpp"

namespace golden {

/// Tensors after every call; none where the average is not readable, which a replay checks.
using History = std::vector<std::optional<Tensors>>;

/// A case of a golden file. `compare` skips entries that the file does not record. `finish` refuses
/// entries of the file that the replay did not use, so each recorded entry is compared or reported.
class Case {
 public:
  /// `label` precedes the places in the report if a file has several cases.
  Case(const Json& document, std::string label, Report& report)
      : document_(&document),
        label_(std::move(label)),
        report_(&report),
        top_(document, "", read_),
        hyperparameters(top_.section("hyperparameters")),
        inputs(top_.section("inputs")),
        expected(top_.section("expected")),
        algorithm(top_.text("algorithm")),
        dtype(top_.text("dtype", "float64")),
        layout(layout_of(top_.has("shapes") ? top_.at("shapes") : Json::object())) {
    for (const char* descriptive : {"format", "case", "name", "reference", "notes"}) {
      if (top_.has(descriptive)) {
        (void)top_.at(descriptive);
      }
    }
    const Section recorded = top_.section("tolerance");
    if (!recorded.flag("exact", false)) {
      tolerance = {recorded.number("rtol", 0), recorded.number("atol", 0)};
    }
    if (!(tolerance.relative >= 0 && tolerance.absolute >= 0)) {
      throw Malformed("tolerance is negative");
    }
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  /// Values of the parameters before the first call.
  [[nodiscard]] Tensors initial() const {
    return layout.named ? tensors("params") : tensors_of(top_.at("initial"), layout, "initial");
  }

  /// The entry `initial`, if it holds more than the parameters.
  [[nodiscard]] Section initial_section() const { return top_.section("initial"); }

  /// The initial value of the average: the parameters, unless the file has another.
  [[nodiscard]] Tensors initial_average() const {
    return top_.section("initial").has("avg") ? tensors("avg") : initial();
  }

  /// The list `inputs.key`: one object or list of tensors for each call.
  [[nodiscard]] std::vector<Tensors> calls(const std::string& key) const {
    const std::string where = inputs.path(key);
    std::vector<Tensors> all;
    for (const Json& call : list_of(inputs.at(key), where)) {
      all.push_back(tensors_of(call, layout, where + "[" + std::to_string(all.size()) + "]"));
    }
    return all;
  }

  void compare(const Section& section, const std::string& key, double actual) {
    compare(section, key, actual, tolerance);
  }
  void compare(const Section& section, const std::string& key, double actual, Tolerance allowed) {
    if (section.has(key)) {
      report_->compare(label_ + section.path(key), actual, section.number(key), allowed);
    }
  }

  /// Scalars, one per call. Calls for which null is recorded are not compared.
  void compare(const Section& section, const std::string& key, const std::vector<double>& actual) {
    compare(section, key, actual, tolerance);
  }
  void compare(const Section& section, const std::string& key, const std::vector<double>& actual,
               Tolerance allowed) {
    const Json* recorded = recorded_list(section, key, actual.size());
    for (std::size_t k = 0; recorded != nullptr && k < actual.size(); ++k) {
      if (!(*recorded)[k].is_null()) {
        const std::string place = section.path(key) + "[" + std::to_string(k) + "]";
        report_->compare(label_ + place, actual[k], number_of((*recorded)[k], place), allowed);
      }
    }
  }

  void compare(const Section& section, const std::string& key, const Tensors& actual) {
    if (section.has(key)) {
      compare_tensors(section.path(key), section.at(key), actual);
    }
  }

  void compare(const Section& section, const std::string& key, const History& actual) {
    const Json* recorded = recorded_list(section, key, actual.size());
    for (std::size_t k = 0; recorded != nullptr && k < actual.size(); ++k) {
      if (actual[k]) {
        compare_tensors(section.path(key) + "[" + std::to_string(k) + "]", (*recorded)[k],
                        *actual[k]);
      }
    }
  }

  /// `expected.final.key` against the last entry of a history.
  void compare_final(const std::string& key, const History& actual) {
    const Section last = expected.section("final");
    if (!actual.empty() && actual.back()) {
      compare(last, key, *actual.back());
    } else if (!actual.empty() && last.has(key)) {
      (void)last.at(key);  // the library refuses to return this value
    }
  }

  /// The recorded list of a key, or null if there is none. Its length must be `size`.
  [[nodiscard]] const Json* recorded_list(const Section& section, const std::string& key,
                                          std::size_t size) const {
    if (!section.has(key)) {
      return nullptr;
    }
    const Json& list = list_of(section.at(key), section.path(key));
    if (list.size() != size) {
      throw Malformed(label_ + section.path(key) + " has " + std::to_string(list.size()) +
                      " entries, the replay " + std::to_string(size));
    }
    return &list;
  }

  void compare_tensors(const std::string& place, const Json& recorded, const Tensors& actual) {
    report_->compare(label_ + place, layout, actual, tensors_of(recorded, layout, place),
                     tolerance);
  }

  /// Direct access, for entries with another tolerance or format.
  [[nodiscard]] Report& report() { return *report_; }
  [[nodiscard]] std::string place(const std::string& path) const { return label_ + path; }

  /// Call it last.
  void finish() const {
    const std::string unread = unread_entry(*document_, "", read_);
    if (!unread.empty()) {
      throw Malformed(label_ + unread.substr(1) + " is not known for \"" + algorithm + "\"");
    }
  }

 private:
  [[nodiscard]] Tensors tensors(const std::string& key) const {
    const Section section = top_.section("initial");
    return tensors_of(section.at(key), layout, section.path(key));
  }

  const Json* document_;
  std::string label_;
  Report* report_;
  std::set<const Json*> read_;
  Section top_;

 public:
  Section hyperparameters;
  Section inputs;
  Section expected;
  std::string algorithm;
  std::string dtype;
  Layout layout;
  Tolerance tolerance;
};

/// Replays a case with the library and compares.
using ReplayFunction = std::function<void(Case&)>;

/// The replay of an algorithm, and the titles, in tests/support/methods.hpp, of the methods that it
/// uses.
struct Replay {
  std::vector<std::string_view> methods;
  ReplayFunction replay;
};
/// By the name of the algorithm.
using Replays = std::map<std::string, Replay>;

/// The replay for the dtype of the case.
[[nodiscard]] inline ReplayFunction by_dtype(ReplayFunction in_float32, ReplayFunction in_float64) {
  return [in_float32 = std::move(in_float32), in_float64 = std::move(in_float64)](Case& run) {
    if (run.dtype == "float32") {
      in_float32(run);
    } else if (run.dtype == "float64") {
      in_float64(run);
    } else {
      throw Malformed(run.place("dtype \"" + run.dtype + "\" is neither float32 nor float64"));
    }
  };
}

// The replays of each file.
[[nodiscard]] Replays average_replays();
[[nodiscard]] Replays decay_schedule_replays();
[[nodiscard]] Replays switch_replays();
[[nodiscard]] Replays window_replays();
[[nodiscard]] Replays power_replays();
[[nodiscard]] Replays profile_replays();
[[nodiscard]] Replays table_replays();
[[nodiscard]] Replays optimizer_replays();
[[nodiscard]] Replays schedule_replays();
[[nodiscard]] Replays swa_rate_replays();
[[nodiscard]] Replays merge_replays();
[[nodiscard]] Replays linear_replays();
[[nodiscard]] Replays batch_norm_replays();

/// The faults of a folder of golden files, one line each: files that no replay and no manifest
/// reads, replays without a file or of methods that are not in the list, and methods of the list
/// that are not replayed without a reason.
[[nodiscard]] std::vector<std::string> missing_replays(const Replays& replays,
                                                       const std::filesystem::path& folder);

/// Checks the safetensors files in `folder` against their manifest.
[[nodiscard]] Report check_manifest(const Json& manifest, const std::filesystem::path& folder);

}  // namespace golden
