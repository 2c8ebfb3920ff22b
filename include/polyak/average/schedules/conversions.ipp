// SPDX-License-Identifier: Apache-2.0
// The functions of conversions.hpp that messages need.
#pragma once

#include <polyak/average/schedules/conversions.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE std::string time_hint(double decay) {
  if (!(decay > 2) || !is_finite(decay)) return {};
  return "; did you mean a time? decay_from_half_life(" + text(decay) +
         ") = " + text(std::exp2(-1 / decay)) + ", decay_from_span(" + text(decay) +
         ") = " + text(1 - 2 / (decay + 1));
}
POLYAK_DEFINE std::string gain_hint(double decay) {
  return "; did you mean 1 - " + text(decay) + " = " + text(1 - decay) +
         "? With any_decay = true it is accepted";
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
