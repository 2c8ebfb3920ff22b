// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a law is: the arithmetic of one method on values, the same for single numbers and for
/// packs.
///
/// A law is a small struct. It holds the scalars of this step, in the type T that it computes in,
/// and one `template <class V> void operator()(V& x, [const V& gradient,] V& slot...) const`, where
/// V is a detail::Number<T> or a detail::Pack of T. The contract:
///   - no branches on data, no loops, no memory; selection by `select`, `if_zero`, `max`;
///   - every a * b + c and a * b - c written as fma, because compilers contract the rest or not as
///     the target pleases, and levels and scalars would differ;
///   - functions called unqualified, with a V among the arguments, by which they are found; plain
///     numbers beside it convert. core/vocabulary.hpp lists them.
#pragma once

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

}  // namespace v0
}  // namespace polyak
