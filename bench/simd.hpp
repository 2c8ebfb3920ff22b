// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

// Vectors for the limit kernels and nothing else: included only by files that are compiled for the
// machine. The widest of AVX-512, AVX2 with FMA and plain arrays that it has.

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define POLYAK_LIMIT_INLINE __attribute__((always_inline)) inline
#else
#define POLYAK_LIMIT_INLINE inline
#endif

namespace polyak_bench {
namespace {

#if defined(__AVX512F__)

struct Vector {
  static constexpr std::size_t lanes = 16;
  __m512 v;
};
POLYAK_LIMIT_INLINE Vector spread(float a) { return {_mm512_set1_ps(a)}; }
POLYAK_LIMIT_INLINE Vector load(const float* p) { return {_mm512_load_ps(p)}; }
POLYAK_LIMIT_INLINE void store(float* p, Vector a) { _mm512_store_ps(p, a.v); }
POLYAK_LIMIT_INLINE void stream(float* p, Vector a) { _mm512_stream_ps(p, a.v); }
POLYAK_LIMIT_INLINE void end_of_streams() { _mm_sfence(); }
POLYAK_LIMIT_INLINE Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector fma(Vector a, Vector b, Vector c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// The masked form with all lanes: the other passes an undefined vector, of which GCC 12 warns.
POLYAK_LIMIT_INLINE Vector sqrt(Vector a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
POLYAK_LIMIT_INLINE Vector max(Vector a, Vector b) {
  return {_mm512_maskz_max_ps(0xffff, a.v, b.v)};
}
/// 1 or -1; a itself where it is 0 or NaN.
POLYAK_LIMIT_INLINE Vector sign(Vector a) {
  const __m512i sign_bit = _mm512_set1_epi32(INT32_MIN);
  const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1));
  const __m512i signed_one =
      _mm512_or_epi32(_mm512_and_epi32(_mm512_castps_si512(a.v), sign_bit), one);
  const __mmask16 nonzero = _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  return {_mm512_mask_mov_ps(a.v, nonzero, _mm512_castsi512_ps(signed_one))};
}
POLYAK_LIMIT_INLINE Vector load_bfloat16(const std::uint16_t* p) {
  const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16))};
}
/// The upper halves are the nearest bfloat16, the lower ones are of no use.
POLYAK_LIMIT_INLINE Vector rounded_upper(Vector a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i upper = _mm512_maskz_srli_epi32(0xffff, bits, 16);
  const __m512i odd = _mm512_and_epi32(upper, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return {_mm512_castsi512_ps(sum)};
}
POLYAK_LIMIT_INLINE Vector without_lower(Vector a) {
  return {
      _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(-0x10000)))};
}
/// Stores the upper halves, which are bfloat16.
POLYAK_LIMIT_INLINE void store_upper(std::uint16_t* p, Vector a) {
  const __m512i upper = _mm512_maskz_srli_epi32(0xffff, _mm512_castps_si512(a.v), 16);
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(0xffff, upper));
}
POLYAK_LIMIT_INLINE void store_bfloat16(std::uint16_t* p, Vector a) {
  store_upper(p, rounded_upper(a));
}

#elif defined(__AVX2__) && defined(__FMA__)

struct Vector {
  static constexpr std::size_t lanes = 8;
  __m256 v;
};
POLYAK_LIMIT_INLINE Vector spread(float a) { return {_mm256_set1_ps(a)}; }
POLYAK_LIMIT_INLINE Vector load(const float* p) { return {_mm256_load_ps(p)}; }
POLYAK_LIMIT_INLINE void store(float* p, Vector a) { _mm256_store_ps(p, a.v); }
POLYAK_LIMIT_INLINE void stream(float* p, Vector a) { _mm256_stream_ps(p, a.v); }
POLYAK_LIMIT_INLINE void end_of_streams() { _mm_sfence(); }
POLYAK_LIMIT_INLINE Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.v, b.v)}; }
POLYAK_LIMIT_INLINE Vector fma(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
POLYAK_LIMIT_INLINE Vector sqrt(Vector a) { return {_mm256_sqrt_ps(a.v)}; }
POLYAK_LIMIT_INLINE Vector max(Vector a, Vector b) { return {_mm256_max_ps(a.v, b.v)}; }
/// 1 or -1; a itself where it is 0 or NaN.
POLYAK_LIMIT_INLINE Vector sign(Vector a) {
  const __m256 signed_one =
      _mm256_or_ps(_mm256_and_ps(a.v, _mm256_set1_ps(-0.0F)), _mm256_set1_ps(1));
  const __m256 nonzero = _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NEQ_OQ);
  return {_mm256_blendv_ps(a.v, signed_one, nonzero)};
}
POLYAK_LIMIT_INLINE Vector load_bfloat16(const std::uint16_t* p) {
  const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
POLYAK_LIMIT_INLINE Vector rounded_upper(Vector a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  return {_mm256_castsi256_ps(sum)};
}
POLYAK_LIMIT_INLINE Vector without_lower(Vector a) {
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-0x10000)))};
}
POLYAK_LIMIT_INLINE void store_upper(std::uint16_t* p, Vector a) {
  const __m256i upper = _mm256_srli_epi32(_mm256_castps_si256(a.v), 16);
  _mm_store_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1)));
}
POLYAK_LIMIT_INLINE void store_bfloat16(std::uint16_t* p, Vector a) {
  store_upper(p, rounded_upper(a));
}

#else

// Arrays of one cache line's quarter, which compilers turn into the registers that there are.
struct Vector {
  static constexpr std::size_t lanes = 4;
  float v[lanes];
};
template <typename Each>
POLYAK_LIMIT_INLINE Vector each_lane(Each each) {
  Vector result;
  for (std::size_t k = 0; k < Vector::lanes; ++k) result.v[k] = each(k);
  return result;
}
POLYAK_LIMIT_INLINE Vector spread(float a) {
  return each_lane([&](std::size_t) { return a; });
}
POLYAK_LIMIT_INLINE Vector load(const float* p) {
  return each_lane([&](std::size_t k) { return p[k]; });
}
POLYAK_LIMIT_INLINE void store(float* p, Vector a) {
  for (std::size_t k = 0; k < Vector::lanes; ++k) p[k] = a.v[k];
}
POLYAK_LIMIT_INLINE void stream(float* p, Vector a) { store(p, a); }
POLYAK_LIMIT_INLINE void end_of_streams() {}
POLYAK_LIMIT_INLINE Vector operator-(Vector a, Vector b) {
  return each_lane([&](std::size_t k) { return a.v[k] - b.v[k]; });
}
POLYAK_LIMIT_INLINE Vector operator*(Vector a, Vector b) {
  return each_lane([&](std::size_t k) { return a.v[k] * b.v[k]; });
}
POLYAK_LIMIT_INLINE Vector operator/(Vector a, Vector b) {
  return each_lane([&](std::size_t k) { return a.v[k] / b.v[k]; });
}
POLYAK_LIMIT_INLINE Vector fma(Vector a, Vector b, Vector c) {
#if defined(__FP_FAST_FMAF)
  return each_lane([&](std::size_t k) { return __builtin_fmaf(a.v[k], b.v[k], c.v[k]); });
#else
  return each_lane([&](std::size_t k) { return a.v[k] * b.v[k] + c.v[k]; });
#endif
}
POLYAK_LIMIT_INLINE Vector sqrt(Vector a) {
  return each_lane([&](std::size_t k) { return __builtin_sqrtf(a.v[k]); });
}
POLYAK_LIMIT_INLINE Vector max(Vector a, Vector b) {
  return each_lane([&](std::size_t k) { return a.v[k] > b.v[k] ? a.v[k] : b.v[k]; });
}
/// 1 or -1; a itself where it is 0 or NaN.
POLYAK_LIMIT_INLINE Vector sign(Vector a) {
  return each_lane([&](std::size_t k) { return a.v[k] > 0 ? 1.0F : a.v[k] < 0 ? -1.0F : a.v[k]; });
}
POLYAK_LIMIT_INLINE Vector load_bfloat16(const std::uint16_t* p) {
  return each_lane([&](std::size_t k) {
    const std::uint32_t bits = static_cast<std::uint32_t>(p[k]) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  });
}
POLYAK_LIMIT_INLINE Vector rounded_upper(Vector a) {
  return each_lane([&](std::size_t k) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &a.v[k], sizeof bits);
    bits = bits + 0x7fffU + ((bits >> 16) & 1U);
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  });
}
POLYAK_LIMIT_INLINE Vector without_lower(Vector a) {
  return each_lane([&](std::size_t k) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &a.v[k], sizeof bits);
    bits &= 0xffff0000U;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  });
}
POLYAK_LIMIT_INLINE void store_upper(std::uint16_t* p, Vector a) {
  for (std::size_t k = 0; k < Vector::lanes; ++k) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &a.v[k], sizeof bits);
    p[k] = static_cast<std::uint16_t>(bits >> 16);
  }
}
POLYAK_LIMIT_INLINE void store_bfloat16(std::uint16_t* p, Vector a) {
  store_upper(p, rounded_upper(a));
}

#endif

}  // namespace
}  // namespace polyak_bench
