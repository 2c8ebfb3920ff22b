// SPDX-License-Identifier: Apache-2.0
/// @file
/// A training run by SGD with momentum, followed by any number of averages.
///
///   constant: rate(i) = a1
///   cyclic:   rate(i) = (1 - u) a1 + u a2,   u = ((i - 1) mod c + 1) / c
///
/// "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407), which
/// collects the weights where i mod c = 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <polyak/polyak.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data.hpp"
#include "network.hpp"

namespace digits {

/// The settings of the command line.
struct Settings {
  std::string train, test;  ///< files; empty: synthetic digits
  int seeds = 5, epochs = 15, batch = 32, hidden = 32;
  double learning_rate = 0.15;  ///< a1
  double final_rate = 0.005;    ///< a2
  double momentum = 0.9;
  std::int64_t cycle = 0;      ///< c in iterations; 0: as many as an epoch has
  double swa_start = 0.5;      ///< part of the run after which SWA collects
  double tail = 0.25;          ///< part of the run that the tail average takes
  double decay = 0.998;        ///< of Ema
  double switch_decay = 0.98;  ///< of SwitchEma
};

/// The learning rate of iteration i = 1, 2, ...
struct Schedule {
  bool cyclic;
  double first, last;
  std::int64_t cycle;

  double at(std::int64_t iteration) const {
    return cyclic ? polyak::swa_cyclic(iteration, {first, last, cycle}) : first;
  }
};

inline polyak::Parameters<float> register_tensors(Tensors& weights) {
  polyak::Parameters<float> parameters;  // views, in the order that polyak::like takes below
  parameters.add("hidden.weight", weights.hidden_weight)
      .add("hidden.bias", weights.hidden_bias)
      .add("output.weight", weights.output_weight)
      .add("output.bias", weights.output_bias);
  return parameters;
}

/// A network in training. The seed decides the first weights and the batches, and nothing else
/// does: runs of one seed see the same.
class Training {
 public:
  Training(const Digits& data, const Settings& settings, const Schedule& schedule,
           std::uint64_t seed)
      : data_(data),
        schedule_(schedule),
        random_(seed),
        weights_(settings.hidden),
        gradient_(settings.hidden),
        batch_(pixel_count, settings.batch),
        labels_(static_cast<std::size_t>(settings.batch)),
        order_(data.labels.size()),
        parameters_(register_tensors(weights_)),
        gradients_(polyak::like(parameters_, gradient_.hidden_weight, gradient_.hidden_bias,
                                gradient_.output_weight, gradient_.output_bias)),
        optimizer_(parameters_, {.learning_rate = schedule.first, .momentum = settings.momentum}) {
    draw_weights(weights_, random_);
    std::iota(order_.begin(), order_.end(), Eigen::Index{0});
  }
  Training(const Training&) = delete;  // the lists below view this object's memory
  Training& operator=(const Training&) = delete;

  const polyak::Parameters<float>& parameters() const { return parameters_; }

  /// Takes all images once, in a new order, except images that do not fill a batch.
  template <class... Averages>
  void epoch(Averages&... averages) {
    for (std::size_t k = order_.size(); k > 1; --k) {
      std::swap(order_[k - 1], order_[random_.below(k)]);
    }
    for (std::size_t first = 0; first + labels_.size() <= order_.size(); first += labels_.size()) {
      for (std::size_t b = 0; b < labels_.size(); ++b) {
        const Eigen::Index image = order_[first + b];
        batch_.col(static_cast<Eigen::Index>(b)) = data_.pixels.col(image);
        labels_[b] = data_.labels[static_cast<std::size_t>(image)];
      }
      network_.gradient_of_loss(weights_, batch_, labels_, gradient_);
      polyak::step(parameters_, gradients_, optimizer_.at(schedule_.at(++iteration_)),
                   averages...);  // one pass
    }
  }

  /// Of the weights as they are.
  Score score(const Digits& test) { return network_.score(weights_, test); }

  /// Of an average of them; the network has its own weights again afterwards.
  template <class Average>
  Score score(const Digits& test, Average& average) {
    const auto guard = average.swap_into(parameters_);
    return score(test);
  }

 private:
  const Digits& data_;
  Schedule schedule_;
  Random random_;
  Network network_;
  Tensors weights_, gradient_;
  Eigen::MatrixXf batch_;
  std::vector<int> labels_;
  std::vector<Eigen::Index> order_;
  std::int64_t iteration_ = 0;
  polyak::Parameters<float> parameters_;
  polyak::Gradients<float> gradients_;
  polyak::Sgd<float> optimizer_;
};

}  // namespace digits
