// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs: SIMD lanes as values with IEEE arithmetic, and the choice of the level that runs them.
///
/// This is the one place where Eigen enters the core. A pack of a dispatched level keeps its lanes
/// in an array, which each operation loads and stores: so no vector crosses a call whose two sides
/// were compiled for different instruction sets. Optimisers remove the round trips.
#pragma once

#if defined(__CUDACC__)
#error \
    "polyak: nvcc does not compile the host's loops; a .cu file includes <polyak/cuda.hpp> and the methods it uses"
#endif

#include <Eigen/Core>

#include <cstring>

#include <polyak/core/law.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>

#if defined(__x86_64__) && defined(__GNUC__)
#define POLYAK_X86 1
#include <immintrin.h>
#else
#define POLYAK_X86 0
#endif

// Defined for a whole program, POLYAK_NO_DISPATCH leaves only the level that it is compiled for:
// one form of each loop instead of three, for programs that are built for one machine.
#if POLYAK_X86 && !defined(POLYAK_NO_DISPATCH)
#define POLYAK_X86_LEVELS 1
#else
#define POLYAK_X86_LEVELS 0
#endif

namespace polyak {
inline namespace v0 {
namespace detail {

/// The instruction set that a translation unit is compiled for, through Eigen's packets. The number
/// keeps units compiled with different flags from sharing instantiations.
template <int Flags>
struct BaselineLevel {};
#if defined(__AVX512F__)
using Baseline = BaselineLevel<3>;
#elif defined(__AVX__) && defined(__FMA__)
using Baseline = BaselineLevel<2>;
#elif defined(__AVX__)
using Baseline = BaselineLevel<1>;
#else
using Baseline = BaselineLevel<0>;
#endif

/// Lanes of one register.
template <class T, class Level>
inline constexpr int native_lanes = static_cast<int>(Eigen::internal::packet_traits<T>::size);

/// `Lanes` numbers of type T. The primary template joins two packs of half the width.
template <class T, int Lanes, class Level>
struct Pack {
  static_assert(Lanes > native_lanes<T, Level> && Lanes % 2 == 0);
  using Half = Pack<T, Lanes / 2, Level>;
  Half low, high;

  Pack() = default;
  POLYAK_INLINE Pack(T value) : low(value), high(value) {}
  POLYAK_INLINE Pack(const Half& l, const Half& h) : low(l), high(h) {}
  POLYAK_INLINE static Pack load(const T* p) { return {Half::load(p), Half::load(p + Lanes / 2)}; }
  POLYAK_INLINE void store(T* p) const { low.store(p), high.store(p + Lanes / 2); }
  /// Stores past the caches, to a multiple of the register's bytes. See fence_streams().
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
  friend POLYAK_INLINE Pack if_zero(const Pack& test, const Pack& then, const Pack& otherwise) {
    return {if_zero(test.low, then.low, otherwise.low),
            if_zero(test.high, then.high, otherwise.high)};
  }
};

// ---- Eigen's packets: whatever the translation unit is compiled for --------------------------

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
  using T = typename Eigen::internal::unpacket_traits<Packet>::type;
  T values[sizeof(Packet) / sizeof(T)];
  Eigen::internal::pstoreu(values, a);
  for (T& value : values) value = std::sqrt(value);
  return Eigen::internal::ploadu<Packet>(values);
}
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

/// Orders stores past the caches before all later stores, as ordinary ones are by themselves: due
/// before another thread is told that they are done.
inline void fence_streams() {
#if POLYAK_X86
  _mm_sfence();
#endif
}

template <class T, int Lanes, int Flags>
requires(Lanes ==
         native_lanes<T, BaselineLevel<Flags>>) struct Pack<T, Lanes, BaselineLevel<Flags>> {
  using Packet = typename Eigen::internal::packet_traits<T>::type;
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
  friend POLYAK_INLINE Pack max(const Pack& a, const Pack& b) {
    return {Wrap{}, Eigen::internal::pselect(Eigen::internal::pcmp_lt(b.p, a.p), a.p, b.p)};
  }
  friend POLYAK_INLINE Pack if_zero(const Pack& test, const Pack& then, const Pack& otherwise) {
    const Packet zero = Eigen::internal::pset1<Packet>(T(0));
    return {Wrap{},
            Eigen::internal::pselect(Eigen::internal::pcmp_eq(test.p, zero), then.p, otherwise.p)};
  }
};

// ---- packs of one type from memory and packs of another ---------------------------------------

template <class P, class T, int Lanes, int Flags>
requires(Lanes == native_lanes<T, BaselineLevel<Flags>>) POLYAK_INLINE
    void load_bits(const P* from, Pack<T, Lanes, BaselineLevel<Flags>>& to) {
  T values[static_cast<std::size_t>(Lanes)];
  for (int k = 0; k < Lanes; ++k) values[k] = widened<T>(from, static_cast<std::size_t>(k));
  to = Pack<T, Lanes, BaselineLevel<Flags>>::load(values);
}
template <class P, class T, int Lanes, int Flags>
requires(Lanes == native_lanes<T, BaselineLevel<Flags>>) POLYAK_INLINE
    void store_bits(P* to, const Pack<T, Lanes, BaselineLevel<Flags>>& from) {
  T values[static_cast<std::size_t>(Lanes)];
  from.store(values);
  for (int k = 0; k < Lanes; ++k) narrow_into(to, static_cast<std::size_t>(k), values[k]);
}
template <class P, class T, int Lanes, int Flags>
POLYAK_INLINE void stream_bits(P* to, const Pack<T, Lanes, BaselineLevel<Flags>>& from) {
  store_bits(to, from);  // converted one by one: the store is not what takes the time
}
template <int Lanes, int Flags>
requires(Lanes == native_lanes<float, BaselineLevel<Flags>>) POLYAK_INLINE
    void widen(const Pack<float, Lanes, BaselineLevel<Flags>>& from,
               Pack<double, Lanes, BaselineLevel<Flags>>& to) {
  float singles[static_cast<std::size_t>(Lanes)];
  double doubles[static_cast<std::size_t>(Lanes)];
  from.store(singles);
  for (int k = 0; k < Lanes; ++k) doubles[k] = static_cast<double>(singles[k]);
  to = Pack<double, Lanes, BaselineLevel<Flags>>::load(doubles);
}
template <int Lanes, int Flags>
requires(Lanes == native_lanes<float, BaselineLevel<Flags>>) POLYAK_INLINE
    void narrow(const Pack<double, Lanes, BaselineLevel<Flags>>& from,
                Pack<float, Lanes, BaselineLevel<Flags>>& to) {
  float singles[static_cast<std::size_t>(Lanes)];
  double doubles[static_cast<std::size_t>(Lanes)];
  from.store(doubles);
  for (int k = 0; k < Lanes; ++k) singles[k] = static_cast<float>(doubles[k]);
  to = Pack<float, Lanes, BaselineLevel<Flags>>::load(singles);
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

/// The first `count` lanes, fewer than all; the rest are 0.
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

/// Between the carrier of the parameters and the type of a state, in either direction.
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

/// The level of the packs in a loop whose memory holds numbers of one type only, but for its end:
/// they may take the elements in an order of their own, the same from all streams.
template <class L, class Memory>
struct WholePacks {
  using Level = L;
};

// ---- rounding at random -----------------------------------------------------------------------

template <int Flags>
POLYAK_INLINE void fill_bytes(BaselineLevel<Flags>, const RandomKey& key, std::size_t group,
                              RandomBits& to) {
  fill_bytes(key, group, to);
}

/// Rounds a pack into 16-bit numbers at random, each lane by two bytes.
template <class S, int Lanes, int Flags>
requires(Lanes == native_lanes<float, BaselineLevel<Flags>>) POLYAK_INLINE
    void store_at_random(S* to, const Pack<float, Lanes, BaselineLevel<Flags>>& from,
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

/// Rounds a pack into 16-bit numbers, and stores by how much each is too large. A number that is
/// not finite is not too large; the difference to an excess of 0 keeps the sign of a zero.
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
}  // namespace v0
}  // namespace polyak

#include <polyak/core/simd/pack_x86.hpp>
