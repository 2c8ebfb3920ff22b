// SPDX-License-Identifier: Apache-2.0
// The functions of accumulation.hpp.
#pragma once

#include <polyak/average/engine/accumulation.hpp>

#include <cmath>
#include <string>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE double dead_zone(DType average, double gain, Accumulate accumulate) {
  const int digits = average == DType::float32   ? 24
                     : average == DType::float64 ? 53
                     : average == DType::float16 ? 11
                                                 : 8;
  const int kept = accumulate == Accumulate::float64      ? 53
                   : accumulate == Accumulate::kahan      ? 2 * digits + 1
                   : accumulate == Accumulate::stochastic ? 24
                                                          : digits;
  return std::ldexp(1.0, -kept) / gain;
}

POLYAK_DEFINE void validate(const Accumulation& o, DType average, double least) {
  const bool sixteen = bytes_of(average) == 2;
  const std::string type(name_of(average));
  const auto refuse = [&](const char* rule) {
    refuse_value(std::string("polyak: ") + rule + "; the average is of " + type);
  };
  switch (o.accumulate) {
    case Accumulate::plain:
      break;
    case Accumulate::kahan:
      if (average == DType::float64) refuse("accumulate = kahan is for averages of 16 or 32 bits");
      break;
    case Accumulate::stochastic:
      if (!sixteen) refuse("accumulate = stochastic is for averages of 16 bits");
      if (least == 0) return;  // it moves for more than 10^5 calls
      break;
    case Accumulate::float64:
      if (average != DType::float32) refuse("accumulate = float64 is for averages of float");
      return;
    default:
      refuse("accumulate must be plain, kahan, stochastic or float64");
  }
  if (!sixteen) return;
  const double zone = dead_zone(average, least, o.accumulate);
  require(zone <= 0.01,
          "an average of " + type + " with accumulate = " + std::string(name_of(o.accumulate)) +
              " must stall within 0.01 of a constant weight (relative), use " +
              (o.accumulate == Accumulate::plain   ? "stochastic or kahan or an average of float"
               : o.accumulate == Accumulate::kahan ? "stochastic or an average of float"
                                                   : "an average of float with kahan") +
              "; the distance",
          zone);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
