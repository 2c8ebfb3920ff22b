// SPDX-License-Identifier: Apache-2.0
/// @file
/// The battery for laws: on one pack of each level a law computes what it computes on single
/// numbers, to the last bit. sweep_battery.hpp tests what a sweep adds to a law: tails, alignment,
/// conversions, storage.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "levels.hpp"

namespace law_battery {

/// Ordinary numbers of many magnitudes; every fourth one is a special case.
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

inline constexpr std::size_t inputs = 4096;  // whole packs of every level

/// One argument of a law, `inputs` times: the parameter, the gradient or a slot.
template <class T>
struct alignas(64) Stream {
  T element[inputs];
};

/// The law on values of type V, from streams into streams.
template <class V, class T, class Law, std::size_t... K>
POLYAK_INLINE void run_on(const Law& law, Stream<T>* streams, std::size_t lanes,
                          std::index_sequence<K...>) {
  for (std::size_t at = 0; at < inputs; at += lanes) {
    V x = V::load(streams[0].element + at);
    [[maybe_unused]] const V gradient = V::load(streams[1].element + at);
    [[maybe_unused]] V slot[] = {V::load(streams[K + 2].element + at)..., x};
    if constexpr (polyak::reads_gradient<Law>) {
      law(x, gradient, slot[K]...);
    } else {
      law(x, slot[K]...);
    }
    x.store(streams[0].element + at);
    (slot[K].store(streams[K + 2].element + at), ...);
  }
}
template <class V, class T, class Law>
POLYAK_INLINE void run_on(const Law& law, Stream<T>* streams, std::size_t lanes) {
  run_on<V>(law, streams, lanes,
            std::make_index_sequence<static_cast<std::size_t>(polyak::slot_count<Law>)>{});
}

/// The law on packs of some registers.
template <class T, class Law, int Registers>
struct OnPacks {
  const Law& law;
  Stream<T>* streams;
  template <class Level>
  POLYAK_INLINE void run() const {
    constexpr int lanes = Registers * polyak::detail::native_lanes<T, Level>;
    static_assert(inputs % lanes == 0);
    run_on<polyak::detail::Pack<T, lanes, Level>>(law, streams, static_cast<std::size_t>(lanes));
  }
};

/// A law that computes in T.
template <class T, class Law>
void check(const std::string& name, const Law& law) {
  const auto fresh = [] {
    std::vector<Stream<T>> streams(static_cast<std::size_t>(polyak::slot_count<Law>) + 2);
    std::mt19937_64 random(1);
    for (Stream<T>& stream : streams) {
      for (T& value : stream.element) value = some_number<T>(random);
    }
    return streams;
  };
  const std::vector<Stream<T>> before = fresh();
  std::vector<Stream<T>> once = before, twice = before;
  run_on<polyak::detail::Number<T>>(law, once.data(), 1);
  if constexpr (!levels::baseline_rounds_once) {
    run_on<levels::TwoRoundings<T>>(law, twice.data(), 1);
  }

  std::size_t failures = 0;
  const auto compare = [&](const std::vector<Stream<T>>& is, const std::vector<Stream<T>>& expected,
                           const std::string& where) {
    for (std::size_t n = 0; n < is.size(); ++n) {
      for (std::size_t k = 0; k < inputs; ++k) {
        if (bits::same(is[n].element[k], expected[n].element[k]) || ++failures > 5) continue;
        FAIL_CHECK(name << ", " << where << ": argument " << n << " of input " << k);
      }
    }
  };
  for (const int level : levels::supported()) {
    const auto& expected = levels::rounds_once(level) ? once : twice;
    std::vector<Stream<T>> one = before, two = before;
    polyak::detail::run_at(level, OnPacks<T, Law, 1>{law, one.data()});
    polyak::detail::run_at(level, OnPacks<T, Law, 2>{law, two.data()});
    compare(one, expected, "one register of level " + std::to_string(level));
    compare(two, expected, "two registers of level " + std::to_string(level));
  }
  // A sweep stores only what the law declares as written.
  for (std::size_t n = 0; n < before.size(); ++n) {
    const bool written = n == 0 ? polyak::writes_parameter<Law>
                                : static_cast<int>(n) - 2 < polyak::written_slots<Law> && n != 1;
    if (written) continue;
    if (bits::bytes(once[n].element, inputs) != bits::bytes(before[n].element, inputs)) {
      FAIL_CHECK(name << ": changes argument " << n << ", which it does not write");
    }
  }
  CHECK(failures == 0);
}

}  // namespace law_battery
