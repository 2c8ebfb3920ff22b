// SPDX-License-Identifier: Apache-2.0
// Kernels whose machine code kernels.cmake looks at.
#include <array>

#include <polyak/average/ema.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/cuda.hpp>
#include <polyak/merge/linear.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>

#if defined(EIGEN_CORE_H) || defined(EIGEN_WORLD_VERSION)
#error "Eigen came in"
#endif

namespace {

/// A law with a fixed number of streams of several types.
struct Interpolate {
  using Value = float;
  static constexpr polyak::LawStreams streams{.outputs = 1, .inputs = 2};
  float t;
  template <class V>
  POLYAK_LAW void operator()(V& out, const V& a, const V& b) const {
    out = fma(t, b - a, a);
  }
};

template <class P, class S>
void steps(const polyak::cuda::Executor& executor) {
  using D = polyak::cuda::Device<P>;
  polyak::cuda::Parameters<P> params(executor);
  polyak::cuda::Gradients<P> gradients(params);
  static_cast<void>(polyak::clip_norm(executor, gradients, 1));
  polyak::AdamW<D, S> adamw(params);
  polyak::Ema<D, S> first(params), second(params);
  polyak::step(executor, params, gradients, adamw, first, second);

  polyak::cuda::Parameters<P> target(executor);
  polyak::soft_update(executor, target, params, 0.01);
  polyak::average_n(executor, target, {params, params}, std::array{0.5, 0.5});
  polyak::average_n(executor, target, {params, params}, std::array{1.0, -1.0});
  polyak::sweep_streams(executor, Interpolate{0.5F}, polyak::writes(target),
                        polyak::reads(gradients, polyak::stream_of(first.slots(), 0)));
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
