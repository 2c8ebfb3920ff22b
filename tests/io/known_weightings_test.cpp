// SPDX-License-Identifier: Apache-2.0
// Every weighting of the library can be saved, and its gains come back from the file.
#include <polyak/io/known_weightings.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <polyak/average/engine/average.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>

#include "catch.hpp"
#include "headers.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace known_weightings_test {

namespace {

using namespace polyak;  // NOLINT
using Texts = std::map<std::string, std::string>;

// One of each, with no option at its default and numbers that have no short decimal form. A
// weighting of the list that is missing here does not compile.
UniformWeighting example(std::type_identity<UniformWeighting>) { return {3, 2}; }
ExponentialWeighting example(std::type_identity<ExponentialWeighting>) {
  return {1.0 / 3, Start::zero_debiased, 2};
}
PolynomialWeighting example(std::type_identity<PolynomialWeighting>) { return {7.0 / 3}; }
PowerWeighting example(std::type_identity<PowerWeighting>) { return {20.0 / 3}; }
detail::PacedPowerWeighting example(std::type_identity<detail::PacedPowerWeighting>) {
  return {20.0 / 3, 3};
}
TfWarmupWeighting example(std::type_identity<TfWarmupWeighting>) { return {2.0 / 3}; }
InverseGammaWeighting example(std::type_identity<InverseGammaWeighting>) {
  return {1.0 / 3, 0.7, 2.0 / 3};
}
TailWeighting example(std::type_identity<TailWeighting>) { return {4}; }
StreamWeighting example(std::type_identity<StreamWeighting>) {
  return StreamWeighting(std::vector<double>(20, 1.0 / 7));
}
DiffusersWeighting example(std::type_identity<DiffusersWeighting>) {
  return {0.9, 0.1, 2, true, 1.0 / 3, 0.7};
}
TimmWeighting example(std::type_identity<TimmWeighting>) {
  return {0.9, 0.1, 2, true, 1.0 / 3, 0.7};
}
EmaPytorchWeighting example(std::type_identity<EmaPytorchWeighting>) {
  return {0.9, 0.1, 2, 3, 1.0 / 3, 0.7};
}
IntervalWeighting example(std::type_identity<IntervalWeighting>) { return {2.0 / 3, 2, 3}; }
AnnealedWeighting example(std::type_identity<AnnealedWeighting>) { return {0.01, 10.0 / 3}; }
HalfLifeWeighting example(std::type_identity<HalfLifeWeighting>) {
  return {1000, std::numeric_limits<double>::infinity(), 10.0 / 3};
}
CosineDecayWeighting example(std::type_identity<CosineDecayWeighting>) { return {2.0 / 3, 15}; }
GainWarmupWeighting example(std::type_identity<GainWarmupWeighting>) {
  return {1.0 / 300, 10, true, 1.0 / 3};
}
PowerGainWeighting example(std::type_identity<PowerGainWeighting>) { return {2.0 / 3, 0.05, 2}; }
HareTortoiseWeighting example(std::type_identity<HareTortoiseWeighting>) {
  return {{.decay = 2.0 / 3,
           .switch_every = 7,
           .blend = 0.5,
           .update_after = 2,
           .inverse_gamma = 1.0 / 3,
           .power = 0.7,
           .min_decay = 0.1,
           .update_every = 2}};
}
SwitchWeighting example(std::type_identity<SwitchWeighting>) {
  return {{.decay = 2.0 / 3,
           .warmup = SwitchWarmup::exponential,
           .warmup_iterations = 5,
           .warmup_ratio = 1.0 / 3}};
}
MergeWeighting example(std::type_identity<MergeWeighting>) {
  return MergeWeighting({2.0 / 3, 1.0 / 3, 0.1});
}

/// Calls `use(std::type_identity<W>())` for every weighting.
template <class Use>
void for_each_weighting(Use use) {
  [&]<class... W>(std::type_identity<std::tuple<W...>>) {
    (use(std::type_identity<W>()), ...);
  }(std::type_identity<detail::KnownWeightings>());
}

/// Says as an average, whatever its own weighting, that it was made with W.
template <class W>
struct As {
  using Parameter = float;
  using State = float;
  static constexpr std::string_view type_name = "Average";
  const Average<float, UniformWeighting>& average;
  W one;
  [[nodiscard]] const W& weighting() const { return one; }
  [[nodiscard]] auto view() const { return average.view(); }
  [[nodiscard]] std::int64_t calls() const { return average.calls(); }
  [[nodiscard]] bool ready() const { return average.ready(); }
  [[nodiscard]] Accumulate accumulate() const { return average.accumulate(); }
  [[nodiscard]] const Slots<float>& slots() const { return average.slots(); }
  [[nodiscard]] const std::byte* buffers() const { return average.buffers(); }
};

Texts texts_of(const auto& weighting) {
  Texts all;
  for (auto& option : detail::option_texts(weighting)) all.emplace(option.name, option.text);
  return all;
}

}  // namespace

TEST_CASE("A store returns the gains of every weighting bit for bit") {
  const TemporaryFolder folder;
  std::vector<float> x{1, 2, 3};
  Parameters<float> params;
  params.add("x", x);
  Average<float, UniformWeighting> average(params, {});
  average.update(params);
  {
    SnapshotStore store(folder.path() / "store", {.durable = false});
    for_each_weighting([&]<class W>(std::type_identity<W> type) {
      store.append(std::string(W::type_name), As<W>{average, example(type)});
    });
  }
  const auto store = SnapshotStore::read_only(folder.path() / "store");
  std::map<std::string, StoredSnapshot> stored;
  for (const StoredSnapshot& one : store.snapshots()) stored[one.average] = one;
  CHECK(stored.size() == std::tuple_size_v<detail::KnownWeightings>);  // names are unique
  for_each_weighting([&]<class W>(std::type_identity<W> type) {
    const W weighting = example(type);
    const std::string name(W::type_name);
    INFO(name);
    const StoredSnapshot& one = stored[name];
    CHECK(one.weighting == name);
    CHECK(one.options == texts_of(weighting));
    const GainSequence gains = detail::gains_of(one);
    for (std::int64_t t = 1; t <= 20; ++t) {
      CHECK(gains.gain(t) == weighting.gain(t));
      CHECK(gains.complement(t) == weighting.complement(t));
    }
  });
}

TEST_CASE("No option of an example has its default, so that none is forgotten") {
  for_each_weighting([&]<class W>(std::type_identity<W> type) {
    INFO(W::type_name);
    const Texts given = texts_of(example(type));
    for (const auto& [name, value] : texts_of(detail::blank_weighting<W>())) {
      const auto found = given.find(name);
      CHECK((found != given.end() && found->second != value));
    }
  });
}

TEST_CASE("A stored weighting with missing or wrong options is refused") {
  StoredSnapshot one;
  one.file = "some.safetensors";
  const auto refused = [&](const std::string& weighting, Texts options) {
    one.weighting = weighting;
    one.options = std::move(options);
    return refusal<io_error>([&] { static_cast<void>(detail::gains_of(one)); });
  };
  const auto says = [](const std::string& message, const std::string& words) {
    INFO(message);
    CHECK(message.find(words) != std::string::npos);
  };
  says(refused("uniform", {{"start", "1"}}), "lacks the option period");
  says(refused("uniform", {{"start", "1"}, {"period", "0"}}),
       "has a wrong option: UniformWeighting.period must be >= 1, got 0");
  says(refused("uniform", {{"start", "1.5"}, {"period", "1"}}), "has a wrong option start");
  says(refused("exponential", {{"decay", "1.5"}, {"start", "params"}, {"update_every", "1"}}),
       "ExponentialWeighting.decay must lie in [0, 1], got 1.5");
  says(refused("exponential", {{"decay", "0.5"}, {"start", "later"}, {"update_every", "1"}}),
       "has a wrong option start");
  says(refused("merge_as_decay", {}), "there must be at least one");
  says(refused("merge_as_decay", {{"multiplier.1", "0.5"}, {"multiplier.2", "0.75"}}),
       "must not increase");
  says(refused("stream", {{"weight.1", "0"}}), "the first > 0, got 0");
  one.weighting = "repeated";
  CHECK(refusal<std::invalid_argument>([&] {
          static_cast<void>(detail::gains_of(one));
        }).find("is not known") != std::string::npos);
}

TEST_CASE("A stream with fewer weights than calls is refused at its end") {
  const auto gains = detail::gains_of("stream", {{"weight.1", "1"}, {"weight.2", "3"}}).gains;
  REQUIRE(gains.has_value());
  CHECK(gains->gain(2) == 0.75);
  CHECK(refusal<std::invalid_argument>([&] { static_cast<void>(gains->gain(3)); }) ==
        "polyak: StreamWeighting: the call must be one of those with a weight, 1 to 2, got 3");
}

TEST_CASE("Options from a file are refused or give gains, whatever numbers they are") {
  std::size_t accepted = 0, refused = 0;
  for_each_weighting([&]<class W>(std::type_identity<W> type) {
    for (const auto& [option, usual] : texts_of(example(type))) {
      for (const char* value : {"0", "1", "-1", "9223372036854775807", "-9223372036854775808",
                                "9223372036854775808", "9007199254740992", "4611686018427387904",
                                "1e308", "1e-308", "nan", "inf", "-inf", "", "true"}) {
        INFO(W::type_name << " " << option << " = " << value);
        Texts texts = texts_of(example(type));
        texts[option] = value;
        const auto found = detail::gains_of(W::type_name, texts);
        CHECK(found.gains.has_value() == found.problem.empty());
        ++(found.gains ? accepted : refused);
        if (!found.gains) continue;
        for (const std::int64_t call : {std::int64_t{1}, std::int64_t{2}, std::int64_t{20},
                                        std::int64_t{1'000'000'000}, std::int64_t{1} << 53}) {
          try {
            const double gain = found.gains->gain(call);
            const double complement = found.gains->complement(call);
            INFO("call " << call << ": " << gain << ", " << complement);
            CHECK((gain >= 0 && gain <= 1));
            CHECK((complement >= 0 && complement <= 1));
          } catch (const std::invalid_argument&) {
            CHECK(std::string(W::type_name) == "stream");
          }
        }
      }
    }
  });
  CHECK(accepted > 100);
  CHECK(refused > 100);
}

TEST_CASE("The list of known weightings has every weighting of the headers") {
  // Types with gains by call that are not in the list, and the reason.
  const std::map<std::string, std::string> left_out{
      {"PowerClock", "stored as PacedPowerWeighting"},
      {"SampleClock", "its gains are no function of the call; it is not stored"},
      {"AswaWeighting", "its gains are no function of the call; it is not stored"},
      {"RepeatedWeighting", "its older records do not say which weighting it repeats"},
      {"GainSequence", "holds a weighting"},
      {"Recorded", "part of GainSequence"}};
  std::set<std::string> listed;
  for_each_weighting([&]<class W>(std::type_identity<W>) {
    listed.insert(std::string(detail::plain_type_name<W>()));
  });
  std::set<std::string> declared;
  for (const headers::Line& line : headers::lines()) {
    if (line.text.find("double gain(std::int64_t") != std::string::npos) declared.insert(line.type);
  }
  CHECK(declared.size() > listed.size());
  for (const std::string& name : declared) {
    INFO(name << " has gains by call: add it to KnownWeightings");
    CHECK((listed.contains(name) || left_out.contains(name)));
  }
  for (const std::string& name : listed) {
    INFO(name);
    CHECK(declared.contains(name));
  }
}

}  // namespace known_weightings_test
