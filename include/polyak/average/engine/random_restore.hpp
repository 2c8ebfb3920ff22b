// SPDX-License-Identifier: Apache-2.0
/// @file
/// The restoring of CottaTeacher: elements chosen at random, and their copy from a source.
///
/// The bits of an element depend only on its place and the key (core/random.hpp), so the choice
/// does not depend on how the work is split.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <polyak/core/law.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/simd/pack.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Chooses elements of a tensor with a given probability: an element is chosen if its 40 random
/// bits, as a number, are below r 2^40. The highest 8 bits nearly always decide.
struct RandomChoice {
  /// Elements for which eight calls of Philox make 8 bits each, and elements of one mask.
  static constexpr std::size_t group = RandomBits::group, block = RandomBits::elements, masked = 64;
  static constexpr std::uint64_t all = std::uint64_t{1} << 40;

  RandomKey key;
  std::uint64_t below;  ///< of 2^40

  RandomChoice(const RandomKey& whose, double probability)
      : key(whose), below(static_cast<std::uint64_t>(std::ldexp(probability, 40))) {
    if (probability > 0 && below == 0) below = 1;
  }

  /// Goes through begin..end in groups of 64 elements, and calls `use(first, chosen)` for each
  /// group with a chosen element; bit k of `chosen` is element first + k.
  template <class Level, class Use>
  POLYAK_INLINE void each(std::size_t begin, std::size_t end, Use use) const {
    const auto high = static_cast<std::uint32_t>(below >> 32);
    RandomBits random;
    random.schedule(key);
    random.needed = end;
    for (std::size_t start = begin / block * block; start < end; start += block) {
      if (below < all) fill_bytes(Level{}, key, start / block, random);
      for (std::size_t part = 0; part < block; part += masked) {
        const std::size_t first = start + part;
        if (first + masked <= begin || first >= end) continue;
        const unsigned char* const bytes = random.of_group(part / group) + part % group;
        std::uint64_t chosen = ~std::uint64_t{0};
        if (below < all) {
          const std::uint64_t candidates = high < 0x7f ? perhaps_below(bytes, high + 1) : chosen;
          chosen = 0;
          for (std::uint64_t rest = candidates; rest != 0; rest &= rest - 1) {
            const auto k = static_cast<std::size_t>(std::countr_zero(rest));
            const bool own = bytes[k] < high || (bytes[k] == high && tie(first + k));
            chosen |= std::uint64_t{own} << k;
          }
        }
        if (first < begin) chosen &= ~std::uint64_t{0} << (begin - first);
        if (end - first < masked) chosen &= ~(~std::uint64_t{0} << (end - first));
        if (chosen != 0) use(first, chosen);
      }
    }
  }

 private:
  /// One bit for each of 64 bytes: set if the byte is below `limit` <= 0x7f, and for a few other
  /// bytes. It takes eight bytes at a time: a subtraction sets the highest bit of each such byte,
  /// and a product gathers these bits.
  [[nodiscard]] POLYAK_INLINE static std::uint64_t perhaps_below(const unsigned char* bytes,
                                                                 std::uint32_t limit) {
    constexpr std::uint64_t ones = 0x0101010101010101u, gather = 0x0102040810204080u;
    std::uint64_t mask = 0;
    for (std::size_t k = 0; k < masked; k += 8) {
      std::uint64_t eight = 0;
      if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(&eight, bytes + k, sizeof eight);
      } else {
        for (std::size_t byte = 0; byte < 8; ++byte) {
          eight |= std::uint64_t{bytes[k + byte]} << (8 * byte);
        }
      }
      const std::uint64_t borrows = (eight - ones * limit) & ~eight & ones * 0x80;
      mask |= ((borrows >> 7) * gather >> 56) << k;
    }
    return mask;
  }
  /// Compares the lower 32 bits of an element whose upper 8 bits are equal.
  [[nodiscard]] bool tie(std::size_t element) const {
    const auto words = philox4x32<RandomKey::rounds>(
        key.counter((std::uint64_t{1} << 35) + element / 4), key.key());
    return words[element % 4] < static_cast<std::uint32_t>(below);
  }
};

/// x <- source for the chosen elements of one tensor.
template <class P>
struct RestoreKernel {
  P* x;
  const P* source;
  std::size_t begin, end;
  RandomChoice choice;

  /// Chosen elements are far apart, so the processor cannot predict their addresses. Their cache
  /// lines are prefetched some groups before they are used.
  template <class Level>
  POLYAK_INLINE void run() const {
    constexpr std::size_t most = 32;
    std::size_t firsts[most];
    std::uint64_t masks[most];
    std::size_t waiting = 0;
    choice.template each<Level>(begin, end, [&](std::size_t first, std::uint64_t chosen) {
      for (std::uint64_t rest = chosen; rest != 0; rest &= rest - 1) {
        const std::size_t k = first + static_cast<std::size_t>(std::countr_zero(rest));
#if defined(__GNUC__)
        __builtin_prefetch(x + k, 1);
        __builtin_prefetch(source + k);
#endif
      }
      firsts[waiting] = first;
      masks[waiting] = chosen;
      if (++waiting < most) return;
      for (std::size_t one = 0; one < most; ++one) restore(firsts[one], masks[one]);
      waiting = 0;
    });
    for (std::size_t one = 0; one < waiting; ++one) restore(firsts[one], masks[one]);
  }

 private:
  POLYAK_INLINE void restore(std::size_t first, std::uint64_t chosen) const {
    for (; chosen != 0; chosen &= chosen - 1) {
      const std::size_t k = first + static_cast<std::size_t>(std::countr_zero(chosen));
      x[k] = source[k];
    }
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
