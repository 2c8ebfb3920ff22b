// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs of floats from 16-bit weights and their rests, and back: joined() and split() of
/// core/kept_weights.hpp for all lanes at once. The first argument only names the type of the
/// weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include <polyak/core/kept_weights.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/pack.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

template <class P, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void join_lanes(
    const P* type, const std::int16_t* rests, Pack<float, Lanes, Level>& weights) {
  join_lanes(type, rests, weights.low);
  join_lanes(type, rests + Lanes / 2, weights.high);
}
template <class P, int Lanes, class Level>
requires several_registers<float, Lanes, Level> POLYAK_INLINE void split_lanes(
    const P* type, std::int16_t* rests, Pack<float, Lanes, Level>& values) {
  split_lanes(type, rests, values.low);
  split_lanes(type, rests + Lanes / 2, values.high);
}

template <class P, int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<float, Level>) POLYAK_INLINE
    void join_lanes(const P*, const std::int16_t* rests, Pack<float, Lanes, Level>& weights) {
  float lanes[static_cast<std::size_t>(Lanes)];
  weights.store(lanes);
  for (int k = 0; k < Lanes; ++k) lanes[k] = joined<P>(lanes[k], rests[k]);
  weights = Pack<float, Lanes, Level>::load(lanes);
}
template <class P, int Lanes, class Level>
requires(lane_by_lane<Level>&& Lanes == native_lanes<float, Level>) POLYAK_INLINE
    void split_lanes(const P*, std::int16_t* rests, Pack<float, Lanes, Level>& values) {
  float lanes[static_cast<std::size_t>(Lanes)];
  values.store(lanes);
  for (int k = 0; k < Lanes; ++k) lanes[k] = split<P>(lanes[k], rests[k]);
  values = Pack<float, Lanes, Level>::load(lanes);
}

#if POLYAK_X86_LEVELS

// The integers of rests.

POLYAK_TARGET_V3 inline __m256i load_rests(const std::int16_t* from, X86V3) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
POLYAK_TARGET_V4 inline __m512i load_rests(const std::int16_t* from, X86V4) {
  return _mm512_maskz_cvtepi16_epi32(all16,
                                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
/// Stores the lower halves of 32-bit numbers.
POLYAK_TARGET_V3 inline void store_rests(std::int16_t* to, __m256i numbers) {
  const __m256i lower = _mm256_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 13, 12, 9, 8, 5, 4, 1, 0,
                                        -1, -1, -1, -1, -1, -1, -1, -1, 13, 12, 9, 8, 5, 4, 1, 0);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(numbers, lower), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
POLYAK_TARGET_V4 inline void store_rests(std::int16_t* to, __m512i numbers) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(all16, numbers));
}

// bfloat16: the float is the weight's bits plus the rest, where the sign stays apart.

POLYAK_TARGET_V3 inline void join_lanes(const Eigen::bfloat16*, const std::int16_t* rests,
                                        Pack<float, 8, X86V3>& weights) {
  const __m256i bits = _mm256_castps_si256(weights.v());
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i sum = _mm256_max_epi32(_mm256_add_epi32(magnitude, load_rests(rests, X86V3{})),
                                       _mm256_setzero_si256());
  const __m256i overflows = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const __m256i whole = _mm256_blendv_epi8(sum, _mm256_min_epi32(sum, magnitude), overflows);
  _mm256_store_ps(weights.s,
                  _mm256_castsi256_ps(_mm256_or_si256(whole, _mm256_xor_si256(bits, magnitude))));
}
POLYAK_TARGET_V3 inline void split_lanes(const Eigen::bfloat16*, std::int16_t* rests,
                                         Pack<float, 8, X86V3>& values) {
  const __m256 value = values.v();
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  const __m256i nearest =
      _mm256_blendv_epi8(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)),
                         _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)), nan);
  store_rests(rests, _mm256_andnot_si256(nan, bits));
  _mm256_store_ps(values.s, _mm256_castsi256_ps(_mm256_and_si256(
                                nearest, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
}
POLYAK_TARGET_V4 inline void join_lanes(const Eigen::bfloat16*, const std::int16_t* rests,
                                        Pack<float, 16, X86V4>& weights) {
  const __m512i bits = _mm512_castps_si512(weights.v());
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i sum = _mm512_maskz_max_epi32(
      all16, _mm512_add_epi32(magnitude, load_rests(rests, X86V4{})), _mm512_setzero_si512());
  const __mmask16 overflows = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  const __m512i whole = _mm512_mask_min_epi32(sum, overflows, sum, magnitude);
  _mm512_store_ps(weights.s,
                  _mm512_castsi512_ps(_mm512_or_si512(whole, _mm512_xor_si512(bits, magnitude))));
}
POLYAK_TARGET_V4 inline void split_lanes(const Eigen::bfloat16*, std::int16_t* rests,
                                         Pack<float, 16, X86V4>& values) {
  const __m512i bits = _mm512_castps_si512(values.v());
  const __mmask16 number = _mm512_cmp_ps_mask(values.v(), values.v(), _CMP_ORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
  const __m512i nearest = _mm512_mask_add_epi32(quiet, number, bits, _mm512_set1_epi32(0x8000));
  store_rests(rests, _mm512_maskz_mov_epi32(number, bits));
  _mm512_store_ps(values.s, _mm512_castsi512_ps(_mm512_and_si512(
                                nearest, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// half: the float is the weight plus the rest times a power of two.

POLYAK_TARGET_V3 inline __m256i half_exponents(__m256 weights) {
  const __m256i bits =
      _mm256_and_si256(_mm256_castps_si256(weights), _mm256_set1_epi32(0x7f800000));
  return _mm256_max_epi32(bits, _mm256_set1_epi32(112 << 23));
}
POLYAK_TARGET_V3 inline void join_lanes(const Eigen::half*, const std::int16_t* rests,
                                        Pack<float, 8, X86V3>& weights) {
  const __m256i unit = _mm256_sub_epi32(half_exponents(weights.v()), _mm256_set1_epi32(24 << 23));
  const __m256 rest =
      _mm256_mul_ps(_mm256_cvtepi32_ps(load_rests(rests, X86V3{})), _mm256_castsi256_ps(unit));
  _mm256_store_ps(weights.s, _mm256_add_ps(weights.v(), rest));
}
POLYAK_TARGET_V3 inline void split_lanes(const Eigen::half*, std::int16_t* rests,
                                         Pack<float, 8, X86V3>& values) {
  const __m256 value = values.v();
  const __m256 weight = _mm256_cvtph_ps(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  const __m256 finite =
      _mm256_cmp_ps(_mm256_sub_ps(weight, weight), _mm256_setzero_ps(), _CMP_EQ_OQ);
  const __m256i scale = _mm256_sub_epi32(_mm256_set1_epi32(278 << 23), half_exponents(weight));
  const __m256 units = _mm256_mul_ps(_mm256_and_ps(finite, _mm256_sub_ps(value, weight)),
                                     _mm256_castsi256_ps(scale));
  store_rests(rests, _mm256_cvtps_epi32(units));
  _mm256_store_ps(values.s, weight);
}
POLYAK_TARGET_V4 inline __m512i half_exponents(__m512 weights) {
  const __m512i bits =
      _mm512_and_si512(_mm512_castps_si512(weights), _mm512_set1_epi32(0x7f800000));
  return _mm512_maskz_max_epi32(all16, bits, _mm512_set1_epi32(112 << 23));
}
POLYAK_TARGET_V4 inline void join_lanes(const Eigen::half*, const std::int16_t* rests,
                                        Pack<float, 16, X86V4>& weights) {
  const __m512i unit = _mm512_sub_epi32(half_exponents(weights.v()), _mm512_set1_epi32(24 << 23));
  const __m512 rest = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(all16, load_rests(rests, X86V4{})),
                                    _mm512_castsi512_ps(unit));
  _mm512_store_ps(weights.s, _mm512_add_ps(weights.v(), rest));
}
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
POLYAK_TARGET_V4 inline void split_lanes(const Eigen::half*, std::int16_t* rests,
                                         Pack<float, 16, X86V4>& values) {
  const __m512 value = values.v();
  const __m512 weight =
      _mm512_maskz_cvtph_ps(all16, _mm512_maskz_cvtps_ph(all16, value, _MM_FROUND_TO_NEAREST_INT));
  const __mmask16 finite =
      _mm512_cmp_ps_mask(_mm512_sub_ps(weight, weight), _mm512_setzero_ps(), _CMP_EQ_OQ);
  const __m512i scale = _mm512_sub_epi32(_mm512_set1_epi32(278 << 23), half_exponents(weight));
  const __m512 units =
      _mm512_mul_ps(_mm512_maskz_sub_ps(finite, value, weight), _mm512_castsi512_ps(scale));
  store_rests(rests, _mm512_maskz_cvtps_epi32(all16, units));
  _mm512_store_ps(values.s, weight);
}
#pragma GCC diagnostic pop

#endif  // POLYAK_X86_LEVELS

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
