// SPDX-License-Identifier: Apache-2.0
// The functions of swapped_memory.hpp.
#pragma once

#include <polyak/core/tensors/swapped_memory.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>

namespace polyak {
namespace whole_process {

struct SwappedRanges {
  struct Guard {
    const void* id;
    std::vector<AddressRange> ranges;  // in the order of addresses
  };
  std::atomic_flag locked;
  std::vector<Guard> guards;
  std::atomic<std::size_t> number{0};

  [[nodiscard]] bool overlap(const std::vector<AddressRange>& ranges) const {
    for (const Guard& guard : guards) {
      for (const AddressRange& range : ranges) {
        if (range.begin == range.end) continue;
        // Of the ranges that begin before the end of this one, the last also ends last.
        auto after = std::lower_bound(
            guard.ranges.begin(), guard.ranges.end(), range.end,
            [](const AddressRange& one, std::uintptr_t end) { return one.begin < end; });
        if (after != guard.ranges.begin() && (--after)->end > range.begin) return true;
      }
    }
    return false;
  }
};
POLYAK_DEFINE SwappedRanges& swapped_ranges() {
  static SwappedRanges all;
  return all;
}

/// Locks the ranges while it lives. <mutex> would cost each program more time to compile than the
/// rest of this file.
class SwappedRangesLock {
 public:
  explicit SwappedRangesLock(SwappedRanges& all) : locked_(all.locked) {
    while (locked_.test_and_set(std::memory_order_acquire)) locked_.wait(true);
  }
  SwappedRangesLock(const SwappedRangesLock&) = delete;
  SwappedRangesLock& operator=(const SwappedRangesLock&) = delete;
  ~SwappedRangesLock() {
    locked_.clear(std::memory_order_release);
    locked_.notify_one();
  }

 private:
  std::atomic_flag& locked_;
};

}  // namespace whole_process

inline namespace POLYAK_V0 {
namespace detail {

using whole_process::swapped_ranges;
using whole_process::SwappedRanges;
using whole_process::SwappedRangesLock;

POLYAK_DEFINE bool SwappedMemory::empty() {
  return swapped_ranges().number.load(std::memory_order_acquire) == 0;
}
POLYAK_DEFINE bool SwappedMemory::overlaps(const std::vector<AddressRange>& ranges) {
  SwappedRanges& all = swapped_ranges();
  const SwappedRangesLock lock(all);
  return all.overlap(ranges);
}
POLYAK_DEFINE bool SwappedMemory::take(const void* guard, std::vector<AddressRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const AddressRange& a, const AddressRange& b) { return a.begin < b.begin; });
  SwappedRanges& all = swapped_ranges();
  const SwappedRangesLock lock(all);
  if (all.overlap(ranges)) return false;
  all.guards.push_back({guard, std::move(ranges)});
  all.number.store(all.guards.size(), std::memory_order_release);
  return true;
}
POLYAK_DEFINE void SwappedMemory::free(const void* guard) noexcept {
  SwappedRanges& all = swapped_ranges();
  const SwappedRangesLock lock(all);
  for (auto& one : all.guards) {
    if (one.id != guard) continue;
    std::swap(one, all.guards.back());
    all.guards.pop_back();
    break;
  }
  all.number.store(all.guards.size(), std::memory_order_release);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
