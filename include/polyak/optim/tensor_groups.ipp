// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of optim/tensor_groups.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/tensors/selection_checks.hpp>
#include <polyak/optim/tensor_groups.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE_ON_USE TensorGroups::TensorGroups(const Layout& layout, DType parameters,
                                                const Selection& selection, std::string_view owner)
    : selection_(selection), group_of_(layout.tensors.size(), 0) {
  for (const TensorInfo& tensor : layout.tensors) {
    owned_.push_back(may_keep(tensor, parameters, Kept::trained) && selection(tensor));
  }
  if (!selection.is_everything()) require_some(owned_, selection, layout, owner);
}

POLYAK_DEFINE_ON_USE TensorGroups TensorGroups::with(const Layout& layout,
                                                     const Selection& selection,
                                                     const GroupOptions& group,
                                                     std::string_view owner) const {
  validate(group);
  std::vector<bool> taken = selected(selection, layout);
  for (std::size_t k = 0; k < taken.size(); ++k) taken[k] = taken[k] && owned_[k];
  require_some(taken, selection, layout, owner);
  TensorGroups changed = *this;
  const auto place = std::find(groups_.begin(), groups_.end(), group) - groups_.begin();
  if (place == std::ssize(groups_)) changed.groups_.push_back(group);
  changed.assignments_.push_back({selection, static_cast<std::uint32_t>(place)});
  changed.assign(layout, changed.assignments_.back());
  return changed;
}

POLYAK_DEFINE_ON_USE TensorGroups TensorGroups::of_list(const Layout& layout, DType parameters,
                                                        std::string_view owner) const {
  TensorGroups changed(layout, parameters, selection_, owner);
  changed.groups_ = groups_;
  changed.assignments_ = assignments_;
  for (const Assignment& one : assignments_) changed.assign(layout, one);
  return changed;
}

POLYAK_DEFINE_ON_USE void TensorGroups::assign(const Layout& layout, const Assignment& one) {
  for (std::size_t k = 0; k < owned_.size(); ++k) {
    if (owned_[k] && one.selection(layout.tensors[k])) group_of_[k] = one.group;
  }
}

POLYAK_DEFINE_ON_USE void TensorGroups::list(const Layout& layout, OptionVisitor& visit) const {
  for (std::size_t k = 0; k < owned_.size(); ++k) {
    const TensorInfo& tensor = layout.tensors[k];
    if (!selection_.is_everything() && is_trained(tensor.role)) {
      visit.option("selected", tensor.name, static_cast<bool>(owned_[k]));
    }
    if (of(k) != GroupOptions{}) visit.options(of(k), tensor.name);
  }
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
