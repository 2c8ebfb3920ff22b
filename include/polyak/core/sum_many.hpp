// SPDX-License-Identifier: Apache-2.0
/// @file
/// Computes several weighted sums of the same inputs at once, for blocks of memory that are in the
/// cache.
///
///   out_m = w_(m,0) x_0 + w_(m,1) x_1 + ... + w_(m,N-1) x_(N-1)
///
/// Each input is read once for four sums, which stay in registers. Every sum has the same bits as
/// with WeightedSumLaw (core/sum.hpp): the same operations in the same order.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

inline constexpr std::size_t sums_at_once = 4;

/// Four sums of `terms` inputs, for `count` elements: a multiple of slot_granule.
template <class In, class Sum>
struct SumManyKernel {
  Sum* const* out;  // four
  std::size_t count, terms;
  const In* const* inputs;
  const Sum* weights;  // four for each input

  template <class Level>
  POLYAK_INLINE void run() const {
    static_assert(sums_at_once == 4);
    constexpr int lanes = native_lanes<Sum, Level>;
    constexpr auto step = static_cast<std::size_t>(lanes);
    using P = Pack<Sum, lanes, Level>;
    for (std::size_t i = 0; i < count; i += 2 * step) {
      P a0, a1, b0, b1, c0, c1, d0, d1, x0, x1;
      load(inputs[0] + i, x0);
      load(inputs[0] + i + step, x1);
      first<P>(weights[0], x0, x1, a0, a1);
      first<P>(weights[1], x0, x1, b0, b1);
      first<P>(weights[2], x0, x1, c0, c1);
      first<P>(weights[3], x0, x1, d0, d1);
      for (std::size_t k = 1; k < terms; ++k) {
        load(inputs[k] + i, x0);
        load(inputs[k] + i + step, x1);
        const Sum* const w = weights + sums_at_once * k;
        add<P>(w[0], x0, x1, a0, a1);
        add<P>(w[1], x0, x1, b0, b1);
        add<P>(w[2], x0, x1, c0, c1);
        add<P>(w[3], x0, x1, d0, d1);
      }
      store<P>(out[0] + i, a0, a1);
      store<P>(out[1] + i, b0, b1);
      store<P>(out[2] + i, c0, c1);
      store<P>(out[3] + i, d0, d1);
    }
  }

 private:
  template <class P>
  POLYAK_INLINE static void load(const In* from, P& to) {
    if constexpr (std::same_as<carrier_t<In>, Sum>) {
      load_pack(from, to);
    } else {
      static_assert(std::same_as<In, Sum>);
    }
  }
  template <class P>
  POLYAK_INLINE static void first(Sum weight, const P& x0, const P& x1, P& s0, P& s1) {
    const P w(weight);
    s0 = w * x0;
    s1 = w * x1;
  }
  template <class P>
  POLYAK_INLINE static void add(Sum weight, const P& x0, const P& x1, P& s0, P& s1) {
    const P w(weight);
    s0 = fma(w, x0, s0);
    s1 = fma(w, x1, s1);
  }
  template <class P>
  POLYAK_INLINE static void store(Sum* to, const P& s0, const P& s1) {
    store_pack(to, s0);
    store_pack(to + static_cast<std::size_t>(native_lanes_of<P>), s1);
  }
  template <class P>
  static constexpr int native_lanes_of = sizeof(P) / sizeof(Sum);
};

/// Weights of several sums, and their memory.
template <class Sum>
class SumMany {
 public:
  /// `weights[m][k]` of sum m and input k.
  explicit SumMany(const std::vector<std::vector<double>>& weights) : sums_(weights.size()) {
    for (std::size_t m = 0; m < sums_; m += sums_at_once) {
      for (std::size_t k = 0; k < weights[0].size(); ++k) {
        for (std::size_t i = m; i < m + sums_at_once; ++i) {
          weights_.push_back(i < sums_ ? static_cast<Sum>(weights[i][k]) : Sum(0));
        }
      }
    }
  }

  /// Writes `count` elements of each sum. All memory must have room for `count` rounded up to a
  /// multiple of slot_granule.
  template <class In>
  void operator()(std::size_t count, std::span<const In* const> inputs, std::span<Sum* const> out) {
    const std::size_t whole = (count + slot_granule - 1) / slot_granule * slot_granule;
    for (std::size_t m = 0; m < sums_; m += sums_at_once) {
      Sum* four[sums_at_once];
      for (std::size_t i = 0; i < sums_at_once; ++i) {
        if (m + i >= sums_) spare_.resize(std::max(spare_.size(), whole));
        four[i] = m + i < sums_ ? out[m + i] : spare_.data();
      }
      run_at(level_in_use(), SumManyKernel<In, Sum>{four, whole, inputs.size(), inputs.data(),
                                                    weights_.data() + m * inputs.size()});
    }
  }

 private:
  std::size_t sums_;
  std::vector<Sum> weights_;  // of four sums, then of the next four
  std::vector<Sum> spare_;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
