// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "limit.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"
#include "streams.hpp"

namespace polyak_bench {

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

/// An optimizer of the library: its name here, its limit kernel, and how to make it for parameters
/// and a learning rate.
template <typename Make>
struct Optimizes {
  static constexpr bool trains = true;
  const char* name;
  LimitMethod limit;
  Make make;
};
template <typename Make>
Optimizes(const char*, LimitMethod, Make) -> Optimizes<Make>;

/// An average of the library: its name here, its gains, written down apart from the library, and
/// how to make it.
template <typename Make>
struct Averages {
  static constexpr bool trains = false;
  const char* name;
  Gain gain;
  Make make;
};
template <typename Make>
Averages(const char*, Gain, Make) -> Averages<Make>;

/// Methods of the library on a model: an optimizer and averages, or averages only. `fused`: in one
/// call, which is what the program measures; otherwise one after the other, as a check.
template <bool Fused, typename... Parts>
class Ensemble : public Racer {
 public:
  static constexpr bool optimizes = (Parts::trains || ...);

  explicit Ensemble(const Setting& setting, const Parts&... parts)
      : tensors_(setting.tensors),
        threads_(setting.threads),
        model_(setting.tensors),
        methods_(make(parts, model_.parameters, setting.learning_rate())...) {}

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) return run(OpenMp{static_cast<int>(threads_)});
#endif
    run();
  }

  void scale_gradients(float factor) override { model_.streams.fill(1, factor * gradient_scale); }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, model_.streams, 0);
    std::apply([&](const auto&... method) { (append_average(list, method), ...); }, methods_);
    return list;
  }

 private:
  template <typename Part>
  static auto make(const Part& part, const polyak::Parameters<float>& parameters, double rate) {
    if constexpr (Part::trains) {
      return part.make(parameters, rate);
    } else {
      return part.make(parameters);
    }
  }

  template <typename... Executor>
  void run(const Executor&... executor) {
    const auto call = [&](auto&... method) {
      if constexpr ((std::remove_reference_t<decltype(method)>::trains || ...)) {
        polyak::step(executor..., model_.parameters, model_.gradients, method...);
      } else {
        polyak::update(executor..., model_.parameters, method...);
      }
    };
    if constexpr (Fused) {
      std::apply(call, methods_);
    } else {
      std::apply([&](auto&... method) { (call(method), ...); }, methods_);
    }
  }

  template <typename Method>
  void append_average(std::vector<float>& list, const Method& method) const {
    if constexpr (!Method::trains) {
      for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
        const float* const data = method.view()[tensor].data();
        list.insert(list.end(), data, data + tensors_.tensors[tensor].size());
      }
    }
  }

  template <typename Part>
  using Method = decltype(make(std::declval<const Part&>(),
                               std::declval<const polyak::Parameters<float>&>(), 0.0));

  Case tensors_;
  std::size_t threads_;
  Model model_;
  std::tuple<Method<Parts>...> methods_;
};

/// A measured subject: a method alone or several fused.
struct Subject {
  std::string name;
  double bytes = 0;  ///< per element that a step must read and write
  MakeRacer make_method;
  MakeRacer make_limit;
  MakeRacer make_separate = nullptr;  ///< the same methods one after the other: the same bits
  std::vector<Peer> peers = {};
  bool threaded = true;  ///< otherwise the library runs it in one thread only
  /// Floats between the results of the limit kernel and the library's, at most; negative where the
  /// kernel moves the same bytes for another purpose.
  std::int64_t limit_ulps = 4;
};

template <typename... Parts>
Subject subject(const Parts&... parts) {
  Subject result;
  LimitMethod method = LimitMethod::none;
  std::vector<Gain> gains;
  const auto add = [&](const auto& part) {
    if (!result.name.empty()) result.name += '+';
    result.name += part.name;
    if constexpr (std::remove_reference_t<decltype(part)>::trains) {
      method = part.limit;
    } else {
      gains.push_back(part.gain);
    }
  };
  (add(parts), ...);
  // One array is only read: the gradients, or without an optimizer the parameters.
  const std::size_t updated =
      gains.size() + (method == LimitMethod::none ? 0 : 1 + limit_slots(method));
  result.bytes = static_cast<double>((1 + 2 * updated) * sizeof(float));
  result.make_method = [parts...](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<Ensemble<true, Parts...>>(setting, parts...);
  };
  result.make_limit = [method, gains](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<LimitRacer>(setting, method, gains);
  };
  if constexpr (sizeof...(Parts) > 1) {
    result.make_separate = [parts...](const Setting& setting) -> std::unique_ptr<Racer> {
      return std::make_unique<Ensemble<false, Parts...>>(setting, parts...);
    };
  }
  return result;
}

}  // namespace polyak_bench
