// SPDX-License-Identifier: Apache-2.0
// Definitions of pass_memory.hpp.
#pragma once

#include <cstring>
#include <utility>

#include <polyak/average/engine/pass_memory.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameter_list.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE_ON_USE void PassMemory::reserve(std::vector<PassPiece>& pieces) {
  for (std::size_t k = 0; k < pieces.size(); ++k) {
    const auto require_apart = [&](const PassPiece& other) {
      if (overlap(pieces[k].place, pieces[k].bytes, other.place, other.bytes)) {
        refuse_value("polyak: memory of \"" + pieces[k].name + "\" overlaps memory of \"" +
                     other.name + "\" in a BatchNormEstimator");
      }
    };
    for (const PassPiece& other : pieces_) require_apart(other);
    for (std::size_t i = 0; i < k; ++i) require_apart(pieces[i]);
    pieces[k].saved.resize(pieces[k].bytes);
  }
  pieces_.reserve(pieces_.size() + pieces.size());
}

POLYAK_DEFINE_ON_USE void PassMemory::append(std::vector<PassPiece>& pieces) noexcept {
  for (PassPiece& piece : pieces) pieces_.push_back(std::move(piece));
}

POLYAK_DEFINE_ON_USE void PassMemory::begin_pass() noexcept {
  for (PassPiece& piece : pieces_) {
    std::memcpy(piece.saved.data(), piece.place, piece.bytes);
    if (!piece.during.empty()) std::memcpy(piece.place, piece.during.data(), piece.bytes);
  }
}

POLYAK_DEFINE_ON_USE void PassMemory::end_pass(bool succeeded) noexcept {
  for (const PassPiece& piece : pieces_) {
    if (succeeded && piece.during.empty()) continue;
    std::memcpy(piece.place, piece.saved.data(), piece.bytes);
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
