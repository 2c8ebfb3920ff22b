// SPDX-License-Identifier: Apache-2.0
// Methods on a device write the same files as methods on the host.
#include <cstddef>
#include <string>

#include <polyak/average/ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>

#include "../support/catch.hpp"
#include "temporary_folder.hpp"
#include "twin.hpp"

namespace device_tests::files_test {

using namespace polyak;

TEST_CASE("a run saved on a device resumes on the host, and the other way round") {
  const TemporaryFolder folder;
  const std::string path = folder.path() / "run.safetensors";
  const cuda::Executor executor;
  Model<float> model({5, 70, 0, 33, 4200}, true), later_model({5, 70, 0, 33, 4200}, true);
  twin::OnDevice<float> device(executor, model.params), later(executor, model.params);
  AdamW optimizer(device.params);
  Ema average(device.params, {.decay = 0.9, .accumulate = Accumulate::kahan});
  Swa equal(device.params);
  for (std::uint64_t k = 0; k < 3; ++k) {
    model.differentiate(k);
    device.take_gradients(model.params, model.gradients);
    step(device.params, device.gradients, optimizer, average, equal);
  }
  save(path, device.params, optimizer, average, equal);

  AdamW host_optimizer(later_model.params);
  Ema host_average(later_model.params, {.decay = 0.9, .accumulate = Accumulate::kahan});
  Swa host_equal(later_model.params);
  load(path, later_model.params, host_optimizer, host_average, host_equal);
  CHECK(state_bytes(host_optimizer) == state_bytes(optimizer));
  CHECK(state_bytes(host_average) == state_bytes(average));
  CHECK(state_bytes(host_equal) == state_bytes(equal));
  CHECK(later_model.tensor_bytes(4) == device.tensor_bytes(4));
  later_model.differentiate(3);
  step(later_model.params, later_model.gradients, host_optimizer, host_average, host_equal);
  save(path, later_model.params, host_optimizer, host_average, host_equal);

  AdamW loaded(later.params);
  Ema loaded_average(later.params, {.decay = 0.9, .accumulate = Accumulate::kahan});
  Swa loaded_equal(later.params);
  load(path, later.params, loaded, loaded_average, loaded_equal);
  for (std::size_t k = 0; k < 6; ++k) CHECK(later.tensor_bytes(k) == later_model.tensor_bytes(k));
  CHECK(state_bytes(loaded) == state_bytes(host_optimizer));
  CHECK(state_bytes(loaded_equal) == state_bytes(host_equal));
}

TEST_CASE("methods on a device shrink and grow, and parts of their files are loaded") {
  const TemporaryFolder folder;
  const std::string path = folder.path() / "run.safetensors";
  const cuda::Executor executor;
  Model<float> model({5, 70, 33}, true);
  twin::OnDevice<float> device(executor, model.params);
  AdamW optimizer(device.params);
  AdamW host_optimizer(model.params);
  Ema average(device.params, {.decay = 0.5});
  Ema host_average(model.params, {.decay = 0.5});
  model.differentiate(0);
  device.take_gradients(model.params, model.gradients);
  step(device.params, device.gradients, optimizer, average);
  step(model.params, model.gradients, host_optimizer, host_average);
  save(path, device.params, optimizer, average);

  cuda::Parameters<float> some(executor);
  Parameters<float> host_some;
  for (const std::size_t k : {std::size_t{0}, std::size_t{2}}) {
    some.add(model.params[k].name(), device.params[k].data(), model.params[k].shape());
    host_some.add(model.params[k].name(), model.params[k].data(), model.params[k].shape());
  }
  optimizer.shrink(some);
  average.shrink(some);
  host_optimizer.shrink(host_some);
  host_average.shrink(host_some);
  CHECK(state_bytes(optimizer) == state_bytes(host_optimizer));
  CHECK(state_bytes(average) == state_bytes(host_average));
  optimizer.grow(device.params);
  average.grow(device.params);
  host_optimizer.grow(model.params);
  host_average.grow(model.params);
  CHECK(state_bytes(optimizer) == state_bytes(host_optimizer));
  CHECK(state_bytes(average) == state_bytes(host_average));

  Ema loaded(some, {.decay = 0.5});
  Ema host_loaded(host_some, {.decay = 0.5});
  load(path, {.only = Parts::averages}, some, loaded);
  load(path, {.only = Parts::averages}, host_some, host_loaded);
  CHECK(state_bytes(loaded) == state_bytes(host_loaded));
  CHECK(loaded.calls() == 1);
}

TEST_CASE("a run with column-major matrices can be saved on a device") {
  const TemporaryFolder folder;
  const std::string path = folder.path() / "run.safetensors";
  const cuda::Executor executor;
  Eigen::MatrixXf matrix = Eigen::MatrixXf::Random(37, 53), other = Eigen::MatrixXf::Zero(37, 53);
  Parameters<float> host, read;
  host.add("matrix", matrix);
  read.add("matrix", other);
  twin::OnDevice<float> device(executor, host);
  Ema average(device.params);
  average.update(device.params);
  save(path, device.params, average);
  Ema host_average(read);
  load(path, read, host_average);
  CHECK(other == matrix);
  device.take_weights(read);
  Ema again(device.params);
  load(path, device.params, again);
  CHECK(state_bytes(again) == state_bytes(host_average));
}

}  // namespace device_tests::files_test
