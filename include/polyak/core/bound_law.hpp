// SPDX-License-Identifier: Apache-2.0
/// @file
/// BoundLaw: a law with the slots that it runs on. Methods pass bound laws to the sweep.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>
#include <variant>

#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// A law, the slots that it runs on, and how the slots store their values. If the scalars differ by
/// tensor, a table holds a law for each set of scalars.
template <class L, class S, template <class> class StoredAs = Plain>
struct BoundLaw {
  using Law = L;
  using State = S;
  using Storage = StoredAs<S>;
  using Key = typename Storage::Key;
  static constexpr int arrays = slot_count<L> * Storage::arrays;
  static constexpr std::size_t array_count = static_cast<std::size_t>(arrays == 0 ? 1 : arrays);

  L law;                                   ///< for all tensors, unless there is a table
  std::array<S*, array_count> slots = {};  ///< first elements
  const std::size_t* offsets = nullptr;  ///< where each tensor begins in a slot; null without slots
  [[no_unique_address]] Key key = {};    ///< of the random bits
  const L* table = nullptr;              ///< null: `law` is for all tensors
  std::size_t stride = 0;                ///< bytes from one law of the table to the next
  const std::uint32_t* which = nullptr;  ///< the law of each tensor in the table

  [[nodiscard]] const L& law_of(std::size_t tensor) const {
    return table == nullptr ? law : law_at(which[tensor]);
  }
  /// The law with this number in the table.
  [[nodiscard]] const L& law_at(std::size_t number) const {
    const auto* const first = reinterpret_cast<const std::byte*>(table);
    return *std::launder(reinterpret_cast<const L*>(first + stride * number));
  }
  [[nodiscard]] bool takes(std::size_t tensor) const {
    return offsets == nullptr || offsets[tensor] != Slots<S>::absent;
  }
};

/// Refuses slots that have a shape of their own: a law runs over the elements of the parameters.
template <class S, std::size_t N>
POLYAK_COLD void require_full(const Slots<S>& slots, const std::array<std::size_t, N>& values,
                              std::size_t each) {
  for (const std::size_t value : values) {
    for (std::size_t slot = value * each; slot < (value + 1) * each; ++slot) {
      if (slots.full(slot)) continue;
      refuse_order("polyak: a law is bound to slot \"" + slots.names()[slot] +
                   "\", which does not have the shape of the parameters");
    }
  }
}

/// Binds a law to slots. `values[k]` is the number of the stored value that is slot argument k of
/// the law; by default 0, 1, 2, ... A value has as many arrays as its storage.
template <template <class> class StoredAs = Plain, class Law, class S>
[[nodiscard]] BoundLaw<Law, S, StoredAs> bind_law(
    const Law& law, const Slots<S>& slots, const typename StoredAs<S>::Key& key,
    const std::array<std::size_t, static_cast<std::size_t>(slot_count<Law>)>& values) {
  constexpr auto each = static_cast<std::size_t>(StoredAs<S>::arrays);
  if (!slots.all_full()) [[unlikely]] {
    require_full(slots, values, each);
  }
  BoundLaw<Law, S, StoredAs> bound{.law = law, .offsets = slots.offsets(), .key = key};
  for (std::size_t k = 0; k < values.size(); ++k) {
    for (std::size_t j = 0; j < each; ++j) {
      bound.slots[k * each + j] = slots.data(values[k] * each + j);
    }
  }
  return bound;
}
template <template <class> class StoredAs = Plain, class Law, class S>
[[nodiscard]] BoundLaw<Law, S, StoredAs> bind_law(const Law& law, const Slots<S>& slots,
                                                  const typename StoredAs<S>::Key& key = {}) {
  std::array<std::size_t, static_cast<std::size_t>(slot_count<Law>)> values{};
  for (std::size_t k = 0; k < values.size(); ++k) values[k] = k;
  return bind_law<StoredAs>(law, slots, key, values);
}

/// `bind()` of a method returns one BoundLaw, or a std::variant of them with the usual one first.
/// Methods in their usual variant share a sweep.
template <class Bound>
struct VariantsOf {
  using Usual = Bound;
  static constexpr std::size_t count = 1;
  static std::size_t index(const Bound&) { return 0; }
  static const Usual& usual(const Bound& bound) { return bound; }
  template <class Use>
  static decltype(auto) visit(const Bound& bound, Use&& use) {
    return use(std::integral_constant<std::size_t, 0>(), bound);
  }
};
template <class First, class... Others>
struct VariantsOf<std::variant<First, Others...>> {
  using Usual = First;
  using Bound = std::variant<First, Others...>;
  static constexpr std::size_t count = 1 + sizeof...(Others);
  static std::size_t index(const Bound& bound) { return bound.index(); }
  static const Usual& usual(const Bound& bound) { return *std::get_if<0>(&bound); }
  /// Calls use(index, law) with the law that the variant holds.
  template <class Use>
  static void visit(const Bound& bound, Use&& use) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      static_cast<void>(
          ((bound.index() == I &&
            (use(std::integral_constant<std::size_t, I>(), *std::get_if<I>(&bound)), true)) ||
           ...));
    }
    (std::make_index_sequence<count>());
  }
};

/// A variant that holds the result of `make()`, constructed in place. A copy would have to wait
/// until the fields that were just written reach the cache, which takes longer than a small loop.
template <class Variant, class Make>
[[nodiscard]] POLYAK_INLINE Variant variant_of(const Make& make) {
  using Made = decltype(make());
  struct InPlace {
    const Make& make;
    POLYAK_INLINE operator Made() const { return make(); }
  };
  return Variant(std::in_place_type<Made>, InPlace{make});
}

/// The variant type with one more alternative in front.
template <class First, class Rest>
struct Prepended {
  using type = std::variant<First, Rest>;
};
template <class First, class... Rest>
struct Prepended<First, std::variant<Rest...>> {
  using type = std::variant<First, Rest...>;
};
template <class First, class Rest>
using prepended_t = typename Prepended<First, Rest>::type;

/// Bytes to copy from one place to another in the memory of a list.
struct CopyPiece {
  void* to;
  const void* from;
  std::size_t bytes;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
