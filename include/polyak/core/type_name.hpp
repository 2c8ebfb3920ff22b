// SPDX-License-Identifier: Apache-2.0
/// @file
/// Names of types for messages, without run-time type information.
#pragma once

#include <cstddef>
#include <string_view>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Extracts a type's name, without namespaces and template arguments, from the name of the function
/// below.
[[nodiscard]] constexpr std::string_view plain_type_name_in(std::string_view name) {
#if defined(_MSC_VER) && !defined(__clang__)
  name = name.substr(name.find("plain_type_name<") + 16);
  name = name.substr(name.find(' ') + 1);
  name = name.substr(0, name.rfind(">("));
#else
  name = name.substr(name.find("T = ") + 4);
  // The template arguments may contain anything but a ';' or a ']' outside of brackets.
  int depth = 0;
  for (std::size_t k = 0; k < name.size(); ++k) {
    const char c = name[k];
    if (depth == 0 && (c == ';' || c == ']')) {
      name = name.substr(0, k);
      break;
    }
    if (c == '<' || c == '(' || c == '[' || c == '{') ++depth;
    if (c == '>' || c == ')' || c == ']' || c == '}') --depth;
  }
#endif
  std::size_t begin = 0, end = name.size();
  int open = 0;
  for (std::size_t k = name.size(); k > 0; --k) {
    const char c = name[k - 1];
    if (c == '>') ++open;
    if (c == '<' && --open == 0 && end == name.size()) end = k - 1;
    if (c == ':' && open == 0) {
      begin = k;
      break;
    }
  }
  return name.substr(begin, end - begin);
}

/// The name of a type, without namespaces and template arguments.
template <class T>
[[nodiscard]] constexpr std::string_view plain_type_name() {
#if defined(_MSC_VER) && !defined(__clang__)
  return plain_type_name_in(__FUNCSIG__);
#else
  return plain_type_name_in(__PRETTY_FUNCTION__);
#endif
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
