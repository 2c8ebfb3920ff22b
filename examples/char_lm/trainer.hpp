// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <polyak/polyak.hpp>
#include <random>

#include "corpus.hpp"
#include "halves.hpp"
#include "model.hpp"
#include "settings.hpp"

namespace char_lm {

/// A model in training: weights, gradients and the order of the batches, all of which follow from
/// the seed, so that every run starts from the same weights and sees the same batches.
class Trainer {
 public:
  Trainer(const Corpus& corpus, const Settings& settings);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  polyak::Parameters<float>& parameters() { return parameters_; }
  const polyak::Gradients<float>& gradients() const { return gradients_; }

  /// Draws the next batch and computes the gradient; returns the mean loss in nats.
  double next_batch();

  /// Mean loss in nats of the present weights, on `windows` windows (0: all) spread evenly over the
  /// validation text.
  double validation_loss(std::int64_t windows);

 private:
  struct Half {
    Network<float> network;
    Batch batch;
    Batch validation_batch;
    Tensors<float> gradient;
    double loss = 0;
  };

  const Corpus& corpus_;
  std::mt19937_64 random_;
  Tensors<float> weights_;
  std::array<Half, 2> half_;
  polyak::Parameters<float> parameters_;
  polyak::Gradients<float> gradients_;  // of the whole batch, collected in the first half's
  Halves halves_;
};

/// Registers the tensors under their names.
polyak::Parameters<float> register_tensors(Tensors<float>& tensors);

}  // namespace char_lm
