// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/state_match.hpp.
///
/// Above 300 lines: one comparison, whose messages must not contradict each other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/io/state_match.hpp>
#include <polyak/io/state_record.ipp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// The aliases of each tensor, by its place.
POLYAK_DEFINE_ON_USE std::vector<std::vector<std::string_view>> aliases_of(const Layout& layout) {
  std::vector<std::vector<std::string_view>> all(layout.tensors.size());
  for (const auto& [alias, target] : layout.aliases) {
    const std::size_t tensor = layout.find(target);
    if (tensor < all.size()) all[tensor].push_back(alias);
  }
  return all;
}

/// Finds the tensors of one list here. Costs O(1) for each tensor, here and in the file.
class ListMatcher {
 public:
  POLYAK_ON_USE ListMatcher(const FiledRecord& file, const Layout& here, const Wanted& wanted)
      : file_(file), here_(here), wanted_(wanted), aliases_(aliases_of(here)) {
    list_.wanted = selected(wanted.tensors, here);
    list_.tensors.resize(here.tensors.size());
  }

  /// Everything of the list `place` of the file.
  POLYAK_ON_USE [[nodiscard]] StateMatch::List whole(std::size_t place,
                                                     std::vector<std::string>& differences) {
    list_.place = place;
    const Layout& there = file_.lists[place];
    find_tensors(there);
    Layout given;
    for (std::size_t p = 0; p < there.tensors.size(); ++p) {
      if (list_.tied_copy[p]) continue;
      TensorInfo info = there.tensors[p];
      if (list_.first_of[p] != StateMatch::none) take_form(info, list_.first_of[p]);
      given.add(std::move(info));
    }
    compare(there, given, here_, differences);
    return std::move(list_);
  }

  /// The wanted tensors, in the first list of the file that has any of them.
  POLYAK_ON_USE [[nodiscard]] StateMatch::List some(std::vector<std::string>& differences) {
    static const Layout nothing;
    const Layout* there = &nothing;
    for (std::size_t place = 0; place < file_.lists.size() && list_.place == StateMatch::none;
         ++place) {
      for (std::size_t k = 0; k < here_.tensors.size(); ++k) {
        if (list_.wanted[k] && !places_of_tensor(file_.lists[place], k).empty()) {
          list_.place = place;
          there = &file_.lists[place];
          break;
        }
      }
    }
    find_tensors(*there);
    Layout given, expected;
    for (std::size_t k = 0; k < here_.tensors.size(); ++k) {
      if (!list_.wanted[k]) continue;
      expected.add(here_.tensors[k]);
      if (list_.tensors[k].empty()) continue;
      TensorInfo info = there->tensors[list_.tensors[k].front()];
      take_form(info, k);
      given.add(std::move(info));
    }
    compare(*there, given, expected, differences);
    return std::move(list_);
  }

 private:
  /// The places of a tensor here in a list of a file, by its name and its aliases.
  POLYAK_ON_USE [[nodiscard]] std::vector<std::size_t> places_of_tensor(const Layout& file,
                                                                        std::size_t tensor) const {
    std::vector<std::size_t> places;
    const auto add = [&](std::string_view name) {
      const std::size_t place = file.find_any(name);
      if (place == file.tensors.size()) return;
      if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
    };
    add(here_.tensors[tensor].name);
    for (const std::string_view alias : aliases_[tensor]) add(alias);
    return places;
  }
  POLYAK_ON_USE void find_tensors(const Layout& there) {
    list_.first_of.assign(there.tensors.size(), StateMatch::none);
    list_.tied_copy.assign(there.tensors.size(), false);
    for (std::size_t k = 0; k < here_.tensors.size(); ++k) {
      if (!list_.wanted[k]) continue;
      list_.tensors[k] = places_of_tensor(there, k);
      for (const std::size_t place : list_.tensors[k]) {
        if (place != list_.tensors[k].front()) {
          list_.tied_copy[place] = true;
        } else if (list_.first_of[place] == StateMatch::none) {
          list_.first_of[place] = k;
        }
      }
    }
  }
  /// The name and the order of a tensor here: a file has no order in memory.
  POLYAK_ON_USE void take_form(TensorInfo& info, std::size_t tensor) const {
    info.name = here_.tensors[tensor].name;
    info.order = here_.tensors[tensor].order;
  }
  POLYAK_ON_USE void compare(const Layout& there, const Layout& given, const Layout& expected,
                             std::vector<std::string>& lines) const {
    const std::string list = differences(given, expected);
    if (!list.empty()) lines.push_back("parameters of the file: " + list);
    std::vector<std::size_t> taken(there.tensors.size(), StateMatch::none);
    for (std::size_t k = 0; k < here_.tensors.size(); ++k) {
      const auto& places = list_.tensors[k];
      for (const std::size_t place : places) {
        TensorInfo other = there.tensors[place];
        other.order = here_.tensors[k].order;
        if (place != places.front() && !alike(other, here_.tensors[k])) {
          lines.push_back("parameters of the file: \"" + other.name + "\", an alias here, is " +
                          describe(other) + ", expected " + describe(here_.tensors[k]));
        }
        if (taken[place] != StateMatch::none && wanted_.parts != Parts::weights) {
          lines.push_back("parameters of the file: \"" + here_.tensors[k].name + "\" and \"" +
                          here_.tensors[taken[place]].name +
                          "\" are tied in the file, but not here");
        }
        taken[place] = k;
      }
    }
  }

  const FiledRecord& file_;
  const Layout& here_;
  const Wanted& wanted_;
  std::vector<std::vector<std::string_view>> aliases_;
  StateMatch::List list_;
};

/// Compares a method here with one of a file.
class MethodComparison {
 public:
  POLYAK_ON_USE MethodComparison(std::size_t index, const FiledMethod& file,
                                 const RecordedMethod& run, const Layout& there, const Layout& here,
                                 const StateMatch::List& list, bool everything)
      : who_(label(index, run)),
        file_(file),
        run_(run),
        there_(there),
        here_(here),
        list_(list),
        everything_(everything) {
    other("the type", file.type, run.type);
    if (file.type != run.type) return;  // all else would differ too
    other("the type of parameters", file.parameter, run.parameter);
    other("the type of state", file.state, run.state);
    if (everything) other("the list of parameters", text(file.list), text(run.list));
    other("the list of slots", joined(file.slots), joined(run.slots));
    if (file.slots == run.slots) compare_shapes();
    compare_options();
    compare_scalars();
  }

  std::vector<std::string> options, others, differing;  ///< as in StateMatch

 private:
  POLYAK_ON_USE [[nodiscard]] static std::string joined(const std::vector<std::string>& names) {
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
    return all;
  }
  POLYAK_ON_USE void other(const char* what, const std::string& in_file, const std::string& here) {
    if (in_file != here) {
      others.push_back(who_ + ": " + what + " is " + text(in_file) + " in the file, " + text(here) +
                       " here");
    }
  }

  /// The slots that have shapes of their own. Lists of different lengths are reported elsewhere.
  POLYAK_ON_USE void compare_shapes() {
    const auto words = [](const std::optional<Shape>& shape) {
      return shape.has_value() ? shape_text(*shape) : std::string("absent");
    };
    for (const auto& [slot, shapes] : run_.slot_shapes) {
      const auto known = file_.slot_shapes.find(slot);
      if (known == file_.slot_shapes.end()) {
        others.push_back(who_ + ": slot \"" + slot + "\" is of the parameters' shapes in the file");
        continue;
      }
      for (std::size_t k = 0; k < shapes.size(); ++k) {
        for (const std::size_t place : list_.tensors[k]) {
          if (place >= known->second.size() || known->second[place] == shapes[k]) continue;
          others.push_back(who_ + ": slot \"" + slot + "\" of \"" + here_.tensors[k].name +
                           "\" is " + words(known->second[place]) + " in the file, " +
                           words(shapes[k]) + " here");
        }
      }
    }
    for (const auto& [slot, shapes] : file_.slot_shapes) {
      if (!run_.slot_shapes.contains(slot)) {
        others.push_back(who_ + ": slot \"" + slot + "\" is of the parameters' shapes here");
      }
    }
  }

  /// The name of an option in the file, where its tensor may have another name; none for that of a
  /// tensor that is not loaded.
  POLYAK_ON_USE [[nodiscard]] std::optional<std::string> name_in_file(
      const OptionText& option) const {
    if (option.tensor.empty()) return option.name;
    const std::size_t k = here_.find(option.tensor);
    if (k == here_.tensors.size()) return option.name;
    if (!list_.wanted[k]) return std::nullopt;
    if (list_.tensors[k].empty()) return option.name;
    return option.name.substr(0, option.name.size() - option.tensor.size()) +
           there_.tensors[list_.tensors[k].front()].name;
  }
  /// Whether an option of the file belongs to a tensor that is not looked at.
  POLYAK_ON_USE [[nodiscard]] bool ignored(const std::string& name) const {
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos) return false;
    const std::size_t place = there_.find(std::string_view(name).substr(dot + 1));
    if (place == there_.tensors.size()) return false;
    return everything_ ? list_.tied_copy[place] : list_.first_of[place] == StateMatch::none;
  }
  POLYAK_ON_USE void compare_options() {
    std::map<std::string, const OptionText*> here;  // the last one of a name, as in the file
    for (const OptionText& option : run_.options) {
      if (const auto name = name_in_file(option)) here[*name] = &option;
    }
    for (const auto& [name, option] : here) {
      const auto known = file_.options.find(name);
      if (known == file_.options.end() && option->older_files_lack_it) continue;
      const std::string in_file = known == file_.options.end() ? "absent" : known->second;
      if (in_file == option->text) continue;
      options.push_back(who_ + ": option \"" + option->name + "\" is " + in_file +
                        " in the file, " + option->text + " here");
      differing.push_back(option->name);
    }
    for (const auto& [name, value] : file_.options) {
      if (!here.contains(name) && !ignored(name)) {
        options.push_back(who_ + ": option \"" + name + "\" is " + value +
                          " in the file, absent here");
      }
    }
  }
  POLYAK_ON_USE void compare_scalars() {
    for (const RecordedScalar& scalar : run_.scalars) {
      if (!file_.scalars.contains(scalar.name) && !scalar.type.older_files_lack_it) {
        others.push_back(who_ + ": \"" + scalar.name + "\" is not in the file");
      }
    }
    for (const auto& [name, value] : file_.scalars) {
      bool known = false;
      for (const RecordedScalar& scalar : run_.scalars) known = known || scalar.name == name;
      if (!known) others.push_back(who_ + ": \"" + name + "\" of the file is unknown here");
    }
  }

  std::string who_;
  const FiledMethod& file_;
  const RecordedMethod& run_;
  const Layout& there_;
  const Layout& here_;
  const StateMatch::List& list_;
  bool everything_;
};

/// Names for a message.
POLYAK_ON_USE [[nodiscard]] inline std::string types_of(const FiledRecord& file) {
  std::string all;
  for (const FiledMethod& method : file.methods) all += (all.empty() ? "" : ", ") + method.type;
  return all;
}

POLYAK_ON_USE inline void take(StateMatch& all, std::size_t method, MethodComparison comparison) {
  for (std::string& line : comparison.options) all.options.push_back(std::move(line));
  for (std::string& line : comparison.others) all.others.push_back(std::move(line));
  all.differing[method] = std::move(comparison.differing);
}

POLYAK_ON_USE inline void match_everything(StateMatch& all, const FiledRecord& file,
                                           const StateRecord& run, const Wanted& wanted) {
  const auto counted = [&](const std::string& what, std::size_t in_file, std::size_t here) {
    if (in_file != here) {
      all.others.push_back("the file has " + text(in_file) + " " + what + ", here are " +
                           text(here));
    }
  };
  counted("lists of parameters", file.lists.size(), run.lists.size());
  for (std::size_t k = 0; k < run.lists.size() && k < file.lists.size(); ++k) {
    all.lists[k] = ListMatcher(file, *run.lists[k], wanted).whole(k, all.others);
  }
  counted("methods (" + types_of(file) + ")", file.methods.size(), run.methods.size());
  for (std::size_t k = 0; k < run.methods.size() && k < file.methods.size(); ++k) {
    const std::size_t list = run.methods[k].list;
    if (list >= file.lists.size()) continue;
    all.methods[k] = k;
    take(all, k,
         MethodComparison(k, file.methods[k], run.methods[k], file.lists[list], *run.lists[list],
                          all.lists[list], true));
  }
}

POLYAK_ON_USE inline void match_some(StateMatch& all, const FiledRecord& file,
                                     const StateRecord& run, const Wanted& wanted) {
  const auto any_wanted = [&](std::size_t list) {
    const std::vector<bool> bits = selected(wanted.tensors, *run.lists[list]);
    return std::find(bits.begin(), bits.end(), true) != bits.end();
  };
  const auto is_wanted = [&](const RecordedMethod& method) {
    return includes(wanted.parts, part_of(method.trains)) && any_wanted(method.list);
  };
  for (std::size_t k = 0; k < run.lists.size(); ++k) {
    bool needed = includes(wanted.parts, Parts::weights) && any_wanted(k);
    for (const RecordedMethod& method : run.methods) {
      needed = needed || (method.list == k && is_wanted(method));
    }
    if (needed) all.lists[k] = ListMatcher(file, *run.lists[k], wanted).some(all.others);
  }
  std::vector<bool> taken(file.methods.size(), false);
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    const RecordedMethod& method = run.methods[k];
    if (!is_wanted(method)) continue;
    const StateMatch::List& list = all.lists[method.list];
    if (list.place == StateMatch::none) continue;  // its tensors are missing
    std::optional<MethodComparison> best;
    for (std::size_t m = 0; m < file.methods.size(); ++m) {
      if (taken[m] || file.methods[m].type != method.type || file.methods[m].list != list.place) {
        continue;
      }
      MethodComparison comparison(k, file.methods[m], method, file.lists[list.place],
                                  *run.lists[method.list], list, false);
      const bool same = comparison.options.empty() && comparison.others.empty();
      if (best.has_value() && !same) continue;
      best.emplace(std::move(comparison));
      all.methods[k] = m;
      if (same) break;
    }
    if (!best.has_value()) {
      all.others.push_back("it has no " + method.type + " of these parameters; its methods are (" +
                           types_of(file) + ")");
      continue;
    }
    taken[all.methods[k]] = true;
    take(all, k, *std::move(best));
  }
}

POLYAK_DEFINE_ON_USE StateMatch match(const FiledRecord& file, const StateRecord& run,
                                      const Wanted& wanted) {
  StateMatch all;
  for (const auto& list : run.lists) {
    all.lists.emplace_back().wanted.resize(list->tensors.size());
    all.lists.back().tensors.resize(list->tensors.size());
  }
  all.methods.resize(run.methods.size(), StateMatch::none);
  all.differing.resize(run.methods.size());
  if (wanted.everything()) {
    match_everything(all, file, run, wanted);
  } else {
    match_some(all, file, run, wanted);
  }
  return all;
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
