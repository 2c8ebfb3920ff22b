// SPDX-License-Identifier: Apache-2.0
// Averages of numbers whose difference overflows: the average is finite.
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <polyak/polyak.hpp>

#include "catch.hpp"

namespace extremes_test {

namespace {

using polyak::Accumulate;

/// One weight that goes from -most to most, and checks of what an average made of it.
template <class P>
struct Opposite {
  double most = 0.9 * static_cast<double>(std::numeric_limits<P>::max());
  std::vector<P> x = std::vector<P>(37, static_cast<P>(-most));
  polyak::Parameters<P> params;

  Opposite() { params.add("x", x); }
  /// Two updates with the weights at the other end. An average of gain c is then at
  /// 1 - 2 (1 - c)^2 of `most`. The weights return, for the next average.
  template <class Average>
  void check(Average average, double gain) {
    average.update(params);
    x.assign(37, static_cast<P>(most));
    for (int call = 0; call < 2; ++call) average.update(params);
    check_at(average.view()[0], 1 - 2 * (1 - gain) * (1 - gain));
    x.assign(37, static_cast<P>(-most));
  }
  template <class View>
  void check_at(const View& view, double part) {
    const double expected = part * static_cast<double>(static_cast<P>(most));
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < 37; ++k) {
      const double found = static_cast<double>(view(k));
      if (!(std::fabs(found - expected) <= 0.01 * most)) ++wrong;
    }
    INFO(static_cast<double>(view(36)) << " for " << expected);
    CHECK(wrong == 0);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("an average of opposite extremes is finite", "[average]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  using S = polyak::default_state_t<P>;
  Opposite<P> model;
  for (const double decay : {0.999, 0.75, 0.5}) {
    model.check(polyak::Ema<P>(model.params, {.decay = decay}), 1 - decay);
    if constexpr (std::is_same_v<S, float>) {
      model.check(polyak::Ema<P>(model.params, {.decay = decay, .accumulate = Accumulate::kahan}),
                  1 - decay);
      model.check(polyak::Ema<P>(model.params, {.decay = decay, .accumulate = Accumulate::float64}),
                  1 - decay);
      model.check(polyak::Ema<P, double>(model.params, {.decay = decay}), 1 - decay);
    }
  }
  if constexpr (sizeof(P) == 2) {
    for (const Accumulate how : {Accumulate::stochastic, Accumulate::kahan}) {
      model.check(polyak::Ema<P, P>(model.params, {.decay = 0.75, .accumulate = how}), 0.25);
    }
  }
}

TEMPLATE_TEST_CASE("every law of averages is finite between opposite extremes", "[average]", float,
                   double) {
  using P = TestType;
  Opposite<P> model;
  polyak::Swa<P> swa(model.params);
  polyak::EmaBank<P, 2> bank(model.params, std::array{0.9, 0.75});
  polyak::Lawa<P> lawa(model.params, {.checkpoints = 3}),
      running(model.params, {.checkpoints = 3, .running_mean = true});
  for (int call = 0; call < 7; ++call) {  // -, +, +, -, +, +, -
    model.x.assign(37, static_cast<P>(call % 3 == 0 ? -model.most : model.most));
    polyak::update(model.params, swa, bank, lawa, running);
  }
  model.check_at(swa.view()[0], 1.0 / 7);
  model.check_at(lawa.view()[0], 1.0 / 3);
  model.check_at(running.view()[0], 1.0 / 3);
  for (const double decay : {0.9, 0.75}) {
    double expected = -1;
    for (int call = 0; call < 7; ++call) {
      expected += (1 - decay) * ((call % 3 == 0 ? -1 : 1) - expected);
    }
    model.check_at(bank.view(decay == 0.9 ? 0 : 1)[0], expected);
  }

  // Averages that are fed back, and both sides of soft_update.
  model.x.assign(37, static_cast<P>(-model.most));
  polyak::SwitchEma<P> fed_back(model.params,
                                {.decay = 0.75, .unit = polyak::SwitchUnit::iterations});
  model.x.assign(37, static_cast<P>(model.most));
  for (int call = 0; call < 2; ++call) fed_back.update(model.params);
  model.check_at([&](std::size_t k) { return model.x[k]; }, -0.125);

  std::vector<P> target(37, static_cast<P>(-model.most));
  polyak::Parameters<P> targets;
  targets.add("x", target);
  model.x.assign(37, static_cast<P>(model.most));
  polyak::soft_update(targets, model.params, 0.25);
  model.check_at([&](std::size_t k) { return target[k]; }, -0.5);
}

}  // namespace extremes_test
