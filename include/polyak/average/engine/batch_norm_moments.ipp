// SPDX-License-Identifier: Apache-2.0
// Definitions of batch_norm_moments.hpp.
#pragma once

#include <polyak/average/engine/batch_norm_moments.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE void BatchNormMoments::resize(std::size_t channels) {
  mean.resize(channels);
  spread.resize(channels);
}

POLYAK_DEFINE void BatchNormMoments::join(BatchNormPooling pooling, std::int64_t other_batches,
                                          std::int64_t other_samples, const double* other_mean,
                                          const double* other_spread) {
  if (other_batches == 0) return;
  const double before = batch_norm_weight(pooling, batches, samples);
  const double own = batch_norm_weight(pooling, other_batches, other_samples);
  const double gain = own / (before + own);
  for (std::size_t c = 0; c < mean.size(); ++c) {
    if (batches == 0) {
      mean[c] = other_mean[c];
      spread[c] = other_spread[c];
      continue;
    }
    const double step = other_mean[c] - mean[c];
    mean[c] += gain * step;
    if (pooling == BatchNormPooling::pooled) {
      spread[c] += other_spread[c] + step * step * before * gain;
    } else {
      spread[c] += gain * (other_spread[c] - spread[c]);
    }
  }
  batches += other_batches;
  samples += other_samples;
}

POLYAK_DEFINE void BatchNormBatch::make_room(std::size_t channels) {
  if (mean.size() >= channels) return;
  mean.resize(channels);
  spread.resize(channels);
  rest.resize(channels);
}

POLYAK_DEFINE void BatchNormBatch::correct(std::size_t channels, double count) {
  for (std::size_t c = 0; c < channels; ++c) {
    mean[c] += rest[c] / count;
    spread[c] -= rest[c] * rest[c] / count;
    if (spread[c] < 0) spread[c] = 0;
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
