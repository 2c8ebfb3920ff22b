// SPDX-License-Identifier: Apache-2.0
/// @file
/// The floating-point mode of a thread, and a guard that flushes denormal numbers to zero.
#pragma once

#include <cstdint>

#include <polyak/core/switches.hpp>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The control bits of the calling thread's floating-point unit: rounding, exceptions, denormals.
/// The status flags are not included and are not changed.
struct FloatMode {
#if defined(__x86_64__) || defined(_M_X64)
  using Word = std::uint32_t;
  static constexpr Word control = 0xffc0;  // of MXCSR
  static constexpr Word flush = 0x8040;    // FTZ for results, DAZ for operands
  [[nodiscard]] static Word get() { return static_cast<Word>(_mm_getcsr()) & control; }
  static void set(Word mode) { _mm_setcsr((_mm_getcsr() & ~control) | mode); }
#elif defined(__aarch64__) && defined(__GNUC__)
  using Word = std::uint64_t;
  static constexpr Word flush = Word{1} << 24;  // FZ of FPCR, for both
  [[nodiscard]] static Word get() {
    Word mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode) : : "memory");
    return mode;
  }
  static void set(Word mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  using Word = std::uint32_t;
  static constexpr Word flush = 0;
  [[nodiscard]] static Word get() { return 0; }
  static void set(Word) {}
#endif
};

/// Sets another mode for the calling thread while the object lives.
class WithFloatMode {
 public:
  explicit WithFloatMode(FloatMode::Word mode) : before_(FloatMode::get()) {
    if (mode != before_) FloatMode::set(mode);
  }
  WithFloatMode(const WithFloatMode&) = delete;
  WithFloatMode& operator=(const WithFloatMode&) = delete;
  ~WithFloatMode() {
    if (FloatMode::get() != before_) FloatMode::set(before_);
  }

 private:
  FloatMode::Word before_;
};

}  // namespace detail

/// While the guard lives, denormal numbers (below 1.2e-38 in float, 2.2e-308 in double) are read
/// and written as zeros in the calling thread, and in the sweeps that it runs on the threads of an
/// executor.
///
/// Denormals are very slow on some processors, and the moments of an optimizer become denormal if
/// gradients stay 0. The guard changes results, because a denormal counts as 0: use it throughout a
/// run or not at all. It affects all arithmetic of the thread, on x86-64 and aarch64; on other
/// processors it does nothing. Its end restores the mode of the thread.
class [[nodiscard]] FlushDenormals {
 public:
  FlushDenormals() : mode_(detail::FloatMode::get() | detail::FloatMode::flush) {}
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  detail::WithFloatMode mode_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
