// SPDX-License-Identifier: Apache-2.0
// Role::frozen: saved with the model, no state, no gradient, no pass.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/soft_update.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/step.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>

#include "catch.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace frozen_test {

using namespace polyak;

namespace {

/// A trained weight, a frozen one of the same type, and frozen weights of other types.
struct Model {
  std::vector<float> weight, gradient, backbone;
  std::vector<Eigen::half> halves;
  std::vector<std::int8_t> codes;
  Parameters<float> params;
  explicit Model(float value = 1)
      : weight(3, value),
        gradient(3, 0.5F),
        backbone(4, value + 1),
        halves(2, Eigen::half(value + 2)),
        codes(5, static_cast<std::int8_t>(value)) {
    params.add("backbone", backbone, Role::frozen)
        .add("weight", weight)
        .add("halves", halves, Role::frozen)
        .add("codes", codes, Role::frozen);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] Gradients<float> gradients() const {
    Gradients<float> list(params);
    list.set("weight", gradient);
    return list;
  }
  [[nodiscard]] bool frozen_are(float value) const {
    return backbone == std::vector<float>(4, value + 1) &&
           halves == std::vector<Eigen::half>(2, Eigen::half(value + 2)) &&
           codes == std::vector<std::int8_t>(5, static_cast<std::int8_t>(value));
  }
};

}  // namespace

TEST_CASE("frozen weights take no gradient and are not expected among the gradients") {
  Model model;
  Gradients<float> list(model.params);
  const std::vector<float> gradient(4);
  CHECK(refuses([&] { list.set("backbone", gradient); }, {"\"backbone\" is not trained"}));
  CHECK_NOTHROW(like(model.params, model.gradient));  // one for each trained tensor
  CHECK(norm(model.params) == Approx(std::sqrt(3.0)));
}

TEST_CASE("frozen weights have no state and cost no pass") {
  Model model;
  AdamW optimizer(model.params);
  ScheduleFreeSgd schedule_free(model.params, {.learning_rate = 0.1});
  Ema ema(model.params, {.decay = 0.5});
  Lawa lawa(model.params, {.checkpoints = 2});
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    const bool trained = model.params[k].name() == "weight";
    CHECK(optimizer.slots().keeps(k) == trained);
    CHECK(schedule_free.slots().keeps(k) == trained);
    CHECK(ema.slots().keeps(k) == trained);
    CHECK(lawa.slots().keeps(k) == trained);
  }
  CHECK(ema.memory_report().slots.at(0).elements == 3);
  std::vector<float> alone(3);
  Parameters<float> one;
  one.add("weight", alone);
  CHECK(ema.memory_report().total == Ema(one, {.decay = 0.5}).memory_report().total);
  CHECK(optimizer.memory_report().total == AdamW(one).memory_report().total);

  const auto grads = model.gradients();
  for (int k = 0; k < 3; ++k) step(model.params, grads, optimizer, ema, lawa);
  schedule_free.step(model.params, grads);
  CHECK(model.weight[0] != 1);
  CHECK(model.frozen_are(1));

  const auto trained = model.weight;
  {
    const auto guard = ema.swap_into(model.params);
    CHECK(model.weight != trained);
    CHECK(model.frozen_are(1));
  }
  CHECK(model.weight == trained);
  Model target(5);
  ema.copy_to(target.params);
  CHECK(target.weight[0] == ema.view()["weight"][0]);
  CHECK(target.frozen_are(5));
  schedule_free.copy_to(model.params, target.params);
  CHECK(target.frozen_are(1));
}

TEST_CASE("models share frozen weights") {
  Model online(1);
  std::vector<float> weight(3, 3.0F);
  Parameters<float> target;
  target.add("backbone", online.backbone, Role::frozen)
      .add("weight", weight)
      .add("halves", online.halves, Role::frozen)
      .add("codes", online.codes, Role::frozen);
  soft_update(target, online.params, 0.5);
  CHECK(weight[0] == 2);
  CHECK(online.frozen_are(1));
  const auto grads = online.gradients();
  ScheduleFreeSgd optimizer(online.params, {.learning_rate = 0.1});
  optimizer.step(online.params, grads);
  optimizer.copy_to(online.params, target);
  CHECK(online.frozen_are(1));

  Ema average(target, {.decay = 0.5});
  average.update(target);
  const auto guard = average.swap_into(target);  // a guard of one does not stop the other
  CHECK_NOTHROW(optimizer.step(online.params, grads));
}

TEST_CASE("frozen weights are saved with the model, and files name their role") {
  const TemporaryFolder folder;
  const auto run = folder.path() / "run.safetensors", weights = folder.path() / "w.safetensors";
  Model model(1), later(5);
  AdamW optimizer(model.params), later_optimizer(later.params);
  Ema ema(model.params, {.decay = 0.5}), later_ema(later.params, {.decay = 0.5});
  step(model.params, model.gradients(), optimizer, ema);

  save(run, model.params, optimizer, ema);
  load(run, later.params, later_optimizer, later_ema);
  CHECK(later.frozen_are(1));
  CHECK(later.weight == model.weight);
  CHECK(state_bytes(later_optimizer) == state_bytes(optimizer));
  CHECK(state_bytes(later_ema) == state_bytes(ema));

  save_average(weights, model.params, ema);
  Model shipped(5);
  load_weights(weights, shipped.params);
  CHECK(shipped.frozen_are(1));
  CHECK(shipped.weight[0] == ema.view()["weight"][0]);
  save_weights(weights, model.params, {.dtype = DType::bfloat16});
  Model rounded(5);
  load_weights(weights, rounded.params);
  CHECK(rounded.frozen_are(1));

  std::vector<float> weight(3), backbone(4);
  std::vector<Eigen::half> halves(2);
  std::vector<std::int8_t> codes(5);
  Parameters<float> trained;
  trained.add("backbone", backbone)
      .add("weight", weight)
      .add("halves", halves, Role::frozen)
      .add("codes", codes, Role::frozen);
  AdamW other(trained);
  Ema other_ema(trained, {.decay = 0.5});
  CHECK(refuses([&] { load(run, trained, other, other_ema); }, {"\"backbone\" is", "(frozen)"}));
}

}  // namespace frozen_test
