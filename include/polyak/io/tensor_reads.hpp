// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tensors that are read from open files by a few threads: checked, compared, or copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

class SafetensorsFile;
struct SafetensorsTensor;

namespace detail {

/// Bytes that are read, and digested or compared, while they are in the cache.
inline constexpr std::size_t read_at_once = std::size_t{1} << 18;

/// A tensor in an open file.
struct FoundTensor {
  const SafetensorsFile* file;
  const SafetensorsTensor* tensor;
};

/// Compares tensors with their digests, shared by a few threads, the largest first.
POLYAK_ON_USE void verify_tensors(std::vector<FoundTensor> tensors);
/// Whether two tensors of the same size have the same bytes.
POLYAK_ON_USE [[nodiscard]] bool same_bytes(const FoundTensor& a, const FoundTensor& b);

/// Tensors that are read from files, by a few threads.
class TensorReads {
 public:
  /// Adds a piece of `bytes` bytes.
  void add(std::uint64_t bytes, std::function<void()> read) {
    bytes_ += bytes;
    reads_.push_back(std::move(read));
  }
  /// Adds reads of `count` elements of `element_bytes`: read(first, count), in pieces.
  template <class Read>
  void add_pieces(std::uint64_t count, std::uint64_t element_bytes, const Read& read) {
    const std::uint64_t most = (std::uint64_t{4} << 20) / element_bytes;
    for (std::uint64_t first = 0; first < count; first += most) {
      const std::uint64_t part = count - first < most ? count - first : most;
      add(part * element_bytes, [=] { read(first, part); });
    }
  }
  /// A read that fails is tried again. Throws io_error that says that others may be done.
  POLYAK_ON_USE void run() const;

 private:
  std::vector<std::function<void()>> reads_;
  std::uint64_t bytes_ = 0;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/tensor_reads.ipp>
#endif
