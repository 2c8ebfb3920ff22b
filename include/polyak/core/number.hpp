// SPDX-License-Identifier: Apache-2.0
/// @file
/// A single number as a value of laws: the pack of one lane, for host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <polyak/core/law.hpp>
#include <polyak/core/vocabulary.hpp>

/// Whether the target of this translation unit has fused multiply-adds.
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
#define POLYAK_TARGET_FUSES 1
#else
#define POLYAK_TARGET_FUSES 0
#endif

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

template <class T, int Lanes, class Level>
struct Pack;  // pack.hpp

/// The level of single numbers. Its fma rounds once if Fused, else twice. Levels that differ only
/// in Target compute the same.
template <bool Fused, int Target = 0>
struct Scalars {};

/// A single number that a law runs on. It converts from T; `.value` converts back.
template <class T>
using Number = Pack<T, 1, Scalars<true>>;

template <class T, bool Fused, int Target>
struct Pack<T, 1, Scalars<Fused, Target>> : Vocabulary<Pack<T, 1, Scalars<Fused, Target>>> {
  using Scalar = T;
  struct Mask {
    bool set;
    friend POLYAK_LAW Mask operator&(Mask a, Mask b) { return {a.set && b.set}; }
    friend POLYAK_LAW Mask operator|(Mask a, Mask b) { return {a.set || b.set}; }
    friend POLYAK_LAW Mask operator!(Mask a) { return {!a.set}; }
  };
  T value;

  Pack() = default;
  POLYAK_LAW Pack(T number) : value(number) {}
  POLYAK_LAW static Pack load(const T* p) { return *p; }
  POLYAK_LAW void store(T* p) const { *p = value; }
  POLYAK_LAW void stream(T* p) const { *p = value; }

  friend POLYAK_LAW Pack operator+(const Pack& a, const Pack& b) { return a.value + b.value; }
  friend POLYAK_LAW Pack operator-(const Pack& a, const Pack& b) { return a.value - b.value; }
  friend POLYAK_LAW Pack operator*(const Pack& a, const Pack& b) { return a.value * b.value; }
  friend POLYAK_LAW Pack operator/(const Pack& a, const Pack& b) { return a.value / b.value; }
  friend POLYAK_LAW Pack fma(const Pack& a, const Pack& b, const Pack& c) {
    if constexpr (Fused) {
      return std::fma(a.value, b.value, c.value);
    } else {
#if POLYAK_TARGET_FUSES
      const volatile T product = a.value * b.value;  // volatile: not contracted
#else
      const T product = a.value * b.value;
#endif
      return product + c.value;
    }
  }
  friend POLYAK_LAW Pack sqrt(const Pack& a) { return std::sqrt(a.value); }
  friend POLYAK_LAW Pack max(const Pack& a, const Pack& b) { return a.value > b.value ? a : b; }

  friend POLYAK_LAW Mask operator<(const Pack& a, const Pack& b) { return {a.value < b.value}; }
  friend POLYAK_LAW Mask operator<=(const Pack& a, const Pack& b) { return {a.value <= b.value}; }
  friend POLYAK_LAW Mask operator==(const Pack& a, const Pack& b) { return {a.value == b.value}; }
  friend POLYAK_LAW Pack select(const Mask& mask, const Pack& a, const Pack& b) {
    return mask.set ? a : b;
  }

  friend POLYAK_LAW Pack bit_and(const Pack& a, const Pack& b) { return of(a.bits() & b.bits()); }
  friend POLYAK_LAW Pack bit_or(const Pack& a, const Pack& b) { return of(a.bits() | b.bits()); }
  friend POLYAK_LAW Pack bit_xor(const Pack& a, const Pack& b) { return of(a.bits() ^ b.bits()); }
  friend POLYAK_LAW Pack bit_andnot(const Pack& a, const Pack& b) {
    return of(~a.bits() & b.bits());
  }
  friend POLYAK_LAW Pack nearest(const Pack& a) { return std::rint(a.value); }
  friend POLYAK_LAW Pack shift_to_exponent(const Pack& a) {
    return of(a.bits() << (sizeof(T) == 4 ? 23 : 52));
  }

 private:
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  [[nodiscard]] POLYAK_LAW Bits bits() const { return __builtin_bit_cast(Bits, value); }
  POLYAK_LAW static Pack of(Bits bits) { return __builtin_bit_cast(T, bits); }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
