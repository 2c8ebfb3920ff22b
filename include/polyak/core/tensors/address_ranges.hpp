// SPDX-License-Identifier: Apache-2.0
/// @file
/// AddressRanges: some ranges of memory, in a fixed amount of memory, to look for overlaps.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <polyak/core/switches.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// At most `Most` ranges, which may overlap each other. Allocates nothing.
template <std::size_t Most>
class AddressRanges {
 public:
  [[nodiscard]] bool full() const { return count_ == Most; }
  /// A range of 0 bytes is left out.
  void add(const void* data, std::size_t bytes) {
    if (bytes == 0) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    ranges_[count_++] = {begin, begin + bytes};
  }
  /// To be called after the last add(), before overlap().
  void order() {
    std::sort(ranges_.begin(), end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t k = 1; k < count_; ++k) {
      ranges_[k].last_end = std::max(ranges_[k].last_end, ranges_[k - 1].last_end);
    }
  }
  /// Whether this memory, of 1 byte or more, overlaps one of the ranges.
  [[nodiscard]] bool overlap(const void* data, std::size_t bytes) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    const auto next = std::partition_point(
        ranges_.begin(), end(), [&](const Range& one) { return one.begin < begin + bytes; });
    return next != ranges_.begin() && (next - 1)->last_end > begin;
  }

 private:
  struct Range {
    std::uintptr_t begin, last_end;  ///< once ordered, the end of this range or of one before it
  };
  [[nodiscard]] auto end() { return ranges_.begin() + static_cast<std::ptrdiff_t>(count_); }
  [[nodiscard]] auto end() const { return ranges_.begin() + static_cast<std::ptrdiff_t>(count_); }

  std::array<Range, Most> ranges_;
  std::size_t count_ = 0;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
