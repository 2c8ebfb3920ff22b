// SPDX-License-Identifier: Apache-2.0
/// @file
/// The laws that every average has, and the types of a law for each way of storing an average.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>
#include <variant>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/storage.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// c = 1: a copy, so that a NaN in the old average disappears and every bit of x arrives.
template <class T>
struct CopyLaw {
  static constexpr LawSlots slots = LawSlots::averaging("average");
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = x;
  }
};

/// x = avg, rounded to the parameters' type.
template <class T>
struct ReadLaw {
  static constexpr LawSlots slots = LawSlots::reading("average");
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, const Slot& average) const {
    x = average;
  }
};

namespace detail {

/// The ways of storing averages of S, as bound laws.
template <class S, class T, class Make>
struct StoredLaws {
  template <class C>
  using Law = decltype(std::declval<Make>()(C()));
  using Third = std::conditional_t<std::same_as<S, float>, BoundLaw<Law<double>, double>,
                                   BoundLaw<Law<T>, S, Stochastic>>;
  using type = std::variant<BoundLaw<Law<T>, S>, BoundLaw<Law<T>, S, Kahan>, Third>;
};
template <class T, class Make>
struct StoredLaws<double, T, Make> {
  using type = std::variant<BoundLaw<decltype(std::declval<Make>()(double())), double>>;
};

/// Converts a variant to one with these and more alternatives.
template <class To, class... From>
[[nodiscard]] To widen_variant(const std::variant<From...>& from) {
  return std::visit([](const auto& one) { return To(one); }, from);
}
/// A variant of the alternatives of several variants.
template <class... Variants>
struct JoinedVariants;
template <class Variant>
struct JoinedVariants<Variant> {
  using type = Variant;
};
template <class... A, class... B, class... Rest>
struct JoinedVariants<std::variant<A...>, std::variant<B...>, Rest...>
    : JoinedVariants<std::variant<A..., B...>, Rest...> {};
template <class... Variants>
using joined_t = typename JoinedVariants<Variants...>::type;

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
