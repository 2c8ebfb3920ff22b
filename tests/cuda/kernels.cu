// SPDX-License-Identifier: Apache-2.0
// Kernels whose machine code kernels.cmake looks at.
#include <polyak/average/ema.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>

#if defined(EIGEN_CORE_H) || defined(EIGEN_WORLD_VERSION)
#error "Eigen came in"
#endif

namespace {

template <class P, class S, class... Averages>
void steps(const polyak::cuda::Executor& executor) {
  using D = polyak::cuda::Device<P>;
  polyak::cuda::Parameters<P> params(executor);
  polyak::cuda::Gradients<P> gradients(params);
  static_cast<void>(polyak::clip_norm(executor, gradients, 1));
  polyak::AdamW<D, S> adamw(params);
  polyak::Ema<D, S> first(params), second(params);
  polyak::step(executor, params, gradients, adamw, first, second);
}

}  // namespace

int main() {
  const polyak::cuda::Executor executor;
  steps<float, float>(executor);
  steps<double, double>(executor);
  steps<Eigen::half, float>(executor);
  steps<Eigen::bfloat16, float>(executor);
  polyak::cuda::Parameters<float> params(executor);
  const polyak::cuda::Gradients<float> gradients(params);
  polyak::AdEMAMix mix(params);
  polyak::ScheduleFreeAdamW free(params);
  polyak::step(executor, params, gradients, mix);
  polyak::step(executor, params, gradients, free);
  static_cast<void>(polyak::norm(executor, gradients));
}
