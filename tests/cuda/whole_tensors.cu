// SPDX-License-Identifier: Apache-2.0
// Must not compile: see CMakeLists.txt.
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>

struct Whole : polyak::AdamW<polyak::cuda::Device<float>> {
  using polyak::AdamW<polyak::cuda::Device<float>>::AdamW;
  static constexpr bool needs_whole_tensors = true;
};

int main() {
  const polyak::cuda::Executor executor;
  polyak::cuda::Parameters<float> params(executor);
  Whole whole(params);
  polyak::step(executor, params, polyak::cuda::Gradients<float>(params), whole);
}
