// SPDX-License-Identifier: Apache-2.0
// Slots with shapes of their own in the memory of a device (polyak/core/tensors/slot_shape.hpp).
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>

#include "../support/catch.hpp"
#include "../support/shaped_method.hpp"
#include "twin.hpp"

namespace device_tests::slot_shapes_test {

using namespace polyak;

TEST_CASE("slots of all shapes move to a device and back") {
  const cuda::Executor executor;
  std::vector<float> weights(20, 1), gradient(20, 0.5F);
  Parameters<float> params;
  params.add("bias", weights.data(), {5}).add("matrix", weights.data() + 5, {3, 5});
  Gradients<float> gradients(params);
  gradients.set("bias", gradient.data()).set("matrix", gradient.data() + 5);
  twin::OnDevice<float> device(executor, params);
  device.take_gradients(params, gradients);

  shaped::Shaped here(params), again(params);
  shaped::Shaped there(device.params);
  here.step(params, gradients);
  cuda::copy_weights(params, device.params);
  cuda::copy_state(here, there);
  CHECK(state_bytes(there) == state_bytes(here));
  CHECK(there.slot("left")["matrix"].size() == 9);
  CHECK(there.slot("left")["matrix"][8] == here.slot("left")["matrix"][8]);
  CHECK(there.slot("columns")["matrix"][4] != 0);
  CHECK(there.memory_report().slots[4].elements == 9);
  here.step(params, gradients);
  step(device.params, device.gradients, there);
  CHECK(state_bytes(there) == state_bytes(here));  // exact: halves only
  cuda::copy_state(there, again);
  CHECK(state_bytes(again) == state_bytes(here));
  there.reset_moments();
  CHECK(there.slot("norm")["bias"][0] == 0);
}

}  // namespace device_tests::slot_shapes_test
