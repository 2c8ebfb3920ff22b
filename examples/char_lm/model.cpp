// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <cmath>

namespace char_lm {
namespace {

double uniform(std::mt19937_64& random) {  // in [0, 1), the same with every standard library
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

// SiLU: x sigmoid(x). Smooth, so that finite differences can check the gradient.
template <typename Matrix>
void activate(const Matrix& sum, Matrix& out) {
  out = sum.array() / (typename Matrix::Scalar(1) + (-sum.array()).exp());
}

// Turns the gradient with respect to SiLU's output into that with respect to its input.
template <typename Matrix>
void activation_backward(const Matrix& sum, const Matrix& out, Matrix& gradient) {
  using Scalar = typename Matrix::Scalar;
  const auto sigmoid = (Scalar(1) + (-sum.array()).exp()).inverse();
  gradient.array() *= out.array() + sigmoid * (Scalar(1) - out.array());
}

}  // namespace

template <typename Scalar>
Tensors<Scalar>::Tensors(const Shape& shape)
    : embedding(Matrix::Zero(shape.embedding, shape.vocabulary)),
      hidden1_weight(Matrix::Zero(shape.hidden, shape.context * shape.embedding)),
      hidden1_bias(Vector::Zero(shape.hidden)),
      hidden2_weight(Matrix::Zero(shape.hidden, shape.hidden)),
      hidden2_bias(Vector::Zero(shape.hidden)),
      output_weight(Matrix::Zero(shape.vocabulary, shape.hidden)),
      output_bias(Vector::Zero(shape.vocabulary)) {}

template <typename Scalar>
Tensors<Scalar>& Tensors<Scalar>::operator+=(const Tensors& other) {
  embedding += other.embedding;
  hidden1_weight += other.hidden1_weight;
  hidden1_bias += other.hidden1_bias;
  hidden2_weight += other.hidden2_weight;
  hidden2_bias += other.hidden2_bias;
  output_weight += other.output_weight;
  output_bias += other.output_bias;
  return *this;
}

template <typename Scalar>
Eigen::Index Tensors<Scalar>::size() {
  Eigen::Index size = 0;
  for_each([&](const char*, const auto& tensor) { size += tensor.size(); });
  return size;
}

template <typename Scalar>
Tensors<Scalar> initial_weights(const Shape& shape, std::mt19937_64& random) {
  Tensors<Scalar> weights(shape);
  const auto fill = [&](auto& matrix, Eigen::Index fan_in) {
    const double bound = std::sqrt(3.0 / static_cast<double>(fan_in));
    for (Eigen::Index i = 0; i < matrix.size(); ++i) {
      matrix.data()[i] = static_cast<Scalar>(bound * (2 * uniform(random) - 1));
    }
  };
  fill(weights.embedding, 1);
  fill(weights.hidden1_weight, weights.hidden1_weight.cols());
  fill(weights.hidden2_weight, weights.hidden2_weight.cols());
  fill(weights.output_weight, weights.output_weight.cols());
  return weights;
}

template <typename Scalar>
Scalar Network<Scalar>::loss(const Tensors<Scalar>& weights, const Batch& batch) {
  forward(weights, batch);
  Scalar loss = 0;
  for (Eigen::Index b = 0; b < batch.size(); ++b) {
    auto column = probability_.col(b).array();  // logits until now
    column -= column.maxCoeff();
    const Scalar logit = column[batch.target[static_cast<std::size_t>(b)]];
    column = column.exp();
    const Scalar sum = column.sum();
    column /= sum;
    loss += std::log(sum) - logit;
  }
  return loss;
}

template <typename Scalar>
Scalar Network<Scalar>::loss_and_gradient(const Tensors<Scalar>& weights, const Batch& batch,
                                          Scalar scale, Tensors<Scalar>& gradient) {
  const Scalar sum_of_losses = loss(weights, batch);
  backward(weights, batch, scale, gradient);
  return scale * sum_of_losses;
}

template <typename Scalar>
void Network<Scalar>::forward(const Tensors<Scalar>& weights, const Batch& batch) {
  const Eigen::Index width = weights.embedding.rows();
  input_.resize(weights.hidden1_weight.cols(), batch.size());
  for (Eigen::Index b = 0; b < batch.size(); ++b) {
    for (Eigen::Index k = 0; k < batch.context.rows(); ++k) {
      input_.col(b).segment(k * width, width) = weights.embedding.col(batch.context(k, b));
    }
  }
  sum1_.noalias() = weights.hidden1_weight * input_;
  sum1_.colwise() += weights.hidden1_bias;
  activate(sum1_, hidden1_);
  sum2_.noalias() = weights.hidden2_weight * hidden1_;
  sum2_.colwise() += weights.hidden2_bias;
  activate(sum2_, hidden2_);
  probability_.noalias() = weights.output_weight * hidden2_;
  probability_.colwise() += weights.output_bias;
}

template <typename Scalar>
void Network<Scalar>::backward(const Tensors<Scalar>& weights, const Batch& batch, Scalar scale,
                               Tensors<Scalar>& gradient) {
  Matrix& d_logits = probability_;  // in place: softmax minus one-hot target
  for (Eigen::Index b = 0; b < batch.size(); ++b) {
    d_logits(batch.target[static_cast<std::size_t>(b)], b) -= Scalar(1);
  }
  d_logits *= scale;
  gradient.output_weight.noalias() = d_logits * hidden2_.transpose();
  gradient.output_bias = d_logits.rowwise().sum();

  d_hidden2_.noalias() = weights.output_weight.transpose() * d_logits;
  activation_backward(sum2_, hidden2_, d_hidden2_);
  gradient.hidden2_weight.noalias() = d_hidden2_ * hidden1_.transpose();
  gradient.hidden2_bias = d_hidden2_.rowwise().sum();

  d_hidden1_.noalias() = weights.hidden2_weight.transpose() * d_hidden2_;
  activation_backward(sum1_, hidden1_, d_hidden1_);
  gradient.hidden1_weight.noalias() = d_hidden1_ * input_.transpose();
  gradient.hidden1_bias = d_hidden1_.rowwise().sum();

  d_input_.noalias() = weights.hidden1_weight.transpose() * d_hidden1_;
  const Eigen::Index width = weights.embedding.rows();
  gradient.embedding.setZero();
  for (Eigen::Index b = 0; b < batch.size(); ++b) {
    for (Eigen::Index k = 0; k < batch.context.rows(); ++k) {
      gradient.embedding.col(batch.context(k, b)) += d_input_.col(b).segment(k * width, width);
    }
  }
}

template struct Tensors<float>;
template struct Tensors<double>;
template Tensors<float> initial_weights(const Shape&, std::mt19937_64&);
template Tensors<double> initial_weights(const Shape&, std::mt19937_64&);
template class Network<float>;
template class Network<double>;

}  // namespace char_lm
