// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <algorithm>

namespace char_lm {
namespace {

constexpr int validation_batch_size = 256;

polyak::Gradients<float> gradients_of(const polyak::Parameters<float>& parameters,
                                      Tensors<float>& tensors) {
  polyak::Gradients<float> gradients(parameters);
  tensors.for_each([&](const char* name, const auto& tensor) { gradients.set(name, tensor); });
  return gradients;
}

}  // namespace

polyak::Parameters<float> register_tensors(Tensors<float>& tensors) {
  polyak::Parameters<float> parameters;
  tensors.for_each([&](const char* name, auto& tensor) { parameters.add(name, tensor); });
  return parameters;
}

Trainer::Trainer(const Corpus& corpus, const Settings& settings)
    : corpus_(corpus),
      random_(settings.seed),
      weights_(initial_weights<float>(settings.shape, random_)),
      half_{Half{{},
                 Batch(settings.shape.context, (settings.batch + 1) / 2),
                 Batch(settings.shape.context, validation_batch_size),
                 Tensors<float>(settings.shape)},
            Half{{},
                 Batch(settings.shape.context, settings.batch / 2),
                 Batch(settings.shape.context, validation_batch_size),
                 Tensors<float>(settings.shape)}},
      parameters_(register_tensors(weights_)),
      gradients_(gradients_of(parameters_, half_[0].gradient)) {}

double Trainer::next_batch() {
  const auto context = static_cast<int>(half_[0].batch.context.rows());
  const auto positions = static_cast<std::uint64_t>(count_windows(corpus_.train, context));
  for (Half& half : half_) {
    for (Eigen::Index column = 0; column < half.batch.size(); ++column) {
      const auto position = static_cast<std::int64_t>(random_() % positions);
      set_window(corpus_.train, position, half.batch, column);
    }
  }
  const float scale = 1.0f / static_cast<float>(half_[0].batch.size() + half_[1].batch.size());
  halves_.run([&](std::size_t i) {
    Half& half = half_[i];
    half.loss = half.network.loss_and_gradient(weights_, half.batch, scale, half.gradient);
  });
  half_[0].gradient += half_[1].gradient;
  return half_[0].loss + half_[1].loss;
}

double Trainer::validation_loss(std::int64_t windows) {
  const auto context = static_cast<int>(half_[0].validation_batch.context.rows());
  const std::int64_t available = count_windows(corpus_.validation, context);
  const std::int64_t count = windows == 0 ? available : std::min(windows, available);
  halves_.run([&](std::size_t i) {
    Half& half = half_[i];
    half.loss = 0;
    const std::int64_t end = i == 0 ? count / 2 : count;
    for (std::int64_t first = i == 0 ? 0 : count / 2; first < end;) {
      const std::int64_t size = std::min<std::int64_t>(validation_batch_size, end - first);
      half.validation_batch.resize(size);
      for (Eigen::Index column = 0; column < size; ++column, ++first) {
        set_window(corpus_.validation, first * available / count, half.validation_batch, column);
      }
      half.loss += half.network.loss(weights_, half.validation_batch);
    }
  });
  return (half_[0].loss + half_[1].loss) / static_cast<double>(count);
}

}  // namespace char_lm
