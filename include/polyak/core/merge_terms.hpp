// SPDX-License-Identifier: Apache-2.0
/// @file
/// The terms of a merge: its inputs and weights, for the host and for a device.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Whether a merging law has a more careful law, for results with a NaN or an infinity.
template <class Law>
concept may_fail = requires {
  typename Law::Careful;
};

/// A list, or a pointer to one.
template <class T>
[[nodiscard]] const auto& list_of(const T& list) {
  if constexpr (std::is_pointer_v<T>) {
    return std::as_const(*list);
  } else {
    return list;
  }
}

/// The streams of a container of sources of reads(), or of pointers to such.
template <class Container>
struct InputsOf {
  const Container& all;
  [[nodiscard]] std::size_t size() const { return all.size(); }
  [[nodiscard]] auto operator[](std::size_t k) const { return stream_of(list_of(all.data()[k])); }
};

/// The weights of terms, as given.
struct GivenWeights {
  std::span<const double> weights;
  std::size_t each = 1;
  template <class T>
  void operator()(std::size_t term, T* to) const {
    for (std::size_t w = 0; w < each; ++w) to[w] = static_cast<T>(weights[term * each + w]);
  }
};

/// Refuses inputs that do not make whole terms, and weights that are not those of the terms.
template <class Law>
void require_terms(std::size_t inputs, std::span<const double> weights) {
  constexpr auto inputs_each = static_cast<std::size_t>(Law::merges.inputs);
  constexpr auto weights_each = static_cast<std::size_t>(Law::merges.weights);
  require(inputs >= 1 && inputs % inputs_each == 0,
          "merge_streams: inputs must be " + text(inputs_each) + " for each of one or more terms",
          inputs);
  require(weights.size() == inputs / inputs_each * weights_each,
          "merge_streams: weights must be " + text(weights_each) + " for each term",
          weights.size());
  for (std::size_t k = 0; k < weights.size(); ++k) {
    using T = typename Law::Value;
    if (is_finite(static_cast<double>(static_cast<T>(weights[k])))) continue;
    require(false,
            "merge_streams: weight " + text(k) + " must be finite as " +
                std::string(name_of(dtype_of<T>())),
            weights[k]);
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
