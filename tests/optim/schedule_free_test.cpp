// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/state.hpp>
#include <polyak/optim/schedule_free.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "one_tensor.hpp"

namespace schedule_free_test {

using polyak::AverageWeight;
using polyak::ScheduleFreeAdamWOptions;
using polyak::ScheduleFreeSgdOptions;

namespace {

/// The three sequences of the paper for one element, none of them eliminated.
struct ThreeBuffers {
  ScheduleFreeAdamWOptions o;
  bool adamw = true;
  double x, y, z;
  double m = 0, v = 0, largest = -1, sum = 0, gain = 0, rate = 0;
  int t = 0;

  ThreeBuffers(const ScheduleFreeAdamWOptions& options, double start)
      : o(options), x(start), y(start), z(start) {}
  ThreeBuffers(const ScheduleFreeSgdOptions& s, double start)
      : o{.learning_rate = s.learning_rate,
          .beta = s.beta,
          .warmup_steps = s.warmup_steps,
          .weight_decay = s.weight_decay,
          .r = s.r,
          .weight_lr_power = s.weight_lr_power,
          .average_weight = s.average_weight},
        adamw(false),
        x(start),
        y(start),
        z(start) {}

  void step(double g, double learning_rate) {
    ++t;
    rate = learning_rate;
    if (t < o.warmup_steps) rate *= t / static_cast<double>(o.warmup_steps);
    if (o.bias_correction_in_lr) rate *= std::sqrt(1 - std::pow(o.beta2, t));
    largest = std::max(largest, rate);
    const double base = o.average_weight == AverageWeight::learning_rate ? rate : largest;
    const bool counts = base > 0 || o.weight_lr_power == 0;
    const double weight = counts ? std::pow(t, o.r) * std::pow(base, o.weight_lr_power) : 0;
    sum += weight;
    gain = sum > 0 ? weight / sum : 0;
    double direction = g;
    if (adamw) {
      v = o.beta2 * v + (1 - o.beta2) * g * g;
      m = o.inner_momentum * m + (1 - o.inner_momentum) * g;
      const double correction = o.bias_correction_in_lr ? 1 : 1 - std::pow(o.beta2, t);
      direction = m / (1 - std::pow(o.inner_momentum, t)) / (std::sqrt(v / correction) + o.epsilon);
    }
    direction += o.weight_decay * (o.decay_at_z ? z : y);
    z -= rate * direction;
    x = (1 - gain) * x + gain * z;
    y = o.beta * x + (1 - o.beta) * z;
  }
};

/// 150 steps with noisy gradients and a learning rate that may change, against three buffers.
template <class Optimizer, class Options, class Rate>
void check_against_three_buffers(const Options& options, Rate&& rate_at) {
  OneTensor<> model(RandomNumbers(1).many(19));
  Optimizer optimizer(model.params, options);
  std::vector<ThreeBuffers> expected;
  for (const double start : model.x) expected.emplace_back(options, start);
  RandomNumbers random(2);
  for (int t = 1; t <= 150; ++t) {
    const double rate = rate_at(t);
    for (std::size_t k = 0; k < 19; ++k) model.gradient[k] = model.x[k] + 0.5 * random();
    // The reference sees the very same gradients.
    optimizer.at(rate).step(model.params, model.grads);
    const auto x = optimizer.view(model.params)[0];
    for (std::size_t k = 0; k < 19; ++k) {
      expected[k].step(model.gradient[k], rate);
      REQUIRE(model.x[k] == Approx(expected[k].y).margin(1e-11));
      REQUIRE(optimizer.slot("z")[0](k) == Approx(expected[k].z).margin(1e-11));
      REQUIRE(x(k) == Approx(expected[k].x).margin(1e-11));
      // y lies between z and x
      REQUIRE(model.x[k] - x(k) ==
              Approx((1 - options.beta) * (optimizer.slot("z")[0](k) - x(k))).margin(1e-12));
    }
    const auto& scalars = optimizer.scalars();
    REQUIRE(scalars.learning_rate == Approx(expected[0].rate).epsilon(1e-13));
    REQUIRE(scalars.learning_rate_max == Approx(expected[0].largest).epsilon(1e-13));
    REQUIRE(scalars.weight_sum == Approx(expected[0].sum).epsilon(1e-12));
    REQUIRE(scalars.gain == Approx(expected[0].gain).epsilon(1e-12));
  }
}

double constant_rate(int) { return 0.05; }
double falling_rate(int t) { return t < 50 ? 0.05 : 0.05 / t; }
double late_rate(int t) { return t < 10 ? 0 : t % 7 == 0 ? 0 : 0.03; }

}  // namespace

TEST_CASE("Schedule-Free SGD makes three hand-computed steps", "[schedule_free]") {
  // Gradient 1, rate 1, beta 1/2: z = -1, -2, -3; x = -1, -1.5, -2; y = (x + z)/2.
  OneTensor<> model({0});
  polyak::ScheduleFreeSgd<double> optimizer(model.params, {.beta = 0.5});
  const std::vector<double> z{-1, -2, -3}, x{-1, -1.5, -2}, y{-1, -1.75, -2.5};
  for (std::size_t t = 0; t < 3; ++t) {
    model.gradient[0] = 1;
    optimizer.step(model.params, model.grads);
    CHECK(optimizer.slot("z")[0](0) == z[t]);
    CHECK(optimizer.view(model.params)[0](0) == Approx(x[t]).epsilon(1e-15));
    CHECK(model.x[0] == Approx(y[t]).epsilon(1e-15));
    CHECK(optimizer.scalars().gain == Approx(1 / (static_cast<double>(t) + 1)).epsilon(1e-15));
  }
}

TEST_CASE("at a constant rate, x of Schedule-Free is the mean of z", "[schedule_free]") {
  OneTensor<> model(RandomNumbers(3).many(21));
  polyak::ScheduleFreeSgd<double> optimizer(model.params, {.learning_rate = 0.1});
  std::vector<double> sum(21, 0);
  RandomNumbers random(4);
  for (int t = 1; t <= 200; ++t) {
    random.fill(model.gradient);
    optimizer.step(model.params, model.grads);
    CHECK(optimizer.scalars().gain == Approx(1.0 / t).epsilon(1e-13));
    for (std::size_t k = 0; k < 21; ++k) {
      sum[k] += optimizer.slot("z")[0](k);
      REQUIRE(optimizer.view(model.params)["x"](k) == Approx(sum[k] / t).margin(1e-12));
    }
  }
}

TEST_CASE("storing y and z equals storing x, y and z: SGD", "[schedule_free]") {
  using Sgd = polyak::ScheduleFreeSgd<double>;
  for (const auto& o : std::vector<ScheduleFreeSgdOptions>{
           {},
           {.beta = 0.5, .warmup_steps = 20, .weight_decay = 0.1},
           {.beta = 0.98, .r = 2, .weight_lr_power = 1},
           {.beta = 0.9, .weight_lr_power = 0},
           {.warmup_steps = 30, .r = 0.5, .average_weight = AverageWeight::learning_rate}}) {
    INFO("beta " << o.beta << ", warmup " << o.warmup_steps << ", r " << o.r);
    check_against_three_buffers<Sgd>(o, constant_rate);
    check_against_three_buffers<Sgd>(o, falling_rate);
  }
  check_against_three_buffers<Sgd>(ScheduleFreeSgdOptions{}, late_rate);
  check_against_three_buffers<Sgd>(
      ScheduleFreeSgdOptions{.average_weight = AverageWeight::learning_rate}, late_rate);
}

TEST_CASE("storing y and z equals storing x, y and z: AdamW", "[schedule_free]") {
  using AdamW = polyak::ScheduleFreeAdamW<double>;
  for (const auto& o : std::vector<ScheduleFreeAdamWOptions>{
           {},
           {.beta = 0.5, .beta2 = 0.95, .warmup_steps = 20, .weight_decay = 0.1},
           {.inner_momentum = 0.8, .weight_decay = 0.1, .decay_at_z = true},
           {.beta = 0.98, .weight_decay = 0.2, .decay_at_z = true, .r = 1},
           {.inner_momentum = 0.9, .weight_decay = 0.1},
           {.beta2 = 0.9, .warmup_steps = 10, .bias_correction_in_lr = true},
           {.beta2 = 0, .epsilon = 0.1}}) {
    INFO("beta " << o.beta << ", beta2 " << o.beta2 << ", momentum " << o.inner_momentum);
    check_against_three_buffers<AdamW>(o, constant_rate);
    check_against_three_buffers<AdamW>(o, falling_rate);
  }
  check_against_three_buffers<AdamW>(ScheduleFreeAdamWOptions{}, late_rate);
}

TEST_CASE("a step of learning rate 0 moves nothing and has no weight in x", "[schedule_free]") {
  const auto start = RandomNumbers(5).many(9);
  OneTensor<> model(start);
  polyak::ScheduleFreeSgd<double> optimizer(model.params, {.learning_rate = 0});
  RandomNumbers(6).fill(model.gradient);
  for (int t = 0; t < 3; ++t) optimizer.step(model.params, model.grads);
  CHECK(bytes_of(model.x) == bytes_of(start));
  CHECK(optimizer.scalars().weight_sum == 0);
  CHECK(optimizer.scalars().gain == 0);
  CHECK(optimizer.scalars().learning_rate_max == 0);
  CHECK(optimizer.view(model.params)[0](0) == start[0]);
  optimizer.at(0.5).step(model.params, model.grads);  // from here on it is a run like any other
  CHECK(optimizer.scalars().gain == 1);
  CHECK(optimizer.view(model.params)[0](0) ==
        Approx(start[0] - 0.5 * model.gradient[0]).epsilon(1e-14));
}

TEST_CASE("a lowered learning rate keeps or loses its weight as average_weight says",
          "[schedule_free]") {
  OneTensor<> a({1}), b({1});
  polyak::ScheduleFreeSgd<double> maximum(a.params, {});
  polyak::ScheduleFreeSgd<double> current(b.params,
                                          {.average_weight = AverageWeight::learning_rate});
  // w = 1, 1, 1, 1 with the running maximum; 1, 1, 1/4, 1/16 with the rate itself.
  const std::vector<double> rates{1, 1, 0.5, 0.25}, lowered{1, 2, 2.25, 2.3125};
  for (std::size_t t = 0; t < 4; ++t) {
    maximum.at(rates[t]).step(a.params, a.grads);
    current.at(rates[t]).step(b.params, b.grads);
    CHECK(maximum.scalars().weight_sum == static_cast<double>(t) + 1);
    CHECK(current.scalars().weight_sum == lowered[t]);
    CHECK(current.scalars().gain == Approx(rates[t] * rates[t] / lowered[t]).epsilon(1e-15));
    CHECK(maximum.scalars().learning_rate_max == 1);
    CHECK(current.scalars().learning_rate == rates[t]);
  }
}

TEST_CASE("Schedule-Free with zero gradients and no decay moves nothing", "[schedule_free]") {
  const auto start = RandomNumbers(7).many<float>(40);
  OneTensor<float> a(start), b(start);
  polyak::ScheduleFreeSgd<float> sgd(a.params);
  polyak::ScheduleFreeAdamW<float> adamw(b.params);
  for (int t = 0; t < 10; ++t) {
    sgd.step(a.params, a.grads);
    adamw.step(b.params, b.grads);
  }
  CHECK(bytes_of(a.x) == bytes_of(start));
  CHECK(bytes_of(b.x) == bytes_of(start));
  const auto guard = adamw.swap_into(b.params);
  CHECK(bytes_of(b.x) == bytes_of(start));
}

TEMPLATE_TEST_CASE("evaluating at every step changes no bit of training", "[schedule_free]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  const auto convert = [](double value) { return static_cast<P>(static_cast<float>(value)); };
  std::vector<P> start;
  RandomNumbers random(8);
  for (int k = 0; k < 77; ++k) start.push_back(convert(random()));
  OneTensor<P> quiet(start), watched(start), result(start);
  const ScheduleFreeAdamWOptions options{.learning_rate = 0.02, .warmup_steps = 5};
  polyak::ScheduleFreeAdamW<P> a(quiet.params, options), b(watched.params, options);
  for (int t = 0; t < 40; ++t) {
    for (P& g : quiet.gradient) g = convert(random());
    std::copy(quiet.gradient.begin(), quiet.gradient.end(), watched.gradient.begin());
    a.step(quiet.params, quiet.grads);
    b.step(watched.params, watched.grads);

    b.copy_to(watched.params, result.params);
    const auto view = b.view(watched.params);
    const auto by_index = view[0], by_name = view["x"];
    std::vector<P> viewed;
    for (std::size_t k = 0; k < by_index.size(); ++k) {
      viewed.push_back(by_index(k));
      const P named = by_name[k];
      REQUIRE(bytes_of(&named) == bytes_of(&viewed.back()));
    }
    CHECK(bytes_of(viewed) == bytes_of(result.x));  // view == copy
    const auto weights = bytes_of(watched.x);
    {
      const auto guard = b.swap_into(watched.params);
      CHECK(bytes_of(watched.x) == bytes_of(result.x));  // == guard
    }
    CHECK(bytes_of(watched.x) == weights);
    CHECK(bytes_of(quiet.x) == bytes_of(watched.x));
    CHECK(polyak::state_bytes(a) == polyak::state_bytes(b));
    if (t > 0) CHECK(bytes_of(result.x) != weights);
  }
}

TEST_CASE("a tensor that joins Schedule-Free late starts at its weights", "[schedule_free]") {
  TwoTensors<> model;
  polyak::ScheduleFreeSgd<double> optimizer(model.params, {.learning_rate = 0.5});
  model.first_gradient = {1, 1, 1};
  model.second_gradient = {2, -4};
  for (int t = 0; t < 4; ++t) optimizer.step(model.params, model.one);
  CHECK(model.second == std::vector<double>{4, 5});
  const auto untrained = optimizer.view(model.params)["second"];
  CHECK(untrained(0) == 4);
  CHECK(untrained.size() == 2);
  {
    const auto guard = optimizer.swap_into(model.params);
    CHECK(model.second == std::vector<double>{4, 5});
    CHECK(model.first[0] == Approx(1 - 0.5 * (1 + 2 + 3 + 4) / 4.0).epsilon(1e-14));
  }
  model.second = {6, 7};  // the user has set it before it joins
  optimizer.step(model.params, model.both);
  // c = 1/5 by the optimizer's clock: z = 6 - 1, x = 6 - 1/5, y = 0.9 x + 0.1 z
  CHECK(optimizer.slot("z")["second"](0) == 5);
  CHECK(optimizer.view(model.params)["second"](0) == Approx(6 - 0.2).epsilon(1e-14));
  CHECK(model.second[0] == Approx(0.9 * 5.8 + 0.1 * 5).epsilon(1e-14));
  const double y = model.second[0], x = optimizer.view(model.params)["second"](0);
  optimizer.step(model.params, model.one);
  CHECK(model.second[0] == y);
  CHECK(optimizer.view(model.params)["second"](0) == x);
}

TEST_CASE("on a noisy quadratic, the average of Schedule-Free is better than its iterate",
          "[schedule_free]") {
  // f(x) = h x^2/2 with gradient noise, 64 independent elements of curvature 0.2 ... 1.
  for (const bool adamw : {false, true}) {
    OneTensor<> model(std::vector<double>(64, 3.0));
    polyak::ScheduleFreeSgd<double> sgd(model.params, {.learning_rate = 0.5});
    polyak::ScheduleFreeAdamW<double> adam(model.params, {.learning_rate = 0.05});
    const auto curvature = [](std::size_t k) { return 0.2 + 0.8 * static_cast<double>(k) / 63; };
    RandomNumbers random(9);
    const auto loss = [&](auto&& value) {
      double sum = 0;
      for (std::size_t k = 0; k < 64; ++k) sum += 0.5 * curvature(k) * value(k) * value(k);
      return sum;
    };
    for (int t = 0; t < 2000; ++t) {
      for (std::size_t k = 0; k < 64; ++k) {
        model.gradient[k] = curvature(k) * model.x[k] + 2 * random();
      }
      adamw ? adam.step(model.params, model.grads) : sgd.step(model.params, model.grads);
    }
    const auto z = adamw ? adam.slot("z")[0] : sgd.slot("z")[0];
    const double at_x = adamw ? loss(adam.view(model.params)[0]) : loss(sgd.view(model.params)[0]);
    CHECK(at_x < 0.1 * loss(z));
    CHECK(at_x < loss([&](std::size_t k) { return model.x[k]; }));
    CHECK(at_x < 1);
  }
}

TEST_CASE("Schedule-Free has the slots that its options need", "[schedule_free]") {
  using Names = std::vector<std::string>;
  OneTensor<float> model(std::vector<float>(1000, 1));
  CHECK(polyak::ScheduleFreeSgd<float>(model.params).slots().names() == Names{"z"});
  CHECK(polyak::ScheduleFreeAdamW<float>(model.params).slots().names() == Names{"z", "exp_avg_sq"});
  CHECK(polyak::ScheduleFreeAdamW<float>(model.params, {.inner_momentum = 0.9}).slots().names() ==
        Names{"z", "exp_avg_sq", "exp_avg"});
}

TEST_CASE("Schedule-Free leaves buffers and tensors without a gradient alone", "[schedule_free]") {
  std::vector<float> weight{1, 2}, free{3}, statistics{4}, gradient{1, 1}, free_gradient{1};
  std::vector<float> target_weight{0, 0}, target_free{0}, target_statistics{0};
  std::int64_t counter = 9, target_counter = 0;
  polyak::Parameters<float> params, target;
  params.add("weight", weight)
      .add("free", free, polyak::Role::ignore)
      .add("statistics", statistics, polyak::Role::copy)
      .add("counter", &counter, {1}, polyak::Role::copy);
  target.add("weight", target_weight)
      .add("free", target_free, polyak::Role::ignore)
      .add("statistics", target_statistics, polyak::Role::copy)
      .add("counter", &target_counter, {1}, polyak::Role::copy);
  polyak::ScheduleFreeSgd optimizer(params, {.learning_rate = 0.5});
  const auto grads = polyak::like(params, gradient, free_gradient);
  for (int t = 0; t < 3; ++t) optimizer.step(params, grads);
  optimizer.copy_to(params, target);
  CHECK(target_weight[0] == Approx(0).margin(1e-6));  // 1 - (0.5 + 1 + 1.5)/3
  CHECK(target_free[0] == Approx(2));
  CHECK(target_statistics == statistics);
  CHECK(target_counter == 9);
  CHECK(optimizer.view(params)["statistics"](0) == 4);
  const auto y = weight;
  {
    const auto guard = optimizer.swap_into(params);
    CHECK(weight == target_weight);
    CHECK(free == target_free);
    CHECK(statistics == std::vector<float>{4});
  }
  CHECK(weight == y);
}

TEMPLATE_TEST_CASE("a tensor that joins a Schedule-Free run late has the clock of the run",
                   "[schedule_free]", float, double) {
  // Without its gradient a tensor stands still, and c_t = 1/t goes on.
  constexpr double rate = 0.25;
  const auto joins_late = [](auto make) {
    TwoTensors<TestType> model;
    auto optimizer = make(model.params);
    model.first_gradient = {1, 1, 1};
    model.second_gradient = {1, 1};
    double x = 4, z = 4, sum = 0;
    for (int t = 1; t <= 40; ++t) {
      const bool joined = t > 15 && t != 30;
      optimizer.step(model.params, joined ? model.both : model.one);
      if (joined) {
        z -= rate;
        x += (z - x) / t;
      }
      sum += z;
      CHECK(optimizer.view(model.params)["second"](0) == Approx(x));
      // x is the average of the model's z, where it stood still at the beginning too.
      if (t < 30) CHECK(x == Approx(sum / t));
    }
    const auto first = optimizer.view(model.params)["first"];
    CHECK(first(0) == Approx(1 - rate * 41 / 2));
  };
  joins_late([](const auto& params) {
    return polyak::ScheduleFreeSgd<TestType>(params, {.learning_rate = rate});
  });
  joins_late([](const auto& params) {
    return polyak::ScheduleFreeAdamW<TestType>(params, {.learning_rate = rate});
  });
}

TEST_CASE("reading x is refused before the first step and while it is swapped in",
          "[schedule_free]") {
  OneTensor<> model({1, 2}), target({3, 4});
  polyak::ScheduleFreeAdamW<double> optimizer(model.params);
  const std::string none =
      "polyak: no step was made, there is no average yet; ask for the current weights with "
      "or_current if that is meant";
  CHECK_FALSE(optimizer.ready());
  CHECK(refusal<std::logic_error>([&] { static_cast<void>(optimizer.view(model.params)); }) ==
        none);
  CHECK(refusal<std::logic_error>([&] { optimizer.copy_to(model.params, target.params); }) == none);
  CHECK(refusal<std::logic_error>([&] { auto g = optimizer.swap_into(model.params); }) == none);
  {
    const auto guard = optimizer.swap_into(model.params, polyak::or_current);
    CHECK(model.x == std::vector<double>{1, 2});
    CHECK(model.params.swapped());
  }
  CHECK_FALSE(model.params.swapped());

  model.gradient = {1, -1};
  optimizer.step(model.params, model.grads);
  optimizer.step(model.params, model.grads);
  const auto weights = bytes_of(model.x);
  const auto state = polyak::state_bytes(optimizer);
  {
    const auto guard = optimizer.swap_into(model.params, polyak::or_current);
    CHECK(bytes_of(model.x) != weights);
    for (const std::string& message :
         {refusal<std::logic_error>([&] { static_cast<void>(optimizer.view(model.params)); }),
          refusal<std::logic_error>([&] { optimizer.copy_to(model.params, target.params); }),
          refusal<std::logic_error>([&] { auto g = optimizer.swap_into(model.params); }),
          refusal<std::logic_error>([&] { optimizer.step(model.params, model.grads); })}) {
      CHECK(message.find("swapped in") != std::string::npos);
    }
  }
  CHECK(bytes_of(model.x) == weights);
  {
    const auto guard = optimizer.swap_into(target.params);
    CHECK(refusal<std::logic_error>([&] { optimizer.copy_to(model.params, target.params); }) ==
          "polyak: copy_to while an average is swapped in");
  }
  CHECK(target.x == std::vector<double>{3, 4});
  CHECK(refusal<std::invalid_argument>([&] { optimizer.copy_to(model.params, model.params); }) ==
        "polyak: copy_to would overwrite the weights of tensor \"x\"; use swap_into");
  OneTensor<> other({1, 2, 3});
  CHECK(refusal<std::invalid_argument>([&] {
          optimizer.copy_to(model.params, other.params);
        }).find("\"x\" is float64 [3], expected float64 [2]") != std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] {
          static_cast<void>(optimizer.view(other.params));
        }).find("\"x\" is float64 [3], expected float64 [2]") != std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] {
          static_cast<void>(optimizer.view(model.params)["w"]);
        }) == "polyak: there is no tensor \"w\"");
  CHECK(bytes_of(model.x) == weights);
  CHECK(polyak::state_bytes(optimizer) == state);
}

TEST_CASE("ScheduleFreeSgd refuses options out of range", "[schedule_free]") {
  using O = ScheduleFreeSgdOptions;
  OneTensor<> model({1, 2});
  const auto make = [&](const O& o) { polyak::ScheduleFreeSgd<double> method(model.params, o); };
  const std::string name = "ScheduleFreeSgdOptions.";
  check_refused(make, O{}, &O::learning_rate, name + "learning_rate must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::beta, name + "beta must lie in (0, 1)",
                {0, 1, -0.5, 1.5, nan_value, infinity});
  check_refused(make, O{}, &O::warmup_steps, name + "warmup_steps must be >= 0", {-1, -50});
  check_refused(make, O{}, &O::weight_decay, name + "weight_decay must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::r, name + "r must be finite and >= 0", not_a_rate);
  check_refused(make, O{}, &O::weight_lr_power, name + "weight_lr_power must be finite",
                {nan_value, infinity, -infinity});
  CHECK_NOTHROW(make({.learning_rate = 0, .weight_lr_power = -1}));
  polyak::ScheduleFreeSgd<double> optimizer(model.params);
  check_bad_rates_are_refused(optimizer);
  CHECK(model.x == std::vector<double>{1, 2});
}

TEST_CASE("ScheduleFreeAdamW refuses options out of range", "[schedule_free]") {
  using O = ScheduleFreeAdamWOptions;
  OneTensor<> model({1, 2});
  OneTensor<float> narrow({1, 2});
  const auto make = [&](const O& o) { polyak::ScheduleFreeAdamW<double> method(model.params, o); };
  const auto make_narrow = [&](const O& o) {
    polyak::ScheduleFreeAdamW<float> method(narrow.params, o);
  };
  const std::string name = "ScheduleFreeAdamWOptions.";
  check_refused(make, O{}, &O::learning_rate, name + "learning_rate must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::beta, name + "beta must lie in (0, 1)",
                {0, 1, -0.5, 1.5, nan_value, infinity});
  check_refused(make, O{}, &O::beta2, name + "beta2 must lie in [0, 1)", not_a_beta);
  check_refused(make, O{}, &O::epsilon, name + "epsilon must be finite and > 0",
                {0, -1, nan_value, infinity, -infinity});
  check_refused(make_narrow, O{}, &O::epsilon,
                name + "epsilon must not vanish in the type of the state", {1e-50});
  check_refused(make, O{}, &O::inner_momentum, name + "inner_momentum must lie in [0, 1)",
                not_a_beta);
  check_refused(make, O{}, &O::warmup_steps, name + "warmup_steps must be >= 0", {-1, -50});
  check_refused(make, O{}, &O::weight_decay, name + "weight_decay must be finite and >= 0",
                not_a_rate);
  check_refused(make, O{}, &O::r, name + "r must be finite and >= 0", not_a_rate);
  check_refused(make, O{}, &O::weight_lr_power, name + "weight_lr_power must be finite",
                {nan_value, infinity, -infinity});
  polyak::ScheduleFreeAdamW<double> optimizer(model.params);
  check_bad_rates_are_refused(optimizer);
  CHECK(model.x == std::vector<double>{1, 2});
}

}  // namespace schedule_free_test
