// SPDX-License-Identifier: Apache-2.0
/// @file
/// Accumulation: how the numbers of an average are stored, and when an average stalls.
#pragma once

#include <cstdint>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/selection.hpp>

namespace polyak {
inline namespace v0 {

/// How an average is kept.
struct Accumulation {
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic; another one for another average
  Selection tensors = {};  ///< that are averaged; buffers (Role::copy) are copied all the same
};

namespace detail {

/// Returns the accumulation, or refuses it under -ffast-math. Inline, because only the program
/// knows its flags.
[[nodiscard]] inline const Accumulation& checked(const Accumulation& o) {
#if defined(__FAST_MATH__)
  if (o.accumulate == Accumulate::kahan) {
    refuse_value("polyak: accumulate = kahan is removed by -ffast-math");
  }
#endif
  return o;
}

[[nodiscard]] double dead_zone(DType average, double gain, Accumulate accumulate);

/// Refuses a way of storing that the type does not have, and 16-bit averages that would hardly move
/// at the least gain.
void validate(const Accumulation& o, DType average, double least);

}  // namespace detail

/// Largest distance, relative to a weight, at which an average of gain c stays although its input
/// is constant: half an ulp of S over c, of a sum of two S with Accumulate::kahan. Of averages that
/// round at random half an ulp of float, which their sums are formed in. (Halves have subnormals
/// from 6e-5 on, below which the distance is larger.)
template <StateScalar S>
[[nodiscard]] double dead_zone(double gain, Accumulate accumulate = Accumulate::plain) {
  return detail::dead_zone(detail::dtype_of<S>(), gain, accumulate);
}

}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/accumulation.ipp>
#endif
