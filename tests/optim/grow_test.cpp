// SPDX-License-Identifier: Apache-2.0
// Lists that grow and shrink: refusals, selections and groups. That all else goes on bit for bit is
// shown by the battery of methods/.
#include <stdexcept>
#include <vector>

#include <polyak/average/aswa.hpp>
#include <polyak/average/cotta.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>

#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace grow_test {

using namespace polyak;  // NOLINT

namespace {

/// A model whose list may have any of its tensors.
struct Model {
  std::vector<float> w{1, 2, 3, 4, 5, 6}, b{1, 2}, head{7, 8, 9}, head_b{1};
  std::vector<float> g = std::vector<float>(6, 1);

  [[nodiscard]] Parameters<float> small() {
    return Parameters<float>().add("w", w, {2, 3}).add("b", b);
  }
  [[nodiscard]] Parameters<float> large() {
    Parameters<float> params;
    params.add("head", head).add("w", w, {2, 3}).add("head.b", head_b).add("b", b);
    return params;
  }
  template <class M>
  void step(const Parameters<float>& params, M& method) {
    Gradients<float> gradients(params);
    for (std::size_t k = 0; k < params.size(); ++k) gradients.set(params[k].name(), g.data());
    method.step(params, gradients);
  }
};

}  // namespace

TEST_CASE("moments follow their tensors by name") {
  Model model;
  AdamW optimizer(model.small(), {.weight_decay = 0});
  for (int t = 0; t < 3; ++t) model.step(model.small(), optimizer);
  const float m = optimizer.slot("exp_avg")["b"][1], v = optimizer.slot("exp_avg_sq")["w"][5];
  optimizer.at(0.25).grow(model.large());
  CHECK(optimizer.slot("exp_avg")["b"][1] == m);
  CHECK(optimizer.slot("exp_avg_sq")["w"][5] == v);
  CHECK(optimizer.slot("exp_avg")["head"][0] == 0);
  CHECK(optimizer.count() == 3);
  CHECK(optimizer.learning_rate() == 0.25);
  // The first step of the new tensor is that of a new AdamW: learning_rate times the sign of g.
  model.step(model.large(), optimizer);
  CHECK(model.head[0] == Approx(7 - 0.25));
  CHECK(optimizer.count() == 4);
  optimizer.shrink(Parameters<float>().add("b", model.b));
  CHECK(optimizer.slot("exp_avg")["b"][1] == Approx(1 - 0.9 * 0.9 * 0.9 * 0.9));
  CHECK(optimizer.memory_report().slots[0].elements == 2);
  CHECK(refuses([&] { static_cast<void>(optimizer.slot("exp_avg")["w"]); }, {"\"w\""}));
}

TEST_CASE("groups and selections hold for the tensors that come") {
  Model model;
  AdamW optimizer(model.small(), {.learning_rate = 0.5, .weight_decay = 0}, !named("head"));
  optimizer.group(named("*b"), {.learning_rate_factor = 0.5}).group(named("w"), {.frozen = true});
  optimizer.grow(model.large());
  const auto place = [&](const char* name) { return model.large().layout()->find(name); };
  CHECK(optimizer.group_of(place("head.b")).learning_rate_factor == 0.5);
  CHECK(optimizer.group_of(place("b")).learning_rate_factor == 0.5);
  CHECK(optimizer.group_of(place("w")).frozen);
  CHECK(optimizer.memory_report().slots[0].elements == 3);  // of head.b and b
  model.step(model.large(), optimizer);
  CHECK(model.head[0] == 7);
  CHECK(model.w[0] == 1);
  CHECK(model.head_b[0] == Approx(1 - 0.25));

  AdamW same(model.large(), {.learning_rate = 0.5, .weight_decay = 0}, !named("head"));
  same.group(named("*b"), {.learning_rate_factor = 0.5}).group(named("w"), {.frozen = true});
  model.step(model.large(), same);
  CHECK(state_bytes(same) == state_bytes(optimizer));
}

TEST_CASE("lists that neither grow nor shrink are refused, and nothing has changed") {
  Model model;
  std::vector<float> other(12);
  const auto check = [&](auto&& method) {
    const auto before = state_bytes(method);
    CHECK(refuses(
        [&] {
          method.grow(Parameters<float>().add("w", model.w, {2, 3}));
        },
        {"grow()", "\"b\" is missing"}));
    CHECK(refuses(
        [&] {
          method.grow(Parameters<float>().add("b", model.b).add("w", other, {3, 4}));
        },
        {"grow()", "\"w\" is float32 [3, 4], expected float32 [2, 3]"}));
    CHECK(refuses(
        [&] {
          method.grow(Parameters<float>().add("b", model.b).add("w", model.w, {2, 3}));
        },
        {"grow()", "\"b\" is number 0, expected number 1"}));
    CHECK(refuses([&] { method.shrink(model.large()); },
                  {"shrink()", "\"head\" is extra", "\"head.b\" is extra"}));
    CHECK(refuses([&] { method.shrink(Parameters<float>().add("b", model.b, Role::copy)); },
                  {"shrink()", "\"b\" is float32 [2] (copy), expected float32 [2]"}));
    CHECK(state_bytes(method) == before);
    method.grow(model.small());  // the same list
    method.shrink(model.small());
    CHECK(state_bytes(method) == before);
  };
  check(AdamW(model.small()));
  check(AdEMAMix(model.small(), {.beta3_warmup = 3}));
  check(Ema(model.small()));
  check(Aswa(model.small()));
  check(CottaTeacher(model.small()));

  AdamW selected(model.small(), {}, named("w"));
  CHECK(refuses([&] { selected.shrink(Parameters<float>().add("b", model.b)); }, {"named(\"w\")"}));
  Ema<float> ema(model.small(), {}, named("w"));
  CHECK(refuses([&] { ema.shrink(Parameters<float>().add("b", model.b)); }, {"named(\"w\")"}));
  const auto list = model.small();
  ema.update(list);
  const auto guard = ema.swap_into(list);
  CHECK_THROWS_AS(selected.grow(model.large()), std::logic_error);
  CHECK_THROWS_AS(selected.shrink(model.small()), std::logic_error);
}

TEST_CASE("the norms of Aswa are those of the tensors in the list") {
  Model model;
  const AswaOptions options{.filter = AswaFilter::largest_norm};
  Aswa all(model.small(), options), one(model.small(), {.filter = options.filter, .normed = {"w"}});
  update(model.small(), all, one);
  all.grow(model.large());
  one.grow(model.large());
  model.head[0] += 3;  // the farthest of all
  model.b[0] += 1;
  update(model.large(), all, one);
  CHECK(all.norm() == Approx(3));
  CHECK(one.norm() == 0);
  all.shrink(model.small());
  CHECK(refuses([&] { one.shrink(Parameters<float>().add("b", model.b)); }, {"\"w\""}));
  one.shrink(model.small());
  model.w[0] += 2;
  update(model.small(), all, one);
  CHECK(all.norm() == Approx(2));
  CHECK(one.norm() == Approx(2));
}

TEST_CASE("the source of a tensor that comes late is its value then") {
  Model model;
  CottaTeacher teacher(model.small(), {.restore_probability = 0});
  model.w[0] = 10;
  model.head[0] = 20;
  teacher.grow(model.large());
  CHECK(teacher.source()["w"][0] == 1);
  CHECK(teacher.source()["head"][0] == 20);
  teacher.shrink(Parameters<float>().add("head", model.head));
  model.head[0] = 0;
  const auto list = Parameters<float>().add("head", model.head);
  teacher.restore(list, [](std::size_t, std::size_t) { return true; });
  CHECK(model.head[0] == 20);
}

}  // namespace grow_test
