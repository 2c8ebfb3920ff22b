// SPDX-License-Identifier: Apache-2.0
/// @file
/// ListChange: a method's way from its list of parameters to one with more or fewer tensors. All
/// methods grow and shrink by it; state follows the names of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

class ListChange {
 public:
  /// To a list that has all tensors of the list of `slots`, or, if it shrinks, no others. Throws
  /// std::invalid_argument, with the differences, for any other list and for tensors that are not
  /// the same; std::logic_error while an average is swapped in.
  [[nodiscard]] static ListChange growth(const ParameterList& now, const SlotMemory& slots);
  [[nodiscard]] static ListChange shrinking(const ParameterList& now, const SlotMemory& slots);

  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const { return layout_; }
  [[nodiscard]] std::size_t size() const { return places_.size(); }
  /// Whether a tensor was in the previous list, and its place there.
  [[nodiscard]] bool was_there(std::size_t tensor) const { return places_[tensor] != none; }
  [[nodiscard]] std::size_t previous(std::size_t tensor) const { return places_[tensor]; }

  /// Copies the state of the tensors that both keep.
  void carry(const SlotMemory& from, const SlotMemory& to) const;
  /// Counters of the tensors; those of new tensors are 0.
  [[nodiscard]] std::vector<std::int64_t> carried(const std::vector<std::int64_t>& counters) const;

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  ListChange(const ParameterList& now, const SlotMemory& slots, bool grows);

  std::shared_ptr<const Layout> layout_;
  std::vector<std::size_t> places_;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/list_change.ipp>
#endif
