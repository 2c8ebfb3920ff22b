// SPDX-License-Identifier: Apache-2.0
// The whole of polyak in one loop: linear regression by AdamW on noisy batches, with an EMA and a
// power EMA of the weights that share its pass over memory.
#include <cstdio>
#include <polyak/polyak.hpp>
#include <random>

int main() {
  constexpr int features = 16, batch = 8, steps = 4000;
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  const auto noise = [&] { return normal(random); };
  const Eigen::VectorXf truth = Eigen::VectorXf::NullaryExpr(features, noise);

  Eigen::VectorXf weight = Eigen::VectorXf::Zero(features), weight_gradient(features);
  Eigen::VectorXf bias = Eigen::VectorXf::Zero(1), bias_gradient(1);

  polyak::Parameters parameters;  // views of the model's own memory
  parameters.add("weight", weight).add("bias", bias);
  const auto gradients = polyak::like(parameters, weight_gradient, bias_gradient);

  polyak::AdamW optimizer(parameters, {.weight_decay = 0});
  polyak::Ema ema(parameters, {.decay = 0.999});
  polyak::PowerEma power_ema(parameters, {.sigma_rel = 0.10});

  for (int step = 0; step < steps; ++step) {
    const Eigen::MatrixXf inputs = Eigen::MatrixXf::NullaryExpr(batch, features, noise);
    const Eigen::VectorXf targets = inputs * truth + Eigen::VectorXf::NullaryExpr(batch, noise);
    const Eigen::VectorXf error = (inputs * weight - targets).array() + bias[0];
    weight_gradient = inputs.transpose() * error / batch;
    bias_gradient[0] = error.mean();
    const double rate = 1e-2 * polyak::linear_warmup(step, 100);
    polyak::step(parameters, gradients, optimizer.at(rate), ema, power_ema);  // one pass
  }

  const auto distance = [&] { return static_cast<double>((weight - truth).norm()); };
  const double raw = distance();
  std::printf("distance of the weights from the truth: %.4f\n", raw);
  {
    const auto averaged = ema.swap_into(parameters);  // the model holds the average ...
    std::printf("of their EMA:                           %.4f\n", distance());
    if (distance() >= raw) return 1;
  }  // ... and its own weights again
  const auto averaged = power_ema.swap_into(parameters);
  std::printf("of their power EMA:                     %.4f\n", distance());
  return distance() < raw ? 0 : 1;
}
