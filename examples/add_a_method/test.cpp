// SPDX-License-Identifier: Apache-2.0
// Tests of the methods of this folder: their formulas, their refusals, a resumed run, and one pass
// over memory with other methods.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/io/save.hpp>

#include "soft_sign.hpp"
#include "triangular_average.hpp"

// The tests of the library share these; they lie in tests/support.
#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "refusal_battery.hpp"
#include "temporary_folder.hpp"

namespace {

/// A small model and gradients that depend on the step alone.
struct Model {
  std::vector<float> weights = std::vector<float>(37), bias = std::vector<float>(5);
  std::vector<float> weights_gradient = std::vector<float>(37), bias_gradient = bias;
  polyak::Parameters<float> params;
  polyak::Gradients<float> gradients;

  Model() : params(), gradients((fill(), params)) {
    gradients.set("weights", weights_gradient).set("bias", bias_gradient);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  void differentiate(std::uint64_t step) {
    std::uint64_t place = 0;
    for (float& g : weights_gradient) g = static_cast<float>(bits::uniform(place++, step));
    for (float& g : bias_gradient) g = static_cast<float>(bits::uniform(place++, step));
  }
  [[nodiscard]] bool operator==(const Model& other) const {
    return bits::bytes(weights) == bits::bytes(other.weights) &&
           bits::bytes(bias) == bits::bytes(other.bias);
  }

 private:
  void fill() {
    for (std::size_t k = 0; k < weights.size(); ++k) weights[k] = 0.125F * static_cast<float>(k);
    bias.assign(bias.size(), 1);
    params.add("weights", weights).add("bias", bias);
  }
};

}  // namespace

TEST_CASE("SoftSign follows its formula") {
  Model model;
  const mine::SoftSignOptions o{
      .learning_rate = 0.125, .momentum = 0.75, .temperature = 0.25, .weight_decay = 0.5};
  mine::SoftSign<float> optimizer(model.params, o);
  std::vector<double> x(model.weights.begin(), model.weights.end()), m(x.size(), 0);
  for (std::uint64_t step = 1; step <= 20; ++step) {
    model.differentiate(step);
    optimizer.step(model.params, model.gradients);
    for (std::size_t k = 0; k < x.size(); ++k) {
      m[k] = o.momentum * m[k] + (1 - o.momentum) * model.weights_gradient[k];
      x[k] = (1 - o.learning_rate * o.weight_decay) * x[k] -
             o.learning_rate * std::tanh(m[k] / o.temperature);
      CHECK(model.weights[k] == Approx(x[k]).margin(1e-6));
      CHECK(optimizer.slot("momentum")["weights"](k) == Approx(m[k]).margin(1e-6));
    }
  }
  CHECK(optimizer.count() == 20);
}

TEST_CASE("SoftSign steps by the sign at a low temperature, by the momentum at a high one") {
  Model cold, warm;
  cold.differentiate(1);
  warm.differentiate(1);
  const std::vector<float> start = cold.weights;
  mine::SoftSign<float>(cold.params, {.learning_rate = 0.5, .momentum = 0, .temperature = 1e-30})
      .step(cold.params, cold.gradients);
  mine::SoftSign<float>(warm.params, {.learning_rate = 1e6, .momentum = 0, .temperature = 1e6})
      .step(warm.params, warm.gradients);
  for (std::size_t k = 0; k < start.size(); ++k) {
    const float g = cold.weights_gradient[k];
    CHECK(cold.weights[k] == start[k] - (g > 0 ? 0.5F : -0.5F));
    CHECK(warm.weights[k] == Approx(start[k] - g).margin(1e-5));
  }
}

TEST_CASE("methods with a selection leave the other tensors alone") {
  Model model;
  const Model start;
  mine::SoftSign<float> optimizer(model.params, {}, polyak::named("weights"));
  mine::TriangularAverage<float> average(model.params, {}, polyak::Nonfinite::propagate,
                                         polyak::named("bias"));
  model.differentiate(1);
  polyak::step(model.params, model.gradients, optimizer, average);
  CHECK(model.weights != start.weights);
  CHECK(model.bias == start.bias);
  CHECK(optimizer.memory_report().slots.at(0).elements == model.weights.size());
  CHECK(average.view()["bias"](0) == 1);
}

TEST_CASE("SoftSign refuses values that break the rules of its fields") {
  Model model;
  const auto make = [&](const mine::SoftSignOptions& o) {
    mine::SoftSign<float> method(model.params, o);
  };
  CHECK(check_refusals<mine::SoftSignOptions>({{}}, make) == 4 + 6 + 5 + 4);
  CHECK(refusal<std::invalid_argument>([&] { make({.temperature = 0}); }) ==
        "polyak: SoftSignOptions.temperature must lie in [1e-30, 1e30], got 0");
}

TEST_CASE("the profile of the triangular weighting is a triangle") {
  const mine::TriangularWeighting weighting{.rise = 4, .fall = 6};
  double sum = 0;
  for (int t = 1; t <= 12; ++t) {
    const double weight = t <= 4 ? t / 4.0 : t < 10 ? (10 - t) / 6.0 : 0.0;
    sum += weight;
    CHECK(weighting.gain(t) == Approx(weight / sum).margin(0));
    CHECK(weighting.complement(t) == Approx(1 - weight / sum).margin(1e-15));
  }
  const std::vector<double> profile = polyak::profile(weighting, 12);
  const std::vector<double> triangle{0,       0.25,    0.5,     0.75, 1, 5 / 6.0, 4 / 6.0,
                                     3 / 6.0, 2 / 6.0, 1 / 6.0, 0,    0, 0};
  REQUIRE(profile.size() == triangle.size());
  for (std::size_t t = 0; t < profile.size(); ++t) {
    CHECK(profile[t] == Approx(triangle[t] / sum).margin(1e-15));
  }
  CHECK(weighting.least_gain() == Approx(1 / 6.0 / sum));
  CHECK(mine::TriangularWeighting{.rise = 1, .fall = 1}.gain(1) == 1);
  CHECK(mine::TriangularWeighting{.rise = 1, .fall = 1}.gain(2) == 0);
}

TEST_CASE("TriangularAverage is the weighted mean, and rests after its end") {
  Model model;
  mine::TriangularAverage<float> average(model.params, {.rise = 3, .fall = 2});
  CHECK_FALSE(average.ready());
  double sum = 0;
  const double weights[] = {1 / 3.0, 2 / 3.0, 1, 0.5};
  for (int t = 1; t <= 7; ++t) {
    model.weights[5] = static_cast<float>(t * t);
    average.update(model.params);
    if (t <= 4) sum += weights[t - 1] * t * t;
  }
  CHECK(average.view()["weights"](5) == Approx(sum / 2.5));
  CHECK(average.count() == 4);
  CHECK(average.calls() == 7);
}

TEST_CASE("TriangularAverage refuses values that break the rules of its weighting") {
  Model model;
  const auto make = [&](const mine::TriangularWeighting& weighting) {
    mine::TriangularAverage<float> method(model.params, weighting);
  };
  CHECK(check_refusals<mine::TriangularWeighting>({{}}, make) == 3 + 3);
  CHECK(refusal<std::invalid_argument>([&] { make({.fall = 0}); }) ==
        "polyak: TriangularWeighting.fall must be >= 1, got 0");
}

TEST_CASE("a run with both methods resumes from a file, bit for bit") {
  const mine::SoftSignOptions options{.learning_rate = 0.01, .weight_decay = 0.1};
  const mine::TriangularWeighting weighting{.rise = 6, .fall = 6};
  Model model, resumed;
  mine::SoftSign<float> optimizer(model.params, options);
  mine::TriangularAverage<float> average(model.params, weighting);
  const auto train = [](Model& m, auto& first, auto& second, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t step = from; step <= to; ++step) {
      m.differentiate(step);
      polyak::step(m.params, m.gradients, first, second);
    }
  };
  const TemporaryFolder folder;
  const std::string file = folder.file("run.safetensors");
  train(model, optimizer, average, 1, 7);
  polyak::save(file, model.params, optimizer, average);
  train(model, optimizer, average, 8, 14);

  mine::SoftSign<float> other(resumed.params, options);
  mine::TriangularAverage<float> other_average(resumed.params, weighting);
  polyak::load(file, resumed.params, other, other_average);
  CHECK(other.count() == 7);
  train(resumed, other, other_average, 8, 14);
  CHECK(model == resumed);
  CHECK(polyak::state_bytes(optimizer) == polyak::state_bytes(other));
  CHECK(polyak::state_bytes(average) == polyak::state_bytes(other_average));

  // An option that differs from the file is an error that names it.
  Model changed;
  mine::SoftSign<float> hotter(changed.params, {.learning_rate = 0.01, .temperature = 0.5});
  mine::TriangularAverage<float> same(changed.params, weighting);
  const std::string message =
      refusal<std::invalid_argument>([&] { polyak::load(file, changed.params, hotter, same); });
  CHECK(message.find("temperature") != std::string::npos);
  CHECK(changed == Model());
}

TEST_CASE("one pass over memory with both methods and an Ema equals three passes") {
  Model one, three;
  const mine::SoftSignOptions options{.learning_rate = 0.01, .weight_decay = 0.1};
  const mine::TriangularWeighting weighting{.rise = 3, .fall = 4};
  mine::SoftSign<float> a(one.params, options), b(three.params, options);
  mine::TriangularAverage<float> a_average(one.params, weighting);
  mine::TriangularAverage<float> b_average(three.params, weighting);
  polyak::Ema<float> a_ema(one.params, {.decay = 0.75}), b_ema(three.params, {.decay = 0.75});
  for (std::uint64_t step = 1; step <= 10; ++step) {
    one.differentiate(step);
    three.differentiate(step);
    polyak::step(one.params, one.gradients, a, a_average, a_ema);
    b.step(three.params, three.gradients);
    b_average.update(three.params);
    b_ema.update(three.params);
    REQUIRE(one == three);
    REQUIRE(polyak::state_bytes(a) == polyak::state_bytes(b));
    REQUIRE(polyak::state_bytes(a_average) == polyak::state_bytes(b_average));
    REQUIRE(polyak::state_bytes(a_ema) == polyak::state_bytes(b_ema));
  }
}
