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

/// Cache sizes, a tensor far larger than any cache, and a real model.
inline std::vector<Case> all_cases() {
  return {flat("flat100k", 100'000), flat("flat1M", 1'000'000), flat("flat64M", 64 << 20), gpt2()};
}

/// Small and awkward sizes, on which the program checks what it is going to measure.
inline Case check_case() {
  return {"check", {{"a", {1}}, {"b", {7}}, {"c", {64}}, {"d", {3, 333}}, {"e", {4096}}}};
}

}  // namespace polyak_bench
