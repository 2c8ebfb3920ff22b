// SPDX-License-Identifier: Apache-2.0
/// @file
/// The battery for the sweep: whatever the size, the alignment and the cuts, a loop computes what
/// its laws compute on single numbers, one element after the other, and nothing else in memory
/// changes. Probe laws represent all laws, which law_battery.hpp tests.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/sweep.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "law_battery.hpp"
#include "levels.hpp"

namespace sweep_battery {

using polyak::detail::carrier_t;
using polyak::detail::GradientReading;

// ---- probes: each value depends on every argument, and no two arguments play the same part ------

/// A law that trains, with two slots.
template <class T>
struct TrainingProbe {
  static constexpr polyak::LawSlots slots{"first", "second"};
  T decay, step;
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& g, V& a, V& b) const {
    a = fma(decay, a, g);
    b = fma(decay, b, g * g);
    x = fma(-step, a / (sqrt(b) + V(1)), x);
  }
};

/// A law that averages, and reads a second slot only.
template <class T>
struct AveragingProbe {
  static constexpr polyak::LawSlots slots =
      polyak::LawSlots::averaging("average", "other").first_written();
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average, Slot& other) const {
    average = fma(gain, x - average, average);
    average = fma(gain, V(other), average);
  }
};

/// A law that changes the weights and its slot.
template <class T>
struct ExchangingProbe {
  static constexpr polyak::LawSlots slots = polyak::LawSlots::exchanging("average");
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, Slot& average) const {
    const V before = x;
    x = fma(gain, x, V(average));
    average = before;
  }
};

/// A law that writes the weights from its slots.
template <class T>
struct ReadingProbe {
  static constexpr polyak::LawSlots slots = polyak::LawSlots::reading("first", "second");
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, const Slot& first, const Slot& second) const {
    x = fma(gain, V(first), V(second));
  }
};

// ---- the expected results of a sweep ------------------------------------------------------------

/// One law over the numbers begin..end of a tensor, one by one.
template <class Level, class P, class B>
void run_on_numbers(const B& bound, std::size_t tensor, P* x, const P* gradient,
                    const GradientReading& reading, std::size_t size) {
  using namespace polyak::detail;
  using Law = typename B::Law;
  using Storage = typename B::Storage;
  using T = carrier_t<typename B::State>;
  using V = Pack<T, 1, Level>;
  constexpr auto arrays = static_cast<std::size_t>(Storage::arrays);
  constexpr auto slot_count = static_cast<std::size_t>(polyak::slot_count<Law>);
  const Law& law = bound.law_of(tensor);
  auto slots = bound.slots;
  if constexpr (slot_count != 0) {
    for (auto& slot : slots) slot += bound.offsets[tensor];
  }
  auto key = bound.key;
  if constexpr (requires { key.tensor; }) key.tensor = tensor;
  typename Storage::Scratch scratch;
  for (std::size_t k = 0; k < size; ++k) {
    V value(static_cast<T>(widened<carrier_t<P>>(x, k)));
    typename Storage::template Value<1, Level> slot[slot_count + 1];
    for (std::size_t n = 0; n < slot_count; ++n) Storage::load(&slots[n * arrays], k, slot[n]);
    [&]<std::size_t... N>(std::index_sequence<N...>) {
      if constexpr (polyak::reads_gradient<Law>) {
        carrier_t<P> read = widened<carrier_t<P>>(gradient, k);
        read *= static_cast<carrier_t<P>>(reading.scale);
        const auto limit = static_cast<carrier_t<P>>(reading.limit);
        if (read > limit) read = limit;
        if (read < -limit) read = -limit;
        const V g(static_cast<T>(read));
        law(value, g, slot[N]...);
      } else {
        law(value, slot[N]...);
      }
    }
    (std::make_index_sequence<slot_count>{});
    if constexpr (polyak::writes_parameter<Law>) {
      narrow_into(x, k, static_cast<carrier_t<P>>(value.value));
    }
    for (std::size_t n = 0; n < static_cast<std::size_t>(polyak::written_slots<Law>); ++n) {
      Storage::store(&slots[n * arrays], k, slot[n], scratch, key);
    }
  }
}
/// The same, rounding as a level does.
template <class P, class B>
void run_on_numbers(int level, const B& bound, std::size_t tensor, P* x, const P* gradient,
                    const GradientReading& reading, std::size_t size) {
  if constexpr (!levels::baseline_rounds_once) {
    if (!levels::rounds_once(level)) {
      return run_on_numbers<polyak::detail::Scalars<false>>(bound, tensor, x, gradient, reading,
                                                            size);
    }
  }
  run_on_numbers<polyak::detail::Scalars<true>>(bound, tensor, x, gradient, reading, size);
}

// ---- one tensor ---------------------------------------------------------------------------------

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

/// The memory that one law runs on.
template <class P, class B>
struct Memory {
  using S = typename B::State;
  struct alignas(64) Array {
    std::array<S, padded + margin> element;
  };
  std::vector<P> x = std::vector<P>(longest + 2 * margin);
  std::vector<P> gradient = std::vector<P>(longest + 2 * margin);
  std::vector<Array> slots = std::vector<Array>(static_cast<std::size_t>(B::arrays));
  std::size_t start = 0;  // of the tensor in a slot

  explicit Memory(unsigned seed) {
    std::mt19937_64 random(seed);
    for (P& value : x) value = law_battery::some_number<P>(random);
    for (P& value : gradient) value = law_battery::some_number<P>(random);
    for (Array& array : slots) {
      for (S& value : array.element) value = law_battery::some_number<S>(random);
    }
  }
  [[nodiscard]] B bind(B bound) {
    bound.offsets = &start;
    for (std::size_t n = 0; n < slots.size(); ++n) bound.slots[n] = slots[n].element.data();
    return bound;
  }
};

/// Runs a law that is not bound yet over one tensor of every size at every alignment, whole and
/// cut.
template <class P, class B>
void check(const std::string& name, const B& unbound) {
  using polyak::detail::Loop;
  using Law = typename B::Law;
  constexpr auto written =
      static_cast<std::size_t>(polyak::written_slots<Law> * B::Storage::arrays);
  std::size_t failures = 0;
  constexpr std::size_t alignments = 64 / sizeof(P);  // every place within a cache line
  for (std::size_t offset = 0; offset < alignments; ++offset) {
    const std::size_t gradient_offset = (5 * offset + 3) % alignments;
    GradientReading reading{.scale = 0.375};
    if (offset % 2 == 1) reading.limit = 1e6;
    const Memory<P, B> before(static_cast<unsigned>(offset));
    std::mt19937_64 random(offset);
    for (const int level : levels::supported()) {
      Memory<P, B> expected = before;
      run_on_numbers(level, expected.bind(unbound), 0, expected.x.data() + offset,
                     expected.gradient.data() + gradient_offset, reading, longest);
      const auto expect = [&](std::size_t size, const std::vector<std::size_t>& cuts) {
        Memory<P, B> after = before;
        const B bound = after.bind(unbound);
        const Loop<P> loop = polyak::detail::loop_of<true, P>(bound);
        const polyak::detail::TensorMemory tensor{after.x.data() + offset, size};
        const P* gradient = after.gradient.data() + gradient_offset;
        for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
          loop.sweep(level, loop.bound, {&tensor, &gradient, reading, 0, 1, cuts[k], cuts[k + 1]});
        }
        const auto report = [&](const std::string& stream, std::size_t element) {
          if (++failures > 5) return;
          FAIL_CHECK(name << " at level " << level << ": " << stream << " differs at element "
                          << element << " of " << size << ", alignment " << offset << ", "
                          << cuts.size() - 1 << " pieces");
        };
        // The array `is` must equal `should` from first to last, and `was` around it.
        const auto compare = [&](const auto& is, const auto& was, const auto& should,
                                 const std::string& stream, std::size_t first, std::size_t last) {
          const std::size_t inside = bits::difference(is.data(), should.data(), first, last);
          if (inside != last) report(stream, inside - first);
          const auto rest = [&](const auto& all) {
            auto bytes = bits::bytes(all.data(), first);
            const auto behind = bits::bytes(all.data() + last, all.size() - last);
            bytes.insert(bytes.end(), behind.begin(), behind.end());
            return bytes;
          };
          if (rest(is) != rest(was)) report(stream + " around the data", size);
        };
        if constexpr (polyak::writes_parameter<Law>) {
          compare(after.x, before.x, expected.x, "the parameter", offset, offset + size);
        } else if (bits::bytes(after.x) != bits::bytes(before.x)) {
          report("the parameter, only read,", 0);
        }
        if (bits::bytes(after.gradient) != bits::bytes(before.gradient)) report("the gradient", 0);
        for (std::size_t n = 0; n < after.slots.size(); ++n) {
          const auto& is = after.slots[n].element;
          const auto& was = before.slots[n].element;
          const std::string stream = "array " + std::to_string(n) + " of the slots";
          if (n >= written) {
            if (bits::bytes(is) != bits::bytes(was)) report(stream + ", only read,", 0);
            continue;
          }
          // The last pack may reach into the padding, and no further.
          auto should = expected.slots[n].element;
          const std::size_t granules = (size + 31) / 32 * 32;
          std::copy(is.begin() + static_cast<std::ptrdiff_t>(size),
                    is.begin() + static_cast<std::ptrdiff_t>(granules),
                    should.begin() + static_cast<std::ptrdiff_t>(size));
          compare(is, was, should, stream, 0, granules);
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

}  // namespace sweep_battery
