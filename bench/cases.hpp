// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace polyak_bench {

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;

  [[nodiscard]] std::size_t size() const {
    std::size_t elements = 1;
    for (const std::int64_t extent : shape) elements *= static_cast<std::size_t>(extent);
    return elements;
  }
};

/// A named list of tensors to run the methods on.
struct Case {
  std::string name;
  std::vector<Tensor> tensors;

  [[nodiscard]] std::size_t elements() const {
    std::size_t sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.size();
    return sum;
  }
};

inline Case flat(const std::string& name, std::int64_t elements) {
  return {name, {{"flat", {elements}}}};
}

/// The 148 tensors of GPT-2 124M (output layer tied to the token embedding).
inline Case gpt2() {
  constexpr std::int64_t width = 768;
  std::vector<Tensor> tensors{{"wte.weight", {50257, width}}, {"wpe.weight", {1024, width}}};
  const auto norm = [&](const std::string& name) {
    tensors.push_back({name + ".weight", {width}});
    tensors.push_back({name + ".bias", {width}});
  };
  const auto linear = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs) {
    tensors.push_back({name + ".weight", {inputs, outputs}});
    tensors.push_back({name + ".bias", {outputs}});
  };
  for (int layer = 0; layer < 12; ++layer) {
    const std::string prefix = "h." + std::to_string(layer) + '.';
    norm(prefix + "ln_1");
    linear(prefix + "attn.c_attn", width, 3 * width);
    linear(prefix + "attn.c_proj", width, width);
    norm(prefix + "ln_2");
    linear(prefix + "mlp.c_fc", width, 4 * width);
    linear(prefix + "mlp.c_proj", 4 * width, width);
  }
  norm("ln_f");
  return {"gpt2", std::move(tensors)};
}

/// A list like the 161 tensors of ResNet-50, 25.6 million elements: 53 convolutions, each with the
/// two of its batch normalisation, and the classifier.
inline Case resnet50() {
  std::vector<Tensor> tensors;
  const auto convolution = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs,
                               std::int64_t width) {
    tensors.push_back({name + ".conv.weight", {outputs, inputs, width, width}});
    tensors.push_back({name + ".norm.weight", {outputs}});
    tensors.push_back({name + ".norm.bias", {outputs}});
  };
  convolution("stem", 3, 64, 7);
  std::int64_t inputs = 64;
  constexpr int blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    const std::int64_t inner = std::int64_t{64} << stage;
    for (int block = 0; block < blocks[stage]; ++block) {
      const std::string prefix =
          "stage" + std::to_string(stage) + ".block" + std::to_string(block) + '.';
      convolution(prefix + "reduce", inputs, inner, 1);
      convolution(prefix + "spatial", inner, inner, 3);
      convolution(prefix + "expand", inner, 4 * inner, 1);
      if (block == 0) convolution(prefix + "shortcut", inputs, 4 * inner, 1);
      inputs = 4 * inner;
    }
  }
  tensors.push_back({"fc.weight", {1000, inputs}});
  tensors.push_back({"fc.bias", {1000}});
  return {"resnet50", std::move(tensors)};
}

/// 160 tensors of 64 to 640 elements, in no order, about 56,000 together.
inline Case tiny160() {
  constexpr int count = 160;
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i) {
    tensors.push_back({std::to_string(i), {64 + i * 37 % count * 576 / (count - 1)}});
  }
  return {"tiny160", std::move(tensors)};
}

/// From the first cache to memory, two real models, and a list whose tensors are hardly worth a
/// call each.
inline std::vector<Case> all_cases() {
  return {flat("flat1k", 1'000),
          flat("flat10k", 10'000),
          flat("flat100k", 100'000),
          flat("flat1M", 1'000'000),
          flat("flat16M", 16'000'000),
          flat("flat128M", 128'000'000),
          gpt2(),
          resnet50(),
          tiny160()};
}

/// Small and awkward sizes for the checks before measuring; together enough for two threads.
inline Case check_case() {
  return {"check",
          {{"a", {1}}, {"b", {7}}, {"c", {64}}, {"d", {3, 333}}, {"e", {4096}}, {"f", {151, 150}}}};
}

}  // namespace polyak_bench
