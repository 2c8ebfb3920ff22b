// SPDX-License-Identifier: Apache-2.0
// Lists of methods made at run time, and state by name, on a device against the host.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/core/any_method.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/state_access.hpp>
#include <polyak/core/step.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>

#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "twin.hpp"

namespace device_tests::any_method_test {

using namespace polyak;
using There = twin::Device<float>;

TEST_CASE("a list of methods on a device gives the bits of the host") {
  for (const Nonfinite policy : {Nonfinite::propagate, Nonfinite::skip_step, Nonfinite::error}) {
    const cuda::Executor executor;
    Model<float> model({5, 70, 0, 4200}, true);
    twin::OnDevice<float> device(executor, model.params);
    AdamW<float> adamw(model.params, {.nonfinite = policy});
    Ema<float> ema(model.params, {.decay = 0.9});
    Swa<float> swa(model.params, {.start = 3});
    std::vector<AnyMethod<There>> listed{AdamW<There>(device.params, {.nonfinite = policy}),
                                         Ema<There>(device.params, {.decay = 0.9}),
                                         Swa<There>(device.params, {.start = 3})};
    for (std::uint64_t step = 0; step < 8; ++step) {
      model.differentiate(step, step == 2 ? std::set<std::size_t>{1} : std::set<std::size_t>{});
      device.take_gradients(model.params, model.gradients);
      CHECK(polyak::step(model.params, model.gradients, adamw, ema, swa));
      CHECK(polyak::step(executor, device.params, device.gradients, listed));
      cuda::settle(executor, *listed[0].get<AdamW<There>>(), *listed[1].get<Ema<There>>(),
                   *listed[2].get<Swa<There>>());
      for (std::size_t k = 0; k < model.params.size(); ++k) {
        if (model.params[k].info().dtype != DType::float32) continue;
        INFO("step " << step << ", tensor " << k);
        const auto there = device.tensor_bytes(k);
        CHECK(twin::differing<float>(there, model.tensor_bytes(k), twin::ulps) == 0);
      }
      twin::check_state(adamw, state_bytes(listed[0]));
      twin::check_state(ema, state_bytes(listed[1]));
      twin::check_state(swa, state_bytes(listed[2]));
    }
  }
}

TEST_CASE("a slot on a device is set by name, and not read in place") {
  const cuda::Executor executor;
  Model<float> model({5, 70});
  twin::OnDevice<float> device(executor, model.params);
  AdamW<float> here(model.params);
  AdamW<There> there(device.params);
  const std::vector<float> moments{1, 2, 3, 4, 5};
  set_slot(here, "exp_avg", "tensor 0", moments);
  set_slot(there, "exp_avg", "tensor 0", moments);
  set_steps(here, 4);
  set_steps(there, 4);
  CHECK(steps_of(there, "tensor 1") == 4);
  CHECK(state_bytes(there) == state_bytes(here));
  CHECK(twin::refuses([&] { static_cast<void>(slot_of<float>(there, "exp_avg", "tensor 0")); },
                      "lies on a device"));
}

}  // namespace device_tests::any_method_test
