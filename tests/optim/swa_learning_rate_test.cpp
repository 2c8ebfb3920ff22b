// SPDX-License-Identifier: Apache-2.0
#include <polyak/optim/swa_learning_rate.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/state.hpp>

#include "allocations.hpp"
#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace swa_learning_rate_test {

using namespace polyak;

namespace {

using Rates = std::vector<double>;

/// s f(u) + lr_0 (1 - f(u)) in long double.
double closed_form(double lr, double s, std::int64_t k, std::int64_t n, AnnealStrategy strategy) {
  const long double u = k >= n ? 1.0L : static_cast<long double>(k) / static_cast<long double>(n);
  const long double f = strategy == AnnealStrategy::linear
                            ? u
                            : (1 - std::cos(std::numbers::pi_v<long double> * u)) / 2;
  return static_cast<double>(static_cast<long double>(s) * f +
                             static_cast<long double>(lr) * (1 - f));
}

/// The recursion of the reference, literally.
double as_reference(double lr, double s, std::int64_t k, std::int64_t n, AnnealStrategy strategy) {
  const auto f = [&](std::int64_t step) {
    const double u = std::fmin(static_cast<double>(step) / static_cast<double>(n), 1.0);
    return strategy == AnnealStrategy::linear ? u : (1 - std::cos(std::numbers::pi * u)) / 2;
  };
  const double before = f(k - 1), now = f(k);
  const double base = before == 1 ? s : (lr - before * s) / (1 - before);
  return s * now + base * (1 - now);
}

}  // namespace

TEST_CASE("annealing agrees with hand-computed rates", "[swa_learning_rate]") {
  SwaLearningRate linear(
      {0.5, 2.0},
      {.swa_learning_rate = {0.25, 4.0}, .anneal_epochs = 4, .strategy = AnnealStrategy::linear});
  CHECK(linear.rates() == Rates{0.5, 2});
  CHECK(linear.step() == Rates{0.4375, 2.5});
  CHECK(linear.step() == Rates{0.375, 3});
  CHECK(linear.step() == Rates{0.3125, 3.5});
  CHECK(linear.step() == Rates{0.25, 4});
  CHECK(linear.step() == Rates{0.25, 4});
  CHECK(linear.count() == 5);
  CHECK(linear.rate() == 0.25);
  CHECK(linear.rate(1) == 4);

  SwaLearningRate cosine({1.0}, {.swa_learning_rate = {0.0}, .anneal_epochs = 3});
  CHECK(cosine.step()[0] == Approx(0.75).epsilon(1e-15));  // 60 degrees
  CHECK(cosine.step()[0] == Approx(0.25).epsilon(1e-15));
  CHECK(cosine.step()[0] == 0);

  const SwaLearningRateOptions usual{.swa_learning_rate = {1}};
  CHECK(usual.anneal_epochs == 10);
  CHECK(usual.strategy == AnnealStrategy::cosine);
  CHECK_FALSE(usual.rebase);
  CHECK(name_of(AnnealStrategy::cosine) == "cosine");
  CHECK(name_of(AnnealStrategy::linear) == "linear");
}

TEST_CASE("one SWA rate can serve all groups", "[swa_learning_rate]") {
  const SwaLearningRateOptions options{.swa_learning_rate = {0.5}, .anneal_epochs = 2};
  SwaLearningRate rate({1, 2, 3}, options);
  CHECK(rate.options().swa_learning_rate == Rates{0.5, 0.5, 0.5});
  rate.step();
  CHECK(rate.step() == Rates{0.5, 0.5, 0.5});
}

TEST_CASE("both kinds of annealing agree with their closed forms", "[swa_learning_rate]") {
  for (const AnnealStrategy strategy : {AnnealStrategy::cosine, AnnealStrategy::linear}) {
    for (const std::int64_t epochs : {1, 2, 10, 1000}) {
      for (const double target : {0.05, 0.3, 0.1}) {
        SwaLearningRateOptions options{{target}, epochs, strategy, false};
        SwaLearningRate stored({0.1}, options);
        options.rebase = true;
        SwaLearningRate rebased({0.1}, options);
        for (std::int64_t k = 1; k <= epochs + 3; ++k) {
          INFO(name_of(strategy) << " to " << target << ", step " << k << " of " << epochs);
          const double expected = closed_form(0.1, target, k, epochs, strategy);
          REQUIRE(stored.step()[0] == Approx(expected).epsilon(1e-15).margin(0));
          REQUIRE(rebased.step()[0] == Approx(expected).epsilon(1e-13).margin(0));
          if (k >= epochs || target == 0.1) {
            REQUIRE(stored.rate() == target);
            REQUIRE(rebased.rate() == target);
          }
        }
      }
    }
  }
}

TEST_CASE("the last steps of annealing are accurate", "[swa_learning_rate]") {
  // 1 - f(u) is 2.5e-8 a step before the end of 10,000: by subtraction it has 8 digits left, which
  // all of a rate that goes to 0 would show.
  constexpr std::int64_t epochs = 10000;
  SwaLearningRateOptions options{{0}, epochs, AnnealStrategy::cosine, false};
  SwaLearningRate stored({1}, options);
  options.rebase = true;
  SwaLearningRate rebased({1}, options);
  for (std::int64_t k = 1; k < epochs; ++k) {
    stored.step();
    rebased.step();
  }
  const double half = std::sin(std::numbers::pi / 2 / epochs);
  CHECK(stored.rate() == Approx(half * half).epsilon(1e-15));
  CHECK(rebased.rate() == Approx(half * half).epsilon(1e-11));
  CHECK(
      std::fabs((1 - (1 - std::cos(std::numbers::pi * (epochs - 1) / epochs)) / 2) / (half * half) -
                1) > 1e-11);
}

TEST_CASE("annealing continues from rates that were changed from outside", "[swa_learning_rate]") {
  for (const AnnealStrategy strategy : {AnnealStrategy::cosine, AnnealStrategy::linear}) {
    constexpr std::int64_t epochs = 8;
    const SwaLearningRateOptions options{{0.02, 0.3}, epochs, strategy, true};
    SwaLearningRate set({0.1, 0.1}, options), given({0.1, 0.1}, options);
    Rates expected{0.1, 0.1};
    for (std::int64_t k = 1; k <= 12; ++k) {
      INFO(name_of(strategy) << ", step " << k);
      if (k == 4 || k == 11) {  // within the annealing and after it
        for (std::size_t group = 0; group < 2; ++group) {
          expected[group] *= 0.5;
          set.set_rate(group, set.rate(group) * 0.5);
        }
        CHECK(set.rates() == Rates{set.rate(0), set.rate(1)});
        Rates current = given.rates();
        for (double& rate : current) rate *= 0.5;
        given.step(current);
      } else {
        given.step();
      }
      set.step();
      for (std::size_t group = 0; group < 2; ++group) {
        expected[group] =
            as_reference(expected[group], options.swa_learning_rate[group], k, epochs, strategy);
        CHECK(set.rate(group) == Approx(expected[group]).epsilon(1e-13));
      }
      CHECK(given.rates() == set.rates());
      if (k >= epochs) CHECK(set.rates() == options.swa_learning_rate);
    }
    // Its own rates change nothing.
    SwaLearningRate plain({0.1, 0.1}, options), same({0.1, 0.1}, options);
    for (int k = 0; k < 5; ++k) CHECK(same.step(same.rates()) == plain.step());
  }
}

TEST_CASE("annealing over 0 epochs reaches the SWA rate at once", "[swa_learning_rate]") {
  for (const AnnealStrategy strategy : {AnnealStrategy::cosine, AnnealStrategy::linear}) {
    for (const bool rebase : {false, true}) {
      SwaLearningRate rate({0.1, 0.2}, {{0.02}, 0, strategy, rebase});
      CHECK(rate.rates() == Rates{0.02, 0.02});
      CHECK(rate.count() == 0);
      CHECK(rate.step() == Rates{0.02, 0.02});
      if (rebase) {
        rate.set_rate(1, 5);
        CHECK(rate.rates() == Rates{0.02, 5});
        CHECK(rate.step() == Rates{0.02, 0.02});
      }
      SwaLearningRate one({0.1}, {{0.02}, 1, strategy, rebase});
      CHECK(one.rates() == Rates{0.1});
      CHECK(one.step() == Rates{0.02});
    }
  }
}

TEST_CASE("annealing resumes from its state bit for bit", "[swa_learning_rate]") {
  for (const bool rebase : {false, true}) {
    for (std::int64_t saved_at = 0; saved_at < 12; ++saved_at) {
      const SwaLearningRateOptions options{{0.05, 0.3}, 10, AnnealStrategy::cosine, rebase};
      SwaLearningRate run({0.1, 0.7}, options);
      for (std::int64_t k = 0; k < saved_at; ++k) run.step();
      if (rebase) run.set_rate(1, 0.123);
      SwaLearningRate resumed({0.4, 0.5}, options);  // the initial rates are not used
      resumed.step();
      restore_state(resumed, state_bytes(run));
      CHECK(state_bytes(resumed) == state_bytes(run));
      CHECK(resumed.count() == saved_at);
      for (int k = 0; k < 12; ++k) {
        CHECK(bytes_of(resumed.rates()) == bytes_of(run.rates()));
        run.step();
        resumed.step();
      }
    }
  }
  SwaLearningRate one({0.1}, {.swa_learning_rate = {0.05}});
  SwaLearningRate two({0.1, 0.1}, {.swa_learning_rate = {0.05}});
  CHECK(refuses([&] { restore_state(one, state_bytes(two)); }, {"restore_state"}));
  CHECK(one.rates() == Rates{0.1});
}

TEST_CASE("the state of annealing lists each entry once", "[swa_learning_rate]") {
  class Names final : public polyak::StateVisitor {
   public:
    Names() : StateVisitor(true) {}
    std::vector<std::string> options, scalars;
    void counters(std::string_view, std::span<const std::int64_t>) override {}
    void buffers(const polyak::Layout&, const std::byte*) override {}
    void slots(const polyak::ConstSlots&) override {}

   private:
    void add_option(polyak::detail::OptionText&& option) override {
      options.push_back(std::move(option.name));
    }
    void add_scalar(std::string_view name, const void*, const polyak::StateScalarType&) override {
      scalars.emplace_back(name);
    }
  } names;
  const SwaLearningRate rate({0.1, 0.2}, {.swa_learning_rate = {0.05}});
  polyak::detail::visit_state(rate, names);
  CHECK(names.options == std::vector<std::string>{"swa_learning_rate.0", "swa_learning_rate.1",
                                                  "anneal_epochs", "strategy", "rebase"});
  CHECK(names.scalars ==
        std::vector<std::string>{"steps", "initial_rate.0", "rate.0", "initial_rate.1", "rate.1"});
}

TEST_CASE("a step of annealing allocates nothing", "[swa_learning_rate]") {
  SwaLearningRate rate({0.1, 0.2}, {.swa_learning_rate = {0.05}, .rebase = true});
  const Rates given{0.3, 0.4};
  const allocations::Counter counter;
  rate.step();
  rate.step(given);
  rate.set_rate(0, 0.1);
  CHECK(counter.counts().number == 0);
}

TEST_CASE("annealing refuses invalid arguments and stays unchanged", "[swa_learning_rate]") {
  const auto make = [](Rates initial, SwaLearningRateOptions options) {
    return [=] { SwaLearningRate bad(initial, options); };
  };
  const std::string name = "polyak: SwaLearningRateOptions.";
  CHECK(refuses(make({0.1}, {}), {name + "swa_learning_rate must have at least one", "got 0"}));
  for (const double bad : {-0.1, nan_value, infinity}) {
    CHECK(refuses(make({0.1, 0.1}, {.swa_learning_rate = {0.1, bad}}),
                  {name + "swa_learning_rate must be finite and >= 0"}));
    CHECK(refuses(make({0.1, bad}, {.swa_learning_rate = {0.1}}),
                  {"SwaLearningRate: initial rates must be finite and >= 0"}));
  }
  CHECK(refuses(make({0.1}, {.swa_learning_rate = {0.1}, .anneal_epochs = -1}),
                {name + "anneal_epochs must be >= 0", "got -1"}));
  CHECK(refuses(make({}, {.swa_learning_rate = {0.1}}), {"at least one initial rate", "got 0"}));
  CHECK(refuses(make({0.1, 0.1, 0.1}, {.swa_learning_rate = {0.1, 0.1}}),
                {name + "swa_learning_rate must have one rate, or one per group, 3", "got 2"}));
  CHECK(refuses(make({0.1}, {.swa_learning_rate = {0.1, 0.1}}), {"one per group, 1", "got 2"}));

  SwaLearningRate stored({0.1}, {.swa_learning_rate = {0.05}});
  const Rates one{0.1};
  for (const std::string& message : {refusal<std::logic_error>([&] { stored.set_rate(0, 0.1); }),
                                     refusal<std::logic_error>([&] { stored.step(one); })}) {
    CHECK(message == "polyak: the rates of SwaLearningRate can be changed with rebase = true only");
  }
  CHECK(stored.count() == 0);

  SwaLearningRate rate({0.1, 0.2}, {.swa_learning_rate = {0.05}, .rebase = true});
  rate.step();
  const auto before = state_bytes(rate);
  const Rates with_nan{0.1, nan_value}, negative{-0.1, 0.1};
  CHECK(refuses([&] { rate.step(one); }, {"one rate per group, 2", "got 1"}));
  CHECK(refuses([&] { rate.step(with_nan); }, {"rates must be finite and >= 0", "got nan"}));
  CHECK(refuses([&] { rate.step(negative); }, {"rates must be finite and >= 0", "got -0.1"}));
  CHECK(refuses([&] { rate.set_rate(0, -1); }, {"set_rate", "got -1"}));
  CHECK(refuses([&] { rate.set_rate(0, infinity); }, {"set_rate", "got inf"}));
  CHECK(refuses([&] { rate.set_rate(2, 0.1); }, {"group must lie in [0, 2)", "got 2"}));
  CHECK(refuses([&] { static_cast<void>(rate.rate(2)); }, {"group", "got 2"}));
  CHECK(state_bytes(rate) == before);
}

TEST_CASE("swa_constant agrees with hand-computed rates of the training script",
          "[swa_learning_rate]") {
  const SwaConstantOptions o{.learning_rate = 0.5, .swa_learning_rate = 0.25, .start = 10};
  for (const std::int64_t epoch : {0, 1, 5}) CHECK(swa_constant(epoch, o) == 0.5);
  CHECK(swa_constant(6, o) == Approx(0.4375).epsilon(1e-14));
  CHECK(swa_constant(7, o) == Approx(0.375).epsilon(1e-14));
  CHECK(swa_constant(8, o) == Approx(0.3125).epsilon(1e-14));
  for (const std::int64_t epoch : {9, 10, 11, 1000000}) CHECK(swa_constant(epoch, o) == 0.25);

  // One epoch before averaging, a rate that rises, and one of 0.
  CHECK(swa_constant(0, {.learning_rate = 1, .swa_learning_rate = 2, .start = 1}) == 1);
  CHECK(swa_constant(1, {.learning_rate = 1, .swa_learning_rate = 2, .start = 1}) == 2);
  CHECK(swa_constant(7, {.learning_rate = 0, .swa_learning_rate = 2, .start = 10}) ==
        Approx(1).epsilon(1e-14));
  for (std::int64_t epoch = 1; epoch < 400; ++epoch) {
    const SwaConstantOptions falling{.learning_rate = 0.1, .swa_learning_rate = 0.03, .start = 317};
    REQUIRE(swa_constant(epoch, falling) <= swa_constant(epoch - 1, falling));
    REQUIRE(swa_constant(epoch - 1, falling) - swa_constant(epoch, falling) < 0.001);  // no jump
  }
}

TEST_CASE("swa_cyclic agrees with hand-computed rates", "[swa_learning_rate]") {
  const SwaCyclicOptions o{.first_rate = 1, .last_rate = 0.5, .cycle = 4};
  for (const std::int64_t begin : {0, 4, 400000}) {
    CHECK(swa_cyclic(begin + 1, o) == 0.875);
    CHECK(swa_cyclic(begin + 2, o) == 0.75);
    CHECK(swa_cyclic(begin + 3, o) == 0.625);
    CHECK(swa_cyclic(begin + 4, o) == 0.5);
  }
  // A cycle of one iteration is a constant rate.
  for (const std::int64_t i : {1, 2, 3}) {
    CHECK(swa_cyclic(i, {.first_rate = 1, .last_rate = 0.1, .cycle = 1}) == 0.1);
  }
  for (const std::int64_t cycle : {1, 2, 3, 7}) {
    const UniformWeighting collected{cycle, cycle};
    for (std::int64_t i = 1; i < 30; ++i) {
      REQUIRE(swa_cycle_ends(i, cycle) == collected.counts(i));
      const bool lowest = swa_cyclic(i, {.first_rate = 1, .last_rate = 0.1, .cycle = cycle}) == 0.1;
      REQUIRE(swa_cycle_ends(i, cycle) == lowest);
    }
  }
}

TEST_CASE("swa_constant and swa_cyclic refuse options out of range", "[swa_learning_rate]") {
  using Constant = SwaConstantOptions;
  const auto constant = [](const Constant& o) { static_cast<void>(swa_constant(3, o)); };
  const Constant plan{.learning_rate = 0.1, .swa_learning_rate = 0.05, .start = 10};
  const std::string of_constant = "SwaConstantOptions.";
  check_refused(constant, plan, &Constant::learning_rate,
                of_constant + "learning_rate must be finite and >= 0", {-0.1, nan_value, infinity});
  check_refused(constant, plan, &Constant::swa_learning_rate,
                of_constant + "swa_learning_rate must be finite and >= 0",
                {-0.1, nan_value, infinity});
  check_refused(constant, plan, &Constant::start, of_constant + "start must be >= 1", {0, -3});
  CHECK(refuses([&] { static_cast<void>(swa_constant(-1, plan)); }, {"epoch must be >= 0"}));
  CHECK(refuses([&] { constant({}); }, {"learning_rate", "got nan"}));  // nothing is a default

  using Cyclic = SwaCyclicOptions;
  const auto cyclic = [](const Cyclic& o) { static_cast<void>(swa_cyclic(3, o)); };
  const Cyclic cycles{.first_rate = 0.1, .last_rate = 0.05, .cycle = 4};
  const std::string of_cyclic = "SwaCyclicOptions.";
  check_refused(cyclic, cycles, &Cyclic::first_rate,
                of_cyclic + "first_rate must be finite and >= 0", {-0.1, nan_value, infinity});
  check_refused(cyclic, cycles, &Cyclic::last_rate, of_cyclic + "last_rate must be finite and >= 0",
                {-0.1, nan_value, infinity});
  check_refused(cyclic, cycles, &Cyclic::cycle, of_cyclic + "cycle must be >= 1", {0, -3});
  CHECK(refuses([&] { static_cast<void>(swa_cyclic(0, cycles)); }, {"iteration must be >= 1"}));
  CHECK(refuses([] { static_cast<void>(swa_cycle_ends(0, 4)); }, {"iteration must be >= 1"}));
  CHECK(refuses([] { static_cast<void>(swa_cycle_ends(4, 0)); }, {"cycle must be >= 1"}));
}

}  // namespace swa_learning_rate_test
