// SPDX-License-Identifier: Apache-2.0
/// @file
/// Optimizers and averages on a whole problem: softmax regression, which is convex, trained with
/// small batches. Once on a built-in problem, and on handwritten digits if their file is available
/// (the folder in the environment variable POLYAK_TEST_DATA).
#include <polyak/polyak.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "methods.hpp"
#include "numbers.hpp"

namespace convergence_test {

namespace {

struct Classification {
  Eigen::MatrixXf inputs;  // a column per sample
  std::vector<int> labels;
  int classes = 0;
};

/// Five classes around random centres in twelve dimensions, with enough noise that they overlap.
Classification clusters() {
  constexpr int samples = 2000, features = 12, classes = 5;
  RandomNumbers random(1);
  Eigen::MatrixXf centres(features, classes);
  random.fill(centres.reshaped());
  Classification data{Eigen::MatrixXf(features, samples), {}, classes};
  for (int i = 0; i < samples; ++i) {
    const int label = i % classes;
    data.labels.push_back(label);
    for (int k = 0; k < features; ++k) {
      const double noise = random() + random() + random();
      data.inputs(k, i) = centres(k, label) + static_cast<float>(noise);
    }
  }
  return data;
}

/// Handwritten digits, 8x8 counts 0 .. 16 and a label per line: the UCI data set "Optical
/// Recognition of Handwritten Digits".
std::optional<Classification> digits() {
  std::string folder;
  if (const char* given = std::getenv("POLYAK_TEST_DATA")) folder = given;
  std::ifstream file(folder + "/optdigits.tra");
  std::vector<float> pixels;
  Classification data{{}, {}, 10};
  for (std::string line; std::getline(file, line);) {
    std::stringstream fields(line);
    std::vector<int> numbers;
    for (std::string field; std::getline(fields, field, ',');) numbers.push_back(std::stoi(field));
    REQUIRE(numbers.size() == 65);
    for (std::size_t k = 0; k < 64; ++k) pixels.push_back(static_cast<float>(numbers[k]) / 16);
    data.labels.push_back(numbers[64]);
  }
  if (data.labels.empty()) return std::nullopt;
  data.inputs = Eigen::Map<const Eigen::MatrixXf>(pixels.data(), 64,
                                                  static_cast<Eigen::Index>(data.labels.size()));
  return data;
}

/// Softmax regression from zero weights, with a random batch at a time.
class Model {
 public:
  polyak::Parameters<float> params;

  explicit Model(const Classification& data)
      : data_(data),
        weight_(Eigen::MatrixXf::Zero(data.classes, data.inputs.rows())),
        weight_gradient_(weight_),
        bias_(Eigen::VectorXf::Zero(data.classes)),
        bias_gradient_(bias_),
        engine_(7) {
    params.add("weight", weight_).add("bias", bias_);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  polyak::Gradients<float> grads() const {
    return polyak::like(params, weight_gradient_, bias_gradient_);
  }

  /// The gradient of a batch of 8.
  void backward() {
    weight_gradient_.setZero();
    bias_gradient_.setZero();
    constexpr int batch = 8;
    for (int k = 0; k < batch; ++k) {
      const auto i = static_cast<Eigen::Index>(engine_() % data_.labels.size());
      Eigen::VectorXf error = probabilities(i);
      error[data_.labels[static_cast<std::size_t>(i)]] -= 1;
      error /= batch;
      weight_gradient_ += error * data_.inputs.col(i).transpose();
      bias_gradient_ += error;
    }
  }

  /// Mean cross-entropy over all samples.
  double loss() const {
    double sum = 0;
    for (std::size_t i = 0; i < data_.labels.size(); ++i) {
      sum -= std::log(
          static_cast<double>(probabilities(static_cast<Eigen::Index>(i))[data_.labels[i]]));
    }
    return sum / static_cast<double>(data_.labels.size());
  }

  /// The loss with an average in the place of the weights.
  template <class Average>
  double loss_of(Average& average) {
    const auto guard = average.swap_into(params);
    return loss();
  }

 private:
  Eigen::VectorXf probabilities(Eigen::Index i) const {
    const Eigen::VectorXf logits = weight_ * data_.inputs.col(i) + bias_;
    const Eigen::VectorXf powers = (logits.array() - logits.maxCoeff()).exp();
    return powers / powers.sum();
  }

  const Classification& data_;
  Eigen::MatrixXf weight_, weight_gradient_;
  Eigen::VectorXf bias_, bias_gradient_;
  std::mt19937 engine_;
};

constexpr int steps = 2000;

/// Trains with warmup and cosine schedule; returns the loss in the end.
template <class Optimizer, class Options>
double trained_loss(const Classification& data, const Options& options) {
  Model model(data);
  const auto grads = model.grads();
  Optimizer optimizer(model.params, options);
  for (int n = 0; n < steps; ++n) {
    model.backward();
    const double factor = polyak::cosine(n, {.total_steps = steps, .warmup_steps = 20});
    optimizer.at(options.learning_rate * factor).step(model.params, grads);
  }
  return model.loss();
}

/// Losses of the model, its base iterate and its average after training at a constant rate.
struct ScheduleFreeLosses {
  double y, z, x;
};
template <class Optimizer, class Options>
ScheduleFreeLosses schedule_free_losses(const Classification& data, const Options& options) {
  Model model(data);
  const auto grads = model.grads();
  Optimizer optimizer(model.params, options);
  for (int n = 0; n < steps; ++n) {
    model.backward();
    optimizer.step(model.params, grads);
  }
  ScheduleFreeLosses losses{model.loss(), 0, model.loss_of(optimizer)};
  const auto z = optimizer.slot("z");
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    std::copy(z[k].begin(), z[k].end(), model.params[k].data());
  }
  losses.z = model.loss();
  return losses;
}

/// Every optimizer must come down to a loss below `reached`.
void check_optimizers(const Classification& data, double reached) {
  using namespace polyak;
  std::set<std::string> checked;
  const auto check = [&](const std::string& name, double loss) {
    INFO(name << " reached a loss of " << loss);
    CHECK(loss < reached);
    checked.insert(name.substr(0, name.find(' ')));
  };
  check("Sgd", trained_loss<Sgd<float>>(data, SgdOptions{.learning_rate = 0.5}));
  check("Sgd with momentum",
        trained_loss<Sgd<float>>(data, SgdOptions{.learning_rate = 0.05, .momentum = 0.9}));
  check("Sgd with Nesterov momentum",
        trained_loss<Sgd<float>>(
            data, SgdOptions{.learning_rate = 0.05, .momentum = 0.9, .nesterov = true}));
  check("AdamW", trained_loss<AdamW<float>>(
                     data, AdamWOptions{.learning_rate = 0.02, .weight_decay = 1e-3}));
  check("Adam with AMSGrad",
        trained_loss<Adam<float>>(data, AdamOptions{.learning_rate = 0.02, .amsgrad = true}));
  check("AdEMAMix", trained_loss<AdEMAMix<float>>(data, AdEMAMixOptions{.learning_rate = 0.01,
                                                                        .beta3 = 0.99,
                                                                        .alpha = 2,
                                                                        .alpha_warmup = steps,
                                                                        .beta3_warmup = steps}));
  check("Lion", trained_loss<Lion<float>>(data, LionOptions{.learning_rate = 0.003}));
  check("ScheduleFreeSgd", schedule_free_losses<ScheduleFreeSgd<float>>(
                               data, ScheduleFreeSgdOptions{.learning_rate = 1, .warmup_steps = 20})
                               .x);
  check("ScheduleFreeAdamW",
        schedule_free_losses<ScheduleFreeAdamW<float>>(
            data, ScheduleFreeAdamWOptions{.learning_rate = 0.02, .warmup_steps = 20})
            .x);
  const auto listed = [&](const methods::Method& method, const auto&) {
    INFO("there is no check above of " << method.title());
    CHECK(checked.contains(std::string(method.title())));
  };
  methods::for_each_optimizer<float>(listed);
  methods::for_each_schedule_free<float>(listed);
}

/// At a constant rate the weights jump about; every average is closer to the minimum.
void check_averages(const Classification& data, double learning_rate, double factor) {
  using namespace polyak;
  Model model(data);
  const auto grads = model.grads();
  Sgd optimizer(model.params, {.learning_rate = learning_rate, .momentum = 0.9});
  Ema ema(model.params, {.decay = 0.99});
  Swa swa(model.params, {.start = steps / 2});
  PowerEma sharp(model.params, {.sigma_rel = 0.05}), smooth(model.params, {.sigma_rel = 0.1});
  PosthocEma<float> posthoc;
  for (int n = 1; n <= steps; ++n) {
    model.backward();
    polyak::step(model.params, grads, optimizer, ema, swa, sharp, smooth);
    if (n % (steps / 8) == 0) posthoc.snapshot(sharp, smooth);
  }
  const double raw = model.loss();
  const auto check = [&](const std::string& name, double loss) {
    INFO(name << " has a loss of " << loss << ", the weights have " << raw);
    CHECK(loss < factor * raw);
  };
  check("Ema", model.loss_of(ema));
  check("Swa", model.loss_of(swa));
  check("PowerEma 0.05", model.loss_of(sharp));
  check("PowerEma 0.10", model.loss_of(smooth));
  CHECK(model.loss() == raw);  // the guards restored the weights
  posthoc.reconstruct(posthoc.solve({.sigma_rel = 0.15}), model.params);
  check("the width 0.15 after training", model.loss());
}

void check_schedule_free(const Classification& data, double factor) {
  using namespace polyak;
  const auto check = [&](const std::string& name, const ScheduleFreeLosses& losses) {
    INFO(name << ": x " << losses.x << ", y " << losses.y << ", z " << losses.z);
    CHECK(losses.x < factor * losses.z);
    CHECK(losses.y < losses.z);
  };
  check("SGD", schedule_free_losses<ScheduleFreeSgd<float>>(
                   data, ScheduleFreeSgdOptions{.learning_rate = 1, .warmup_steps = 20}));
  check("AdamW", schedule_free_losses<ScheduleFreeAdamW<float>>(
                     data, ScheduleFreeAdamWOptions{.learning_rate = 0.05, .warmup_steps = 20}));
}

}  // namespace

TEST_CASE("every optimizer solves a convex problem", "[convergence]") {
  check_optimizers(clusters(), 0.69);  // the minimum is 0.674, the start ln 5 = 1.61
}

TEST_CASE("averages are better than the noisy weights", "[convergence]") {
  const Classification data = clusters();
  check_averages(data, 0.1, 0.85);
  check_schedule_free(data, 0.6);
}

TEST_CASE("optimizers and averages classify handwritten digits", "[convergence]") {
  const auto data = digits();
  if (!data) {
    WARN("skipped: there is no optdigits.tra; name its folder in POLYAK_TEST_DATA");
    return;
  }
  check_optimizers(*data, 0.15);  // the start is ln 10 = 2.30
  check_averages(*data, 0.2, 0.9);
  check_schedule_free(*data, 0.8);
}

}  // namespace convergence_test
