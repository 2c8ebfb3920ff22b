// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <vector>

#include "ensemble.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"

namespace polyak_bench {

/// Weights of N models, larger for later ones; they sum to 1.
inline std::vector<double> model_weights(std::size_t models) {
  std::vector<double> weights;
  for (std::size_t k = 1; k <= models; ++k) {
    weights.push_back(2.0 * static_cast<double>(k) / static_cast<double>(models * (models + 1)));
  }
  return weights;
}

/// The weighted average of N models, written to another one.
class AverageNRacer : public Racer {
 public:
  AverageNRacer(const Setting& setting, std::size_t models)
      : tensors_(setting.tensors),
        threads_(setting.threads),
        weights_(model_weights(models)),
        streams_(tensors_, models + 1),
        target_(list(0)) {
    streams_.fill(0, parameter_scale);
    for (std::size_t k = 0; k < models; ++k) {
      streams_.fill(k + 1, source_scale(k));
      models_.push_back(list(k + 1));
    }
  }

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) {
      return polyak::average_n(OpenMp{static_cast<int>(threads_)}, target_, models_, weights_);
    }
#endif
    polyak::average_n(target_, models_, weights_);
  }
  void scale_gradients(float) override {}
  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, streams_, 0);
    return list;
  }

 private:
  polyak::Parameters<float> list(std::size_t stream) {
    polyak::Parameters<float> parameters;
    for (std::size_t i = 0; i < tensors_.tensors.size(); ++i) {
      const Tensor& tensor = tensors_.tensors[i];
      parameters.add(tensor.name, streams_.data(stream, i), tensor.shape);
    }
    return parameters;
  }

  Case tensors_;
  std::size_t threads_;
  std::vector<double> weights_;
  Streams streams_;
  polyak::Parameters<float> target_;
  std::vector<polyak::Parameters<float>> models_;
};

inline void append_average_n(std::vector<Subject>& subjects) {
  for (const std::size_t models : {2, 4, 8}) {
    Subject subject;
    subject.name = "average_n" + std::to_string(models);
    subject.bytes = static_cast<double>((models + 1) * sizeof(float));
    subject.make_method = [models](const Setting& setting) -> std::unique_ptr<Racer> {
      return std::make_unique<AverageNRacer>(setting, models);
    };
    subject.make_limit = [models](const Setting& setting) -> std::unique_ptr<Racer> {
      const std::vector<double> weights = model_weights(models);
      std::vector<float> rounded;
      for (const double weight : weights) rounded.push_back(static_cast<float>(weight));
      return std::make_unique<LimitSumRacer>(setting, rounded);
    };
    subjects.push_back(subject);
  }
}

}  // namespace polyak_bench
