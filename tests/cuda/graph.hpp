// SPDX-License-Identifier: Apache-2.0
/// @file
/// A model on the host and on a device, whose steps are launched or captured.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../support/catch.hpp"
#include "twin.hpp"

namespace device_tests {

struct Both {
  polyak::cuda::Executor executor;
  Model<float> model{{5, 70, 0, 33, 4200}, true};
  twin::OnDevice<float> device{executor, model.params};

  void differentiate(std::uint64_t step) {
    model.differentiate(step);
    device.take_gradients(model.params, model.gradients);
  }
  void check_weights() {
    for (std::size_t k = 0; k < 6; ++k) {
      CHECK(twin::differing<float>(model.tensor_bytes(k), device.tensor_bytes(k), twin::ulps) == 0);
    }
  }
};

class Stream {
 public:
  Stream() { REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A model on both sides, and a graph of its steps.
struct Graph {
  Stream stream;
  polyak::cuda::Executor executor{stream};
  Model<float> model{{5, 70, 0, 33, 4200}, true};
  twin::OnDevice<float> device{executor, model.params, 1};
  cudaGraphExec_t replayed = nullptr;

  ~Graph() {
    if (replayed != nullptr) static_cast<void>(cudaGraphExecDestroy(replayed));
  }
  void differentiate(std::uint64_t step) {
    model.differentiate(step);
    device.take_gradients(model.params, model.gradients);
  }
  template <class Step>
  void capture(Step& step) {
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    step.record();
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&replayed, graph, 0) == cudaSuccess);
    static_cast<void>(cudaGraphDestroy(graph));
  }
  void replay() { REQUIRE(cudaGraphLaunch(replayed, stream) == cudaSuccess); }
  void check_weights() {
    for (std::size_t k = 0; k < 6; ++k) {
      CHECK(twin::differing<float>(model.tensor_bytes(k), device.tensor_bytes(k), twin::ulps) == 0);
    }
  }
};

}  // namespace device_tests
