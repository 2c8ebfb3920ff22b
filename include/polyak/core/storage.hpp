// SPDX-License-Identifier: Apache-2.0
/// @file
/// How slots store the values of a law: rounded to nearest, rounded at random, or with the rounding
/// errors in a second array. The law does not depend on the way of storing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// How an average, or the weights of an optimizer, are stored, and so what happens to changes below
/// their resolution.
enum class Accumulate : std::uint8_t {
  plain,       ///< rounded to nearest: an average stalls within half an ulp / gain of a constant
               ///< input, and a weight within half an ulp / learning rate of a constant update
  kahan,       ///< a second slot of the same type keeps the rounding errors
  stochastic,  ///< 16 bits: rounded at random, right in expectation, the same bits for the same
               ///< seed, call, tensor and element
  float64,     ///< averages of float, stored in double
  master,      ///< 16-bit weights of an optimizer: a slot of 16 bits keeps the rest of a float
  automatic,   ///< weights of an optimizer: plain, but 16-bit weights that are too large for the
               ///< learning rate to move them are refused at the first step
};
[[nodiscard]] constexpr std::string_view name_of(Accumulate value) {
  switch (value) {
    case Accumulate::plain:
      return "plain";
    case Accumulate::kahan:
      return "kahan";
    case Accumulate::stochastic:
      return "stochastic";
    case Accumulate::master:
      return "master";
    case Accumulate::automatic:
      return "automatic";
    default:
      return "float64";
  }
}

namespace detail {

/// A number as the sum of two, for a running sum that keeps its rounding errors: Kahan's summation
/// with Knuth's exact error of an addition.
template <class V>
struct Compensated {
  V high, low;

  Compensated() = default;
  POLYAK_LAW Compensated(const V& h, const V& l) : high(h), low(l) {}
  POLYAK_LAW Compensated(const Compensated& other) : high(other.high), low(other.low) {}
  POLYAK_LAW Compensated& operator=(const Compensated& other) {
    high = other.high;
    low = other.low;
    return *this;
  }
  POLYAK_LAW Compensated& operator=(const V& value) {
    high = value;
    low = V(0);
    return *this;
  }
  POLYAK_LAW operator V() const { return high; }
  friend POLYAK_LAW V half_difference(const V& a, const Compensated& b) {
    return fma(V(-0.5f), b.low, half_difference(a, b.high));
  }
  friend POLYAK_LAW Compensated interpolate(const Compensated& a, const V& b, const V& c) {
    return fma(c + c, half_difference(b, a), a);
  }
  friend POLYAK_LAW Compensated fma(const V& a, const V& b, const Compensated& c) {
    const V change = fma(a, b, c.low);
    const V sum = c.high + change;
    const V arrived = sum - c.high;
    return {sum, (c.high - (sum - arrived)) + (change - arrived)};
  }
  friend POLYAK_LAW Compensated if_zero(const V& test, const V& then, const Compensated& other) {
    return {if_zero(test, then, other.high), if_zero(test, V(0), other.low)};
  }
  friend POLYAK_LAW Compensated if_zero(const V& test, const Compensated& then,
                                        const Compensated& other) {
    return {if_zero(test, then.high, other.high), if_zero(test, then.low, other.low)};
  }
};

/// One array of S; 16-bit numbers are computed in float.
template <class S>
struct Plain {
  static constexpr int arrays = 1;
  struct Key {};
  struct Scratch {};
  template <int Lanes, class Level>
  using Value = Pack<carrier_t<S>, Lanes, Level>;

  POLYAK_INLINE static void begin_tensor(Scratch&, const Key&, std::size_t) {}

  template <int Lanes, class Level>
  POLYAK_INLINE static void load(S* const* from, std::size_t at,
                                 Pack<carrier_t<S>, Lanes, Level>& to) {
    load_pack(static_cast<const S*>(from[0] + at), to);
  }
  template <int Lanes, class Level>
  POLYAK_INLINE static void store(S* const* to, std::size_t at,
                                  const Pack<carrier_t<S>, Lanes, Level>& from, Scratch&,
                                  const Key&) {
    store_pack(to[0] + at, from);
  }
};

/// Two arrays of S. For floats, the two parts of a compensated sum. For 16-bit numbers, the rounded
/// value and its excess over the exact value; a float holds their difference exactly.
template <class S>
struct Kahan : Plain<S> {
  static constexpr int arrays = 2;
  using typename Plain<S>::Key;
  using typename Plain<S>::Scratch;
  template <int Lanes, class Level>
  using Value = std::conditional_t<scalar_bytes<S> == 2, Pack<float, Lanes, Level>,
                                   Compensated<Pack<S, Lanes, Level>>>;

  template <class V>
  POLYAK_INLINE static void load(S* const* from, std::size_t at, Compensated<V>& to) {
    load_pack(static_cast<const S*>(from[0] + at), to.high);
    load_pack(static_cast<const S*>(from[1] + at), to.low);
  }
  template <class V>
  POLYAK_INLINE static void store(S* const* to, std::size_t at, const Compensated<V>& from,
                                  Scratch&, const Key&) {
    store_pack(to[0] + at, from.high);
    store_pack(to[1] + at, from.low);
  }
  template <int Lanes, class Level>
  POLYAK_INLINE static void load(S* const* from, std::size_t at, Pack<float, Lanes, Level>& to) {
    Pack<float, Lanes, Level> low;
    load_pack(static_cast<const S*>(from[0] + at), to);
    load_pack(static_cast<const S*>(from[1] + at), low);
    to = to - low;
  }
  template <int Lanes, class Level>
  POLYAK_INLINE static void store(S* const* to, std::size_t at,
                                  const Pack<float, Lanes, Level>& from, Scratch&, const Key&) {
    store_split(to[0] + at, to[1] + at, from);
  }
};

/// One array of 16-bit S, rounded at random.
template <class S>
struct Stochastic : Plain<S> {
  using Key = RandomKey;
  using Scratch = RandomBits;

  POLYAK_INLINE static void begin_tensor(Scratch& random, const Key& key, std::size_t size) {
    if (!random.scheduled) random.schedule(key);
    random.block = RandomBits::none;
    random.needed = size;
  }
  template <int Lanes, class Level>
  POLYAK_INLINE static void store(S* const* to, std::size_t at,
                                  const Pack<float, Lanes, Level>& from, Scratch& random,
                                  const Key& key) {
    const std::size_t block = at / RandomBits::elements;
    if (random.block != block) {
      fill_bytes(Level{}, key, block, random);
      random.block = block;
    }
    store_at_random(to[0] + at, from, random.of(at));
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
