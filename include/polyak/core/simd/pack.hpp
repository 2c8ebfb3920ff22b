// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs: SIMD lanes as values with IEEE arithmetic, and the choice of the level that runs them.
///
/// Only this file brings Eigen's arithmetic into the core. A pack of a dispatched level holds its
/// lanes in an array, which each operation loads and stores, so that no vector is passed between
/// functions compiled for different instruction sets. The compiler's optimiser removes the extra
/// loads and stores.
///
/// Above 300 lines: packs of all processors without intrinsics, each operation once.
#pragma once

#if defined(__CUDACC__)
#error \
    "polyak: nvcc does not compile the host's loops; a .cu file includes <polyak/cuda.hpp> and the methods it uses"
#endif

#include <Eigen/Core>

#include <cmath>
#include <cstring>

#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/vocabulary.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define POLYAK_X86 1
#include <immintrin.h>
#else
#define POLYAK_X86 0
#endif

// POLYAK_NO_DISPATCH, defined for a whole program, leaves only the level that the program is
// compiled for: one version of each loop instead of three, for programs that are built for one
// machine.
#if POLYAK_X86 && !defined(POLYAK_NO_DISPATCH)
#define POLYAK_X86_LEVELS 1
#else
#define POLYAK_X86_LEVELS 0
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The instruction set that a translation unit is compiled for, through Eigen's packets. The number
/// keeps units compiled with different flags from sharing instantiations.
template <int Target>
struct BaselineLevel {};
#if defined(__AVX512F__)
#define POLYAK_TARGET 3
#elif defined(__AVX__) && defined(__FMA__)
#define POLYAK_TARGET 2
#elif defined(__AVX__)
#define POLYAK_TARGET 1
#else
#define POLYAK_TARGET 0
#endif
#if POLYAK_X86_LEVELS
// Current processors use a wider level, so the lowest level is kept cheap to compile.
using Baseline = Scalars<POLYAK_TARGET_FUSES == 1, POLYAK_TARGET>;
#else
using Baseline = BaselineLevel<POLYAK_TARGET>;
#endif
#undef POLYAK_TARGET

/// Levels that convert and round at random lane by lane.
template <class Level>
inline constexpr bool lane_by_lane = false;
template <int Target>
inline constexpr bool lane_by_lane<BaselineLevel<Target>> = true;
template <bool Fused, int Target>
inline constexpr bool lane_by_lane<Scalars<Fused, Target>> = true;

/// Lanes of one register.
template <class T, class Level>
inline constexpr int native_lanes = static_cast<int>(Eigen::internal::packet_traits<T>::size);
template <class T, bool Fused, int Target>
inline constexpr int native_lanes<T, Scalars<Fused, Target>> = 1;

/// `Lanes` numbers of type T. The primary template joins two packs of half the width.
template <class T, int Lanes, class Level>
struct Pack : Vocabulary<Pack<T, Lanes, Level>> {
  static_assert(Lanes > native_lanes<T, Level> && Lanes % 2 == 0);
  using Scalar = T;
  using Half = Pack<T, Lanes / 2, Level>;
  struct Mask {
    typename Half::Mask low, high;
    friend POLYAK_INLINE Mask operator&(const Mask& a, const Mask& b) {
      return {a.low & b.low, a.high & b.high};
    }
    friend POLYAK_INLINE Mask operator|(const Mask& a, const Mask& b) {
      return {a.low | b.low, a.high | b.high};
    }
    friend POLYAK_INLINE Mask operator!(const Mask& a) { return {!a.low, !a.high}; }
  };
  Half low, high;

  Pack() = default;
  POLYAK_INLINE Pack(T value) : low(value), high(value) {}
  POLYAK_INLINE Pack(const Half& l, const Half& h) : low(l), high(h) {}
  POLYAK_INLINE static Pack load(const T* p) { return {Half::load(p), Half::load(p + Lanes / 2)}; }
  POLYAK_INLINE void store(T* p) const { low.store(p), high.store(p + Lanes / 2); }
  /// Stores past the caches. The address must be a multiple of the register's bytes. See
  /// fence_streams().
  POLYAK_INLINE void stream(T* p) const { low.stream(p), high.stream(p + Lanes / 2); }

  friend POLYAK_INLINE Pack operator+(const Pack& a, const Pack& b) {
    return {a.low + b.low, a.high + b.high};
  }
  friend POLYAK_INLINE Pack operator-(const Pack& a, const Pack& b) {
    return {a.low - b.low, a.high - b.high};
  }
  friend POLYAK_INLINE Pack operator*(const Pack& a, const Pack& b) {
    return {a.low * b.low, a.high * b.high};
  }
  friend POLYAK_INLINE Pack operator/(const Pack& a, const Pack& b) {
    return {a.low / b.low, a.high / b.high};
  }
  friend POLYAK_INLINE Pack fma(const Pack& a, const Pack& b, const Pack& c) {
    return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
  }
  friend POLYAK_INLINE Pack sqrt(const Pack& a) { return {sqrt(a.low), sqrt(a.high)}; }
  friend POLYAK_INLINE Pack max(const Pack& a, const Pack& b) {
    return {max(a.low, b.low), max(a.high, b.high)};
  }

  friend POLYAK_INLINE Mask operator<(const Pack& a, const Pack& b) {
    return {a.low < b.low, a.high < b.high};
  }
  friend POLYAK_INLINE Mask operator<=(const Pack& a, const Pack& b) {
    return {a.low <= b.low, a.high <= b.high};
  }
  friend POLYAK_INLINE Mask operator==(const Pack& a, const Pack& b) {
    return {a.low == b.low, a.high == b.high};
  }
  friend POLYAK_INLINE Pack select(const Mask& mask, const Pack& a, const Pack& b) {
    return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
  }

  friend POLYAK_INLINE Pack bit_and(const Pack& a, const Pack& b) {
    return {bit_and(a.low, b.low), bit_and(a.high, b.high)};
  }
  friend POLYAK_INLINE Pack bit_or(const Pack& a, const Pack& b) {
    return {bit_or(a.low, b.low), bit_or(a.high, b.high)};
  }
  friend POLYAK_INLINE Pack bit_xor(const Pack& a, const Pack& b) {
    return {bit_xor(a.low, b.low), bit_xor(a.high, b.high)};
  }
  friend POLYAK_INLINE Pack bit_andnot(const Pack& a, const Pack& b) {
    return {bit_andnot(a.low, b.low), bit_andnot(a.high, b.high)};
  }
  friend POLYAK_INLINE Pack nearest(const Pack& a) { return {nearest(a.low), nearest(a.high)}; }
  friend POLYAK_INLINE Pack shift_to_exponent(const Pack& a) {
    return {shift_to_exponent(a.low), shift_to_exponent(a.high)};
  }
};

// ---- Eigen's packets: whatever the translation unit is compiled for --------------------------

/// Applies a function of single numbers to each lane of a packet.
template <class Packet, class Function>
POLYAK_INLINE Packet each_lane(const Packet& a, Function function) {
  using T = typename Eigen::internal::unpacket_traits<Packet>::type;
  T values[sizeof(Packet) / sizeof(T)];
  Eigen::internal::pstoreu(values, a);
  for (T& value : values) value = function(Number<T>(value)).value;
  return Eigen::internal::ploadu<Packet>(values);
}

// Eigen 3.4's own psqrt is an approximation that turns infinity into NaN.
#if POLYAK_X86
POLYAK_INLINE __m128 ieee_sqrt(__m128 a) { return _mm_sqrt_ps(a); }
POLYAK_INLINE __m128d ieee_sqrt(__m128d a) { return _mm_sqrt_pd(a); }
#if defined(__AVX__)
POLYAK_INLINE __m256 ieee_sqrt(__m256 a) { return _mm256_sqrt_ps(a); }
POLYAK_INLINE __m256d ieee_sqrt(__m256d a) { return _mm256_sqrt_pd(a); }
#endif
#if defined(__AVX512F__)
POLYAK_INLINE __m512 ieee_sqrt(__m512 a) { return _mm512_maskz_sqrt_ps(0xffff, a); }
POLYAK_INLINE __m512d ieee_sqrt(__m512d a) { return _mm512_maskz_sqrt_pd(0xff, a); }
#endif
#else
template <class Packet>
POLYAK_INLINE Packet ieee_sqrt(const Packet& a) {
  return each_lane(a, [](auto value) { return sqrt(value); });
}
#endif

template <class Packet>
POLYAK_INLINE Packet nearest_packet(const Packet& a) {
  return each_lane(a, [](auto value) { return nearest(value); });
}
template <class Packet>
POLYAK_INLINE Packet shifted_packet(const Packet& a) {
  return each_lane(a, [](auto value) { return shift_to_exponent(value); });
}
#if POLYAK_X86
#if defined(__SSE4_1__)
POLYAK_INLINE __m128 nearest_packet(__m128 a) { return _mm_round_ps(a, 8); }
POLYAK_INLINE __m128d nearest_packet(__m128d a) { return _mm_round_pd(a, 8); }
#endif
POLYAK_INLINE __m128 shifted_packet(__m128 a) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(a), 23));
}
POLYAK_INLINE __m128d shifted_packet(__m128d a) {
  return _mm_castsi128_pd(_mm_slli_epi64(_mm_castpd_si128(a), 52));
}
#if defined(__AVX__)
POLYAK_INLINE __m256 nearest_packet(__m256 a) { return _mm256_round_ps(a, 8); }
POLYAK_INLINE __m256d nearest_packet(__m256d a) { return _mm256_round_pd(a, 8); }
#endif
#if defined(__AVX2__)
POLYAK_INLINE __m256 shifted_packet(__m256 a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}
POLYAK_INLINE __m256d shifted_packet(__m256d a) {
  return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), 52));
}
#endif
#if defined(__AVX512F__)
// Without optimisation these are macros in g++, which pass the mask as a signed number.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
POLYAK_INLINE __m512 nearest_packet(__m512 a) { return _mm512_maskz_roundscale_ps(0xffff, a, 8); }
POLYAK_INLINE __m512d nearest_packet(__m512d a) { return _mm512_maskz_roundscale_pd(0xff, a, 8); }
#pragma GCC diagnostic pop
POLYAK_INLINE __m512 shifted_packet(__m512 a) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_castps_si512(a), 23));
}
POLYAK_INLINE __m512d shifted_packet(__m512d a) {
  return _mm512_castsi512_pd(_mm512_maskz_slli_epi64(0xff, _mm512_castpd_si512(a), 52));
}
#endif
#endif

#if POLYAK_X86
POLYAK_INLINE void stream_packet(float* to, __m128 a) { _mm_stream_ps(to, a); }
POLYAK_INLINE void stream_packet(double* to, __m128d a) { _mm_stream_pd(to, a); }
#if defined(__AVX__)
POLYAK_INLINE void stream_packet(float* to, __m256 a) { _mm256_stream_ps(to, a); }
POLYAK_INLINE void stream_packet(double* to, __m256d a) { _mm256_stream_pd(to, a); }
#endif
#if defined(__AVX512F__)
POLYAK_INLINE void stream_packet(float* to, __m512 a) { _mm512_stream_ps(to, a); }
POLYAK_INLINE void stream_packet(double* to, __m512d a) { _mm512_stream_pd(to, a); }
#endif
#else
template <class T, class Packet>
POLYAK_INLINE void stream_packet(T* to, const Packet& a) {
  Eigen::internal::pstoreu(to, a);
}
#endif

/// Orders stores past the caches before all later stores; ordinary stores have that order anyway.
/// Call it before another thread learns that the stores are done.
inline void fence_streams() {
#if POLYAK_X86
  _mm_sfence();
#endif
}

template <class T, int Lanes, int Target>
requires(Lanes ==
         native_lanes<T, BaselineLevel<Target>>) struct Pack<T, Lanes, BaselineLevel<Target>>
    : Vocabulary<Pack<T, Lanes, BaselineLevel<Target>>> {
  using Scalar = T;
  using Packet = typename Eigen::internal::packet_traits<T>::type;
  struct Mask {
    Packet p;
    friend POLYAK_INLINE Mask operator&(const Mask& a, const Mask& b) {
      return {Eigen::internal::pand(a.p, b.p)};
    }
    friend POLYAK_INLINE Mask operator|(const Mask& a, const Mask& b) {
      return {Eigen::internal::por(a.p, b.p)};
    }
    friend POLYAK_INLINE Mask operator!(const Mask& a) {
      return {Eigen::internal::pxor(a.p, Eigen::internal::ptrue(a.p))};
    }
  };
  Packet p;

  Pack() = default;
  POLYAK_INLINE Pack(T value) : p(Eigen::internal::pset1<Packet>(value)) {}
  struct Wrap {};
  POLYAK_INLINE Pack(Wrap, const Packet& packet) : p(packet) {}
  POLYAK_INLINE static Pack load(const T* from) {
    return {Wrap{}, Eigen::internal::ploadu<Packet>(from)};
  }
  POLYAK_INLINE void store(T* to) const { Eigen::internal::pstoreu(to, p); }
  POLYAK_INLINE void stream(T* to) const { stream_packet(to, p); }

  friend POLYAK_INLINE Pack operator+(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::padd(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack operator-(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::psub(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack operator*(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pmul(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack operator/(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pdiv(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack fma(const Pack& a, const Pack& b, const Pack& c) {
    return {Wrap{}, Eigen::internal::pmadd(a.p, b.p, c.p)};
  }
  friend POLYAK_INLINE Pack sqrt(const Pack& a) { return {Wrap{}, ieee_sqrt(a.p)}; }
  friend POLYAK_INLINE Pack max(const Pack& a, const Pack& b) { return select(b < a, a, b); }

  friend POLYAK_INLINE Mask operator<(const Pack& a, const Pack& b) {
    return {Eigen::internal::pcmp_lt(a.p, b.p)};
  }
  friend POLYAK_INLINE Mask operator<=(const Pack& a, const Pack& b) {
    return {Eigen::internal::pcmp_le(a.p, b.p)};
  }
  friend POLYAK_INLINE Mask operator==(const Pack& a, const Pack& b) {
    return {Eigen::internal::pcmp_eq(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack select(const Mask& mask, const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pselect(mask.p, a.p, b.p)};
  }

  friend POLYAK_INLINE Pack bit_and(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pand(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack bit_or(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::por(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack bit_xor(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pxor(a.p, b.p)};
  }
  friend POLYAK_INLINE Pack bit_andnot(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pandnot(b.p, a.p)};
  }
  friend POLYAK_INLINE Pack nearest(const Pack& a) { return {Wrap{}, nearest_packet(a.p)}; }
  friend POLYAK_INLINE Pack shift_to_exponent(const Pack& a) {
    return {Wrap{}, shifted_packet(a.p)};
  }
};

// ---- packs of one type from memory and packs of another ---------------------------------------

template <class P, class T, int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<T, Level>) POLYAK_INLINE
    void load_bits(const P* from, Pack<T, Lanes, Level>& to) {
  T values[static_cast<std::size_t>(Lanes)];
  for (int k = 0; k < Lanes; ++k) values[k] = widened<T>(from, static_cast<std::size_t>(k));
  to = Pack<T, Lanes, Level>::load(values);
}
template <class P, class T, int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<T, Level>) POLYAK_INLINE
    void store_bits(P* to, const Pack<T, Lanes, Level>& from) {
  T values[static_cast<std::size_t>(Lanes)];
  from.store(values);
  for (int k = 0; k < Lanes; ++k) narrow_into(to, static_cast<std::size_t>(k), values[k]);
}
template <class P, class T, int Lanes, class Level>
requires(lane_by_lane<Level>) POLYAK_INLINE
    void stream_bits(P* to, const Pack<T, Lanes, Level>& from) {
  store_bits(to, from);  // converted one by one, so the store does not matter for speed
}
template <int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<float, Level>) POLYAK_INLINE
    void widen(const Pack<float, Lanes, Level>& from, Pack<double, Lanes, Level>& to) {
  float singles[static_cast<std::size_t>(Lanes)];
  double doubles[static_cast<std::size_t>(Lanes)];
  from.store(singles);
  for (int k = 0; k < Lanes; ++k) doubles[k] = static_cast<double>(singles[k]);
  to = Pack<double, Lanes, Level>::load(doubles);
}
template <int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<float, Level>) POLYAK_INLINE
    void narrow(const Pack<double, Lanes, Level>& from, Pack<float, Lanes, Level>& to) {
  float singles[static_cast<std::size_t>(Lanes)];
  double doubles[static_cast<std::size_t>(Lanes)];
  from.store(doubles);
  for (int k = 0; k < Lanes; ++k) singles[k] = static_cast<float>(doubles[k]);
  to = Pack<float, Lanes, Level>::load(singles);
}

// Packs of several registers, half by half.

template <class T, int Lanes, class Level>
inline constexpr bool several_registers = (Lanes > native_lanes<T, Level>);

template <class P, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void load_bits(
    const P* from, Pack<float, Lanes, Level>& to) {
  load_bits(from, to.low);
  load_bits(from + Lanes / 2, to.high);
}
template <class P, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void store_bits(
    P* to, const Pack<float, Lanes, Level>& from) {
  store_bits(to, from.low);
  store_bits(to + Lanes / 2, from.high);
}
template <class P, int Lanes, class Level>
requires(several_registers<float, Lanes, Level> && !lane_by_lane<Level>) POLYAK_INLINE
    void stream_bits(P* to, const Pack<float, Lanes, Level>& from) {
  stream_bits(to, from.low);
  stream_bits(to + Lanes / 2, from.high);
}
template <int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void widen(
    const Pack<float, Lanes, Level>& from, Pack<double, Lanes, Level>& to) {
  widen(from.low, to.low);
  widen(from.high, to.high);
}
template <int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void narrow(
    const Pack<double, Lanes, Level>& from, Pack<float, Lanes, Level>& to) {
  narrow(from.low, to.low);
  narrow(from.high, to.high);
}

/// A pack of the carrier type from an array of P.
template <class P, int Lanes, class Level>
POLYAK_INLINE void load_pack(const P* from, Pack<carrier_t<P>, Lanes, Level>& to) {
  if constexpr (scalar_bytes<P> == 2) {
    load_bits(from, to);
  } else {
    to = Pack<carrier_t<P>, Lanes, Level>::load(from);
  }
}

template <class P, int Lanes, class Level>
POLYAK_INLINE void store_pack(P* to, const Pack<carrier_t<P>, Lanes, Level>& from) {
  if constexpr (scalar_bytes<P> == 2) {
    store_bits(to, from);
  } else {
    from.store(to);
  }
}

/// Loads the first `count` lanes, fewer than all; the other lanes are 0.
template <class P, int Lanes, class Level>
POLYAK_INLINE void load_part(const P* from, std::size_t count,
                             Pack<carrier_t<P>, Lanes, Level>& to) {
  alignas(cache_line) P copy[static_cast<std::size_t>(Lanes)];
  std::memset(static_cast<void*>(copy), 0, sizeof copy);
  std::memcpy(static_cast<void*>(copy), from, count * scalar_bytes<P>);
  load_pack(static_cast<const P*>(copy), to);
}
template <class P, int Lanes, class Level>
POLYAK_INLINE void store_part(P* to, std::size_t count,
                              const Pack<carrier_t<P>, Lanes, Level>& from) {
  alignas(cache_line) P copy[static_cast<std::size_t>(Lanes)];
  store_pack(copy, from);
  std::memcpy(static_cast<void*>(to), copy, count * scalar_bytes<P>);
}

/// store_pack past the caches. `to` must be a multiple of the bytes that it writes.
template <class P, int Lanes, class Level>
POLYAK_INLINE void stream_pack(P* to, const Pack<carrier_t<P>, Lanes, Level>& from) {
  if constexpr (scalar_bytes<P> == 2) {
    stream_bits(to, from);
  } else {
    from.stream(to);
  }
}

/// Converts between the carrier of the parameters and the type of a state, in either direction.
template <class From, class To, int Lanes, class Level>
POLYAK_INLINE void convert(const Pack<From, Lanes, Level>& from, Pack<To, Lanes, Level>& to) {
  if constexpr (std::same_as<From, To>) {
    to = from;
  } else if constexpr (std::same_as<To, double>) {
    widen(from, to);
  } else {
    narrow(from, to);
  }
}

/// The level of the packs in a loop whose memory all has one type, except at the loop's end. Such
/// packs may permute the elements, in the same way for all streams.
template <class L, class Memory>
struct WholePacks {
  using Level = L;
};

// ---- rounding at random -----------------------------------------------------------------------

template <class Level>
requires(lane_by_lane<Level>) POLYAK_INLINE
    void fill_bytes(Level, const RandomKey& key, std::size_t block, RandomBits& to) {
  fill_bytes(key, block, to);
}

/// Rounds a pack into 16-bit numbers at random, each lane by two bytes.
template <class S, int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<float, Level>) POLYAK_INLINE
    void store_at_random(S* to, const Pack<float, Lanes, Level>& from,
                         const unsigned char* random) {
  float values[static_cast<std::size_t>(Lanes)];
  from.store(values);
  for (std::size_t k = 0; k < static_cast<std::size_t>(Lanes); ++k) {
    narrow_into(to, k, values[k], sixteen_bits(random + 2 * k));
  }
}

template <class S, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void store_at_random(
    S* to, const Pack<float, Lanes, Level>& from, const unsigned char* random) {
  store_at_random(to, from.low, random);
  store_at_random(to + Lanes / 2, from.high, random + Lanes);  // two bytes a lane
}

/// Rounds a pack into 16-bit numbers, and stores the excess of each rounded number over the exact
/// one. The excess of a number that is not finite is 0; subtracting an excess of 0 keeps the sign
/// of a zero.
template <class S, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void store_split(
    S* to, S* excess, const Pack<float, Lanes, Level>& from) {
  store_split(to, excess, from.low);
  store_split(to + Lanes / 2, excess + Lanes / 2, from.high);
}
template <class S, int Lanes, class Level>
requires(!several_registers<float, Lanes, Level>) POLYAK_INLINE
    void store_split(S* to, S* excess, const Pack<float, Lanes, Level>& from) {
  Pack<float, Lanes, Level> rounded;
  store_pack(to, from);
  load_pack(static_cast<const S*>(to), rounded);
  const Pack<float, Lanes, Level> zero(0.0f);
  store_pack(excess, if_zero(rounded - rounded, rounded - from, zero));
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#include <polyak/core/simd/pack_x86.hpp>
