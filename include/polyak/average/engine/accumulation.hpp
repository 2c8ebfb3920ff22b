// SPDX-License-Identifier: Apache-2.0
/// @file
/// Accumulation: how an average is stored, and when it stalls.
#pragma once

#include <cstdint>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/selection.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// How an average is stored.
struct Accumulation {
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic; use a different one for each average
  Selection tensors = {};  ///< averaged tensors; buffers (Role::copy) are copied in any case
};

namespace detail {

/// The fields with which the options of every average end.
template <class O, class Fields>
void average_fields(O& o, Fields& field) {
  field("accumulate", o.accumulate);
  field("seed", o.seed);
  field("nonfinite", o.nonfinite);
}

/// Returns the accumulation, or refuses it under -ffast-math. Inline, because only the program
/// knows its flags.
[[nodiscard]] inline const Accumulation& checked(const Accumulation& o) {
#if defined(__FAST_MATH__)
  if (o.accumulate == Accumulate::kahan) {
    refuse_value(
        "polyak: accumulate = kahan cannot be used with -ffast-math, which removes its "
        "compensation");
  }
#endif
  return o;
}

[[nodiscard]] double dead_zone(DType average, double gain, Accumulate accumulate);

/// Refuses a way of storing that the type does not support, and 16-bit averages that would stall
/// far from their input at the least gain.
void validate(const Accumulation& o, DType average, double least);

}  // namespace detail

/// Largest distance, relative to a constant weight, at which an average of gain c stalls: half an
/// ulp over c. The ulp is that of S, with Accumulate::kahan that of a sum of two S, and with
/// Accumulate::stochastic that of float, in which the sums are formed. (Below 6e-5 halves are
/// subnormal, and the distance is larger.)
template <StateScalar S>
[[nodiscard]] double dead_zone(double gain, Accumulate accumulate = Accumulate::plain) {
  return detail::dead_zone(detail::dtype_of<S>(), gain, accumulate);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/accumulation.ipp>
#endif
