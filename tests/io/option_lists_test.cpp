// SPDX-License-Identifier: Apache-2.0
// Every options struct of the library: each field with a rule refuses what breaks it, where the
// options are used. Rules of several fields are tested beside their methods.
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <polyak/core/option_table.hpp>
#include <polyak/io.hpp>
#include <polyak/io/known_weightings.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/merge/merge_as_decay.hpp>
#include <polyak/polyak.hpp>

#include "catch.hpp"
#include "headers.hpp"
#include "refusal_battery.hpp"

namespace option_lists_test {

namespace {

using namespace polyak;  // NOLINT
using Numbers = std::vector<double>;

/// Calls `use(valid, make)` for every struct that has rules of single fields: options that are
/// accepted, and what takes them.
template <class Use>
void for_each_struct(Use use) {
  Numbers x{1, 2};
  Parameters<double> params;
  params.add("x", x);
  // Optimizers and learning rates.
  use(std::vector<SgdOptions>{{.learning_rate = 0.1},
                              {.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}},
      [&](const SgdOptions& o) { Sgd<double> method(params, o); });
  use(std::vector<AdamWOptions>{{}, {.allow_zero_epsilon = true}},
      [&](const AdamWOptions& o) { AdamW<double> method(params, o); });
  use(std::vector<AdamOptions>{{}}, [&](const AdamOptions& o) { Adam<double> method(params, o); });
  use(std::vector<LionOptions>{{}}, [&](const LionOptions& o) { Lion<double> method(params, o); });
  use(std::vector<AdEMAMixOptions>{{}, {.beta3_warmup = 10, .allow_zero_epsilon = true}},
      [&](const AdEMAMixOptions& o) { AdEMAMix<double> method(params, o); });
  use(std::vector<ScheduleFreeSgdOptions>{{}},
      [&](const ScheduleFreeSgdOptions& o) { ScheduleFreeSgd<double> method(params, o); });
  use(std::vector<ScheduleFreeAdamWOptions>{{}},
      [&](const ScheduleFreeAdamWOptions& o) { ScheduleFreeAdamW<double> method(params, o); });
  use(std::vector<CosineOptions>{{.total_steps = 10}},
      [](const CosineOptions& o) { static_cast<void>(cosine(0, o)); });
  use(std::vector<CooldownOptions>{{.total_steps = 10}},
      [](const CooldownOptions& o) { static_cast<void>(constant_with_cooldown(0, o)); });
  use(std::vector<PolynomialOptions>{{.total_steps = 10}},
      [](const PolynomialOptions& o) { static_cast<void>(polynomial(0, o)); });
  use(std::vector<InverseSquareRootOptions>{{.warmup_steps = 10}},
      [](const InverseSquareRootOptions& o) { static_cast<void>(inverse_square_root(0, o)); });
  use(std::vector<OneCycleOptions>{{.total_steps = 10}},
      [](const OneCycleOptions& o) { static_cast<void>(one_cycle(0, o)); });
  use(std::vector<SwaLearningRateOptions>{{.swa_learning_rate = {0.05}}},
      [](const SwaLearningRateOptions& o) { SwaLearningRate rate({0.1}, o); });
  use(std::vector<SwaConstantOptions>{{0.1, 0.05, 10}},
      [](const SwaConstantOptions& o) { static_cast<void>(swa_constant(0, o)); });
  use(std::vector<SwaCyclicOptions>{{0.1, 0.05, 10}},
      [](const SwaCyclicOptions& o) { static_cast<void>(swa_cyclic(1, o)); });
  // Averages.
  use(std::vector<EmaOptions>{{}, {.start = Start::zero_debiased}},
      [&](const EmaOptions& o) { Ema<double> average(params, o); });
  use(std::vector<EmaBankOptions>{{}}, [&](const EmaBankOptions& o) {
    EmaBank average(params, std::array{0.9, 0.99}, o);
  });
  use(std::vector<SwaOptions>{{}}, [&](const SwaOptions& o) { Swa<double> average(params, o); });
  use(std::vector<TailOptions>{{}}, [&](const TailOptions& o) { Tail<double> average(params, o); });
  use(std::vector<PowerEmaOptions>{{.sigma_rel = 0.1}, {.gamma = 7}},
      [&](const PowerEmaOptions& o) { PowerEma<double> average(params, o); });
  use(std::vector<SampleEmaOptions>{{}},
      [&](const SampleEmaOptions& o) { SampleEma<double> average(params, o); });
  use(std::vector<WindowAverageOptions>{{}},
      [&](const WindowAverageOptions& o) { WindowAverage<double> average(params, o); });
  use(std::vector<LawaOptions>{{}}, [&](const LawaOptions& o) { Lawa<double> average(params, o); });
  use(std::vector<CottaOptions>{{}},
      [&](const CottaOptions& o) { CottaTeacher<double> average(params, o); });
  use(std::vector<AswaOptions>{{}}, [&](const AswaOptions& o) { Aswa<double> average(params, o); });
  use(std::vector<HareTortoiseOptions>{{}},
      [&](const HareTortoiseOptions& o) { HareTortoise<double> average(params, o); });
  use(std::vector<SwitchEmaOptions>{{}},
      [&](const SwitchEmaOptions& o) { SwitchEma<double> average(params, o); });
  use(std::vector<SoftUpdateOptions>{{}}, [](const SoftUpdateOptions& o) {
    polyak::detail::check_soft_update(o, DType::float64, 0.5);
  });
  // After training.
  use(std::vector<ProfileFitOptions>{{.force = true}}, [](const ProfileFitOptions& o) {
    static_cast<void>(fit_profiles({GainSequence(UniformWeighting{})}, {{0, 4}, {0, 8}},
                                   {ProfileTarget::uniform()}, o));
  });
  use(std::vector<PosthocTarget>{{.sigma_rel = 0.1}, {.gamma = 7}}, [&](const PosthocTarget& o) {
    PosthocEma<double> posthoc;
    posthoc.snapshot(params, 7, 10);
    static_cast<void>(posthoc.solve(o));
  });
  use(std::vector<DecayMultipliersOptions>{{}}, [](const DecayMultipliersOptions& o) {
    static_cast<void>(decay_multipliers(CooldownCurve::linear, 3, o));
  });
  // Weightings, which Average validates.
  const auto weighting = [&]<class W>(W valid) {
    use(std::vector<W>{valid}, [&](const W& w) { Average<double, W> average(params, w); });
  };
  weighting(UniformWeighting{});
  weighting(ExponentialWeighting{});
  weighting(PolynomialWeighting{});
  weighting(PowerWeighting{});
  weighting(PowerClock{});
  weighting(SampleClock{1000, 0.1, 1});
  weighting(TfWarmupWeighting{});
  weighting(InverseGammaWeighting{});
  weighting(TailWeighting{});
  weighting(DiffusersWeighting{});
  weighting(TimmWeighting{});
  weighting(EmaPytorchWeighting{});
  weighting(IntervalWeighting{});
  weighting(AnnealedWeighting{});
  weighting(HalfLifeWeighting{});
  weighting(CosineDecayWeighting{});
  weighting(GainWarmupWeighting{});
  weighting(PowerGainWeighting{});
  weighting(RepeatedWeighting<ExponentialWeighting>{{}, 2});
  weighting(HareTortoiseWeighting{});
  weighting(SwitchWeighting{});
  // Parts of options, and options of lists in files: tests the list only.
  const auto alone = [&]<class O>(O valid) {
    use(std::vector<O>{valid}, [](const O& o) { validate(o); });
  };
  alone(WindowWeighting{});
  alone(GroupOptions{});
  alone(LawaWeighting{});
  alone(detail::PacedPowerWeighting{});
  alone(SwitchRule{SwitchUnit::epochs, 1, 0, 10});
  alone(ReconstructOptions{.fit = {.force = true}});
}

}  // namespace

TEST_CASE("Every bad value of every field is refused, by struct, field and value") {
  std::size_t refusals = 0;
  for_each_struct([&](const auto& valid, const auto& make) {
    const std::size_t bad = check_refusals(valid, make);
    CHECK(bad > 0);
    refusals += bad;
  });
  CHECK(refusals > 500);
}

TEST_CASE("This test covers every options struct of the headers") {
  // Structs without a rule of a single field, and options that cannot be wrong.
  const std::set<std::string> without_rules{
      "MergeOptions",         "MergeWeighting",      "StreamWeighting",
      "SaveWeightsOptions",   "SaveOptions",         "LoadOptions",
      "LoadWeightsOptions",   "WriteShardedOptions", "SafetensorsWriteOptions",
      "SnapshotStoreOptions", "ReductionOptions",    "Window",
      "StepMetricsOptions"};
  std::set<std::string> listed;
  for_each_struct([&]<class O>(const std::vector<O>&, const auto&) {
    listed.insert(std::string(detail::plain_type_name<O>()));
  });
  std::set<std::string> declared;
  for (const headers::Line& line : headers::lines()) {
    if (line.file.ends_with("core/options.hpp")) continue;  // the example of its documentation
    const std::string call = "void fields(";
    const std::size_t at = line.text.find(call);
    if (at != std::string::npos) {
      const std::size_t begin = at + call.size();
      declared.insert(line.text.substr(begin, line.text.find_first_of("<&", begin) - begin));
    }
    if (line.type.ends_with("Options")) declared.insert(line.type);
  }
  declared.erase("W");  // of any weighting
  CHECK(declared.size() > 40);
  for (const std::string& name : declared) {
    INFO(name << " is validated or saved: add it to for_each_struct");
    CHECK((listed.contains(name) || without_rules.contains(name)));
  }
  for (const std::string& name : listed) {
    INFO(name);
    CHECK(declared.contains(name));
  }
}

TEST_CASE("Every options struct has a table") {
  for_each_struct([&]<class O>(const std::vector<O>& valid, const auto&) {
    const OptionTable table = option_table(valid.front());
    INFO(table.name);
    CHECK(table.name.size() > 4);
    CHECK(!table.rows.empty());
    std::set<std::string> names;
    bool ruled = false;
    for (const OptionRow& row : table.rows) {
      CHECK(!row.name.empty());
      CHECK(!row.type.empty());
      names.insert(row.name);
      ruled = ruled || !row.rule.empty();
    }
    CHECK(names.size() == table.rows.size());
    CHECK((ruled || std::is_same_v<O, ReconstructOptions>));
  });
  CHECK(option_table<AdamOptions>().name == "AdamOptions");
  CHECK(option_table<AdamWOptions>().name == "AdamWOptions");
}

TEST_CASE("The options of every struct equal themselves") {
  for_each_struct([&]<class O>(const std::vector<O>& valid, const auto&) {
    for (const O& options : valid) CHECK(same_options(options, options));
  });
}

}  // namespace option_lists_test
