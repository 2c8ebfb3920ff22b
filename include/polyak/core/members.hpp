// SPDX-License-Identifier: Apache-2.0
/// @file
/// Members: values of several types in one object, like std::tuple but cheap to compile. The
/// constructors of std::tuple take a compiler as long as the loops that use them, and there are
/// hundreds.
#pragma once

#include <cstddef>
#include <utility>

#include <polyak/core/law.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

template <std::size_t I, class T>
struct Member {
  T value;
};
template <class Numbers, class... T>
struct MembersOf;
template <std::size_t... I, class... T>
struct MembersOf<std::index_sequence<I...>, T...> : Member<I, T>... {};

/// It is an aggregate: `Members<A, B> both{{{a}, {b}}};`, for a pack `Members<T...>{{{value}...}}`.
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

/// Typed pointers from an array of untyped ones.
template <class... T>
[[nodiscard]] POLYAK_INLINE Members<const T*...> members_at(const void* array) {
  const auto* const all = static_cast<const void* const*>(array);
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return Members<const T*...>{{{static_cast<const T*>(all[I])}...}};
  }
  (std::index_sequence_for<T...>{});
}

/// Calls use(value) with each value.
template <class... T, class Use>
void each_member(const Members<T...>& members, Use use) {
  [&]<std::size_t... I>(std::index_sequence<I...>) { (use(member<I>(members)), ...); }
  (std::index_sequence_for<T...>{});
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
