// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

// Vectors for the limit kernels and nothing else: included only by files that are compiled for the
// machine at hand. The widest of AVX-512, AVX2 with FMA and plain arrays that it has.

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

#endif

}  // namespace
}  // namespace polyak_bench
