// SPDX-License-Identifier: Apache-2.0
// A user's program: train, average, evaluate the average.
#include <Eigen/Core>
#include <cstdio>
#include <polyak/polyak.hpp>
#ifdef WITH_IO
#include <polyak/io/save.hpp>
#endif

int main() {
  Eigen::MatrixXf weights = Eigen::MatrixXf::Constant(4, 5, 2.0F);
  Eigen::MatrixXf gradient(4, 5);
  polyak::Parameters params;
  params.add("weights", weights);
  const auto gradients = polyak::like(params, gradient);

  polyak::AdamW optimizer(params, {.learning_rate = 0.05, .weight_decay = 0.0});
  polyak::Ema ema(params, {.decay = 0.9});
  for (int step = 0; step < 200; ++step) {
    gradient = weights;  // of half the squared norm
    polyak::step(params, gradients, optimizer, ema);
  }

#ifdef WITH_IO
  polyak::save("consumer.safetensors", params, optimizer, ema);
  Eigen::MatrixXf loaded(4, 5);
  polyak::Parameters same;
  same.add("weights", loaded);
  polyak::AdamW optimizer_of_same(same, {.learning_rate = 0.05, .weight_decay = 0.0});
  polyak::Ema ema_of_same(same, {.decay = 0.9});
  polyak::load("consumer.safetensors", same, optimizer_of_same, ema_of_same);
  if (loaded != weights || optimizer_of_same.count() != 200) return 2;
#endif

  const float trained = weights.norm();
  float averaged = 0.0F;
  {
    const auto guard = ema.swap_into(params);
    averaged = weights.norm();
  }
  std::printf("polyak %s: norm %g, of the average %g\n", POLYAK_VERSION_STRING,
              static_cast<double>(trained), static_cast<double>(averaged));
  return trained < 0.5F && averaged < 0.5F && averaged != trained && weights.norm() == trained ? 0
                                                                                               : 1;
}
