// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/clip.hpp: the norms and coefficients of the host, to the bit. For the emulation
// alone: nvcc does not compile the host's reductions.
#include <polyak/core/clip.hpp>
#include <polyak/cuda/clip.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/elementwise.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "graph.hpp"
#include "twin.hpp"

namespace device_tests::clip_test {

using namespace polyak;
using twin::refuses;

TEST_CASE("clip_norm on a device has the bits of the host and does not wait") {
  Both both;
  AdamW here(both.model.params);
  AdamW there(both.device.params);
  Ema average_here(both.model.params, {.decay = 0.9});
  Ema average_there(both.device.params, {.decay = 0.9});
  cuda::ClipWorkspace<float> clip(both.executor, both.device.gradients);
  Reduction<Norm> workspace(both.model.gradients);
  const double limits[] = {0.5, 1e6, 0, 1, 2, std::numeric_limits<double>::infinity()};
  for (std::uint64_t k = 0; k < 6; ++k) {
    both.model.differentiate(k, k == 2 ? std::set<std::size_t>{1, 4} : std::set<std::size_t>{});
    both.device.take_gradients(both.model.params, both.model.gradients);
    both.model.gradients.scale(1.0 / static_cast<double>(k + 1));
    both.device.gradients.scale(1.0 / static_cast<double>(k + 1));
    auto calls = emulation::machine().calls;
    const double norm = clip_norm(serial, both.model.gradients, limits[k], workspace);
    clip_norm(both.executor, both.device.gradients, limits[k], clip);
    step(both.model.params, both.model.gradients, here, average_here);
    step(both.executor, both.device.params, both.device.gradients, there, average_there);
    if (k > 3) {
      for (const char* const call : {"cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync",
                                     "cudaStreamSynchronize", "cudaEventSynchronize"}) {
        CHECK(emulation::machine().calls[call] == calls[call]);
      }
    }
    CHECK(bits::of(clip.read_norm()) == bits::of(norm));
    both.check_weights();
    twin::check_state(here, state_bytes(there));
    twin::check_state(average_here, state_bytes(average_there));
  }
}

TEMPLATE_TEST_CASE("clip_norm on a device supports other types", "", double, Eigen::half,
                   Eigen::bfloat16) {
  using P = TestType;
  const cuda::Executor executor;
  Model<P> model({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<P> device(executor, model.params, 3, 1);
  const AdamWOptions options{.learning_rate = 0.01};
  AdamW<P> here(model.params, options);
  AdamW there(device.params, options);
  here.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  there.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  for (std::uint64_t k = 0; k < 3; ++k) {
    model.differentiate(k);
    device.take_gradients(model.params, model.gradients);
    const double norm = clip_norm(model.gradients, 0.75);
    const auto clip = clip_norm(executor, device.gradients, 0.75);  // memory of this call alone
    CHECK(norm > 0.75);
    CHECK(bits::of(clip.read_norm()) == bits::of(norm));
    step(model.params, model.gradients, here);
    step(executor, device.params, device.gradients, there);
    for (std::size_t t = 0; t < 6; ++t) {
      CHECK(twin::differing<P>(model.tensor_bytes(t), device.tensor_bytes(t), twin::ulps) == 0);
    }
    twin::check_state(here, state_bytes(there));
  }
}

TEST_CASE("norm_of, NaN and the end of a coefficient work on a device") {
  Both both;
  const Selection some = named("tensor 1", "ignored");
  cuda::ClipWorkspace<float> clip(both.executor, both.device.gradients, some);
  Sgd here(both.model.params, {.learning_rate = 0.1});
  Sgd there(both.device.params, {.learning_rate = 0.1});
  const auto go = [&] {
    step(both.model.params, both.model.gradients, here);
    step(both.device.params, both.device.gradients, there);
    both.check_weights();
  };
  both.differentiate(0);
  both.model.gradients.scale(0.5);
  both.device.gradients.scale(0.5);
  const double norm = norm_of(serial, both.model.gradients, some);
  clip_norm(both.executor, both.device.gradients, norm / 4, clip);
  CHECK(bits::of(clip.read_norm()) == bits::of(norm));
  both.model.gradients.scale(0.5 * (norm / 4 / norm));
  go();
  // The coefficient stays for the next step, until another scale is set.
  both.differentiate(1);
  go();
  both.model.gradients.scale(2);
  both.device.gradients.scale(2);
  go();
  // It outlives the workspace.
  {
    cuda::ClipWorkspace<float> other = std::move(clip);
    const Reduction<Norm> none(both.model.gradients);
    clip_norm(both.executor, both.device.gradients, 0, other);
  }
  both.model.gradients.scale(0);
  go();
  // A norm that is not finite clips nothing.
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    both.model.differentiate(2);
    const_cast<float*>(both.model.gradients[1])[5] = static_cast<float>(bad);
    both.device.take_gradients(both.model.params, both.model.gradients);
    both.model.gradients.scale(0.25);
    both.device.gradients.scale(0.25);
    CHECK(bits::same(clip_norm(both.executor, both.device.gradients, 1).read_norm(), bad));
    go();
  }
  const double max_norm = -1;
  CHECK(refuses([&] { clip_norm(both.executor, both.device.gradients, max_norm); }, "max_norm"));
  Both others;
  cuda::ClipWorkspace<float> foreign(others.executor, others.device.gradients);
  CHECK(refuses([&] { clip_norm(both.executor, both.device.gradients, 1, foreign); }, "memory"));
}

TEST_CASE("a captured clip_norm clips each replay by its own norm and scale") {
  Graph g;
  AdamW here(g.model.params);
  AdamW there(g.device.params);
  Ema average_here(g.model.params, {.decay = 0.9});
  Ema average_there(g.device.params, {.decay = 0.9});
  here.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  there.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  cuda::ClipWorkspace<float> clip(g.executor, g.device.gradients);
  twin::OnDevice<float> other(g.executor, g.model.params);  // whose gradients lie elsewhere
  constexpr double most = 0.75;
  const auto on_host = [&](double scale) {
    g.model.gradients.scale(scale);
    const double norm = clip_norm(g.model.gradients, most);
    step(g.model.params, g.model.gradients, here, average_here);
    return norm;
  };
  g.differentiate(0);
  on_host(1);
  clip_norm(g.executor, g.device.gradients, most, clip);
  step(g.device.params, g.device.gradients, there, average_there);
  cuda::CapturedStep again(g.executor, g.device.params, g.device.gradients, there, average_there);
  {
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    clip_norm(g.executor, g.device.gradients, most, clip);
    again.record();
    REQUIRE(cudaStreamEndCapture(g.stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&g.replayed, graph, 0) == cudaSuccess);
    static_cast<void>(cudaGraphDestroy(graph));
  }
  for (std::uint64_t k = 1; k < 9; ++k) {
    g.differentiate(k);
    const double scale = k % 3 == 0 ? 1e-3 : 1.0 / static_cast<double>(k);  // sometimes below
    const double norm = on_host(scale);
    g.device.gradients.scale(scale);
    if (k == 3) {  // an ordinary step between two replays
      clip_norm(g.executor, g.device.gradients, most, clip);
      step(g.device.params, g.device.gradients, there, average_there);
    } else if (k == 5) {  // and one of gradients that lie elsewhere
      other.take_gradients(g.model.params, g.model.gradients);
      other.gradients.scale(scale);
      clip_norm(g.executor, other.gradients, most, clip);
      step(g.device.params, other.gradients, there, average_there);
    } else {
      again.prepare();
      g.replay();
    }
    CHECK(bits::of(clip.read_norm()) == bits::of(norm));
    g.check_weights();
    twin::check_state(here, state_bytes(there));
    twin::check_state(average_here, state_bytes(average_there));
  }
}

namespace {

/// An optimizer on a device whose prepare() finds the norm of the gradients, without waiting.
class Normed final : public Elementwise<Normed, LionRule, cuda::Device<float>, float> {
  using P = cuda::Device<float>;

 public:
  Normed(const cuda::Executor& executor, const cuda::Parameters<float>& params)
      : Elementwise(params, {.learning_rate = 0.01}, {}), norms_(executor, params) {}
  void prepare(const ExecutorRef&, const polyak::Parameters<P>&,
               const polyak::Gradients<P>* gradients) {
    norms_(*gradients);
  }
  /// Waits for it.
  [[nodiscard]] double norm() const { return norms_.read()[0]; }

 private:
  cuda::Reduction<Norm, float> norms_;
};

}  // namespace

TEST_CASE("prepare() on a device computes the norm of the gradients that the step reads") {
  Both both;
  Lion here(both.model.params, {.learning_rate = 0.01});
  Normed there(both.executor, both.device.params);
  Ema average_here(both.model.params);
  Ema average_there(both.device.params);
  here.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  there.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  cuda::ClipWorkspace<float> clip(both.executor, both.device.gradients);
  for (std::uint64_t k = 0; k < 6; ++k) {
    both.differentiate(k);
    const double limit = k % 3 == 2 ? 0.01 : std::numeric_limits<double>::infinity();
    both.model.gradients.scale(0.5).clip_value(limit);
    both.device.gradients.scale(0.5).clip_value(limit);
    if (k > 0) {
      clip_norm(both.model.gradients, 0.75);
      clip_norm(both.executor, both.device.gradients, 0.75, clip);
      CHECK(both.model.gradients.clip_coefficient() < 1);
    }
    const double norm = polyak::norm(both.model.gradients);
    if (k % 2 == 0) {
      step(both.model.params, both.model.gradients, here);
      step(both.executor, both.device.params, both.device.gradients, there);
    } else {
      step(both.model.params, both.model.gradients, here, average_here);
      step(both.executor, both.device.params, both.device.gradients, there, average_there);
    }
    CHECK(bits::of(there.norm()) == bits::of(norm));
    both.check_weights();
    twin::check_state(here, state_bytes(there));
  }
}

TEST_CASE(
    "the norm that prepare() computes in a replay has the replay's scale, limit and coefficient") {
  Graph g;
  Normed there(g.executor, g.device.params);
  cuda::ClipWorkspace<float> clip(g.executor, g.device.gradients);
  g.differentiate(0);
  cuda::CapturedStep again(g.executor, g.device.params, g.device.gradients, there);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  clip_norm(g.executor, g.device.gradients, 0.75, clip);
  again.record();
  REQUIRE(cudaStreamEndCapture(g.stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&g.replayed, graph, 0) == cudaSuccess);
  static_cast<void>(cudaGraphDestroy(graph));
  for (std::uint64_t k = 1; k < 6; ++k) {
    // The gradients come after prepare(), as a captured backward pass writes them.
    const double scale = 1.0 / static_cast<double>(k);
    const double limit = k % 2 == 0 ? 0.01 : 1e300;
    g.model.gradients.scale(scale).clip_value(limit);
    g.device.gradients.scale(scale).clip_value(limit);
    again.prepare();
    g.differentiate(k);
    g.replay();
    clip_norm(g.model.gradients, 0.75);
    CHECK(bits::of(there.norm()) == bits::of(polyak::norm(g.model.gradients)));
  }
}

TEST_CASE("a captured reduction refuses gradients with a scale that it has not captured") {
  Graph g;
  g.differentiate(0);
  cuda::Reduction<Norm, float> norms(g.executor, g.device.params);
  g.device.gradients.scale(0.25);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(refuses([&] { norms(g.device.gradients); }, "once before the capture"));
  REQUIRE(cudaStreamEndCapture(g.stream, &graph) == cudaSuccess);
  static_cast<void>(cudaGraphDestroy(graph));
  norms(g.device.gradients);
  g.model.gradients.scale(0.25);
  CHECK(bits::of(norms.read()[0]) == bits::of(polyak::norm(g.model.gradients)));
}

}  // namespace device_tests::clip_test
