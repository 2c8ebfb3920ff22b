// SPDX-License-Identifier: Apache-2.0
/// @file
/// Copies between a device and the host: weights, averages and the whole state of methods.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/option_text.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/cuda/executor.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

/// Refuses lists of different tensors, in whichever memory they are.
inline void require_same_tensors(const Layout& from, const Layout& to, std::string_view what) {
  if (from.tensors == to.tensors) return;
  const std::string list = polyak::detail::differences(from, to);
  if (!list.empty()) {
    polyak::detail::refuse_value(std::string("polyak: ").append(what).append(" differ: ") + list);
  }
}

/// Lists the options of a method as text.
class OptionList final : public StateVisitor {
 public:
  using Texts = polyak::detail::OptionTexts;
  explicit OptionList(Texts& all) : StateVisitor(true), all_(all) {}
  void counters(std::string_view, std::span<const std::int64_t>) override {}
  void buffers(const Layout&, const std::byte*) override {}
  void slots(const ConstSlots& slots) override {
    all_.push_back({"state", std::string(polyak::detail::name_of(slots.dtype()))});
  }

 private:
  void add_option(polyak::detail::OptionText&& option) override {
    all_.push_back(std::move(option));
  }
  void add_scalar(std::string_view, const void*, const StateScalarType&) override {}
  Texts& all_;
};
template <class M>
[[nodiscard]] OptionList::Texts options_of(const M& method) {
  OptionList::Texts all;
  OptionList list(all);
  polyak::detail::visit_state(method, list);
  return all;
}

}  // namespace detail

/// Copies weights and buffers from a list to another list of the same tensors. At least one list is
/// on a device. Returns when the copy is done. Throws std::invalid_argument that lists the
/// differences, std::logic_error while an average is swapped into either.
template <class From, class To>
void copy_weights(const polyak::Parameters<From>& from, const polyak::Parameters<To>& to) {
  static_assert(std::same_as<element_t<From>, element_t<To>>);
  detail::require_same_tensors(*from.layout(), *to.layout(), "the lists");
  if (from.swapped() || to.swapped()) {
    polyak::detail::refuse_order("polyak: copy_weights() while an average is swapped in");
  }
  std::vector<std::byte> host;
  for (std::size_t k = 0; k < from.size(); ++k) {
    host.resize(from[k].bytes());
    polyak::detail::read_bytes(from.layout()->space.get(), host.data(), from[k].raw(), host.size());
    polyak::detail::write_bytes(to.layout()->space.get(), to[k].raw(), host.data(), host.size());
  }
}

/// Copies the whole state of a method (slots, counters and clocks) into a method of the same type
/// and options for a list on the host or a device: `copy_state(on_device, on_host)` and back. Both
/// then continue with the same bits. Throws std::invalid_argument, with nothing changed, if tensors
/// or options differ; std::logic_error while an average is swapped in.
template <class From, class To>
void copy_state(const From& from, To& to) {
  static_assert(From::type_name == To::type_name,
                "polyak: copy_state is for two methods of the same kind");
  detail::require_same_tensors(*from.slots().layout(), *to.slots().layout(),
                               "the tensors of the methods");
  const auto ours = detail::options_of(from), theirs = detail::options_of(to);
  std::string differing;
  for (std::size_t k = 0; k < ours.size() && k < theirs.size(); ++k) {
    if (ours[k] != theirs[k]) {
      differing += (differing.empty() ? "" : ", ") + ours[k].name + " (" + ours[k].text + " and " +
                   theirs[k].text + ")";
    }
  }
  require(differing.empty() && ours.size() == theirs.size(),
          "copy_state: the options of the methods must be equal; differing",
          std::string_view(differing));
  restore_state(to, state_bytes(from));
}

}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
