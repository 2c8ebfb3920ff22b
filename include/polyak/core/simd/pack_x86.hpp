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
inline namespace POLYAK_V0 {
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
POLYAK_TARGET_V4 inline __m512i rounded_bits(__m512 from) {
  return or_quiet_nan(nearest_bfloat16(_mm512_castps_si512(from)), from);
}
POLYAK_TARGET_V4 inline void store_bits(Eigen::bfloat16* to, const Pack<float, 32, X86V4>& from) {
  __m512i low, high;
  nearest_two(from, low, high);
  store_upper(to, low, high);
}
POLYAK_TARGET_V4 inline __m256i rounded(const Pack<float, 16, X86V4>& from,
                                        const Eigen::bfloat16*) {
  return upper(rounded_bits(from.v()));
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
  const __m512i nearest = rounded_bits(from.v());
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

/// The upper halves of the words of even and odd elements, in the order of the elements.
POLYAK_TARGET_V4 inline __m512i upper_halves(__m512i even, __m512i odd) {
  constexpr int first_or_second_and_third = 0xf8;
  return _mm512_ternarylogic_epi32(_mm512_maskz_srli_epi32(all16, even, 16), odd,
                                   _mm512_set1_epi32(static_cast<int>(0xffff0000u)),
                                   first_or_second_and_third);
}
/// The lower halves.
POLYAK_TARGET_V4 inline __m512i lower_halves(__m512i even, __m512i odd) {
  constexpr int first_or_second_without_third = 0xf4;
  return _mm512_ternarylogic_epi32(_mm512_maskz_slli_epi32(all16, odd, 16), even,
                                   _mm512_set1_epi32(static_cast<int>(0xffff0000u)),
                                   first_or_second_without_third);
}
/// The bfloat16 nearest to floats that are not NaN. The upper half grows by one if the lower half
/// is more than one half, or is one half and the upper half odd.
POLYAK_TARGET_V4 inline __m512i nearest_words(__m512 even, __m512 odd) {
  constexpr int first_or_second_and_third = 0xf8;
  const __m512i e = _mm512_castps_si512(even), o = _mm512_castps_si512(odd);
  const __m512i words = upper_halves(e, o);
  const __m512i rest = _mm512_ternarylogic_epi32(lower_halves(e, o), words, _mm512_set1_epi16(1),
                                                 first_or_second_and_third);
  const __mmask32 up = _mm512_cmpgt_epu16_mask(rest, _mm512_set1_epi16(INT16_MIN));
  return _mm512_mask_sub_epi16(words, up, words, _mm512_set1_epi16(-1));
}
// As above, a macro in g++ without optimisation.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
POLYAK_TARGET_V4 inline bool each_finite(__m512 a) {
  constexpr int nan_or_infinity = 0x99;
  return _mm512_fpclass_ps_mask(a, nan_or_infinity) == 0;
}
#pragma GCC diagnostic pop
POLYAK_TARGET_V4 inline __m512i words_of_even(__m512i words) {
  return _mm512_maskz_slli_epi32(all16, words, 16);
}
POLYAK_TARGET_V4 inline __m512i words_of_odd(__m512i words) {
  return _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
POLYAK_TARGET_V4 inline void load_bits(const Eigen::bfloat16* from,
                                       Pack<float, 32, X86V4EvenOdd>& to) {
  const __m512i words = _mm512_loadu_si512(from);
  _mm512_store_ps(to.low.s, _mm512_castsi512_ps(words_of_even(words)));
  _mm512_store_ps(to.high.s, _mm512_castsi512_ps(words_of_odd(words)));
}
POLYAK_TARGET_V4 inline void store_bits(Eigen::bfloat16* to,
                                        const Pack<float, 32, X86V4EvenOdd>& from) {
  __m512i words = nearest_words(from.low.v(), from.high.v());
  if (_mm512_cmp_ps_mask(from.low.v(), from.high.v(), _CMP_UNORD_Q) != 0) [[unlikely]] {
    words = upper_halves(rounded_bits(from.low.v()), rounded_bits(from.high.v()));
  }
  _mm512_storeu_si512(to, words);
}
POLYAK_TARGET_V4 inline void store_split(Eigen::bfloat16* to, Eigen::bfloat16* excess,
                                         const Pack<float, 32, X86V4EvenOdd>& from) {
  const __m512 even = from.low.v(), odd = from.high.v();
  __m512i words = nearest_words(even, odd);
  const __m512 even_excess = _mm512_castsi512_ps(words_of_even(words)) - even;
  const __m512 odd_excess = _mm512_castsi512_ps(words_of_odd(words)) - odd;
  __m512i excess_words = nearest_words(even_excess, odd_excess);
  if (!each_finite(even_excess * odd_excess)) [[unlikely]] {  // a product tests both factors
    const __m512i low = rounded_bits(even), high = rounded_bits(odd);
    words = upper_halves(low, high);
    excess_words = upper_halves(excess_bits(low, even), excess_bits(high, odd));
  }
  _mm512_storeu_si512(to, words);
  _mm512_storeu_si512(excess, excess_words);
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
  _mm512_storeu_si512(to, upper_halves(low, high));
}

// Philox with one call per 64-bit lane: a product fills the lane, and its two halves are the words.

/// The 64 bytes that begin one byte after those of `bytes`; `next` follows `bytes`.
POLYAK_TARGET_V4 inline __m512i from_next_byte(__m512i bytes, __m512i next) {
  const __m512i sixteen_on = _mm512_maskz_alignr_epi64(all8, next, bytes, 2);
  return _mm512_maskz_alignr_epi8(~__mmask64{0}, sixteen_on, bytes, 1);
}
POLYAK_TARGET_V3 inline __m256i from_next_byte(__m256i bytes, __m256i next) {
  return _mm256_alignr_epi8(_mm256_permute2x128_si256(bytes, next, 0x21), bytes, 1);
}
template <std::size_t Groups>
POLYAK_TARGET_V4 inline void fill_groups(const RandomKey& key, std::size_t block, RandomBits& to) {
  const auto start = key.counter(8 * RandomBits::groups * std::uint64_t{block});
  const auto lane = [](std::uint64_t word) { return static_cast<long long>(word); };
  const __m512i m0 = _mm512_set1_epi64(0xd2511f53), m1 = _mm512_set1_epi64(0xcd9e8d57);
  constexpr __mmask16 odd = 0xaaaa;
  constexpr int exclusive_or = 0x96;
  __m512i c0[Groups], c1[Groups], c2[Groups], c3[Groups];
  for (std::size_t g = 0; g < Groups; ++g) {
    c0[g] = _mm512_add_epi64(_mm512_set1_epi64(lane(start[0] + 8 * g)),
                             _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    c1[g] = _mm512_set1_epi64(lane(start[1]));
    c2[g] = _mm512_set1_epi64(lane(start[2]));
    c3[g] = _mm512_set1_epi64(lane(start[3]));
  }
  for (std::size_t round = 0; round < RandomKey::rounds; ++round) {
    const __m512i k0 = _mm512_load_si512(to.keys[2 * round].data());
    const __m512i k1 = _mm512_load_si512(to.keys[2 * round + 1].data());
    for (std::size_t g = 0; g < Groups; ++g) {
      const __m512i first = _mm512_maskz_mul_epu32(all8, m0, c0[g]);
      const __m512i second = _mm512_maskz_mul_epu32(all8, m1, c2[g]);
      c0[g] = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(all8, second, 32), c1[g], k0,
                                        exclusive_or);
      c1[g] = second;
      c2[g] = _mm512_ternarylogic_epi64(_mm512_maskz_srli_epi64(all8, first, 32), c3[g], k1,
                                        exclusive_or);
      c3[g] = first;
    }
  }
  for (std::size_t g = 0; g < Groups; ++g) {
    const __m512i low =
        _mm512_mask_blend_epi32(odd, c0[g], _mm512_maskz_slli_epi64(all8, c1[g], 32));
    const __m512i high =
        _mm512_mask_blend_epi32(odd, c2[g], _mm512_maskz_slli_epi64(all8, c3[g], 32));
    unsigned char* const bytes = to.bytes.data() + g * 2 * RandomBits::group;
    _mm512_store_si512(bytes, low);
    _mm512_store_si512(bytes + 64, high);
    _mm512_store_si512(bytes + 128, from_next_byte(low, high));
    _mm512_store_si512(bytes + 192, from_next_byte(high, low));
  }
}
// Not inlined: it is called once for many elements, from several places of each loop.
POLYAK_TARGET_V4 __attribute__((noinline)) inline void fill_bytes(X86V4, const RandomKey& key,
                                                                  std::size_t block,
                                                                  RandomBits& to) {
  if (to.needs(block, 1)) {
    fill_groups<RandomBits::groups>(key, block, to);
  } else {
    fill_groups<1>(key, block, to);
  }
}
POLYAK_TARGET_V4 inline void fill_bytes(X86V4EvenOdd, const RandomKey& key, std::size_t block,
                                        RandomBits& to) {
  fill_bytes(X86V4{}, key, block, to);
}
POLYAK_TARGET_V3 __attribute__((noinline)) inline void fill_bytes(X86V3, const RandomKey& key,
                                                                  std::size_t block,
                                                                  RandomBits& to) {
  const auto lane = [](std::uint64_t word) { return static_cast<long long>(word); };
  const __m256i m0 = _mm256_set1_epi64x(0xd2511f53), m1 = _mm256_set1_epi64x(0xcd9e8d57);
  for (std::size_t g = 0; g < RandomBits::groups && to.needs(block, g); ++g) {
    const auto start = key.counter(8 * (RandomBits::groups * std::uint64_t{block} + g));
    __m256i c0[2], c1[2], c2[2], c3[2];
    for (std::size_t half = 0; half < 2; ++half) {
      c0[half] = _mm256_add_epi64(_mm256_set1_epi64x(lane(start[0] + 4 * half)),
                                  _mm256_set_epi64x(3, 2, 1, 0));
      c1[half] = _mm256_set1_epi64x(lane(start[1]));
      c2[half] = _mm256_set1_epi64x(lane(start[2]));
      c3[half] = _mm256_set1_epi64x(lane(start[3]));
    }
    for (std::size_t round = 0; round < RandomKey::rounds; ++round) {
      const auto* const k = reinterpret_cast<const __m256i*>(to.keys[2 * round].data());
      const __m256i k0 = _mm256_load_si256(k), k1 = _mm256_load_si256(k + 2);
      for (std::size_t half = 0; half < 2; ++half) {
        const __m256i first = _mm256_mul_epu32(m0, c0[half]);
        const __m256i second = _mm256_mul_epu32(m1, c2[half]);
        c0[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(second, 32), c1[half]), k0);
        c1[half] = second;
        c2[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(first, 32), c3[half]), k1);
        c3[half] = first;
      }
    }
    __m256i bytes[4];
    for (std::size_t half = 0; half < 2; ++half) {
      bytes[half] = _mm256_blend_epi32(c0[half], _mm256_slli_epi64(c1[half], 32), 0xaa);
      bytes[2 + half] = _mm256_blend_epi32(c2[half], _mm256_slli_epi64(c3[half], 32), 0xaa);
    }
    auto* const stored = reinterpret_cast<__m256i*>(to.bytes.data() + g * 2 * RandomBits::group);
    for (std::size_t k = 0; k < 4; ++k) {
      _mm256_store_si256(stored + k, bytes[k]);
      _mm256_store_si256(stored + 4 + k, from_next_byte(bytes[k], bytes[(k + 1) % 4]));
    }
  }
}

template <>
struct WholePacks<X86V4, Eigen::bfloat16> {
  using Level = X86V4EvenOdd;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
#endif  // POLYAK_X86_LEVELS
