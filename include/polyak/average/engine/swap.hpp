// SPDX-License-Identifier: Apache-2.0
/// @file
/// The guard under which a model holds its average.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

/// Says that an average without updates may be handed out as the current weights.
struct OrCurrent {};
inline constexpr OrCurrent or_current{};

/// While it lives, the model's memory holds an average; its end, also by an exception, restores the
/// weights bit for bit. Meanwhile step, update and a second guard on the same parameter list throw
/// std::logic_error. It refers to memory only, so the method may move or die before it.
class [[nodiscard]] SwapGuard {
 public:
  /// Memory of the model, and where the other bits are.
  struct Piece {
    void* model;
    void* other;
    std::size_t bytes;
  };

  /// Marks the list as swapped and exchanges the contents of the pieces with those of the blocks
  /// they lie in: the average's, and that of its copied buffers. Throws std::logic_error where
  /// something is swapped in already.
  template <ParameterScalar P>
  static SwapGuard exchange(const Parameters<P>& params, std::shared_ptr<detail::Block> block,
                            std::shared_ptr<detail::Block> buffers, std::vector<Piece> pieces) {
    SwapGuard guard(ParameterAccess<P>::mark(params), std::move(pieces));
    guard.block_ = std::move(block);
    guard.buffers_ = std::move(buffers);
    guard.block_->lent = true;
    guard.space_ = params.layout()->space;
    for (const Piece& piece : guard.pieces_) guard.exchange_bytes(piece);
    return guard;
  }

  /// Marks the list as swapped and keeps the bits of the model's memory (`Piece::other` is set
  /// here). The caller then overwrites that memory.
  template <ParameterScalar P>
  static SwapGuard keep(const Parameters<P>& params, std::vector<Piece> pieces) {
    std::size_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    auto kept = std::make_unique<detail::Block>(bytes, params.layout()->space);
    SwapGuard guard(ParameterAccess<P>::mark(params), std::move(pieces));
    guard.kept_ = std::move(kept);
    guard.space_ = params.layout()->space;
    std::byte* place = guard.kept_->data();
    for (Piece& piece : guard.pieces_) {
      piece.other = place;
      detail::copy_bytes(guard.space_.get(), piece.other, piece.model, piece.bytes);
      if (piece.bytes != 0) place += piece.bytes;
    }
    return guard;
  }

  SwapGuard(SwapGuard&& other) noexcept = default;
  SwapGuard& operator=(SwapGuard&& other) noexcept {
    if (this != &other) {
      restore();
      mark_ = std::move(other.mark_);
      block_ = std::move(other.block_);
      buffers_ = std::move(other.buffers_);
      kept_ = std::move(other.kept_);
      pieces_ = std::move(other.pieces_);
      space_ = std::move(other.space_);
    }
    return *this;
  }
  ~SwapGuard() { restore(); }

  /// Gives the model its weights back now.
  void restore() noexcept {
    if (mark_ == nullptr) return;
    for (const Piece& piece : pieces_) {
      if (block_ != nullptr) {
        exchange_bytes(piece);
      } else {
        detail::copy_bytes(space_.get(), piece.model, piece.other, piece.bytes);
      }
    }
    if (block_ != nullptr) block_->lent = false;
    mark_->store(false);
    mark_ = nullptr;
    block_ = nullptr;
    buffers_ = nullptr;
    kept_ = nullptr;
  }

 private:
  SwapGuard(std::shared_ptr<std::atomic<bool>> mark, std::vector<Piece> pieces)
      : pieces_(std::move(pieces)) {
    if (mark->exchange(true)) {
      detail::refuse_order("polyak: an average is swapped in already; end its guard first");
    }
    mark_ = std::move(mark);
  }

  void exchange_bytes(const Piece& piece) const noexcept {
    if (space_ != nullptr) {
      if (piece.bytes != 0) space_->exchange(piece.model, piece.other, piece.bytes);
      return;
    }
    auto* a = static_cast<std::byte*>(piece.model);
    auto* b = static_cast<std::byte*>(piece.other);
    std::byte buffer[4096];
    for (std::size_t done = 0; done < piece.bytes; done += sizeof buffer) {
      const std::size_t part = std::min(sizeof buffer, piece.bytes - done);
      std::memcpy(buffer, a + done, part);
      std::memcpy(a + done, b + done, part);
      std::memcpy(b + done, buffer, part);
    }
  }

  std::shared_ptr<std::atomic<bool>> mark_;
  std::shared_ptr<detail::Block> block_;
  std::shared_ptr<detail::Block> buffers_;
  std::unique_ptr<detail::Block> kept_;
  std::vector<Piece> pieces_;
  std::shared_ptr<MemorySpace> space_;
};

}  // namespace v0
}  // namespace polyak
