// SPDX-License-Identifier: Apache-2.0
/// @file
/// The state of a method, listed once: what equality, saving and restoring are made of.
///
/// `method.state(visitor)` calls
///   visitor.scalar(name, number&)             for every counter and scalar,
///   visitor.bytes(name, void*, size)          for arrays of counters and copied buffers,
///   visitor.slots(Slots<S>&)                  for the slots,
/// always the same ones in the same order for methods made with the same options on the same
/// layout.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include <polyak/core/arena.hpp>
#include <polyak/core/layout.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// Copies a state out, bit for bit.
struct StateWriter {
  std::vector<std::byte>& out;
  template <class T>
  void scalar(std::string_view, T& value) {
    bytes({}, &value, sizeof value);
  }
  void bytes(std::string_view, const void* data, std::size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    out.insert(out.end(), first, first + size);
  }
  template <class S>
  void slots(Slots<S>& slots) {
    if (slots.lent()) refuse_order("polyak: the state of a method whose average is swapped in");
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
        const auto elements = slots.tensor(slot, k);
        if (!elements.empty()) bytes({}, elements.data(), elements.size_bytes());
      }
    }
  }
};

/// Copies a state in; `size` only counts.
struct StateReader {
  const std::byte* in;
  std::size_t size = 0;
  template <class T>
  void scalar(std::string_view, T& value) {
    bytes({}, &value, sizeof value);
  }
  void bytes(std::string_view, void* data, std::size_t count) {
    if (in != nullptr && count != 0) std::memcpy(data, in + size, count);
    size += count;
  }
  template <class S>
  void slots(Slots<S>& slots) {
    if (slots.lent()) refuse_order("polyak: the state of a method whose average is swapped in");
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
        const auto elements = slots.tensor(slot, k);
        bytes({}, elements.data(), elements.size_bytes());
      }
    }
  }
};

}  // namespace detail

/// The whole state of a method, as it is in memory: what two runs compare, and what a resumed run
/// continues from within one build of a program. Throws std::logic_error while an average is
/// swapped in.
template <class Method>
[[nodiscard]] std::vector<std::byte> state_bytes(Method& method) {
  std::vector<std::byte> out;
  method.state(detail::StateWriter{out});
  return out;
}

/// Restores what state_bytes() gave, into a method made with the same options for the same layout.
/// Throws std::invalid_argument, with nothing changed, where the sizes differ, std::logic_error
/// while an average is swapped in.
template <class Method>
void restore_state(Method& method, const std::vector<std::byte>& bytes) {
  detail::StateReader count{nullptr};
  method.state(count);
  require(count.size == bytes.size(),
          "restore_state: the state must have " + detail::text(count.size) + " bytes",
          bytes.size());
  method.state(detail::StateReader{bytes.data()});
}

}  // namespace v0
}  // namespace polyak
