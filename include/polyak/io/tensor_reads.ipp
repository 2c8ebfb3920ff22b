// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/tensor_reads.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/shared_work.hpp>
#include <polyak/io/tensor_reads.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE_ON_USE void verify_tensors(std::vector<FoundTensor> tensors) {
  const auto size = [](const FoundTensor& one) { return one.tensor->end - one.tensor->begin; };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const auto& a, const auto& b) { return size(a) > size(b); });
  std::uint64_t bytes = 0;
  for (const FoundTensor& one : tensors) bytes += size(one);
  share_work(tensors.size(), bytes,
             [&](std::size_t k) { tensors[k].file->verify(*tensors[k].tensor); });
}

POLYAK_DEFINE_ON_USE bool same_bytes(const FoundTensor& a, const FoundTensor& b) {
  const std::uint64_t size = a.tensor->end - a.tensor->begin;
  std::vector<std::byte> pieces[2];
  for (auto& piece : pieces) {
    piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(size, read_at_once)));
  }
  for (std::uint64_t done = 0; done < size; done += read_at_once) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, read_at_once));
    a.file->read(*a.tensor, done, std::span(pieces[0]).first(count));
    b.file->read(*b.tensor, done, std::span(pieces[1]).first(count));
    if (std::memcmp(pieces[0].data(), pieces[1].data(), count) != 0) return false;
  }
  return true;
}

POLYAK_DEFINE_ON_USE void TensorReads::run() const {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  // The file was read a moment ago, so a failure is rare, and may pass.
  const auto read = [&](std::size_t k) {
    for (int left = 2;; --left) {
      try {
        return reads_[k]();
      } catch (const io_error&) {
        if (left == 0) throw;
      }
    }
  };
  try {
    share_work(reads_.size(), bytes_, read);
  } catch (const io_error& error) {
    refuse_io(error.file(), {}, {},
              "the file has been checked, but cannot be read any more: some tensors are loaded, "
              "others are not; load them all again (" +
                  std::string(error.what()) + ")");
  }
#else
  share_work(reads_.size(), bytes_, [&](std::size_t k) { reads_[k](); });
#endif
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
