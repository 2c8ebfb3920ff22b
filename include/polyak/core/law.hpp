// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a law is: the arithmetic of one method on values, the same for scalars and for packs.
///
/// A law is a small struct. It holds the scalars of this step, in the type that it computes in, and
/// one `template <class V> void operator()(V& x, [const V& gradient,] V& slot...) const`, where V
/// is a scalar or a Pack. The contract:
///   - no branches on data, no loops, no memory; selection by `if_zero`, `max`;
///   - every a * b + c and a * b - c written as fma, because compilers contract the rest or not as
///     the target pleases, and levels and scalars would differ;
///   - functions called unqualified: those of packs are found by their argument, those of scalars
///     are declared here.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define POLYAK_LAW __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define POLYAK_LAW __attribute__((always_inline)) inline
#else
#define POLYAK_LAW __forceinline
#endif

/// The same for what only the host has.
#if defined(__GNUC__)
#define POLYAK_INLINE __attribute__((always_inline)) inline
#else
#define POLYAK_INLINE __forceinline
#endif

namespace polyak {
inline namespace v0 {

/// What a law touches. `Law::traffic` lets the walk load and store just that.
struct Traffic {
  int slots = 0;                   ///< state slots, passed after the parameter and the gradient
  bool gradient = false;           ///< passes the gradient
  bool writes_parameter = false;   ///< changes x
  bool writes_slots = true;        ///< changes the slots
  bool writes_first_slot = false;  ///< of them the first alone
};

/// How many of its slots a law changes: the first ones.
template <class Law>
inline constexpr int written_slots = !Law::traffic.writes_slots       ? 0
                                     : Law::traffic.writes_first_slot ? 1
                                                                      : Law::traffic.slots;

/// a * b + c, rounded once. Without these a bare fma of floats would be the C function of doubles.
POLYAK_LAW float fma(float a, float b, float c) { return std::fma(a, b, c); }
POLYAK_LAW double fma(double a, double b, double c) { return std::fma(a, b, c); }

/// The IEEE square root.
POLYAK_LAW float sqrt(float a) { return std::sqrt(a); }
POLYAK_LAW double sqrt(double a) { return std::sqrt(a); }

/// a if a > b, else b: the rule of the hardware, also for NaN.
POLYAK_LAW float max(float a, float b) { return a > b ? a : b; }
POLYAK_LAW double max(double a, double b) { return a > b ? a : b; }

/// `then` where test == 0, else `otherwise`.
POLYAK_LAW float if_zero(float test, float then, float otherwise) {
  return test == 0 ? then : otherwise;
}
POLYAK_LAW double if_zero(double test, double then, double otherwise) {
  return test == 0 ? then : otherwise;
}

/// g + decay x; just g where decay is 0, so that an infinite x does not make it NaN.
template <class V>
POLYAK_LAW V with_decay(const V& decay, const V& x, const V& g) {
  return if_zero(decay, g, fma(decay, x, g));
}

}  // namespace v0
}  // namespace polyak
