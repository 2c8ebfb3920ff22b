// SPDX-License-Identifier: Apache-2.0
/// @file
/// Counts what this program allocates through operator new.
#pragma once

#include <cstddef>

namespace allocations {

struct Counts {
  std::size_t number = 0;
  std::size_t bytes = 0;
  std::size_t aligned_bytes = 0;  ///< those asked for with an alignment
};

/// All so far, by any thread.
[[nodiscard]] Counts so_far();

/// Those since this object was made.
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
