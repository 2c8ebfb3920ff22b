// SPDX-License-Identifier: Apache-2.0
/// @file
/// A weighting of a program's own, whose state has a number.
#pragma once

#include <cstdint>

#include <polyak/core/state.hpp>

/// The mean of the models since the number was last set to 0.
struct Restarted {
  std::int64_t averaged = 0;
  [[nodiscard]] double gain(std::int64_t) const { return 1 / static_cast<double>(averaged + 1); }
  [[nodiscard]] double complement(std::int64_t) const {
    return static_cast<double>(averaged) / static_cast<double>(averaged + 1);
  }
  void advance(std::int64_t) { ++averaged; }
  template <class Self>
  static void list_state(Self& self, polyak::StateVisitorOf<Self>& visit) {
    visit.scalar("averaged", self.averaged);
  }
};
