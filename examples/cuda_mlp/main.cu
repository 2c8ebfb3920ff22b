// SPDX-License-Identifier: Apache-2.0
// A small network trained on a GPU: plain kernels for forward and backward, polyak for the rest.
//
//   cuda_mlp [--steps N]
//
// Learns to tell in which of three interleaved spirals a point lies. AdamW and an exponential
// average of the weights are one launch per step; the average is what is evaluated, by a guard.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>

namespace {

constexpr int inputs = 2, hidden = 128, classes = 3, batch = 256;

/// out = in weights^T + bias; a row for each sample. With `tanh` applied where it is asked for.
__global__ void forward(const float* in, const float* weights, const float* bias, float* out,
                        int width_in, int width_out, bool activate) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= batch * width_out) return;
  const int sample = k / width_out, unit = k % width_out;
  float sum = bias[unit];
  for (int i = 0; i < width_in; ++i)
    sum += in[sample * width_in + i] * weights[unit * width_in + i];
  out[k] = activate ? tanhf(sum) : sum;
}

/// The gradient of the mean cross-entropy by the logits, and the loss of each sample.
__global__ void cross_entropy(const float* logits, const int* labels, float* gradient,
                              float* loss) {
  const int sample = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (sample >= batch) return;
  const float* const row = logits + sample * classes;
  float top = row[0], sum = 0;
  for (int k = 1; k < classes; ++k) top = fmaxf(top, row[k]);
  for (int k = 0; k < classes; ++k) sum += expf(row[k] - top);
  for (int k = 0; k < classes; ++k) {
    const float probability = expf(row[k] - top) / sum;
    gradient[sample * classes + k] =
        (probability - (k == labels[sample] ? 1.0f : 0.0f)) / static_cast<float>(batch);
  }
  loss[sample] = logf(sum) + top - row[labels[sample]];
}

/// Gradients of weights and bias: one thread for each weight, the batch in order.
__global__ void backward_weights(const float* in, const float* by_out, float* by_weights,
                                 float* by_bias, int width_in, int width_out) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= width_in * width_out) return;
  const int unit = k / width_in, i = k % width_in;
  float sum = 0, bias = 0;
  for (int sample = 0; sample < batch; ++sample) {
    const float g = by_out[sample * width_out + unit];
    sum += g * in[sample * width_in + i];
    bias += g;
  }
  by_weights[k] = sum;
  if (i == 0) by_bias[unit] = bias;
}

/// The gradient with respect to the input, which is an output of tanh.
__global__ void backward_input(const float* in, const float* weights, const float* by_out,
                               float* by_in, int width_in, int width_out) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= batch * width_in) return;
  const int sample = k / width_in, i = k % width_in;
  float sum = 0;
  for (int unit = 0; unit < width_out; ++unit) {
    sum += by_out[sample * width_out + unit] * weights[unit * width_in + i];
  }
  by_in[k] = sum * (1 - in[k] * in[k]);
}

int blocks(int threads) { return (threads + 255) / 256; }

/// Numbers in [-1, 1) that look random.
class Random {
 public:
  float operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state_ >> 40) * 0x1p-23f - 1;
  }

 private:
  unsigned long long state_ = 7;
};

using Buffer = polyak::cuda::Buffer<float>;

std::vector<float> random_numbers(Random& random, int count, float scale) {
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (float& number : numbers) number = scale * random();
  return numbers;
}

/// Points of three spirals, and of which one each is.
void sample(Random& random, std::vector<float>& points, std::vector<int>& labels) {
  points.resize(static_cast<std::size_t>(batch) * inputs);
  labels.resize(static_cast<std::size_t>(batch));
  for (int k = 0; k < batch; ++k) {
    const float along = 0.5f + 0.5f * random();
    const int label = k % classes;
    const float angle = 5 * along + 2.0943951f * static_cast<float>(label) + 0.15f * random();
    points[static_cast<std::size_t>(2 * k)] = along * std::cos(angle);
    points[static_cast<std::size_t>(2 * k + 1)] = along * std::sin(angle);
    labels[static_cast<std::size_t>(k)] = label;
  }
}

class Network {
 public:
  Network(const polyak::cuda::Executor& executor, Random& random)
      : stream_(executor.stream()),
        weights1(executor, random_numbers(random, hidden * inputs, 1)),
        bias1(executor, random_numbers(random, hidden, 0.5f)),
        weights2(executor, random_numbers(random, hidden * hidden, 0.15f)),
        bias2(executor, hidden),
        weights3(executor, random_numbers(random, classes * hidden, 0.15f)),
        bias3(executor, classes),
        points_(executor, batch * inputs),
        labels_(executor, batch),
        layer1_(executor, batch * hidden),
        layer2_(executor, batch * hidden),
        logits_(executor, batch * classes),
        by_logits_(executor, batch * classes),
        by_layer2_(executor, batch * hidden),
        by_layer1_(executor, batch * hidden),
        losses_(executor, batch),
        by_weights1(executor, hidden * inputs),
        by_bias1(executor, hidden),
        by_weights2(executor, hidden * hidden),
        by_bias2(executor, hidden),
        by_weights3(executor, classes * hidden),
        by_bias3(executor, classes) {}

  void predict(const std::vector<float>& points, const std::vector<int>& labels) {
    points_.upload(points);
    labels_.upload(labels);
    forward<<<blocks(batch * hidden), 256, 0, stream_>>>(
        points_.data(), weights1.data(), bias1.data(), layer1_.data(), inputs, hidden, true);
    forward<<<blocks(batch * hidden), 256, 0, stream_>>>(
        layer1_.data(), weights2.data(), bias2.data(), layer2_.data(), hidden, hidden, true);
    forward<<<blocks(batch * classes), 256, 0, stream_>>>(
        layer2_.data(), weights3.data(), bias3.data(), logits_.data(), hidden, classes, false);
    cross_entropy<<<blocks(batch), 256, 0, stream_>>>(logits_.data(), labels_.data(),
                                                      by_logits_.data(), losses_.data());
  }
  void differentiate() {
    backward_weights<<<blocks(classes * hidden), 256, 0, stream_>>>(
        layer2_.data(), by_logits_.data(), by_weights3.data(), by_bias3.data(), hidden, classes);
    backward_input<<<blocks(batch * hidden), 256, 0, stream_>>>(
        layer2_.data(), weights3.data(), by_logits_.data(), by_layer2_.data(), hidden, classes);
    backward_weights<<<blocks(hidden * hidden), 256, 0, stream_>>>(
        layer1_.data(), by_layer2_.data(), by_weights2.data(), by_bias2.data(), hidden, hidden);
    backward_input<<<blocks(batch * hidden), 256, 0, stream_>>>(
        layer1_.data(), weights2.data(), by_layer2_.data(), by_layer1_.data(), hidden, hidden);
    backward_weights<<<blocks(hidden * inputs), 256, 0, stream_>>>(
        points_.data(), by_layer1_.data(), by_weights1.data(), by_bias1.data(), inputs, hidden);
  }
  [[nodiscard]] double loss() const {
    double sum = 0;
    for (const float one : losses_.download()) sum += one;
    return sum / batch;
  }
  [[nodiscard]] double accuracy(const std::vector<int>& labels) const {
    const auto logits = logits_.download();
    int right = 0;
    for (int k = 0; k < batch; ++k) {
      const float* const row = logits.data() + k * classes;
      int best = 0;
      for (int c = 1; c < classes; ++c) best = row[c] > row[best] ? c : best;
      right += best == labels[static_cast<std::size_t>(k)] ? 1 : 0;
    }
    return static_cast<double>(right) / batch;
  }

 private:
  cudaStream_t stream_;

 public:
  Buffer weights1, bias1, weights2, bias2, weights3, bias3;

 private:
  Buffer points_;
  polyak::cuda::Buffer<int> labels_;
  Buffer layer1_, layer2_, logits_, by_logits_, by_layer2_, by_layer1_, losses_;

 public:
  Buffer by_weights1, by_bias1, by_weights2, by_bias2, by_weights3, by_bias3;
};

int train(const polyak::cuda::Executor& executor, int steps) {
  Random random;
  Network network(executor, random);
  polyak::cuda::Parameters<float> params(executor);
  params.add("hidden1.weight", network.weights1, {hidden, inputs})
      .add("hidden1.bias", network.bias1)
      .add("hidden2.weight", network.weights2, {hidden, hidden})
      .add("hidden2.bias", network.bias2)
      .add("output.weight", network.weights3, {classes, hidden})
      .add("output.bias", network.bias3);
  polyak::AdamW optimizer(params,
                          {.learning_rate = 3e-3, .nonfinite = polyak::Nonfinite::skip_step});
  polyak::Ema ema(params, {.decay = 0.99});
  polyak::cuda::Gradients<float> gradients(params);
  gradients.set("hidden1.weight", network.by_weights1)
      .set("hidden1.bias", network.by_bias1)
      .set("hidden2.weight", network.by_weights2)
      .set("hidden2.bias", network.by_bias2)
      .set("output.weight", network.by_weights3)
      .set("output.bias", network.by_bias3);

  std::vector<float> points, test_points;
  std::vector<int> labels, test_labels;
  sample(random, test_points, test_labels);
  double averaged = 0;
  for (int k = 1; k <= steps; ++k) {
    sample(random, points, labels);
    network.predict(points, labels);
    network.differentiate();
    polyak::step(executor, params, gradients, optimizer, ema);
    if (k % (steps / 10 > 0 ? steps / 10 : 1) != 0) continue;
    network.predict(test_points, test_labels);
    const double last = network.accuracy(test_labels), loss = network.loss();
    {
      const auto guard = ema.swap_into(params);  // the model is the average until the brace
      network.predict(test_points, test_labels);
      averaged = network.accuracy(test_labels);
    }
    std::printf("step %5d   loss %.4f, accuracy %.3f; of the average of the weights %.3f\n", k,
                loss, last, averaged);
  }
  polyak::cuda::settle(executor, optimizer, ema);
  std::printf("%lld steps, %lld skipped, state of %zu bytes\n",
              static_cast<long long>(optimizer.count()),
              static_cast<long long>(optimizer.skipped()),
              optimizer.memory_report().total + ema.memory_report().total);
  return averaged > 0.9 || steps < 500 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  int steps = 2000;
  for (int k = 1; k < count; ++k) {
    if (std::strcmp(arguments[k], "--steps") == 0 && k + 1 < count) {
      steps = std::atoi(arguments[++k]);
    } else {
      std::printf("usage: cuda_mlp [--steps N]\n");
      return std::strcmp(arguments[k], "--help") == 0 ? 0 : 2;
    }
  }
  if (steps < 1) {
    std::fprintf(stderr, "cuda_mlp: --steps must be at least 1\n");
    return 2;
  }
  std::unique_ptr<polyak::cuda::Executor> executor;
  try {
    executor = std::make_unique<polyak::cuda::Executor>();
  } catch (const polyak::cuda::error& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  try {
    return train(*executor, steps);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_mlp: %s\n", error.what());
    return 1;
  }
}
