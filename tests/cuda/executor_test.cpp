// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/executor.hpp, transfer.hpp, sweep.hpp: everything around a step.
#include <cstddef>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/cuda/skipped_steps.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>

#include "../support/catch.hpp"
#include "graph.hpp"
#include "twin.hpp"

namespace device_tests::executor_test {

using namespace polyak;
using twin::refuses;

TEST_CASE("a step on a device is one launch, without allocation, copy or wait") {
  Both both;
  AdamW optimizer(both.device.params);
  Ema slow(both.device.params, {.decay = 0.9}), fast(both.device.params, {.decay = 0.5});
  both.differentiate(0);
  step(both.executor, both.device.params, both.device.gradients, optimizer, slow, fast);
  both.differentiate(1);
  const auto launches = both.executor.launches();
#if defined(POLYAK_CUDA_EMULATION)
  auto calls = emulation::machine().calls;
#endif
  step(both.executor, both.device.params, both.device.gradients, optimizer, slow, fast);
  // All weights in one launch; the tensor that averages ignore; the buffers of each average.
  CHECK(both.executor.launches() - launches == 4);
#if defined(POLYAK_CUDA_EMULATION)
  for (const char* const call : {"cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync",
                                 "cudaStreamSynchronize", "cudaEventSynchronize"}) {
    CHECK(emulation::machine().calls[call] == calls[call]);
  }
#endif
}

TEST_CASE("gradients that move reach the device as arguments of the launch") {
  Both both;
  AdamW here(both.model.params);
  AdamW there(both.device.params);
  cuda::Buffer<float> other(both.executor, 70);
  for (std::uint64_t k = 0; k < 4; ++k) {
    both.differentiate(k);
    if (k % 2 == 1) {
      other.upload({both.model.gradients[1], 70});
      both.device.gradients.set("tensor 1", other);
    }
#if defined(POLYAK_CUDA_EMULATION)
    const int copies = emulation::machine().calls["cudaMemcpyAsync"];
#endif
    const auto launches = both.executor.launches();
    step(both.model.params, both.model.gradients, here);
    step(both.executor, both.device.params, both.device.gradients, there);
    if (k > 0) {
      CHECK(both.executor.launches() - launches == 2);
#if defined(POLYAK_CUDA_EMULATION)
      CHECK(emulation::machine().calls["cudaMemcpyAsync"] == copies);
#endif
    }
    both.check_weights();
  }
}

TEST_CASE("lists of thousands of tensors or buffers take one launch each") {
  const cuda::Executor executor;
  const std::size_t count = 3000;
  cuda::Buffer<float> weights(executor, 8 * count),
      gradients(executor, std::vector<float>(8 * count, 1));
  cuda::Parameters<float> params(executor);
  cuda::Gradients<float> one = [&] {
    for (std::size_t k = 0; k < count; ++k) {
      params.add("w" + std::to_string(k), weights.data() + 8 * k, {7});
    }
    return cuda::Gradients<float>(params);
  }();
  for (std::size_t k = 0; k < count; ++k) one.set_at(k, std::span(gradients.data() + 8 * k, 7));
  AdamW optimizer(params, {.learning_rate = 0.5, .weight_decay = 0});
  optimizer.step(params, one);
  const auto launches = executor.launches();
  optimizer.step(params, one);
  CHECK(executor.launches() - launches == 1);
  const auto host = weights.download();
  std::size_t wrong = 0;
  for (std::size_t k = 0; k < host.size(); ++k) {
    const float expected = k % 8 == 7 ? 0.0f : -1.0f;
    if (host[k] > expected + 1e-5f || host[k] < expected - 1e-5f) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a guard on a device swaps the average in and restores the weights") {
  Both both;
  Ema here(both.model.params, {.decay = 0.75});
  Ema there(both.device.params, {.decay = 0.75});
  Ema kept(both.device.params, {.decay = 0.75, .accumulate = Accumulate::kahan});
  for (std::uint64_t k = 0; k < 3; ++k) {
    both.model.wander(k);
    both.device.take_weights(both.model.params);
    update(both.model.params, here);
    update(both.executor, both.device.params, there, kept);
  }
  const auto weights = both.device.tensor_bytes(4);
  {
    auto host = here.swap_into(both.model.params);
    auto guard = there.swap_into(both.device.params);
    both.check_weights();
    CHECK(refuses([&] { update(both.executor, both.device.params, there); }, "swapped in"));
    CHECK(refuses([&] { static_cast<void>(state_bytes(there)); }, "swapped in"));
    CHECK(
        refuses([&] { cuda::copy_weights(both.device.params, both.device.params); }, "swapped in"));
  }
  CHECK(both.device.tensor_bytes(4) == weights);
  {
    auto guard = kept.swap_into(both.device.params);  // another way of keeping: a copy
    CHECK(both.device.tensor_bytes(4) != weights);
  }
  CHECK(both.device.tensor_bytes(4) == weights);
  twin::OnDevice<float> target(both.executor, both.model.params);
  there.copy_to(target.params);
  here.copy_to(both.model.params);
  for (std::size_t k = 0; k < 5; ++k) {
    CHECK(twin::differing<float>(both.model.tensor_bytes(k), target.tensor_bytes(k), twin::ulps) ==
          0);
  }
  CHECK(there.memory_report().total >= 4308 * sizeof(float));
}

TEST_CASE("views on a device read single elements and give addresses") {
  Both both;
  Ema here(both.model.params, {.decay = 0.75});
  Ema there(both.device.params, {.decay = 0.75});
  Ema wide(both.device.params, {.decay = 0.75, .accumulate = Accumulate::float64});
  AdamW optimizer(both.device.params);
  ScheduleFreeAdamW free_here(both.model.params);
  ScheduleFreeAdamW free_there(both.device.params);
  both.differentiate(0);
  step(both.model.params, both.model.gradients, free_here, here);
  step(both.device.params, both.device.gradients, free_there, there, wide);
  CHECK(there.view()["tensor 4"][4199] == here.view()["tensor 4"][4199]);
  CHECK(wide.view()["tensor 4"][4199] == Approx(here.view()["tensor 4"][4199]).epsilon(1e-6));
  CHECK(free_there.view(both.device.params)["tensor 1"][69] ==
        free_here.view(both.model.params)["tensor 1"][69]);
  CHECK(optimizer.slot("exp_avg")[4][7] == 0);
  const auto view = there.view();
  CHECK(view[4].data() != nullptr);
  CHECK(refuses([&] { static_cast<void>(view[4].begin()); }, "lies on a device"));
}

TEST_CASE("soft_update works on a device") {
  Both both;
  Model<float> target({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<float> target_there(both.executor, target.params, 3);
  for (std::uint64_t k = 0; k < 3; ++k) {
    both.model.wander(k);
    both.device.take_weights(both.model.params);
    soft_update(target.params, both.model.params, 0.01);
    soft_update(both.executor, target_there.params, both.device.params, 0.01);
    soft_update(target_there.params, both.device.params, 0);
  }
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(twin::differing<float>(target.tensor_bytes(k), target_there.tensor_bytes(k),
                                 twin::ulps) == 0);
  }
  const cuda::Executor other;
  CHECK(refuses([&] { soft_update(other, target_there.params, both.device.params, 0.5); },
                "different memory"));
}

TEST_CASE("copies of methods on a device have their own slots") {
  Both both;
  Ema first(both.device.params, {.decay = 0.5});
  both.differentiate(0);
  first.update(both.device.params);
  Ema second = first;
  AdamW optimizer(both.device.params);
  step(both.device.params, both.device.gradients, optimizer);
  second.update(both.device.params);
  CHECK(state_bytes(first) != state_bytes(second));
  second = first;
  CHECK(state_bytes(first) == state_bytes(second));
  AdEMAMix slow(both.device.params);
  step(both.device.params, both.device.gradients, slow);
  slow.reset_slow();
  const auto zeros = state_bytes(slow);
  CHECK(zeros.size() > 4308 * 4);
}

TEST_CASE("the state of methods moves between host and device") {
  Both both;
  Model<float> whole({5, 70, 0, 33, 4200}, true);  // a run that never moves
  AdamW expected(whole.params);
  Ema expected_average(whole.params, {.decay = 0.9});
  AdamW here(both.model.params);
  AdamW there(both.device.params);
  Ema average_here(both.model.params, {.decay = 0.9});
  Ema average_there(both.device.params, {.decay = 0.9});
  for (std::uint64_t k = 0; k < 6; ++k) {
    whole.differentiate(k);
    step(whole.params, whole.gradients, expected, expected_average);
    both.differentiate(k);
    if (k < 2) {
      step(both.model.params, both.model.gradients, here, average_here);
    } else {
      step(both.device.params, both.device.gradients, there, average_there);
    }
    if (k == 1) {
      cuda::copy_weights(both.model.params, both.device.params);
      cuda::copy_state(here, there);
      cuda::copy_state(average_here, average_there);
    }
  }
  twin::check_state(expected, state_bytes(there));
  twin::check_state(expected_average, state_bytes(average_there));
  cuda::copy_weights(both.device.params, both.model.params);
  cuda::copy_state(there, here);
  cuda::copy_state(average_there, average_here);
  twin::check_state(average_here, state_bytes(expected_average));
  twin::check_state(here, state_bytes(expected));
  AdamW other(both.model.params, {.beta1 = 0.5});
  const auto before = state_bytes(other);
  CHECK(refuses([&] { cuda::copy_state(there, other); }, "beta1 (0.9 and 0.5)"));
  CHECK(state_bytes(other) == before);
}

TEST_CASE("a CUDA executor refuses memory of the host and of other executors") {
  Both both;
  std::vector<float> host(8);
  CHECK(refuses([&] { both.device.params.add("host", host.data(), {8}); }, "host's memory"));
  CHECK(both.device.params.layout()->find("host") == both.device.params.size());
  CHECK(refuses([&] { both.device.gradients.set("tensor 0", host.data()); }, "host's memory"));
  // All pointers are checked before any is used.
  auto& gradients = both.device.gradients;
  std::vector<const float*> pointers;
  for (std::size_t k = 0; k < gradients.trained(); ++k) {
    pointers.push_back(
        gradients[polyak::GradientAccess<twin::Device<float>>::trained(gradients, k)]);
  }
  const float* const first = gradients[0];
  gradients.set_all(pointers);
  CHECK(gradients[0] == first);
  pointers.front() = nullptr;
  pointers.back() = host.data();
  CHECK(refuses([&] { gradients.set_all(pointers); }, "host's memory"));
  CHECK(gradients[0] == first);
  const cuda::Executor other;
  twin::OnDevice<float> elsewhere(other, both.model.params);
  AdamW optimizer(both.device.params);
  both.differentiate(0);
  CHECK(refuses([&] { step(other, both.device.params, both.device.gradients, optimizer); },
                "different memory"));
  CHECK(
      refuses([&] { step(elsewhere.params, elsewhere.gradients, optimizer); }, "different memory"));
  CHECK(optimizer.count() == 0);
}

#if defined(__CUDACC__)
TEST_CASE("a device supports a tensor of more than 2^31 elements and 4 GiB", "[.large]") {
  const cuda::Executor executor;
  const std::size_t size = (std::size_t{1} << 31) + 13;
  cuda::Buffer<float> weights(executor, size);
  cuda::Parameters<float> params(executor);
  params.add("large", weights);
  Ema average(params, {.decay = 0.75});
  auto* const space = params.layout()->space.get();
  const float one = 1;
  for (const std::size_t k : {std::size_t{0}, std::size_t{1} << 30, size - 1}) {
    space->write(weights.data() + k, &one, sizeof one);
  }
  average.update(params);
  const auto guard = average.swap_into(params);
  for (const std::size_t k : {std::size_t{0}, std::size_t{1} << 30, size - 1, size - 2}) {
    float read = -1;
    space->read(&read, weights.data() + k, sizeof read);
    CHECK(read == (k == size - 2 ? 0.0f : 0.25f));
  }
}
#endif

#if defined(POLYAK_CUDA_EMULATION)
TEST_CASE("errors of CUDA are checked, and the message names the call") {
  auto& machine = emulation::machine();
  machine.devices = 0;
  CHECK(refuses([] { const cuda::Executor executor; }, "no CUDA device"));
  CHECK_THROWS_AS(cuda::Executor(), std::runtime_error);
  machine.devices = 1;
  Both both;
  AdamW optimizer(both.device.params);
  both.differentiate(0);
  step(both.device.params, both.device.gradients, optimizer);
  for (const char* const call : {"cudaMalloc", "cudaMemsetAsync"}) {
    machine.failing = call;
    CHECK(refuses([&] { const Ema average(both.device.params); }, call));
  }
  machine.failing = "cudaMemcpyAsync";
  CHECK(refuses([&] { static_cast<void>(both.device.tensor_bytes(0)); }, "cudaMemcpyAsync"));
  machine.failing = "cudaGetLastError";
  CHECK(refuses([&] { step(both.device.params, both.device.gradients, optimizer); },
                "the launch of a step"));
  machine.failing = "cudaStreamSynchronize";
  CHECK(refuses([&] { both.executor.synchronize(); }, "cudaStreamSynchronize"));
  Ema average(both.device.params);
  average.update(both.device.params);
  machine.failing = "cudaMemcpyAsync";
  { const auto guard = average.swap_into(both.device.params); }
  CHECK(refuses([&] { both.executor.synchronize(); }, "an earlier cudaMemcpyAsync"));
  machine.failing.clear();
}
#endif

// ---- NaN and infinity

namespace {

/// A step whose gradient or weight is broken, on both sides.
void damage(Both& both, bool gradient) {
  const float bad = std::numeric_limits<float>::infinity();
  auto* const space = both.device.params.layout()->space.get();
  if (gradient) {
    auto* const place = const_cast<float*>(both.model.gradients[4]) + 4199;
    *place = bad;
    space->write(const_cast<float*>(both.device.gradients[4]) + 4199, &bad, sizeof bad);
  } else {
    both.model.params[1].data()[69] = bad;
    space->write(both.device.params[1].data() + 69, &bad, sizeof bad);
  }
}

}  // namespace

TEST_CASE("Nonfinite::skip_step on a device does not wait within a step") {
  Both both;
  AdamW here(both.model.params, {.nonfinite = Nonfinite::skip_step});
  AdamW there(both.device.params, {.nonfinite = Nonfinite::skip_step});
  Ema average_here(both.model.params, {.decay = 0.9});
  Ema average_there(both.device.params, {.decay = 0.9});
  for (std::uint64_t k = 0; k < 8; ++k) {
    both.differentiate(k);
    const bool bad = k == 0 || k == 3 || k == 4 || k == 7;
    if (bad) damage(both, true);
#if defined(POLYAK_CUDA_EMULATION)
    const int waits = emulation::machine().calls["cudaStreamSynchronize"];
#endif
    CHECK(step(both.model.params, both.model.gradients, here, average_here) == !bad);
    CHECK(step(both.device.params, both.device.gradients, there, average_there));
#if defined(POLYAK_CUDA_EMULATION)
    if (k > 0) CHECK(emulation::machine().calls["cudaStreamSynchronize"] == waits);
#endif
    both.check_weights();
  }
  CHECK(refuses([&] { static_cast<void>(state_bytes(there)); }, "settle"));
  AdamW moved = std::move(there);
  CHECK(cuda::settle(both.executor, moved, average_there));
  CHECK(moved.count() == 4);
  CHECK(moved.skipped() == 4);
  twin::check_state(here, state_bytes(moved));
  twin::check_state(average_here, state_bytes(average_there));
  CHECK_FALSE(cuda::settle(both.executor, moved, average_there));
}

TEST_CASE("rates and batch sizes that are set after a skipped step are kept") {
  Both both;
  AdamW optimizer(both.device.params, {.nonfinite = Nonfinite::skip_step});
  PowerEma average(both.device.params, {.gamma = 3});
  AdamW other(both.device.params, {.nonfinite = Nonfinite::error});
  both.differentiate(0);
  damage(both, true);
  average.at(2);
  step(both.device.params, both.device.gradients, optimizer, average);
  optimizer.at(0.5);
  average.at(7);
  CHECK(refuses([&] { const AdamW copy = optimizer; }, "settle"));
  // Another method's check uses the report again.
  CHECK_THROWS_AS(step(both.device.params, both.device.gradients, other), nonfinite_error);
  both.differentiate(1);
  CHECK(step(both.device.params, both.device.gradients, other));
  CHECK(cuda::settle(both.executor, optimizer, average));
  CHECK(optimizer.learning_rate() == 0.5);
  CHECK(optimizer.count() == 0);
  CHECK(optimizer.skipped() == 1);
  CHECK(average.time() == 0);
  average.update(both.device.params);
  CHECK(average.time() == 7);
}

TEST_CASE("an average that checks weights on a device skips only its own update") {
  for (const bool optimizer_first : {true, false}) {
    Both both;
    AdamW here(both.model.params);
    AdamW there(both.device.params);
    Ema checked_here(both.model.params, {.decay = 0.9, .nonfinite = Nonfinite::skip_step});
    Ema checked_there(both.device.params, {.decay = 0.9, .nonfinite = Nonfinite::skip_step});
    Swa plain_here(both.model.params);
    Swa plain_there(both.device.params);
    for (std::uint64_t k = 0; k < 4; ++k) {
      both.differentiate(k);
      if (k == 2) damage(both, false);
      if (optimizer_first) {
        step(both.model.params, both.model.gradients, here, checked_here, plain_here);
        step(both.device.params, both.device.gradients, there, checked_there, plain_there);
      } else {
        step(both.model.params, both.model.gradients, plain_here, checked_here, here);
        step(both.device.params, both.device.gradients, plain_there, checked_there, there);
      }
    }
    cuda::settle(both.executor, there, checked_there, plain_there);
    CHECK(checked_there.skipped() == 2);
    CHECK(there.count() == 4);
    twin::check_state(here, state_bytes(there));
    twin::check_state(checked_here, state_bytes(checked_there));
    twin::check_state(plain_here, state_bytes(plain_there));
  }
}

TEST_CASE("Nonfinite::error on a device throws before anything changes") {
  Both both;
  AdamW optimizer(both.device.params, {.nonfinite = Nonfinite::error});
  Ema average(both.device.params, {.nonfinite = Nonfinite::error});
  both.differentiate(0);
  CHECK(step(both.device.params, both.device.gradients, optimizer, average));
  const auto state = state_bytes(optimizer), averaged = state_bytes(average);
  both.differentiate(1);
  damage(both, true);
  const auto weights = both.device.tensor_bytes(4);
  CHECK_THROWS_AS(step(both.device.params, both.device.gradients, optimizer, average),
                  nonfinite_error);
  CHECK(both.device.tensor_bytes(4) == weights);
  CHECK(state_bytes(optimizer) == state);
  CHECK(state_bytes(average) == averaged);
  both.differentiate(2);
  CHECK(step(both.device.params, both.device.gradients, optimizer, average));
}

}  // namespace device_tests::executor_test
