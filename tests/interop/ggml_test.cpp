// SPDX-License-Identifier: Apache-2.0
// Tensors of ggml are used in place, with their shapes reversed, and what polyak cannot read is
// refused by name. Built with a stand-in for ggml's headers.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/interop/ggml.hpp>
#include <polyak/optim/sgd.hpp>

namespace ggml_test {
namespace {

/// A contiguous tensor with memory of its own, filled with zeros.
struct Tensor : ggml_tensor {
  std::vector<std::int64_t> memory;

  Tensor(const char* called, std::vector<std::int64_t> dimensions,
         ggml_type elements = GGML_TYPE_F32)
      : ggml_tensor{} {
    type = elements;
    std::strcpy(name, called);
    std::size_t stride = ggml_type_size(type);
    for (std::size_t k = 0; k < GGML_MAX_DIMS; ++k) {
      ne[k] = k < dimensions.size() ? dimensions[k] : 1;
      nb[k] = stride;
      stride *= static_cast<std::size_t>(ne[k]);
    }
    memory.resize((stride + 7) / 8);
    data = memory.data();
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  [[nodiscard]] float* floats() { return static_cast<float*>(data); }
};

TEST_CASE("the shape of a tensor of ggml is reversed, without trailing ones") {
  using polyak::ggml_shape;
  using polyak::Shape;
  CHECK(ggml_shape(Tensor("a", {5, 3})) == Shape{3, 5});
  CHECK(ggml_shape(Tensor("a", {5})) == Shape{5});
  CHECK(ggml_shape(Tensor("a", {1})) == Shape{1});
  CHECK(ggml_shape(Tensor("a", {1, 5})) == Shape{5, 1});
  CHECK(ggml_shape(Tensor("a", {2, 1, 3})) == Shape{3, 1, 2});
  CHECK(ggml_shape(Tensor("a", {2, 3, 4, 5})) == Shape{5, 4, 3, 2});
  CHECK(ggml_shape(Tensor("a", {2, 3, 4, 1})) == Shape{4, 3, 2});
}

TEST_CASE("parameters view tensors of ggml in place, under their names") {
  Tensor weight("fc.weight", {5, 3}), half("half", {4}, GGML_TYPE_F16),
      brain("brain", {4}, GGML_TYPE_BF16), wide("wide", {2}, GGML_TYPE_F64),
      counter("counter", {1}, GGML_TYPE_I32);
  polyak::Parameters<float> params;
  polyak::add_ggml(params, weight);
  polyak::add_ggml(params, half, polyak::Role::frozen);
  polyak::add_ggml(params, counter, polyak::Role::copy);
  CHECK(params.at("fc.weight").raw() == weight.data);
  CHECK(params.at("fc.weight").shape() == polyak::Shape{3, 5});
  CHECK(params.at("fc.weight").info().order == polyak::Order::row_major);
  CHECK(params.at("half").info().dtype == polyak::DType::float16);
  CHECK(params.at("counter").info().dtype == polyak::DType::int32);

  polyak::Parameters<Eigen::half> halves;
  CHECK(polyak::add_ggml(halves, half).at("half").raw() == half.data);
  polyak::Parameters<Eigen::bfloat16> brains;
  CHECK(polyak::add_ggml(brains, brain).at("brain").raw() == brain.data);
  polyak::Parameters<double> doubles;
  CHECK(polyak::add_ggml(doubles, wide).at("wide").raw() == wide.data);
}

TEST_CASE("a context gives the tensors that are marked as parameters") {
  Tensor input("input", {7}), weight("weight", {5, 3}), bias("bias", {3});
  input.next = &weight;
  weight.next = &bias;
  ggml_context context{&input};
  CHECK(polyak::ggml_parameters(&context).size() == 0);
  weight.flags = bias.flags = GGML_TENSOR_FLAG_PARAM | 1;
  const polyak::Parameters<float> params = polyak::ggml_parameters(&context);
  REQUIRE(params.size() == 2);
  CHECK(params[0].name() == "weight");
  CHECK(params[1].name() == "bias");
  CHECK_THROWS_WITH(polyak::ggml_parameters<double>(&context), Catch::Contains("weight"));
}

TEST_CASE("tensors of ggml that polyak cannot read are refused by name") {
  polyak::Parameters<float> params;
  const auto refused = [&](Tensor& tensor, const std::string& words) {
    CHECK_THROWS_AS(polyak::add_ggml(params, tensor), std::invalid_argument);
    CHECK_THROWS_WITH(polyak::add_ggml(params, tensor),
                      Catch::Contains("\"blk.0\"") && Catch::Contains(words));
    CHECK(params.size() == 0);
  };
  Tensor quantised("blk.0", {32}, GGML_TYPE_Q4_0);
  refused(quantised, "has the quantised type q4_0");

  ggml_backend_buffer device{"CUDA0", false}, host{"CPU", true};
  Tensor tensor("blk.0", {4, 2});
  tensor.buffer = &device;
  refused(tensor, "must lie in the host's memory, and lies in a buffer of CUDA0");
  Tensor view("blk.0", {4});
  view.view_src = &tensor;
  view.buffer = &host;  // what counts is the buffer of the tensor that it views
  refused(view, "a buffer of CUDA0");
  tensor.buffer = nullptr;
  tensor.data = nullptr;
  refused(tensor, "has no memory yet");
  Tensor strided("blk.0", {4, 2});
  strided.nb[1] = 32;
  refused(strided, "must be contiguous");
  Tensor half("blk.0", {4}, GGML_TYPE_F16);
  CHECK_THROWS_WITH(polyak::add_ggml(params, half), Catch::Contains("blk.0"));  // not of the list's

  Tensor good("blk.0", {4, 2});
  good.buffer = &host;
  CHECK(polyak::add_ggml(params, good).size() == 1);
}

TEST_CASE("an optimizer steps along the gradients that ggml accumulates") {
  Tensor weight("weight", {2, 3}), bias("bias", {3});
  polyak::Parameters<float> params;
  polyak::add_ggml(params, weight);
  polyak::add_ggml(params, bias);
  polyak::Gradients<float> gradients(params);
  polyak::Sgd<float> sgd(params, {.learning_rate = 1});
  Tensor weight_gradient("grad acc for weight", {2, 3});
  polyak::set_ggml_gradient(gradients, weight, &weight_gradient);
  polyak::set_ggml_gradient(gradients, bias, nullptr);
  bias.floats()[0] = 7;
  for (int t = 1; t <= 2; ++t) {
    for (int k = 0; k < 6; ++k) weight_gradient.floats()[k] = static_cast<float>(k * t);
    sgd.step(params, gradients);
  }
  for (int k = 0; k < 6; ++k) CHECK(weight.floats()[k] == static_cast<float>(-3 * k));
  CHECK(bias.floats()[0] == 7);

  const auto refused = [&](Tensor& gradient, const std::string& words) {
    CHECK_THROWS_AS(polyak::set_ggml_gradient(gradients, weight, &gradient), std::invalid_argument);
    CHECK_THROWS_WITH(polyak::set_ggml_gradient(gradients, weight, &gradient),
                      Catch::Contains(words));
    CHECK(gradients[0] == weight_gradient.floats());
  };
  Tensor transposed("gradient", {3, 2}), half("gradient", {2, 3}, GGML_TYPE_F16);
  refused(transposed, "must have the shape of the weight \"weight\"");
  refused(half, "must be of the list's type float32, and is f16");
  ggml_backend_buffer device{"Vulkan0", false};
  Tensor far("gradient", {2, 3});
  far.buffer = &device;
  refused(far, "Vulkan0");
  Tensor other("other", {2, 3});
  CHECK_THROWS_WITH(polyak::set_ggml_gradient(gradients, other, &weight_gradient),
                    Catch::Contains("other"));
}

std::optional<polyak::GgmlUpdates<polyak::Ema<float>>> updates;

TEST_CASE("an average follows ggml's optimizer through the callback of an epoch") {
  const ggml_opt_epoch_callback callback = polyak::ggml_epoch_callback<updates>;
  const auto batch = [&](bool train) { callback(train, nullptr, nullptr, nullptr, 1, 1, 0); };
  Tensor weight("weight", {3});
  polyak::Parameters<float> params;
  polyak::add_ggml(params, weight);
  polyak::Ema<float> ema(params, {.decay = 0.5, .nonfinite = polyak::Nonfinite::error});
  batch(true);  // nothing to update
  CHECK(ema.count() == 0);

  SECTION("after each batch of training") {
    updates.emplace(params, ema);
    weight.floats()[0] = 8;
    batch(true);
    batch(false);
    batch(true);
    CHECK(ema.count() == 2);
    CHECK(ema.view()[0](0) == 6);
  }
  SECTION("after each step, where several batches make one") {
    updates.emplace(params, ema, 3);
    for (int k = 0; k < 8; ++k) batch(true);
    CHECK(ema.count() == 2);
    batch(false);  // ggml counts it, and makes no step
    CHECK(ema.count() == 2);
    for (int k = 0; k < 2; ++k) batch(true);
    CHECK(ema.count() == 2);
    batch(true);
    CHECK(ema.count() == 3);
  }
  SECTION("and keeps an exception for the caller") {
    updates.emplace(params, ema);
    updates->check();
    weight.floats()[0] = std::numeric_limits<float>::quiet_NaN();
    batch(true);
    weight.floats()[0] = 1;
    batch(true);  // does nothing any more
    CHECK(ema.count() == 0);
    CHECK_THROWS_AS(updates->check(), polyak::nonfinite_error);
    updates->check();
    batch(true);
    CHECK(ema.count() == 1);
  }
  using Updates = polyak::GgmlUpdates<polyak::Ema<float>>;
  CHECK_THROWS_WITH(Updates(params, ema, 0), Catch::Contains("opt_period must be >= 1, got 0"));
  updates.reset();
}

}  // namespace
}  // namespace ggml_test
