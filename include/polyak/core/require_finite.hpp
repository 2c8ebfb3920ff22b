// SPDX-License-Identifier: Apache-2.0
/// @file
/// require_finite(): whether the state of a method can still recover.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <polyak/core/compiled.hpp>
#include <polyak/core/state.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Refuses slots and buffers that hold a NaN or an infinity.
class FiniteVisitor final : public StateVisitor {
 public:
  FiniteVisitor() : StateVisitor(false) {}
  POLYAK_DEFINE void counters(std::string_view name, std::span<const std::int64_t> values) override;
  POLYAK_DEFINE void buffers(const Layout& layout, const std::byte* data) override;
  POLYAK_DEFINE void slots(const ConstSlots& slots) override;

 private:
  POLYAK_DEFINE void add_scalar(std::string_view name, const void* value,
                                const StateScalarType& type) override;
};

}  // namespace detail

/// Throws nonfinite_error, with the names of slot and tensor, if the state of an optimizer or
/// average holds a NaN or an infinity. Such a state does not recover: with an infinite second
/// moment a weight never moves again. Reads the whole state, on a device through the host; call it
/// after loading or, with Nonfinite::propagate, now and then. Throws std::logic_error while an
/// average is swapped in.
template <class Method>
void require_finite(const Method& method) {
  detail::FiniteVisitor visitor;
  detail::visit_state(method, visitor);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/require_finite.ipp>
#endif
