// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tensors that an option of an average names, as in AswaOptions::normed and
/// CottaOptions::restored: an empty list means all averaged tensors.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A flag for each tensor of `params`. `option` is the name of the option in messages. Throws
/// std::invalid_argument for names of unknown tensors, and of tensors that the average does not
/// keep.
template <class P, class Kept>
[[nodiscard]] std::vector<bool> chosen_tensors(const Parameters<P>& params, const Kept& kept,
                                               const std::vector<std::string>& names,
                                               std::string_view option) {
  std::vector<bool> chosen(params.size(), false);
  for (std::size_t k = 0; k < params.size(); ++k) chosen[k] = names.empty() && kept.keeps(k);
  for (const std::string& name : names) {
    const std::size_t k = params.layout()->find(params.at(name).name());
    if (!kept.keeps(k)) {
      refuse_value(std::string("polyak: ")
                       .append(option)
                       .append(" must name averaged tensors, got \"" + name + "\""));
    }
    chosen[k] = true;
  }
  return chosen;
}

/// Lists the flags of the tensors that the average keeps as options "option.tensor".
template <class Kept>
void list_chosen(OptionVisitor& visit, std::string_view option, const std::vector<bool>& chosen,
                 const Kept& kept) {
  for (std::size_t k = 0; k < chosen.size(); ++k) {
    if (kept.keeps(k)) {
      visit.option(option, kept.layout()->tensors[k].name, static_cast<bool>(chosen[k]));
    }
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
