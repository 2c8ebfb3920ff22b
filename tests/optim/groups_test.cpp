// SPDX-License-Identifier: Apache-2.0
// polyak/optim/tensor_groups.hpp: groups and selections of optimizers. A group trains with the same
// bits as a separate list; a frozen tensor costs nothing; several optimizers share a step.
#include <polyak/optim/tensor_groups.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/average/ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/fused.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"
#include "../support/temporary_folder.hpp"

namespace groups_test {

namespace {

using polyak::AdamW;
using polyak::AdamWOptions;
using polyak::GroupOptions;
using polyak::named;
using polyak::Sgd;
using polyak::state_bytes;
using Bytes = std::vector<std::byte>;

const std::vector<std::size_t> sizes{5, 70, 0, 33, 160};
const polyak::Selection second =
    named("tensor 1", "tensor 3", "ignored");  // the group of most tests

bool in_second(std::size_t tensor) { return tensor == 1 || tensor == 3 || tensor == 5; }

/// The options that a tensor of a group has in effect.
template <class O>
O in_group(O options, const GroupOptions& group) {
  options.learning_rate *= group.learning_rate_factor;
  if constexpr (requires { options.weight_decay; }) {
    options.weight_decay *= group.weight_decay_factor;
  }
  if constexpr (requires { options.coupled_weight_decay; }) {
    options.coupled_weight_decay *= group.weight_decay_factor;
  }
  return options;
}

/// The elements of one tensor, slot after slot; empty without state.
template <class M>
Bytes slots_of(const M& method, std::size_t tensor) {
  Bytes all;
  for (std::size_t slot = 0; slot < method.slots().count(); ++slot) {
    const Bytes one = bits::bytes(method.slots().tensor(slot, tensor));
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

template <class M>
struct Run {
  using P = typename M::Parameter;
  Model<P> model{sizes, true};
  M optimizer;

  template <class... More>
  explicit Run(const typename M::Options& options, const More&... more)
      : optimizer(model.params, options, more...) {}
  void step(std::uint64_t number, const std::set<std::size_t>& without = {}) {
    model.differentiate(number, without);
    optimizer.step(model.params, model.gradients);
  }
  [[nodiscard]] bool same(const Run& other, std::size_t tensor) const {
    return model.tensor_bytes(tensor) == other.model.tensor_bytes(tensor) &&
           slots_of(optimizer, tensor) == slots_of(other.optimizer, tensor);
  }
};

/// Groups with factors against an optimizer that has the factors in its options.
template <class M>
void check_factors(const std::string& name, const typename M::Options& options) {
  // Powers of two: an optimizer whose averaging weights depend on the learning rate has the same.
  for (const GroupOptions& group :
       {GroupOptions{.learning_rate_factor = 0.25}, GroupOptions{.weight_decay_factor = 0.5},
        GroupOptions{.weight_decay_factor = 0},
        GroupOptions{.learning_rate_factor = 2, .weight_decay_factor = 3}}) {
    INFO(name << ": factors " << group.learning_rate_factor << " and "
              << group.weight_decay_factor);
    Run<M> grouped(options), plain(options), apart(in_group(options, group));
    grouped.optimizer.group(second, group);
    bool differ = false;
    for (std::uint64_t step = 0; step < 7; ++step) {
      // Tensors of both groups begin late, or pause.
      const auto without = step == 0   ? std::set<std::size_t>{1}
                           : step == 4 ? std::set<std::size_t>{3, 4}
                                       : std::set<std::size_t>{};
      if (step > 0) {
        const double rate = options.learning_rate / static_cast<double>(1 + step);
        grouped.optimizer.at(rate);
        plain.optimizer.at(rate);
        apart.optimizer.at(rate * group.learning_rate_factor);
      }
      grouped.step(step, without);
      plain.step(step, without);
      apart.step(step, without);
      for (std::size_t k = 0; k < 6; ++k) {
        INFO("step " << step << ", tensor " << k);
        CHECK(grouped.same(in_second(k) ? apart : plain, k));
      }
      differ = differ || !grouped.same(plain, 1);
    }
    CHECK(grouped.model.margins_intact());
    const bool decays = [&] {
      double all = 0;
      if constexpr (requires { options.weight_decay; }) all += options.weight_decay;
      if constexpr (requires { options.coupled_weight_decay; }) all += options.coupled_weight_decay;
      return all > 0;
    }();
    CHECK(differ == (decays || group.learning_rate_factor != 1));
  }
}

/// A frozen tensor has no state and no clock, and does not change; when it is unfrozen, its
/// training starts from the beginning.
template <class M>
void check_frozen(const std::string& name, const typename M::Options& options) {
  INFO(name);
  Run<M> run(options), without_them(options), later(options);
  run.optimizer.group(second, {.frozen = true});
  const auto whole = without_them.optimizer.memory_report();
  const auto part = run.optimizer.memory_report();
  REQUIRE(whole.slots.size() == part.slots.size());
  for (std::size_t slot = 0; slot < whole.slots.size(); ++slot) {
    CHECK(whole.slots[slot].elements == 5 + 70 + 33 + 160 + 45);
    CHECK(part.slots[slot].elements == 5 + 160);
  }
  if (!whole.slots.empty()) CHECK(part.total < whole.total);
  for (std::uint64_t step = 0; step < 3; ++step) {
    const std::array<Bytes, 3> before{run.model.tensor_bytes(1), run.model.tensor_bytes(3),
                                      run.model.tensor_bytes(5)};
    run.step(step);
    without_them.step(step, {1, 3, 5});
    for (std::size_t k = 0; k < 6; ++k) {
      CHECK(run.model.tensor_bytes(k) == without_them.model.tensor_bytes(k));
      if (!in_second(k)) CHECK(run.same(without_them, k));
    }
    CHECK(std::array<Bytes, 3>{run.model.tensor_bytes(1), run.model.tensor_bytes(3),
                               run.model.tensor_bytes(5)} == before);
    later.step(step, {1, 3, 5});
  }
  // Unfrozen, it equals a tensor that had no gradient before.
  run.optimizer.group(second, {});
  CHECK(run.optimizer.memory_report().total == whole.total);
  CHECK(run.optimizer.count() == 3);
  for (std::uint64_t step = 3; step < 7; ++step) {
    run.step(step);
    later.step(step);
    for (std::size_t k = 0; k < 6; ++k) CHECK(run.same(later, k));
  }
  CHECK(state_bytes(run.optimizer) == state_bytes(later.optimizer));
  // After it is frozen and unfrozen again, its state is empty, and the state of the others is
  // complete.
  run.optimizer.group(named("tensor 1"), {.frozen = true}).group(named("tensor 1"), {});
  for (const std::byte byte : slots_of(run.optimizer, 1)) CHECK(byte == std::byte{0});
  for (const std::size_t k : {std::size_t{0}, std::size_t{3}, std::size_t{4}, std::size_t{5}}) {
    CHECK(run.same(later, k));
  }
}

/// Groups and selections survive saving, bytes, copies and moves.
template <class M>
void check_kept(const std::string& name, const typename M::Options& options) {
  INFO(name);
  const TemporaryFolder folder;
  const auto make = [&] {
    Run<M> run(options, !named("tensor 4"));
    run.optimizer.group(named("tensor 1"), {.learning_rate_factor = 0.3});
    run.optimizer.group(named("tensor 3"), {.frozen = true});
    return run.optimizer;
  };
  Run<M> run(options), again(options);
  run.optimizer = make();
  again.optimizer = make();
  const std::string file = folder.file("run.safetensors");
  for (std::uint64_t step = 0; step < 3; ++step) run.step(step);
  polyak::save(file, {.metadata = {}, .durable = false}, run.model.params, run.optimizer);
  const Bytes state = state_bytes(run.optimizer);
  again.model.wander(17);  // is overwritten
  polyak::load(file, again.model.params, again.optimizer);
  CHECK(state_bytes(again.optimizer) == state);
  Run<M> copied(options), moved(options), restored(options);
  copied.optimizer = run.optimizer;
  M source = run.optimizer;
  moved.optimizer = std::move(source);
  restored.optimizer = make();
  polyak::restore_state(restored.optimizer, state);
  for (Run<M>* const other : {&copied, &moved, &restored}) {
    other->model.restore(run.model.bytes());
  }
  for (std::uint64_t step = 3; step < 6; ++step) {
    run.step(step);
    for (Run<M>* const other : {&again, &copied, &moved, &restored}) {
      other->step(step);
      CHECK(other->model.bytes() == run.model.bytes());
      CHECK(state_bytes(other->optimizer) == state_bytes(run.optimizer));
    }
  }
}

template <class P>
struct Of {
  template <class Check>
  static void each(Check check) {
    using namespace polyak;
    check.template operator()<Sgd<P>>("Sgd plain", SgdOptions{.learning_rate = 0.1});
    check.template operator()<Sgd<P>>(
        "Sgd coupled", SgdOptions{.learning_rate = 0.1, .coupled_weight_decay = 0.1});
    check.template operator()<Sgd<P>>(
        "Sgd momentum",
        SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1});
    check.template operator()<Sgd<P>>(
        "Sgd Nesterov",
        SgdOptions{
            .learning_rate = 0.1, .momentum = 0.9, .nesterov = true, .coupled_weight_decay = 0.1});
    check.template operator()<AdamW<P>>("AdamW", AdamWOptions{.learning_rate = 0.1});
    check.template operator()<AdamW<P>>(
        "AdamW with both decays", AdamWOptions{.learning_rate = 0.1, .coupled_weight_decay = 0.1});
    check.template operator()<AdamW<P>>(
        "AdamW with AMSGrad",
        AdamWOptions{
            .learning_rate = 0.1, .beta2 = 0.5, .coupled_weight_decay = 0.1, .amsgrad = true});
    check.template operator()<AdamW<P>>(
        "AdamW beta1 = 0",
        AdamWOptions{.learning_rate = 0.1, .beta1 = 0, .coupled_weight_decay = 0.1});
    check.template operator()<Adam<P>>(
        "Adam", AdamOptions{.learning_rate = 0.1, .coupled_weight_decay = 0.1});
    check.template operator()<AdEMAMix<P>>(
        "AdEMAMix",
        AdEMAMixOptions{
            .learning_rate = 0.1, .weight_decay = 0.1, .alpha_warmup = 5, .beta3_warmup = 5});
    check.template operator()<ScheduleFreeSgd<P>>(
        "ScheduleFreeSgd",
        ScheduleFreeSgdOptions{.learning_rate = 0.5, .warmup_steps = 3, .weight_decay = 0.1});
    check.template operator()<ScheduleFreeAdamW<P>>(
        "ScheduleFreeAdamW", ScheduleFreeAdamWOptions{.learning_rate = 0.1, .weight_decay = 0.1});
    check.template operator()<ScheduleFreeAdamW<P>>(
        "ScheduleFreeAdamW with momentum, decay at z",
        ScheduleFreeAdamWOptions{
            .learning_rate = 0.1, .inner_momentum = 0.5, .weight_decay = 0.1, .decay_at_z = true});
  }
};

}  // namespace

TEST_CASE("a group trains like a separate list with its factors in the options") {
  Of<float>::each(
      []<class M>(const char* name, const auto& options) { check_factors<M>(name, options); });
}

TEST_CASE("groups support parameters of 16 bits and of double") {
  check_factors<AdamW<Eigen::bfloat16>>(
      "bfloat16", AdamWOptions{.learning_rate = 0.1, .coupled_weight_decay = 0.1});
  check_factors<AdamW<double>>("double", AdamWOptions{.learning_rate = 0.1});
}

TEST_CASE(
    "a frozen tensor has no state and no clock, does not change, and restarts when it is "
    "unfrozen") {
  Of<float>::each(
      []<class M>(const char* name, const auto& options) { check_frozen<M>(name, options); });
}

TEST_CASE("groups and selections are saved, copied and moved") {
  Of<float>::each(
      []<class M>(const char* name, const auto& options) { check_kept<M>(name, options); });
}

TEST_CASE("a tensor with learning-rate factor 0 keeps counting its steps") {
  Run<AdamW<float>> run(AdamWOptions{.learning_rate = 0.1}), plain(AdamWOptions{});
  plain.optimizer.at(0);
  run.optimizer.group(second, {.learning_rate_factor = 0});
  const Bytes before = run.model.tensor_bytes(1);
  for (std::uint64_t step = 0; step < 3; ++step) {
    run.step(step);
    plain.step(step);
  }
  CHECK(run.model.tensor_bytes(1) == before);
  CHECK(slots_of(run.optimizer, 1) == slots_of(plain.optimizer, 1));
}

TEST_CASE("groups can change between steps, and the last group of a tensor counts") {
  const AdamWOptions options{.learning_rate = 0.1};
  Run<AdamW<float>> run(options), first(options), last(options);
  // Three groups, two of them with equal factors.
  run.optimizer.group(named("tensor 0", "tensor 1"), {.learning_rate_factor = 0.5})
      .group(named("tensor 1"), {.learning_rate_factor = 0.25})
      .group(named("tensor 3"), {.learning_rate_factor = 0.5});
  CHECK(run.optimizer.group_of(0).learning_rate_factor == 0.5);
  CHECK(run.optimizer.group_of(1).learning_rate_factor == 0.25);
  CHECK(run.optimizer.group_of(3) == run.optimizer.group_of(0));
  CHECK(run.optimizer.group_of(4) == GroupOptions{});
  for (std::uint64_t step = 0; step < 6; ++step) {
    if (step == 3) run.optimizer.group(named("*"), {.learning_rate_factor = 2});
    first.optimizer.at(step < 3 ? 0.05 : 0.2);  // as tensor 0
    last.optimizer.at(step < 3 ? 0.025 : 0.2);  // as tensor 1
    run.step(step);
    first.step(step);
    last.step(step);
    CHECK(run.same(first, 0));
    CHECK(run.same(last, 1));
    CHECK(run.same(first, 3));
  }
}

TEST_CASE("AdEMAMix restarts the slow schedule of an unfrozen tensor") {
  const polyak::AdEMAMixOptions options{.learning_rate = 0.1, .alpha_warmup = 4, .beta3_warmup = 4};
  Run<polyak::AdEMAMix<float>> run(options), later(options);
  for (std::uint64_t step = 0; step < 3; ++step) {
    run.step(step, {1});
    later.step(step, {1});
  }
  run.step(3);
  later.step(3, {1});
  run.optimizer.reset_slow();
  later.optimizer.reset_slow();
  run.optimizer.group(named("tensor 1"), {.frozen = true});
  run.step(4);
  later.step(4, {1});
  run.optimizer.group(named("tensor 1"), {});
  run.model.restore(later.model.bytes());
  for (std::uint64_t step = 5; step < 8; ++step) {
    run.step(step);
    later.step(step);
    CHECK(run.same(later, 1));
    CHECK(run.same(later, 4));
  }
}

TEST_CASE("groups and selections that differ from those of a file are refused by name") {
  const TemporaryFolder folder;
  const std::string file = folder.file("run.safetensors");
  const AdamWOptions options{.learning_rate = 0.1};
  Run<AdamW<float>> run(options);
  run.optimizer.group(named("tensor 1"), {.weight_decay_factor = 0});
  run.step(0);
  polyak::save(file, {.metadata = {}, .durable = false}, run.model.params, run.optimizer);
  const auto refused = [&](auto& optimizer, const std::vector<std::string>& words) {
    const Bytes state = state_bytes(optimizer), weights = run.model.bytes();
    CHECK(refuses([&] { polyak::load(file, run.model.params, optimizer); }, words));
    CHECK(state_bytes(optimizer) == state);
    CHECK(run.model.bytes() == weights);
  };
  AdamW<float> none(run.model.params, options);
  refused(none, {"weight_decay_factor.tensor 1"});
  AdamW<float> other = none;
  other.group(named("tensor 1"), {.weight_decay_factor = 0.5});
  refused(other, {"weight_decay_factor.tensor 1", "0.5"});
  AdamW<float> more(run.model.params, options);
  more.group(named("tensor 1"), {.weight_decay_factor = 0});
  more.group(named("tensor 3"), {.learning_rate_factor = 0.5});
  refused(more, {"learning_rate_factor.tensor 3"});
  AdamW<float> frozen(run.model.params, options);
  frozen.group(named("tensor 1"), {.weight_decay_factor = 0});
  frozen.group(named("tensor 3"), {.frozen = true});
  refused(frozen, {"tensor 3"});
  AdamW<float> selected(run.model.params, options, named("tensor 1", "tensor 3"));
  selected.group(named("tensor 1"), {.weight_decay_factor = 0});
  refused(selected, {"tensor 4"});

  // With overridden options, other factors are allowed; then this program's factors are used.
  const auto report =
      polyak::load(file, polyak::LoadOptions{.override_options = true}, run.model.params, other);
  REQUIRE(report.overridden.size() == 1);
  CHECK(report.overridden[0].find("weight_decay_factor.tensor 1") != std::string::npos);
  CHECK(other.group_of(1).weight_decay_factor == 0.5);
  CHECK(slots_of(other, 1) == slots_of(run.optimizer, 1));
  // State of a tensor that has none here is left in the file, as if it were frozen afterwards.
  polyak::load(file, polyak::LoadOptions{.override_options = true}, run.model.params, frozen);
  CHECK(slots_of(frozen, 3).empty());
  CHECK(slots_of(frozen, 4) == slots_of(run.optimizer, 4));
  CHECK(frozen.count() == 1);
  // In the other direction there is no state to load.
  run.optimizer.group(named("tensor 3", "tensor 4"), {.frozen = true});
  polyak::save(file, {.metadata = {}, .durable = false}, run.model.params, run.optimizer);
  AdamW<float> fresh(run.model.params, options);
  const Bytes state = state_bytes(fresh), weights = run.model.bytes();
  run.model.wander(3);
  const Bytes moved = run.model.bytes();
  CHECK(moved != weights);
  CHECK(refuses(
      [&] {
        polyak::load(file, polyak::LoadOptions{.override_options = true}, run.model.params, fresh);
      },
      {"lacks", "exp_avg", "tensor 3", "tensor 4"}));
  CHECK(state_bytes(fresh) == state);
  CHECK(run.model.bytes() == moved);
}

TEST_CASE("factors out of range and selections of nothing are refused, with nothing changed") {
  Run<AdamW<float>> run(AdamWOptions{.learning_rate = 0.1}, named("tensor *"));
  run.optimizer.group(named("tensor 1"), {.learning_rate_factor = 0.5});
  run.step(0);
  const Bytes state = state_bytes(run.optimizer);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {-0.5, nan, infinity, -infinity}) {
    CHECK(refuses([&] { run.optimizer.group(second, {.learning_rate_factor = bad}); },
                  {"GroupOptions.learning_rate_factor", "finite and >= 0"}));
    CHECK(refuses([&] { run.optimizer.group(second, {.weight_decay_factor = bad}); },
                  {"GroupOptions.weight_decay_factor", "finite and >= 0"}));
  }
  CHECK(refuses([&] { run.optimizer.group(named("*.bias"), {.frozen = true}); },
                {"AdamW", "*.bias"}));
  CHECK(refuses([&] { run.optimizer.group(named("ignored"), {.frozen = true}); },
                {"AdamW", "ignored"}));  // not of this optimizer
  CHECK(refuses([&] { run.optimizer.group(named("statistics"), {}); }, {"statistics"}));
  CHECK(refuses([&] { AdamW<float>(run.model.params, {}, named("nothing")); },
                {"AdamW", "nothing", "\"tensor 0\""}));
  CHECK(state_bytes(run.optimizer) == state);
  CHECK(run.optimizer.group_of(1).learning_rate_factor == 0.5);
}

TEST_CASE("an optimizer owns only the tensors of its selection") {
  Run<AdamW<float>> run(AdamWOptions{.learning_rate = 0.1}, second),
      all(AdamWOptions{.learning_rate = 0.1});
  CHECK(run.optimizer.memory_report().slots[0].elements == 70 + 33 + 45);
  for (std::uint64_t step = 0; step < 4; ++step) {
    const Bytes first = run.model.tensor_bytes(0), last = run.model.tensor_bytes(4);
    run.step(step);
    all.step(step);
    CHECK(run.model.tensor_bytes(0) == first);
    CHECK(run.model.tensor_bytes(4) == last);
    for (std::size_t k = 0; k < 6; ++k) {
      if (in_second(k)) CHECK(run.same(all, k));
    }
  }
  CHECK_THROWS_AS(run.optimizer.slot("exp_avg")["tensor 0"], std::invalid_argument);
  CHECK(run.optimizer.slot("exp_avg")["tensor 1"].size() == 70);
}

TEST_CASE("several optimizers and averages in one step equal separate steps") {
  using namespace polyak;
  fused::check<float>("three optimizers and two averages", []<class P>(const Parameters<P>& p) {
    auto all = std::tuple(
        AdamW<P>(p, {.learning_rate = 0.1}, named("tensor 0", "tensor 4")),
        Ema<P>(p, {.decay = 0.75}),
        polyak::Sgd<P>(p, {.learning_rate = 0.1, .momentum = 0.9}, named("tensor 1", "ignored")),
        ScheduleFreeAdamW<P>(p, {.learning_rate = 0.1}, named("tensor 3")),
        Swa<P>(p, {.start = 3, .period = 2}, named("tensor 0", "tensor 1")));
    std::get<0>(all).group(named("tensor 4"), {.learning_rate_factor = 0.5});
    return all;
  });
  fused::check<float>("an average that writes", []<class P>(const Parameters<P>& p) {
    return std::tuple(
        AdamW<P>(p, {.learning_rate = 0.1}, !named("tensor 1")),
        SwitchEma<P>(p, {.decay = 0.75, .unit = SwitchUnit::iterations, .interval = 3},
                     named("tensor 1", "tensor 4")),
        AdamW<P>(p, {.learning_rate = 0.2, .coupled_weight_decay = 0.1}, named("tensor 1")));
  });
  fused::check<Eigen::half>("16 bits", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p, {.learning_rate = 0.1}, named("tensor 0", "tensor 3")),
                      AdamW<P>(p, {.learning_rate = 0.2}, named("tensor 1", "tensor 4")),
                      Ema<P>(p, {.decay = 0.75}));
  });
}

TEST_CASE("a step refuses two optimizers of one tensor by its name and changes nothing") {
  Model<float> model(sizes, true);
  AdamW<float> first(model.params, {}, named("tensor 0", "tensor 3"));
  Sgd<float> other(model.params, {.learning_rate = 0.1}, named("tensor 3", "tensor 4"));
  polyak::Ema<float> average(model.params, {.decay = 0.75});
  model.differentiate(0);
  const Bytes weights = model.bytes();
  const Bytes states[] = {state_bytes(first), state_bytes(other), state_bytes(average)};
  CHECK(refuses([&] { polyak::step(model.params, model.gradients, first, other, average); },
                {"\"tensor 3\"", "selections"}));
  CHECK(model.bytes() == weights);
  CHECK(state_bytes(first) == states[0]);
  CHECK(state_bytes(other) == states[1]);
  CHECK(state_bytes(average) == states[2]);
  // If one optimizer has frozen it, the other owns it.
  first.group(named("tensor 3"), {.frozen = true});
  CHECK(polyak::step(model.params, model.gradients, first, other, average));
  CHECK(first.count() == 1);
  CHECK(other.count() == 1);
}

TEST_CASE("a NaN in gradients that no optimizer of the step reads is ignored") {
  for (const auto policy : {polyak::Nonfinite::skip_step, polyak::Nonfinite::error}) {
    Model<float> model(sizes, true);
    AdamW<float> optimizer(model.params, {.nonfinite = policy}, !named("tensor 1"));
    optimizer.group(named("tensor 3"), {.frozen = true});
    const auto with_nan = [&](std::size_t tensor) {
      model.differentiate(0);
      const_cast<float*>(model.gradients[tensor])[2] = std::numeric_limits<float>::quiet_NaN();
    };
    for (const std::size_t tensor : {std::size_t{1}, std::size_t{3}}) {
      with_nan(tensor);
      CHECK(optimizer.step(model.params, model.gradients));
    }
    with_nan(4);
    const Bytes weights = model.bytes();
    if (policy == polyak::Nonfinite::skip_step) {
      CHECK_FALSE(optimizer.step(model.params, model.gradients));
      CHECK(optimizer.skipped() == 1);
    } else {
      CHECK_THROWS_AS(optimizer.step(model.params, model.gradients), polyak::nonfinite_error);
    }
    CHECK(model.bytes() == weights);
    CHECK(optimizer.count() == 2);
  }
}

}  // namespace groups_test
