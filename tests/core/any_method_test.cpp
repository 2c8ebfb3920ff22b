// SPDX-License-Identifier: Apache-2.0
// Lists of methods made at run time have the bits, checks, skips and errors of methods that a step
// names one by one.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/any_method.hpp>
#include <polyak/core/require_finite.hpp>
#include <polyak/core/state.hpp>
#include <polyak/io/save.hpp>
#include <polyak/polyak.hpp>

#include "../support/allocations.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/refusal.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"
#include "../support/temporary_folder.hpp"

namespace any_method_test {

namespace {

using polyak::Accumulate;
using polyak::AnyMethod;
using polyak::Nonfinite;
using polyak::Parameters;
using Bytes = std::vector<std::byte>;

template <class P>
using List = std::vector<AnyMethod<P>>;

const std::vector<std::size_t> sizes{5, 70, 0, 33, 9000};

/// A model and methods that are named one by one, and the same with a list.
template <class P, class Make>
struct Twins {
  Model<P> named_model{sizes, true}, listed_model{sizes, true};
  decltype(std::declval<Make>()(named_model.params)) named;
  List<P> listed;

  explicit Twins(Make make) : named(make(named_model.params)) {
    const auto list = [&](auto&&... methods) {
      (listed.emplace_back(std::forward<decltype(methods)>(methods)), ...);
    };
    std::apply(list, make(listed_model.params));
  }

  [[nodiscard]] std::vector<Bytes> named_states() const {
    return std::apply(
        [](auto&... methods) { return std::vector<Bytes>{polyak::state_bytes(methods)...}; },
        named);
  }
  [[nodiscard]] std::vector<Bytes> listed_states() const {
    std::vector<Bytes> all;
    for (const auto& method : listed) all.push_back(polyak::state_bytes(method));
    return all;
  }
  /// "true", "false", or the error.
  template <class Call>
  [[nodiscard]] static std::string result(Call call) {
    try {
      return call() ? "true" : "false";
    } catch (const std::exception& error) {
      return error.what();
    }
  }
  template <class E>
  [[nodiscard]] std::string named_step(E& executor) {
    return result([&] {
      return std::apply(
          [&](auto&... methods) {
            return polyak::step(executor, named_model.params, named_model.gradients, methods...);
          },
          named);
    });
  }
  template <class E>
  [[nodiscard]] std::string listed_step(E& executor) {
    return result([&] {
      return polyak::step(executor, listed_model.params, listed_model.gradients, listed);
    });
  }
  void compare() const {
    REQUIRE(listed_model.bytes() == named_model.bytes());
    REQUIRE(listed_states() == named_states());
  }
};

/// Compares the two over some steps.
template <class P, class Make>
void check(const std::string& name, Make make) {
  Twins<P, Make> twins(make);
  Splitter whole(Split::whole), pieces(Split::pieces);
  for (std::uint64_t step = 0; step < 12; ++step) {
    const auto without = step % 5 == 1 ? std::set<std::size_t>{1, 3} : std::set<std::size_t>{};
    for (Model<P>* model : {&twins.named_model, &twins.listed_model}) {
      model->differentiate(step, without);
      model->gradients.scale(step % 3 == 0 ? 0.5 : 2).clip_value(step % 4 == 0 ? 0.25 : 8);
    }
    INFO(name << ", step " << step);
    const std::string named = twins.named_step(whole);
    const allocations::Counter counter;
    const bool complete = step % 2 == 0 ? polyak::step(twins.listed_model.params,
                                                       twins.listed_model.gradients, twins.listed)
                                        : polyak::step(pieces, twins.listed_model.params,
                                                       twins.listed_model.gradients, twins.listed);
    const std::size_t allocated = counter.counts().number;
    CHECK(named == "true");
    CHECK(complete);
    CHECK(allocated == 0);
    twins.compare();
  }
}

}  // namespace

TEST_CASE("a list of methods has the bits of the same methods in one fused step") {
  check<float>("an optimizer and two averages", [](const auto& p) {
    return std::tuple(polyak::AdamW<float>(p), polyak::Ema<float>(p, {.decay = 0.9}),
                      polyak::Swa<float>(p, {.start = 3, .period = 2}));
  });
  check<float>("averages on both sides of the optimizer", [](const auto& p) {
    return std::tuple(polyak::PowerEma<float>(p, {.gamma = 3}),
                      polyak::Sgd<float>(p, {.learning_rate = 0.1, .momentum = 0.9}),
                      polyak::Ema<float>(p, {.decay = 0.5, .accumulate = Accumulate::kahan}));
  });
  check<float>("an average that is fed back, and one behind it", [](const auto& p) {
    return std::tuple(polyak::Lion<float>(p, {.learning_rate = 0.01}),
                      polyak::HareTortoise<float>(p, {.decay = 0.75, .switch_every = 2}),
                      polyak::Lawa<float>(p, {.checkpoints = 2}));
  });
  check<float>("methods that check, and one that reads the weights first", [](const auto& p) {
    return std::tuple(polyak::AdamW<float>(p, {.nonfinite = Nonfinite::skip_step}),
                      polyak::Ema<float>(p, {.decay = 0.5, .nonfinite = Nonfinite::error}),
                      polyak::Aswa<float>(p, {.filter = polyak::AswaFilter::mean_norm}));
  });
  check<double>("double", [](const auto& p) {
    return std::tuple(polyak::ScheduleFreeSgd<double>(p, {.learning_rate = 0.5}),
                      polyak::Ema<double>(p, {.decay = 0.5}));
  });
  check<Eigen::bfloat16>("16 bits", [](const auto& p) {
    using B = Eigen::bfloat16;
    return std::tuple(polyak::AdamW<B>(p, {.accumulate = Accumulate::master}),
                      polyak::Ema<B>(p, {.decay = 0.5}));
  });
  check<float>("two optimizers of different tensors", [](const auto& p) {
    return std::tuple(
        polyak::AdamW<float>(p, {}, polyak::named("tensor 1", "tensor 3")),
        polyak::Sgd<float>(p, {.learning_rate = 0.1}, polyak::named("tensor 0", "tensor 4")),
        polyak::Ema<float>(p, {.decay = 0.5}));
  });
  check<float>("more methods than fit the small memory", [](const auto& p) {
    const auto ema = [&](double decay) { return polyak::Ema<float>(p, {.decay = decay}); };
    return std::tuple(ema(0.5), polyak::Sgd<float>(p, {.learning_rate = 0.1}), ema(0.51), ema(0.52),
                      ema(0.53), ema(0.54), ema(0.55), ema(0.56), ema(0.57), ema(0.58));
  });
}

TEST_CASE("a list of averages is updated as by one call for all") {
  Model<float> named_model(sizes, true), listed_model(sizes, true);
  const auto make = [](const Parameters<float>& p) {
    return std::tuple(polyak::Ema<float>(p, {.decay = 0.5}), polyak::Swa<float>(p),
                      polyak::Tail<float>(p, {.start = 3}));
  };
  auto named = make(named_model.params);
  List<float> listed;
  std::apply([&](auto&&... one) { (listed.emplace_back(one), ...); }, make(listed_model.params));
  Splitter pieces(Split::pieces);
  for (std::uint64_t call = 0; call < 6; ++call) {
    named_model.wander(call);
    listed_model.wander(call);
    std::apply([&](auto&... one) { polyak::update(named_model.params, one...); }, named);
    CHECK((call % 2 == 0 ? polyak::update(listed_model.params, listed)
                         : polyak::update(pieces, listed_model.params, listed)));
    CHECK(polyak::state_bytes(listed[0]) == polyak::state_bytes(std::get<0>(named)));
    CHECK(polyak::state_bytes(listed[1]) == polyak::state_bytes(std::get<1>(named)));
    CHECK(polyak::state_bytes(listed[2]) == polyak::state_bytes(std::get<2>(named)));
  }
}

TEST_CASE("a list skips and refuses nonfinite numbers as named methods do") {
  const auto run = [](Nonfinite optimizer, Nonfinite average) {
    const auto make = [=](const Parameters<float>& p) {
      return std::tuple(polyak::Ema<float>(p, {.decay = 0.75}),
                        polyak::AdamW<float>(p, {.nonfinite = optimizer}),
                        polyak::Ema<float>(p, {.decay = 0.5, .nonfinite = average}));
    };
    Twins<float, decltype(make)> twins(make);
    std::set<std::string> seen;
    for (std::uint64_t step = 0; step < 6; ++step) {
      float poison = std::numeric_limits<float>::quiet_NaN();
      std::vector<float> bad(5, poison);
      for (Model<float>* model : {&twins.named_model, &twins.listed_model}) {
        model->differentiate(step);
        if (step % 2 == 1) model->gradients.set("tensor 0", bad);
      }
      INFO("step " << step);
      const auto one = twins.named_step(polyak::serial);
      const auto other = twins.listed_step(polyak::serial);
      CHECK(one == other);
      seen.insert(other);
      twins.compare();
    }
    return seen;
  };
  const auto contains = [](const std::set<std::string>& all, const std::string& words) {
    for (const std::string& one : all) {
      if (one.find(words) != std::string::npos) return true;
    }
    return false;
  };
  CHECK(run(Nonfinite::propagate, Nonfinite::propagate) == std::set<std::string>{"true"});
  CHECK(run(Nonfinite::skip_step, Nonfinite::propagate) == std::set<std::string>{"false", "true"});
  CHECK(run(Nonfinite::propagate, Nonfinite::skip_step) == std::set<std::string>{"false", "true"});
  CHECK(contains(run(Nonfinite::error, Nonfinite::propagate), "nothing was changed"));
  CHECK(contains(run(Nonfinite::propagate, Nonfinite::error), "gradient holds a NaN"));
}

TEST_CASE("a step of a list is refused before anything has changed") {
  Model<float> model({4, 3}), other({4, 3, 2});
  model.differentiate(1);
  List<float> methods{polyak::AdamW<float>(model.params), polyak::Ema<float>(model.params)};
  const auto step = [&] { return polyak::step(model.params, model.gradients, methods); };
  CHECK(step());
  const auto states = [&] {
    std::vector<Bytes> all{model.bytes()};
    for (const auto& method : methods) all.push_back(polyak::state_bytes(method));
    return all;
  };
  const auto before = states();

  methods.emplace_back(polyak::Ema<float>(other.params));
  CHECK(refuses(step, {"the parameters and those of the method", "\"tensor 2\""}));
  methods.pop_back();
  CHECK(states() == before);

  methods.emplace_back(polyak::Sgd<float>(model.params, {.learning_rate = 0.1}));
  CHECK(refuses(step, {"two optimizers", "\"tensor 0\""}));
  methods.pop_back();
  CHECK(states() == before);

  CHECK(refuses([&] { polyak::update(model.params, methods); },
                {"update()", "AdamW is an optimizer"}));
  CHECK(states() == before);
  {
    const auto guard = methods[1].get<polyak::Ema<float>>()->swap_into(model.params);
    CHECK(refusal<std::logic_error>(step).find("swapped in") != std::string::npos);
  }
  CHECK(states() == before);

  const List<float> many(65, AnyMethod<float>(polyak::Ema<float>(model.params)));
  List<float> some = many;
  CHECK(refuses([&] { polyak::update(model.params, some); }, {"at most 64 methods", "65"}));
  some.pop_back();
  CHECK(polyak::update(model.params, some));
  CHECK(some.front().calls() == 1);
  CHECK(some.back().calls() == 1);

  List<float> none;
  CHECK(polyak::step(model.params, model.gradients, none));
  CHECK(states() == before);
}

TEST_CASE("an AnyMethod is a value that owns the method") {
  using polyak::AdamW;
  using polyak::Ema;
  Model<float> model({40, 3}, true);
  model.differentiate(1);
  const Ema<float> ema(model.params, {.decay = 0.5});
  AnyMethod<float> optimizer = AdamW<float>(model.params), average = ema;
  CHECK(optimizer.name() == "AdamW");
  CHECK(average.name() == "Ema");
  CHECK(optimizer.is_optimizer());
  CHECK_FALSE(average.is_optimizer());
  REQUIRE(optimizer.get<AdamW<float>>() != nullptr);
  CHECK(optimizer.get<Ema<float>>() == nullptr);
  CHECK(optimizer.get<AdamW<float, double>>() == nullptr);
  CHECK(std::as_const(average).get<Ema<float>>()->slots().count() == 1);
  CHECK(optimizer.memory_report().total == optimizer.get<AdamW<float>>()->memory_report().total);
  CHECK(average.memory_report().total == ema.memory_report().total);

  AnyMethod<float> copy = optimizer;
  const Bytes fresh = polyak::state_bytes(optimizer);
  CHECK(optimizer.step(model.params, model.gradients));
  CHECK(average.update(model.params));
  CHECK(optimizer.calls() == 1);
  CHECK(average.calls() == 1);
  CHECK(ema.calls() == 0);
  CHECK(copy.calls() == 0);
  CHECK(polyak::state_bytes(copy) == fresh);
  CHECK(polyak::state_bytes(optimizer) != fresh);
  polyak::restore_state(copy, polyak::state_bytes(optimizer));
  CHECK(polyak::state_bytes(copy) == polyak::state_bytes(optimizer));
  CHECK_NOTHROW(polyak::require_finite(copy));

  copy = average;
  CHECK(copy.get<Ema<float>>()->calls() == 1);
  const auto* const address = copy.get<Ema<float>>();
  AnyMethod<float> moved = std::move(copy);
  CHECK(moved.get<Ema<float>>() == address);
  const auto refuses_use = [&](auto use) {
    return refusal<std::logic_error>(use).find("moved from") != std::string::npos;
  };
  CHECK(refuses_use([&] { static_cast<void>(copy.name()); }));  // NOLINT: moved from
  CHECK(refuses_use([&] { static_cast<void>(copy.get<Ema<float>>()); }));
  CHECK(refuses_use([&] { copy.update(model.params); }));
  CHECK(refuses_use([&] { const AnyMethod<float> another = copy; }));
  copy = optimizer;
  CHECK(copy.name() == "AdamW");

  CHECK(optimizer.at(0.25).get<AdamW<float>>()->learning_rate() == 0.25);
  CHECK(refuses([&] { optimizer.at(-1); }, {"learning_rate", "-1"}));
  CHECK(refuses([&] { average.at(0.1); }, {"at() of Ema", "no learning rate"}));
  CHECK(refuses([&] { optimizer.update(model.params); }, {"AdamW is an optimizer"}));
  static_assert(!std::is_convertible_v<AdamW<double>, AnyMethod<float>>);
}

TEST_CASE("a list of methods is saved and loaded as the methods that it holds") {
  const TemporaryFolder folder;
  const std::string file = folder.file("run.safetensors");
  Model<float> model({40, 3}, true), again({40, 3}, true);
  const auto make = [](const Parameters<float>& p) {
    return List<float>{polyak::AdamW<float>(p), polyak::Ema<float>(p, {.decay = 0.5}),
                       polyak::Swa<float>(p)};
  };
  List<float> methods = make(model.params);
  for (std::uint64_t step = 0; step < 3; ++step) {
    model.differentiate(step);
    polyak::step(model.params, model.gradients, methods);
  }
  polyak::save(file, model.params, methods);

  List<float> loaded = make(again.params);
  polyak::load(file, again.params, loaded);
  CHECK(again.bytes() == model.bytes());
  for (std::size_t k = 0; k < methods.size(); ++k) {
    CHECK(polyak::state_bytes(loaded[k]) == polyak::state_bytes(methods[k]));
  }
  model.differentiate(7);
  again.differentiate(7);
  polyak::step(model.params, model.gradients, methods);
  polyak::step(again.params, again.gradients, loaded);
  CHECK(again.bytes() == model.bytes());
  CHECK(refusal<std::logic_error>([&] {
          polyak::load(file, again.params, loaded);
        }).find("used already") != std::string::npos);

  List<float> skipped{
      polyak::AdamW<float>(again.params, {.nonfinite = polyak::Nonfinite::skip_step}),
      polyak::Ema<float>(again.params, {.decay = 0.5}), polyak::Swa<float>(again.params)};
  std::vector<float> nan(again.params.elements(), std::numeric_limits<float>::quiet_NaN());
  polyak::Gradients<float> broken(again.params);
  broken.set(again.params[0].name(), nan.data());
  CHECK_FALSE(skipped[0].step(again.params, broken));
  CHECK(refusal<std::logic_error>([&] {
          polyak::load(file, again.params, skipped);
        }).find("used already") != std::string::npos);

  // A file of named methods is loaded into a list, and the other way round.
  polyak::AdamW<float> adamw(again.params);
  polyak::Ema<float> ema(again.params, {.decay = 0.5});
  AnyMethod<float> swa = polyak::Swa<float>(again.params);
  polyak::load(file, again.params, adamw, ema, swa);
  CHECK(adamw.count() == 3);
  CHECK(swa.calls() == 3);
  polyak::save(file, again.params, adamw, ema, swa);
  List<float> from_named = make(again.params);
  polyak::load(file, again.params, from_named);
  CHECK(polyak::state_bytes(from_named[0]) == polyak::state_bytes(adamw));
  CHECK(polyak::state_bytes(from_named[1]) == polyak::state_bytes(ema));

  List<float> others{polyak::AdamW<float>(again.params, {.beta1 = 0.8}),
                     polyak::Ema<float>(again.params, {.decay = 0.5}),
                     polyak::Swa<float>(again.params)};
  CHECK(refuses([&] { polyak::load(file, again.params, others); }, {"beta1"}));
  polyak::load(file, {.only = polyak::Parts::averages}, again.params, others);
  CHECK(others[0].calls() == 0);
  CHECK(others[1].calls() == 3);
}

}  // namespace any_method_test
