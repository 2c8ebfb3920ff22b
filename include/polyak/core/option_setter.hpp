// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options from names and texts, for configuration files, command lines and other languages.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Options by their names, as text: numbers, "true" or "false", and names of enumerators, as in the
/// record of a saved file. An option that is absent keeps its default.
using OptionValues = std::map<std::string, std::string>;

namespace detail {

/// Sets the fields that have a text; the others keep their values.
class FieldSetter : public FieldVisitor<FieldSetter> {
 public:
  FieldSetter(std::string_view owner, const OptionValues& values)
      : owner_(owner), values_(values) {}

  template <class T, class... Rules>
  void operator()(std::string_view name, T& value, const Rules&...) {
    names_.emplace_back(name);
    const auto found = values_.find(names_.back());
    if (found == values_.end()) return;
    if constexpr (std::is_arithmetic_v<T> || enum_names::NamedEnum<T>) {
      if (!read_option(found->second, value)) refuse(name, kind_of<T>(), found->second);
    } else {
      refuse(name, "set in the program: it has no text", found->second);
    }
  }
  template <class Action>
  void after_reading(Action&& action) {
    action();
  }
  /// Refuses texts of options that there are not.
  void refuse_others() const {
    for (const auto& [name, text] : values_) {
      if (std::find(names_.begin(), names_.end(), name) != names_.end()) continue;
      std::string known;
      for (const std::string& one : names_) known.append(known.empty() ? "" : ", ").append(one);
      refuse_value("polyak: " + owner_ + " has no option \"" + name + "\"; it has " + known);
    }
  }

 private:
  template <class T>
  [[nodiscard]] static std::string kind_of() {
    if constexpr (std::is_same_v<T, bool>) {
      return "true or false";
    } else if constexpr (std::is_integral_v<T>) {
      return std::is_unsigned_v<T> ? "an integer >= 0" : "an integer";
    } else if constexpr (std::is_arithmetic_v<T>) {
      return "a number";
    } else {
      std::string names = "one of";
      for (int k = 0;; ++k) {
        const auto value = static_cast<T>(k);
        if (enum_names::find<T>(enum_names::name(value)) != value) return names;
        names.append(k == 0 ? " " : ", ").append(enum_names::name(value));
      }
    }
  }
  [[noreturn]] void refuse(std::string_view name, const std::string& kind,
                           const std::string& given) const {
    refuse_argument(owner_ + "." + std::string(name) + " must be " + kind, given);
  }

  std::string owner_;
  const OptionValues& values_;
  std::vector<std::string> names_;
};

/// Options that are the defaults, but for those that `values` names. Throws std::invalid_argument
/// for an unknown name, listing those that there are, and for a text that is not a value of the
/// option. Ranges are checked by the method that gets the options.
template <class Options>
[[nodiscard]] Options options_from(const OptionValues& values) {
  Options options{};
  FieldSetter setter(options_name<Options>(), values);
  fields(options, setter);
  setter.refuse_others();
  return options;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
