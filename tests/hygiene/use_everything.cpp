// SPDX-License-Identifier: Apache-2.0
// Every method of the list and other classes at work on small problems. Compiled in ways that users
// compile: without exceptions and RTTI, without optimisation, with -ffast-math. Uses no exception
// itself.
#include <Eigen/Core>
#include <polyak/polyak.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <span>
#include <string>

#include "../support/methods.hpp"

namespace {

constexpr int steps = 200;

void check(bool holds, const char* what) {
  if (!holds) {
    std::printf("failed: %s\n", what);
    std::exit(1);
  }
}

/// Minimises half the squared distance of weights from a target, and asks that `train`, called with
/// the parameters, their gradients and a function that computes these, leaves a tenth of it.
template <class Scalar = float, class Train>
void minimise(const char* what, Train train) {
  using Weights = Eigen::Matrix<Scalar, 5, 7>;
  Weights weights, target, gradient;
  std::array<Scalar, 9> bias, bias_gradient;
  for (int i = 0; i < 35; ++i) {
    weights(i) = static_cast<Scalar>(0.125F * static_cast<float>(i));
    target(i) = static_cast<Scalar>(2.0F - 0.0625F * static_cast<float>(i));
  }
  bias.fill(static_cast<Scalar>(1.0F));

  polyak::Parameters<Scalar> params;
  params.add("weights", weights).add("bias", std::span(bias), {3, 3});
  const auto gradients = polyak::like(params, gradient, bias_gradient);
  const auto distance = [&] { return static_cast<double>((weights - target).norm()); };
  const double before = distance();
  train(params, gradients, [&] {
    gradient = weights - target;
    bias_gradient = bias;
  });
  check(distance() < 0.1 * before, what);
}

/// Trains by an optimizer and holds it to its count of steps.
template <class Scalar = float, class Make>
void optimise(const char* what, Make make) {
  minimise<Scalar>(what, [&](const auto& params, const auto& gradients, auto differentiate) {
    auto optimizer = make(params);
    for (int step = 0; step < steps; ++step) {
      differentiate();
      check(optimizer.step(params, gradients), what);
    }
    check(optimizer.count() == steps && optimizer.memory_report().total > 0, what);
  });
}

/// Averages the weights of a training run; the average must be nearer to the target than the start.
template <class Make>
void average(const char* what, Make make) {
  minimise(what, [&](const auto& params, const auto& gradients, auto differentiate) {
    polyak::Sgd sgd(params, {.learning_rate = 0.1, .momentum = 0.5});
    auto average = make(params);
    const auto weight = [&] { return static_cast<double>(params[0].data()[34]); };
    const double before = weight();
    for (int step = 0; step < steps; ++step) {
      differentiate();
      check(polyak::step(params, gradients, sgd, average), what);
    }
    const double trained = weight();
    {
      const auto guard = average.swap_into(params);
      check(weight() != before && weight() != trained, what);
    }
    check(weight() == trained && average.ready(), what);
    check(average.view()["weights"].size() == 35, what);
  });
}

/// A weighting of the user's own: half of every second step.
struct EveryOther {
  double gain(std::int64_t t) const { return t % 2 == 0 ? 0.5 : 0.0; }
  double complement(std::int64_t t) const { return 1 - gain(t); }
};

/// Runs one method of the list: an optimizer, or an average behind one. Their options are chosen
/// for other tests, so that here the weights only have to come nearer to the target.
template <class M>
void use(const char* name, const std::function<M(const polyak::Parameters<float>&)>& make) {
  std::array<float, 35> weights, gradient;
  weights.fill(1.0F);
  polyak::Parameters<float> params;
  params.add("weights", weights);
  const auto gradients = polyak::like(params, gradient);
  const auto distance = [&] {
    float sum = 0;
    for (const float weight : weights) sum += std::abs(weight - 0.25F);
    return sum / static_cast<float>(weights.size());
  };
  M method = make(params);
  polyak::Sgd sgd(params, {.learning_rate = 0.1});
  for (int step = 0; step < steps; ++step) {
    for (std::size_t k = 0; k < weights.size(); ++k) gradient[k] = weights[k] - 0.25F;
    if constexpr (M::trains) {
      check(method.step(params, gradients), name);
    } else {
      check(polyak::step(params, gradients, sgd, method), name);
    }
  }
  check(distance() < 0.7F, name);
  check(method.count() > 0 && method.memory_report().total >= method.slots().count(), name);
  if constexpr (requires { method.swap_into(params, polyak::or_current); }) {
    const auto trained = weights;
    {
      const auto guard = method.swap_into(params, polyak::or_current);
      check(distance() < 0.7F, name);
    }
    check(weights == trained, name);
  }
}

void use_methods() {
  methods::for_each<float>([](const methods::Method& method, auto make) {
    use<methods::made_t<float, decltype(make)>>(std::string(method.name).c_str(), make);
  });
}

void use_optimizers() {
  optimise("Sgd", [](const auto& params) {
    return polyak::Sgd(params, {.learning_rate = 0.1, .momentum = 0.9, .nesterov = true});
  });
  optimise<double>("AdamW of double", [](const auto& params) {
    return polyak::AdamW(params, {.learning_rate = 0.05});
  });
  optimise<Eigen::half>("AdamW of half", [](const auto& params) {
    return polyak::AdamW(params, {.learning_rate = 0.05});
  });
  optimise<Eigen::bfloat16>("AdamW of bfloat16", [](const auto& params) {
    return polyak::AdamW(params, {.learning_rate = 0.05});
  });
}

void use_averages() {
  average("Ema", [](const auto& params) { return polyak::Ema(params, {.decay = 0.9}); });
#if !defined(__FAST_MATH__)
  average("Ema with compensation", [](const auto& params) {
    return polyak::Ema(params, {.decay = 0.9, .accumulate = polyak::Accumulate::kahan});
  });
#endif
  average("Ema in double", [](const auto& params) {
    return polyak::Ema(params, {.decay = 0.9, .accumulate = polyak::Accumulate::float64});
  });
  average("Ema of bfloat16", [](const auto& params) {
    return polyak::Ema<float, Eigen::bfloat16>(
        params, {.decay = 0.9, .accumulate = polyak::Accumulate::stochastic});
  });
  average("Ema of half, rounded to nearest", [](const auto& params) {
    return polyak::Ema<float, Eigen::half>(params, {.decay = 0.9});
  });
  average("Average of an own weighting",
          [](const auto& params) { return polyak::Average(params, EveryOther{}); });
}

void use_posthoc() {
  minimise("PosthocEma", [](const auto& params, const auto& gradients, auto differentiate) {
    polyak::AdamW adamw(params, {.learning_rate = 0.05});
    polyak::PowerEma sharp(params, {.sigma_rel = 0.05});
    polyak::PowerEma smooth(params, {.sigma_rel = 0.10});
    polyak::PosthocEma<float> posthoc;
    for (int step = 1; step <= steps; ++step) {
      differentiate();
      polyak::step(params, gradients, adamw, sharp, smooth);
      if (step % 20 == 0) posthoc.snapshot(sharp, smooth);
    }
    const auto solution = posthoc.solve({.sigma_rel = 0.07});
    check(solution.residual < 0.1, "PosthocEma");
    posthoc.reconstruct(solution, params);
  });
}

void use_average_n() {
  std::array<float, 70> first, second, sum;
  first.fill(1.0F);
  second.fill(3.0F);
  const polyak::FlushDenormals guard;
  polyak::average_n(sum, std::array{first.data(), second.data()}, std::array{0.25, 0.75});
  check(sum[0] == 2.5F && sum[69] == 2.5F, "average_n");
}

void use_functions() {
  check(std::abs(polyak::decay_from_half_life(polyak::half_life(0.99)) - 0.99) < 1e-12,
        "conversions");
  check(polyak::linear_warmup(0, 10) == 0.1, "linear_warmup");
  check(polyak::cosine(0, {.total_steps = 100}) == 1.0, "cosine");
  check(polyak::constant_with_cooldown(0, {.total_steps = 100, .cooldown_fraction = 0.2}) == 1.0,
        "constant_with_cooldown");
}

}  // namespace

int main() {
  use_methods();
  use_optimizers();
  use_averages();
  use_posthoc();
  use_average_n();
  use_functions();
}
