// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tables of options, for documentation, from the lists of core/options.hpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

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

}  // namespace POLYAK_V0
}  // namespace polyak
