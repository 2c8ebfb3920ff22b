// SPDX-License-Identifier: Apache-2.0
// A module of LibTorch trained by polyak: AdamW with an EMA in the same pass over the weights.
#include <torch/torch.h>

#include <cstdio>
#include <polyak/interop/torch.hpp>
#include <polyak/polyak.hpp>

int main() {
  torch::manual_seed(1);
  torch::nn::Linear net(16, 1);
  const torch::Tensor truth = torch::randn({16, 1});

  polyak::torch::Model model(net);  // the module's own tensors, under their names
  polyak::AdamW adamw(model.parameters(), {.learning_rate = 1e-2});
  polyak::Ema ema(model.parameters(), {.decay = 0.99});
  for (int step = 0; step < 2000; ++step) {
    const torch::Tensor x = torch::randn({8, 16});
    net->zero_grad();
    torch::mse_loss(net(x), x.mm(truth) + torch::randn({8, 1})).backward();
    model.step(adamw, ema);  // with the gradients of backward()
  }

  const auto distance = [&] { return (net->weight.t() - truth).norm().item<double>(); };
  const double last = distance();
  const auto averaged = ema.swap_into(model.parameters());  // the module holds the average
  std::printf("distance from the truth: weights %.3f, EMA %.3f\n", last, distance());
  return distance() < last ? 0 : 1;
}
