// SPDX-License-Identifier: Apache-2.0
/// @file
/// One hidden layer, with its gradient by hand. For the images X, one per column:
///
///   S = W1 X + b1      H = max(S, 0)      P = softmax(W2 H + b2)      loss = -mean log P(label)
///   dZ = (P - one-hot) / size   dW2 = dZ H'   db2 = dZ 1   dS = [S > 0] (W2' dZ)   dW1 = dS X' ...
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <span>

#include "data.hpp"

namespace digits {

/// The network's tensors: one object holds the weights, another their gradients.
struct Tensors {
  Eigen::MatrixXf hidden_weight, output_weight;
  Eigen::VectorXf hidden_bias, output_bias;

  /// All zero.
  explicit Tensors(Eigen::Index hidden)
      : hidden_weight(Eigen::MatrixXf::Zero(hidden, pixel_count)),
        output_weight(Eigen::MatrixXf::Zero(class_count, hidden)),
        hidden_bias(Eigen::VectorXf::Zero(hidden)),
        output_bias(Eigen::VectorXf::Zero(class_count)) {}

  Eigen::Index size() const {
    return hidden_weight.size() + hidden_bias.size() + output_weight.size() + output_bias.size();
  }
};

/// Draws weights uniformly with variance 2 / fan-in ("Delving Deep into Rectifiers", arXiv
/// 1502.01852); the biases stay zero.
inline void draw_weights(Tensors& weights, Random& random) {
  for (Eigen::MatrixXf* matrix : {&weights.hidden_weight, &weights.output_weight}) {
    const double bound = std::sqrt(6 / static_cast<double>(matrix->cols()));
    for (float& weight : matrix->reshaped()) {
      weight = static_cast<float>(random.uniform(-bound, bound));
    }
  }
}

/// The results of a network for some images.
struct Score {
  double error = 0;  ///< per cent of them classified wrongly
  double loss = 0;   ///< cross entropy, nats per image
};

/// Forward and backward pass; keeps its intermediate matrices from one call to the next.
class Network {
 public:
  /// Writes the gradient of the mean loss.
  void gradient_of_loss(const Tensors& weights, const Eigen::MatrixXf& pixels,
                        std::span<const int> labels, Tensors& gradient) {
    forward(weights, pixels);
    for (Eigen::Index b = 0; b < pixels.cols(); ++b) {
      auto column = output_.col(b);
      column = (column.array() - column.maxCoeff()).exp();
      column /= column.sum();
      column[labels[static_cast<std::size_t>(b)]] -= 1;
    }
    output_ /= static_cast<float>(pixels.cols());
    gradient.output_weight.noalias() = output_ * hidden_.transpose();
    gradient.output_bias = output_.rowwise().sum();
    d_hidden_.noalias() = weights.output_weight.transpose() * output_;
    d_hidden_.array() *= (hidden_.array() > 0).cast<float>();
    gradient.hidden_weight.noalias() = d_hidden_ * pixels.transpose();
    gradient.hidden_bias = d_hidden_.rowwise().sum();
  }

  /// Error and mean loss over all images.
  Score score(const Tensors& weights, const Digits& digits) {
    forward(weights, digits.pixels);
    Score sum;
    for (Eigen::Index b = 0; b < digits.size(); ++b) {
      const int label = digits.labels[static_cast<std::size_t>(b)];
      Eigen::Index answer = 0;
      const float highest = output_.col(b).maxCoeff(&answer);
      sum.error += answer == label ? 0 : 100;
      sum.loss +=
          std::log((output_.col(b).array() - highest).exp().sum()) - (output_(label, b) - highest);
    }
    const auto count = static_cast<double>(digits.size());
    return {sum.error / count, sum.loss / count};
  }

 private:
  void forward(const Tensors& weights, const Eigen::MatrixXf& pixels) {
    hidden_.noalias() = weights.hidden_weight * pixels;
    hidden_.colwise() += weights.hidden_bias;
    hidden_ = hidden_.cwiseMax(0.0f);
    output_.noalias() = weights.output_weight * hidden_;
    output_.colwise() += weights.output_bias;
  }

  Eigen::MatrixXf hidden_, output_, d_hidden_;  // one column per image
};

}  // namespace digits
