// SPDX-License-Identifier: Apache-2.0
// The layers of a BatchNormEstimator: registration, passes, merging.
#pragma once

#include <cmath>
#include <cstring>
#include <utility>

#include <polyak/average/engine/batch_norm_layers.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

// ---- what is registered -------------------------------------------------------------------------

template <class Numbers>
std::size_t BatchNormLayersOf<Numbers>::add(std::string name, const BatchNormArray& means,
                                            const BatchNormArray& variances,
                                            std::int64_t* counter) {
  refuse_while_running("add()");
  require(!name.empty(), "a BatchNorm layer's name must not be empty", std::string_view(name));
  for (const BatchNormLayer& other : layers_) {
    require(other.name != name, "a BatchNorm layer's name must be new", std::string_view(name));
  }
  require_contiguous(means.contiguous, name);
  require_contiguous(variances.contiguous, name);
  const std::size_t channels = elements_of(means.shape, name);
  const std::size_t others = elements_of(variances.shape, name);
  require(channels > 0, "layer \"" + name + "\" must have channels; its number of means", channels);
  require(others == channels,
          "layer \"" + name + "\" must have as many variances as means, " + text(channels), others);

  std::vector<PassPiece> pieces;
  pieces.push_back({means.data, channels * numbers_->bytes, name});
  pieces.push_back({variances.data, channels * numbers_->bytes, name});
  if (counter != nullptr) pieces.push_back({counter, sizeof *counter, name});
  memory_.reserve(pieces);
  BatchNormLayer layer{std::move(name), means.data, variances.data, counter, channels};
  layer.total.resize(channels);
  layer.before.resize(channels);
  batch_.make_room(channels);
  layers_.push_back(std::move(layer));
  memory_.append(pieces);
  return layers_.size() - 1;
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::set_during_pass(void* place, const void* value,
                                                 std::size_t bytes) {
  refuse_while_running("set_during_pass()");
  std::vector<PassPiece> pieces;
  pieces.push_back({place, bytes, "set_during_pass"});
  pieces[0].during.resize(bytes);
  std::memcpy(pieces[0].during.data(), value, bytes);
  memory_.reserve(pieces);
  memory_.append(pieces);
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::refuse_while_running(std::string_view call) const {
  if (running_) {
    refuse_order("polyak: " + std::string(call) +
                 " during a pass over the batches of a BatchNormEstimator");
  }
}

// ---- a pass over batches ------------------------------------------------------------------------

template <class Numbers>
void BatchNormLayersOf<Numbers>::begin_pass() noexcept {
  running_ = true;
  batch_count_ = 0;
  memory_.begin_pass();
  for (BatchNormLayer& layer : layers_) {
    std::swap(layer.total, layer.before);
    layer.total.batches = layer.total.samples = 0;
    layer.seen = BatchNormLayer::Seen::not_yet;
    for (std::size_t c = 0; c < layer.channels; ++c) {
      numbers_->store(layer.mean, c, 0);
      numbers_->store(layer.variance, c, 1);
    }
    if (layer.counter != nullptr) *layer.counter = 0;
  }
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::end_batch() {
  ++batch_count_;
  for (const BatchNormLayer& layer : layers_) {
    if (layer.seen == BatchNormLayer::Seen::not_yet) {
      refuse_order("polyak: BatchNorm layer \"" + layer.name + "\" was not observed in batch " +
                   text(batch_count_));
    }
  }
  for (BatchNormLayer& layer : layers_) {
    if (layer.seen == BatchNormLayer::Seen::here) {
      write(layer);
    } else {
      for (std::size_t c = 0; c < layer.channels; ++c) {
        layer.total.mean[c] = numbers_->load(layer.mean, c);
        layer.total.spread[c] = numbers_->load(layer.variance, c);
      }
      ++layer.total.batches;
      layer.total.samples += layer.samples;
      if (layer.counter != nullptr) *layer.counter = layer.total.batches;
    }
    layer.seen = BatchNormLayer::Seen::not_yet;
  }
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::end_pass(bool succeeded) noexcept {
  running_ = false;
  memory_.end_pass(succeeded);
  if (succeeded) return;
  for (BatchNormLayer& layer : layers_) std::swap(layer.total, layer.before);
}

template <class Numbers>
const BatchNormLayer& BatchNormLayersOf<Numbers>::known(std::size_t layer) const {
  require(layer < layers_.size(), "a BatchNorm layer's number must be one that add() returned",
          layer);
  return layers_[layer];
}

template <class Numbers>
BatchNormLayer& BatchNormLayersOf<Numbers>::observed(std::size_t number, std::int64_t samples,
                                                     std::size_t channels) {
  const BatchNormLayer& layer = known(number);
  if (!running_) {
    refuse_order("polyak: BatchNorm layer \"" + layer.name +
                 "\" was observed outside of estimate()");
  }
  if (layer.seen != BatchNormLayer::Seen::not_yet) {
    refuse_order("polyak: BatchNorm layer \"" + layer.name + "\" was observed twice in batch " +
                 text(batch_count_ + 1));
  }
  if (channels != layer.channels) {
    refuse_layer(layer, "the channels must be " + text(layer.channels), channels);
  }
  if (samples < 2) refuse_layer(layer, "a batch must have at least 2 values per channel", samples);
  return layers_[number];
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::take(BatchNormLayer& layer, std::int64_t samples) {
  if (pooling_ != BatchNormPooling::pooled) {
    for (std::size_t c = 0; c < layer.channels; ++c) {
      batch_.spread[c] /= static_cast<double>(samples - 1);
    }
  }
  layer.total.join(pooling_, 1, samples, batch_.mean.data(), batch_.spread.data());
  layer.seen = BatchNormLayer::Seen::here;
}

template <class Numbers>
double BatchNormLayersOf<Numbers>::factor(std::size_t layer, std::int64_t samples) {
  if (pooling_ == BatchNormPooling::pooled) {
    refuse_order("polyak: BatchNormPooling::pooled has no factor; observe the layer");
  }
  BatchNormLayer& target = observed(layer, samples, known(layer).channels);
  target.seen = BatchNormLayer::Seen::by_layer;
  target.samples = samples;
  const double own = batch_norm_weight(pooling_, 1, samples);
  return own / (batch_norm_weight(pooling_, target.total.batches, target.total.samples) + own);
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::write(const BatchNormLayer& layer) const {
  const BatchNormMoments& total = layer.total;
  const bool pooled = pooling_ == BatchNormPooling::pooled;
  const double divisor = pooled ? static_cast<double>(total.samples - 1) : 1;
  for (std::size_t c = 0; c < layer.channels; ++c) {
    numbers_->store(layer.mean, c, total.mean[c]);
    numbers_->store(layer.variance, c, total.spread[c] / divisor);
  }
  if (layer.counter != nullptr) *layer.counter = total.batches;
}

// ---- what other estimators found ----------------------------------------------------------------

template <class Numbers>
void BatchNormLayersOf<Numbers>::require_same(const BatchNormLayersOf& other) const {
  bool same = layers_.size() == other.layers_.size();
  for (std::size_t k = 0; same && k < layers_.size(); ++k) {
    same = layers_[k].name == other.layers_[k].name;
  }
  if (!same) refuse_value("polyak: merge() needs the same BatchNorm layers in the same order");
}

template <class Numbers>
void BatchNormLayersOf<Numbers>::merge(std::span<const double> statistics) {
  refuse_while_running("merge()");
  check(statistics);
  const double* next = statistics.data() + 2;
  for (BatchNormLayer& layer : layers_) {
    const auto batches = static_cast<std::int64_t>(next[1]);
    const auto samples = static_cast<std::int64_t>(next[2]);
    layer.total.join(pooling_, batches, samples, next + 3, next + 3 + layer.channels);
    if (layer.total.batches != 0) write(layer);
    next += 3 + 2 * layer.channels;
  }
}

template <class Numbers>
std::vector<double> BatchNormLayersOf<Numbers>::statistics() const {
  std::vector<double> all{static_cast<double>(pooling_), static_cast<double>(layers_.size())};
  for (const BatchNormLayer& layer : layers_) {
    all.push_back(static_cast<double>(layer.channels));
    all.push_back(static_cast<double>(layer.total.batches));
    all.push_back(static_cast<double>(layer.total.samples));
    for (const double mean : layer.total.mean) all.push_back(mean);
    for (const double spread : layer.total.spread) all.push_back(spread);
  }
  return all;
}

/// Refuses numbers that statistics() of the same layers cannot have given.
template <class Numbers>
void BatchNormLayersOf<Numbers>::check(std::span<const double> statistics) const {
  std::size_t size = 2;
  for (const BatchNormLayer& layer : layers_) size += 3 + 2 * layer.channels;
  require(statistics.size() == size, "the statistics to merge must have " + text(size) + " numbers",
          statistics.size());
  require(statistics[0] == static_cast<double>(pooling_),
          "the statistics to merge must be pooled by " + std::string(name_of(pooling_)) + ", " +
              text(static_cast<double>(pooling_)),
          statistics[0]);
  require(statistics[1] == static_cast<double>(layers_.size()),
          "the statistics to merge must be of " + text(layers_.size()) + " layers", statistics[1]);
  const double* next = statistics.data() + 2;
  for (const BatchNormLayer& layer : layers_) {
    if (next[0] != static_cast<double>(layer.channels)) {
      refuse_layer(layer, "the channels to merge must be " + text(layer.channels), next[0]);
    }
    for (const double count : {next[1], next[2]}) {
      if (!(count >= 0 && count <= 0x1p53 && std::floor(count) == count)) {
        refuse_layer(layer, "counts to merge must be whole and >= 0", count);
      }
    }
    if (!(next[2] >= 2 * next[1])) {
      refuse_layer(layer, "batches to merge must have at least 2 values per channel each", next[2]);
    }
    next += 3 + 2 * layer.channels;
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
