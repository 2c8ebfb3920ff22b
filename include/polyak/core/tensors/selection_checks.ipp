// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of core/tensors/selection_checks.hpp.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/selection_checks.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE_ON_USE std::size_t first_common(const std::vector<bool>& a,
                                              const std::vector<bool>& b) {
  std::size_t k = 0;
  while (k < a.size() && !(a[k] && b[k])) ++k;
  return k;
}

POLYAK_DEFINE_ON_USE std::string some_names(const Layout& layout) {
  std::string list;
  std::size_t k = 0;
  for (; k < layout.tensors.size() && k < 8; ++k) {
    list.append(k == 0 ? "" : ", ").append(text(layout.tensors[k].name));
  }
  return k < layout.tensors.size() ? list + ", ..." : list;
}

[[noreturn]] POLYAK_DEFINE POLYAK_COLD void refuse_empty_selection(const Selection& selection,
                                                                   const Layout& layout,
                                                                   std::string_view owner) {
  std::string message = std::string("polyak: the selection of ").append(owner);
  message.append(", ")
      .append(selection.describe())
      .append(", selects none of its tensors; the list has ");
  message.append(some_names(layout)).append("; leave it out for all of them");
  // A selection may name a tied tensor by its alias, which does not count.
  for (const auto& [alias, target] : layout.aliases) {
    TensorInfo renamed = layout.tensors[layout.find(target)];
    renamed.name = alias;
    if (selection(renamed)) {
      message.append("; \"").append(alias).append("\" is an alias: select \"");
      message.append(target).append("\"");
      break;
    }
  }
  refuse_value(message);
}

POLYAK_DEFINE_ON_USE void require_some(const std::vector<bool>& bits, const Selection& selection,
                                       const Layout& layout, std::string_view owner) {
  for (const bool bit : bits) {
    if (bit) return;
  }
  refuse_empty_selection(selection, layout, owner);
}

POLYAK_DEFINE_ON_USE void require_disjoint(const std::vector<bool>& a, const std::vector<bool>& b,
                                           const Layout& layout, std::string_view owner_of_a,
                                           std::string_view owner_of_b) {
  const std::size_t k = first_common(a, b);
  if (k == a.size()) return;
  refuse_value("polyak: tensor \"" + layout.tensors[k].name + "\" is selected by " +
               std::string(owner_of_a) + " and by " + std::string(owner_of_b) +
               ": exclude it from one of the selections, by && !named(\"" + layout.tensors[k].name +
               "\")");
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
