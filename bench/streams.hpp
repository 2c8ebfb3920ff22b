// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cases.hpp"

namespace polyak_bench {

/// The bfloat16 nearest to a finite float.
inline std::uint16_t bfloat16_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// Several arrays with the layout of a case, of floats or of the bits of bfloat16, in one
/// allocation like the library's own: tensors on boundaries of 32 elements, streams staggered by an
/// odd number of cache lines of more than a page (less makes streams of a power of two meet in the
/// same DRAM banks), huge pages asked for.
template <typename T>
class StreamsOf {
 public:
  StreamsOf(const Case& tensors, std::size_t streams) {
    constexpr std::size_t granule = 32;
    constexpr std::size_t line = 64 / sizeof(T);
    constexpr std::size_t page = 4096 / sizeof(T);
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    std::size_t elements = 0;
    for (const Tensor& tensor : tensors.tensors) {
      offsets_.push_back(elements);
      elements += (tensor.size() + granule - 1) / granule * granule;
    }
    used_ = elements;
    stride_ = (elements + page - 1) / page * page + 87 * line;
    const std::size_t bytes =
        (streams * stride_ * sizeof(T) + huge_page - 1) / huge_page * huge_page;
    memory_.reset(static_cast<T*>(std::aligned_alloc(huge_page, bytes)));
    if (!memory_) throw std::bad_alloc();
#ifdef __linux__
    madvise(memory_.get(), bytes, MADV_HUGEPAGE);  // a wish: without it pages are small
#endif
  }

  [[nodiscard]] T* base(std::size_t stream) { return memory_.get() + stream * stride_; }
  [[nodiscard]] T* data(std::size_t stream, std::size_t tensor) {
    return base(stream) + offsets_[tensor];
  }

  /// Where a tensor begins and ends, with its padding, in each stream; and where all end.
  [[nodiscard]] std::size_t begin(std::size_t tensor) const { return offsets_[tensor]; }
  [[nodiscard]] std::size_t end(std::size_t tensor) const {
    return tensor + 1 < offsets_.size() ? offsets_[tensor + 1] : used_;
  }
  [[nodiscard]] std::size_t used() const { return used_; }

  /// Repeatable values whose magnitude lies in [scale, 2 scale), of both signs; the padding too.
  /// This is also the first touch of the memory.
  void fill(std::size_t stream, float scale) {
    T* const begin = memory_.get() + stream * stride_;
    for (std::size_t i = 0; i < used_; ++i) {
      const std::uint32_t bits = (static_cast<std::uint32_t>(i) + 1) * 2654435761U;
      const float magnitude = 1.0F + static_cast<float>(bits >> 9) * 0x1p-23F;
      const float value = (bits & 1U) != 0 ? scale * magnitude : -scale * magnitude;
      if constexpr (sizeof(T) == 2) {
        begin[i] = bfloat16_bits(value);
      } else {
        begin[i] = value;
      }
    }
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::vector<std::size_t> offsets_;
  std::size_t used_ = 0;
  std::size_t stride_ = 0;
  std::unique_ptr<T[], Free> memory_;
};
using Streams = StreamsOf<float>;

}  // namespace polyak_bench
