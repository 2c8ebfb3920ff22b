// SPDX-License-Identifier: Apache-2.0
// The state of a method by name: exported by hand and set in another method, a run goes on with the
// same bits.
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/any_method.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/state_access.hpp>
#include <polyak/polyak.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/refusal.hpp"
#include "../support/refuses.hpp"

namespace state_access_test {

namespace {

using polyak::AnyMethod;
using polyak::set_number;
using polyak::set_slot;
using polyak::set_steps;
using polyak::slot_of;
using polyak::steps_of;
using Bytes = std::vector<std::byte>;

/// A model with a matrix of columns, a vector, an alias and a buffer.
struct Small {
  Eigen::MatrixXf w = Eigen::MatrixXf::Constant(2, 3, 0.5f);
  std::vector<float> b = std::vector<float>(3, 1), buffer = std::vector<float>(2);
  Eigen::MatrixXf gw = Eigen::MatrixXf::Constant(2, 3, 0.25f);
  std::vector<float> gb = std::vector<float>(3, -1);
  polyak::Parameters<float> params = polyak::Parameters<float>()
                                         .add("w", w)
                                         .add("b", b)
                                         .add("buffer", buffer, polyak::Role::copy)
                                         .add("tied", w);
  polyak::Gradients<float> gradients = polyak::like(params, gw, gb);
};

}  // namespace

TEST_CASE("AdamW that gets its moments and steps by name goes on with the same bits") {
  Model<float> first({20, 3, 70}), second({20, 3, 70});
  polyak::AdamW<float> adamw(first.params, {.learning_rate = 0.01, .amsgrad = true});
  for (std::uint64_t step = 0; step < 10; ++step) {
    first.differentiate(step, step < 4 ? std::set<std::size_t>{1} : std::set<std::size_t>{});
    adamw.step(first.params, first.gradients);
  }
  const polyak::AdamW<float>& exported = adamw;
  CHECK(steps_of(exported, "tensor 0") == 10);
  CHECK(steps_of(exported, "tensor 1") == 6);

  second.restore(first.bytes());
  AnyMethod<float> any =
      polyak::AdamW<float>(second.params, {.learning_rate = 0.01, .amsgrad = true});
  polyak::AdamW<float>& imported = *any.get<polyak::AdamW<float>>();
  for (std::size_t k = 0; k < 3; ++k) {
    const std::string& tensor = first.params[k].name();
    set_slot(imported, "exp_avg", tensor, slot_of<float>(exported, "exp_avg", tensor));
    const auto v = slot_of<float>(exported, "exp_avg_sq", tensor);
    set_slot(imported, "exp_avg_sq", tensor, std::vector<float>(v.begin(), v.end()));
    set_slot(any, "max_exp_avg_sq", tensor, slot_of<float>(exported, "max_exp_avg_sq", tensor));
  }
  set_steps(any, 10);
  CHECK(imported.count() == 10);
  CHECK(steps_of(any, "tensor 1") == 10);
  set_steps(any, "tensor 1", 6);
  CHECK(imported.count() == 10);
  CHECK(polyak::state_bytes(imported) == polyak::state_bytes(adamw));
  for (std::uint64_t step = 10; step < 15; ++step) {
    first.differentiate(step);
    second.differentiate(step);
    adamw.step(first.params, first.gradients);
    imported.step(second.params, second.gradients);
    REQUIRE(second.bytes() == first.bytes());
    REQUIRE(polyak::state_bytes(imported) == polyak::state_bytes(adamw));
  }
}

TEST_CASE("a tensor without state gets no steps") {
  Model<float> first({20, 3, 70}), second({20, 3, 70});
  polyak::AdamW<float> adamw(first.params), imported(second.params);
  adamw.group(polyak::named("tensor 1"), {.frozen = true});
  imported.group(polyak::named("tensor 1"), {.frozen = true});
  first.differentiate(0);
  adamw.step(first.params, first.gradients);
  for (const std::string tensor : {"tensor 0", "tensor 2"}) {
    for (const char* slot : {"exp_avg", "exp_avg_sq"}) {
      set_slot(imported, slot, tensor, slot_of<float>(adamw, slot, tensor));
    }
  }
  set_steps(imported, 1);
  CHECK(polyak::state_bytes(imported) == polyak::state_bytes(adamw));
}

TEST_CASE("a slot is read in place, and set from objects of its shape") {
  Small model;
  polyak::AdamW<float> adamw(model.params);
  Eigen::MatrixXf moments(2, 3);
  moments << 1, 2, 3, 4, 5, 6;
  set_slot(adamw, "exp_avg", "w", moments);
  const std::span<const float> read = slot_of<float>(adamw, "exp_avg", "w");
  CHECK(read.data() == adamw.slot("exp_avg")["w"].data());
  CHECK(std::vector<float>(read.begin(), read.end()) == std::vector<float>{1, 4, 2, 5, 3, 6});
  CHECK(slot_of<float>(adamw, "exp_avg", "tied").data() == read.data());
  set_slot(adamw, "exp_avg", "b", std::vector<float>{7, 8, 9});
  CHECK(adamw.slot("exp_avg")["b"](2) == 9);

  // Steps without gradient count for no tensor.
  set_steps(adamw, 5);
  CHECK(adamw.count() == 5);
  CHECK(steps_of(adamw, "w") == 5);
  polyak::Sgd<float> sgd(model.params, {.learning_rate = 0.1}, polyak::named("b"));  // no slots
  set_steps(sgd, 3);
  CHECK(sgd.count() == 3);
  CHECK(steps_of(sgd, "b") == 3);
}

TEST_CASE("an average that is set by name is readable and goes on") {
  Small model;
  polyak::Ema<float> ema(model.params, {.decay = 0.5}), other(model.params, {.decay = 0.5});
  ema.update(model.params);
  model.w *= 2;
  ema.update(model.params);
  CHECK_FALSE(other.ready());
  for (const char* tensor : {"w", "b"}) {
    set_slot(other, "average", tensor, slot_of<float>(ema, "average", tensor));
  }
  set_number(other, "calls", 2);
  set_number(other, "updates", std::int64_t{2});
  set_number(other, "gain", ema.gain());
  CHECK(other.ready());
  CHECK(polyak::state_bytes(other) == polyak::state_bytes(ema));

  polyak::Ema<float> wide(model.params, {.accumulate = polyak::Accumulate::float64});
  set_slot(wide, "average", "b", std::vector<double>{0.1, 0.2, 0.3});
  CHECK(slot_of<double>(wide, "average", "b")[2] == 0.3);
  CHECK(refuses([&] { set_slot(wide, "average", "b", std::vector<float>(3)); },
                {"\"average\"", "\"b\"", "holds float64", "float32"}));
}

TEST_CASE("state that does not fit is refused by name and nothing changes") {
  Small model;
  polyak::AdamW<float> adamw(model.params, {}, polyak::named("w"));
  polyak::Ema<float> ema(model.params);
  ema.update(model.params);
  adamw.step(model.params, model.gradients);
  const auto states = [&] {
    return std::vector<Bytes>{polyak::state_bytes(adamw), polyak::state_bytes(ema)};
  };
  const auto before = states();
  const auto refused = [&](auto call, const std::vector<std::string>& words) {
    return refuses(call, words) && states() == before;
  };
  const std::vector<float> six(6), five(5);
  CHECK(refused([&] { set_slot(adamw, "m", "w", six); },
                {"AdamW has no slot \"m\"; it has exp_avg, exp_avg_sq"}));
  CHECK(refused([&] { static_cast<void>(slot_of<float>(adamw, "m", "w")); }, {"no slot \"m\""}));
  CHECK(refused([&] { set_slot(adamw, "exp_avg", "x", six); }, {"no tensor \"x\""}));
  CHECK(refused([&] { set_slot(adamw, "exp_avg", "b", six); },
                {"AdamW has no state for tensor \"b\""}));
  CHECK(refused([&] { set_slot(ema, "average", "buffer", six); },
                {"Ema has no state for tensor \"buffer\""}));
  CHECK(
      refused([&] { set_slot(adamw, "exp_avg", "w", five); }, {"\"exp_avg\"", "\"w\"", "6", "5"}));
  CHECK(refused([&] { set_slot(adamw, "exp_avg", "w", std::vector<double>(6)); },
                {"\"exp_avg\"", "holds float32", "float64"}));
  CHECK(refused([&] { static_cast<void>(slot_of<double>(adamw, "exp_avg", "w")); },
                {"holds float32", "float64"}));
  CHECK(refused(
      [&] { set_slot(adamw, "exp_avg", "w", Eigen::MatrixXf(Eigen::MatrixXf::Ones(3, 2))); },
      {"\"exp_avg\"", "[2, 3] column-major", "[3, 2]"}));
  using Rows = Eigen::Matrix<float, 2, 3, Eigen::RowMajor>;
  CHECK(refused([&] { set_slot(adamw, "exp_avg", "w", Rows(Rows::Ones())); },
                {"\"exp_avg\"", "column-major"}));
  const Eigen::MatrixXf larger = Eigen::MatrixXf::Ones(4, 4);
  CHECK(refused([&] { set_slot(adamw, "exp_avg", "w", larger.block(0, 0, 2, 3)); },
                {"\"w\"", "contiguous"}));

  CHECK(refused([&] { set_steps(adamw, -1); }, {"steps", ">= 0", "-1"}));
  CHECK(refused([&] { set_steps(adamw, "w", -1); }, {"steps", ">= 0", "-1"}));
  CHECK(refused([&] { set_steps(adamw, "x", 1); }, {"no tensor \"x\""}));
  CHECK(refused([&] { set_steps(adamw, "b", 1); }, {"no state for tensor \"b\""}));
  CHECK(refused([&] { static_cast<void>(steps_of(adamw, "b")); }, {"no state for tensor \"b\""}));
  CHECK(refused([&] { set_steps(ema, 1); }, {"Ema counts no steps"}));
  CHECK(refused([&] { set_number(ema, "time", 1); },
                {"Ema has no number \"time\"; it has calls, updates, skipped, gain"}));
  CHECK(refused([&] { set_number(ema, "calls", 1.5); }, {"\"calls\"", "1.5"}));

  {
    const auto guard = ema.swap_into(model.params);
    const auto lent = [](auto call) {
      return refusal<std::logic_error>(call).find("swapped in") != std::string::npos;
    };
    CHECK(lent([&] { set_slot(ema, "average", "b", std::vector<float>(3)); }));
    CHECK(lent([&] { static_cast<void>(slot_of<float>(ema, "average", "b")); }));
    CHECK(lent([&] { set_number(ema, "calls", 3); }));
  }
  CHECK(states() == before);
}

}  // namespace state_access_test
