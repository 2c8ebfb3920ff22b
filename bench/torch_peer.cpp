// SPDX-License-Identifier: Apache-2.0
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "cases.hpp"
#include "peers.hpp"
#include "streams.hpp"

namespace polyak_bench {
namespace {

/// torch::optim::AdamW, and averages by lerp_ per tensor or by the _foreach functions.
class TorchPeer : public Racer {
 public:
  TorchPeer(const Setting& setting, const PeerOptions& options, bool foreach)
      : tensors_(setting.tensors), decay_(options.decay), foreach_(foreach) {
    at::set_num_threads(static_cast<int>(setting.threads));
    const torch::NoGradGuard no_gradients;
    parameters_ = filled(parameter_scale);
    averages_.resize(options.averages);
    for (std::vector<torch::Tensor>& average : averages_) {
      for (const torch::Tensor& parameter : parameters_) average.push_back(parameter.clone());
    }
    if (options.method != PeerMethod::adamw) return;
    scale_gradients(1);
    optimizer_ = std::make_unique<torch::optim::AdamW>(
        parameters_, torch::optim::AdamWOptions(setting.learning_rate())
                         .betas({peer_beta1, peer_beta2})
                         .eps(peer_epsilon)
                         .weight_decay(peer_weight_decay));
  }

  void pass() override {
    if (optimizer_) optimizer_->step();
    const torch::NoGradGuard no_gradients;
    for (std::vector<torch::Tensor>& average : averages_) {
      if (foreach_) {
        at::_foreach_mul_(average, decay_);
        at::_foreach_add_(average, parameters_, 1 - decay_);
      } else {
        for (std::size_t k = 0; k < average.size(); ++k) {
          average[k].lerp_(parameters_[k], 1 - decay_);
        }
      }
    }
  }

  void scale_gradients(float factor) override {
    const std::vector<torch::Tensor> gradients = filled(factor * gradient_scale);
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      parameters_[k].mutable_grad() = gradients[k];
    }
  }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    const auto append = [&](const std::vector<torch::Tensor>& tensors) {
      for (const torch::Tensor& tensor : tensors) {
        const float* const data = tensor.data_ptr<float>();
        list.insert(list.end(), data, data + tensor.numel());
      }
    };
    append(parameters_);
    for (const std::vector<torch::Tensor>& average : averages_) append(average);
    return list;
  }

 private:
  [[nodiscard]] std::vector<torch::Tensor> filled(float scale) const {
    Streams values(tensors_, 1);
    values.fill(0, scale);
    std::vector<torch::Tensor> list;
    for (std::size_t k = 0; k < tensors_.tensors.size(); ++k) {
      list.push_back(torch::from_blob(values.data(0, k), tensors_.tensors[k].shape).clone());
    }
    return list;
  }

  Case tensors_;
  double decay_;
  bool foreach_;
  std::vector<torch::Tensor> parameters_;
  std::vector<std::vector<torch::Tensor>> averages_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
};

}  // namespace

std::unique_ptr<Racer> torch_peer(const Setting& setting, const PeerOptions& options,
                                  bool foreach) {
  return std::make_unique<TorchPeer>(setting, options, foreach);
}

std::string torch_version() { return TORCH_VERSION; }

void prepare_torch() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

}  // namespace polyak_bench
