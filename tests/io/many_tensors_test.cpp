// SPDX-License-Identifier: Apache-2.0
// States of very many tensors: their header is short, their pieces are gathered, and they are
// loaded as others are. Names that no file can hold are refused before anything is written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/io/digest.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
#include <polyak/polyak.hpp>

#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace many_tensors_test {

namespace {

using namespace polyak;  // NOLINT
using Bytes = std::vector<std::byte>;

constexpr std::size_t elements = 4;

/// Many small tensors of all roles, every tenth of them tied, with AdamW and an Ema.
struct Run {
  std::vector<float> values, gradients;
  std::vector<std::int64_t> seen{3, 4};
  Parameters<float> params;
  Gradients<float> grads;
  AdamW<float> adamw;
  Ema<float> ema;

  explicit Run(std::size_t tensors, bool tied = true)
      : values(tensors * elements),
        gradients(tensors * elements, 0.25F),
        params(list(tensors, tied)),
        grads(params),
        adamw(params),
        ema(params, {.decay = 0.9}) {
    for (std::size_t k = 0; k < values.size(); ++k) values[k] = static_cast<float>(k % 977) / 64;
    for (std::size_t k = 0; k < tensors; ++k) {
      if (k % 100 != 51) grads.set(name(k), gradients.data() + k * elements);
    }
  }
  static std::string name(std::size_t k) { return "layers." + std::to_string(k) + ".weight"; }
  Parameters<float> list(std::size_t tensors, bool tied) {
    Parameters<float> all;
    for (std::size_t k = 0; k < tensors; ++k) {
      float* const data = values.data() + k * elements;
      const Role role = k % 100 == 51 ? Role::frozen : Role::average;
      all.add(name(k), data, {2, 2}, role);
      if (tied && k % 10 == 3) all.add("tied." + std::to_string(k), data, {2, 2}, role);
    }
    all.add("seen", seen, Role::copy);
    return all;
  }
  void train(int steps) {
    for (int k = 0; k < steps; ++k) step(params, grads, adamw, ema);
  }
  std::vector<Bytes> state() const { return {state_bytes(adamw), state_bytes(ema)}; }
};

std::uint64_t header_bytes(const std::filesystem::path& file) {
  return SafetensorsFile(file).data_start();
}
std::string record_in(const std::filesystem::path& file) {
  return SafetensorsFile(file).metadata().at("polyak");
}

/// Calls of the system that write, so far; 0 where the system does not count them.
std::uint64_t calls_that_write() {
  std::ifstream counts("/proc/self/io");
  std::string word;
  std::uint64_t number = 0;
  while (counts >> word >> number) {
    if (word == "syscw:") return number;
  }
  return 0;
}

/// Copies a file with another record, and with digests made anew as one entry.
void write_record(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::string& record) {
  const SafetensorsFile file(from);
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& one : file.tensors()) {
    specs.push_back({one.name, one.dtype, one.shape});
  }
  SafetensorsWriter writer(to, specs, {{"polyak", record}},
                           {.durable = false, .joint_digests = true});
  for (const SafetensorsTensor& one : writer.tensors()) {
    writer.append(file.bytes(file.at(one.name)));
  }
  writer.finish();
}
std::string replaced(std::string text, const std::string& found, const std::string& with) {
  REQUIRE(text.find(found) != std::string::npos);
  return text.replace(text.find(found), found.size(), with);
}

constexpr std::string_view latin1 = "caf\xe9.weight";

/// A method with a slot of any name.
struct AnyText {
  std::string text;
  double decay = 0.5;
  [[nodiscard]] double gain(std::int64_t) const { return 0.5; }
  [[nodiscard]] double complement(std::int64_t) const { return 0.5; }
};
template <class Fields>
void fields(AnyText& w, Fields& field) {
  field("decay", w.decay);
  field.label("text", w.text);
}

}  // namespace

TEST_CASE("A state of very many tensors is resumed, in part too") {
  const TemporaryFolder folder;
  const auto file = folder.file("run");
  Run run(1200);
  run.train(3);
  const bool every_name = GENERATE(false, true);
  CAPTURE(every_name);
  save(file, {.every_name = every_name, .durable = false}, run.params, run.adamw, run.ema);
  CHECK(record_in(file).find(detail::short_state_format) != std::string::npos);

  Run resumed(1200);
  const LoadReport report = load(file, resumed.params, resumed.adamw, resumed.ema);
  CHECK(report.verified == detail::has_digest);
  CHECK(report.metadata.empty());
  CHECK(resumed.values == run.values);
  CHECK(resumed.state() == run.state());
  Run undisturbed(1200);
  undisturbed.train(5);
  resumed.train(2);
  CHECK(resumed.values == undisturbed.values);
  CHECK(resumed.state() == undisturbed.state());

  Run part(1200);
  load(file, {.only = Parts::averages}, part.params, part.ema);
  CHECK(state_bytes(part.ema) == state_bytes(run.ema));
  Run some(1200);
  load(file, {.tensors = named("layers.7*")}, some.params, some.adamw, some.ema);
  const Run fresh(1200);
  for (std::size_t k = 0; k < some.values.size(); ++k) {
    const bool taken = Run::name(k / elements).starts_with("layers.7");
    REQUIRE(some.values[k] == (taken ? run : fresh).values[k]);
  }
  // Weights are found by readers of weights.
  Run weights(1200);
  load_weights(file, weights.params, {.allow_extra = true});
  CHECK(weights.values == run.values);
  // A run of other tensors, roles or shapes is refused.
  Run fewer(1199);
  CHECK(refusal<std::invalid_argument>([&] {
          load(file, fewer.params, fewer.adamw, fewer.ema);
        }).find("\"layers.1199.weight\" is extra") != std::string::npos);
  Run untied(1200, false);
  if (!every_name) CHECK_NOTHROW(load(file, untied.params, untied.adamw, untied.ema));
}

TEST_CASE("The header of a state of very many tensors is short") {
  const TemporaryFolder folder;
  const auto bytes = [&](std::size_t tensors) {
    Run run(tensors, false);
    save(folder.file("run"), {.durable = false}, run.params, run.adamw, run.ema);
    return static_cast<double>(header_bytes(folder.file("run")));
  };
  // A tensor has four entries of the format, with about 25 bytes of names each, and four digests.
  const double each = (bytes(4000) - bytes(2000)) / 2000;
  CHECK(each < 600);
  CHECK(bytes(4000) < 4000 * 600);
  // A state of few tensors is written as by version 0.1, which reads it.
  Run few(20);
  save(folder.file("few"), {.durable = false}, few.params, few.adamw, few.ema);
  CHECK(record_in(folder.file("few")).find(detail::state_format) != std::string::npos);
  if constexpr (detail::has_digest) {
    CHECK(SafetensorsFile(folder.file("few")).metadata().contains("xxh3_128:layers.3.weight"));
    CHECK_FALSE(SafetensorsFile(folder.file("few")).metadata().contains("xxh3_128s"));
  }
}

TEST_CASE("Small tensors are written together") {
  const std::uint64_t start = calls_that_write();
  if (start == calls_that_write() && start == 0) return;  // not counted here
  const TemporaryFolder folder;
  Run run(2000);
  const std::uint64_t before = calls_that_write();
  save(folder.file("run"), {.durable = false}, run.params, run.adamw, run.ema);
  CHECK(calls_that_write() - before < 50);
}

TEST_CASE("Small and large tensors are written in their order") {
  const TemporaryFolder folder;
  const bool digests = GENERATE(false, true);
  std::vector<std::vector<float>> values;
  Parameters<float> params;
  std::size_t number = 0;
  for (const std::size_t size :
       {3U, 70'000U, 5U, 20'000U, 16'383U, 16'384U, 0U, 1U, 65'535U, 65'536U, 2U}) {
    auto& one = values.emplace_back(size);
    for (float& value : one) value = static_cast<float>(++number % 4099);
    params.add("w" + std::to_string(values.size()), one.data(), {static_cast<std::int64_t>(size)});
  }
  save(folder.file("run"), {.digests = digests, .durable = false}, params);
  const auto before = values;
  for (auto& one : values) std::fill(one.begin(), one.end(), -1.0F);
  load(folder.file("run"), params);
  CHECK(values == before);
}

TEST_CASE("Damage of a state of very many tensors is found") {
  if constexpr (!detail::has_digest) return;
  const TemporaryFolder folder;
  const auto file = folder.file("run"), changed = folder.file("changed");
  Run run(1100);
  run.train(2);
  save(file, {.durable = false}, run.params, run.adamw, run.ema);
  const auto state = run.state();
  const auto refused = [&](const std::string& where) {
    Run other(1100);
    const auto before = other.state();
    const auto values = other.values;
    const std::string message =
        refusal<io_error>([&] { load(where, other.params, other.adamw, other.ema); });
    CHECK(other.state() == before);
    CHECK(other.values == values);
    return message;
  };
  for (const char* name : {"layers.8.weight", "polyak/0/exp_avg/layers.1099.weight", "seen"}) {
    std::filesystem::copy_file(file, changed, std::filesystem::copy_options::overwrite_existing);
    const SafetensorsFile good(file);
    const auto place = static_cast<std::streamoff>(good.data_start() + good.at(name).begin);
    std::fstream stream(changed, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(place);
    const int byte = stream.get();
    stream.seekp(place);
    stream.put(static_cast<char>(byte ^ 1));
    stream.close();
    CHECK(refused(changed).find(name) != std::string::npos);
  }
  const std::string record = record_in(file);
  for (const std::string& damaged :
       {replaced(record, R"("layers.5.weight")", R"("layers.x.weight")"),
        replaced(record, R"("layers.5.weight")", "5"),
        replaced(record, R"("frozen":[51,)", R"("frozen":[1101,)"),
        replaced(record, R"("frozen":[51,)", R"("frozen":[-1,)"),
        replaced(record, R"("frozen":[51,)", R"("frost":[51,)"),
        replaced(record, R"("frozen":[51,)", R"("frozen":["51",)"),
        replaced(record, R"("roles":)", R"("rolls":)"),
        replaced(record, R"("names":)", R"("tensors":)"),
        replaced(record, R"(polyak-state-2)", R"(polyak-state-1)"),
        replaced(record, R"(polyak-state-2)", R"(polyak-state-3)")}) {
    write_record(file, changed, damaged);
    CHECK(refused(changed).find("the record of the state is damaged, or of a later version") !=
          std::string::npos);
  }
  CHECK(run.state() == state);
}

TEST_CASE("Digests in one entry are those of the tensors, in the order of their data") {
  if constexpr (!detail::has_digest) return;
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, bool joint, std::size_t piece) {
    SafetensorsWriter writer(folder.file(name),
                             {{"a", SafetensorsType::F32, {3}},
                              {"empty", SafetensorsType::F32, {0}},
                              {"b", SafetensorsType::F64, {2}},
                              {"none", SafetensorsType::U8, {0}}},
                             {}, {.durable = false, .joint_digests = joint});
    Bytes data;
    for (int k = 0; k < 28; ++k) data.push_back(static_cast<std::byte>(k));
    for (std::size_t k = 0; k < data.size(); k += piece) {
      writer.append(std::span(data).subspan(k, std::min(piece, data.size() - k)));
    }
    writer.finish();
    return SafetensorsFile(folder.file(name)).metadata();
  };
  const auto single = write("single", false, 1);
  std::string expected;
  for (const char* name : {"b", "a", "empty", "none"}) {
    expected += single.at(std::string("xxh3_128:") + name);
  }
  for (const std::size_t piece : {std::size_t{1}, std::size_t{5}, std::size_t{28}}) {
    const auto joint = write("joint", true, piece);
    CHECK(joint.at("xxh3_128s") == expected);
    CHECK(joint.size() == 2);
    CHECK_NOTHROW(SafetensorsFile(folder.file("joint")).verify());
    CHECK(write("single", false, piece) == single);
  }
}

TEST_CASE("A name that is not UTF-8 is refused by its tensor, before anything is written") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.file("empty"));
  const std::filesystem::path file = std::filesystem::path(folder.file("empty")) / "run";
  std::vector<float> w(4, 1), b(2, 1);
  const auto message_of = [&](const Parameters<float>& params) {
    const Ema<float> ema(params);
    const std::string words = refusal<std::invalid_argument>([&] { save(file, params, ema); });
    CHECK(std::filesystem::is_empty(folder.file("empty")));
    return words;
  };
  const std::string bad(latin1);
  const std::string rule = "must have a name in UTF-8; its name, got \"" + bad + "\"";
  CHECK(message_of(Parameters<float>().add("b", b).add(bad, w)).find(rule) != std::string::npos);
  CHECK(message_of(Parameters<float>().add("w", w).add(bad, w)).find(rule) != std::string::npos);
  CHECK(message_of(Parameters<float>().add("w", w).add(bad, b, Role::copy)).find(rule) !=
        std::string::npos);
  CHECK(message_of(Parameters<float>().add("w", w).add(bad, b, Role::frozen)).find(rule) !=
        std::string::npos);
  // Of a second list, and of weights alone.
  const Parameters<float> first = Parameters<float>().add("w", w),
                          second = Parameters<float>().add(bad, b);
  CHECK(refusal<std::invalid_argument>([&] { save(file, first, second); }).find(rule) !=
        std::string::npos);
  CHECK(refusal<std::invalid_argument>([&] { save_weights(file, second); }).find(bad) !=
        std::string::npos);
  CHECK(std::filesystem::is_empty(folder.file("empty")));
  // Loading into such a list is refused likewise.
  save(file, {.durable = false}, first);
  Parameters<float> into = second;
  CHECK(refusal<std::invalid_argument>([&] { load(file, into); }).find(bad) != std::string::npos);
  // What a method says of itself.
  const Average<float, AnyText> average(first, AnyText{bad});
  CHECK(refusal<std::invalid_argument>([&] {
          save(folder.file("text"), first, average);
        }).find("must be UTF-8; the text, got \"" + bad + "\"") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder.file("text")));
}

}  // namespace many_tensors_test
