// SPDX-License-Identifier: Apache-2.0
// Metrics of a step: the norms are those of numbers computed by hand, and the step is the same as
// without them.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <polyak/core/any_method.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step_metrics.hpp>
#include <polyak/polyak.hpp>

#include "../support/allocations.hpp"
#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/refusal.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"

namespace step_metrics_test {

namespace {

using polyak::distance_to_average;
using polyak::StepMetrics;

/// Weights and gradients of a few round numbers.
struct Small {
  std::vector<float> a{1, 2}, b{-1}, ga{3, -4}, gb{12};
  polyak::Parameters<float> params = polyak::Parameters<float>().add("a", a).add("b", b);
  polyak::Gradients<float> gradients = polyak::like(params, ga, gb);
};

/// The weights of the trained tensors.
template <class P>
std::vector<double> weights(const polyak::Parameters<P>& params) {
  std::vector<double> all;
  for (std::size_t k = 0; k < params.size(); ++k) {
    const auto role = params[k].info().role;
    if (role != polyak::Role::average && role != polyak::Role::ignore) continue;
    for (std::size_t i = 0; i < params[k].size(); ++i) {
      all.push_back(static_cast<double>(params[k].data()[i]));
    }
  }
  return all;
}
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) sum += (a[k] - b[k]) * (a[k] - b[k]);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("the norms of a step are those computed by hand") {
  Small model;
  StepMetrics<float> metrics(model.params);
  polyak::Sgd<float> sgd(model.params, {.learning_rate = 0.5});
  CHECK(metrics.count() == 0);
  polyak::step(model.params, model.gradients, metrics, sgd);
  CHECK(metrics.gradient_norm() == 13);  // of 3, 4, 12
  CHECK(metrics.update_norm() == 6.5);
  CHECK(metrics.count() == 1);

  model.gradients.scale(0.5);  // read as 1.5, -2, 6, then limited
  polyak::step(model.params, model.gradients, metrics, sgd);
  CHECK(metrics.gradient_norm() == 6.5);
  CHECK(metrics.update_norm() == 3.25);
  model.gradients.clip_value(1.5);
  polyak::step(model.params, model.gradients, metrics, sgd);
  CHECK(metrics.gradient_norm() == std::sqrt(3 * 1.5 * 1.5));
  model.gradients.scale(1).clip_value(std::numeric_limits<double>::infinity());
  polyak::clip_norm(model.gradients, 6.5);
  polyak::step(model.params, model.gradients, metrics, sgd);
  CHECK(metrics.gradient_norm() == 6.5);

  model.gradients.set("a", polyak::no_gradient).scale(1);
  polyak::step(model.params, model.gradients, metrics, sgd);
  CHECK(metrics.gradient_norm() == 12);
  CHECK(metrics.update_norm() == 6);

  // Only what is chosen, of the tensors that are chosen.
  StepMetrics<float> gradient_only(model.params, {.update_norm = false}),
      update_only(model.params, {.gradient_norm = false}, polyak::named("b"));
  model.gradients.set("a", model.ga);
  polyak::step(model.params, model.gradients, gradient_only, update_only, sgd);
  CHECK(gradient_only.gradient_norm() == 13);
  CHECK(gradient_only.update_norm() == 0);
  CHECK(gradient_only.memory_report().total == 0);
  CHECK(update_only.gradient_norm() == 0);
  CHECK(update_only.update_norm() == 6);
  CHECK(refuses(
      [&] {
        StepMetrics<float>(model.params, {false, false});
      },
      {"StepMetricsOptions must have gradient_norm or update_norm"}));

  // An update has no gradients.
  polyak::HareTortoise<float> hare(model.params, {.decay = 0.5, .switch_every = 1});
  polyak::update(model.params, metrics, hare);
  CHECK(metrics.gradient_norm() == 0);
}

TEST_CASE("metrics change no bit of a step and depend on no split") {
  const std::vector<std::size_t> sizes{5, 70, 0, 33, 9000};
  Model<float> plain({sizes}, true), measured({sizes}, true), listed({sizes}, true);
  polyak::AdamW<float> adamw(plain.params), same(measured.params);
  polyak::Ema<float> ema(plain.params, {.decay = 0.9}), same_ema(measured.params, {.decay = 0.9});
  StepMetrics<float> metrics(measured.params);
  std::vector<polyak::AnyMethod<float>> methods{StepMetrics<float>(listed.params),
                                                polyak::AdamW<float>(listed.params),
                                                polyak::Ema<float>(listed.params, {.decay = 0.9})};
  Splitter pieces(Split::pieces);
  for (std::uint64_t step = 0; step < 6; ++step) {
    const auto without = step == 1 ? std::set<std::size_t>{4} : std::set<std::size_t>{};
    for (Model<float>* model : {&plain, &measured, &listed}) model->differentiate(step, without);
    const std::vector<double> before = weights(measured.params);
    polyak::step(plain.params, plain.gradients, adamw, ema);
    const allocations::Counter counter;
    polyak::step(measured.params, measured.gradients, metrics, same, same_ema);
    const std::size_t allocated = counter.counts().number;
    CHECK(allocated == 0);
    polyak::step(pieces, listed.params, listed.gradients, methods);
    REQUIRE(measured.bytes() == plain.bytes());
    REQUIRE(listed.bytes() == plain.bytes());
    CHECK(polyak::state_bytes(same) == polyak::state_bytes(adamw));
    CHECK(polyak::state_bytes(same_ema) == polyak::state_bytes(ema));

    CHECK(metrics.gradient_norm() == polyak::norm(plain.gradients));
    CHECK(metrics.update_norm() == Approx(distance(weights(measured.params), before)));
    CHECK(metrics.update_norm() > 0);
    const auto& other = *methods[0].get<StepMetrics<float>>();
    CHECK(bits::of(other.gradient_norm()) == bits::of(metrics.gradient_norm()));
    CHECK(bits::of(other.update_norm()) == bits::of(metrics.update_norm()));
  }
}

TEST_CASE("the update of 16-bit weights is measured as it is stored") {
  using B = Eigen::bfloat16;
  Model<B> model({70, 3}, true);
  StepMetrics<B> metrics(model.params);
  polyak::AdamW<B> adamw(model.params,
                         {.learning_rate = 0.01, .accumulate = polyak::Accumulate::master});
  for (std::uint64_t step = 0; step < 3; ++step) {
    model.differentiate(step);
    const std::vector<double> before = weights(model.params);
    polyak::step(model.params, model.gradients, metrics, adamw);
    CHECK(metrics.update_norm() == Approx(distance(weights(model.params), before)));
    CHECK(metrics.update_norm() > 0);
  }
}

TEST_CASE("a step that is skipped or refused is not measured") {
  Small model;
  StepMetrics<float> metrics(model.params);
  polyak::AdamW<float> careful(model.params, {.nonfinite = polyak::Nonfinite::skip_step});
  polyak::AdamW<float> strict(model.params, {.nonfinite = polyak::Nonfinite::error});
  polyak::AdamW<float> careless(model.params);
  CHECK(polyak::step(model.params, model.gradients, metrics, careful));
  const double update = metrics.update_norm();
  model.gb[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(polyak::step(model.params, model.gradients, metrics, careful));
  CHECK_THROWS_AS(polyak::step(model.params, model.gradients, metrics, strict),
                  polyak::nonfinite_error);
  Small other;
  other.params.add("c", other.ga);
  CHECK_THROWS_AS(polyak::step(other.params, polyak::Gradients<float>(other.params), metrics),
                  std::invalid_argument);
  CHECK(metrics.count() == 1);
  CHECK(metrics.gradient_norm() == 13);
  CHECK(metrics.update_norm() == update);
  CHECK(polyak::step(model.params, model.gradients, metrics, careless));
  CHECK(std::isnan(metrics.gradient_norm()));
  CHECK(std::isnan(metrics.update_norm()));
}

TEST_CASE("a step that an optimizer refuses after the norms were taken is not measured") {
  using B = Eigen::bfloat16;
  std::vector<B> w(768, B(1)), g(768, B(0.25F));
  polyak::Parameters<B> params;
  params.add("w", w);
  const auto gradients = polyak::like(params, g);
  StepMetrics<B> metrics(params);
  polyak::AdamW<B> master(params, {.accumulate = polyak::Accumulate::master});
  polyak::AdamW<B> stuck(params, {.learning_rate = 6e-4, .weight_decay = 0});  // as without digits
  CHECK(polyak::step(params, gradients, metrics, master));
  const double gradient = metrics.gradient_norm(), update = metrics.update_norm();
  CHECK(gradient == Approx(0.25 * std::sqrt(768.)));
  g.assign(768, B(1));
  CHECK_THROWS_AS(polyak::step(params, gradients, metrics, stuck), std::invalid_argument);
  CHECK(metrics.count() == 1);
  CHECK(metrics.gradient_norm() == gradient);
  CHECK(metrics.update_norm() == update);
}

TEST_CASE("the distance to an average is that of its numbers") {
  Small model;
  polyak::Ema<float> ema(model.params, {.decay = 0.5});
  const auto words = [](auto call) { return refusal<std::logic_error>(call); };
  CHECK(words([&] {
          static_cast<void>(distance_to_average(model.params, ema));
        }).find("never updated") != std::string::npos);
  model.a = {4, 6};
  model.b = {23};
  ema.update(model.params);  // half way from 1, 2, -1
  CHECK(distance_to_average(model.params, ema) == 0.5 * std::sqrt(9.0 + 16.0 + 24.0 * 24.0));
  Splitter pieces(Split::pieces);
  CHECK(distance_to_average(pieces, model.params, ema) == distance_to_average(model.params, ema));

  polyak::Ema<float> wide(model.params, {.decay = 0.5, .accumulate = polyak::Accumulate::float64}),
      some(model.params, {.decay = 0.5}, polyak::named("a"));
  polyak::Ema<float, Eigen::bfloat16> narrow(model.params, {.decay = 0.5});
  model.a = {1, 2};
  model.b = {11};
  polyak::update(model.params, wide, some, narrow);
  CHECK(distance_to_average(model.params, wide) == 6.5);  // half of 3, 4, 12
  CHECK(distance_to_average(model.params, some) == 2.5);
  CHECK(distance_to_average(model.params, narrow) == 6.5);

  polyak::EmaBank<float, 2> bank(model.params, {0.5, 0.75});
  CHECK(words([&] { static_cast<void>(distance_to_average(model.params, bank)); }) != "");
  bank.update(model.params);
  CHECK(distance_to_average(model.params, bank, bank.slots().names()[1]) == 0);
  CHECK(refuses([&] { static_cast<void>(distance_to_average(model.params, bank, "mean")); },
                {"EmaBank has no slot \"mean\"; it has", bank.slots().names()[0]}));
  Small other;
  other.params.add("c", other.ga);
  CHECK(refuses([&] { static_cast<void>(distance_to_average(other.params, ema)); }, {"\"c\""}));
  const auto guard = ema.swap_into(model.params);
  CHECK(words([&] {
          static_cast<void>(distance_to_average(model.params, ema));
        }).find("swapped in") != std::string::npos);
}

}  // namespace step_metrics_test
