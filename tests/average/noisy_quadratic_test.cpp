// SPDX-License-Identifier: Apache-2.0
// The variance of each average of SGD on a noisy quadratic, against its closed form.
//
//   x <- x - rate (a x + noise)       rho = 1 - rate a,   Var x = v = rate^2 s^2 / (1 - rho^2)
//   Cov(x_t, x_s) = v rho^|t-s|       Var(sum_t w_t x_t) = v sum_ts w_t w_s rho^|t-s|
//
// Elements are independent copies, so their mean square is the variance.
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/tail.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/optim/sgd.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "catch.hpp"

namespace noisy_quadratic_test {

using namespace polyak;

namespace {

constexpr std::size_t copies = 20000;
constexpr std::int64_t steps = 120;
constexpr double rate = 0.1, curvature = 1.5, noise = 0.8;
constexpr double rho = 1 - rate * curvature;
const double stationary = rate * rate * noise * noise / (1 - rho * rho);

/// Normal numbers, the same on every platform to rounding.
class Normal {
 public:
  double operator()() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  std::mt19937_64 engine_{11};
};

/// v sum w_t w_s rho^|t-s| of the weights of x_0, x_1, ..., x_steps.
double closed_form(const std::vector<double>& weights) {
  double sum = 0;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    for (std::size_t s = 0; s < weights.size(); ++s) {
      sum += weights[t] * weights[s] *
             std::pow(rho, std::abs(static_cast<double>(t) - static_cast<double>(s)));
    }
  }
  return stationary * sum;
}

std::vector<double> equal(std::initializer_list<std::int64_t> calls) {
  std::vector<double> weights(steps + 1, 0.0);
  for (const std::int64_t t : calls)
    weights[static_cast<std::size_t>(t)] = 1 / static_cast<double>(calls.size());
  return weights;
}

double mean_square(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("averages of SGD on a noisy quadratic have the variance of their profile") {
  Normal normal;
  std::vector<double> x(copies), gradient(copies), read(copies);
  for (double& value : x) value = std::sqrt(stationary) * normal();
  Parameters<double> params, target;
  params.add("x", std::span(x));
  target.add("x", std::span(read));
  auto gradients = like(params, gradient);

  Sgd<double> sgd(params, {.learning_rate = rate});
  Swa<double> swa(params);
  EmaBank<double, 2> bank(params, {0.9, 0.97});
  Ema<double> debiased(params, {.decay = 0.97, .start = Start::zero_debiased});
  PowerEma<double> power(params, {.gamma = 3});
  Average<double, PolynomialWeighting> polynomial(params, PolynomialWeighting{8});
  SampleEma<double> samples(params, {.half_life = 256, .batch_size = 32});
  Tail<double> tail(params, {.start = 91});
  WindowAverage<double> window(params, {.horizon = 20, .interval = 5, .blocks = 2});
  Lawa<double> lawa(params, {.checkpoints = 4, .period = 10});
  for (std::int64_t t = 0; t < steps; ++t) {
    for (std::size_t i = 0; i < copies; ++i) gradient[i] = curvature * x[i] + noise * normal();
    step(params, gradients, sgd, swa, bank, debiased, power, polynomial, samples, tail, window,
         lawa);
  }

  // A mean of squares of n normal numbers errs by sqrt(2/n) of it.
  const double allowed = 5 * std::sqrt(2.0 / copies);
  const auto check = [&](const std::string& name, const std::vector<double>& weights, auto write) {
    INFO(name);
    write();
    const double expected = closed_form(weights);
    CHECK(std::fabs(mean_square(read) / expected - 1) < allowed);
    CHECK(expected < stationary);  // and averaging helps
  };
  const auto of = [&](const auto& average) { return [&] { average.copy_to(target); }; };
  CHECK(std::fabs(mean_square(x) / stationary - 1) < allowed);
  check("uniform", profile(swa.weighting(), steps), of(swa));
  for (std::size_t k = 0; k < 2; ++k) {
    check("exponential", profile(bank.weighting(k), steps), [&] { bank.copy_to(target, k); });
  }
  check("debiased", profile(debiased.weighting(), steps), of(debiased));
  check("power", profile(PowerWeighting{3}, steps), of(power));
  check("polynomial", profile(polynomial.weighting(), steps), of(polynomial));
  check("half-life in samples",
        profile(ExponentialWeighting{std::exp2(-1.0 / 8), Start::params, 1}, steps), of(samples));
  check("tail", profile(tail.weighting(), steps), of(tail));
  check("window", equal({101, 106, 111, 116}), of(window));
  check("two windows", equal({81, 86, 91, 96, 101, 106, 111, 116}),
        [&] { window.copy_to(target, 2); });
  check("latest checkpoints", equal({90, 100, 110, 120}), of(lawa));

  // Exponential in the long run: v (1-b)/(1+b) (1+b rho)/(1-b rho), here 0.9^120 = 3e-6 from it.
  const double b = 0.9, limit = stationary * (1 - b) / (1 + b) * (1 + b * rho) / (1 - b * rho);
  bank.copy_to(target, 0);
  CHECK(std::fabs(mean_square(read) / limit - 1) < allowed);
}

}  // namespace noisy_quadratic_test
