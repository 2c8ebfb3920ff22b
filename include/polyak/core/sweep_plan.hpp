// SPDX-License-Identifier: Apache-2.0
/// @file
/// SweepPlan: which loops run on which tensors in a step, on the host or a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The loops of a step: one for each method, and loops that several methods share.
template <class SomeLoop>
struct SweepPlan {
  using Mask = std::uint64_t;  ///< a bit for each method
  static constexpr std::size_t most_methods = 64;
  struct Single {
    const std::size_t* offsets;  ///< of the tensors in the slots; Slots::absent if not kept
    bool takes_part;             ///< in this step
    bool needs_gradient;
    SomeLoop loop;
  };
  struct Shared {
    Mask methods;
    bool usable;  ///< all of its methods are in their usual variant
    SomeLoop loop;
  };
  const Single* singles;
  std::size_t single_count;
  const Shared* shared;
  std::size_t shared_count;

  /// The methods that run on a tensor.
  [[nodiscard]] Mask methods_of(std::size_t tensor, bool has_gradient) const {
    Mask mask = 0;
    for (std::size_t i = 0; i < single_count; ++i) {
      const Single& one = singles[i];
      const bool runs = one.takes_part && one.offsets[tensor] != Slots<float>::absent &&
                        (!one.needs_gradient || has_gradient);
      mask |= Mask{runs} << i;
    }
    return mask;
  }
  [[nodiscard]] const SomeLoop* loop_of_all(Mask methods) const {
    for (std::size_t i = 0; i < shared_count; ++i) {
      if (shared[i].usable && shared[i].methods == methods) return &shared[i].loop;
    }
    return nullptr;
  }
};

template <class>
inline constexpr bool always_false = false;

/// The loops over the elements of lists of P: core/sweep.hpp has the loops for the host's memory,
/// which step.hpp includes for the host's compiler; a device specialises this for its own.
template <class P>
struct Sweep {
  static_assert(
      always_false<P>,
      "polyak: lists in the host's memory are for files of the host's compiler, lists on a "
      "device for files that nvcc compiles and that include <polyak/cuda.hpp>");
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
