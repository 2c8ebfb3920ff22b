// SPDX-License-Identifier: Apache-2.0
/// @file
/// The functions of laws that are not single instructions, each written once for packs of every
/// level and for single numbers.
///
/// A value type V derives from Vocabulary<V> and provides the primitives:
///
///     + - * /   fma   sqrt   max   < <= ==   select   & | ! of masks
///     bit_and   bit_or   bit_xor   bit_andnot   nearest   shift_to_exponent
///
/// To add a function, add one friend below. Argument-dependent lookup finds all of them, so at
/// least one argument must be a V (or a mask of one); the others may be plain numbers, which
/// convert.
///
/// All functions give the same bits at every level with fused multiply-adds, on single numbers and
/// on a device. No function ends in a product that a compiler could contract with the caller's sum.
#pragma once

#include <polyak/core/law.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Constants of e^x in T: the ends of the range in which it is neither 0 nor infinite, and ln 2 in
/// two parts; the first part times any exponent is exact.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float lowest = -105, highest = 89;
  static constexpr float log2_e = 0x1.715476p+0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exponent_zero = 0x1.8p+23f + 127;  ///< its last bits encode 2^0
  static constexpr float tanh_is_one = 10;
  static constexpr int degree = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double lowest = -746, highest = 710;
  static constexpr double log2_e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exponent_zero = 0x1.8p+52 + 1023;
  static constexpr double tanh_is_one = 20;
  static constexpr int degree = 13;
};

/// k!, exact up to 18!.
[[nodiscard]] constexpr double factorial(int k) { return k < 2 ? 1 : k * factorial(k - 1); }
template <class T, int K>
inline constexpr T inverse_factorial = static_cast<T>(1 / factorial(K));

/// 2^n for an integer n whose power is a normal number.
template <class V>
[[nodiscard]] POLYAK_LAW V power_of_two(const V& n) {
  return shift_to_exponent(n + ExpConstants<typename V::Scalar>::exponent_zero);
}

/// e^x = 2^n (1 + s) with an integer n and |s| < 0.42.
template <class V>
struct ReducedExp {
  V n, s;
};

/// 1/K! + r/(K+1)! + r^2/(K+2)! + ... to the degree of the type, by Horner's rule.
template <int K, class V>
[[nodiscard]] POLYAK_LAW V exp_series(const V& r) {
  using T = typename V::Scalar;
  if constexpr (K == ExpConstants<T>::degree) {
    return V(inverse_factorial<T, K>);
  } else {
    return fma(exp_series<K + 1>(r), r, V(inverse_factorial<T, K>));
  }
}

template <class V>
[[nodiscard]] POLYAK_LAW ReducedExp<V> reduced_exp(const V& x) {
  using T = typename V::Scalar;
  using C = ExpConstants<T>;
  const V n = nearest(x * C::log2_e);
  const V r = fma(n, -C::ln2_low, fma(n, -C::ln2_high, x));
  return {n, fma(r * r, exp_series<2>(r), r)};
}

/// (a + a_low) / (b + b_low), almost exact before its last rounding, if the low parts are no larger
/// than a rounding error of the others.
template <class V>
[[nodiscard]] POLYAK_LAW V quotient(const V& a, const V& a_low, const V& b, const V& b_low) {
  const V inverse = V(1) / b;
  const V first = a * inverse;
  const V rest = fma(-first, b_low, fma(-first, b, a) + a_low);
  return fma(rest, inverse, first);
}

/// Base of the value types V.
template <class V>
struct Vocabulary {
  friend POLYAK_LAW V operator-(const V& a) { return bit_xor(a, V(-0.0f)); }
  friend POLYAK_LAW auto operator>(const V& a, const V& b) { return b < a; }
  friend POLYAK_LAW auto operator>=(const V& a, const V& b) { return b <= a; }
  friend POLYAK_LAW auto operator!=(const V& a, const V& b) { return !(a == b); }

  /// The magnitude; a NaN loses its sign.
  friend POLYAK_LAW V abs(const V& a) { return bit_andnot(V(-0.0f), a); }
  /// The magnitude of a with the sign of b, also for zeros and NaN.
  friend POLYAK_LAW V copysign(const V& a, const V& b) {
    const V mask(-0.0f);
    return bit_or(bit_andnot(mask, a), bit_and(mask, b));
  }
  /// 1, -1, or a itself if a is 0, -0 or NaN.
  friend POLYAK_LAW V sign(const V& a) { return select(abs(a) > V(0), copysign(V(1), a), a); }
  /// a if a < b, else b: the rule of the hardware, so a NaN in b is returned and a NaN in a is not.
  friend POLYAK_LAW V min(const V& a, const V& b) { return select(a < b, a, b); }
  /// `then` where test == 0, else `otherwise`.
  friend POLYAK_LAW V if_zero(const V& test, const V& then, const V& otherwise) {
    return select(test == V(0), then, otherwise);
  }
  /// g + decay x; just g if decay is 0, so that an infinite x does not make it NaN.
  friend POLYAK_LAW V with_decay(const V& decay, const V& x, const V& g) {
    return if_zero(decay, g, fma(decay, x, g));
  }
  /// (a - b) / 2, which does not overflow for finite a and b. It has the bits of half of a - b,
  /// except for numbers so small that their half is rounded.
  friend POLYAK_LAW V half_difference(const V& a, const V& b) {
    using T = typename V::Scalar;
    return fma(V(static_cast<T>(-0.5f)), b, V(static_cast<T>(0.5f)) * a);
  }
  /// a + c (b - a) for 0 <= c <= 1: finite for finite a and b.
  friend POLYAK_LAW V interpolate(const V& a, const V& b, const V& c) {
    return fma(c + c, half_difference(b, a), a);
  }
  /// e^x, up to infinity and, through the denormal numbers, down to 0. Error: at most 1.1 units in
  /// the last place.
  friend POLYAK_LAW V exp(const V& x) {
    using C = ExpConstants<typename V::Scalar>;
    const ReducedExp<V> e = reduced_exp(min(V(C::highest), max(V(C::lowest), x)));
    const V half = nearest(V(0.5f) * e.n);
    return fma((V(1) + e.s) * power_of_two(half), power_of_two(e.n - half), V(0));
  }
  /// 1 / (1 + e^-x), through the denormal numbers down to 0. Error: at most 1.6 units in the last
  /// place, 2.5 without fused multiply-adds.
  friend POLYAK_LAW V sigmoid(const V& x) {
    const V e = exp(-abs(x));
    const V sum = V(1) + e;
    return quotient(select(x < V(0), e, V(1)), V(0), sum, e - (sum - V(1)));
  }
  /// The hyperbolic tangent. Error: at most 1.6 units in the last place, 2.5 without
  /// fused multiply-adds.
  friend POLYAK_LAW V tanh(const V& x) {
    using C = ExpConstants<typename V::Scalar>;
    const ReducedExp<V> e = reduced_exp(V(-2) * min(V(C::tanh_is_one), abs(x)));
    // d + d_low = e^(-2|x|) - 1, and tanh |x| = -d / (2 + d)
    const V power = power_of_two(e.n), less_one = power - V(1);
    const V d = fma(power, e.s, less_one);
    const V d_low = fma(power, e.s, less_one - d);
    const V sum = V(2) + d;
    return copysign(quotient(-d, -d_low, sum, d - (sum - V(2)) + d_low), x);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
