// SPDX-License-Identifier: Apache-2.0
// Speed of the methods of this folder, beside methods of the library that move as many words.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/step.hpp>
#include <polyak/optim/sgd.hpp>

#include "soft_sign.hpp"
#include "triangular_average.hpp"

namespace {

constexpr polyak::SgdOptions sgd_options{.learning_rate = 1e-6, .momentum = 0.9};
constexpr mine::SoftSignOptions soft_sign_options{.learning_rate = 1e-6};
// No measurement reaches its end, from where on it rests.
constexpr mine::TriangularWeighting long_window{.rise = 1'000'000'000, .fall = 1'000'000'000};

/// Measures steps of the methods from `make...(params)`; `words` is the number of words that they
/// move per parameter.
template <class... Make>
void bench(benchmark::State& state, int words, Make... make) {
  const auto size = static_cast<std::size_t>(state.range(0));
  std::vector<float> weights(size, 1.0F), gradient(size, 1e-3F);
  polyak::Parameters<float> params;
  params.add("weights", weights);
  const auto gradients = polyak::like(params, gradient);
  const auto run = [&](auto... methods) {
    for (auto _ : state) {
      polyak::step(params, gradients, methods...);
      benchmark::ClobberMemory();
    }
  };
  run(make(params)...);
  state.SetBytesProcessed(state.iterations() * state.range(0) * words *
                          static_cast<std::int64_t>(sizeof(float)));
}

void sizes(benchmark::internal::Benchmark* line) { line->Arg(1 << 10)->Arg(100'000)->Arg(1 << 24); }

using Params = polyak::Parameters<float>;
constexpr auto soft_sign = [](const Params& p) { return mine::SoftSign(p, soft_sign_options); };
constexpr auto sgd = [](const Params& p) { return polyak::Sgd(p, sgd_options); };
constexpr auto triangular = [](const Params& p) { return mine::TriangularAverage(p, long_window); };
constexpr auto ema = [](const Params& p) { return polyak::Ema(p, {.decay = 0.999}); };

BENCHMARK_CAPTURE(bench, soft_sign, 5, soft_sign)->Apply(sizes);
BENCHMARK_CAPTURE(bench, sgd, 5, sgd)->Apply(sizes);
BENCHMARK_CAPTURE(bench, soft_sign_and_triangular, 7, soft_sign, triangular)->Apply(sizes);
BENCHMARK_CAPTURE(bench, sgd_and_ema, 7, sgd, ema)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
