// SPDX-License-Identifier: Apache-2.0
// Nonfinite on a device: gradients that overflow moments, weights that overflow, and buffers.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/require_finite.hpp>
#include <polyak/cuda.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"

namespace device_tests::nonfinite_test {

using namespace polyak;

namespace {

/// A model on a device: a weight of n numbers, and a buffer of type B.
template <class P, class B = P>
struct Small {
  cuda::Executor executor;
  cuda::Buffer<P> x, gradient;
  cuda::Buffer<B> statistics;
  cuda::Parameters<P> params;
  cuda::Gradients<P> gradients;
  std::size_t size;

  explicit Small(std::size_t n)
      : x(executor, n),
        gradient(executor, n),
        statistics(executor, 7),
        params(executor),
        gradients((add(n), params)),
        size(n) {
    x.upload(std::vector<P>(n, P(1)));
    gradient.upload(std::vector<P>(n, P(0.5F)));
    statistics.upload(std::vector<B>(7, B(1)));
    gradients.set("x", gradient.data());
  }
  void add(std::size_t n) {
    params.add("x", x.data(), {static_cast<std::int64_t>(n)});
    params.add("statistics", statistics.data(), {7}, Role::copy);
  }
  template <class T>
  void write(T* place, double value) {
    const auto number = static_cast<T>(value);
    params.layout()->space->write(place, &number, sizeof number);
  }
  [[nodiscard]] double weight(std::size_t k) const {
    P value;
    params.layout()->space->read(&value, x.data() + k, sizeof value);
    return static_cast<double>(value);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("a device skips or refuses a gradient that would overflow a moment", "", float,
                   double, Eigen::bfloat16) {
  using P = TestType;
  const double largest = std::is_same_v<P, double> ? 0x1p511 : 0x1p63;
  for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
    for (const std::size_t place : {std::size_t{0}, std::size_t{17}, std::size_t{4999}}) {
      Small<P> model(5000);
      AdamW<cuda::Device<P>> adamw(model.params, {.learning_rate = 0.01, .nonfinite = policy});
      const auto made = [&] {
        bool refused = false;
        try {
          step(model.executor, model.params, model.gradients, adamw);
        } catch (const nonfinite_error&) {
          refused = true;
        }
        return !refused && !cuda::settle(model.executor, adamw);
      };
      CHECK(made());
      model.write(model.gradient.data() + place, 0.98 * largest);
      CHECK(made());
      model.write(model.gradient.data() + place, -1.02 * largest);
      const auto weight = model.weight(place);
      CHECK_FALSE(made());
      CHECK(model.weight(place) == weight);
      CHECK(adamw.count() == 2);
      model.gradients.scale(0.5);
      CHECK(made());
      model.gradients.scale(1).clip_value(2 * largest);
      CHECK_FALSE(made());
      model.gradients.clip_value(1);
      CHECK(made());
      model.gradients.clip_value(std::numeric_limits<double>::infinity());
      cuda::ClipWorkspace<P> clip(model.executor, model.gradients);
      cuda::clip_norm(model.executor, model.gradients, 1, clip);
      CHECK(made());
      cuda::clip_norm(model.executor, model.gradients, 4 * largest, clip);
      CHECK_FALSE(made());
      CHECK_NOTHROW(require_finite(adamw));
    }
  }
}

TEST_CASE("weights that overflow in a step on a device are found with Nonfinite::error") {
  Small<Eigen::half> model(100);
  Sgd<cuda::Device<Eigen::half>> sgd(model.params,
                                     {.learning_rate = 1, .nonfinite = Nonfinite::error});
  CHECK(step(model.executor, model.params, model.gradients, sgd));
  model.write(model.x.data() + 99, 65000);
  model.write(model.gradient.data() + 99, -1000);
  CHECK_THROWS_AS(step(model.executor, model.params, model.gradients, sgd), nonfinite_error);
  CHECK(model.weight(99) == std::numeric_limits<double>::infinity());
  CHECK(sgd.count() == 2);
}

TEMPLATE_TEST_CASE("an average on a device that checks looks at buffers too", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  Small<float, TestType> model(10);
  using List = cuda::Device<float>;
  Ema<List> strict(model.params, {.nonfinite = Nonfinite::error});
  Ema<List> careful(model.params, {.nonfinite = Nonfinite::skip_step});
  CHECK(update(model.executor, model.params, strict, careful));
  model.write(model.statistics.data() + 6, std::numeric_limits<double>::quiet_NaN());
  CHECK_THROWS_AS(update(model.executor, model.params, strict), nonfinite_error);
  update(model.executor, model.params, careful);
  CHECK(cuda::settle(model.executor, careful));
  CHECK(careful.calls() == 1);
  CHECK_NOTHROW(require_finite(careful));
  Ema<List> careless(model.params);
  update(model.executor, model.params, careless);
  CHECK_THROWS_AS(require_finite(careless), nonfinite_error);
}

TEST_CASE("an infinite moment on a device is found by require_finite") {
  Small<float> model(10);
  AdamW<cuda::Device<float>> adamw(model.params);
  step(model.executor, model.params, model.gradients, adamw);
  CHECK_NOTHROW(require_finite(adamw));
  model.write(model.gradient.data() + 3, 1e21);
  step(model.executor, model.params, model.gradients, adamw);
  CHECK_THROWS_AS(require_finite(adamw), nonfinite_error);
}

}  // namespace device_tests::nonfinite_test
