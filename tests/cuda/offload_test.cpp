// SPDX-License-Identifier: Apache-2.0
// polyak/cuda/offload.hpp.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include <polyak/average/ema.hpp>
#include <polyak/cuda/offload.hpp>
#include <polyak/optim/adamw.hpp>

#include "../support/catch.hpp"
#include "twin.hpp"

namespace device_tests::offload_test {

using namespace polyak;

TEST_CASE("an offloaded average has the bits of a synchronous one") {
  const cuda::Executor executor;
  Model<float> model({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<float> device(executor, model.params);
  AdamW optimizer(device.params);
  Ema on_device(device.params, {.decay = 0.75});
  cuda::OffloadedAverage<Ema<float>> offloaded(executor, device.params, EmaOptions{.decay = 0.75});
  for (std::uint64_t k = 0; k < 9; ++k) {
    model.differentiate(k);
    device.take_gradients(model.params, model.gradients);
    step(device.params, device.gradients, optimizer, on_device);
    CHECK(offloaded.update(device.params));
    // Other writes to the weights also wait for the copy.
    if (k == 2)
      device.params.layout()->space->clear(device.params[4].raw(), device.params[4].bytes());
    if (k == 4) {
      offloaded.await_copy();
      REQUIRE(cudaMemsetAsync(device.params[4].raw(), 0, device.params[4].bytes(),
                              executor.stream()) == cudaSuccess);
    }
    if (k == 6) const auto guard = on_device.swap_into(device.params);
  }
  CHECK(offloaded.dropped() == 0);
  Ema<float>& host = offloaded.average();
  CHECK(host.calls() == 9);
  twin::check_state(host, state_bytes(on_device));
  twin::OnDevice<float> target(executor, model.params), expected(executor, model.params);
  offloaded.copy_to(target.params);
  on_device.copy_to(expected.params);
  for (std::size_t k = 0; k < 5; ++k) CHECK(target.tensor_bytes(k) == expected.tensor_bytes(k));
}

TEST_CASE("an offloaded average that drops updates counts them") {
  const cuda::Executor executor;
  Model<float> model({5, 70, 33, 4200}, true);
  twin::OnDevice<float> device(executor, model.params);
  cuda::OffloadedAverage<Ema<float>> offloaded(executor, device.params, EmaOptions{.decay = 0.75},
                                               cuda::WhenBusy::drop);
  std::int64_t taken = 0;
  for (int k = 0; k < 200; ++k) taken += offloaded.update(device.params) ? 1 : 0;
  CHECK(taken >= 2);
  CHECK(offloaded.average().calls() == taken);
  CHECK(offloaded.dropped() == 200 - taken);
}

TEST_CASE("the next call rethrows an exception of an offloaded update") {
  const cuda::Executor executor;
  Model<float> model({5, 70}, false);
  twin::OnDevice<float> device(executor, model.params);
  cuda::OffloadedAverage<Ema<float>> offloaded(executor, device.params,
                                               EmaOptions{.nonfinite = Nonfinite::error});
  const float bad = std::numeric_limits<float>::quiet_NaN();
  device.params.layout()->space->write(device.params[0].raw(), &bad, sizeof bad);
  CHECK(offloaded.update(device.params));
  CHECK_THROWS_AS(offloaded.flush(), nonfinite_error);
  CHECK(offloaded.average().calls() == 0);
  CHECK_THROWS_AS(
      (cuda::OffloadedAverage<Ema<float>>(executor, device.params, EmaOptions{.decay = 2})),
      std::invalid_argument);
  const cuda::Executor other;
  twin::OnDevice<float> elsewhere(other, model.params);
  CHECK_THROWS_AS(offloaded.update(elsewhere.params), std::invalid_argument);
}

}  // namespace device_tests::offload_test
