// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tensors of an optimizer: the selected ones, and groups of them with factors of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/selection_checks.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The factors of a group of tensors in an optimizer.
struct GroupOptions {
  double learning_rate_factor = 1;  ///< multiplies the learning rate; finite, >= 0
  double weight_decay_factor = 1;   ///< multiplies every weight decay; finite, >= 0
  bool frozen = false;              ///< no update, no state, no clock

  friend bool operator==(const GroupOptions&, const GroupOptions&) = default;
};

template <class Fields>
void fields(GroupOptions& o, Fields& field) {
  field("learning_rate_factor", o.learning_rate_factor, finite_and_not_negative);
  field("weight_decay_factor", o.weight_decay_factor, finite_and_not_negative);
  field("frozen", o.frozen);
}

namespace detail {

/// The tensors that an optimizer owns, and the group of each. Group 0 has the factors 1.
class TensorGroups {
 public:
  /// All selected tensors, in group 0. Throws std::invalid_argument if none is selected.
  POLYAK_ON_USE TensorGroups(const Layout& layout, DType parameters, const Selection& selection,
                             std::string_view owner);

  /// A copy with a new group: the owned tensors that are selected. Throws std::invalid_argument for
  /// factors out of range, or if no owned tensor is selected.
  POLYAK_ON_USE [[nodiscard]] TensorGroups with(const Layout& layout, const Selection& selection,
                                                const GroupOptions& group,
                                                std::string_view owner) const;

  /// The selection and the groups of another list: as if group() had been called for it. Throws
  /// std::invalid_argument if no tensor is selected.
  POLYAK_ON_USE [[nodiscard]] TensorGroups of_list(const Layout& layout, DType parameters,
                                                   std::string_view owner) const;

  [[nodiscard]] std::size_t number_of(std::size_t tensor) const { return group_of_[tensor]; }
  [[nodiscard]] const std::vector<GroupOptions>& all() const { return groups_; }
  [[nodiscard]] const GroupOptions& of(std::size_t tensor) const {
    return groups_[group_of_[tensor]];
  }
  /// Whether a tensor is trained, and has state.
  [[nodiscard]] bool trains(std::size_t tensor) const {
    return owned_[tensor] && !of(tensor).frozen;
  }

  /// Lists the selection, if there is one, and the factors of each tensor whose factors are not 1.
  POLYAK_ON_USE void list(const Layout& layout, OptionVisitor& visit) const;

 private:
  /// A call of with(): the tensors of a selection have a group from then on.
  struct Assignment {
    Selection selection;
    std::uint32_t group;
  };
  POLYAK_ON_USE void assign(const Layout& layout, const Assignment& one);

  Selection selection_;
  std::vector<Assignment> assignments_;
  std::vector<bool> owned_;
  std::vector<GroupOptions> groups_{GroupOptions{}};
  std::vector<std::uint32_t> group_of_;  // of each tensor
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/optim/tensor_groups.ipp>
#endif
