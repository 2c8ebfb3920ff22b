// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cases.hpp"
#include "peers.hpp"
#include "streams.hpp"

// A file of its own, compiled with -O2 for any processor of its kind, as programs are by default.

namespace polyak_bench {
namespace {

struct AdamWScalars {
  float beta1, beta2, step_size, root_scale, epsilon, shrink;
};

void adamw(const AdamWScalars& o, std::vector<float>& x, const std::vector<float>& g,
           std::vector<float>& m, std::vector<float>& v) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
    x[i] = o.shrink * x[i] - o.step_size * m[i] / (std::sqrt(v[i]) * o.root_scale + o.epsilon);
  }
}

void ema(float decay, std::vector<float>& average, const std::vector<float>& x) {
  for (std::size_t i = 0; i < x.size(); ++i) average[i] = decay * average[i] + (1 - decay) * x[i];
}

/// A vector per tensor and loops over its elements.
class PlainPeer : public Racer {
 public:
  PlainPeer(const Setting& setting, const PeerOptions& options)
      : options_(options), rate_(setting.learning_rate()), gradients_(setting.tensors, 1) {
    Streams parameters(setting.tensors, 1);
    parameters.fill(0, parameter_scale);
    for (std::size_t k = 0; k < setting.tensors.tensors.size(); ++k) {
      const std::size_t size = setting.tensors.tensors[k].size();
      const float* const x = parameters.data(0, k);
      Layer& layer = layers_.emplace_back();
      layer.x.assign(x, x + size);
      layer.averages.assign(options.averages, layer.x);
      if (options.method == PeerMethod::none) continue;
      layer.m.assign(size, 0);
      layer.v.assign(size, 0);
      layer.g.resize(size);
    }
    scale_gradients(1);
  }

  void pass() override {
    ++steps_;
    const auto t = static_cast<double>(steps_);
    const AdamWScalars scalars{static_cast<float>(peer_beta1),
                               static_cast<float>(peer_beta2),
                               static_cast<float>(rate_ / (1 - std::pow(peer_beta1, t))),
                               static_cast<float>(1 / std::sqrt(1 - std::pow(peer_beta2, t))),
                               static_cast<float>(peer_epsilon),
                               static_cast<float>(1 - rate_ * peer_weight_decay)};
    for (Layer& layer : layers_) {
      if (options_.method == PeerMethod::adamw) adamw(scalars, layer.x, layer.g, layer.m, layer.v);
      for (std::vector<float>& average : layer.averages) {
        ema(static_cast<float>(options_.decay), average, layer.x);
      }
    }
  }

  void scale_gradients(float factor) override {
    if (options_.method == PeerMethod::none) return;
    gradients_.fill(0, factor * gradient_scale);
    for (std::size_t k = 0; k < layers_.size(); ++k) {
      const float* const g = gradients_.data(0, k);
      layers_[k].g.assign(g, g + layers_[k].x.size());
    }
  }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    for (const Layer& layer : layers_) list.insert(list.end(), layer.x.begin(), layer.x.end());
    for (std::size_t k = 0; k < options_.averages; ++k) {
      for (const Layer& layer : layers_) {
        list.insert(list.end(), layer.averages[k].begin(), layer.averages[k].end());
      }
    }
    return list;
  }

 private:
  struct Layer {
    std::vector<float> x, g, m, v;
    std::vector<std::vector<float>> averages;
  };

  PeerOptions options_;
  double rate_;
  Streams gradients_;  // touched only to set the layers' own
  std::vector<Layer> layers_;
  long steps_ = 0;
};

}  // namespace

std::unique_ptr<Racer> plain_peer(const Setting& setting, const PeerOptions& options) {
  return std::make_unique<PlainPeer>(setting, options);
}

}  // namespace polyak_bench
