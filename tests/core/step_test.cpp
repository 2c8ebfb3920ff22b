// SPDX-License-Identifier: Apache-2.0
// step() and update(): refusals, and that a refused or skipped step changes nothing.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/polyak.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"

namespace step_test {

namespace {

using polyak::Nonfinite;
using Bytes = std::vector<std::byte>;

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

/// The state of a method, as it lists it.
class Listing final : public polyak::StateVisitor {
 public:
  Listing() : StateVisitor(false) {}
  std::vector<std::string> names;
  std::map<std::string, Bytes> bytes_of;

  void counters(std::string_view name, std::span<const std::int64_t> values) override {
    bytes(name, values.data(), values.size_bytes());
  }
  void buffers(const polyak::Layout& layout, const std::byte* data) override {
    bytes("buffers", data, polyak::detail::buffer_bytes(layout));
  }
  void slots(const polyak::ConstSlots& slots) override {
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      Bytes all;
      for (std::size_t k = 0; k < slots.layout().tensors.size(); ++k) {
        const Bytes more = bits::bytes(slots.address(slot, k), slots.bytes(slot, k));
        all.insert(all.end(), more.begin(), more.end());
      }
      names.push_back(slots.names()[slot]);
      bytes_of[slots.names()[slot]] = all;
    }
  }
  [[nodiscard]] std::size_t size() const {
    std::size_t sum = 0;
    for (const auto& [name, bytes] : bytes_of) sum += bytes.size();
    return sum;
  }

 private:
  void add_scalar(std::string_view name, const void* value,
                  const polyak::StateScalarType& type) override {
    bytes(name, value, type.bytes);
  }
  void bytes(std::string_view name, const void* data, std::size_t size) {
    names.emplace_back(name);
    bytes_of[std::string(name)] = bits::bytes(static_cast<const std::byte*>(data), size);
  }
};

template <class Method>
Listing listing(const Method& method) {
  Listing list;
  polyak::detail::visit_state(method, list);
  return list;
}

/// The state but for the count of skipped steps.
template <class Method>
std::map<std::string, Bytes> lasting_state(const Method& method) {
  auto bytes = listing(method).bytes_of;
  bytes.erase("skipped");
  return bytes;
}

/// A model of three tensors whose gradients and weights can be spoilt in one element.
struct Run {
  std::vector<float> a = std::vector<float>(40, 0.5F);
  std::vector<float> b = std::vector<float>(3, -0.25F);
  std::vector<float> c = std::vector<float>(129, 2);
  std::vector<float> ga = std::vector<float>(40, 0.125F);
  std::vector<float> gb = std::vector<float>(3, 1);
  std::vector<float> gc = std::vector<float>(129, -3);
  polyak::Parameters<float> params =
      polyak::Parameters<float>().add("a", a).add("b", b).add("c", c, polyak::Role::ignore);
  polyak::Gradients<float> gradients = polyak::like(params, ga, gb, gc);

  [[nodiscard]] Bytes bytes() const {
    Bytes all = bits::bytes(a);
    for (const auto& more : {bits::bytes(b), bits::bytes(c)}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
};

/// Every place of a NaN or an infinity that a check must see: the ends, the middle and the tail of
/// packs, in any tensor.
template <class Try>
void at_every_place(std::vector<std::vector<float>*> tensors, Try attempt) {
  for (std::vector<float>* tensor : tensors) {
    for (std::size_t k = 0; k < tensor->size(); ++k) {
      const float good = (*tensor)[k];
      (*tensor)[k] = k % 3 == 0 ? nan_value : k % 3 == 1 ? infinity : -infinity;
      attempt();
      (*tensor)[k] = good;
    }
  }
}

}  // namespace

TEST_CASE("a step refuses a method that is given twice") {
  Run run;
  polyak::AdamW adamw(run.params);
  polyak::Ema ema(run.params);
  const Bytes weights = run.bytes(), state = polyak::state_bytes(ema);
  CHECK_THROWS_AS(polyak::step(run.params, run.gradients, adamw, ema, ema), std::invalid_argument);
  CHECK_THROWS_AS(polyak::step(run.params, run.gradients, adamw, ema, adamw),
                  std::invalid_argument);
  CHECK_THROWS_AS(polyak::update(run.params, ema, ema), std::invalid_argument);
  CHECK(run.bytes() == weights);
  CHECK(polyak::state_bytes(ema) == state);
  CHECK(adamw.count() == 0);
  polyak::Ema other(run.params);
  CHECK(polyak::step(run.params, run.gradients, adamw, ema, other));
}

TEST_CASE("step and update are refused while an average is swapped in") {
  Run run;
  polyak::AdamW adamw(run.params);
  polyak::Ema ema(run.params), other(run.params);
  polyak::step(run.params, run.gradients, adamw, ema, other);
  const Bytes weights = run.bytes();
  const Bytes adamw_state = polyak::state_bytes(adamw), ema_state = polyak::state_bytes(ema),
              other_state = polyak::state_bytes(other);
  {
    const auto guard = ema.swap_into(run.params);
    const Bytes average = run.bytes();
    CHECK_THROWS_AS(adamw.step(run.params, run.gradients), std::logic_error);
    CHECK_THROWS_AS(polyak::step(run.params, run.gradients, adamw, other), std::logic_error);
    CHECK_THROWS_AS(ema.update(run.params), std::logic_error);
    CHECK_THROWS_AS(other.update(run.params), std::logic_error);
    CHECK_THROWS_AS(polyak::update(run.params, other), std::logic_error);
    const polyak::Parameters<float> copy = run.params;  // refers to the same memory
    CHECK_THROWS_AS(adamw.step(copy, run.gradients), std::logic_error);
    // A separate list over other memory is not swapped, but the average is swapped in elsewhere.
    Run elsewhere;
    CHECK_THROWS_AS(ema.update(elsewhere.params), std::logic_error);
    CHECK_THROWS_AS(polyak::state_bytes(ema), std::logic_error);
    CHECK_THROWS_AS(polyak::restore_state(ema, ema_state), std::logic_error);
    CHECK_THROWS_AS(polyak::Ema(ema), std::logic_error);
    CHECK(run.bytes() == average);
  }
  CHECK(run.bytes() == weights);
  CHECK(polyak::state_bytes(adamw) == adamw_state);
  CHECK(polyak::state_bytes(ema) == ema_state);
  CHECK(polyak::state_bytes(other) == other_state);
  CHECK(polyak::step(run.params, run.gradients, adamw, ema, other));
}

TEST_CASE("nonfinite gradients propagate by default") {
  Run run;
  polyak::AdamW adamw(run.params);
  run.ga[7] = nan_value;
  CHECK(adamw.step(run.params, run.gradients));
  CHECK(std::isnan(run.a[7]));
  CHECK(std::isfinite(run.a[6]));
  CHECK(adamw.count() == 1);
  CHECK(adamw.skipped() == 0);
}

TEST_CASE("skip_step skips a step with nonfinite gradients") {
  for (const int steps_before : {0, 2}) {
    Run run;
    polyak::AdamW adamw(run.params, {.nonfinite = Nonfinite::skip_step});
    for (int step = 0; step < steps_before; ++step) adamw.step(run.params, run.gradients);
    const auto state = lasting_state(adamw);
    const Bytes weights = run.bytes();
    std::int64_t skipped = 0;
    at_every_place({&run.ga, &run.gb, &run.gc}, [&] {
      const bool complete = adamw.step(run.params, run.gradients);
      ++skipped;
      if (complete || adamw.skipped() != skipped || adamw.count() != steps_before ||
          lasting_state(adamw) != state || run.bytes() != weights) {
        FAIL_CHECK("skipped step " << skipped);
      }
    });
    CHECK(skipped == 40 + 3 + 129);
    CHECK(adamw.step(run.params, run.gradients));
    CHECK(adamw.count() == steps_before + 1);

    // As if there had been no skipped steps.
    Run other;
    polyak::AdamW never(other.params, {.nonfinite = Nonfinite::skip_step});
    for (int step = 0; step <= steps_before; ++step) never.step(other.params, other.gradients);
    CHECK(other.bytes() == run.bytes());
    CHECK(lasting_state(never) == lasting_state(adamw));
  }
}

TEST_CASE("Nonfinite::error refuses nonfinite gradients") {
  for (const int steps_before : {0, 2}) {
    Run run;
    polyak::Sgd sgd(run.params,
                    {.learning_rate = 0.1, .momentum = 0.9, .nonfinite = Nonfinite::error});
    for (int step = 0; step < steps_before; ++step) sgd.step(run.params, run.gradients);
    const Bytes state = polyak::state_bytes(sgd), weights = run.bytes();
    at_every_place({&run.ga, &run.gb, &run.gc}, [&] {
      bool refused = false;
      try {
        sgd.step(run.params, run.gradients);
      } catch (const polyak::nonfinite_error&) {
        refused = true;
      }
      if (!refused || polyak::state_bytes(sgd) != state || run.bytes() != weights) {
        FAIL_CHECK("after " << steps_before);
      }
    });
    CHECK(sgd.step(run.params, run.gradients));
  }
}

TEST_CASE("large finite gradients and weights are not mistaken for infinite ones") {
  Run run;
  constexpr float largest = std::numeric_limits<float>::max();
  run.ga.assign(40, largest);
  run.a.assign(40, -largest);
  polyak::Sgd sgd(run.params, {.learning_rate = 0, .nonfinite = Nonfinite::error});
  polyak::Ema ema(run.params, {.nonfinite = Nonfinite::error});
  CHECK(polyak::step(run.params, run.gradients, ema, sgd));
}

TEST_CASE("gradients that are not set are not checked") {
  Run run;
  polyak::AdamW adamw(run.params, {.nonfinite = Nonfinite::error});
  run.gb[1] = nan_value;
  run.gradients.set("b", polyak::no_gradient);
  CHECK(adamw.step(run.params, run.gradients));
}

TEST_CASE("an average that checks skips nonfinite weights") {
  for (const int updates_before : {0, 2}) {
    Run run;
    polyak::Ema ema(run.params, {.decay = 0.5, .nonfinite = Nonfinite::skip_step});
    for (int call = 0; call < updates_before; ++call) ema.update(run.params);
    const auto state = lasting_state(ema);
    std::int64_t skipped = 0;
    at_every_place({&run.a, &run.b}, [&] {
      const bool complete = ema.update(run.params);
      ++skipped;
      if (complete || ema.skipped() != skipped || ema.calls() != updates_before ||
          lasting_state(ema) != state) {
        FAIL_CHECK("skipped update " << skipped);
      }
    });
    CHECK(skipped == 43);
    run.c[5] = nan_value;  // Role::ignore: not averaged
    CHECK(ema.update(run.params));
    CHECK(ema.calls() == updates_before + 1);
  }
}

TEST_CASE("an average that checks refuses nonfinite weights") {
  Run run;
  polyak::Swa swa(run.params, {.nonfinite = Nonfinite::error});
  swa.update(run.params);
  const Bytes state = polyak::state_bytes(swa);
  at_every_place({&run.a, &run.b}, [&] {
    bool refused = false;
    try {
      swa.update(run.params);
    } catch (const polyak::nonfinite_error&) {
      refused = true;
    }
    if (!refused || polyak::state_bytes(swa) != state) FAIL_CHECK("a weight");
  });
  CHECK(swa.update(run.params));
}

TEST_CASE("a fused step with nonfinite gradients is skipped as a whole") {
  Run run;
  polyak::AdamW adamw(run.params, {.nonfinite = Nonfinite::skip_step});
  polyak::Ema careful(run.params, {.decay = 0.5, .nonfinite = Nonfinite::skip_step});
  polyak::Ema careless(run.params, {.decay = 0.5});
  polyak::step(run.params, run.gradients, careless, adamw, careful);
  const auto states = [&] {
    return std::tuple(lasting_state(adamw), lasting_state(careful), lasting_state(careless));
  };
  const auto before = states();
  const Bytes weights = run.bytes();
  std::int64_t skipped = 0;
  at_every_place({&run.ga, &run.gb, &run.gc}, [&] {
    const bool complete = polyak::step(run.params, run.gradients, careless, adamw, careful);
    if (complete || adamw.skipped() != ++skipped || states() != before || run.bytes() != weights) {
      FAIL_CHECK("skipped step " << skipped);
    }
  });
  CHECK(careful.calls() == 1);
  CHECK(careless.calls() == 1);
  CHECK(polyak::step(run.params, run.gradients, careless, adamw, careful));
  CHECK(careless.calls() == 2);
}

TEST_CASE("a fused step with nonfinite gradients is refused as a whole") {
  Run run;
  // Either of them is enough.
  for (const bool by_optimizer : {true, false}) {
    polyak::AdamW adamw(run.params,
                        {.nonfinite = by_optimizer ? Nonfinite::error : Nonfinite::propagate});
    polyak::Ema ema(
        run.params,
        {.decay = 0.5, .nonfinite = by_optimizer ? Nonfinite::propagate : Nonfinite::error});
    polyak::Ema other(run.params);
    polyak::step(run.params, run.gradients, other, adamw, ema);
    const auto states = [&] {
      return std::tuple(polyak::state_bytes(adamw), polyak::state_bytes(ema),
                        polyak::state_bytes(other));
    };
    const auto before = states();
    const Bytes weights = run.bytes();
    at_every_place({&run.ga, &run.gb, &run.gc}, [&] {
      bool refused = false;
      try {
        polyak::step(run.params, run.gradients, other, adamw, ema);
      } catch (const polyak::nonfinite_error&) {
        refused = true;
      }
      if (!refused || states() != before || run.bytes() != weights) FAIL_CHECK("half applied");
    });
  }
}

TEST_CASE("an average before the optimizer checks the weights before the step") {
  Run run;
  polyak::AdamW adamw(run.params);
  run.b[2] = infinity;
  const Bytes weights = run.bytes();

  // An average before the optimizer reads the weights before the step.
  polyak::Ema strict(run.params, {.nonfinite = Nonfinite::error});
  const Bytes state = polyak::state_bytes(strict), adamw_state = polyak::state_bytes(adamw);
  CHECK_THROWS_AS(polyak::step(run.params, run.gradients, strict, adamw), polyak::nonfinite_error);
  CHECK(polyak::state_bytes(strict) == state);
  CHECK(polyak::state_bytes(adamw) == adamw_state);
  CHECK(run.bytes() == weights);

  polyak::Ema careful(run.params, {.nonfinite = Nonfinite::skip_step});
  CHECK_FALSE(polyak::step(run.params, run.gradients, careful, adamw));
  CHECK(careful.calls() == 0);
  CHECK(careful.skipped() == 1);
  CHECK(adamw.count() == 1);
}

TEST_CASE("an average that checks sees the weights that the optimizer has just written") {
  // The learning rate takes the weights out of range, from finite weights and gradients.
  for (const bool strict : {false, true}) {
    Run run, alone;
    constexpr double huge = 3e38;
    polyak::Sgd sgd(run.params, {.learning_rate = huge}),
        same(alone.params, {.learning_rate = huge});
    polyak::Ema ema(run.params, {.nonfinite = strict ? Nonfinite::error : Nonfinite::skip_step});
    polyak::Ema careless(run.params), careless_alone(alone.params);
    const auto state = lasting_state(ema);
    run.gb[0] = alone.gb[0] = 5;
    if (strict) {
      CHECK_THROWS_AS(polyak::step(run.params, run.gradients, sgd, careless, ema),
                      polyak::nonfinite_error);
      CHECK(ema.skipped() == 0);
    } else {
      CHECK_FALSE(polyak::step(run.params, run.gradients, sgd, careless, ema));
      CHECK(ema.skipped() == 1);
    }
    CHECK(lasting_state(ema) == state);
    // The others are where separate calls would have taken them.
    same.step(alone.params, alone.gradients);
    careless_alone.update(alone.params);
    CHECK(std::isinf(run.b[0]));
    CHECK(run.bytes() == alone.bytes());
    CHECK(polyak::state_bytes(sgd) == polyak::state_bytes(same));
    CHECK(polyak::state_bytes(careless) == polyak::state_bytes(careless_alone));
  }
}

TEST_CASE("an average that checks gives the same bits fused as in separate calls") {
  Run run, alone;
  polyak::AdamW adamw(run.params), same(alone.params);
  polyak::Ema ema(run.params, {.decay = 0.5, .nonfinite = Nonfinite::skip_step});
  polyak::Ema ema_alone(alone.params, {.decay = 0.5, .nonfinite = Nonfinite::skip_step});
  for (int step = 0; step < 4; ++step) {
    CHECK(polyak::step(run.params, run.gradients, adamw, ema));
    same.step(alone.params, alone.gradients);
    ema_alone.update(alone.params);
    CHECK(run.bytes() == alone.bytes());
    CHECK(polyak::state_bytes(ema) == polyak::state_bytes(ema_alone));
  }
}

TEST_CASE("step and update run on the given executor") {
  Run run, other;
  polyak::AdamW adamw(run.params), same(other.params);
  polyak::Ema ema(run.params, {.decay = 0.5}), ema_same(other.params, {.decay = 0.5});
  std::size_t elements = 0, calls = 0;
  auto in_two = [&](std::size_t count, auto&& range) {
    elements += count;
    ++calls;
    range(count / 3, count);
    range(std::size_t{0}, count / 3);
  };
  CHECK(polyak::step(in_two, run.params, run.gradients, adamw, ema));
  CHECK(calls > 0);
  CHECK(elements == 40 + 3 + 129);  // the averaged tensors fused, the ignored one by itself
  CHECK(polyak::update(in_two, run.params, ema));
  CHECK(elements == 40 + 3 + 129 + 43);

  polyak::step(polyak::serial, other.params, other.gradients, same, ema_same);
  polyak::update(polyak::Serial{}, other.params, ema_same);
  CHECK(run.bytes() == other.bytes());
  CHECK(polyak::state_bytes(adamw) == polyak::state_bytes(same));
  CHECK(polyak::state_bytes(ema) == polyak::state_bytes(ema_same));
}

TEST_CASE("a step accepts another list of the same layout") {
  Run run, other;
  polyak::AdamW adamw(run.params);
  CHECK(adamw.step(other.params, other.gradients));
  CHECK(adamw.step(run.params, other.gradients));
  CHECK(bits::bytes(run.a) != bits::bytes(std::vector<float>(40, 0.5F)));
}

TEST_CASE("the state lists everything that changes") {
  Run run;
  const auto check = [&](auto method, const std::vector<std::string>& names) {
    using Method = decltype(method);
    const auto list = listing(method);
    CHECK(list.names == names);
    const auto state = polyak::state_bytes(method);
    std::uint64_t description = 0;  // the number of its bytes comes first
    std::memcpy(&description, state.data(), sizeof description);
    CHECK(list.size() == state.size() - sizeof description - description);
    for (int step = 0; step < 3; ++step) {
      if constexpr (Method::trains) {
        method.at(0.125 / (step + 1));
        method.step(run.params, run.gradients);
      } else {
        for (float& weight : run.a) weight += 0.5F;
        method.update(run.params);
      }
    }
    CHECK(listing(method).bytes_of != list.bytes_of);
    CHECK(listing(method).names == names);
  };
  const auto with = [](std::vector<std::string> names, const std::vector<std::string>& more) {
    names.insert(names.end(), more.begin(), more.end());
    return names;
  };
  using namespace polyak;
  const std::vector<std::string> clocks{"steps", "skipped", "tensor_steps"};
  const auto optimizer = with({"learning_rate", "weight_decay", "coupled_weight_decay"}, clocks);
  const auto decoupled = with({"learning_rate", "weight_decay"}, clocks);
  check(Sgd(run.params, {.learning_rate = 0.1}), optimizer);
  check(Sgd(run.params, {.learning_rate = 0.1, .momentum = 0.9}),
        with(optimizer, {"momentum_buffer"}));
  check(AdamW(run.params), with(optimizer, {"exp_avg", "exp_avg_sq"}));
  check(AdamW(run.params, {.amsgrad = true}),
        with(optimizer, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}));
  check(AdamW(run.params, {.beta1 = 0}), with(optimizer, {"exp_avg_sq"}));
  check(AdEMAMix(run.params),
        with(decoupled, {"exp_avg_fast", "exp_avg_slow", "exp_avg_sq", "slow_start"}));
  check(AdEMAMix(run.params, {.beta1 = 0}),
        with(decoupled, {"exp_avg_slow", "exp_avg_sq", "slow_start"}));
  const std::vector<std::string> schedule{"scheduled_learning_rate", "learning_rate_max",
                                          "weight_sum", "gain"};
  check(ScheduleFreeSgd(run.params), with(with(decoupled, {"z"}), schedule));
  check(ScheduleFreeAdamW(run.params), with(with(decoupled, {"z", "exp_avg_sq"}), schedule));
  check(ScheduleFreeAdamW(run.params, {.inner_momentum = 0.5}),
        with(with(decoupled, {"z", "exp_avg_sq", "exp_avg"}), schedule));

  const std::vector<std::string> average{"calls", "updates", "skipped", "gain"};
  const std::vector<std::string> kept{"buffers", "average"};
  check(Swa(run.params), with(average, kept));
  check(Ema(run.params), with(with(average, {"calls_before_change"}), kept));
  check(PowerEma(run.params, {.gamma = 3}),
        with(with(average, {"batch_size", "time", "updated_time"}), kept));
  check(SwitchEma(run.params), with(with(average, kept), {"switches", "epoch"}));
  check(HareTortoise(run.params), with(with(average, kept), {"switches"}));
}

TEST_CASE("averages before and after an optimizer that propagates a NaN are both skipped") {
  std::vector<float> x{std::numeric_limits<float>::quiet_NaN()}, g{1};
  polyak::Parameters<float> params;
  params.add("x", x);
  const auto gradients = polyak::like(params, g);
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.1});
  polyak::Ema<float> before(params, {.nonfinite = polyak::Nonfinite::skip_step});
  polyak::Ema<float> after(params, {.nonfinite = polyak::Nonfinite::skip_step});
  CHECK_FALSE(polyak::step(params, gradients, before, sgd, after));
  CHECK(before.skipped() == 1);
  CHECK(after.skipped() == 1);
  CHECK(sgd.count() == 1);
}

}  // namespace step_test
