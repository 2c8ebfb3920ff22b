// SPDX-License-Identifier: Apache-2.0
// The functions of swap.hpp.
#pragma once

#include <polyak/average/engine/swap.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

POLYAK_DEFINE_ON_USE SwapGuard SwapGuard::exchange(const detail::ParameterList& params,
                                                   std::shared_ptr<detail::Block> block,
                                                   std::shared_ptr<detail::Block> buffers,
                                                   std::vector<Piece> pieces) {
  SwapGuard guard(params, std::move(pieces));
  guard.block_ = std::move(block);
  guard.buffers_ = std::move(buffers);
  guard.block_->lent = true;
  guard.space_ = params.layout()->space;
  for (const Piece& piece : guard.pieces_) {
    guard.exchange_bytes(params.memory_seen()[piece.tensor].data, piece);
  }
  return guard;
}

POLYAK_DEFINE_ON_USE SwapGuard SwapGuard::keep(const detail::ParameterList& params,
                                               std::vector<Piece> pieces) {
  std::size_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.bytes;
  auto kept = detail::make_block(bytes, params.layout()->space);
  SwapGuard guard(params, std::move(pieces));
  guard.kept_ = std::move(kept);
  guard.space_ = params.layout()->space;
  std::byte* place = guard.kept_->data();
  for (Piece& piece : guard.pieces_) {
    piece.other = place;
    detail::copy_bytes(guard.space_.get(), piece.other, params.memory_seen()[piece.tensor].data,
                       piece.bytes);
    if (piece.bytes != 0) place += piece.bytes;
  }
  return guard;
}

POLYAK_DEFINE SwapGuard::SwapGuard(SwapGuard&& other) noexcept
    : params_(std::exchange(other.params_, std::nullopt)),
      block_(std::move(other.block_)),
      buffers_(std::move(other.buffers_)),
      kept_(std::move(other.kept_)),
      pieces_(std::move(other.pieces_)),
      places_(std::move(other.places_)),
      space_(std::move(other.space_)) {}
POLYAK_DEFINE SwapGuard& SwapGuard::operator=(SwapGuard&& other) noexcept {
  if (this != &other) {
    restore();
    params_ = std::exchange(other.params_, std::nullopt);
    block_ = std::move(other.block_);
    buffers_ = std::move(other.buffers_);
    kept_ = std::move(other.kept_);
    pieces_ = std::move(other.pieces_);
    places_ = std::move(other.places_);
    space_ = std::move(other.space_);
  }
  return *this;
}
POLYAK_DEFINE SwapGuard::~SwapGuard() { restore(); }

POLYAK_DEFINE_ON_USE void SwapGuard::restore() noexcept {
  if (!params_.has_value()) return;
  bool all = true;
  for (std::size_t k = 0; k < pieces_.size(); ++k) {
    const Piece& piece = pieces_[k];
    const Place& place = places_[k];
    void* const model = params_->address(piece.tensor);
    const bool kept = place.memory != nullptr && place.memory->intact();
    if (block_ != nullptr && kept && model != place.data) {
      // The object moved on; the average is still where it was put.
      if (model != nullptr) detail::copy_bytes(space_.get(), model, piece.other, piece.bytes);
      detail::copy_bytes(space_.get(), piece.other, place.data, piece.bytes);
    } else if (model == nullptr && piece.bytes != 0) {
      all = false;
    } else if (block_ != nullptr) {
      exchange_bytes(model, piece);
    } else {
      detail::copy_bytes(space_.get(), model, piece.other, piece.bytes);
    }
  }
  if (block_ != nullptr && all) block_->lent = false;
  detail::SwappedMemory::free(params_->mark().get());
  params_->mark()->store(false);
  params_.reset();
  block_ = nullptr;
  buffers_ = nullptr;
  kept_ = nullptr;
  places_.clear();
}

POLYAK_DEFINE_ON_USE SwapGuard::SwapGuard(const detail::ParameterList& params,
                                          std::vector<Piece> pieces)
    : pieces_(std::move(pieces)) {
  std::vector<bool> taken(params.size(), false);
  for (const Piece& piece : pieces_) taken[piece.tensor] = true;
  auto ranges = params.ranges(taken);
  places_.reserve(pieces_.size());
  for (const Piece& piece : pieces_) {
    places_.push_back({params.memory_seen()[piece.tensor].data, params.keep(piece.tensor)});
  }
  constexpr const char* refusal = "polyak: an average is swapped in already; end its guard first";
  if (params.mark()->exchange(true)) detail::refuse_order(refusal);
  struct Unmark {  // unless all goes well
    std::atomic<bool>* mark;
    ~Unmark() {
      if (mark != nullptr) mark->store(false);
    }
  } unmark{params.mark().get()};
  if (!detail::SwappedMemory::take(params.mark().get(), std::move(ranges))) {
    detail::refuse_order(refusal);
  }
  params_ = params;
  unmark.mark = nullptr;
}

POLYAK_DEFINE_ON_USE void SwapGuard::exchange_bytes(void* model,
                                                    const Piece& piece) const noexcept {
  if (space_ != nullptr) {
    if (piece.bytes != 0) space_->exchange(model, piece.other, piece.bytes);
    return;
  }
  auto* a = static_cast<std::byte*>(model);
  auto* b = static_cast<std::byte*>(piece.other);
  std::byte buffer[4096];
  for (std::size_t done = 0; done < piece.bytes; done += sizeof buffer) {
    const std::size_t part = std::min(sizeof buffer, piece.bytes - done);
    std::memcpy(buffer, a + done, part);
    std::memcpy(a + done, b + done, part);
    std::memcpy(b + done, buffer, part);
  }
}

}  // namespace POLYAK_V0
}  // namespace polyak
