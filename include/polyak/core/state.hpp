// SPDX-License-Identifier: Apache-2.0
/// @file
/// The state of a method, listed once, for comparison, saving and restoring.
///
/// `method.state(visitor)` calls
///   visitor.option(name, value)               for every option: a number, bool or enum that was
///                                             fixed when the method was made,
///   visitor.scalar(name, number&)             for every counter and scalar,
///   visitor.counters(name, std::vector<std::int64_t>&)  for counters of each tensor,
///   visitor.buffers(layout, std::byte*)       for copies of the tensors with Role::copy,
///   visitor.slots(Slots<S>&)                  for the slots,
/// always the same ones in the same order for methods made with the same options on the same
/// layout. Names are unique within a method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// Refuses slots that do not hold the state of the method now.
template <class S>
void require_readable(const Slots<S>& slots) {
  if (slots.lent()) refuse_order("polyak: the state of a method whose average is swapped in");
  if (slots.space() != nullptr) slots.space()->require_settled(slots.block().get());
}

/// The base of visitors of bytes: `derived().bytes(data, size)` gets all of them in order,
/// `derived().bytes(data, size, space)` those that may lie elsewhere than on the host.
template <class Derived>
struct StateBytes {
  template <class T>
  void option(std::string_view, const T&) {}
  template <class T>
  void scalar(std::string_view, T& value) {
    derived().bytes(&value, sizeof value);
  }
  void counters(std::string_view, std::vector<std::int64_t>& values) {
    derived().bytes(values.data(), values.size() * sizeof(std::int64_t));
  }
  void buffers(const Layout& layout, std::byte* data) {
    derived().bytes(data, buffer_bytes(layout), layout.space.get());
  }
  template <class S>
  void slots(Slots<S>& slots) {
    require_readable(slots);
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
        derived().bytes(slots.address(slot, k), slots.bytes(slot, k), slots.space());
      }
    }
  }

 private:
  [[nodiscard]] Derived& derived() { return static_cast<Derived&>(*this); }
};

/// Copies a state out, bit for bit.
struct StateWriter : StateBytes<StateWriter> {
  explicit StateWriter(std::vector<std::byte>& to) : out(to) {}
  void bytes(const void* data, std::size_t size, MemorySpace* space = nullptr) {
    const std::size_t place = out.size();
    out.resize(place + size);
    read_bytes(space, out.data() + place, data, size);
  }
  std::vector<std::byte>& out;
};

/// Copies a state in; without a source it only counts.
struct StateReader : StateBytes<StateReader> {
  explicit StateReader(const std::byte* from) : in(from) {}
  void bytes(void* data, std::size_t count, MemorySpace* space = nullptr) {
    if (in != nullptr) write_bytes(space, data, in + size, count);
    size += count;
  }
  const std::byte* in;
  std::size_t size = 0;
};

}  // namespace detail

/// The whole state of a method, as it is in memory: what two runs compare, and what a resumed run
/// continues from within one build of a program. Throws std::logic_error while an average is
/// swapped in.
template <class Method>
[[nodiscard]] std::vector<std::byte> state_bytes(Method& method) {
  std::vector<std::byte> out;
  method.state(detail::StateWriter(out));
  return out;
}

/// Restores the result of state_bytes() into a method made with the same options for the same
/// layout. Throws std::invalid_argument, with nothing changed, where the sizes differ,
/// std::logic_error while an average is swapped in.
template <class Method>
void restore_state(Method& method, const std::vector<std::byte>& bytes) {
  detail::StateReader count(nullptr);
  method.state(count);
  require(count.size == bytes.size(),
          "restore_state: the state must have " + detail::text(count.size) + " bytes",
          bytes.size());
  method.state(detail::StateReader(bytes.data()));
}

}  // namespace v0
}  // namespace polyak
