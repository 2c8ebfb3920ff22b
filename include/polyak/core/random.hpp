// SPDX-License-Identifier: Apache-2.0
/// @file
/// Random bits that depend only on seed, step, tensor and element, not on the order of execution.
///
///   Philox4x32-R, R rounds on a counter (c0, c1, c2, c3) under a key (k0, k1):
///     c <- (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0)),   k <- k + W
///
/// "Parallel Random Numbers: As Easy as 1, 2, 3" (Salmon et al., SC 2011), which reports that 7
/// rounds pass its tests. Key: the seed. Counter: the call's number within the tensor, the tensor,
/// the step. Eight calls give 16 bits to each of 128 elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include <polyak/core/law.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// Stands for std::array, whose functions cannot run on a device.
template <class T, std::size_t N>
struct Array {
  T values[N];
  [[nodiscard]] POLYAK_LAW T& operator[](std::size_t k) { return values[k]; }
  [[nodiscard]] POLYAK_LAW const T& operator[](std::size_t k) const { return values[k]; }
  [[nodiscard]] POLYAK_LAW T* data() { return values; }
  [[nodiscard]] POLYAK_LAW const T* data() const { return values; }
  friend bool operator==(const Array&, const Array&) = default;
};
}  // namespace detail

/// The four output words of Philox4x32 for a counter and a key.
template <int Rounds = 10>
[[nodiscard]] POLYAK_LAW detail::Array<std::uint32_t, 4> philox4x32(
    detail::Array<std::uint32_t, 4> counter, detail::Array<std::uint32_t, 2> key) {
  for (int round = 0; round < Rounds; ++round) {
    const std::uint64_t first = std::uint64_t{0xd2511f53u} * counter[0];
    const std::uint64_t second = std::uint64_t{0xcd9e8d57u} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(first)};
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return counter;
}

namespace detail {

/// The key of random bits: a seed, the step of the method, the number of the tensor.
struct RandomKey {
  static constexpr int rounds = 7;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t tensor = 0;

  [[nodiscard]] POLYAK_LAW Array<std::uint32_t, 2> key() const {
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  }
  /// The counter of a call. Elements beyond 2^36 share their numbers with tensor + 2^24.
  [[nodiscard]] POLYAK_LAW Array<std::uint32_t, 4> counter(std::uint64_t call) const {
    return {static_cast<std::uint32_t>(call),
            static_cast<std::uint32_t>(tensor + ((call >> 32) << 24)),
            static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)};
  }
};

/// The random bits of groups of 128 consecutive elements. A group has 16 bits for each element,
/// from the 128 bytes of eight calls: first the first two words of each call in turn, then the last
/// two, lower bytes first. Element k < 64 has bytes 2k (lower) and 2k + 1; element 64 + k has bytes
/// 2k + 1 (lower) and 2k + 2, where byte 128 is byte 0. So the bits of every element are uniform,
/// and no two elements share a higher byte, which nearly always decides.
struct RandomBits {
  static constexpr std::size_t group = 128;  ///< elements
  /// Groups that are computed together, so that the processor has work while a product takes time.
  static constexpr std::size_t groups = 4;
  static constexpr std::size_t elements = groups * group;
  static constexpr std::size_t none = ~std::size_t{0};
  static constexpr std::size_t key_words = 2 * std::size_t{RandomKey::rounds};
  static constexpr std::size_t most_lanes = 8;

  /// Of each group the bytes in order, then the same one byte further, for elements from 64 on.
  /// Loads from unaligned places would wait until both stores that they span reach the cache.
  alignas(64) Array<unsigned char, 2 * elements> bytes;
  /// The words of all rounds, once for each lane: a broadcast would cost as much as a product.
  alignas(64) Array<Array<std::uint64_t, most_lanes>, key_words> keys;
  bool scheduled = false;
  std::size_t block = none;   ///< the elements that the bytes are for: block * 512 + 0..511
  std::size_t needed = none;  ///< the bytes of elements from here on are never asked for

  /// Called once, before the first block. The words depend on the seed alone.
  POLYAK_LAW void schedule(const RandomKey& key) {
    auto k = key.key();
    for (std::size_t word = 0; word < key_words; word += 2) {
      for (std::size_t lane = 0; lane < most_lanes; ++lane) {
        keys[word][lane] = k[0];
        keys[word + 1][lane] = k[1];
      }
      k[0] += 0x9e3779b9u;
      k[1] += 0xbb67ae85u;
    }
    scheduled = true;
  }
  [[nodiscard]] POLYAK_LAW bool needs(std::size_t its_block, std::size_t its_group) const {
    return its_block * elements + its_group * group < needed;
  }
  /// The two bytes of an element; those of the next elements follow, up to a multiple of 64.
  [[nodiscard]] POLYAK_LAW const unsigned char* of(std::size_t element) const {
    return bytes.data() + element % elements * 2;
  }
  /// The 128 bytes of a group of the block, in order.
  [[nodiscard]] POLYAK_LAW const unsigned char* of_group(std::size_t number) const {
    return bytes.data() + number * 2 * group;
  }
};

/// The number made of two bytes.
[[nodiscard]] POLYAK_LAW std::uint32_t sixteen_bits(const unsigned char* bytes) {
  return static_cast<std::uint32_t>(bytes[0] | bytes[1] << 8);
}

/// Computes the bytes of one block with single numbers: the reference for every level.
POLYAK_LAW void fill_bytes(const RandomKey& key, std::size_t block, RandomBits& to) {
  constexpr std::size_t group = RandomBits::group, calls = 8 * RandomBits::groups;
  for (std::size_t call = 0; call < calls && to.needs(block, call / 8); ++call) {
    const auto words =
        philox4x32<RandomKey::rounds>(key.counter(calls * std::uint64_t{block} + call), key.key());
    unsigned char* const bytes = to.bytes.data() + call / 8 * 2 * group;
    for (std::size_t k = 0; k < 4; ++k) {
      for (std::size_t byte = 0; byte < 4; ++byte) {
        const std::size_t at = k / 2 * 64 + call % 8 * 8 + k % 2 * 4 + byte;
        bytes[at] = static_cast<unsigned char>(words[k] >> (8 * byte));
        bytes[group + (at + group - 1) % group] = bytes[at];
      }
    }
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
