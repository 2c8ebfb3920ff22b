// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <random>
#include <vector>

namespace char_lm {

/// Sizes of the network.
struct Shape {
  int vocabulary = 0;  ///< distinct characters
  int context = 16;    ///< characters that predict the next one
  int embedding = 24;  ///< numbers per character
  int hidden = 256;    ///< units in each of the two hidden layers
};

/// The network's tensors; one object holds the weights, others of the same shape gradients.
template <typename Scalar>
struct Tensors {
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

  Matrix embedding;  ///< one column per character
  Matrix hidden1_weight;
  Vector hidden1_bias;
  Matrix hidden2_weight;
  Vector hidden2_bias;
  Matrix output_weight;
  Vector output_bias;

  /// All zero.
  explicit Tensors(const Shape& shape);

  /// Calls `visit(name, tensor)` for each tensor.
  template <typename Visitor>
  void for_each(Visitor&& visit) {
    visit("embedding", embedding);
    visit("hidden1.weight", hidden1_weight);
    visit("hidden1.bias", hidden1_bias);
    visit("hidden2.weight", hidden2_weight);
    visit("hidden2.bias", hidden2_bias);
    visit("output.weight", output_weight);
    visit("output.bias", output_bias);
  }

  Tensors& operator+=(const Tensors& other);

  /// Number of scalars.
  Eigen::Index size();
};

/// Weights drawn uniformly with variance 1 / fan-in; biases zero.
template <typename Scalar>
Tensors<Scalar> initial_weights(const Shape& shape, std::mt19937_64& random);

/// Windows of text: column b of `context` predicts `target[b]`.
struct Batch {
  Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic> context;
  std::vector<std::uint8_t> target;

  Batch(Eigen::Index context_length, Eigen::Index size)
      : context(context_length, size), target(static_cast<std::size_t>(size)) {}

  Eigen::Index size() const { return context.cols(); }

  void resize(Eigen::Index size) {
    context.resize(Eigen::NoChange, size);
    target.resize(static_cast<std::size_t>(size));
  }
};

/// Forward and backward pass; keeps its intermediate matrices from one call to the next.
template <typename Scalar>
class Network {
 public:
  /// Cross-entropy in nats, summed over the batch.
  Scalar loss(const Tensors<Scalar>& weights, const Batch& batch);

  /// The same, and its gradient (overwritten, not added to), both times `scale`.
  Scalar loss_and_gradient(const Tensors<Scalar>& weights, const Batch& batch, Scalar scale,
                           Tensors<Scalar>& gradient);

 private:
  using Matrix = typename Tensors<Scalar>::Matrix;
  void forward(const Tensors<Scalar>& weights, const Batch& batch);
  void backward(const Tensors<Scalar>& weights, const Batch& batch, Scalar scale,
                Tensors<Scalar>& gradient);

  Matrix input_, sum1_, hidden1_, sum2_, hidden2_, probability_;  // one column per window
  Matrix d_input_, d_hidden1_, d_hidden2_;
};

}  // namespace char_lm
