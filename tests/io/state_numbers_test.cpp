// SPDX-License-Identifier: Apache-2.0
// The ranges of the numbers of a state: what a file, bytes or a caller may set, and what is refused
// before anything has changed. damaged_states.cpp changes whole files at random.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/state_access.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/polyak.hpp>

#include "catch.hpp"
#include "refusal.hpp"
#include "restarted.hpp"
#include "temporary_folder.hpp"

namespace state_numbers_test {

namespace {

using namespace polyak;  // NOLINT
using Bytes = std::vector<std::byte>;

constexpr std::int64_t last = std::int64_t{1} << 53;

struct Model {
  std::vector<float> w = std::vector<float>(6, 0.5F), gw = std::vector<float>(6, 0.25F);
  Parameters<float> params = Parameters<float>().add("w", w, {2, 3});
  Gradients<float> grads = like(params, gw);
};

/// Copies a file with one text of its record replaced, or one counter, and digests made anew.
void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
             const std::string& found, const std::string& replacement,
             const std::map<std::string, std::int64_t>& counters = {}) {
  const SafetensorsFile file(from);
  std::string record = file.metadata().at("polyak");
  if (!found.empty()) {
    REQUIRE(record.find(found) != std::string::npos);
    record.replace(record.find(found), found.size(), replacement);
  }
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& one : file.tensors()) {
    specs.push_back({one.name, one.dtype, one.shape});
  }
  SafetensorsWriter writer(to, specs, {{"polyak", record}}, {.durable = false});
  for (const SafetensorsTensor& one : writer.tensors()) {
    const auto bytes = file.bytes(file.at(one.name));
    Bytes copy(bytes.begin(), bytes.end());
    const auto counter = counters.find(one.name);
    if (counter != counters.end()) std::memcpy(copy.data(), &counter->second, 8);
    writer.append(copy);
  }
  writer.finish();
}

/// A weighting with a number that counts nothing.
struct Hashed : Restarted {
  std::int64_t hash = std::numeric_limits<std::int64_t>::min();
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.scalar("hash", self.hash, any_number);
  }
};

/// Loading refuses each of the texts for a number with the rule, and takes the others.
template <class Make>
void check_number(Make make, const std::string& name, const std::vector<std::string>& refused,
                  const std::string& rule, const std::vector<std::string>& taken) {
  Model model;
  const TemporaryFolder folder;
  const auto saved = make(model);
  save(folder.file("run"), {.durable = false}, model.params, saved);
  const std::string record = SafetensorsFile(folder.file("run")).metadata().at("polyak");
  const std::size_t scalars = record.find("\"scalars\":");
  const std::string key = "\"" + name + "\":\"";
  const std::size_t begin = record.find(key, scalars);
  REQUIRE(begin != std::string::npos);
  const std::string found = record.substr(scalars, record.find('"', begin + key.size()) - scalars);
  const std::string before = found.substr(0, begin + key.size() - scalars);
  for (const std::string& words : refused) {
    CAPTURE(name, words);
    rewrite(folder.file("run"), folder.file("changed"), found, before + words);
    auto method = make(model);
    const Bytes state = state_bytes(method);
    const std::string message =
        refusal<io_error>([&] { load(folder.file("changed"), model.params, method); });
    CHECK(message.find("\"" + name + "\" is \"" + words + "\", and " + rule) != std::string::npos);
    CHECK(state_bytes(method) == state);
  }
  for (const std::string& words : taken) {
    CAPTURE(name, words);
    rewrite(folder.file("run"), folder.file("changed"), found, before + words);
    auto method = make(model);
    CHECK_NOTHROW(load(folder.file("changed"), model.params, method));
  }
}

const std::vector<std::string> no_counts{"-1", "9007199254740993", "9223372036854775807",
                                         "-9223372036854775808"};
const std::string counts_rule = "must lie in [0, 9007199254740992]";
const std::vector<std::string> some_counts{"0", "7", "9007199254740992"};
const std::vector<std::string> no_rates{"-0.5", "inf", "-inf", "nan"};

}  // namespace

TEST_CASE("Counts that a file says are bounded") {
  const auto ema = [](Model& m) { return Ema<float>(m.params); };
  for (const char* name : {"calls", "updates", "skipped"}) {
    check_number(ema, name, no_counts, counts_rule, some_counts);
  }
  check_number([](Model& m) { return AdamW<float>(m.params); }, "steps", no_counts, counts_rule,
               some_counts);
  check_number([](Model& m) { return Lawa<float>(m.params); }, "open", no_counts, counts_rule,
               some_counts);
  check_number([](Model& m) { return Aswa<float>(m.params); }, "averaged", no_counts, counts_rule,
               some_counts);
  check_number([](Model& m) { return SwitchEma<float>(m.params); }, "switches", no_counts,
               counts_rule, some_counts);
  check_number([](Model& m) { return SwitchEma<float>(m.params); }, "epoch",
               {"-2", "9223372036854775807"}, "must lie in [-1, 9007199254740992]", {"-1", "5"});
  // Of a program's own weighting.
  check_number([](Model& m) { return Average<float, Restarted>(m.params, {}); }, "averaged",
               {"9007199254740993", "9223372036854775807"},
               "must lie in [-9007199254740992, 9007199254740992]", {"-1", "3"});
  check_number([](Model& m) { return Average<float, Hashed>(m.params, {}); }, "hash", {}, "",
               {"9223372036854775807", "-9223372036854775808"});
}

TEST_CASE("Calls that a weighting cannot count are refused") {
  using Repeated = RepeatedWeighting<UniformWeighting>;
  using Nested = RepeatedWeighting<Repeated>;
  check_number(
      [](Model& m) {
        return Average<float, Repeated>(m.params, {{}, 1'000'000});
      },
      "calls", {"9007199255", "9007199254740992"}, "must lie in [0, 9007199254]", {"9007199254"});
  check_number(
      [](Model& m) {
        return Average<float, Nested>(m.params, {{{}, 1'000'000}, 1'000'000});
      },
      "calls", {"9008"}, "must lie in [0, 9007]", {"3"});
}

TEST_CASE("Rates and times that a file says are numbers that a run can have") {
  const auto adamw = [](Model& m) { return AdamW<float>(m.params); };
  check_number(adamw, "learning_rate", no_rates, "must be finite and >= 0", {"0", "0.25"});
  const auto power = [](Model& m) { return PowerEma<float>(m.params, {.gamma = 3}); };
  check_number(power, "batch_size", {"0", "-1", "inf", "nan"}, "must be finite and > 0", {"0.5"});
  check_number(power, "time", {"-1", "nan"}, "must be >= 0", {"3"});
  check_number(power, "updated_time", {"-1", "nan"}, "must be >= 0", {"0"});
  const auto sample = [](Model& m) { return SampleEma<float>(m.params); };
  check_number(sample, "batch_size", {"0", "-1", "inf", "nan"}, "must be finite and > 0", {"2"});
  check_number(sample, "samples", {"-1", "nan"}, "must be >= 0", {"3"});
  const auto free = [](Model& m) { return ScheduleFreeSgd<float>(m.params); };
  check_number(free, "weight_sum", {"-1", "nan"}, "must be >= 0", {"3"});
  check_number(free, "learning_rate_max", {"-2", "nan"}, "must be >= -1", {"-1", "0.5"});
}

TEST_CASE("Counters of tensors that a file says are bounded") {
  Model model;
  const TemporaryFolder folder;
  const auto check = [&](auto method, const std::string& name, std::int64_t value, bool taken) {
    CAPTURE(name, value);
    save(folder.file("run"), {.durable = false}, model.params, method);
    rewrite(folder.file("run"), folder.file("changed"), "", "", {{"polyak/0/" + name, value}});
    const Bytes before = state_bytes(method);
    if (taken) {
      CHECK_NOTHROW(load(folder.file("changed"), model.params, method));
      CHECK_NOTHROW(step(model.params, model.grads, method));
      return;
    }
    const std::string message =
        refusal<io_error>([&] { load(folder.file("changed"), model.params, method); });
    CHECK(message.find("has the counter " + detail::text(value)) != std::string::npos);
    CHECK(state_bytes(method) == before);
  };
  for (const std::int64_t value : {std::int64_t{-1}, last + 1, INT64_MAX, INT64_MIN}) {
    check(AdamW<float>(model.params), "tensor_steps", value, false);
  }
  check(AdamW<float>(model.params), "tensor_steps", last, true);
  check(AdEMAMix<float>(model.params), "slow_start", INT64_MIN, false);
  check(AdEMAMix<float>(model.params), "slow_start", -3, true);
}

TEST_CASE("Numbers out of their range are not set by name or from bytes either") {
  Model model;
  AdamW<float> adamw(model.params);
  const Bytes before = state_bytes(adamw);
  CHECK(refusal<std::invalid_argument>([&] {
          set_steps(adamw, last + 1);
        }).find("steps must be >= 0") != std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] {
          set_steps(adamw, "w", INT64_MAX);
        }).find("steps must be >= 0") != std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] {
          set_number(adamw, "learning_rate", -1.0);
        }).find("\"learning_rate\" must be finite and >= 0, got -1") != std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] {
          set_number(adamw, "skipped", INT64_MAX);
        }).find("\"skipped\" must lie in [0, 9007199254740992]") != std::string::npos);
  CHECK(state_bytes(adamw) == before);

  const auto changed = [&](std::size_t from_end, std::int64_t value) {
    Bytes bytes = before;
    std::memcpy(bytes.data() + bytes.size() - from_end, &value, 8);
    return bytes;
  };
  // learning_rate, two decays, steps, skipped, tensor_steps, two slots of 6 floats
  const std::size_t slots = 2 * 6 * sizeof(float);
  const std::array<std::pair<std::size_t, std::string_view>, 3> places{
      {{slots + 8, "\"tensor_steps\""}, {slots + 16, "\"skipped\""}, {slots + 24, "\"steps\""}}};
  for (const auto& [place, name] : places) {
    const std::string message = refusal<std::invalid_argument>(
        [&, place = place] { restore_state(adamw, changed(place, INT64_MAX)); });
    CHECK(message == "polyak: restore_state: " + std::string(name) + " " + counts_rule +
                         ", got 9223372036854775807");
    CHECK(state_bytes(adamw) == before);
    CHECK_NOTHROW(restore_state(adamw, changed(place, last)));
    restore_state(adamw, before);
  }
}

TEST_CASE("A number that could not be loaded is not saved") {
  Model model;
  const TemporaryFolder folder;
  const Average<float, Restarted> average(model.params, Restarted{INT64_MAX});
  CHECK(refusal<std::invalid_argument>([&] {
          save(folder.file("run"), model.params, average);
        }).find("\"averaged\" must lie in") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder.file("run")));
}

TEST_CASE("A call that a weighting refuses is not counted") {
  Model model;
  Average<float, StreamWeighting> stream(model.params, StreamWeighting({1, 2}));
  stream.update(model.params);
  stream.update(model.params);
  const Bytes before = state_bytes(stream);
  CHECK_THROWS_AS(stream.update(model.params), std::invalid_argument);
  CHECK(state_bytes(stream) == before);
}

}  // namespace state_numbers_test
