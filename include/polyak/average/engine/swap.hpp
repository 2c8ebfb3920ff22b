// SPDX-License-Identifier: Apache-2.0
/// @file
/// The guard under which a model holds its average.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/tensors/block.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameter_list.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Allows reading an average before its first update: it is then the current weights.
struct OrCurrent {};
inline constexpr OrCurrent or_current{};

/// While the guard lives, the model's memory holds an average. When it ends, also by an exception,
/// it restores the weights bit for bit. Meanwhile step, update and a second guard on the same
/// memory, through this parameter list or another one, throw std::logic_error. The method may move
/// or die before the guard.
class [[nodiscard]] SwapGuard {
 public:
  /// A tensor of the model, and the place of the bits that it is exchanged with.
  struct Piece {
    std::size_t tensor;
    void* other;
    std::size_t bytes;
  };

  /// Marks the list as swapped and exchanges the memory of each piece: the model's, with the
  /// average's in `block` or a copied buffer's in `buffers`. Throws std::logic_error if something
  /// is swapped in already.
  POLYAK_ON_USE static SwapGuard exchange(const detail::ParameterList& params,
                                          std::shared_ptr<detail::Block> block,
                                          std::shared_ptr<detail::Block> buffers,
                                          std::vector<Piece> pieces);

  /// Marks the list as swapped and saves the bits of the model's memory (this sets `Piece::other`).
  /// The caller then overwrites that memory.
  POLYAK_ON_USE static SwapGuard keep(const detail::ParameterList& params,
                                      std::vector<Piece> pieces);

  SwapGuard(SwapGuard&& other) noexcept;
  SwapGuard& operator=(SwapGuard&& other) noexcept;
  ~SwapGuard();

  /// Restores the model's weights now, where its memory is now. A tensor whose object has got
  /// another shape meanwhile is left alone; its average is then lost too, so the method stays
  /// swapped out and rejects every call. Memory that objects share (detail::SharedObject) is kept
  /// while the guard lives: the average returns from where it was put, wherever the object is.
  POLYAK_ON_USE void restore() noexcept;

 private:
  POLYAK_ON_USE SwapGuard(const detail::ParameterList& params, std::vector<Piece> pieces);
  POLYAK_ON_USE void exchange_bytes(void* model, const Piece& piece) const noexcept;

  /// The memory of a piece when it was exchanged; `memory` is null where the program keeps it.
  struct Place {
    void* data;
    std::shared_ptr<const detail::KeptMemory> memory;
  };

  std::optional<detail::ParameterList> params_;  // while something is swapped in
  std::shared_ptr<detail::Block> block_;
  std::shared_ptr<detail::Block> buffers_;
  std::shared_ptr<detail::Block> kept_;
  std::vector<Piece> pieces_;
  std::vector<Place> places_;  // of each piece
  std::shared_ptr<MemorySpace> space_;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/swap.ipp>
#endif
