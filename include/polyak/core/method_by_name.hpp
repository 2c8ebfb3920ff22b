// SPDX-License-Identifier: Apache-2.0
/// @file
/// Methods by the name of their type, with options as text, for configuration files and command
/// lines. optim/by_name.hpp and average/by_name.hpp have the lists of names.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/any_method.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/type_name.hpp>

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

/// A method of type M, made with options of type Options.
template <class M, class Options>
struct NamedMethod {
  static constexpr std::string_view name = plain_type_name<M>();
  template <class P>
  [[nodiscard]] static AnyMethod<P> make(const Parameters<P>& params, const OptionValues& values,
                                         const Selection& selection) {
    Options options;
    FieldSetter setter(options_name<Options>(), values);
    fields(options, setter);
    setter.refuse_others();
    return M(params, options, selection);
  }
};

/// A list of methods to choose from.
template <class... Named>
struct NamedMethods {
  [[nodiscard]] static std::vector<std::string_view> names() { return {Named::name...}; }

  /// `kind` is the word for such a method in the refusal of an unknown name.
  template <class P>
  [[nodiscard]] static AnyMethod<P> make(std::string_view kind, std::string_view name,
                                         const Parameters<P>& params, const OptionValues& values,
                                         const Selection& selection) {
    std::optional<AnyMethod<P>> made;
    const auto try_one = [&]<class One>(One) {
      if (One::name == name) made.emplace(One::make(params, values, selection));
    };
    (try_one(Named{}), ...);
    if (made) return *std::move(made);
    std::string known;
    for (const std::string_view one : names()) known.append(known.empty() ? "" : ", ").append(one);
    refuse_value("polyak: there is no " + std::string(kind) + " \"" + std::string(name) +
                 "\"; there are " + known);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
