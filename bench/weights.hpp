// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <vector>

#include "ensemble.hpp"
#include "limit.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"
#include "storage.hpp"
#include "streams.hpp"

namespace polyak_bench {

/// The numbers of a stream of bfloat16, without padding.
inline std::vector<float> numbers_of(const Case& tensors, StreamsOf<std::uint16_t>& streams) {
  std::vector<float> list;
  for (std::size_t tensor = 0; tensor < tensors.tensors.size(); ++tensor) {
    const std::uint16_t* const data = streams.data(0, tensor);
    for (std::size_t i = 0; i < tensors.tensors[tensor].size(); ++i) {
      list.push_back(as_float(data[i]));
    }
  }
  return list;
}

/// AdamW of a model of bfloat16.
class Bfloat16AdamWRacer : public Racer {
 public:
  Bfloat16AdamWRacer(const Setting& setting, polyak::Accumulate accumulate)
      : tensors_(setting.tensors),
        threads_(setting.threads),
        streams_(tensors_, 2),
        parameters_(list()),
        gradients_(parameters_),
        adamw_(parameters_, {.learning_rate = setting.learning_rate(),
                             .weight_decay = adamw_weight_decay,
                             .accumulate = accumulate}) {
    for (std::size_t i = 0; i < tensors_.tensors.size(); ++i) {
      gradients_.set(tensors_.tensors[i].name, number(1, i));
    }
  }

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) {
      polyak::step(OpenMp{static_cast<int>(threads_)}, parameters_, gradients_, adamw_);
      return;
    }
#endif
    polyak::step(parameters_, gradients_, adamw_);
  }
  void scale_gradients(float factor) override { streams_.fill(1, factor * gradient_scale); }
  [[nodiscard]] std::vector<float> results() override { return numbers_of(tensors_, streams_); }

 private:
  Eigen::bfloat16* number(std::size_t stream, std::size_t tensor) {
    return reinterpret_cast<Eigen::bfloat16*>(streams_.data(stream, tensor));
  }
  polyak::Parameters<Eigen::bfloat16> list() {
    streams_.fill(0, parameter_scale);
    streams_.fill(1, gradient_scale);
    polyak::Parameters<Eigen::bfloat16> parameters;
    for (std::size_t i = 0; i < tensors_.tensors.size(); ++i) {
      parameters.add(tensors_.tensors[i].name, number(0, i), tensors_.tensors[i].shape);
    }
    return parameters;
  }

  Case tensors_;
  std::size_t threads_;
  StreamsOf<std::uint16_t> streams_;
  polyak::Parameters<Eigen::bfloat16> parameters_;
  polyak::Gradients<Eigen::bfloat16> gradients_;
  polyak::AdamW<Eigen::bfloat16> adamw_;
};

/// Its limit kernel: weights that keep their rounding errors, or not.
class LimitBfloat16AdamWRacer : public Racer {
 public:
  LimitBfloat16AdamWRacer(const Setting& setting, bool rests)
      : tensors_(setting.tensors),
        weights_(tensors_, 3),
        moments_(tensors_, 2),
        shares_(tensors_, weights_, setting.threads),
        kernel_(limit_bfloat16_adamw(rests)) {
    state_.learning_rate = setting.learning_rate();
    weights_.fill(0, parameter_scale);
    weights_.fill(1, gradient_scale);
    weights_.fill(2, 0);
    moments_.fill(0, 0);
    moments_.fill(1, 0);
  }

  void pass() override {
    limit_advance(state_);
    shares_.run([this](const LimitRange* ranges, std::size_t count) {
      kernel_(state_, weights_.base(0), weights_.base(1), weights_.base(2), moments_.base(0),
              moments_.base(1), ranges, count);
    });
  }
  void scale_gradients(float factor) override { weights_.fill(1, factor * gradient_scale); }
  [[nodiscard]] std::vector<float> results() override { return numbers_of(tensors_, weights_); }

 private:
  Case tensors_;
  StreamsOf<std::uint16_t> weights_;
  StreamsOf<float> moments_;
  Shares shares_;
  LimitBfloat16AdamW kernel_;
  LimitState state_;
};

inline Subject bfloat16_adamw(const std::string& name, polyak::Accumulate accumulate, bool rests,
                              std::int64_t limit_ulps) {
  Subject subject;
  subject.name = name;
  subject.bytes =
      3 * sizeof(std::uint16_t) + 4 * sizeof(float) + (rests ? 2 * sizeof(std::uint16_t) : 0);
  subject.make_method = [accumulate](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<Bfloat16AdamWRacer>(setting, accumulate);
  };
  subject.make_limit = [rests](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<LimitBfloat16AdamWRacer>(setting, rests);
  };
  subject.limit_ulps = limit_ulps;
  return subject;
}

/// AdamW of weights of bfloat16, in each way of keeping their digits.
inline void append_weights(std::vector<Subject>& subjects) {
  using polyak::Accumulate;
  constexpr std::int64_t bfloat16_ulp = 1 << 16;
  subjects.push_back(bfloat16_adamw("adamw_bf16", Accumulate::plain, false, bfloat16_ulp));
  subjects.push_back(bfloat16_adamw("adamw_bf16_master", Accumulate::master, true, bfloat16_ulp));
  subjects.push_back(bfloat16_adamw("adamw_bf16_kahan", Accumulate::kahan, true, bfloat16_ulp));
  subjects.push_back(
      bfloat16_adamw("adamw_bf16_stochastic", Accumulate::stochastic, false, 8 * bfloat16_ulp));
}

}  // namespace polyak_bench
