// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options of optimizers from the names and defaults of the reference implementations.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "json.hpp"
#include "library.hpp"

namespace golden {

/// The decay rates of moments: `betas`, or `beta1` and `beta2`, each with a default.
[[nodiscard]] inline std::vector<double> betas_of(const Section& from,
                                                  std::vector<double> defaults) {
  if (from.has("betas")) {
    auto betas = from.numbers("betas");
    if (betas.size() != defaults.size()) {
      throw Malformed(from.path("betas") + " must have " + std::to_string(defaults.size()) +
                      " entries");
    }
    return betas;
  }
  for (std::size_t i = 0; i < defaults.size(); ++i) {
    defaults[i] = from.number("beta" + std::to_string(i + 1), defaults[i]);
  }
  return defaults;
}

/// What every method with a second moment reads in the same way; epsilon 0 must be allowed.
template <class Options>
void read_epsilon(const Section& from, Options& options) {
  options.epsilon = from.number("eps", 1e-8);
  options.allow_zero_epsilon = options.epsilon == 0;
}

[[nodiscard]] inline polyak::SgdOptions sgd_options(const Section& from) {
  polyak::SgdOptions options;
  options.learning_rate = from.number("lr");
  options.momentum = from.number("momentum", 0);
  options.dampening = from.number("dampening", 0);
  options.nesterov = from.flag("nesterov", false);
  options.coupled_weight_decay = from.number("weight_decay", 0);
  options.weight_decay = from.number("weight_decay_decoupled", 0);
  return options;
}

/// Adam with its coupled decay.
[[nodiscard]] inline polyak::AdamOptions adam_options(const Section& from, bool amsgrad = false) {
  polyak::AdamOptions options;
  options.learning_rate = from.number("lr", 1e-3);
  const auto betas = betas_of(from, {0.9, 0.999});
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.epsilon = from.number("eps", 1e-8);
  options.coupled_weight_decay = from.number("weight_decay", 0);
  options.amsgrad = from.flag("amsgrad", amsgrad);
  return options;
}

/// The same with the options that only AdamW has, and without decay.
[[nodiscard]] inline polyak::AdamWOptions adamw_options(const Section& from, bool amsgrad = false) {
  polyak::AdamWOptions options;
  options.learning_rate = from.number("lr", 1e-3);
  const auto betas = betas_of(from, {0.9, 0.999});
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  read_epsilon(from, options);
  options.amsgrad = from.flag("amsgrad", amsgrad);
  options.bias_correction = from.flag("bias_correction", true);
  options.epsilon_before_correction = from.flag("eps_before_correction", false);
  options.weight_decay = 0;
  return options;
}

}  // namespace golden
