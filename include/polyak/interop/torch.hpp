// SPDX-License-Identifier: Apache-2.0
/// @file
/// Modules of LibTorch as lists of polyak, and steps on them.
///
///   polyak::torch::Model model(net);
///   polyak::AdamW adamw(model.parameters(), {.learning_rate = 1e-3});
///   polyak::Ema ema(model.parameters());
///   for (...) {
///     net->zero_grad();
///     loss(net->forward(x), y).backward();
///     model.step(adamw, ema);
///   }
///   polyak::save_average("ema.safetensors", model.parameters(), ema);
///
/// Modules with weights of several types name them, and have a method for each type:
///
///   polyak::torch::Model<float, Eigen::bfloat16> model(net);
///   auto adamw = model.make([](const auto& params) {
///     return polyak::AdamW(params, {.accumulate = polyak::Accumulate::kahan});
///   });
///   model.step(adamw);
///
/// Parameters have Role::average, frozen ones (without requires_grad) Role::frozen, buffers and
/// integers Role::copy. This is decided when the Model is made; not_averaged() lists the last two.
///
/// Link polyak::torch (COMPONENTS torch). Known to work with LibTorch 1.13.
///
/// Above 300 lines: a module's lists, and steps on them, are one class.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <polyak/average/engine/swap.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/interop/torch_module.hpp>
#include <polyak/interop/torch_tensor.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace torch {

template <ParameterScalar... P>
class ModelOf;

/// The methods of one kind for a Model of several types: one for each type that has weights.
template <class... M>
class MethodForEachType {
 public:
  /// The method of the weights of type P. Throws std::invalid_argument if the model has none.
  template <ParameterScalar P>
  [[nodiscard]] auto& get() {
    auto* const method = find<P>();
    if (method == nullptr) {
      polyak::detail::refuse_value(
          "polyak: the model trains no weights of the type " +
          std::string(polyak::detail::name_of(polyak::detail::dtype_of<P>())));
    }
    return *method;
  }
  /// The same; null if the model has none.
  template <ParameterScalar P>
  [[nodiscard]] auto* find() {
    constexpr std::array<bool, sizeof...(M)> is{std::same_as<typename M::Parameter, P>...};
    constexpr auto place =
        static_cast<std::size_t>(std::find(is.begin(), is.end(), true) - is.begin());
    static_assert(place < sizeof...(M), "polyak: the Model was made without this type");
    auto& method = std::get<place>(methods_);
    return method.has_value() ? &*method : nullptr;
  }
  /// Calls `act(method)` for each of them, to set a learning rate for example.
  template <class Act>
  void each(Act&& act) {
    const auto one = [&](auto& method) {
      if (method.has_value()) act(*method);
    };
    std::apply([&](auto&... method) { (one(method), ...); }, methods_);
  }
  /// Of averages: puts them into the model until the guards end; see SwapGuard. If one throws, the
  /// model has its own weights.
  template <ParameterScalar... P>
  [[nodiscard]] std::vector<SwapGuard> swap_into(ModelOf<P...>& model) {
    std::vector<SwapGuard> guards;
    guards.reserve(sizeof...(M));
    each([&]<class One>(One& average) {
      guards.push_back(average.swap_into(model.template parameters<typename One::Parameter>()));
    });
    return guards;
  }

 private:
  template <ParameterScalar... P>
  friend class ModelOf;
  std::tuple<std::optional<M>...> methods_;
};

namespace detail {

template <class T>
inline constexpr bool is_for_each_type = false;
template <class... M>
inline constexpr bool is_for_each_type<MethodForEachType<M...>> = true;

/// The tensors of one type.
template <class P>
struct Part {
  Parameters<P> params;
  std::vector<std::shared_ptr<SharedTensor>> trained;  ///< in the order of Gradients::set_all()
  std::vector<const element_t<P>*> pointers;
  std::optional<Gradients<P>> gradients;

  /// To be called after the last tensor.
  void finish() {
    gradients.emplace(params);
    pointers.resize(trained.size(), nullptr);
  }
  void fetch() {
    for (std::size_t k = 0; k < trained.size(); ++k) {
      pointers[k] = static_cast<const element_t<P>*>(trained[k]->read_gradient());
    }
    gradients->set_all(pointers);
  }
};

/// The method for a list of P among those that a step was given: a tuple of one pointer, or of
/// none.
template <class P, class M>
[[nodiscard]] auto method_for(M& method) {
  if constexpr (is_for_each_type<M>) {
    return std::tuple(method.template find<P>());
  } else if constexpr (std::same_as<typename M::Parameter, P>) {
    return std::tuple(&method);
  } else {
    return std::tuple<>();
  }
}

}  // namespace detail

/// The lists and the steps of a Model with weights of these types.
template <ParameterScalar... P>
class ModelOf {
 public:
  /// See Model, which makes it.
  explicit ModelOf(const ::torch::nn::Module& module) : tensors_(module) {
    for (const auto& item : tensors_.items()) {
      if (item.role != Role::average) continue;
      if (!((item.tensor->dtype == polyak::detail::dtype_of<P>()) || ...)) {
        refuse_type(*item.tensor);
      }
    }
    for (const auto& item : tensors_.items()) {
      const DType list = list_of(item.tensor->dtype);
      (add(part<P>(), list, item), ...);
    }
    (part<P>().finish(), ...);
    tensors_.check();
  }
  ModelOf(ModelOf&&) noexcept = default;
  ModelOf& operator=(ModelOf&&) noexcept = default;
  ModelOf(const ModelOf&) = delete;
  ModelOf& operator=(const ModelOf&) = delete;
  ~ModelOf() = default;

  /// The list of the weights of one type. Buffers and frozen weights are in the list of their type
  /// or, if that trains nothing, in the first one that does. Throws std::invalid_argument, with the
  /// tensor's name, if a tensor has got another type, shape, order or device, or is no longer tied.
  template <ParameterScalar Q>
  [[nodiscard]] const Parameters<Q>& parameters() {
    tensors_.check();
    return part<Q>().params;
  }
  [[nodiscard]] const auto& parameters() requires(sizeof...(P) == 1) { return parameters<P...>(); }

  /// The gradients that autograd has left; none for a tensor without one. Memory that stays valid
  /// until the next call of gradients() or step(). Call it at every step: gradients move. Their
  /// scale and limits stay.
  ///
  /// Throws std::invalid_argument, with the tensor's name, for a gradient that is sparse, on a
  /// device, or of another type or shape, and for a gradient of a weight that was frozen when the
  /// Model was made.
  template <ParameterScalar Q>
  [[nodiscard]] Gradients<Q>& gradients() {
    fetch<Q>();
    return *part<Q>().gradients;
  }
  [[nodiscard]] auto& gradients() requires(sizeof...(P) == 1) { return gradients<P...>(); }

  /// One training step with the gradients that autograd has left, as polyak::step() for each type:
  /// `step(adamw, ema)`, or `step(executor, adamw, ema)`. Methods are those of one type, or those
  /// that make() made. Returns false if a method skipped a step.
  ///
  /// Throws as gradients() and polyak::step(), and std::invalid_argument if a type that has weights
  /// has no optimizer. Lists are stepped one after the other: Nonfinite looks at each alone.
  template <class First, class... Rest>
  bool step(First&& first, Rest&&... rest) {
    if constexpr (Executor<First>) {
      return step_all(first, rest...);
    } else {
      return step_all(serial, first, rest...);
    }
  }

  /// Updates averages with the current weights, as polyak::update() for each type that has some.
  template <class... M>
  requires(sizeof...(M) >= 1) bool update(M&... averages) {
    tensors_.check();
    bool all = true;
    const auto one = [&]<class Q>(detail::Part<Q>& its) {
      if (!trains<Q>()) return;
      with_methods<Q>(
          [&](auto&... methods) { all = polyak::update(its.params, methods...) && all; },
          averages...);
    };
    (one(part<P>()), ...);
    return all;
  }

  /// Makes a method for each type that has weights, by `make(params)`.
  template <class Make>
  [[nodiscard]] auto make(Make&& make) {
    MethodForEachType<std::invoke_result_t<Make&, const Parameters<P>&>...> made;
    const auto one = [&]<class Q>(std::type_identity<Q>) {
      using Method = std::invoke_result_t<Make&, const Parameters<Q>&>;
      if (!trains<Q>()) return;
      std::get<std::optional<Method>>(made.methods_).emplace(make(parameters<Q>()));
    };
    (one(std::type_identity<P>()), ...);
    return made;
  }

  /// Every tensor that is not averaged: buffers and integers (Role::copy) and frozen weights.
  [[nodiscard]] std::vector<TensorInfo> not_averaged() const {
    std::vector<TensorInfo> all;
    const auto list = [&](const auto& its) {
      for (const TensorInfo& info : its.params.layout()->tensors) {
        if (info.role != Role::average) all.push_back(info);
      }
    };
    (list(std::get<detail::Part<P>>(parts_)), ...);
    return all;
  }

 private:
  [[noreturn]] static void refuse_type(const detail::SharedTensor& tensor) {
    detail::refuse_tensor(tensor.name, "has weights of " +
                                           std::string(polyak::detail::name_of(tensor.dtype)) +
                                           ", which is not among the types of the Model; name all "
                                           "types, as in Model<float, Eigen::bfloat16>");
  }
  template <class Q>
  [[nodiscard]] detail::Part<Q>& part() {
    static_assert((std::same_as<P, Q> || ...), "polyak: the Model was made without this type");
    return std::get<detail::Part<Q>>(parts_);
  }
  template <class Q>
  [[nodiscard]] bool trains() const {
    return tensors_.trains(polyak::detail::dtype_of<Q>());
  }

  /// The list for tensors of a type: its own or, if that trains nothing, the first that does, as
  /// methods follow only those.
  [[nodiscard]] DType list_of(DType dtype) const {
    const std::array<DType, sizeof...(P)> types{polyak::detail::dtype_of<P>()...};
    const auto trained = [&](DType type) { return tensors_.trains(type); };
    if (trained(dtype)) return dtype;
    const auto first = std::find_if(types.begin(), types.end(), trained);
    return first == types.end() ? types.front() : *first;
  }
  template <class Q>
  void add(detail::Part<Q>& part, DType list, const detail::ModuleTensors::Item& item) {
    if (list != polyak::detail::dtype_of<Q>()) return;
    const auto& tensor = item.tensor;
    ParameterAccess<Q>::add(
        part.params, {tensor->name, tensor->shape, tensor->order, item.role, tensor->dtype, 0},
        tensor->data(), detail::SharedTensor::follow(tensor));
    const Layout& layout = *part.params.layout();
    const std::size_t alias = layout.find_alias(tensor->name);
    if (alias != layout.aliases.size()) {
      tensors_.took_alias(item, layout.aliases[alias].second);
      return;
    }
    tensors_.took(item);
    if (item.role == Role::average) part.trained.push_back(tensor);
  }

  template <class... Q>
  void fetch() {
    tensors_.check();
    tensors_.require_frozen();
    (part<Q>().fetch(), ...);
  }

  /// Calls `act(methods...)` with the methods for a list of Q, if there are any.
  template <class Q, class Act, class... M>
  static void with_methods(Act&& act, M&... methods) {
    const auto mine = std::tuple_cat(detail::method_for<Q>(methods)...);
    constexpr std::size_t count = std::tuple_size<decltype(mine)>::value;
    if constexpr (count != 0) {
      std::apply(
          [&](auto*... method) {
            if (!(method && ...)) {
              polyak::detail::refuse_value("polyak: a method was made for another Model");
            }
            act(*method...);
          },
          mine);
    }
  }

  template <class E, class... M>
  bool step_all(E& executor, M&... methods) {
    fetch<P...>();
    const auto check = [&]<class Q>(detail::Part<Q>& its) {
      if (!trains<Q>()) return;
      polyak::detail::check_lists(its.params, &*its.gradients);
      bool trained = false;
      with_methods<Q>(
          [&]<class... Mine>(const Mine&... mine) {
            (polyak::detail::check_method(mine, its.params), ...);
            trained = (Mine::trains || ...);
          },
          methods...);
      if (!trained) {
        polyak::detail::refuse_value(
            "polyak: the step has no optimizer for the weights of " +
            std::string(polyak::detail::name_of(polyak::detail::dtype_of<Q>())));
      }
    };
    (check(part<P>()), ...);
    bool all = true;
    const auto one = [&]<class Q>(detail::Part<Q>& its) {
      if (!trains<Q>()) return;
      with_methods<Q>(
          [&](auto&... mine) {
            all = polyak::step(executor, its.params, *its.gradients, mine...) && all;
          },
          methods...);
    };
    (one(part<P>()), ...);
    tensors_.release_gradients();
    return all;
  }

  detail::ModuleTensors tensors_;
  std::tuple<detail::Part<P>...> parts_;
};

/// A module's parameters and buffers, found recursively, under their names in the module. The
/// template arguments are the types of its trained weights.
///
/// The lists share the tensors with the module, and look at each call where their elements are:
/// after torch::load() or set_data() the next step is right. While a guard lives, it keeps the
/// memory that holds the average; if a tensor moved meanwhile, its weights return to where it is
/// then. The module may end before the Model.
///
/// Tensors that share memory when the Model is made are tied, and must stay so. Undefined tensors
/// are left out. Tensors may be contiguous, channels-last or column-major; files are row-major.
template <ParameterScalar First = float, ParameterScalar... Rest>
class Model : public ModelOf<First, Rest...> {
 public:
  /// Throws std::invalid_argument, with the tensor's name, for a trained weight of another type
  /// than those named, and for a tensor that is sparse, on a device, quantized, complex, neither
  /// contiguous nor of the orders above, or that overlaps another one without being the same.
  explicit Model(const ::torch::nn::Module& module) : ModelOf<First, Rest...>(module) {}
  template <class Contained>
  explicit Model(const ::torch::nn::ModuleHolder<Contained>& module) : Model(*module) {}
  template <std::derived_from<::torch::nn::Module> Contained>
  explicit Model(const std::shared_ptr<Contained>& module) : Model(*module) {}
};

}  // namespace torch
}  // namespace POLYAK_V0
}  // namespace polyak
