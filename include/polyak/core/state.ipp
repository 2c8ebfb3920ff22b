// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of core/state.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

POLYAK_DEFINE std::string OptionVisitor::joined(std::string_view name, std::string_view tensor) {
  return std::string(name).append(".").append(tensor);
}
POLYAK_DEFINE void OptionVisitor::add_option(detail::OptionText&&) {}

POLYAK_DEFINE StateVisitor::~StateVisitor() = default;
POLYAK_DEFINE void StateVisitor::add_newer_scalar(std::string_view name, const void* value,
                                                  const StateScalarType& type, const void*) {
  add_scalar(name, value, type);
}
POLYAK_DEFINE void StateVisitor::counters_in(std::string_view name,
                                             std::span<const std::int64_t> values,
                                             const NumberRange&) {
  counters(name, values);
}
POLYAK_DEFINE StateEditor::~StateEditor() = default;
POLYAK_DEFINE void StateEditor::counters_in(std::string_view name, std::span<std::int64_t> values,
                                            const NumberRange&) {
  counters(name, values);
}

namespace detail {

POLYAK_DEFINE std::string range_text(const NumberRange& range) {
  constexpr double largest = std::numeric_limits<double>::max();
  // Counts are shown as integers, not as 9.007199254740992e+15.
  const auto words = [](double bound) {
    return bound == std::floor(bound) && std::fabs(bound) <= 0x1p53 ? text(as_integer(bound))
                                                                    : text(bound);
  };
  if (range.least == finite_positive_range.least && range.most == largest)
    return "must be finite and > 0";
  if (range.most == largest) return "must be finite and >= " + words(range.least);
  if (range.most > largest) return "must be >= " + words(range.least);
  return "must lie in [" + words(range.least) + ", " + words(range.most) + "]";
}

/// Refuses a number of restore_state().
[[noreturn]] POLYAK_COLD inline void refuse_number(std::string_view name, const NumberRange& range,
                                                   const std::string& value) {
  refuse_value("polyak: restore_state: \"" + std::string(name) + "\" " + range_text(range) +
               ", got " + value);
}

POLYAK_DEFINE void require_readable(const SlotMemory& slots) {
  if (slots.lent()) refuse_order("polyak: the state of a method whose average is swapped in");
  if (slots.space() != nullptr) slots.space()->require_settled(slots.block().get());
}

POLYAK_DEFINE void StateWriter::describe(std::string_view name, const std::string& what) {
  description_.append(name).append(" = ").append(what) += '\n';
}
POLYAK_DEFINE void StateWriter::add_option(OptionText&& option) {
  describe(option.name, option.text);
}
POLYAK_DEFINE void StateWriter::add_scalar(std::string_view name, const void* value,
                                           const StateScalarType& type) {
  describe(name, text(type.bytes) + " bytes");
  add(value, type.bytes);
}
POLYAK_DEFINE void StateWriter::counters(std::string_view name,
                                         std::span<const std::int64_t> values) {
  describe(name, text(values.size()) + " counters");
  add(values.data(), values.size_bytes());
}
POLYAK_DEFINE void StateWriter::buffers(const Layout& layout, const std::byte* data) {
  for (const TensorInfo& tensor : layout.tensors) {
    if (tensor.role == Role::copy) describe("buffer " + tensor.name, detail::describe(tensor));
  }
  add(data, buffer_bytes(layout), layout.space.get());
}
POLYAK_DEFINE void StateWriter::slots(const ConstSlots& slots) {
  slots.require_readable();
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < slots.layout().tensors.size(); ++k) {
      if (!slots.keeps(slot, k)) continue;
      TensorInfo part = slots.info(slot, k);
      part.dtype = slots.dtype();
      describe(slots.names()[slot] + "/" + part.name, detail::describe(part));
      add(slots.address(slot, k), slots.bytes(slot, k), slots.space());
    }
  }
}
POLYAK_DEFINE void StateWriter::add(const void* data, std::size_t bytes, MemorySpace* space) {
  const std::size_t place = state_.size();
  state_.resize(place + bytes);
  read_bytes(space, state_.data() + place, data, bytes);
}
POLYAK_DEFINE std::vector<std::byte> StateWriter::bytes() {
  const std::uint64_t length = description_.size();
  const std::size_t begin = sizeof length + description_.size();
  std::vector<std::byte> all(begin + state_.size());
  std::memcpy(all.data(), &length, sizeof length);
  std::memcpy(all.data() + sizeof length, description_.data(), description_.size());
  if (!state_.empty()) std::memcpy(all.data() + begin, state_.data(), state_.size());
  return all;
}

POLYAK_DEFINE std::span<const std::byte> state_within(std::span<const std::byte> given,
                                                      std::span<const std::byte> own) {
  const auto description_of = [](std::span<const std::byte> bytes) {
    std::uint64_t length = 0;
    if (bytes.size() >= sizeof length) std::memcpy(&length, bytes.data(), sizeof length);
    if (bytes.size() < sizeof length || length > bytes.size() - sizeof length) {
      refuse_argument("restore_state: the state must be a whole result of state_bytes(); its bytes",
                      bytes.size());
    }
    return std::string_view(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  };
  std::string_view theirs = description_of(given), ours = description_of(own);
  const std::size_t begin = sizeof(std::uint64_t) + theirs.size();
  while (theirs != ours) {
    const std::string_view there = theirs.substr(0, theirs.find('\n'));
    const std::string_view here = ours.substr(0, ours.find('\n'));
    if (there != here) {
      const auto words = [](std::string_view line) {
        return line.empty() ? std::string("nothing more") : "\"" + std::string(line) + "\"";
      };
      refuse_value("polyak: restore_state: the state has " + words(there) +
                   " where the method has " + words(here));
    }
    theirs.remove_prefix(std::min(theirs.size(), there.size() + 1));
    ours.remove_prefix(std::min(ours.size(), here.size() + 1));
  }
  require(given.size() == own.size(),
          "restore_state: the state must have " + text(own.size()) + " bytes", given.size());
  return given.subspan(begin);
}

POLYAK_DEFINE void StateReader::add_scalar(std::string_view name, void* value,
                                           const StateScalarType& type) {
  if (checks_ && !type.allows(in_)) {
    alignas(std::max_align_t) std::byte number[16];
    std::memcpy(number, in_, type.bytes);
    refuse_number(name, type.range, type.text(number));
  }
  take(value, type.bytes);
}
POLYAK_DEFINE void StateReader::counters(std::string_view name, std::span<std::int64_t> values) {
  counters_in(name, values, difference_range);
}
POLYAK_DEFINE void StateReader::counters_in(std::string_view name, std::span<std::int64_t> values,
                                            const NumberRange& range) {
  for (std::size_t k = 0; checks_ && k < values.size(); ++k) {
    std::int64_t value = 0;
    std::memcpy(&value, in_ + k * sizeof value, sizeof value);
    if (!lies_in(value, range)) refuse_number(name, range, text(value));
  }
  take(values.data(), values.size_bytes());
}
POLYAK_DEFINE void StateReader::buffers(const Layout& layout, std::byte* data) {
  take(data, buffer_bytes(layout), layout.space.get());
}
POLYAK_DEFINE void StateReader::slots(SlotMemory& slots) {
  require_readable(slots);
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
      take(slots.address(slot, k), slots.bytes(slot, k), slots.space());
    }
  }
}
POLYAK_DEFINE void StateReader::take(void* data, std::size_t bytes, MemorySpace* space) {
  if (!checks_) write_bytes(space, data, in_, bytes);
  in_ += bytes;
}

}  // namespace detail

POLYAK_DEFINE void ConstSlots::require_readable() const { detail::require_readable(slots_); }

}  // namespace POLYAK_V0
}  // namespace polyak
