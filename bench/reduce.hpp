// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <memory>
#include <polyak/core/reduce.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ensemble.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"

namespace polyak_bench {

/// A fold of the library over the gradients, or over the parameters and them.
template <typename Fold>
class ReduceRacer : public Racer {
 public:
  explicit ReduceRacer(const Setting& setting)
      : threads_(setting.threads), model_(setting.tensors), reduction_(model_.parameters) {}

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) return run(OpenMp{static_cast<int>(threads_)});
#endif
    run(polyak::serial);
  }
  void scale_gradients(float factor) override { model_.streams.fill(1, factor * gradient_scale); }
  [[nodiscard]] std::vector<float> results() override {
    return {static_cast<float>(reduction_.results()[0])};
  }

 private:
  template <typename Executor>
  void run(const Executor& executor) {
    if constexpr (Fold::streams == 1) {
      reduction_(executor, model_.gradients);
    } else {
      reduction_(executor, model_.parameters, model_.gradients);
    }
  }

  std::size_t threads_;
  Model model_;
  polyak::Reduction<Fold> reduction_;
};

/// Its limit kernel, which sums products of floats in float.
class LimitReduceRacer : public Racer {
 public:
  LimitReduceRacer(const Setting& setting, bool of_two)
      : tensors_(setting.tensors),
        of_two_(of_two),
        streams_(tensors_, 2),
        shares_(tensors_, streams_, setting.threads) {
    streams_.fill(0, parameter_scale);
    scale_gradients(1);
  }

  void pass() override {
    sum_ = 0;
    shares_.run([this](const LimitRange* ranges, std::size_t count) {
      sum_ += limit_dot(streams_.base(of_two_ ? 0 : 1), streams_.base(1), ranges, count);
    });
  }
  /// The padding is read too, so it is 0.
  void scale_gradients(float factor) override {
    streams_.fill(1, factor * gradient_scale);
    for (std::size_t k = 0; k < tensors_.tensors.size(); ++k) {
      const std::size_t size = tensors_.tensors[k].size();
      for (std::size_t i = streams_.begin(k) + size; i < streams_.end(k); ++i) {
        streams_.base(1)[i] = 0;
      }
    }
  }
  [[nodiscard]] std::vector<float> results() override {
    const double sum = sum_;
    return {static_cast<float>(of_two_ ? sum : std::sqrt(sum))};
  }

 private:
  Case tensors_;
  bool of_two_;
  Streams streams_;
  Shares shares_;
  std::atomic<double> sum_ = 0;
};

template <typename Fold>
Subject reduction(const std::string& name) {
  Subject subject;
  subject.name = name;
  subject.bytes = Fold::streams * sizeof(float);
  subject.make_method = [](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<ReduceRacer<Fold>>(setting);
  };
  subject.make_limit = [](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<LimitReduceRacer>(setting, Fold::streams == 2);
  };
  subject.limit_ulps = 256;  // the limit's sums are of floats
  return subject;
}

inline void append_reduce(std::vector<Subject>& subjects) {
  subjects.push_back(reduction<polyak::Norm>("norm"));
  subjects.push_back(reduction<polyak::Dot>("dot"));
}

}  // namespace polyak_bench
