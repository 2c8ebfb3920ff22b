// SPDX-License-Identifier: Apache-2.0
/// @file
/// Kept weights: a law updates its weights in a wider type, and a slot beside them keeps what their
/// own type has no room for.
///
///   bfloat16, master:  float = weight * 2^16 + rest, as integers; the weight is the float rounded
///                      to nearest, ties away from 0
///   half, master:      float = weight + rest * 2^(e - 24), where 2^e <= |weight|, e >= -15; the
///                      weight is the float rounded to nearest, ties to even
///   kahan:             value = weight - rest, where rest has the type of the weight
///   stochastic:        no slot; the weight is rounded at random
///
/// `rest` of a master has 16 bits, and weight and rest are the float exactly. The exceptions are
/// halves below 2^-16, whose floats are multiples of 2^-39, and halves that overflow.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Weights of P whose digits an optimizer with state of S can keep.
template <class P, class S>
inline constexpr bool keeps_digits = scalar_bytes<element_t<P>> == 2 ||
                                     (std::same_as<element_t<P>, float> && std::same_as<S, double>);

// ---- masters of single numbers ------------------------------------------------------------------

/// The float of a weight, which is given as a float, and of its rest. If the weight was set to
/// another value in the meantime, the result is within half an ulp of that value, and 0, infinity
/// and NaN stay what they are.
template <class P>
requires std::same_as<P, Eigen::bfloat16>
[[nodiscard]] POLYAK_LAW float joined(float weight, std::int16_t rest) {
  const std::uint32_t bits = bits_of(weight);
  const auto magnitude = static_cast<std::int32_t>(bits & 0x7fffffffu);
  std::int32_t sum = magnitude + rest;
  sum = sum < 0 ? 0 : sum;
  sum = magnitude == 0x7f800000 && rest > 0 ? magnitude : sum;
  return float_of((bits & 0x80000000u) | static_cast<std::uint32_t>(sum));
}
/// The weight of a float, as a float, and the rest.
template <class P>
requires std::same_as<P, Eigen::bfloat16>
[[nodiscard]] POLYAK_LAW float split(float value, std::int16_t& rest) {
  const std::uint32_t bits = bits_of(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t nearest = nan ? bits | 0x00400000u : bits + 0x8000u;
  rest = nan ? std::int16_t{0} : static_cast<std::int16_t>(bits & 0xffffu);
  return float_of(nearest & 0xffff0000u);
}

/// The exponent bits of a half as a float; those of 2^-15 below that.
[[nodiscard]] POLYAK_LAW std::uint32_t half_exponent(float weight) {
  const std::uint32_t bits = bits_of(weight) & 0x7f800000u, least = 112u << 23;
  return bits < least ? least : bits;
}
template <class P>
requires std::same_as<P, Eigen::half>
[[nodiscard]] POLYAK_LAW float joined(float weight, std::int16_t rest) {
  return weight + static_cast<float>(rest) * float_of(half_exponent(weight) - (24u << 23));
}
template <class P>
requires std::same_as<P, Eigen::half>
[[nodiscard]] POLYAK_LAW float split(float value, std::int16_t& rest) {
  const float weight = float_from_half(half_from_float(value));
  const float excess = weight - weight == 0 ? value - weight : 0;
  const float units = excess * float_of((278u << 23) - half_exponent(weight));
  rest = static_cast<std::int16_t>(std::rint(units));
  return weight;
}

// ---- single numbers
// ------------------------------------------------------------------------------

/// How the weights of P are kept, and where the rests are. All fields have 8 bytes, because the
/// device compares kernel arguments byte by byte.
template <class P>
struct WeightKey {
  std::uint64_t how = 0;       ///< Accumulate::master, kahan or stochastic
  std::uint64_t reads = 0;     ///< 1: the law writes other memory, and the rests stay
  std::byte* rests = nullptr;  ///< of the tensor; none with stochastic
  RandomKey random = {};

  [[nodiscard]] POLYAK_LAW bool is(Accumulate one) const {
    return how == static_cast<std::uint64_t>(one);
  }
  /// The number of the tensor, and the place of its first element in the slot.
  POLYAK_LAW void move_to(std::size_t tensor, std::size_t offset) {
    random.tensor = tensor;
    if (rests != nullptr) rests += offset * scalar_bytes<P>;
  }
  [[nodiscard]] POLYAK_LAW P* compensations() const { return reinterpret_cast<P*>(rests); }
  [[nodiscard]] POLYAK_LAW std::int16_t* low_bits() const {
    return reinterpret_cast<std::int16_t*>(rests);
  }
};

/// The value of a weight, by its rest at `rest`; with stochastic, none is read.
template <class C, class P>
[[nodiscard]] POLYAK_LAW C read_weight(const WeightKey<P>& key, carrier_t<P> weight,
                                       const void* rest) {
  if (key.is(Accumulate::kahan)) {
    return static_cast<C>(weight) - widened<C>(static_cast<const P*>(rest), 0);
  }
  if constexpr (scalar_bytes<P> == 2) {
    if (key.is(Accumulate::master)) {
      std::int16_t low;
      std::memcpy(&low, rest, 2);
      return static_cast<C>(joined<P>(weight, low));
    }
  }
  return static_cast<C>(weight);
}
/// Rounds a value to a weight, and puts the rest at `rest`.
template <class P, class C>
[[nodiscard]] POLYAK_LAW carrier_t<P> write_weight(const WeightKey<P>& key, C value, void* rest,
                                                   [[maybe_unused]] std::uint32_t random) {
  if constexpr (scalar_bytes<P> == 2) {
    const auto single = static_cast<float>(value);
    std::uint16_t rounded = 0;
    auto* const weight = reinterpret_cast<P*>(&rounded);
    if (key.reads == 0 && key.is(Accumulate::master)) {
      std::int16_t low;
      const float high = split<P>(single, low);
      std::memcpy(rest, &low, 2);
      return high;
    }
    if (key.reads == 0 && key.is(Accumulate::stochastic)) {
      narrow_into(weight, 0, single, random);
      return widened<float>(weight, 0);
    }
    narrow_into(weight, 0, single);
    const float high = widened<float>(weight, 0);
    if (key.reads == 0) {
      narrow_into(static_cast<P*>(rest), 0, high - high == 0 ? high - single : 0.0f);
    }
    return high;
  } else {
    const auto weight = static_cast<P>(value);
    const C high = static_cast<C>(weight);
    if (key.reads == 0)
      *static_cast<P*>(rest) = static_cast<P>(high - high == 0 ? high - value : 0);
    return weight;
  }
}

// ---- the storage of a law -----------------------------------------------------------------------

/// Plain slots of S, and kept weights of P.
template <class S, class P>
struct KeptWeights : Plain<S> {
  using Weight = P;
  using Key = WeightKey<P>;
  static constexpr bool sixteen = scalar_bytes<P> == 2;
  using Scratch = std::conditional_t<sixteen, RandomBits, typename Plain<S>::Scratch>;

  POLYAK_INLINE static void begin_tensor([[maybe_unused]] Scratch& scratch, const Key& key,
                                         [[maybe_unused]] std::size_t size) {
    if constexpr (sixteen) {
      if (key.is(Accumulate::stochastic)) {
        Stochastic<P>::begin_tensor(scratch, key.random, size);
      }
    }
  }
  template <int Lanes, class Level>
  POLYAK_INLINE static void store(S* const* to, std::size_t at,
                                  const Pack<carrier_t<S>, Lanes, Level>& from, Scratch&,
                                  const Key&) {
    store_pack(to[0] + at, from);
  }

  /// The values of the weights at `at`.
  template <class Weights, class Values>
  POLYAK_INLINE static void read_weights(const Key& key, std::size_t at, const Weights& weights,
                                         Values& values) {
    if (key.is(Accumulate::kahan)) {
      Weights rest;
      load_pack(static_cast<const P*>(key.compensations() + at), rest);
      Values wide;
      convert(weights, values);
      convert(rest, wide);
      values = values - wide;
      return;
    }
    if constexpr (sixteen) {
      if (key.is(Accumulate::master)) {
        Weights whole = weights;
        join_lanes(static_cast<const P*>(nullptr), key.low_bits() + at, whole);
        convert(whole, values);
        return;
      }
    }
    convert(weights, values);
  }

  /// Rounds the values to the weights, and stores the rests.
  template <class Values, int Lanes, class Level>
  POLYAK_INLINE static void write_weights(const Key& key, std::size_t at, const Values& values,
                                          Pack<carrier_t<P>, Lanes, Level>& weights,
                                          [[maybe_unused]] Scratch& scratch) {
    convert(values, weights);
    if constexpr (sixteen) {
      alignas(cache_line) P rounded[static_cast<std::size_t>(Lanes)];
      if (key.reads != 0) {
        store_pack(rounded, weights);
      } else if (key.is(Accumulate::master)) {
        split_lanes(static_cast<const P*>(nullptr), key.low_bits() + at, weights);
        return;
      } else if (key.is(Accumulate::kahan)) {
        store_split(rounded, key.compensations() + at, weights);
      } else {
        const std::size_t block = at / RandomBits::elements;
        if (scratch.block != block) {
          fill_bytes(Level{}, key.random, block, scratch);
          scratch.block = block;
        }
        store_at_random(rounded, weights, scratch.of(at));
      }
      load_pack(static_cast<const P*>(rounded), weights);
    } else if (key.reads == 0) {
      Values nearest;
      convert(weights, nearest);
      Pack<carrier_t<P>, Lanes, Level> rest;
      convert(if_zero(nearest - nearest, nearest - values, Values(0)), rest);
      store_pack(key.compensations() + at, rest);
    }
  }
};

/// `BoundLaw<L, S, Keeping<P>::template Slots>`
template <class P>
struct Keeping {
  template <class S>
  using Slots = KeptWeights<S, P>;
};

template <class Storage>
concept KeepsWeights = requires {
  typename Storage::Weight;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
