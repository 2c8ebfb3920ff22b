// SPDX-License-Identifier: Apache-2.0
// The gradient of the language model against central finite differences, in double.
#include "../../examples/char_lm/model.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "../support/catch.hpp"

namespace {

const char_lm::Shape shape{.vocabulary = 7, .context = 3, .embedding = 4, .hidden = 6};

char_lm::Batch random_batch(std::mt19937_64& random, Eigen::Index size) {
  char_lm::Batch batch(shape.context, size);
  const auto character = [&] {
    return static_cast<std::uint8_t>(random() % static_cast<unsigned>(shape.vocabulary));
  };
  for (Eigen::Index i = 0; i < batch.context.size(); ++i) batch.context.data()[i] = character();
  for (auto& target : batch.target) target = character();
  return batch;
}

}  // namespace

TEST_CASE("the model's gradient agrees with finite differences") {
  std::mt19937_64 random(1);
  auto weights = char_lm::initial_weights<double>(shape, random);
  weights.hidden1_bias.setConstant(0.1);
  weights.hidden2_bias.setConstant(-0.2);
  weights.output_bias.setLinSpaced(-0.3, 0.3);
  const auto batch = random_batch(random, 5);
  const double scale = 0.2;

  char_lm::Network<double> network;
  char_lm::Tensors<double> gradient(shape);
  gradient.embedding.setConstant(7);  // must be overwritten
  const double loss = network.loss_and_gradient(weights, batch, scale, gradient);
  REQUIRE(std::abs(loss - scale * network.loss(weights, batch)) < 1e-14);

  std::vector<std::pair<std::string, const double*>> gradients;
  gradient.for_each(
      [&](const char* name, const auto& tensor) { gradients.emplace_back(name, tensor.data()); });
  std::size_t tensor_number = 0;
  weights.for_each([&](const char* name, auto& tensor) {
    INFO(name);
    REQUIRE(gradients[tensor_number].first == name);
    const double* const expected = gradients[tensor_number++].second;
    double worst = 0;
    for (Eigen::Index i = 0; i < tensor.size(); ++i) {
      double& weight = tensor.data()[i];
      const double kept = weight, step = 1e-5;
      weight = kept + step;
      const double above = network.loss(weights, batch);
      weight = kept - step;
      const double below = network.loss(weights, batch);
      weight = kept;
      worst = std::max(worst, std::abs(scale * (above - below) / (2 * step) - expected[i]));
    }
    CHECK(worst < 1e-9);
  });
  REQUIRE(tensor_number == 7);
}

TEST_CASE("an untrained model with zero output weights predicts every character alike") {
  std::mt19937_64 random(2);
  auto weights = char_lm::initial_weights<double>(shape, random);
  weights.output_weight.setZero();
  const auto batch = random_batch(random, 4);
  char_lm::Network<double> network;
  CHECK(std::abs(network.loss(weights, batch) - 4 * std::log(shape.vocabulary)) < 1e-12);
}

TEST_CASE("the gradients of two halves of a batch add up to that of the whole") {
  std::mt19937_64 random(3);
  const auto weights = char_lm::initial_weights<double>(shape, random);
  const auto batch = random_batch(random, 5);
  char_lm::Batch first(shape.context, 2), second(shape.context, 3);
  first.context = batch.context.leftCols(2);
  second.context = batch.context.rightCols(3);
  std::copy(batch.target.begin(), batch.target.begin() + 2, first.target.begin());
  std::copy(batch.target.begin() + 2, batch.target.end(), second.target.begin());

  char_lm::Network<double> network;
  char_lm::Tensors<double> whole(shape), sum(shape), other(shape);
  const double loss = network.loss_and_gradient(weights, batch, 1, whole);
  const double loss1 = network.loss_and_gradient(weights, first, 1, sum);
  const double loss2 = network.loss_and_gradient(weights, second, 1, other);
  sum += other;
  CHECK(std::abs(loss - loss1 - loss2) < 1e-13);
  CHECK((whole.embedding - sum.embedding).norm() < 1e-13);
  CHECK((whole.hidden1_weight - sum.hidden1_weight).norm() < 1e-13);
  CHECK((whole.output_bias - sum.output_bias).norm() < 1e-13);
}
