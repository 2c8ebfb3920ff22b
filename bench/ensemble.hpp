// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cases.hpp"
#include "harness.hpp"
#include "limit_pass.hpp"
#include "streams.hpp"

namespace polyak_bench {

inline constexpr float parameter_scale = 1.0F;
inline constexpr float gradient_scale = 0.01F;

/// Parameters and gradients of a case.
struct Model {
  explicit Model(const Case& tensors)
      : streams(tensors, 2), parameters(list(tensors, streams)), gradients(parameters) {
    streams.fill(0, parameter_scale);
    streams.fill(1, gradient_scale);
    for (std::size_t i = 0; i < tensors.tensors.size(); ++i) {
      gradients.set(tensors.tensors[i].name, streams.data(1, i));
    }
  }

  Streams streams;
  polyak::Parameters<float> parameters;
  polyak::Gradients<float> gradients;

 private:
  static polyak::Parameters<float> list(const Case& tensors, Streams& streams) {
    polyak::Parameters<float> parameters;
    for (std::size_t i = 0; i < tensors.tensors.size(); ++i) {
      parameters.add(tensors.tensors[i].name, streams.data(0, i), tensors.tensors[i].shape);
    }
    return parameters;
  }
};

template <typename Method>
concept Optimizer = requires(Method method, Model model) {
  method.step(model.parameters, model.gradients);
};

/// A method of the library: its name here, the state per parameter that a step reads and writes,
/// and how to make it.
template <typename Make>
struct Part {
  const char* name;
  std::size_t slots;
  Make make;
};
template <typename Make>
Part(const char*, std::size_t, Make) -> Part<Make>;

/// Methods and the model they work on: an optimizer and averages, or averages only.
template <typename... Makes>
class Ensemble {
 public:
  using Methods = std::tuple<std::invoke_result_t<Makes, const polyak::Parameters<float>&>...>;
  static constexpr bool optimizes = Optimizer<std::tuple_element_t<0, Methods>>;

  Ensemble(const Case& tensors, const Part<Makes>&... parts)
      : tensors_(tensors), model_(tensors), methods_(parts.make(model_.parameters)...) {}
  Ensemble(const Ensemble&) = delete;
  Ensemble& operator=(const Ensemble&) = delete;

  void fused() {
    std::apply(
        [this](auto&... method) {
          if constexpr (optimizes) {
            polyak::step(model_.parameters, model_.gradients, method...);
          } else {
            polyak::update(model_.parameters, method...);
          }
        },
        methods_);
  }

  void separate() {
    const auto one = [this](auto& method) {
      if constexpr (requires { method.step(model_.parameters, model_.gradients); }) {
        method.step(model_.parameters, model_.gradients);
      } else {
        method.update(model_.parameters);
      }
    };
    std::apply([&](auto&... method) { (one(method), ...); }, methods_);
  }

  /// Whether parameters and averages are the same, bit for bit.
  [[nodiscard]] bool equals(Ensemble& other) {
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      const std::size_t bytes = tensors_.tensors[tensor].size() * sizeof(float);
      const float* const left = model_.streams.data(0, tensor);
      const float* const right = other.model_.streams.data(0, tensor);
      if (std::memcmp(left, right, bytes) != 0) return false;
    }
    return equal_averages(other, std::index_sequence_for<Makes...>());
  }

 private:
  template <std::size_t... Index>
  bool equal_averages(Ensemble& other, std::index_sequence<Index...>) {
    return (equal(std::get<Index>(methods_), std::get<Index>(other.methods_)) && ...);
  }

  template <typename Method>
  bool equal(const Method& left, const Method& right) {
    if constexpr (requires { left.view(); }) {
      for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
        const std::size_t bytes = tensors_.tensors[tensor].size() * sizeof(float);
        if (std::memcmp(left.view()[tensor].data(), right.view()[tensor].data(), bytes) != 0) {
          return false;
        }
      }
    }
    return true;
  }

  Case tensors_;
  Model model_;
  Methods methods_;
};

/// What the program measures: a method alone or several fused.
struct Subject {
  std::string name;
  std::size_t words;  ///< floats per parameter that a step must read and write
  std::function<Pass(const Case&)> make_pass;
  std::function<Pass(const Case&)> make_limit;
  std::function<bool(const Case&)> fused_equals_separate;
  std::function<Pass(const Case&)> make_eigen = nullptr;  ///< the same as Eigen statements
};

template <typename... Makes>
Subject subject(const Part<Makes>&... parts) {
  using Methods = Ensemble<Makes...>;
  std::string name;
  for (const char* part : {parts.name...}) {
    if (!name.empty()) name += '+';
    name += part;
  }
  // One array is only read: the gradients, or without an optimizer the parameters.
  const std::size_t updated = ((Methods::optimizes ? 1 : 0) + ... + parts.slots);
  return {name, 1 + 2 * updated,
          [parts...](const Case& tensors) -> Pass {
            const auto methods = std::make_shared<Methods>(tensors, parts...);
            return [methods] { methods->fused(); };
          },
          [updated](const Case& tensors) { return limit_pass(tensors, updated); },
          [parts...](const Case& tensors) {
            Methods fused(tensors, parts...), separate(tensors, parts...);
            for (int step = 0; step < 5; ++step) {
              fused.fused();
              separate.separate();
            }
            return fused.equals(separate);
          }};
}

}  // namespace polyak_bench
