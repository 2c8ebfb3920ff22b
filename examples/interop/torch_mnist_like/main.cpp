// SPDX-License-Identifier: Apache-2.0
/// @file
/// Trains a small convolutional network of LibTorch to read handwritten digits, with polyak's
/// optimizers and averages beside torch::optim::AdamW. The network has BatchNorm, whose statistics
/// are estimated anew for each average.
///
///   torch_mnist_like                                                  drawn digits
///   torch_mnist_like --train optdigits.tra --test optdigits.tes       those of the UCI repository
///   torch_mnist_like --save ema.safetensors                           the last EMA, for Python
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <polyak/interop/torch.hpp>
#include <polyak/io.hpp>
#include <polyak/polyak.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../../digits/data.hpp"

namespace {

namespace nn = ::torch::nn;
using ::torch::Tensor;
using Estimator = polyak::BatchNormEstimator<float>;

struct Settings {
  std::string train, test, save;
  int seeds = 3, epochs = 10, batch = 64;
};

/// Two convolutions with BatchNorm, and a linear layer.
struct NetImpl : nn::Module {
  NetImpl() {
    first =
        register_module("first", nn::Conv2d(nn::Conv2dOptions(1, 16, 3).padding(1).bias(false)));
    norm1 = register_module("norm1", nn::BatchNorm2d(16));
    second = register_module(
        "second", nn::Conv2d(nn::Conv2dOptions(16, 32, 3).padding(1).stride(2).bias(false)));
    norm2 = register_module("norm2", nn::BatchNorm2d(32));
    output = register_module("output", nn::Linear(32 * 4 * 4, 10));
  }

  /// With an estimator, the inputs of the BatchNorm layers are observed.
  Tensor forward(const Tensor& images, Estimator* estimator = nullptr) {
    Tensor x = first(images);
    if (estimator != nullptr) observe(*estimator, 0, x);
    x = second(::torch::relu(norm1(x)));
    if (estimator != nullptr) observe(*estimator, 1, x);
    return output(::torch::relu(norm2(x)).flatten(1));
  }

  /// Samples x channels, as the estimator wants it: each pixel is a sample.
  static void observe(Estimator& estimator, std::size_t layer, const Tensor& x) {
    using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Tensor rows = x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}).contiguous();
    estimator.observe(layer,
                      Eigen::Map<const Rows>(rows.data_ptr<float>(), rows.size(0), x.size(1)));
  }

  nn::Conv2d first{nullptr}, second{nullptr};
  nn::BatchNorm2d norm1{nullptr}, norm2{nullptr};
  nn::Linear output{nullptr};
};
TORCH_MODULE(Net);

struct Data {
  Tensor images, labels;
};

Data as_tensors(const digits::Digits& digits) {
  Data data{::torch::empty({digits.size(), 1, 8, 8}),
            ::torch::empty({digits.size()}, ::torch::kLong)};
  std::copy_n(digits.pixels.data(), digits.pixels.size(), data.images.data_ptr<float>());
  std::copy(digits.labels.begin(), digits.labels.end(), data.labels.data_ptr<std::int64_t>());
  return data;
}

/// What a network makes of some digits.
struct Score {
  double error = 0;  ///< per cent of them classified wrongly
  double loss = 0;   ///< cross entropy, nats per image
};

Score score(Net net, const Data& data) {
  const ::torch::NoGradGuard no_graph;
  net->eval();
  const Tensor scores = net->forward(data.images);
  const Tensor right = (scores.argmax(1) == data.labels).to(::torch::kDouble).mean();
  net->train();
  return {100 - 100 * right.item<double>(),
          nn::functional::cross_entropy(scores, data.labels).item<double>()};
}

void add_layer(Estimator& estimator, const std::string& name, nn::BatchNorm2d norm) {
  const auto channels = static_cast<std::size_t>(norm->options.num_features());
  estimator.add(name, std::span(norm->running_mean.data_ptr<float>(), channels),
                std::span(norm->running_var.data_ptr<float>(), channels));
}

/// The weights of an average in a network of their own, with BatchNorm statistics estimated for
/// them. `copy_to` writes the average.
template <class CopyTo>
Net averaged_net(const Data& data, const Settings& settings, CopyTo copy_to) {
  Net net;
  polyak::torch::Model model(net);
  copy_to(model.parameters());
  Estimator estimator;
  add_layer(estimator, "norm1", net->norm1);
  add_layer(estimator, "norm2", net->norm2);
  const ::torch::NoGradGuard no_graph;
  net->train();  // as in training, layers are normalized by each batch
  estimator.estimate(data.images.split(settings.batch),
                     [&](const Tensor& images) { net->forward(images, &estimator); });
  return net;
}

/// One run of a seed. `step` makes a training step with the gradients of the network.
template <class Step>
void train(Net net, const Data& data, const Settings& settings, std::uint64_t seed, Step step) {
  ::torch::manual_seed(seed);
  for (int epoch = 0; epoch < settings.epochs; ++epoch) {
    const auto batches = ::torch::randperm(data.images.size(0)).split(settings.batch);
    for (const Tensor& batch : batches) {
      if (batch.size(0) < 2) continue;  // has no variance
      net->zero_grad();
      nn::functional::cross_entropy(net->forward(data.images.index_select(0, batch)),
                                    data.labels.index_select(0, batch))
          .backward();
      step();
    }
  }
}

/// A network whose first weights depend on the seed alone.
Net new_net(std::uint64_t seed) {
  ::torch::manual_seed(seed);
  return Net();
}

class Table {
 public:
  void add(const std::string& name, const Score& score) {
    if (!scores_.contains(name)) names_.push_back(name);
    scores_[name].push_back(score);
  }
  void print() const {
    std::printf("%-44s %9s  %9s\n", "weights", "error %", "loss");
    for (const std::string& name : names_) {
      Score mean;
      for (const Score& one : scores_.at(name)) {
        mean.error += one.error / static_cast<double>(scores_.at(name).size());
        mean.loss += one.loss / static_cast<double>(scores_.at(name).size());
      }
      std::printf("%-44s %9.2f  %9.4f\n", name.c_str(), mean.error, mean.loss);
    }
  }

 private:
  std::vector<std::string> names_;
  std::map<std::string, std::vector<Score>> scores_;
};

/// An optimizer with an EMA behind it.
template <class Optimizer>
void run_with_ema(const std::string& name, Optimizer optimizer, polyak::torch::Model<float>& model,
                  Net net, const Data& data, const Data& test, const Settings& settings,
                  std::uint64_t seed, Table& table) {
  polyak::Ema ema(model.parameters(), {.decay = 0.98});
  train(net, data, settings, seed, [&] { model.step(optimizer, ema); });
  table.add(name, score(net, test));
  {
    const auto guard = ema.swap_into(model.parameters());
    table.add(name + ", EMA, BatchNorm as in training", score(net, test));
  }
  Net averaged = averaged_net(data, settings, [&](const auto& target) { ema.copy_to(target); });
  table.add(name + ", EMA, BatchNorm estimated", score(averaged, test));
  if (!settings.save.empty()) {
    polyak::save_weights(settings.save, polyak::torch::Model(averaged).parameters());
  }
}

void run(const Settings& settings) {
  const bool drawn = settings.train.empty();
  const Data data =
      as_tensors(drawn ? digits::synthetic_digits(4000, 1) : digits::read_digits(settings.train));
  const Data test =
      as_tensors(drawn ? digits::synthetic_digits(2000, 2) : digits::read_digits(settings.test));
  std::printf(
      "%s digits, %d to learn from, %d to test by; %d epochs of batches of %d, %d seeds\n\n",
      drawn ? "Drawn" : "Handwritten", static_cast<int>(data.images.size(0)),
      static_cast<int>(test.images.size(0)), settings.epochs, settings.batch, settings.seeds);
  Table table;
  for (int k = 1; k <= settings.seeds; ++k) {
    const auto seed = static_cast<std::uint64_t>(k);
    {
      Net net = new_net(seed);
      ::torch::optim::AdamW optimizer(net->parameters(),
                                      ::torch::optim::AdamWOptions(2e-3).weight_decay(1e-2));
      train(net, data, settings, seed, [&] { optimizer.step(); });
      table.add("torch::optim::AdamW", score(net, test));
    }
    {
      Net net = new_net(seed);
      polyak::torch::Model model(net);
      run_with_ema("AdamW",
                   polyak::AdamW(model.parameters(), {.learning_rate = 2e-3, .weight_decay = 1e-2}),
                   model, net, data, test, settings, seed, table);
    }
    {
      Net net = new_net(seed);
      polyak::torch::Model model(net);
      polyak::ScheduleFreeAdamW optimizer(
          model.parameters(), {.learning_rate = 5e-3, .warmup_steps = 50, .weight_decay = 1e-2});
      train(net, data, settings, seed, [&] { model.step(optimizer); });
      const auto& params = model.parameters();
      table.add("ScheduleFreeAdamW, BatchNorm estimated",
                score(averaged_net(data, settings,
                                   [&](const auto& target) { optimizer.copy_to(params, target); }),
                      test));
    }
    {
      Net net = new_net(seed);
      polyak::torch::Model model(net);
      run_with_ema("AdEMAMix",
                   polyak::AdEMAMix(model.parameters(), {.learning_rate = 5e-4,
                                                         .beta3 = 0.99,
                                                         .alpha = 2,
                                                         .weight_decay = 1e-2,
                                                         .alpha_warmup = 300,
                                                         .beta3_warmup = 300}),
                   model, net, data, test, settings, seed, table);
    }
  }
  table.print();
  if (!settings.save.empty()) std::printf("\nThe last EMA is in %s\n", settings.save.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Settings settings;
    CLI::App app("Trains a convolutional network of LibTorch with polyak");
    auto* const train = app.add_option("--train", settings.train, "Digits to learn [drawn ones]");
    auto* const test = app.add_option("--test", settings.test, "Digits to be tested by");
    train->needs(test);
    test->needs(train);
    const auto number = [&](const char* name, int& value, const char* what, int low, int high) {
      app.add_option(name, value, what)->capture_default_str()->check(CLI::Range(low, high));
    };
    number("--seeds", settings.seeds, "Seeds, each with four runs", 1, 1000);
    number("--epochs", settings.epochs, "Times that a run sees each digit", 1, 100'000);
    number("--batch", settings.batch, "Digits per batch", 2, 65536);
    app.add_option("--save", settings.save, "File for the last EMA, with its BatchNorm statistics");
    CLI11_PARSE(app, argc, argv);
    ::torch::set_num_threads(1);  // the same sums on every machine
    run(settings);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "torch_mnist_like: %s\n", error.what());
    return 1;
  }
}
