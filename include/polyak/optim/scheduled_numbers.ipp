// SPDX-License-Identifier: Apache-2.0
// The functions of scheduled_numbers.hpp.
#pragma once

#include <polyak/optim/scheduled_numbers.hpp>

#include <algorithm>
#include <string>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE void require_same_slots(std::string_view owner, const std::vector<SlotSpec>& needed,
                                      const std::vector<SlotSpec>& present) {
  const auto equal = [](const SlotSpec& a, const SlotSpec& b) {
    return a.name == b.name && a.shape == b.shape && a.view == b.view;
  };
  if (std::equal(needed.begin(), needed.end(), present.begin(), present.end(), equal)) return;
  const auto words = [](const std::vector<SlotSpec>& slots) {
    std::string names;
    for (const SlotSpec& slot : slots) names += (names.empty() ? "" : ", ") + slot.name;
    return names.empty() ? std::string("none") : names;
  };
  refuse_value(std::string("polyak: ").append(owner) + ": with() must leave the slots (" +
               words(present) + ") as they are, the given options need " + words(needed));
}
POLYAK_DEFINE void refuse_other_variant(std::string_view owner, std::string_view function) {
  refuse_value(std::string("polyak: ").append(owner).append(": ").append(function) +
               "() must leave the variant of the law as it is, the given options need another");
}
POLYAK_DEFINE void refuse_decay(std::string_view owner, std::string_view name) {
  refuse_value(std::string("polyak: ").append(owner).append(": at() sets ").append(name) +
               ", which the optimizer's options do not have");
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
