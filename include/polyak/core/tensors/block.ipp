// SPDX-License-Identifier: Apache-2.0
// The functions of block.hpp.
#pragma once

#include <polyak/core/tensors/block.hpp>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE Block::Block(std::size_t bytes, std::shared_ptr<MemorySpace> space)
    : bytes_(bytes),
      allocated_(bytes >= 16 * page && space == nullptr ? bytes + page : bytes),
      alignment_(bytes >= 2 * huge_page ? huge_page : cache_line),
      space_(std::move(space)) {
  if (bytes == 0) return;
  if (space_ != nullptr) {
    raw_ = data_ = space_->allocate(bytes);
    return;
  }
  raw_ = static_cast<std::byte*>(::operator new (allocated_, std::align_val_t{alignment_}));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment_ == huge_page) ::madvise(raw_, allocated_, MADV_HUGEPAGE);
#endif
  std::memset(raw_, 0, allocated_);
  data_ = raw_;
  if (allocated_ > bytes) {
    const auto number = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(raw_) / page);
    data_ += (number * 0x9e3779b97f4a7c15u >> 58) * cache_line;  // one of the page's 64 lines
  }
}

POLYAK_DEFINE Block::Block(const Block& other) : Block(other.bytes_, other.space_) {
  copy_bytes(space_.get(), data_, other.data_, bytes_);
}

POLYAK_DEFINE Block::~Block() {
  if (raw_ == nullptr) return;
  if (space_ != nullptr) {
    space_->release(raw_);
  } else {
    ::operator delete (raw_, std::align_val_t{alignment_});
  }
}

POLYAK_DEFINE std::shared_ptr<Block> make_block(std::size_t bytes,
                                                std::shared_ptr<MemorySpace> space) {
  return std::shared_ptr<Block>(new Block(bytes, std::move(space)));
}
POLYAK_DEFINE std::shared_ptr<Block> copy_of_block(const Block& block) {
  return std::shared_ptr<Block>(new Block(block));
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
