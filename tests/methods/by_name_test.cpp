// SPDX-License-Identifier: Apache-2.0
// Methods by name: the lists are complete, and the methods are those of the constructors.
#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/average/by_name.hpp>
#include <polyak/core/any_method.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/by_name.hpp>

#include "../support/catch.hpp"
#include "../support/headers.hpp"
#include "../support/methods.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"

namespace by_name_test {

namespace {

using polyak::AnyMethod;
using polyak::make_average;
using polyak::make_optimizer;
using polyak::Nonfinite;
using Names = std::set<std::string>;

template <class List>
Names set_of(const List& list) {
  return Names(list.begin(), list.end());
}

/// The classes in a folder of headers that a program can construct from parameters.
Names classes_in(const std::string& folder) {
  Names all;
  const auto place = std::filesystem::path(POLYAK_INCLUDE_DIR) / "polyak" / folder;
  for (const headers::Line& line : headers::lines()) {
    const bool here = std::filesystem::path(line.file).parent_path() == place;
    const bool begins = line.text.starts_with("class ") && line.text.back() != ';';
    if (here && begins) all.insert(line.type);
  }
  return all;
}

const polyak::OptionValues rate{{"learning_rate", "0.5"}};

}  // namespace

TEST_CASE("every optimizer of the library is made by its name") {
  const Names names = set_of(polyak::optimizer_names());
  CHECK(names.size() == polyak::optimizer_names().size());
  Names listed{"Adam"};  // a case of AdamW in the list of methods
  const auto add = [&](const methods::Method& method, const auto&) {
    listed.emplace(method.title());
  };
  methods::for_each_optimizer<float>(add);
  methods::for_each_schedule_free<float>(add);
  CHECK(names == listed);
  // The classes of the headers, but for parts and learning rates.
  Names classes = classes_in("optim");
  for (const char* part : {"Elementwise", "ScheduleFree", "ScheduleFreeTensor", "ScheduleFreeView",
                           "SwaLearningRate", "TensorGroups", "WeightRests"}) {
    CHECK(classes.erase(part) == 1);
  }
  CHECK(names == classes);

  Model<float> model({20, 3});
  model.differentiate(1);
  for (const std::string& name : names) {
    AnyMethod<float> method = make_optimizer(name, model.params, rate);
    INFO(name);
    CHECK(method.is_optimizer());
    CHECK(method.name() == (name == "Adam" ? "AdamW" : name));
    CHECK(method.step(model.params, model.gradients));
  }
}

TEST_CASE("every average that is made of options is made by its name") {
  const Names names = set_of(polyak::average_names());
  Names listed;
  const auto add = [&](const methods::Method& method, const auto&) {
    listed.emplace(method.title());
  };
  methods::for_each_average<float>(add);
  methods::for_each_window<float>(add);
  CHECK(listed.erase("Average") == 1);  // with a weighting
  CHECK(listed.erase("EmaBank") == 1);  // with decays
  CHECK(names == listed);
  // The classes of the headers, but for parts and what is no average of options alone.
  Names classes = classes_in("average");
  for (const char* other : {"BatchNormEstimator", "EmaBank", "EmaBankAverage", "PosthocEma"}) {
    CHECK(classes.erase(other) == 1);
  }
  CHECK(names == classes);

  Model<float> model({20, 3});
  for (const std::string& name : names) {
    const polyak::OptionValues values =
        name == "PowerEma" ? polyak::OptionValues{{"gamma", "3"}} : polyak::OptionValues{};
    AnyMethod<float> method = make_average(name, model.params, values);
    INFO(name);
    CHECK_FALSE(method.is_optimizer());
    CHECK(method.name() == name);
    CHECK(method.update(model.params));
  }
}

TEST_CASE("a method made by name is the one of the constructor with the same options") {
  Model<float> model({20, 3}, true);
  model.differentiate(1);
  const auto some = polyak::named("tensor 1");
  AnyMethod<float> made = make_optimizer("AdamW", model.params,
                                         {{"learning_rate", "1e-2"},
                                          {"beta2", "0.95"},
                                          {"amsgrad", "true"},
                                          {"nonfinite", "skip_step"}},
                                         some);
  const polyak::AdamW<float> same(
      model.params,
      {.learning_rate = 1e-2, .beta2 = 0.95, .amsgrad = true, .nonfinite = Nonfinite::skip_step},
      some);
  CHECK(polyak::state_bytes(made) == polyak::state_bytes(same));
  REQUIRE(made.get<polyak::AdamW<float>>() != nullptr);
  CHECK(made.get<polyak::AdamW<float>>()->learning_rate() == 1e-2);

  CHECK(polyak::state_bytes(make_optimizer<float>("AdamW", model.params)) ==
        polyak::state_bytes(polyak::AdamW<float>(model.params)));
  CHECK(make_optimizer<float, double>("Lion", model.params).get<polyak::Lion<float, double>>() !=
        nullptr);
  CHECK(polyak::state_bytes(make_average(
            "Ema", model.params,
            {{"decay", "0.9"}, {"start", "zero_debiased"}, {"accumulate", "kahan"}}, some)) ==
        polyak::state_bytes(polyak::Ema<float>(model.params,
                                               {.decay = 0.9,
                                                .start = polyak::Start::zero_debiased,
                                                .accumulate = polyak::Accumulate::kahan},
                                               some)));
}

TEST_CASE("unknown names, unknown options and wrong texts are refused with what there is") {
  Model<float> model({20, 3});
  const auto optimizer = [&](const char* name, const polyak::OptionValues& values,
                             const std::vector<std::string>& words) {
    return refuses([&] { static_cast<void>(make_optimizer(name, model.params, values)); }, words);
  };
  CHECK(optimizer("adamw", {}, {"no optimizer \"adamw\"", "Sgd, AdamW, Adam, AdEMAMix, Lion"}));
  CHECK(optimizer("Ema", {}, {"no optimizer \"Ema\""}));
  CHECK(optimizer("AdamW", {{"lr", "0.1"}},
                  {"AdamWOptions has no option \"lr\"; it has learning_rate, beta1, beta2",
                   "accumulate, seed"}));
  CHECK(optimizer("Sgd", {{"learning_rate", "0.1"}, {"beta1", "0.9"}},
                  {"SgdOptions has no option \"beta1\"", "momentum"}));
  CHECK(optimizer("AdamW", {{"beta1", "often"}},
                  {"AdamWOptions.beta1 must be a number, got", "often"}));
  CHECK(optimizer("AdamW", {{"beta1", "0.9 "}}, {"AdamWOptions.beta1 must be a number"}));
  CHECK(optimizer("AdamW", {{"amsgrad", "1"}},
                  {"AdamWOptions.amsgrad must be true or false", "\"1\""}));
  CHECK(optimizer("AdamW", {{"seed", "-1"}}, {"AdamWOptions.seed must be an integer >= 0", "-1"}));
  CHECK(optimizer(
      "AdamW", {{"nonfinite", "skip"}},
      {"AdamWOptions.nonfinite must be one of propagate, skip_step, error, got \"skip\""}));
  CHECK(optimizer("AdamW", {{"beta1", "1.5"}}, {"AdamWOptions.beta1 must lie in [0, 1)", "1.5"}));
  CHECK(optimizer("Sgd", {}, {"SgdOptions.learning_rate must be finite"}));  // required

  CHECK(refuses([&] { static_cast<void>(make_average("Mean", model.params)); },
                {"no average \"Mean\"", "Swa, Ema, PowerEma"}));
  CHECK(refuses(
      [&] {
        static_cast<void>(make_average("Swa", model.params, {{"decay", "0.9"}}));
      },
      {"SwaOptions has no option \"decay\"", "start"}));
  CHECK(refuses(
      [&] {
        static_cast<void>(make_average("Aswa", model.params, {{"normed", "*"}}));
      },
      {"AswaOptions.normed must be set in the program"}));
}

}  // namespace by_name_test
