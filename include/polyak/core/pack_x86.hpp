// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs of x86-64-v3 and v4 by intrinsics. Each operation carries its own target, so a translation
/// unit compiled for the baseline holds them too. Included at the end of pack.hpp.
#pragma once

#include <polyak/core/pack.hpp>

#if POLYAK_X86_LEVELS
#define POLYAK_TARGET_V3 __attribute__((target("avx,avx2,fma,f16c")))
#define POLYAK_TARGET_V4 \
  __attribute__((target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))

namespace polyak {
inline namespace v0 {
namespace detail {

struct X86V3 {};  ///< AVX2, FMA, F16C
struct X86V4 {};  ///< AVX-512 F, BW, CD, DQ, VL

template <class T>
inline constexpr int native_lanes<T, X86V3> = static_cast<int>(32 / sizeof(T));
template <class T>
inline constexpr int native_lanes<T, X86V4> = static_cast<int>(64 / sizeof(T));

POLYAK_TARGET_V3 inline __m256 choose_if_zero(__m256 test, __m256 then, __m256 otherwise) {
  return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
POLYAK_TARGET_V3 inline __m256d choose_if_zero(__m256d test, __m256d then, __m256d otherwise) {
  return _mm256_blendv_pd(otherwise, then, _mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_EQ_OQ));
}
// The zero-masked forms with a full mask are the plain instructions. Those that g++ 12 names
// plainly pass an undefined vector, about which it then warns.
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

POLYAK_TARGET_V4 inline __m512 choose_if_zero(__m512 test, __m512 then, __m512 otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_EQ_OQ), otherwise,
                              then);
}
POLYAK_TARGET_V4 inline __m512d choose_if_zero(__m512d test, __m512d then, __m512d otherwise) {
  return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_EQ_OQ), otherwise,
                              then);
}

#define POLYAK_X86_PACK(T, LEVEL, TARGET, VECTOR, PREFIX, SUFFIX)                               \
  template <>                                                                                   \
  struct Pack<T, native_lanes<T, LEVEL>, LEVEL> {                                               \
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
    TARGET friend Pack if_zero(const Pack& test, const Pack& then, const Pack& otherwise) {     \
      return Pack(choose_if_zero(test.v(), then.v(), otherwise.v()));                           \
    }                                                                                           \
  };

POLYAK_X86_PACK(float, X86V3, POLYAK_TARGET_V3, __m256, _mm256, ps)
POLYAK_X86_PACK(double, X86V3, POLYAK_TARGET_V3, __m256d, _mm256, pd)
POLYAK_X86_PACK(float, X86V4, POLYAK_TARGET_V4, __m512, _mm512, ps)
POLYAK_X86_PACK(double, X86V4, POLYAK_TARGET_V4, __m512d, _mm512, pd)
#undef POLYAK_X86_PACK

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
POLYAK_TARGET_V3 inline __m128i rounded(const Pack<float, 8, X86V3>& from,
                                         const Eigen::bfloat16*) {
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
POLYAK_TARGET_V4 inline __m256i rounded(const Pack<float, 16, X86V4>& from,
                                         const Eigen::bfloat16*) {
  const __m512i bits = _mm512_castps_si512(from.v());
  const __m512i odd =
      _mm512_and_si512(_mm512_maskz_srli_epi32(all16, bits, 16), _mm512_set1_epi32(1));
  const __m512i nearest = _mm512_maskz_srli_epi32(
      all16, _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet =
      _mm512_or_si512(_mm512_maskz_srli_epi32(all16, bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(from.v(), from.v(), _CMP_UNORD_Q);
  return _mm512_maskz_cvtepi32_epi16(all16, _mm512_mask_blend_epi32(is_nan, nearest, quiet));
}
template <class P>
POLYAK_TARGET_V4 inline void store_bits(P* to, const Pack<float, 16, X86V4>& from) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(from, to));
}
template <class P>
POLYAK_TARGET_V4 inline void stream_bits(P* to, const Pack<float, 16, X86V4>& from) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), rounded(from, to));
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

}  // namespace detail
}  // namespace v0
}  // namespace polyak
#endif  // POLYAK_X86_LEVELS
