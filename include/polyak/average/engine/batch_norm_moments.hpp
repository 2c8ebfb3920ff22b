// SPDX-License-Identifier: Apache-2.0
/// @file
/// Means and spreads of the channels of a BatchNorm layer: of one batch, and of several joined.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// How the statistics of batches are combined.
enum class BatchNormPooling : std::uint8_t {
  batches,  ///< every batch counts the same, whatever its size
  samples,  ///< a batch counts by its number of values
  pooled,   ///< mean and variance of all values together
};

[[nodiscard]] constexpr std::string_view name_of(BatchNormPooling value) {
  switch (value) {
    case BatchNormPooling::batches:
      return "batches";
    case BatchNormPooling::samples:
      return "samples";
    default:
      return "pooled";
  }
}

namespace detail {

/// The weight of moments of that many batches and values when they are joined with others.
[[nodiscard]] constexpr double batch_norm_weight(BatchNormPooling pooling, std::int64_t batches,
                                                 std::int64_t samples) {
  return static_cast<double>(pooling == BatchNormPooling::batches ? batches : samples);
}

/// The moments of one batch or of several.
struct BatchNormMoments {
  std::int64_t batches = 0, samples = 0;
  std::vector<double> mean, spread;  ///< spread: variances; pooled: sums of squared deviations

  void resize(std::size_t channels);
  /// Adds other moments. Moments of no batches become the other moments.
  void join(BatchNormPooling pooling, std::int64_t other_batches, std::int64_t other_samples,
            const double* other_mean, const double* other_spread);
};

/// The moments of the last measured batch: scratch with room for the layer with most channels.
struct BatchNormBatch {
  std::vector<double> mean, spread;  ///< spread: sums of squared deviations
  std::vector<double> rest;

  void make_room(std::size_t channels);

  /// Measures activations [outer, channels, inner] in two passes. The second pass also sums the
  /// deviations, which corrects the rounding errors of the mean.
  template <class At>
  void measure(std::size_t outer, std::size_t channels, std::size_t inner, At at) {
    const auto count = static_cast<double>(outer * inner);
    std::fill_n(mean.begin(), channels, 0.0);
    for (std::size_t o = 0; o < outer; ++o) {
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (std::size_t i = 0; i < inner; ++i) sum += at(o, c, i);
        mean[c] += sum;
      }
    }
    for (std::size_t c = 0; c < channels; ++c) mean[c] /= count;
    std::fill_n(spread.begin(), channels, 0.0);
    std::fill_n(rest.begin(), channels, 0.0);
    for (std::size_t o = 0; o < outer; ++o) {
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = 0, squares = 0;
        for (std::size_t i = 0; i < inner; ++i) {
          const double deviation = at(o, c, i) - mean[c];
          sum += deviation;
          squares += deviation * deviation;
        }
        rest[c] += sum;
        spread[c] += squares;
      }
    }
    correct(channels, count);
  }

 private:
  void correct(std::size_t channels, double count);
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/average/engine/batch_norm_moments.ipp>
#endif
