// SPDX-License-Identifier: Apache-2.0
/// @file
/// The battery for laws: what packs compute at each level is what the law says of single numbers,
/// and nothing else in memory changes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/sweep.hpp>
#include <polyak/core/tensors/slots.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "levels.hpp"

namespace law_battery {

inline constexpr std::size_t longest = 130;  // more than four packs of any type
inline constexpr std::size_t margin = 32;    // untouched elements on each side
inline constexpr std::size_t padded = 160;   // of a slot: whole granules

/// 0, 1 and everything around one, two and four packs of any type.
[[nodiscard]] inline std::vector<std::size_t> sizes() {
  std::vector<std::size_t> list;
  for (std::size_t n = 0; n <= 70; ++n) list.push_back(n);
  for (std::size_t n = 127; n <= longest; ++n) list.push_back(n);
  return list;
}

/// Ordinary numbers of many magnitudes, and every fourth one that needs care.
template <class T>
[[nodiscard]] T some_number(std::mt19937_64& random) {
  if constexpr (sizeof(T) == 2) {
    return bits::number<T>(static_cast<std::uint16_t>(random()));
  } else {
    using Limits = std::numeric_limits<T>;
    constexpr T special[] = {T(0),
                             -T(0),
                             Limits::infinity(),
                             -Limits::infinity(),
                             Limits::quiet_NaN(),
                             Limits::denorm_min(),
                             -Limits::min() / 2,
                             Limits::max(),
                             -Limits::max(),
                             T(1),
                             -T(1),
                             Limits::epsilon()};
    const std::uint64_t choice = random();
    if (choice % 4 == 0) return special[(choice >> 8) % std::size(special)];
    const double magnitude = std::ldexp(1.0, static_cast<int>((choice >> 16) % 24) - 16);
    return static_cast<T>(bits::uniform(choice) * magnitude);
  }
}

/// The numbers that one law is run on.
template <class P, class S, int SlotCount>
struct Streams {
  std::vector<P> x = std::vector<P>(longest + 2 * margin);
  std::vector<P> gradient = std::vector<P>(longest + 2 * margin);
  struct alignas(64) Slot {
    std::array<S, padded + margin> element;
  };
  std::vector<Slot> slot = std::vector<Slot>(static_cast<std::size_t>(SlotCount));

  void fill(std::mt19937_64& random) {
    for (P& value : x) value = some_number<P>(random);
    for (P& value : gradient) value = some_number<P>(random);
    for (Slot& one : slot) {
      for (S& value : one.element) value = some_number<S>(random);
    }
  }
};

/// The law on single numbers of type V.
template <class V, class P, class S, class Law, int SlotCount>
void run_on_numbers(const Law& law, Streams<P, S, SlotCount>& streams, std::size_t offset,
                    std::size_t gradient_offset) {
  using C = polyak::detail::carrier_t<S>;
  using polyak::detail::widened;
  for (std::size_t k = 0; k < longest; ++k) {
    V x(widened<C>(streams.x.data() + offset, k));
    const V gradient(widened<C>(streams.gradient.data() + gradient_offset, k));
    std::array<V, SlotCount == 0 ? 1 : SlotCount> slot{};
    for (std::size_t n = 0; n < streams.slot.size(); ++n) {
      slot[n] = V(widened<C>(streams.slot[n].element.data(), k));
    }
    [&]<std::size_t... N>(std::index_sequence<N...>) {
      if constexpr (polyak::reads_gradient<Law>) {
        law(x, gradient, slot[N]...);
      } else {
        law(x, slot[N]...);
      }
    }
    (std::make_index_sequence<static_cast<std::size_t>(SlotCount)>{});
    if constexpr (polyak::writes_parameter<Law>) {
      polyak::detail::narrow_into(streams.x.data() + offset, k, x.value);
    }
    if constexpr (polyak::written_slots<Law> != 0) {
      for (std::size_t n = 0; n < streams.slot.size(); ++n) {
        polyak::detail::narrow_into(streams.slot[n].element.data(), k, slot[n].value);
      }
    }
  }
}

/// The law on packs, in the pieces between `cuts`.
template <class P, class S, class Law, int SlotCount>
void run_on_packs(int level, const Law& law, Streams<P, S, SlotCount>& streams, std::size_t size,
                  std::size_t offset, std::size_t gradient_offset,
                  const std::vector<std::size_t>& cuts) {
  using Bound = polyak::detail::BoundLaw<Law, S>;
  const std::size_t start = 0;
  Bound bound{.law = law, .offsets = &start};
  for (std::size_t n = 0; n < streams.slot.size(); ++n) {
    bound.slots[n] = streams.slot[n].element.data();
  }
  const polyak::detail::TensorMemory memory{streams.x.data() + offset, size};
  const P* gradient = streams.gradient.data() + gradient_offset;
  const std::tuple<const Bound*> all(&bound);
  for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
    const polyak::detail::SweepRange<P> range{&memory, &gradient, {}, 0, 1, cuts[k], cuts[k + 1]};
    polyak::detail::run_at(level, polyak::detail::SweepKernel<P, Bound>{range, all});
  }
}

/// Where two arrays differ among begin..end, or end.
template <class T>
[[nodiscard]] std::size_t difference(const T* a, const T* b, std::size_t begin, std::size_t end) {
  while (begin < end && bits::same(a[begin], b[begin])) ++begin;
  return begin;
}

/// Parameters of type P, state of type S.
template <class P, class S, class Law>
void check(const std::string& name, const Law& law) {
  constexpr int slot_count = polyak::slot_count<Law>;
  using Data = Streams<P, S, slot_count>;
  std::size_t failures = 0;
  constexpr std::size_t alignments = 64 / sizeof(P);  // every place within a cache line
  for (std::size_t offset = 0; offset < alignments; ++offset) {
    const std::size_t gradient_offset = (5 * offset + 3) % alignments;
    std::mt19937_64 random(offset);
    Data before;
    before.fill(random);
    for (const int level : levels::supported()) {
      Data expected = before;
      if (levels::rounds_once(level)) {
        run_on_numbers<polyak::detail::Number<polyak::detail::carrier_t<S>>>(law, expected, offset,
                                                                             gradient_offset);
      } else {
        run_on_numbers<levels::TwoRoundings<polyak::detail::carrier_t<S>>>(law, expected, offset,
                                                                           gradient_offset);
      }
      const auto expect = [&](std::size_t size, const std::vector<std::size_t>& cuts) {
        Data after = before;
        run_on_packs(level, law, after, size, offset, gradient_offset, cuts);
        const auto report = [&](const std::string& stream, std::size_t element) {
          if (++failures > 5) return;
          FAIL_CHECK(name << " of " << polyak::detail::name_of(polyak::detail::dtype_of<P>())
                          << " with " << polyak::detail::name_of(polyak::detail::dtype_of<S>())
                          << " at level " << level << ": " << stream << " differs at element "
                          << element << " of " << size << ", alignment " << offset << ", "
                          << cuts.size() - 1 << " pieces");
        };
        const auto compare = [&](const auto* is, const auto* was, const auto* should,
                                 const std::string& stream, std::size_t first, std::size_t last,
                                 std::size_t end) {
          const std::size_t inside = difference(is, should, first, last);
          if (inside != last) report(stream, inside - first);
          if (std::memcmp(is, was, first * sizeof *is) != 0 ||
              std::memcmp(is + last, was + last, (end - last) * sizeof *is) != 0) {
            report(stream + " around the data", size);
          }
        };
        compare(after.x.data(), before.x.data(), expected.x.data(), "the parameter", offset,
                offset + size, after.x.size());
        if (!polyak::writes_parameter<Law> && bits::bytes(after.x) != bits::bytes(before.x)) {
          report("the parameter, only read,", 0);
        }
        if (bits::bytes(after.gradient) != bits::bytes(before.gradient)) report("the gradient", 0);
        for (std::size_t n = 0; n < after.slot.size(); ++n) {
          const auto& is = after.slot[n].element;
          const auto& was = before.slot[n].element;
          // The last pack may reach into the padding, and no further.
          const std::size_t granules = (size + 31) / 32 * 32;
          if (difference(is.data(), expected.slot[n].element.data(), 0, size) != size) {
            report("slot " + std::to_string(n),
                   difference(is.data(), expected.slot[n].element.data(), 0, size));
          }
          if (std::memcmp(is.data() + granules, was.data() + granules,
                          (is.size() - granules) * sizeof(S)) != 0 ||
              (!(polyak::written_slots<Law> != 0) && bits::bytes(is) != bits::bytes(was))) {
            report("slot " + std::to_string(n) + " outside its data", size);
          }
        }
      };
      for (const std::size_t size : sizes()) expect(size, {0, size});
      for (int times = 0; times < 4; ++times) {
        std::vector<std::size_t> cuts{0, longest};
        for (int k = 0; k < 5; ++k) cuts.push_back(random() % (longest + 1));
        std::sort(cuts.begin(), cuts.end());
        expect(longest, cuts);
      }
    }
  }
  CHECK(failures == 0);
}

}  // namespace law_battery
