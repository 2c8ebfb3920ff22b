// SPDX-License-Identifier: Apache-2.0
// state_bytes() and restore_state(): a state is restored whole, or refused with the difference.
#include <polyak/core/state.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/adamw.hpp>

#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace state_test {

namespace {

using polyak::Parameters;
using polyak::restore_state;
using polyak::state_bytes;

struct Model {
  std::vector<float> a{1, 2, 3, 4, 5, 6}, b{7, 8}, gradient_a{6, 5, 4, 3, 2, 1}, gradient_b{1, 2};
  std::vector<std::int64_t> steps{3};
  Parameters<float> params;

  explicit Model(const polyak::Shape& shape = {2, 3}, const std::string& second = "b") {
    params.add("a", a, shape).add(second, b).add("steps", steps, polyak::Role::copy);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  polyak::Gradients<float> grads() const { return polyak::like(params, gradient_a, gradient_b); }
};

}  // namespace

TEST_CASE("a restored method goes on with the same bits") {
  Model one, two;
  polyak::AdamW<float> adamw(one.params), resumed(two.params);
  for (int step = 0; step < 3; ++step) adamw.step(one.params, one.grads());
  restore_state(resumed, state_bytes(adamw));
  CHECK(state_bytes(resumed) == state_bytes(adamw));
  two.a = one.a;
  two.b = one.b;
  adamw.step(one.params, one.grads());
  resumed.step(two.params, two.grads());
  CHECK(two.a == one.a);
  CHECK(state_bytes(resumed) == state_bytes(adamw));
}

TEST_CASE("a state of other options or tensors is refused with the difference") {
  const Model model;
  const polyak::AdamW<float> adamw(model.params, {.beta1 = 0.75});
  const auto adamw_state = state_bytes(adamw);
  const auto check = [](auto&& method, const std::vector<std::byte>& state,
                        const std::vector<std::string>& words) {
    const auto before = state_bytes(method);
    CHECK(refuses([&] { restore_state(method, state); }, words));
    CHECK(state_bytes(method) == before);
  };
  // All of the same size.
  check(polyak::AdamW<float>(model.params, {.beta1 = 0.5}), adamw_state,
        {"the state has \"beta1 = 0.75\" where the method has \"beta1 = 0.5\""});
  check(polyak::AdamW<float>(Model({3, 2}).params, {.beta1 = 0.75}), adamw_state,
        {"/a = float32 [2, 3]\"", "/a = float32 [3, 2]\""});
  check(polyak::AdamW<float>(Model({2, 3}, "c").params, {.beta1 = 0.75}), adamw_state,
        {"/b = float32 [2]\"", "/c = float32 [2]\""});
  polyak::AdamW<float> grouped(model.params, {.beta1 = 0.75});
  grouped.group(polyak::named("b"), {.learning_rate_factor = 0.5});
  check(grouped, adamw_state, {"the method has", "0.5"});
  // Of other sizes.
  check(polyak::AdamW<float>(model.params, {.beta1 = 0}), adamw_state, {"\"beta1 = 0.75\""});
  check(polyak::AdamW<float, double>(model.params, {.beta1 = 0.75}), adamw_state,
        {"float32 [2, 3]", "float64 [2, 3]"});
  check(polyak::Ema<float>(model.params), adamw_state, {"restore_state: the state has \""});
  check(polyak::Ema<float>(model.params, {.decay = 0.5}),
        state_bytes(polyak::Ema<float>(model.params, {.decay = 0.75})),
        {"decay = 0.75", "decay = 0.5"});
  Parameters<float> without;
  Model other;
  without.add("a", other.a, {2, 3}).add("b", other.b);
  check(polyak::Ema<float>(without), state_bytes(polyak::Ema<float>(model.params)),
        {"buffer steps = int64 [1] (copy)"});
}

TEST_CASE("a state that is cut short is refused") {
  const Model model;
  polyak::AdamW<float> adamw(model.params);
  auto state = state_bytes(adamw);
  const auto before = state;
  CHECK(refuses([&] { restore_state(adamw, {}); }, {"a whole result of state_bytes()", "got 0"}));
  CHECK(refuses(
      [&] {
        restore_state(adamw, {state.begin(), state.begin() + 20});
      },
      {"a whole result of state_bytes()", "got 20"}));
  state.pop_back();
  CHECK(refuses([&] { restore_state(adamw, state); }, {"restore_state: the state must have "}));
  state.resize(state.size() + 2);
  CHECK(refuses([&] { restore_state(adamw, state); }, {"restore_state: the state must have "}));
  CHECK(state_bytes(adamw) == before);
}

}  // namespace state_test
