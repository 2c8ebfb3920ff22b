// SPDX-License-Identifier: Apache-2.0
/// @file
/// Laws. A law is the arithmetic of one method on values, the same for single numbers and for
/// packs.
///
/// A law is a small struct. It holds the scalars of this step, in the type T that it computes in,
/// and one `template <class V> void operator()(V& x, [const V& gradient,] V& slot...) const`, where
/// V is a detail::Number<T> or a detail::Pack of T. The contract:
///   - no branches on data, no loops, no memory; selection by `select`, `if_zero`, `max`;
///   - every a * b + c and a * b - c written as fma, because otherwise the compiler decides for
///     each target whether to contract, and levels and scalars would differ;
///   - functions called unqualified, with at least one V among the arguments, so that
///     argument-dependent lookup finds them; the other arguments may be plain numbers.
///     core/vocabulary.hpp lists them.
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>

#include <polyak/core/switches.hpp>

#if defined(__CUDACC__)
#define POLYAK_LAW __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define POLYAK_LAW __attribute__((always_inline)) inline
#else
#define POLYAK_LAW __forceinline
#endif

/// The same for functions of the host only.
#if defined(__GNUC__)
#define POLYAK_INLINE __attribute__((always_inline)) inline
#else
#define POLYAK_INLINE __forceinline
#endif

/// Marks a rare branch in a loop: the compiler then jumps over the branch and does not compute both
/// sides for every element.
#if defined(__GNUC__) && !defined(__CUDA_ARCH__)
#define POLYAK_KEEP_BRANCH() __asm__ volatile("")
#else
#define POLYAK_KEEP_BRANCH() static_cast<void>(0)
#endif

namespace polyak {
inline namespace POLYAK_V0 {

/// The state slots of a law, in the order of its arguments, and its other reads and writes. Each
/// law has one: `static constexpr LawSlots slots{"exp_avg", "exp_avg_sq"};`
///
/// This constructor is for the law of an optimizer, `law(V& x, const V& gradient, V& slot...)`. The
/// functions below are for the other kinds of laws, which have no gradient.
struct LawSlots {
  static constexpr int most_names = 6;
  std::string_view names[most_names] = {};
  int count = 0;
  int written = 0;  ///< the law changes the first `written` slots
  bool reads_gradient = true;
  bool writes_parameter = true;

  template <std::convertible_to<std::string_view>... Names>
  constexpr explicit LawSlots(const Names&... all)
      : names{all...}, count(sizeof...(Names)), written(sizeof...(Names)) {}

  /// `law(const V& x, V& slot...)`: reads the weights and moves the slots.
  template <std::convertible_to<std::string_view>... Names>
  static constexpr LawSlots averaging(const Names&... all) {
    LawSlots slots(all...);
    slots.reads_gradient = slots.writes_parameter = false;
    return slots;
  }
  /// The same for a number of slots whose names the method sets.
  static constexpr LawSlots averaging(std::size_t number) {
    LawSlots slots = averaging();
    slots.count = slots.written = static_cast<int>(number);
    return slots;
  }
  /// `law(V& x, const V& slot...)`: writes the weights from the slots.
  template <std::convertible_to<std::string_view>... Names>
  static constexpr LawSlots reading(const Names&... all) {
    LawSlots slots(all...);
    slots.reads_gradient = false;
    slots.written = 0;
    return slots;
  }
  /// `law(V& x, V& slot...)`: changes both.
  template <std::convertible_to<std::string_view>... Names>
  static constexpr LawSlots exchanging(const Names&... all) {
    LawSlots slots(all...);
    slots.reads_gradient = false;
    return slots;
  }
  /// The same for several slots; the law changes only the first.
  [[nodiscard]] constexpr LawSlots first_written() const {
    LawSlots slots = *this;
    slots.written = 1;
    return slots;
  }
};

/// The streams of a law `operator()(V& output..., const V& input...)`.
struct LawStreams {
  int outputs = 1;
  int inputs = 1;
  bool updates = false;  ///< the outputs are read, too, and updated
  bool rare = false;     ///< used too rarely to be compiled for every level
};

/// The streams of a law that merges: `first` and `next` as
/// `(V& accumulator..., const V& weight..., const V& input...)`, and
/// `finish(V& output..., const V& accumulator...)`. A law may name a more careful law on the same
/// streams, `using Careful = Law`. The careful law replaces it if the result has a NaN or an
/// infinity, or if an output is also an input.
struct LawMerge {
  int inputs = 1;   ///< of each term
  int weights = 1;  ///< of each term
  int accumulators = 1;
  int outputs = 1;
  bool rare = false;
};

/// The values of LawSlots as constants that a device can use.
template <class Law>
inline constexpr int slot_count = Law::slots.count;
template <class Law>
inline constexpr int written_slots = Law::slots.written;
template <class Law>
inline constexpr bool reads_gradient = Law::slots.reads_gradient;
template <class Law>
inline constexpr bool writes_parameter = Law::slots.writes_parameter;

}  // namespace POLYAK_V0
}  // namespace polyak
