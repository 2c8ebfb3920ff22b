// SPDX-License-Identifier: Apache-2.0
/// @file
/// Normalisation: how weights of snapshots are made to sum to 1.
#pragma once

#include <cstdint>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// How the weights of the snapshots are made to sum to 1.
enum class Normalisation : std::uint8_t {
  by_sum,       ///< divided by their sum, as the authors do
  constrained,  ///< the best weights with the sum 1
  none,         ///< not at all
};

}  // namespace POLYAK_V0
}  // namespace polyak
