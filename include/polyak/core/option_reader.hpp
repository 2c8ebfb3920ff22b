// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options from their texts, for loading, from the lists of core/options.hpp.
#pragma once

#include <concepts>
#include <cstddef>
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
namespace detail {

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
  void added(std::string_view name, T& value, const Rules&... rules) {
    if (texts_.contains(std::string(name))) (*this)(name, value, rules...);
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
}  // namespace POLYAK_V0
}  // namespace polyak
