// SPDX-License-Identifier: Apache-2.0
/// @file
/// Members: values of several types in one object, as in std::tuple, whose constructors take
/// compilers as long as the loops that hold one. Loops have hundreds of them.
#pragma once

#include <cstddef>
#include <utility>

#include <polyak/core/law.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

template <std::size_t I, class T>
struct Member {
  T value;
};
template <class Numbers, class... T>
struct MembersOf;
template <std::size_t... I, class... T>
struct MembersOf<std::index_sequence<I...>, T...> : Member<I, T>... {};

/// An aggregate: `Members<A, B> both{{{a}, {b}}};`, and for a pack `Members<T...>{{{value}...}}`.
template <class... T>
struct Members : MembersOf<std::index_sequence_for<T...>, T...> {};

/// Member number I.
template <std::size_t I, class T>
POLYAK_INLINE constexpr T& member(Member<I, T>& members) {
  return members.value;
}
template <std::size_t I, class T>
POLYAK_INLINE constexpr const T& member(const Member<I, T>& members) {
  return members.value;
}

/// Pointers that lie in an array without their types.
template <class... T>
[[nodiscard]] POLYAK_INLINE Members<const T*...> members_at(const void* array) {
  const auto* const all = static_cast<const void* const*>(array);
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return Members<const T*...>{{{static_cast<const T*>(all[I])}...}};
  }
  (std::index_sequence_for<T...>{});
}

/// Calls use(value) with each of them.
template <class... T, class Use>
void each_member(const Members<T...>& members, Use use) {
  [&]<std::size_t... I>(std::index_sequence<I...>) { (use(member<I>(members)), ...); }
  (std::index_sequence_for<T...>{});
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
