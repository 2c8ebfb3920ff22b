// SPDX-License-Identifier: Apache-2.0
/// @file
/// Laws over streams for tests on the host and on a device. Needs nothing that nvcc does not
/// compile.
#pragma once

#include <polyak/core/law.hpp>

namespace stream_laws {

using polyak::LawMerge;
using polyak::LawStreams;

/// Two outputs of three inputs.
template <class T>
struct TwoOfThree {
  using Value = T;
  static constexpr LawStreams streams{.outputs = 2, .inputs = 3};
  T factor;
  template <class V>
  POLYAK_LAW void operator()(V& a, V& b, const V& x, const V& y, const V& z) const {
    a = fma(factor, x - y, z);
    b = max(x, y) + z;
  }
};

/// Updates two outputs.
template <class T>
struct Follow {
  using Value = T;
  static constexpr LawStreams streams{.outputs = 2, .inputs = 1, .updates = true, .rare = true};
  T gain;
  template <class V>
  POLYAK_LAW void operator()(V& fast, V& slow, const V& x) const {
    slow = fma(gain, fast - slow, slow);
    fast = fma(gain, x - fast, fast);
  }
};

/// The mean of models weighted by a stream for each, and the sum of these.
template <class T>
struct WeighedByStreams {
  using Value = T;
  static constexpr LawMerge merges{.inputs = 2, .accumulators = 2, .outputs = 2};
  template <class V>
  POLYAK_LAW void first(V& total, V& sum, const V& weight, const V& x, const V& f) const {
    total = weight * f;
    sum = total * x;
  }
  template <class V>
  POLYAK_LAW void next(V& total, V& sum, const V& weight, const V& x, const V& f) const {
    total = fma(weight, f, total);
    sum = fma(weight * f, x, sum);
  }
  template <class V>
  POLYAK_LAW void finish(V& mean, V& all, const V& total, const V& sum) const {
    mean = sum / total;
    all = total;
  }
};

}  // namespace stream_laws
