// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs of x86-64-v3 and v4 by intrinsics. Each operation names its target, so a translation unit
/// compiled for the baseline can contain them, too. Included at the end of pack.hpp.
///
/// Above 300 lines: all intrinsics of the library are here.
#pragma once

#include <polyak/core/simd/pack.hpp>

#if POLYAK_X86_LEVELS
#define POLYAK_TARGET_V3 __attribute__((target("avx,avx2,fma,f16c")))
#define POLYAK_TARGET_V4 \
  __attribute__((target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))

namespace polyak {
inline namespace v0 {
namespace detail {

struct X86V3 {};  ///< AVX2, FMA, F16C
struct X86V4 {};  ///< AVX-512 F, BW, CD, DQ, VL
/// The same, for loops in which all memory holds bfloat16: the first of two registers has the even
/// elements, the second the odd ones, which halves the work of loads and stores.
struct X86V4EvenOdd {};

template <class T>
inline constexpr int native_lanes<T, X86V3> = static_cast<int>(32 / sizeof(T));
template <class T>
inline constexpr int native_lanes<T, X86V4> = static_cast<int>(64 / sizeof(T));
template <class T>
inline constexpr int native_lanes<T, X86V4EvenOdd> = native_lanes<T, X86V4>;

// Zero-masked intrinsics with a full mask compile to the plain instructions. The plain intrinsics
// of g++ 12 pass an undefined vector, and g++ warns about it.
inline constexpr __mmask16 all16 = 0xffff;
inline constexpr __mmask8 all8 = 0xff;

POLYAK_TARGET_V3 inline __m256 ieee_root(__m256 a) { return _mm256_sqrt_ps(a); }
POLYAK_TARGET_V3 inline __m256d ieee_root(__m256d a) { return _mm256_sqrt_pd(a); }
POLYAK_TARGET_V4 inline __m512 ieee_root(__m512 a) { return _mm512_maskz_sqrt_ps(all16, a); }
POLYAK_TARGET_V4 inline __m512d ieee_root(__m512d a) { return _mm512_maskz_sqrt_pd(all8, a); }
POLYAK_TARGET_V3 inline __m256 larger(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
POLYAK_TARGET_V3 inline __m256d larger(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
POLYAK_TARGET_V4 inline __m512 larger(__m512 a, __m512 b) {
  return _mm512_maskz_max_ps(all16, a, b);
}
POLYAK_TARGET_V4 inline __m512d larger(__m512d a, __m512d b) {
  return _mm512_maskz_max_pd(all8, a, b);
}

POLYAK_TARGET_V3 inline __m256 to_nearest(__m256 a) { return _mm256_round_ps(a, 8); }
POLYAK_TARGET_V3 inline __m256d to_nearest(__m256d a) { return _mm256_round_pd(a, 8); }
// Without optimisation these are macros in g++, which pass the mask as a signed number.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
POLYAK_TARGET_V4 inline __m512 to_nearest(__m512 a) {
  return _mm512_maskz_roundscale_ps(all16, a, 8);
}
POLYAK_TARGET_V4 inline __m512d to_nearest(__m512d a) {
  return _mm512_maskz_roundscale_pd(all8, a, 8);
}
#pragma GCC diagnostic pop
POLYAK_TARGET_V3 inline __m256 shifted(__m256 a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}
POLYAK_TARGET_V3 inline __m256d shifted(__m256d a) {
  return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), 52));
}
POLYAK_TARGET_V4 inline __m512 shifted(__m512 a) {
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all16, _mm512_castps_si512(a), 23));
}
POLYAK_TARGET_V4 inline __m512d shifted(__m512d a) {
  return _mm512_castsi512_pd(_mm512_maskz_slli_epi64(all8, _mm512_castpd_si512(a), 52));
}

// Masks: for v3 the bits of a register, in memory between operations; for v4 one bit for each lane.

template <class T>
struct alignas(32) LaneMask {
  T s[32 / sizeof(T)];
};
POLYAK_TARGET_V3 inline LaneMask<float> in_memory(__m256 bits) {
  LaneMask<float> mask;
  _mm256_store_ps(mask.s, bits);
  return mask;
}
POLYAK_TARGET_V3 inline LaneMask<double> in_memory(__m256d bits) {
  LaneMask<double> mask;
  _mm256_store_pd(mask.s, bits);
  return mask;
}
POLYAK_TARGET_V3 inline __m256 in_register(const LaneMask<float>& mask) {
  return _mm256_load_ps(mask.s);
}
POLYAK_TARGET_V3 inline __m256d in_register(const LaneMask<double>& mask) {
  return _mm256_load_pd(mask.s);
}
template <int Predicate>
POLYAK_TARGET_V3 inline LaneMask<float> compared(__m256 a, __m256 b) {
  return in_memory(_mm256_cmp_ps(a, b, Predicate));
}
template <int Predicate>
POLYAK_TARGET_V3 inline LaneMask<double> compared(__m256d a, __m256d b) {
  return in_memory(_mm256_cmp_pd(a, b, Predicate));
}
template <int Predicate>
POLYAK_TARGET_V4 inline __mmask16 compared(__m512 a, __m512 b) {
  return _mm512_cmp_ps_mask(a, b, Predicate);
}
template <int Predicate>
POLYAK_TARGET_V4 inline __mmask8 compared(__m512d a, __m512d b) {
  return _mm512_cmp_pd_mask(a, b, Predicate);
}
POLYAK_TARGET_V3 inline __m256 chosen(const LaneMask<float>& mask, __m256 a, __m256 b) {
  return _mm256_blendv_ps(b, a, in_register(mask));
}
POLYAK_TARGET_V3 inline __m256d chosen(const LaneMask<double>& mask, __m256d a, __m256d b) {
  return _mm256_blendv_pd(b, a, in_register(mask));
}
POLYAK_TARGET_V4 inline __m512 chosen(__mmask16 mask, __m512 a, __m512 b) {
  return _mm512_mask_blend_ps(mask, b, a);
}
POLYAK_TARGET_V4 inline __m512d chosen(__mmask8 mask, __m512d a, __m512d b) {
  return _mm512_mask_blend_pd(mask, b, a);
}
POLYAK_TARGET_V3 inline LaneMask<float> both(const LaneMask<float>& a, const LaneMask<float>& b) {
  return in_memory(_mm256_and_ps(in_register(a), in_register(b)));
}
POLYAK_TARGET_V3 inline LaneMask<double> both(const LaneMask<double>& a,
                                              const LaneMask<double>& b) {
  return in_memory(_mm256_and_pd(in_register(a), in_register(b)));
}
template <class Bits>
POLYAK_INLINE Bits both(Bits a, Bits b) {
  return static_cast<Bits>(a & b);
}
POLYAK_TARGET_V3 inline LaneMask<float> not_in(const LaneMask<float>& a) {
  return in_memory(_mm256_xor_ps(in_register(a), _mm256_castsi256_ps(_mm256_set1_epi32(-1))));
}
POLYAK_TARGET_V3 inline LaneMask<double> not_in(const LaneMask<double>& a) {
  return in_memory(_mm256_xor_pd(in_register(a), _mm256_castsi256_pd(_mm256_set1_epi32(-1))));
}
template <class Bits>
POLYAK_INLINE Bits not_in(Bits a) {
  return static_cast<Bits>(~a);
}

#define POLYAK_X86_PACK(T, LEVEL, TARGET, VECTOR, PREFIX, SUFFIX)                               \
  template <>                                                                                   \
  struct Pack<T, native_lanes<T, LEVEL>, LEVEL>                                                 \
      : Vocabulary<Pack<T, native_lanes<T, LEVEL>, LEVEL>> {                                    \
    using Scalar = T;                                                                           \
    struct Mask {                                                                               \
      decltype(compared<0>(VECTOR(), VECTOR())) bits;                                           \
      friend POLYAK_INLINE Mask operator&(const Mask& a, const Mask& b) {                       \
        return {both(a.bits, b.bits)};                                                          \
      }                                                                                         \
      friend POLYAK_INLINE Mask operator|(const Mask& a, const Mask& b) {                       \
        const Mask neither = (!a) & (!b);                                                       \
        return !neither;                                                                        \
      }                                                                                         \
      friend POLYAK_INLINE Mask operator!(const Mask& a) { return {not_in(a.bits)}; }           \
    };                                                                                          \
    alignas(sizeof(VECTOR)) T s[native_lanes<T, LEVEL>];                                        \
                                                                                                \
    Pack() = default;                                                                           \
    TARGET Pack(T value) { PREFIX##_store_##SUFFIX(s, PREFIX##_set1_##SUFFIX(value)); }         \
    TARGET explicit Pack(VECTOR v) { PREFIX##_store_##SUFFIX(s, v); }                           \
    TARGET VECTOR v() const { return PREFIX##_load_##SUFFIX(s); }                               \
    TARGET static Pack load(const T* p) { return Pack(PREFIX##_loadu_##SUFFIX(p)); }            \
    TARGET void store(T* p) const { PREFIX##_storeu_##SUFFIX(p, v()); }                         \
    TARGET void stream(T* p) const { PREFIX##_stream_##SUFFIX(p, v()); }                        \
                                                                                                \
    TARGET friend Pack operator+(const Pack& a, const Pack& b) { return Pack(a.v() + b.v()); }  \
    TARGET friend Pack operator-(const Pack& a, const Pack& b) { return Pack(a.v() - b.v()); }  \
    TARGET friend Pack operator*(const Pack& a, const Pack& b) { return Pack(a.v() * b.v()); }  \
    TARGET friend Pack operator/(const Pack& a, const Pack& b) { return Pack(a.v() / b.v()); }  \
    TARGET friend Pack fma(const Pack& a, const Pack& b, const Pack& c) {                       \
      return Pack(PREFIX##_fmadd_##SUFFIX(a.v(), b.v(), c.v()));                                \
    }                                                                                           \
    TARGET friend Pack sqrt(const Pack& a) { return Pack(ieee_root(a.v())); }                   \
    TARGET friend Pack max(const Pack& a, const Pack& b) { return Pack(larger(a.v(), b.v())); } \
                                                                                                \
    TARGET friend Mask operator<(const Pack& a, const Pack& b) {                                \
      return {compared<_CMP_LT_OQ>(a.v(), b.v())};                                              \
    }                                                                                           \
    TARGET friend Mask operator<=(const Pack& a, const Pack& b) {                               \
      return {compared<_CMP_LE_OQ>(a.v(), b.v())};                                              \
    }                                                                                           \
    TARGET friend Mask operator==(const Pack& a, const Pack& b) {                               \
      return {compared<_CMP_EQ_OQ>(a.v(), b.v())};                                              \
    }                                                                                           \
    TARGET friend Pack select(const Mask& mask, const Pack& a, const Pack& b) {                 \
      return Pack(chosen(mask.bits, a.v(), b.v()));                                             \
    }                                                                                           \
                                                                                                \
    TARGET friend Pack bit_and(const Pack& a, const Pack& b) {                                  \
      return Pack(PREFIX##_and_##SUFFIX(a.v(), b.v()));                                         \
    }                                                                                           \
    TARGET friend Pack bit_or(const Pack& a, const Pack& b) {                                   \
      return Pack(PREFIX##_or_##SUFFIX(a.v(), b.v()));                                          \
    }                                                                                           \
    TARGET friend Pack bit_xor(const Pack& a, const Pack& b) {                                  \
      return Pack(PREFIX##_xor_##SUFFIX(a.v(), b.v()));                                         \
    }                                                                                           \
    TARGET friend Pack bit_andnot(const Pack& a, const Pack& b) {                               \
      return Pack(PREFIX##_andnot_##SUFFIX(a.v(), b.v()));                                      \
    }                                                                                           \
    TARGET friend Pack nearest(const Pack& a) { return Pack(to_nearest(a.v())); }               \
    TARGET friend Pack shift_to_exponent(const Pack& a) { return Pack(shifted(a.v())); }        \
  };

POLYAK_X86_PACK(float, X86V3, POLYAK_TARGET_V3, __m256, _mm256, ps)
POLYAK_X86_PACK(double, X86V3, POLYAK_TARGET_V3, __m256d, _mm256, pd)
POLYAK_X86_PACK(float, X86V4, POLYAK_TARGET_V4, __m512, _mm512, ps)
POLYAK_X86_PACK(double, X86V4, POLYAK_TARGET_V4, __m512d, _mm512, pd)
POLYAK_X86_PACK(float, X86V4EvenOdd, POLYAK_TARGET_V4, __m512, _mm512, ps)
#undef POLYAK_X86_PACK

// Loads and stores of a part of a register, by masks.

#define POLYAK_X86_PART(T, LEVEL, TARGET, LOAD, STORE)                                \
  TARGET inline void load_part(const T* from, std::size_t count,                      \
                               Pack<T, native_lanes<T, LEVEL>, LEVEL>& to) {          \
    to = Pack<T, native_lanes<T, LEVEL>, LEVEL>(LOAD);                                \
  }                                                                                   \
  TARGET inline void store_part(T* to, std::size_t count,                             \
                                const Pack<T, native_lanes<T, LEVEL>, LEVEL>& from) { \
    STORE;                                                                            \
  }
/// A mask with the first `count` lanes set, fewer than all.
POLYAK_TARGET_V3 inline __m256i first32(std::size_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
POLYAK_TARGET_V3 inline __m256i first64(std::size_t count) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(static_cast<long long>(count)),
                            _mm256_set_epi64x(3, 2, 1, 0));
}
POLYAK_TARGET_V4 inline __mmask16 first16(std::size_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}
POLYAK_TARGET_V4 inline __mmask8 first8(std::size_t count) {
  return static_cast<__mmask8>((1u << count) - 1);
}
POLYAK_X86_PART(float, X86V3, POLYAK_TARGET_V3, _mm256_maskload_ps(from, first32(count)),
                _mm256_maskstore_ps(to, first32(count), from.v()))
POLYAK_X86_PART(double, X86V3, POLYAK_TARGET_V3, _mm256_maskload_pd(from, first64(count)),
                _mm256_maskstore_pd(to, first64(count), from.v()))
POLYAK_X86_PART(float, X86V4, POLYAK_TARGET_V4, _mm512_maskz_loadu_ps(first16(count), from),
                _mm512_mask_storeu_ps(to, first16(count), from.v()))
POLYAK_X86_PART(double, X86V4, POLYAK_TARGET_V4, _mm512_maskz_loadu_pd(first8(count), from),
                _mm512_mask_storeu_pd(to, first8(count), from.v()))
#undef POLYAK_X86_PART

// 16-bit numbers to eight or sixteen floats and back, with the rounding of scalar.hpp.

POLYAK_TARGET_V3 inline void load_bits(const Eigen::half* from, Pack<float, 8, X86V3>& to) {
  _mm256_store_ps(to.s, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
POLYAK_TARGET_V3 inline __m128i rounded(const Pack<float, 8, X86V3>& from, const Eigen::half*) {
  return _mm256_cvtps_ph(from.v(), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
POLYAK_TARGET_V3 inline void load_bits(const Eigen::bfloat16* from, Pack<float, 8, X86V3>& to) {
  const __m256i wide =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  _mm256_store_ps(to.s, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
}
POLYAK_TARGET_V3 inline __m128i rounded(const Pack<float, 8, X86V3>& from, const Eigen::bfloat16*) {
  const __m256i bits = _mm256_castps_si256(from.v());
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i nearest = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256 is_nan = _mm256_cmp_ps(from.v(), from.v(), _CMP_UNORD_Q);
  const __m256i wide = _mm256_blendv_epi8(nearest, quiet, _mm256_castps_si256(is_nan));
  const __m256i packed = _mm256_packus_epi32(wide, wide);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
template <class P>
POLYAK_TARGET_V3 inline void store_bits(P* to, const Pack<float, 8, X86V3>& from) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), rounded(from, to));
}
template <class P>
POLYAK_TARGET_V3 inline void stream_bits(P* to, const Pack<float, 8, X86V3>& from) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), rounded(from, to));
}
POLYAK_TARGET_V4 inline void load_bits(const Eigen::half* from, Pack<float, 16, X86V4>& to) {
  _mm512_store_ps(to.s, _mm512_maskz_cvtph_ps(
                            all16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
POLYAK_TARGET_V4 inline __m256i rounded(const Pack<float, 16, X86V4>& from, const Eigen::half*) {
  return _mm512_maskz_cvtps_ph(all16, from.v(), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
POLYAK_TARGET_V4 inline void load_bits(const Eigen::bfloat16* from, Pack<float, 16, X86V4>& to) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(
      all16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  _mm512_store_ps(to.s, _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all16, wide, 16)));
}
/// The upper half of each lane is the bfloat16 nearest to the float.
POLYAK_TARGET_V4 inline __m512i nearest_bfloat16(__m512i bits) {
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(half, odd, half, _mm512_set1_epi32(1));
}
/// The same, but NaNs stay (quiet) NaNs.
POLYAK_TARGET_V4 inline __m512i or_quiet_nan(__m512i nearest, __m512 value) {
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(nearest, is_nan, _mm512_castps_si512(value),
                              _mm512_set1_epi32(0x400000));
}
POLYAK_TARGET_V4 inline __m256i upper(__m512i words) {
  return _mm512_maskz_cvtepi32_epi16(all16, _mm512_maskz_srli_epi32(all16, words, 16));
}
POLYAK_TARGET_V4 inline void store_upper(Eigen::bfloat16* to, __m512i words) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper(words));
}
/// The upper halves of 32 floats, one store for both registers.
POLYAK_TARGET_V4 inline void store_upper(Eigen::bfloat16* to, __m512i low, __m512i high) {
  const __m512i odd =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                       25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(low, odd, high));
}
/// The same for two registers. NaNs are so rare that a branch costs less than a select.
template <class Level>
POLYAK_TARGET_V4 inline void mend_nan(const Pack<float, 32, Level>& from, __m512i& low,
                                      __m512i& high) {
  if (_mm512_cmp_ps_mask(from.low.v(), from.high.v(), _CMP_UNORD_Q) == 0) return;
  low = or_quiet_nan(low, from.low.v());
  high = or_quiet_nan(high, from.high.v());
}
template <class Level>
POLYAK_TARGET_V4 inline void nearest_two(const Pack<float, 32, Level>& from, __m512i& low,
                                         __m512i& high) {
  low = nearest_bfloat16(_mm512_castps_si512(from.low.v()));
  high = nearest_bfloat16(_mm512_castps_si512(from.high.v()));
  mend_nan(from, low, high);
}
POLYAK_TARGET_V4 inline __m512i rounded_bits(const Pack<float, 16, X86V4>& from) {
  return or_quiet_nan(nearest_bfloat16(_mm512_castps_si512(from.v())), from.v());
}
POLYAK_TARGET_V4 inline void store_bits(Eigen::bfloat16* to, const Pack<float, 32, X86V4>& from) {
  __m512i low, high;
  nearest_two(from, low, high);
  store_upper(to, low, high);
}
POLYAK_TARGET_V4 inline __m256i rounded(const Pack<float, 16, X86V4>& from,
                                        const Eigen::bfloat16*) {
  return upper(rounded_bits(from));
}
template <class P>
POLYAK_TARGET_V4 inline void store_bits(P* to, const Pack<float, 16, X86V4>& from) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(from, to));
}
template <class P>
POLYAK_TARGET_V4 inline void stream_bits(P* to, const Pack<float, 16, X86V4>& from) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), rounded(from, to));
}
/// The excess of rounded numbers over exact ones, itself rounded.
POLYAK_TARGET_V4 inline __m512i excess_bits(__m512i nearest, __m512 from) {
  const __m512 rounded = _mm512_castsi512_ps(
      _mm512_and_si512(nearest, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  const __mmask16 finite = _mm512_cmp_ps_mask(rounded - rounded, _mm512_setzero_ps(), _CMP_EQ_OQ);
  return nearest_bfloat16(_mm512_castps_si512(_mm512_maskz_sub_ps(finite, rounded, from)));
}
POLYAK_TARGET_V4 inline void store_split(Eigen::bfloat16* to, Eigen::bfloat16* excess,
                                         const Pack<float, 16, X86V4>& from) {
  const __m512i nearest = rounded_bits(from);
  store_upper(to, nearest);
  store_upper(excess, excess_bits(nearest, from.v()));
}
POLYAK_TARGET_V4 inline void store_split(Eigen::bfloat16* to, Eigen::bfloat16* excess,
                                         const Pack<float, 32, X86V4>& from) {
  __m512i low, high;
  nearest_two(from, low, high);
  store_upper(to, low, high);
  store_upper(excess, excess_bits(low, from.low.v()), excess_bits(high, from.high.v()));
}
POLYAK_TARGET_V3 inline void widen(const Pack<float, 8, X86V3>& from, Pack<double, 8, X86V3>& to) {
  _mm256_store_pd(to.low.s, _mm256_cvtps_pd(_mm_load_ps(from.s)));
  _mm256_store_pd(to.high.s, _mm256_cvtps_pd(_mm_load_ps(from.s + 4)));
}
POLYAK_TARGET_V3 inline void narrow(const Pack<double, 8, X86V3>& from, Pack<float, 8, X86V3>& to) {
  _mm_store_ps(to.s, _mm256_cvtpd_ps(from.low.v()));
  _mm_store_ps(to.s + 4, _mm256_cvtpd_ps(from.high.v()));
}
POLYAK_TARGET_V4 inline void widen(const Pack<float, 16, X86V4>& from,
                                   Pack<double, 16, X86V4>& to) {
  _mm512_store_pd(to.low.s, _mm512_maskz_cvtps_pd(all8, _mm256_load_ps(from.s)));
  _mm512_store_pd(to.high.s, _mm512_maskz_cvtps_pd(all8, _mm256_load_ps(from.s + 8)));
}
POLYAK_TARGET_V4 inline void narrow(const Pack<double, 16, X86V4>& from,
                                    Pack<float, 16, X86V4>& to) {
  _mm256_store_ps(to.s, _mm512_maskz_cvtpd_ps(all8, from.low.v()));
  _mm256_store_ps(to.s + 8, _mm512_maskz_cvtpd_ps(all8, from.high.v()));
}

// Rounding at random, as scalar.hpp does it. First make a float that the 16-bit type can hold; then
// the narrowing is exact.

POLYAK_TARGET_V3 inline __m256i eight_words(const unsigned char* bytes) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
POLYAK_TARGET_V4 inline __m512i sixteen_words(const unsigned char* bytes) {
  return _mm512_maskz_cvtepu16_epi32(all16,
                                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
}

POLYAK_TARGET_V3 inline void store_at_random(Eigen::bfloat16* to, const Pack<float, 8, X86V3>& from,
                                             const unsigned char* random) {
  const __m256i bits = _mm256_castps_si256(from.v());
  const __m256i sum = _mm256_srli_epi32(_mm256_add_epi32(bits, eight_words(random)), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256 is_nan = _mm256_cmp_ps(from.v(), from.v(), _CMP_UNORD_Q);
  const __m256i wide = _mm256_blendv_epi8(sum, quiet, _mm256_castps_si256(is_nan));
  const __m256i packed = _mm256_packus_epi32(wide, wide);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
POLYAK_TARGET_V3 inline void store_at_random(Eigen::half* to, const Pack<float, 8, X86V3>& from,
                                             const unsigned char* random) {
  const __m256i bits = _mm256_castps_si256(from.v());
  const __m256i increment = eight_words(random);
  const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000u));
  const __m256i rest = _mm256_andnot_si256(sign, bits);
  const __m256i normal = _mm256_and_si256(_mm256_add_epi32(rest, _mm256_srli_epi32(increment, 3)),
                                          _mm256_set1_epi32(static_cast<int>(~0x1fffu)));
  const __m256i fixed =
      _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(rest), _mm256_set1_ps(0x1p40f)));
  const __m256 small =
      _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_add_epi32(fixed, increment), 16)),
                    _mm256_set1_ps(0x1p-24f));
  const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), rest);
  const __m256i is_finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7f800000), rest);
  const __m256i finite = _mm256_blendv_epi8(normal, _mm256_castps_si256(small), is_small);
  const __m256i rounded = _mm256_blendv_epi8(rest, finite, is_finite);
  const __m256 value = _mm256_castsi256_ps(_mm256_or_si256(rounded, _mm256_and_si256(sign, bits)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
POLYAK_TARGET_V4 inline __m512i random_sum(const Pack<float, 16, X86V4>& from,
                                           const unsigned char* random) {
  return _mm512_add_epi32(_mm512_castps_si512(from.v()), sixteen_words(random));
}
POLYAK_TARGET_V4 inline void store_at_random(Eigen::bfloat16* to,
                                             const Pack<float, 16, X86V4>& from,
                                             const unsigned char* random) {
  store_upper(to, or_quiet_nan(random_sum(from, random), from.v()));
}
POLYAK_TARGET_V4 inline void store_at_random(Eigen::bfloat16* to,
                                             const Pack<float, 32, X86V4>& from,
                                             const unsigned char* random) {
  __m512i low = random_sum(from.low, random), high = random_sum(from.high, random + 32);
  mend_nan(from, low, high);
  store_upper(to, low, high);
}
POLYAK_TARGET_V4 inline void store_at_random(Eigen::half* to, const Pack<float, 16, X86V4>& from,
                                             const unsigned char* random) {
  const __m512i bits = _mm512_castps_si512(from.v());
  const __m512i increment = sixteen_words(random);
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  const __m512i rest = _mm512_maskz_andnot_epi32(all16, sign, bits);
  const __mmask16 is_finite = _mm512_cmplt_epi32_mask(rest, _mm512_set1_epi32(0x7f800000));
  const __m512i sum = _mm512_add_epi32(rest, _mm512_maskz_srli_epi32(all16, increment, 3));
  __m512i rounded =
      _mm512_mask_and_epi32(rest, is_finite, sum, _mm512_set1_epi32(static_cast<int>(~0x1fffu)));
  const __mmask16 is_small = _mm512_cmplt_epi32_mask(rest, _mm512_set1_epi32(0x38800000));
  if (is_small != 0) {
    const __m512i fixed =
        _mm512_maskz_cvttps_epi32(is_small, _mm512_castsi512_ps(rest) * _mm512_set1_ps(0x1p40f));
    const __m512i whole = _mm512_maskz_srli_epi32(all16, _mm512_add_epi32(fixed, increment), 16);
    rounded = _mm512_mask_blend_epi32(
        is_small, rounded,
        _mm512_castps_si512(_mm512_maskz_cvtepi32_ps(all16, whole) * _mm512_set1_ps(0x1p-24f)));
  }
  const __m512i value = _mm512_or_si512(rounded, _mm512_and_si512(sign, bits));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_maskz_cvtps_ph(all16, _mm512_castsi512_ps(value),
                                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// The same for registers of even and odd elements.

/// The upper halves, those of the even elements first in every pair.
POLYAK_TARGET_V4 inline void store_even_odd(Eigen::bfloat16* to, __m512i even, __m512i odd) {
  constexpr __mmask32 upper_halves = 0xaaaaaaaa;
  _mm512_storeu_si512(
      to, _mm512_mask_blend_epi16(upper_halves, _mm512_maskz_srli_epi32(all16, even, 16), odd));
}
POLYAK_TARGET_V4 inline void load_bits(const Eigen::bfloat16* from,
                                       Pack<float, 32, X86V4EvenOdd>& to) {
  const __m512i pairs = _mm512_loadu_si512(from);
  const __m512i odd = _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  _mm512_store_ps(to.low.s, _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all16, pairs, 16)));
  _mm512_store_ps(to.high.s, _mm512_castsi512_ps(odd));
}
POLYAK_TARGET_V4 inline void store_bits(Eigen::bfloat16* to,
                                        const Pack<float, 32, X86V4EvenOdd>& from) {
  __m512i low, high;
  nearest_two(from, low, high);
  store_even_odd(to, low, high);
}
POLYAK_TARGET_V4 inline void store_split(Eigen::bfloat16* to, Eigen::bfloat16* excess,
                                         const Pack<float, 32, X86V4EvenOdd>& from) {
  __m512i low, high;
  nearest_two(from, low, high);
  store_even_odd(to, low, high);
  store_even_odd(excess, excess_bits(low, from.low.v()), excess_bits(high, from.high.v()));
}
POLYAK_TARGET_V4 inline void store_at_random(Eigen::bfloat16* to,
                                             const Pack<float, 32, X86V4EvenOdd>& from,
                                             const unsigned char* random) {
  const __m512i pairs = _mm512_loadu_si512(random);
  __m512i low = _mm512_add_epi32(_mm512_castps_si512(from.low.v()),
                                 _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)));
  __m512i high = _mm512_add_epi32(_mm512_castps_si512(from.high.v()),
                                  _mm512_maskz_srli_epi32(all16, pairs, 16));
  mend_nan(from, low, high);
  store_even_odd(to, low, high);
}

// Philox with one call per 64-bit lane: a product fills the lane, and its two halves are the words.

POLYAK_TARGET_V4 inline void fill_bytes(X86V4, const RandomKey& key, std::size_t group,
                                        RandomBits& to) {
  const auto start = key.counter(8 * std::uint64_t{group});
  const auto lane = [](std::uint64_t word) { return static_cast<long long>(word); };
  __m512i c0 =
      _mm512_add_epi64(_mm512_set1_epi64(lane(start[0])), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  __m512i c1 = _mm512_set1_epi64(lane(start[1]));
  __m512i c2 = _mm512_set1_epi64(lane(start[2]));
  __m512i c3 = _mm512_set1_epi64(lane(start[3]));
  const __m512i m0 = _mm512_set1_epi64(0xd2511f53), m1 = _mm512_set1_epi64(0xcd9e8d57);
  constexpr __mmask16 odd = 0xaaaa;
  constexpr int exclusive_or = 0x96;
  for (std::size_t round = 0; round < RandomKey::rounds; ++round) {
    const std::uint64_t* const k = to.keys.data() + 2 * round;
    const __m512i first = _mm512_maskz_mul_epu32(all8, m0, c0);
    const __m512i second = _mm512_maskz_mul_epu32(all8, m1, c2);
    c0 = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(all8, second, 32), c1,
                                   _mm512_set1_epi64(lane(k[0])), exclusive_or);
    c1 = second;
    c2 = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(all8, first, 32), c3,
                                   _mm512_set1_epi64(lane(k[1])), exclusive_or);
    c3 = first;
  }
  _mm512_store_si512(to.bytes.data(),
                     _mm512_mask_blend_epi32(odd, c0, _mm512_maskz_slli_epi64(all8, c1, 32)));
  _mm512_store_si512(to.bytes.data() + 64,
                     _mm512_mask_blend_epi32(odd, c2, _mm512_maskz_slli_epi64(all8, c3, 32)));
  to.bytes[RandomBits::elements] = to.bytes[0];
}
POLYAK_TARGET_V4 inline void fill_bytes(X86V4EvenOdd, const RandomKey& key, std::size_t group,
                                        RandomBits& to) {
  fill_bytes(X86V4{}, key, group, to);
}
POLYAK_TARGET_V3 inline void fill_bytes(X86V3, const RandomKey& key, std::size_t group,
                                        RandomBits& to) {
  const auto start = key.counter(8 * std::uint64_t{group});
  const auto lane = [](std::uint64_t word) { return static_cast<long long>(word); };
  const __m256i m0 = _mm256_set1_epi64x(0xd2511f53), m1 = _mm256_set1_epi64x(0xcd9e8d57);
  __m256i c0[2], c1[2], c2[2], c3[2];
  for (std::size_t half = 0; half < 2; ++half) {
    c0[half] = _mm256_add_epi64(_mm256_set1_epi64x(lane(start[0] + 4 * half)),
                                _mm256_set_epi64x(3, 2, 1, 0));
    c1[half] = _mm256_set1_epi64x(lane(start[1]));
    c2[half] = _mm256_set1_epi64x(lane(start[2]));
    c3[half] = _mm256_set1_epi64x(lane(start[3]));
  }
  for (std::size_t round = 0; round < RandomKey::rounds; ++round) {
    const std::uint64_t* const k = to.keys.data() + 2 * round;
    for (std::size_t half = 0; half < 2; ++half) {
      const __m256i first = _mm256_mul_epu32(m0, c0[half]);
      const __m256i second = _mm256_mul_epu32(m1, c2[half]);
      c0[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(second, 32), c1[half]),
                                  _mm256_set1_epi64x(lane(k[0])));
      c1[half] = second;
      c2[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(first, 32), c3[half]),
                                  _mm256_set1_epi64x(lane(k[1])));
      c3[half] = first;
    }
  }
  for (std::size_t half = 0; half < 2; ++half) {
    const __m256i low = _mm256_blend_epi32(c0[half], _mm256_slli_epi64(c1[half], 32), 0xaa);
    const __m256i high = _mm256_blend_epi32(c2[half], _mm256_slli_epi64(c3[half], 32), 0xaa);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.bytes.data() + 32 * half), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.bytes.data() + 64 + 32 * half), high);
  }
  to.bytes[RandomBits::elements] = to.bytes[0];
}

template <>
struct WholePacks<X86V4, Eigen::bfloat16> {
  using Level = X86V4EvenOdd;
};

}  // namespace detail
}  // namespace v0
}  // namespace polyak
#endif  // POLYAK_X86_LEVELS
