// SPDX-License-Identifier: Apache-2.0
// The record of a run's state: who may be saved and loaded, and its text, which is the format of
// files. core/state.hpp lists the state; io/save_test.cpp saves and loads whole runs.
#include <polyak/io/state_record.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/polyak.hpp>

#include "allocations.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace state_record_test {

namespace {

using namespace polyak;  // NOLINT
using Bytes = std::vector<std::byte>;

template <class Visitor, class T>
concept ListsScalar = requires(Visitor& visit, T& value) {
  visit.scalar("x", value);
};
template <class Visitor, class T>
concept ListsSlots = requires(Visitor& visit, T& slots) {
  visit.slots(slots);
};
template <class... Parts>
concept CanLoad = requires(const std::filesystem::path& path, Parts&... parts) {
  load(path, parts...);
  load(path, LoadOptions{}, parts...);
};
template <class Method>
concept CanRestore = requires(Method& method, const Bytes& bytes) {
  restore_state(method, bytes);
};

// A visitor of a const method gets nothing to write to, one that writes takes nothing const.
static_assert(ListsScalar<StateVisitor, const double> && ListsScalar<StateEditor, double>);
static_assert(!ListsScalar<StateEditor, const double>);
static_assert(ListsSlots<StateVisitor, const Slots<float>>);
static_assert(ListsSlots<StateEditor, Slots<float>> &&
              !ListsSlots<StateEditor, const Slots<float>>);
static_assert(
    std::same_as<decltype(std::declval<const ConstSlots&>().address(0, 0)), const std::byte*>);
static_assert(std::same_as<StateVisitorOf<const Ema<float>>, StateVisitor>);
static_assert(std::same_as<StateVisitorOf<Ema<float>>, StateEditor>);
static_assert(CanLoad<const Parameters<float>, AdamW<float>, Ema<float>>);
static_assert(!CanLoad<Parameters<float>, AdamW<float>, const Ema<float>>);
static_assert(CanRestore<Ema<float>> && !CanRestore<const Ema<float>>);

/// A list as versions before 0.2 had it.
struct OldForm {
  double time = 0;
  template <class Visitor>
  void state(Visitor&& visit) {
    visit.scalar("time", time);
  }
};
static_assert(detail::ListsStateByMember<OldForm> && detail::ListsStateByMember<const OldForm>);
static_assert(!detail::ListsStateByMember<PowerClock> && !detail::ListsStateByMember<Sgd<float>>);

/// Two averaged tensors and two buffers.
struct Run {
  std::vector<float> w = std::vector<float>(6, 0.5F), b{0.25F, 0.25F}, mean{1, 1};
  std::vector<std::int64_t> seen{0};
  Parameters<float> params = Parameters<float>()
                                 .add("w", w, {2, 3})
                                 .add("b", b)
                                 .add("mean", mean, Role::copy)
                                 .add("seen", seen, Role::copy);
};

std::string record_in(const std::filesystem::path& file) {
  return SafetensorsFile(file).metadata().at("polyak");
}
std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Copies a file with another record.
void write_record(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::string& record) {
  const SafetensorsFile file(from);
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  SafetensorsWriter writer(to, specs, {{"polyak", record}}, {.digests = false, .durable = false});
  for (const SafetensorsTensor& tensor : writer.tensors()) {
    writer.append(file.bytes(file.at(tensor.name)));
  }
  writer.finish();
}

/// The message of a load that is refused, which must leave everything as it was.
template <class Method>
std::string load_refusal(const std::filesystem::path& file, Run& run, Method& method) {
  const Bytes before = state_bytes(method);
  const std::string message =
      refusal<std::invalid_argument>([&] { load(file, run.params, method); });
  CHECK(state_bytes(method) == before);
  return message;
}

/// Weightings of a program's own, without a type_name and with equal fields.
struct Slow {
  double decay = 0.9;
  [[nodiscard]] double gain(std::int64_t) const { return 1 - decay; }
  [[nodiscard]] double complement(std::int64_t) const { return decay; }
};
struct Slower : Slow {
  [[nodiscard]] double gain(std::int64_t) const { return (1 - decay) / 2; }
};
template <class Fields>
void fields(Slow& w, Fields& field) {
  field("decay", w.decay);
}
struct Named : Slow {
  static constexpr std::string_view type_name = "of_my_own";
};
template <class T>
struct Templated : Slow {};

template <class W>
Average<float, W> average_of(const Run& run, W weighting) {
  return Average<float, W>(run.params, weighting);
}

/// Counts entries, and wants no options.
class Counter final : public StateVisitor {
 public:
  Counter() : StateVisitor(false) {}
  void counters(std::string_view, std::span<const std::int64_t>) override { ++entries; }
  void buffers(const Layout&, const std::byte*) override { ++entries; }
  void slots(const ConstSlots&) override { ++entries; }
  std::size_t entries = 0;

 private:
  void add_scalar(std::string_view, const void*, const StateScalarType&) override { ++entries; }
};

}  // namespace

TEST_CASE("The record of a run has the same text as in earlier versions") {
  Run run;
  AdamW<float> adamw(run.params, {.learning_rate = 0.1}, named("w", "b"));
  adamw.group(named("b"), {.weight_decay_factor = 0});
  const EmaBank<float, 2> bank(run.params, {0.75, 0.9}, {.accumulate = Accumulate::kahan});
  const Lawa<float> lawa(run.params, {.checkpoints = 2, .running_mean = true}, named("w"));
  const Aswa<float> aswa(run.params,
                         {.filter = AswaFilter::mean_norm, .normed = {"b"}, .period = 2});
  const CottaTeacher<float> cotta(run.params, {.restored = {"w"}, .restore_seed = 7});
  const SwitchEma<float> switching(run.params, {.interval = 3});
  const TemporaryFolder folder;
  save(folder.file("run"), {.durable = false}, run.params, adamw, bank, lawa, aswa, cotta,
       switching);
  // Written by version 0.1, but for `accumulate` and `seed` of optimizers.
  const std::string expected =
      R"({"format":"polyak-state-1","methods":[{"list":0,"options":{"accumulate":"automatic",)"
      R"("allow_zero_epsilon":"false","amsgrad":"false","beta1":"0.9","beta2":"0.999",)"
      R"("bias_correction":"true","coupled_weight_decay":"0","epsilon":"1e-08",)"
      R"("epsilon_before_correction":"false","frozen.b":"false","learning_rate":"0.1",)"
      R"("learning_rate_factor.b":"1","nonfinite":"propagate","seed":"0","selected.b":"true",)"
      R"("selected.w":"true","weight_decay":"0.01","weight_decay_factor.b":"0"},)"
      R"("parameter":"float32","scalars":{"learning_rate":"0.1","skipped":"0","steps":"0"},)"
      R"("slots":["exp_avg","exp_avg_sq"],"state":"float32","type":"AdamW"},{"list":0,)"
      R"("options":{"accumulate":"kahan","decay.0":"0.75","decay.1":"0.9",)"
      R"("nonfinite":"propagate","seed":"0","start":"params","update_every":"1"},)"
      R"("parameter":"float32","scalars":{"calls":"0","skipped":"0","updates":"0"},)"
      R"("slots":["average.0","average.0.compensation","average.1","average.1.compensation"],)"
      R"("state":"float32","type":"EmaBank"},{"list":0,"options":{"accumulate":"plain",)"
      R"("kept":"2","nonfinite":"propagate","period":"1","ring":"2","running":"true",)"
      R"("seed":"0","selected.b":"false","selected.w":"true","width":"2"},)"
      R"("parameter":"float32","scalars":{"calls":"0","open":"0","skipped":"0","updates":"0"},)"
      R"("slots":["average","block.0","block.1"],"state":"float32","type":"Lawa"},{"list":0,)"
      R"("options":{"accumulate":"plain","filter":"mean_norm","nonfinite":"propagate",)"
      R"("normed.b":"true","normed.w":"false","period":"2","reference_swap":"false","seed":"0",)"
      R"("start":"1"},"parameter":"float32","scalars":{"averaged":"0","calls":"0","gain":"0",)"
      R"("norms":"0","skipped":"0","sum_of_norms":"0","updates":"0"},"slots":["average"],)"
      R"("state":"float32","type":"Aswa"},{"list":0,"options":{"accumulate":"plain",)"
      R"("decay":"0.99","nonfinite":"propagate","restore_probability":"0.1","restore_seed":"7",)"
      R"("restores.b":"false","restores.w":"true","seed":"0","start":"params",)"
      R"("update_every":"1"},"parameter":"float32","scalars":{"calls":"0","gain":"0",)"
      R"("skipped":"0","updates":"0"},"slots":["source","average"],"state":"float32",)"
      R"("type":"CottaTeacher"},{"list":0,"options":{"accumulate":"plain","decay":"0.999",)"
      R"("end":"9223372036854775807","interval":"3","nonfinite":"propagate","seed":"0",)"
      R"("start":"0","unit":"epochs","warmup":"none","warmup_iterations":"0",)"
      R"("warmup_ratio":"0.1"},"parameter":"float32","scalars":{"calls":"0","epoch":"-1",)"
      R"("gain":"0","skipped":"0","switches":"0","updates":"0"},"slots":["average"],)"
      R"("state":"float32","type":"SwitchEma"}],"parameters":[{"aliases":{},)"
      R"("tensors":[{"dtype":"float32","name":"w","role":"average","shape":[2,3]},)"
      R"({"dtype":"float32","name":"b","role":"average","shape":[2]},{"dtype":"float32",)"
      R"("name":"mean","role":"copy","shape":[2]},{"dtype":"int64","name":"seen","role":"copy",)"
      R"("shape":[1]}]}]})";
  CHECK(record_in(folder.file("run")) == expected);
  std::vector<std::string> names;
  const SafetensorsFile file(folder.file("run"));
  for (const SafetensorsTensor& tensor : file.tensors()) {
    if (tensor.name.starts_with("polyak/3/") || tensor.name.starts_with("polyak/0/")) {
      names.push_back(tensor.name);
    }
  }
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{
                     "polyak/0/exp_avg/b", "polyak/0/exp_avg/w", "polyak/0/exp_avg_sq/b",
                     "polyak/0/exp_avg_sq/w", "polyak/0/tensor_steps", "polyak/3/average/b",
                     "polyak/3/average/w", "polyak/3/buffer/mean", "polyak/3/buffer/seen"});
}

TEST_CASE("A const method is saved like one that is not, and does not change") {
  Run run;
  PowerEma<float> power(run.params, {.gamma = 3});
  AdamW<float> adamw(run.params);
  for (const float value : {1.0F, 0.75F, -2.0F}) {
    run.w.assign(run.w.size(), value);
    power.at(16).update(run.params);
  }
  const TemporaryFolder folder;
  save(folder.file("run"), {.durable = false}, run.params, adamw, power);
  const PowerEma<float>& constant = power;
  const Bytes before = state_bytes(constant);
  save(folder.file("constant"), {.durable = false}, run.params, std::as_const(adamw), constant);
  CHECK(content(folder.file("constant")) == content(folder.file("run")));
  CHECK(state_bytes(power) == before);

  Run other;
  PowerEma<float> loaded(other.params, {.gamma = 3});
  AdamW<float> adamw_loaded(other.params);
  load(folder.file("constant"), other.params, adamw_loaded, loaded);
  CHECK(state_bytes(loaded) == before);
  CHECK(other.w == run.w);
}

TEST_CASE("A visitor that wants no options allocates nothing") {
  Run run;
  AdamW<float> adamw(run.params, {}, named("w", "b"));
  adamw.group(named("b"), {.weight_decay_factor = 0});
  const Average<float, StreamWeighting> stream(run.params,
                                               StreamWeighting(std::vector<double>(1000, 0.5)),
                                               Nonfinite::propagate, {.tensors = named("w")});
  const Aswa<float> aswa(run.params, {.normed = {"w"}});
  Counter visitor;
  const allocations::Counter counter;
  detail::visit_state(std::as_const(adamw), visitor);
  detail::visit_state(stream, visitor);
  detail::visit_state(aswa, visitor);
  CHECK(counter.counts().number == 0);
  CHECK(visitor.entries == 7 + 6 + 9);
}

TEST_CASE("A file of another repeated weighting is refused") {
  Run run;
  const TemporaryFolder folder;
  const auto file = folder.file("run");
  const RepeatedWeighting<DiffusersWeighting> twice{{.decay = 0.9}, 2};
  auto saved = average_of(run, twice);
  for (int k = 0; k < 3; ++k) {
    run.w[0] += 1;
    saved.update(run.params);
  }
  save(file, {.durable = false}, run.params, saved);
  CHECK(record_in(file).find(R"("repeats":"2")") != std::string::npos);
  CHECK(record_in(file).find(R"("weighting":"diffusers")") != std::string::npos);

  auto same = average_of(run, twice);
  load(file, run.params, same);
  CHECK(state_bytes(same) == state_bytes(saved));

  auto thrice = average_of(run, RepeatedWeighting<DiffusersWeighting>{{.decay = 0.9}, 3});
  CHECK(load_refusal(file, run, thrice).find("option \"repeats\" is 2 in the file, 3 here") !=
        std::string::npos);
  auto slower = average_of(run, RepeatedWeighting<DiffusersWeighting>{{.decay = 0.99}, 2});
  CHECK(load_refusal(file, run, slower).find("option \"decay\" is 0.9 in the file, 0.99 here") !=
        std::string::npos);
  // The options of both have the same names and values.
  auto timm = average_of(run, RepeatedWeighting<TimmWeighting>{{.decay = 0.9}, 2});
  CHECK(load_refusal(file, run, timm)
            .find("option \"weighting\" is diffusers in the file, timm here") != std::string::npos);
  CHECK(load(file, {.override_options = true}, run.params, timm).overridden.size() == 1);
}

TEST_CASE("A repeated RepeatedWeighting is recorded with both factors") {
  Run run;
  const TemporaryFolder folder;
  const auto file = folder.file("run");
  using Once = RepeatedWeighting<TimmWeighting>;
  using Nested = RepeatedWeighting<Once>;
  const auto saved = average_of(run, Nested{Once{{.decay = 0.9}, 2}, 3});
  save(file, {.durable = false}, run.params, saved);
  auto same = average_of(run, Nested{Once{{.decay = 0.9}, 2}, 3});
  CHECK_NOTHROW(load(file, run.params, same));
  auto swapped = average_of(run, Nested{Once{{.decay = 0.9}, 3}, 2});
  const std::string message = load_refusal(file, run, swapped);
  CHECK(message.find("option \"repeats\" is 3 in the file, 2 here") != std::string::npos);
  CHECK(message.find("option \"weighting\" is repeated 2 timm in the file, repeated 3 timm here") !=
        std::string::npos);
}

TEST_CASE("A file of an older version, without the name of the repeated weighting, is loaded") {
  Run run;
  const TemporaryFolder folder;
  auto saved = average_of(run, RepeatedWeighting<TimmWeighting>{{.decay = 0.9}, 2});
  for (int k = 0; k < 3; ++k) {
    run.w[0] += 1;
    saved.update(run.params);
  }
  save(folder.file("run"), {.durable = false}, run.params, saved);
  std::string record = record_in(folder.file("run"));
  const std::string words = R"(,"weighting":"timm")";
  REQUIRE(record.find(words) != std::string::npos);
  record.erase(record.find(words), words.size());
  write_record(folder.file("run"), folder.file("old"), record);

  auto loaded = average_of(run, RepeatedWeighting<TimmWeighting>{{.decay = 0.9}, 2});
  CHECK(load(folder.file("old"), run.params, loaded).overridden.empty());
  CHECK(state_bytes(loaded) == state_bytes(saved));
  auto thrice = average_of(run, RepeatedWeighting<TimmWeighting>{{.decay = 0.9}, 3});
  CHECK(load_refusal(folder.file("old"), run, thrice)
            .find("option \"repeats\" is 2 in the file, 3 here") != std::string::npos);
}

TEST_CASE("A state of another weighting is refused, a program's own included") {
  Run run;
  const TemporaryFolder folder;
  const auto file = folder.file("run");
  const auto saved_with = [&](auto weighting) {
    auto saved = average_of(run, weighting);
    saved.update(run.params);
    save(file, {.durable = false}, run.params, saved);
    auto same = average_of(run, weighting);
    CHECK(load(file, run.params, same).overridden.empty());
    CHECK(state_bytes(same) == state_bytes(saved));
    return state_bytes(saved);
  };
  const auto refused = [&](auto weighting, const std::string& there, const std::string& here) {
    auto other = average_of(run, weighting);
    CHECK(load_refusal(file, run, other)
              .find("option \"weighting\" is " + there + " in the file, " + here + " here") !=
          std::string::npos);
    CHECK(load(file, {.override_options = true}, run.params, other).overridden.size() == 1);
  };
  const Bytes diffusers = saved_with(DiffusersWeighting{.decay = 0.9});
  refused(TimmWeighting{.decay = 0.9}, "diffusers", "timm");
  auto timm = average_of(run, TimmWeighting{.decay = 0.9});
  CHECK(refusal<std::invalid_argument>([&] {
          restore_state(timm, diffusers);
        }).find("weighting = diffusers") != std::string::npos);
  saved_with(Slow{});
  refused(Slower{}, "Slow", "Slower");
  refused(Named{}, "Slow", "of_my_own");
  saved_with(Named{});
  refused(Slow{}, "of_my_own", "Slow");
  saved_with(Templated<int>{});
  refused(Slow{}, "Templated", "Slow");
  // Repeated, and repeated twice.
  saved_with(RepeatedWeighting<Slow>{{}, 2});
  auto other = average_of(run, RepeatedWeighting<Slower>{{}, 2});
  CHECK(load_refusal(file, run, other)
            .find("option \"repeated_weighting\" is Slow in the file, Slower here") !=
        std::string::npos);
  using Nested = RepeatedWeighting<RepeatedWeighting<Slow>>;
  saved_with(Nested{{{}, 2}, 3});
  CHECK(record_in(file).find(R"("repeated_weighting":"Slow")") != std::string::npos);
  auto plain = average_of(run, Slow{});
  CHECK_FALSE(load_refusal(file, run, plain).empty());
}

TEST_CASE("A file of an older version, without the name of the weighting, is loaded") {
  Run run;
  const TemporaryFolder folder;
  const auto without = [&](const std::string& words) {
    std::string record = record_in(folder.file("run"));
    REQUIRE(record.find(words) != std::string::npos);
    record.erase(record.find(words), words.size());
    write_record(folder.file("run"), folder.file("old"), record);
  };
  auto saved = average_of(run, Slow{});
  for (int k = 0; k < 3; ++k) {
    run.w[0] += 1;
    saved.update(run.params);
  }
  save(folder.file("run"), {.durable = false}, run.params, saved);
  without(R"(,"weighting":"Slow")");
  auto loaded = average_of(run, Slow{});
  CHECK(load(folder.file("old"), run.params, loaded).overridden.empty());
  CHECK(state_bytes(loaded) == state_bytes(saved));
  // The label of a repeated weighting without a type_name was empty, and still is.
  const auto repeated = average_of(run, RepeatedWeighting<Slow>{{}, 2});
  save(folder.file("run"), {.durable = false}, run.params, repeated);
  CHECK(record_in(folder.file("run")).find(R"("weighting":"")") != std::string::npos);
  without(R"("repeated_weighting":"Slow",)");
  auto again = average_of(run, RepeatedWeighting<Slow>{{}, 2});
  CHECK(load(folder.file("old"), run.params, again).overridden.empty());
}

}  // namespace state_record_test
