// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options as text: saving, loading, comparison and tables, from the lists of core/options.hpp.
#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace v0 {

/// Names of enumerators. Not in `detail`: its own name_of() would be found or not, depending on the
/// order of includes.
namespace enum_names {

template <class T>
concept NamedEnum = std::is_enum_v<T> && requires(T value) {
  name_of(value);
};

template <NamedEnum E>
[[nodiscard]] constexpr std::string_view name(E value) {
  return name_of(value);
}

/// The enumerator with this name. Enumerators are numbered from 0 without gaps. Beyond the last
/// one, name_of() repeats the name of an enumerator, so the first value with a name is the
/// enumerator.
template <NamedEnum E>
[[nodiscard]] std::optional<E> find(std::string_view wanted) {
  for (int k = 0; k <= std::numeric_limits<std::uint8_t>::max(); ++k) {
    if (name_of(static_cast<E>(k)) == wanted) return static_cast<E>(k);
  }
  return std::nullopt;
}

}  // namespace enum_names

namespace detail {

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

/// The text of a value in files: a number with enough digits to read back the same bits, an enum as
/// its name. Functions have no text.
template <class T>
[[nodiscard]] std::string option_text(const T& value) {
  if constexpr (enum_names::NamedEnum<T>) {
    return std::string(enum_names::name(value));
  } else if constexpr (std::is_enum_v<T>) {
    return text(static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (requires { text(value); }) {
    return text(value);
  } else if constexpr (is_optional<T>) {
    return value ? option_text(*value) : "none";
  } else {
    return {};
  }
}
[[nodiscard]] inline std::string option_text(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

/// Reads a value that option_text() wrote; returns false if the text is not a value of the type.
template <class T>
[[nodiscard]] bool read_option(std::string_view words, T& value) {
  if constexpr (std::same_as<T, bool>) {
    value = words == "true";
    return value || words == "false";
  } else if constexpr (enum_names::NamedEnum<T>) {
    const std::optional<T> found = enum_names::find<T>(words);
    if (found) value = *found;
    return found.has_value();
  } else {
    static_assert(std::is_arithmetic_v<T>, "polyak: fields of this type cannot be loaded");
    T read{};
    const char* const end = words.data() + words.size();
    const auto result = std::from_chars(words.data(), end, read);
    if (result.ec != std::errc() || result.ptr != end) return false;
    value = read;
    return true;
  }
}

/// An option as it is saved.
struct OptionText {
  std::string name, text;
  bool older_files_lack_it = false;
  friend bool operator==(const OptionText&, const OptionText&) = default;
};
/// The fields as text, in the order of the list.
using OptionTexts = std::vector<OptionText>;
class FieldLister : public FieldVisitor<FieldLister> {
 public:
  explicit FieldLister(OptionTexts& all) : all_(all) {}
  template <class T, class... Rules>
  void operator()(std::string_view name, const T& value, const Rules&...) {
    all_.push_back({std::string(name), option_text(value)});
  }
  void label(std::string_view name, std::string_view words) {
    all_.push_back({std::string(name), std::string(words), true});
  }

 private:
  OptionTexts& all_;
};
/// The fields of options; nothing without a list.
template <class O>
[[nodiscard]] OptionTexts option_texts(const O& o) {
  OptionTexts all;
  FieldLister lister(all);
  visit_fields(o, lister);
  return all;
}

/// Sets fields from their texts.
class FieldReader : public FieldVisitor<FieldReader> {
 public:
  using Texts = std::map<std::string, std::string>;
  explicit FieldReader(const Texts& texts) : texts_(texts) {}

  /// A number must be present. A flag or an enum that is absent keeps its default.
  template <class T, class... Rules>
  void operator()(std::string_view name, T& value, const Rules&...) {
    const auto found = texts_.find(std::string(name));
    const char* fault = nullptr;
    if (found != texts_.end()) {
      if (!read_option(found->second, value)) fault = "has a wrong option ";
    } else if (!std::same_as<T, bool> && !std::is_enum_v<T>) {
      fault = "lacks the option ";
    }
    if (fault != nullptr && problem_.empty()) problem_ = std::string(fault).append(name);
  }
  template <class T, class... Rules>
  void list(std::string_view name, std::vector<T>& values, std::size_t first, const Rules&...) {
    values.clear();
    for (;;) {
      const std::string one = std::string(name) + "." + text(first + values.size());
      if (!texts_.contains(one)) return;
      (*this)(one, values.emplace_back());
    }
  }
  template <class Action>
  void after_reading(Action&& action) {
    action();
  }
  /// The first fault, such as "lacks the option decay"; empty if all fields were read.
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  const Texts& texts_;
  std::string problem_;
};

/// Reads all fields, and checks them. Returns the first fault, or nothing.
template <HasFields O>
[[nodiscard]] std::string read_options(const std::map<std::string, std::string>& texts, O& o) {
  FieldReader reader(texts);
  fields(o, reader);
  if (!reader.problem().empty()) return reader.problem();
  const std::string problem = problem_of(o);
  return problem.empty() ? problem : "has a wrong option: " + problem;
}

}  // namespace detail

/// Whether all fields are equal. Numbers are compared bit for bit, except that all NaNs are equal.
template <HasFields O>
[[nodiscard]] bool same_options(const O& a, const O& b) {
  return detail::option_texts(a) == detail::option_texts(b);
}

/// A row of an option table.
struct OptionRow {
  std::string name;
  std::string type;           ///< "number", "integer", "flag", or the names of an enum
  std::string default_value;  ///< "none" for NaN
  std::string rule;           ///< "must lie in [0, 1)"; empty: any value
};

/// The options of a struct, for documentation.
struct OptionTable {
  std::string name;  ///< of the struct
  std::vector<OptionRow> rows;
  std::vector<std::string> rules;  ///< rules of several fields
};

namespace detail {

template <class T>
[[nodiscard]] std::string option_type() {
  if constexpr (enum_names::NamedEnum<T>) {
    std::string names;
    for (int k = 0; k <= std::numeric_limits<std::uint8_t>::max(); ++k) {
      const auto value = static_cast<T>(k);
      if (enum_names::find<T>(enum_names::name(value)) != value) break;
      names.append(names.empty() ? "" : ", ").append(enum_names::name(value));
    }
    return names;
  } else if constexpr (is_optional<T>) {
    return option_type<typename T::value_type>();
  } else if constexpr (std::same_as<T, bool>) {
    return "flag";
  } else if constexpr (std::is_integral_v<T>) {
    return "integer";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "number";
  } else if constexpr (std::convertible_to<T, std::string_view>) {
    return "text";
  } else {
    return std::string(plain_type_name<T>());
  }
}

class OptionTableWriter : public FieldVisitor<OptionTableWriter> {
 public:
  explicit OptionTableWriter(OptionTable& table) : table_(table) {}
  template <class T, class... Rules>
  void operator()(std::string_view name, const T& value, const Rules&... rules) {
    std::string words;
    ((words += (words.empty() || rules.words.empty() ? "" : "; ") + std::string(rules.words)), ...);
    std::string given = option_text(value);
    if constexpr (std::is_floating_point_v<T>) {
      if (is_nan(value)) given = "none";
    }
    table_.rows.push_back({std::string(name), option_type<T>(), std::move(given), words});
  }
  template <class T, class... Rules>
  void list(std::string_view name, std::vector<T>& values, std::size_t, const Rules&... rules) {
    T value{};
    (*this)(name, value, rules...);
    table_.rows.back().type = "list of " + table_.rows.back().type;
    table_.rows.back().default_value.clear();
    static_cast<void>(values);
  }
  template <class Value>
  void check(bool, std::string_view words, const Value&) {
    table_.rules.emplace_back(words);
  }

 private:
  OptionTable& table_;
};

}  // namespace detail

/// The table of an options struct, with the defaults of `o`.
template <HasFields O>
[[nodiscard]] OptionTable option_table(const O& o = {}) {
  OptionTable table{std::string(detail::options_name<O>()), {}, {}};
  detail::OptionTableWriter writer(table);
  detail::visit_fields(o, writer);
  return table;
}

}  // namespace v0
}  // namespace polyak
