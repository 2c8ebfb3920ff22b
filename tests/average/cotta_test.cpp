// SPDX-License-Identifier: Apache-2.0
// polyak/average/cotta.hpp
#include <polyak/average/cotta.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/optim/sgd.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "bits.hpp"
#include "catch.hpp"
#include "model.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"
#include "splitter.hpp"

namespace cotta_test {

using namespace polyak;

namespace {

/// The elements of 5000 that some calls restore.
std::vector<bool> chosen(double probability, std::uint64_t seed, Split split,
                         std::int64_t calls = 3) {
  std::vector<float> weights(5000, 0.0f);
  Parameters params;
  params.add("w", std::span(weights));
  CottaTeacher teacher(params, {.restore_probability = probability, .restore_seed = seed});
  Splitter splitter(split);
  std::vector<bool> all;
  for (std::int64_t t = 1; t <= calls; ++t) {
    weights.assign(5000, 1.0f);
    update(splitter, params, teacher);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      all.push_back(weights[i] == 0);
      if (i % 97 == 0) CHECK(teacher.restores(t, 0, i) == all.back());
    }
  }
  return all;
}

double share(const std::vector<bool>& list) {
  double sum = 0;
  for (const bool one : list) sum += one;
  return sum / static_cast<double>(list.size());
}

}  // namespace

TEST_CASE("CoTTA's teacher is an Ema of the student before elements are restored") {
  Model<float> model({70, 33}, true), other({70, 33}, true);
  const auto source = model.tensor_bytes(0);
  CottaTeacher<float> teacher(model.params, {.decay = 0.9, .restore_probability = 1});
  Ema<float> ema(other.params, {.decay = 0.9});
  for (std::uint64_t step = 0; step < 5; ++step) {
    model.wander(step);
    other.restore(model.bytes());
    update(other.params, ema);
    update(model.params, teacher);
    CHECK(model.tensor_bytes(0) == source);
    CHECK(model.tensor_bytes(2) == other.tensor_bytes(2));  // ignored
    for (std::size_t i = 0; i < 70; ++i) CHECK(teacher.view()[0][i] == ema.view()[0][i]);
  }
  CHECK(bits::bytes(teacher.source()[0].data(), 70) == source);
}

TEST_CASE("elements are restored with the given probability, independently") {
  CHECK(share(chosen(0, 1, Split::whole)) == 0);
  CHECK(share(chosen(1, 1, Split::whole)) == 1);
  for (const double probability : {0.001, 0.01, 0.1, 0.5, 0.97}) {
    const auto list = chosen(probability, 7, Split::whole, 40);
    const double n = 200000, error = std::sqrt(probability * (1 - probability) / n);
    CHECK(std::fabs(share(list) - probability) < 5 * error);
    // Neighbours, elements one group apart, and calls are independent.
    for (const std::size_t apart :
         {std::size_t{1}, std::size_t{32}, std::size_t{64}, std::size_t{5000}}) {
      double both = 0;
      for (std::size_t i = 0; i + apart < list.size(); ++i) both += list[i] && list[i + apart];
      const double expected = probability * probability, pairs = n - static_cast<double>(apart);
      CHECK(std::fabs(both / pairs - expected) <
            6 * std::sqrt(expected * (1 - expected) * 2 / pairs) + 1 / pairs);
    }
  }
}

TEST_CASE("the choice of restored elements depends only on seed, call, tensor and element") {
  const auto whole = chosen(0.1, 3, Split::whole);
  CHECK(chosen(0.1, 3, Split::pieces) == whole);
  CHECK(chosen(0.1, 3, Split::threads) == whole);
  CHECK(chosen(0.1, 4, Split::whole) != whole);
  CHECK(std::vector(whole.begin(), whole.begin() + 5000) !=
        std::vector(whole.begin() + 5000, whole.begin() + 10000));
}

TEST_CASE("restoring an element removes a NaN of the student") {
  std::vector<float> weights{1, 2, 3};
  Parameters params;
  params.add("w", std::span(weights));
  CottaTeacher teacher(params, {.restore_probability = 1});
  weights[1] = std::numeric_limits<float>::quiet_NaN();
  teacher.update(params);
  CHECK(weights == std::vector<float>{1, 2, 3});
  weights[0] = 9;
  weights[2] = 9;
  teacher.restore(params, [](std::size_t, std::size_t element) { return element == 2; });
  CHECK(weights == std::vector<float>{9, 2, 3});
}

TEST_CASE("only the named tensors are restored, and buffers never") {
  Model<double> model({40, 40}, true);
  CottaTeacher<double> teacher(model.params, {.restore_probability = 1, .restored = {"tensor 1"}});
  const auto first = model.tensor_bytes(1);
  model.wander(1);
  const auto moved = model.tensor_bytes(0);
  teacher.update(model.params);
  CHECK(model.tensor_bytes(0) == moved);
  CHECK(model.tensor_bytes(1) == first);
}

TEST_CASE("a step with CoTTA last is the optimizer's step, then the teacher's") {
  Model<float> one({70, 33}), two({70, 33});
  const CottaOptions options{.decay = 0.9, .restore_probability = 0.3};
  CottaTeacher<float> fused(one.params, options), apart(two.params, options);
  Sgd<float> first(one.params, {.learning_rate = 0.1}), second(two.params, {.learning_rate = 0.1});
  for (std::uint64_t step = 0; step < 6; ++step) {
    one.differentiate(step);
    two.differentiate(step);
    polyak::step(one.params, one.gradients, first, fused);
    second.step(two.params, two.gradients);
    apart.update(two.params);
    CHECK(one.bytes() == two.bytes());
  }
}

TEST_CASE("CottaTeacher refuses options out of range") {
  Model<float> model({5}, true);
  const auto make = [&](const CottaOptions& o) { return CottaTeacher<float>(model.params, o); };
  check_refused(make, CottaOptions{}, &CottaOptions::restore_probability,
                "CottaOptions.restore_probability must lie in [0, 1]", {-0.1, 1.5, nan_value});
  CHECK(refuses([&] { make({.decay = 0.01}); }, {"CottaOptions.decay", "1 - 0.01 = 0.99"}));
  CHECK(refuses([&] { make({.restored = {"no such"}}); }, {"no such"}));
  CHECK(refuses([&] { make({.restored = {"statistics"}}); }, {"statistics", "averaged"}));
  Model<float> other({6});
  auto teacher = make({});
  CHECK_THROWS_AS(teacher.restore(other.params, [](auto, auto) { return true; }),
                  std::invalid_argument);
  model.wander(1);
  teacher.update(model.params);
  const auto guard = teacher.swap_into(model.params);
  CHECK_THROWS_AS(teacher.restore(model.params, [](auto, auto) { return true; }), std::logic_error);
}

}  // namespace cotta_test
