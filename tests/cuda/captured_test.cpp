// SPDX-License-Identifier: Apache-2.0
// cuda::CapturedStep: replays of a graph.
#include <cstddef>
#include <cstdint>
#include <string>

#include <polyak/average/ema.hpp>
#include <polyak/cuda/captured_step.hpp>
#include <polyak/cuda/launch.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>

#include "../support/catch.hpp"
#include "graph.hpp"
#include "twin.hpp"

namespace device_tests::captured_test {

using namespace polyak;
using twin::refuses;

TEST_CASE("each replay of a captured step uses the scalars of its own step") {
  Graph g;
  AdamW here(g.model.params);
  AdamW there(g.device.params);
  Ema average_here(g.model.params, {.decay = 0.9, .start = Start::zero_debiased});
  Ema average_there(g.device.params, {.decay = 0.9, .start = Start::zero_debiased});
  Ema second_here(g.model.params, {.decay = 0.5, .accumulate = Accumulate::kahan});
  Ema second_there(g.device.params, {.decay = 0.5, .accumulate = Accumulate::kahan});
  g.differentiate(0);
  step(g.model.params, g.model.gradients, here, average_here, second_here);
  step(g.device.params, g.device.gradients, there, average_there, second_there);
  cuda::CapturedStep again(g.executor, g.device.params, g.device.gradients, there, average_there,
                           second_there);
  CHECK(refuses([&] { again.prepare(); }, "not recorded"));
  g.capture(again);
  CHECK(there.count() == 1);
  for (std::uint64_t k = 1; k < 6; ++k) {
    g.differentiate(k);
    here.at(0.01 / static_cast<double>(k));
    there.at(0.01 / static_cast<double>(k));
    step(g.model.params, g.model.gradients, here, average_here, second_here);
    if (k == 3) {  // an ordinary step between two replays
      step(g.device.params, g.device.gradients, there, average_there, second_there);
    } else {
      again.prepare();
      g.replay();
    }
    g.check_weights();
    twin::check_state(here, state_bytes(there));
    twin::check_state(average_here, state_bytes(average_there));
    twin::check_state(second_here, state_bytes(second_there));
  }
}

TEST_CASE("ordinary steps between replays use their own gradients") {
  Graph g;
  twin::OnDevice<float> other(g.executor, g.model.params);  // whose gradients lie elsewhere
  AdamW here(g.model.params);
  AdamW there(g.device.params);
  g.differentiate(0);
  step(g.model.params, g.model.gradients, here);
  step(g.device.params, g.device.gradients, there);
  cuda::CapturedStep captured(g.executor, g.device.params, g.device.gradients, there);
  g.capture(captured);
  for (std::uint64_t k = 1; k < 7; ++k) {
    g.model.differentiate(k);
    step(g.model.params, g.model.gradients, here);
    if (k % 2 == 1) {
      other.take_gradients(g.model.params, g.model.gradients);
      step(g.device.params, other.gradients, there);
    } else {
      g.device.take_gradients(g.model.params, g.model.gradients);
      captured.prepare();
      g.replay();
    }
    g.check_weights();
  }
}

TEST_CASE("Schedule-Free is replayed with the scalars of each step") {
  Graph g;
  ScheduleFreeAdamW here(g.model.params);
  ScheduleFreeAdamW there(g.device.params);
  g.differentiate(0);
  step(g.model.params, g.model.gradients, here);
  step(g.device.params, g.device.gradients, there);
  cuda::CapturedStep captured(g.executor, g.device.params, g.device.gradients, there);
  g.capture(captured);
  for (std::uint64_t k = 1; k < 5; ++k) {
    g.differentiate(k);
    step(g.model.params, g.model.gradients, here);
    captured.prepare();
    g.replay();
    g.check_weights();
    twin::check_state(here, state_bytes(there));
  }
}

TEST_CASE("a captured step refuses what a replay cannot repeat, and changes nothing") {
  Graph g;
  AdamW optimizer(g.device.params);
  Ema sparse(g.device.params, {.decay = 0.9, .update_every = 3});
  g.differentiate(0);
  cuda::CapturedStep captured(g.executor, g.device.params, g.device.gradients, optimizer, sparse);
  // Made before the training of its tensors begins, it cannot know their passes.
  ScheduleFreeAdamW begins(g.device.params);
  cuda::CapturedStep early(g.executor, g.device.params, g.device.gradients, begins);
  REQUIRE(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(refuses([&] { early.record(); }, "before capturing"));
  cudaGraph_t graph = nullptr;
  static_cast<void>(cudaStreamEndCapture(g.stream, &graph));
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  CHECK(begins.count() == 0);
  step(g.device.params, g.device.gradients, optimizer, sparse);
  g.capture(captured);  // the average rests in this step
  captured.prepare();
  g.replay();
  const auto clocks = optimizer.count();
  const auto before = state_bytes(sparse);
  CHECK(refuses([&] { captured.prepare(); }, "other passes"));
  CHECK(optimizer.count() == clocks);
  CHECK(state_bytes(sparse) == before);
  step(g.device.params, g.device.gradients, optimizer, sparse);
  captured.prepare();
  g.replay();
  CHECK(optimizer.count() == clocks + 2);
  AdamW checked(g.device.params, {.nonfinite = Nonfinite::skip_step});
  CHECK_THROWS_AS(cuda::CapturedStep(g.executor, g.device.params, g.device.gradients, checked),
                  std::invalid_argument);
}

}  // namespace device_tests::captured_test
