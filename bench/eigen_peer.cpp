// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "cases.hpp"
#include "peers.hpp"
#include "streams.hpp"

namespace polyak_bench {
namespace {

/// The update as one writes it with Eigen: a statement over the whole array per moment, for the
/// parameters and per average.
class EigenPeer : public Racer {
 public:
  EigenPeer(const Setting& setting, const PeerOptions& options)
      : tensors_(setting.tensors),
        options_(options),
        rate_(static_cast<float>(setting.learning_rate())),
        slots_(options.method == PeerMethod::none       ? 0
               : options.method == PeerMethod::ademamix ? 3
                                                        : 2),
        average_(options.method == PeerMethod::none ? 1 : 2 + slots_),
        streams_(tensors_, average_ + options.averages) {
    streams_.fill(0, parameter_scale);
    if (options.method != PeerMethod::none) streams_.fill(1, gradient_scale);
    for (std::size_t k = 0; k < slots_; ++k) streams_.fill(2 + k, 0);
    if (options.method == PeerMethod::schedule_free_adamw) streams_.fill(2, parameter_scale);
    for (std::size_t k = 0; k < options.averages; ++k) streams_.fill(average_ + k, parameter_scale);
  }

  void pass() override {
    ++steps_;
    weight_sum_ += rate_ * rate_;
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      switch (options_.method) {
        case PeerMethod::adamw:
          adamw(tensor);
          break;
        case PeerMethod::ademamix:
          ademamix(tensor);
          break;
        case PeerMethod::schedule_free_adamw:
          schedule_free_adamw(tensor);
          break;
        case PeerMethod::none:
          break;
      }
      const auto decay = static_cast<float>(options_.decay);
      auto x = array(0, tensor);
      for (std::size_t k = 0; k < options_.averages; ++k) {
        auto ema = array(average_ + k, tensor);
        ema = decay * ema + (1 - decay) * x;
      }
    }
  }

  void scale_gradients(float factor) override {
    if (options_.method != PeerMethod::none) streams_.fill(1, factor * gradient_scale);
  }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    for (std::size_t stream = 0; stream < average_ + options_.averages; ++stream) {
      if (stream != 0 && stream < average_) continue;
      for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
        const auto values = array(stream, tensor);
        list.insert(list.end(), values.data(), values.data() + values.size());
      }
    }
    return list;
  }

 private:
  static constexpr auto beta1 = static_cast<float>(peer_beta1);
  static constexpr auto beta2 = static_cast<float>(peer_beta2);
  static constexpr auto epsilon = static_cast<float>(peer_epsilon);

  [[nodiscard]] float unbias(float beta) const {
    return 1 / (1 - std::pow(beta, static_cast<float>(steps_)));
  }

  void adamw(std::size_t tensor) {
    auto x = array(0, tensor), g = array(1, tensor), m = array(2, tensor), v = array(3, tensor);
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g.square();
    x = (1 - rate_ * static_cast<float>(peer_weight_decay)) * x -
        rate_ * unbias(beta1) * m / ((unbias(beta2) * v).sqrt() + epsilon);
  }

  void ademamix(std::size_t tensor) {
    constexpr auto beta3 = static_cast<float>(peer_beta3);
    constexpr auto alpha = static_cast<float>(peer_alpha);
    auto x = array(0, tensor), g = array(1, tensor), v = array(4, tensor);
    auto fast = array(2, tensor), slow = array(3, tensor);
    fast = beta1 * fast + (1 - beta1) * g;
    slow = beta3 * slow + (1 - beta3) * g;
    v = beta2 * v + (1 - beta2) * g.square();
    x -= rate_ * (unbias(beta1) * fast + alpha * slow) / ((unbias(beta2) * v).sqrt() + epsilon);
  }

  void schedule_free_adamw(std::size_t tensor) {
    const float c = rate_ * rate_ / weight_sum_;
    auto y = array(0, tensor), g = array(1, tensor), z = array(2, tensor), v = array(3, tensor);
    v = beta2 * v + (1 - beta2) * g.square();
    y += c * (z - y) + rate_ * (beta1 * (1 - c) - 1) * (g / ((unbias(beta2) * v).sqrt() + epsilon));
    z -= rate_ * g / ((unbias(beta2) * v).sqrt() + epsilon);
  }

  [[nodiscard]] Eigen::Map<Eigen::ArrayXf> array(std::size_t stream, std::size_t tensor) {
    return {streams_.data(stream, tensor),
            static_cast<Eigen::Index>(tensors_.tensors[tensor].size())};
  }

  // Streams: parameters, gradients (absent for `none`), slots, averages.
  Case tensors_;
  PeerOptions options_;
  float rate_;
  std::size_t slots_, average_;
  Streams streams_;
  long steps_ = 0;
  float weight_sum_ = 0;
};

}  // namespace

std::unique_ptr<Racer> eigen_peer(const Setting& setting, const PeerOptions& options) {
  return std::make_unique<EigenPeer>(setting, options);
}

}  // namespace polyak_bench
