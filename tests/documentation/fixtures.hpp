// SPDX-License-Identifier: Apache-2.0
// The names that the C++ blocks of the READMEs use without declaring them.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <polyak/average/analysis/profile_fit.hpp>
#include <polyak/cuda.hpp>
#include <polyak/cuda/offload.hpp>
#include <polyak/io.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/merge/merge_as_decay.hpp>
#include <polyak/polyak.hpp>

namespace fixtures {

/// A model, its data, and the parts of a training loop that polyak leaves to the program.
struct model {
  struct Batch {};
  /// As much of an Eigen::ThreadPoolDevice as ThreadPool uses.
  struct Pool {
    [[nodiscard]] int numThreads() const { return 1; }
    void enqueueNoNotification(const std::function<void()>& task) const { task(); }
  };
  std::vector<Batch> batches;
  Pool device;
  Eigen::MatrixXf W1 = Eigen::MatrixXf::Zero(784, 64), gW1 = W1;
  Eigen::VectorXf b1 = Eigen::VectorXf::Zero(64), gb1 = b1;
  Eigen::MatrixXf activations = Eigen::MatrixXf::Zero(256, 64);
  std::vector<float> head = std::vector<float>(640), ghead = head, embedding;
  Eigen::VectorXf running_mean = Eigen::VectorXf::Zero(64), running_variance = running_mean;
  std::function<double()> validation_loss;
  std::function<double(const Batch&)> train;  ///< forward and backward; the loss
  std::function<void(double)> report;
  std::function<void(const Batch&)> forward;
  std::int64_t step = 0;
  int batch_size = 256;
  bool end_of_epoch = true;
};

/// The same in training: parameters, gradients, an optimizer and three averages.
struct run : model {
  polyak::Parameters<float> params;
  polyak::Gradients<float> grads;
  polyak::AdamW<float> optimizer;
  polyak::Ema<float> ema;
  polyak::PowerEma<float> sharp, smooth;
  run()
      : grads((params.add("fc1.weight", W1).add("fc1.bias", b1).add("head", head, {10, 64}),
               polyak::like(params, gW1, gb1, ghead))),
        optimizer(params),
        ema(params),
        sharp(params, {.sigma_rel = 0.05}),
        smooth(params, {.sigma_rel = 0.10}) {}
};

/// Finished models of one shape.
struct models : run {
  polyak::Parameters<float> merged = params, x0 = params, x1 = params, x2 = params;
  polyak::Parameters<float> larger_params = params, target_params = params, copy = params;
};

/// Weights and gradients on a GPU.
struct gpu : model {
  cudaStream_t stream = nullptr;
  float* device_pointer = nullptr;
  float* device_gradient = nullptr;
};

/// The same in training, with a list of the same tensors on the host.
struct gpu_run : gpu {
  polyak::cuda::Executor executor;
  polyak::cuda::Parameters<float> params;
  polyak::cuda::Parameters<float> target = params, merged = params;
  polyak::cuda::Gradients<float> grads;
  decltype(polyak::AdamW(std::declval<polyak::cuda::Parameters<float>&>())) optimizer;
  decltype(polyak::Ema(std::declval<polyak::cuda::Parameters<float>&>())) ema;
  polyak::Parameters<float> host_params;
  polyak::Ema<float> host_ema;
  std::function<void(std::function<void()>)> capture;  ///< captures the launches of its argument
  std::function<void()> replay;
  gpu_run()
      : executor(stream),
        params(executor),
        grads(params),
        optimizer(params),
        ema(params),
        host_ema(host_params) {}
};

}  // namespace fixtures
