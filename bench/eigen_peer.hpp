// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <memory>

#include "cases.hpp"
#include "harness.hpp"
#include "streams.hpp"

namespace polyak_bench {

/// AdamW (bias-corrected, decoupled decay) and EMAs as one writes them with Eigen: a statement over
/// the whole array per moment, for the parameters and per average.
class EigenPeer {
 public:
  struct Options {
    bool adamw = true;  ///< otherwise the parameters rest
    std::size_t averages = 0;
    float learning_rate = 0;
    float beta1 = 0;
    float beta2 = 0;
    float epsilon = 0;
    float weight_decay = 0;
    float decay = 0;
  };

  EigenPeer(const Case& tensors, const Options& options, float parameters, float gradients)
      : tensors_(tensors), options_(options), streams_(tensors, average + options.averages) {
    streams_.fill(parameter, parameters);
    streams_.fill(gradient, gradients);
    if (options.adamw) {
      streams_.fill(first_moment, 0);
      streams_.fill(second_moment, 0);
    }
    for (std::size_t k = 0; k < options_.averages; ++k) streams_.fill(average + k, parameters);
  }

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own AVX-512 header
#endif
  void step() {
    ++steps_;
    const Options& o = options_;
    const float step_size = o.learning_rate / (1 - std::pow(o.beta1, static_cast<float>(steps_)));
    const float unbias = 1 / (1 - std::pow(o.beta2, static_cast<float>(steps_)));
    const float keep = 1 - o.learning_rate * o.weight_decay;
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      auto x = array(parameter, tensor);
      if (o.adamw) {
        auto g = array(gradient, tensor);
        auto m = array(first_moment, tensor);
        auto v = array(second_moment, tensor);
        m = o.beta1 * m + (1 - o.beta1) * g;
        v = o.beta2 * v + (1 - o.beta2) * g.square();
        x = keep * x - step_size * m / ((unbias * v).sqrt() + o.epsilon);
      }
      for (std::size_t k = 0; k < o.averages; ++k) {
        auto ema = array(average + k, tensor);
        ema = o.decay * ema + (1 - o.decay) * x;
      }
    }
  }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

  [[nodiscard]] Eigen::Map<Eigen::ArrayXf> array(std::size_t stream, std::size_t tensor) {
    return {streams_.data(stream, tensor),
            static_cast<Eigen::Index>(tensors_.tensors[tensor].size())};
  }

  /// Streams; the averages follow.
  static constexpr std::size_t parameter = 0, gradient = 1, first_moment = 2, second_moment = 3,
                               average = 4;

 private:
  Case tensors_;
  Options options_;
  Streams streams_;
  long steps_ = 0;
};

}  // namespace polyak_bench
