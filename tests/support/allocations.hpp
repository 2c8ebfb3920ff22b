// SPDX-License-Identifier: Apache-2.0
/// @file
/// Counts this program's allocations through operator new.
#pragma once

#include <cstddef>

namespace allocations {

struct Counts {
  std::size_t number = 0;
  std::size_t bytes = 0;
  std::size_t aligned_bytes = 0;  ///< requested with an alignment
};

/// All allocations so far, by any thread.
[[nodiscard]] Counts so_far();

/// The allocations since this object was constructed.
class Counter {
 public:
  [[nodiscard]] Counts counts() const {
    const Counts now = so_far();
    return {now.number - start_.number, now.bytes - start_.bytes,
            now.aligned_bytes - start_.aligned_bytes};
  }

 private:
  Counts start_ = so_far();
};

}  // namespace allocations
