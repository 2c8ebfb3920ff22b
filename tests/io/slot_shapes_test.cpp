// SPDX-License-Identifier: Apache-2.0
// Files of methods whose slots have shapes of their own (polyak/core/tensors/slot_shape.hpp).
#include <polyak/io/save.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/optim/sgd.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refuses.hpp"
#include "shaped_method.hpp"
#include "temporary_folder.hpp"

namespace slot_shapes_test {

namespace {

using polyak::SafetensorsFile;

struct Run {
  std::vector<float> weights = std::vector<float>(50, 1.0F);
  std::vector<float> gradient = std::vector<float>(50);
  polyak::Parameters<float> params;
  polyak::Gradients<float> gradients;
  shaped::Shaped<float> method;

  explicit Run(shaped::ShapedOptions options = {})
      : gradients(list(params, weights)), method(params, options) {}
  void step(std::uint64_t number) {
    for (std::size_t k = 0; k < 50; ++k) {
      gradient[k] = static_cast<float>(bits::uniform(k, number));
    }
    gradients.set("bias", gradient.data());
    gradients.set("matrix", gradient.data() + 5);
    gradients.set("stack", gradient.data() + 20);
    method.step(params, gradients);
  }

 private:
  static polyak::Parameters<float>& list(polyak::Parameters<float>& params,
                                         std::vector<float>& weights) {
    params.add("bias", weights.data(), {5});
    params.add("matrix", weights.data() + 5, {3, 5});
    params.add("stack", weights.data() + 20, {2, 3, 5}, polyak::Role::average,
               polyak::Order::column_major);
    return params;
  }
};

}  // namespace

TEST_CASE("slots of all shapes are saved and loaded bit for bit") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "state.safetensors";
  Run run;
  for (std::uint64_t k = 0; k < 3; ++k) run.step(k);
  polyak::save(path, run.params, run.method);

  const SafetensorsFile file(path);
  const auto shape = [&](const std::string& name) { return file.at("polyak/0/" + name).shape; };
  using Extents = std::vector<std::uint64_t>;
  CHECK(shape("momentum/stack") == Extents{2, 3, 5});
  CHECK(shape("rows/bias") == Extents{1});
  CHECK(shape("rows/matrix") == Extents{3});
  CHECK(shape("columns/matrix") == Extents{5});
  CHECK(shape("columns/stack") == Extents{2, 5});
  CHECK(shape("norm/bias").empty());
  CHECK(shape("left/matrix") == Extents{3, 3});
  CHECK(file.find("polyak/0/left/bias") == nullptr);
  // In the file a matrix lies row by row, whatever the order in memory.
  const auto stored = file.view<float>("polyak/0/columns/stack");
  const auto held = run.method.slot("columns")["stack"];
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 5; ++j) CHECK(stored[5 * i + j] == held[i + 2 * j]);
  }

  Run other;
  polyak::load(path, other.params, other.method);
  CHECK(polyak::state_bytes(other.method) == polyak::state_bytes(run.method));
  other.step(3);
  run.step(3);
  CHECK(polyak::state_bytes(other.method) == polyak::state_bytes(run.method));
  CHECK((bits::bytes(other.weights) == bits::bytes(run.weights)));
}

TEST_CASE("slots of other shapes are rejected, and nothing changes") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "state.safetensors";
  Run run;
  run.step(0);
  polyak::save(path, run.params, run.method);
  Run larger({.side = 4});
  const auto before = polyak::state_bytes(larger.method);
  CHECK(refuses([&] { polyak::load(path, larger.params, larger.method); },
                {"slot \"left\" of \"matrix\" is [3, 3] in the file, [4, 4] here"}));
  CHECK(polyak::state_bytes(larger.method) == before);
  CHECK(larger.weights == std::vector<float>(50, 1.0F));
}

TEST_CASE("the record of a method whose slots are all full has no shapes") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "state.safetensors";
  Run run;
  polyak::Sgd<float> sgd(run.params, {.learning_rate = 0.1, .momentum = 0.9});
  polyak::save(path, run.params, sgd);
  CHECK(SafetensorsFile(path).metadata().at("polyak").find("slot_shapes") == std::string::npos);
  polyak::save(path, run.params, run.method);
  CHECK(SafetensorsFile(path).metadata().at("polyak").find(
            R"("slot_shapes":{"columns":[[5],[5],[2,5]],"left":[null,[3,3],null],)"
            R"("norm":[[],[],[]],"rows":[[1],[3],[2]]})") != std::string::npos);
}

}  // namespace slot_shapes_test
