// SPDX-License-Identifier: Apache-2.0
// Numbers and options of optimizers that change between steps: at() and with().
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/step.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/learning_rate.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "allocations.hpp"
#include "catch.hpp"
#include "one_tensor.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace with_test {

using namespace polyak;

namespace {

/// A rule without any weight decay.
struct PlainOptions {
  double learning_rate = 0.1;
  Nonfinite nonfinite = Nonfinite::propagate;
};
template <class Fields>
void fields(PlainOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("nonfinite", o.nonfinite);
}
struct PlainRule {
  using Options = PlainOptions;
  static constexpr std::string_view name = "Plain";
  template <class T>
  static PlainSgdLaw<T> law(const PlainOptions&, const StepOf<T>& s) {
    return {.step = s(s.learning_rate), .shrink = 1, .coupled = 0};
  }
};
class Plain final : public Elementwise<Plain, PlainRule, double, double> {
 public:
  explicit Plain(const Parameters<double>& params)
      : Plain::Elementwise(params, PlainOptions{}, Selection{}) {}
};

double rate_at(int t) { return 0.1 / t; }
double decay_at(int t) { return 0.01 * t; }

}  // namespace

TEST_CASE("at() sets the weight decay of a step, alone and in a fused step") {
  OneTensor<> alone({1, -2, 3}), fused({1, -2, 3});
  Sgd<double> one(alone.params, {.learning_rate = 0.5, .weight_decay = 0.3});
  Sgd<double> other(fused.params, {.learning_rate = 0.5, .weight_decay = 0.3});
  Ema<double> ema(fused.params, {.decay = 0.9}), after(alone.params, {.decay = 0.9});
  std::vector<double> expected = alone.x;
  for (int t = 1; t <= 5; ++t) {
    for (std::size_t k = 0; k < 3; ++k) {
      alone.gradient[k] = fused.gradient[k] = std::sin(t + static_cast<double>(k));
      const double shrink = 1 - rate_at(t) * decay_at(t);
      expected[k] = std::fma(-rate_at(t), alone.gradient[k], shrink * expected[k]);
    }
    one.at({.learning_rate = rate_at(t), .weight_decay = decay_at(t)})
        .step(alone.params, alone.grads);
    after.update(alone.params);
    step(fused.params, fused.grads,
         other.at({.learning_rate = rate_at(t), .weight_decay = decay_at(t)}), ema);
    CHECK(alone.x == expected);
    CHECK(fused.x == expected);
    CHECK(ema.view()[0][1] == after.view()[0][1]);
  }
  CHECK(one.weight_decay() == decay_at(5));
  CHECK(one.learning_rate() == rate_at(5));
  CHECK(one.options().weight_decay == 0.3);
  one.at({.weight_decay = 0});
  CHECK(one.learning_rate() == rate_at(5));  // what is absent stays
  one.at(0.25);
  CHECK(one.weight_decay() == 0);
}

TEST_CASE("a schedule of the learning rate serves as one of the weight decay") {
  OneTensor<> model({1});
  AdamW<double> optimizer(model.params);
  for (std::int64_t t = 0; t < 4; ++t) {
    optimizer.at({.learning_rate = 1e-3, .weight_decay = 0.1 * cosine(t, {.total_steps = 4})});
    optimizer.step(model.params, model.grads);
  }
  CHECK(optimizer.weight_decay() == 0.1 * cosine(3, {.total_steps = 4}));
}

TEST_CASE("groups multiply a scheduled decay, and a coupled decay may fall to 0") {
  TwoTensors<> model;
  AdamW<double> optimizer(model.params, {.learning_rate = 0.1, .weight_decay = 0.5});
  optimizer.group(named("second"), {.weight_decay_factor = 2});
  optimizer.at({.weight_decay = 0.25}).step(model.params, model.both);  // gradients of 0
  CHECK(model.first[0] == 1 * (1 - 0.1 * 0.25));
  CHECK(model.second[0] == 4 * (1 - 0.1 * 0.5));
  optimizer.group(named("first"), {.weight_decay_factor = 0});  // a new group takes it over
  optimizer.step(model.params, model.both);
  CHECK(model.first[0] == 1 * (1 - 0.1 * 0.25));
  CHECK(model.second[0] == 4 * (1 - 0.1 * 0.5) * (1 - 0.1 * 0.5));

  OneTensor<> one({2});
  Sgd<double> coupled(one.params, {.learning_rate = 0.5, .coupled_weight_decay = 0.1});
  coupled.at({.coupled_weight_decay = 0.2}).step(one.params, one.grads);
  CHECK(one.x[0] == std::fma(-0.5, 0.2 * 2.0, 2.0));
  const double before = one.x[0];
  coupled.at({.coupled_weight_decay = 0}).step(one.params, one.grads);
  CHECK(one.x[0] == before);
  Adam<double> adam(one.params, {.coupled_weight_decay = 0.1});
  adam.at({.coupled_weight_decay = 0}).step(one.params, one.grads);
  CHECK(one.x[0] == before);
}

TEST_CASE("at() refuses bad numbers and decays that the optimizer lacks, and changes nothing") {
  OneTensor<> model({1});
  AdamW<double> adamw(model.params, {.weight_decay = 0.1});
  const auto before = state_bytes(adamw);
  for (const double bad : {-0.5, nan_value, infinity}) {
    CHECK(refuses([&] { adamw.at({.learning_rate = 0.5, .weight_decay = bad}); },
                  {"AdamWOptions.weight_decay must be finite and >= 0"}));
    CHECK(refuses([&] { adamw.at({.learning_rate = bad, .weight_decay = 0.5}); },
                  {"AdamWOptions.learning_rate must be finite and >= 0"}));
  }
  CHECK(refuses([&] { adamw.at({.coupled_weight_decay = 0.1}); }, {"coupled_weight_decay"}));
  CHECK(state_bytes(adamw) == before);
  Adam<double> adam(model.params);
  CHECK(refuses([&] { adam.at({.weight_decay = 0.1}); }, {"coupled_weight_decay"}));
  Plain plain(model.params);
  CHECK(refuses([&] { plain.at({.weight_decay = 0.1}); }, {"Plain", "weight_decay"}));
  CHECK(plain.at({.learning_rate = 0.2}).learning_rate() == 0.2);
}

TEST_CASE("at() with a decay does not allocate") {
  TwoTensors<> model;
  AdamW<double> optimizer(model.params);
  optimizer.group(named("second"), {.weight_decay_factor = 2});
  optimizer.step(model.params, model.both);
  const allocations::Counter counter;
  optimizer.at({.learning_rate = 0.5, .weight_decay = 0.25}).step(model.params, model.both);
  CHECK(counter.counts().number == 0);
}

TEST_CASE("a scheduled decay is saved and goes on after loading") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "run.safetensors";
  OneTensor<> model({1, 2}), later({0, 0});
  AdamW<double> optimizer(model.params), resumed(later.params);
  optimizer.at({.weight_decay = 0.5}).step(model.params, model.grads);
  save(path, model.params, optimizer);
  load(path, later.params, resumed);
  CHECK(resumed.weight_decay() == 0.5);
  optimizer.step(model.params, model.grads);
  resumed.step(later.params, later.grads);
  CHECK(later.x == model.x);
  CHECK(state_bytes(resumed) == state_bytes(optimizer));

  AdamW<double> other(later.params, {.weight_decay = 0.125});  // an option that is overridden
  load(path, LoadOptions{.override_options = true}, later.params, other);
  CHECK(other.weight_decay() == 0.125);
}

TEST_CASE("loading a file without a scheduled decay sets the decay back to that of the options") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run");
  OneTensor<> model({1, 2});
  const AdamW<double> saved(model.params, {.weight_decay = 0.25});
  save(path, model.params, saved);
  AdamW<double> run(model.params, {.weight_decay = 0.25});
  run.at({.weight_decay = 0.5});
  load(path, model.params, run);
  CHECK(run.weight_decay() == 0.25);
  CHECK(state_bytes(run) == state_bytes(saved));
}

TEMPLATE_TEST_CASE("with() the same options changes nothing", "", AdamW<double>, Adam<double>,
                   Lion<double>, AdEMAMix<double>, ScheduleFreeSgd<double>,
                   ScheduleFreeAdamW<double>) {
  OneTensor<> model({1, 2});
  TestType optimizer(model.params);
  model.gradient = {0.5, -0.25};
  optimizer.at(0.125).step(model.params, model.grads);
  const auto before = state_bytes(optimizer);
  optimizer.with(optimizer.options());
  CHECK(state_bytes(optimizer) == before);
  CHECK(optimizer.learning_rate() == 0.125);
  auto options = optimizer.options();
  options.learning_rate = 0.5;
  options.weight_decay = options.weight_decay / 2;
  const void* const place = optimizer.slots().data(0);
  CHECK(optimizer.with(options).learning_rate() == 0.5);
  CHECK(optimizer.slots().data(0) == place);
}

TEST_CASE("with() changes betas and keeps the moments") {
  OneTensor<> model({1});
  Lion<double> lion(model.params, {.learning_rate = 0.5, .beta1 = 0.5, .beta2 = 0.5});
  model.gradient = {1};
  lion.step(model.params, model.grads);
  CHECK(lion.slot("exp_avg")[0](0) == 0.5);
  lion.with({.learning_rate = 0.5, .beta1 = 0.5, .beta2 = 0.75});
  lion.step(model.params, model.grads);
  CHECK(lion.slot("exp_avg")[0](0) == 0.75 * 0.5 + 0.25 * 1);
  CHECK(lion.options().beta2 == 0.75);
}

TEST_CASE("new options are saved and compared") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "run.safetensors";
  OneTensor<> model({1, 2});
  AdamW<double> optimizer(model.params), old(model.params);
  AdamW<double> fresh(model.params, {.beta2 = 0.5, .weight_decay = 0.25});
  optimizer.step(model.params, model.grads);
  optimizer.with({.beta2 = 0.5, .weight_decay = 0.25});
  CHECK(optimizer.weight_decay() == 0.25);
  save(path, model.params, optimizer);
  CHECK(refuses([&] { load(path, model.params, old); }, {"\"beta2\" is 0.5 in the file"}));
  CHECK_NOTHROW(load(path, model.params, fresh));
  CHECK(state_bytes(fresh) == state_bytes(optimizer));
}

TEST_CASE("with() refuses other slots, other variants and bad options, and changes nothing") {
  OneTensor<> model({1, 2});
  AdamW<double> adamw(model.params);
  adamw.step(model.params, model.grads);
  const auto before = state_bytes(adamw);
  CHECK(refuses([&] { adamw.with({.amsgrad = true}); },
                {"AdamW", "(exp_avg, exp_avg_sq)", "exp_avg, exp_avg_sq, max_exp_avg_sq"}));
  CHECK(refuses([&] { adamw.with({.beta1 = 0}); }, {"need exp_avg_sq"}));
  CHECK(refuses([&] { adamw.with({.coupled_weight_decay = 0.1}); }, {"variant"}));
  CHECK(refuses([&] { adamw.with({.beta2 = 1.5}); }, {"AdamWOptions.beta2", "1.5"}));
  CHECK(state_bytes(adamw) == before);
  Sgd<double> sgd(model.params, {.learning_rate = 0.1, .momentum = 0.9});
  CHECK(refuses([&] { sgd.with({.learning_rate = 0.1}); }, {"need none"}));
  CHECK(refuses([&] { sgd.with({.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}); },
                {"variant"}));
  ScheduleFreeSgd<double> free(model.params);
  CHECK(refuses([&] { free.with({.beta = 0.95}); }, {"beta", "0.95"}));
  CHECK(free.with({.warmup_steps = 10}).options().warmup_steps == 10);
}

}  // namespace with_test
