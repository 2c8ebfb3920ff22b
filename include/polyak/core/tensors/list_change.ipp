// SPDX-License-Identifier: Apache-2.0
// The functions of list_change.hpp.
#pragma once

#include <polyak/core/tensors/list_change.hpp>

#include <string>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/memory_space.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The tensors of a list whose names another list has too.
[[nodiscard]] inline Layout in_both(const Layout& list, const Layout& other) {
  Layout common;
  for (const TensorInfo& tensor : list.tensors) {
    if (other.find(tensor.name) != other.tensors.size()) common.add(tensor);
  }
  return common;
}

POLYAK_DEFINE ListChange::ListChange(const ParameterList& now, const SlotMemory& slots, bool grows)
    : layout_(now.layout()) {
  const Layout& before = *slots.layout();
  const std::string verb = grows ? "grow()" : "shrink()";
  if (slots.lent() || now.swapped()) {
    refuse_order("polyak: " + verb + " while an average is swapped in");
  }
  if (slots.space() != nullptr) slots.space()->require_settled(slots.block().get());
  const std::string list = grows ? differences(in_both(*layout_, before), before)
                                 : differences(*layout_, in_both(before, *layout_));
  if (!list.empty() || layout_->space != before.space) {
    refuse_value("polyak: " + verb + ": the parameters differ from the previous ones: " +
                 (list.empty() ? "they are in other memory" : list));
  }
  places_.reserve(layout_->tensors.size());
  for (const TensorInfo& tensor : layout_->tensors) {
    const std::size_t place = before.find(tensor.name);
    places_.push_back(place == before.tensors.size() ? none : place);
  }
}

POLYAK_DEFINE ListChange ListChange::growth(const ParameterList& now, const SlotMemory& slots) {
  return {now, slots, true};
}
POLYAK_DEFINE ListChange ListChange::shrinking(const ParameterList& now, const SlotMemory& slots) {
  return {now, slots, false};
}

POLYAK_DEFINE void ListChange::carry(const SlotMemory& from, const SlotMemory& to) const {
  for (std::size_t k = 0; k < size(); ++k) {
    if (was_there(k) && to.keeps(k) && from.keeps(previous(k))) {
      to.copy_tensor(k, from, previous(k));
    }
  }
}

POLYAK_DEFINE std::vector<std::int64_t> ListChange::carried(
    const std::vector<std::int64_t>& counters) const {
  std::vector<std::int64_t> all(size(), 0);
  for (std::size_t k = 0; k < size(); ++k) {
    if (was_there(k)) all[k] = counters[previous(k)];
  }
  return all;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
