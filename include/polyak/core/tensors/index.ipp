// SPDX-License-Identifier: Apache-2.0
// The functions of index.hpp.
#pragma once

#include <polyak/core/tensors/index.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE void NameIndex::make_room() {
  if (2 * (used_ + 1) <= cells_.size()) return;
  NameIndex larger;
  larger.cells_.resize(cells_.empty() ? 16 : 2 * cells_.size());
  for (const Cell& cell : cells_) {
    if (cell.number != none) larger.put(cell);
  }
  *this = static_cast<NameIndex&&>(larger);
}
POLYAK_DEFINE void NameIndex::add(std::string_view name, std::size_t number) {
  make_room();
  put({hash_of(name), number});
}
POLYAK_DEFINE void NameIndex::put(const Cell& cell) {
  std::size_t at = cell.hash & mask();
  while (cells_[at].number != none) at = (at + 1) & mask();
  cells_[at] = cell;
  ++used_;
}

POLYAK_DEFINE std::size_t MemoryIndex::first_overlap(const void* data, std::size_t bytes) const {
  if (bytes == 0) return none;
  const std::uintptr_t begin = address(data), end = begin + bytes;
  // Of the tensors that begin before `end`, the last one also ends last.
  std::size_t last = none;
  for (std::size_t at = root_; at != none;) {
    if (nodes_[at].begin < end) {
      last = at;
      at = nodes_[at].right;
    } else {
      at = nodes_[at].left;
    }
  }
  if (last == none || nodes_[last].end <= begin) return none;
  if (nodes_[last].begin <= begin) return last;  // the only one
  std::size_t first = 0;
  while (nodes_[first].begin >= end || nodes_[first].end <= begin) ++first;
  return first;
}

POLYAK_DEFINE void MemoryIndex::make_room() { detail::make_room(nodes_); }

POLYAK_DEFINE void MemoryIndex::add(const void* data, std::size_t bytes) {
  const std::size_t added = nodes_.size();
  const std::uintptr_t begin = address(data);
  nodes_.push_back(bytes == 0 ? Node{} : Node{begin, begin + bytes, none, none});
  if (bytes == 0) return;
  std::size_t* link = &root_;
  while (*link != none && priority(*link) > priority(added)) link = &side(*link, begin);
  // Split the subtree in whose place the node comes into the nodes before it and behind it.
  std::size_t rest = *link;
  std::size_t* before = &nodes_[added].left;
  std::size_t* behind = &nodes_[added].right;
  *link = added;
  while (rest != none) {
    const bool is_before = nodes_[rest].begin < begin;
    std::size_t*& end = is_before ? before : behind;
    *end = rest;
    end = is_before ? &nodes_[rest].right : &nodes_[rest].left;
    rest = *end;
  }
  *before = *behind = none;
}

POLYAK_DEFINE void MemoryIndex::list(std::vector<std::uintptr_t>& begins,
                                     std::vector<std::uintptr_t>& ends) const {
  list_subtree(root_, begins, ends);
}
// The recursion is as deep as the tree: about 3 log2(n).
POLYAK_DEFINE void MemoryIndex::list_subtree(std::size_t node, std::vector<std::uintptr_t>& begins,
                                             std::vector<std::uintptr_t>& ends) const {
  if (node == none) return;
  list_subtree(nodes_[node].left, begins, ends);
  begins.push_back(nodes_[node].begin);
  ends.push_back(nodes_[node].end);
  list_subtree(nodes_[node].right, begins, ends);
}

POLYAK_DEFINE void FreeMemory::find(const MemoryIndex& taken) {
  begins_.clear();
  ends_.clear();
  bits_ = 0;
  begins_.reserve(taken.size() + 1);
  ends_.reserve(taken.size() + 1);
  ends_.push_back(0);
  taken.list(begins_, ends_);
  while (begins_.size() >> bits_ != 0) ++bits_;
  while (begins_.size() >> bits_ == 0)
    begins_.push_back(std::numeric_limits<std::uintptr_t>::max());
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
