// SPDX-License-Identifier: Apache-2.0
// The functions of average_record.hpp.
#pragma once

#include <polyak/average/engine/average_record.hpp>

#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/selection_checks.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

[[nodiscard]] inline bool is_buffer(const TensorInfo& tensor) { return tensor.role == Role::copy; }
[[nodiscard]] inline std::size_t bytes_of(const TensorInfo& tensor) {
  return tensor.size * bytes_of(tensor.dtype);
}

POLYAK_DEFINE_ON_USE AverageRecord::AverageRecord(std::string_view method,
                                                  const ParameterList& params, DType weights,
                                                  DType average, Nonfinite policy,
                                                  const Accumulation& how, double least_gain,
                                                  const std::vector<std::string>& all)
    : owner(method), names(all), nonfinite(policy), accumulation(how) {
  validate(accumulation, average, least_gain);
  const Layout& layout = *params.layout();
  averaged_ = selected(accumulation.tensors, layout);
  for (std::size_t k = 0; k < averaged_.size(); ++k) {
    averaged_[k] = averaged_[k] && may_keep(layout.tensors[k], weights, Kept::averaged);
  }
  if (!accumulation.tensors.is_everything()) {
    require_some(averaged_, accumulation.tensors, layout, owner);
  }
  if (params.swapped()) {
    refuse_order("polyak: an average constructed while another is swapped in");
  }
  buffers = make_block(buffer_bytes(layout), layout.space);
}
POLYAK_DEFINE AverageRecord::AverageRecord(const AverageRecord& other)
    : owner(other.owner),
      names(other.names),
      nonfinite(other.nonfinite),
      accumulation(other.accumulation),
      calls(other.calls),
      skipped(other.skipped),
      buffers(copy_of_block(*other.buffers)),
      averaged_(other.averaged_) {}
POLYAK_DEFINE AverageRecord::AverageRecord(AverageRecord&&) noexcept = default;
POLYAK_DEFINE AverageRecord& AverageRecord::operator=(const AverageRecord& other) {
  return *this = AverageRecord(other);
}
POLYAK_DEFINE AverageRecord& AverageRecord::operator=(AverageRecord&&) noexcept = default;
POLYAK_DEFINE AverageRecord::~AverageRecord() = default;

POLYAK_DEFINE_ON_USE std::vector<SlotSpec> AverageRecord::slots() const {
  std::vector<SlotSpec> all;
  if (accumulation.accumulate == Accumulate::float64) return all;
  all.reserve(arrays() * names.size());
  for (const std::string& name : names) {
    all.emplace_back(name);
    if (accumulation.accumulate != Accumulate::kahan) continue;
    all.emplace_back(name == "average" ? "compensation" : name + ".compensation");
  }
  return all;
}

POLYAK_DEFINE_ON_USE const std::vector<CopyPiece>& AverageRecord::copies_of(
    const ParameterList& params) {
  copies_.clear();
  std::byte* place = buffers->data();
  const std::vector<TensorMemory>& memory = params.memory();
  for (std::size_t k = 0; buffers->bytes() != 0 && k < memory.size(); ++k) {
    const TensorInfo& tensor = params.layout()->tensors[k];
    if (!is_buffer(tensor)) continue;
    copies_.push_back({place, memory[k].data, bytes_of(tensor)});
    place += bytes_of(tensor);
  }
  return copies_;
}

POLYAK_DEFINE_ON_USE void AverageRecord::write_buffers(const ParameterList& target) const {
  const std::byte* place = buffers->data();
  const std::vector<TensorMemory>& memory = target.memory();
  for (std::size_t k = 0; k < memory.size(); ++k) {
    const TensorInfo& tensor = target.layout()->tensors[k];
    if (!is_buffer(tensor) || bytes_of(tensor) == 0) continue;
    copy_bytes(target.layout()->space.get(), memory[k].data, place, bytes_of(tensor));
    place += bytes_of(tensor);
  }
}

POLYAK_DEFINE_ON_USE std::vector<SwapGuard::Piece> AverageRecord::pieces(
    const ParameterList& params, const SlotMemory& slots, std::size_t which, bool wide) const {
  std::vector<SwapGuard::Piece> list;
  std::byte* place = buffers->data();
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& tensor = params.layout()->tensors[k];
    if (slots.keeps(k)) {
      void* const average = wide ? nullptr : slots.address(which * arrays(), k);
      list.push_back({k, average, bytes_of(tensor)});
    }
    if (!is_buffer(tensor)) continue;
    list.push_back({k, place, bytes_of(tensor)});
    place += bytes_of(tensor);
  }
  return list;
}

POLYAK_DEFINE_ON_USE void AverageRecord::carry_buffers(const ListChange& change,
                                                       const AverageRecord& before,
                                                       const Layout& then) const {
  std::vector<const std::byte*> previous(then.tensors.size(), nullptr);
  const std::byte* from = before.buffers->data();
  for (std::size_t k = 0; k < previous.size(); ++k) {
    if (!is_buffer(then.tensors[k])) continue;
    previous[k] = from;
    from += bytes_of(then.tensors[k]);
  }
  std::byte* to = buffers->data();
  for (std::size_t k = 0; k < change.size(); ++k) {
    const TensorInfo& tensor = change.layout()->tensors[k];
    if (!is_buffer(tensor)) continue;
    if (change.was_there(k)) {
      copy_bytes(change.layout()->space.get(), to, previous[change.previous(k)], bytes_of(tensor));
    }
    to += bytes_of(tensor);
  }
}

POLYAK_DEFINE_ON_USE void AverageRecord::list_options(const Layout& layout,
                                                      OptionVisitor& visit) const {
  visit.option("accumulate", accumulation.accumulate);
  visit.option("seed", accumulation.seed);
  visit.option("nonfinite", nonfinite);
  if (accumulation.tensors.is_everything()) return;
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    if (layout.tensors[k].role != Role::average) continue;
    visit.option("selected", layout.tensors[k].name, static_cast<bool>(averaged_[k]));
  }
}

POLYAK_DEFINE_ON_USE void require_next_call(std::int64_t step, std::int64_t calls) {
  if (step != calls + 1) {
    refuse_order("polyak: update of step " + text(step) + ", expected step " + text(calls + 1));
  }
}

POLYAK_DEFINE_ON_USE void require_home(const SlotMemory& slots) {
  if (slots.lent()) refuse_order("polyak: the average is swapped in; end its guard first");
}

POLYAK_DEFINE_ON_USE void require_target(const ParameterList& target, const SlotMemory& slots) {
  require_home(slots);
  require_same(target.layout(), slots.layout(), "the target and the parameters of the average");
  if (target.swapped()) refuse_order("polyak: copy_to while an average is swapped in");
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
