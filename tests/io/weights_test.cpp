// SPDX-License-Identifier: Apache-2.0
// polyak/io/weights.hpp, safetensors_index.hpp.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/io/weights.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace weights_test {

namespace {

/// A column-major matrix, a vector, a buffer, a counter and a weight that averages ignore.
struct Model {
  std::vector<float> w = numbers(12, 1), b = numbers(5, 2), mean{1, 2}, frozen{7};
  std::vector<std::int64_t> seen{3};
  polyak::Parameters<float> params = list();
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  static std::vector<float> numbers(std::size_t count, std::uint64_t seed) {
    std::vector<float> list(count);
    for (std::size_t k = 0; k < count; ++k) list[k] = static_cast<float>(bits::uniform(k, seed));
    return list;
  }
  polyak::Parameters<float> list() {
    polyak::Parameters<float> tensors;
    tensors.add("fc.w", w, {3, 4}, polyak::Role::average, polyak::Order::column_major)
        .add("fc.b", b)
        .add("mean", mean, polyak::Role::copy)
        .add("seen", seen, polyak::Role::copy)
        .add("frozen", frozen, polyak::Role::ignore);
    return tensors;
  }
  void clear() {
    for (auto* values : {&w, &b, &mean, &frozen}) std::fill(values->begin(), values->end(), 0.0F);
    seen[0] = 0;
  }
  [[nodiscard]] std::vector<std::vector<std::byte>> bytes() const {
    return {bits::bytes(w), bits::bytes(b), bits::bytes(mean), bits::bytes(frozen),
            bits::bytes(seen)};
  }
};

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("Weights survive saving and loading in one file and in several") {
  const TemporaryFolder folder;
  Model model;
  const auto before = model.bytes();
  for (const std::uint64_t shard : {0U, 1U, 30U, 100000U}) {
    const auto path = folder.path() / ("model" + std::to_string(shard));
    polyak::save_weights(path, model.params,
                         {.metadata = {{"format", "pt"}}, .shard_bytes = shard});
    model.clear();
    polyak::load_weights(path, model.params);
    CHECK(model.bytes() == before);
  }
  CHECK(names_in(folder.path() / "model100000") == std::vector<std::string>{"model.safetensors"});
  CHECK(names_in(folder.path() / "model1").size() == 6);
  const polyak::SafetensorsModel sharded(folder.path() / "model30");
  CHECK(sharded.names() == std::vector<std::string>{"fc.b", "fc.w", "frozen", "mean", "seen"});
  CHECK(sharded.files().size() == 3);
  CHECK(sharded.unlisted().empty());
  CHECK(sharded.file_of("fc.b")->path().filename() == "model-00002-of-00003.safetensors");
  CHECK(sharded.file_of("none") == nullptr);
}

TEST_CASE("Weights are rounded when saved and widened when loaded") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "half.safetensors";
  Model model;
  const auto w = model.w;
  polyak::save_weights(path, model.params, {.dtype = polyak::DType::bfloat16});
  const polyak::SafetensorsFile file(path);
  CHECK(file.at("fc.w").dtype == polyak::SafetensorsType::BF16);
  CHECK(file.at("seen").dtype == polyak::SafetensorsType::I64);
  model.clear();
  polyak::load_weights(path, model.params);
  for (std::size_t k = 0; k < w.size(); ++k) {
    CHECK(model.w[k] ==
          polyak::detail::float_from_bfloat16(polyak::detail::bfloat16_from_float(w[k])));
  }
  CHECK(model.seen[0] == 3);
  refusal<std::invalid_argument>(
      [&] { polyak::save_weights(path, model.params, {.dtype = polyak::DType::int32}); });
}

TEST_CASE("An average is saved without a swap") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "ema.safetensors";
  Model model;
  for (const auto accumulate : {polyak::Accumulate::plain, polyak::Accumulate::float64}) {
    polyak::Ema<float> ema(model.params, {.decay = 0.75, .accumulate = accumulate});
    CHECK(refusal<std::logic_error>([&] {
            polyak::save_average(path, model.params, ema);
          }).find("never updated") != std::string::npos);
    model.w[4] += 1;
    ema.update(model.params);
    polyak::save_average(path, model.params, ema);
    Model other;
    Model expected;
    ema.copy_to(expected.params);
    expected.frozen = model.frozen;
    polyak::load_weights(path, other.params);
    CHECK(other.bytes() == expected.bytes());
    const auto guard = ema.swap_into(model.params);
    refusal<std::logic_error>([&] { polyak::save_average(path, model.params, ema); });
    refusal<std::logic_error>([&] { polyak::save_weights(path, model.params); });
    refusal<std::logic_error>([&] { polyak::load_weights(path, model.params); });
  }
}

TEST_CASE("One average of a bank is saved, and stored with its profile") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "best.safetensors";
  Model model;
  polyak::EmaBank bank(model.params, std::array{0.75, 0.5});
  polyak::Ema alone(model.params, {.decay = 0.5});
  polyak::SnapshotStore store(folder.path() / "store");
  for (int t = 0; t < 5; ++t) {
    model.w[4] += 1;
    polyak::update(model.params, bank, alone);
  }
  polyak::save_average(path, model.params, bank.average(1));
  const auto stored = store.append("half", bank.average(1));
  CHECK(stored.options == store.append("alone", alone).options);
  for (const auto& file : {path, stored.file}) {
    Model other, expected;
    alone.copy_to(expected.params);
    expected.frozen = model.frozen;
    if (file == path) {
      polyak::load_weights(file, other.params);
      CHECK(other.bytes() == expected.bytes());
    } else {
      const polyak::SafetensorsFile snapshot(file);
      CHECK(snapshot.tensors().size() == 4);
    }
  }
  refusal<std::invalid_argument>(
      [&] { polyak::save_average(path, model.params, bank.average(2)); });
}

TEST_CASE("Weights of another model are refused, and the error lists every difference") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  Model model;
  polyak::save_weights(path, model.params);
  std::vector<float> w(12), b(4), other(1);
  std::vector<std::int32_t> seen(1);
  polyak::Parameters<float> params;
  params.add("fc.w", w, {4, 3})
      .add("fc.b", b)
      .add("new", other)
      .add("seen", seen, polyak::Role::copy);
  CHECK(
      refusal<std::invalid_argument>([&] { polyak::load_weights(path, params); }) ==
      "polyak: the weights in " + path.string() +
          " are of another model: \"fc.w\" is F32 [3, 4], expected float32 [4, 3]; \"fc.b\" is "
          "F32 [5], expected float32 [4]; \"new\" is missing; \"seen\" is I64 [1], expected int32 "
          "[1]; \"frozen\" is extra; \"mean\" is extra");
  CHECK(w == std::vector<float>(12));

  SECTION("but prefixes may differ, and more may be there") {
    std::vector<float> bias(5);
    polyak::Parameters<float> part;
    part.add("module.fc.b", bias);
    const auto without_prefix = [](const std::string& name) { return name.substr(7); };
    refusal<std::invalid_argument>(
        [&] { polyak::load_weights(path, part, {.name_in_file = without_prefix}); });
    polyak::load_weights(path, part, {.name_in_file = without_prefix, .allow_extra = true});
    CHECK(bias == model.b);
  }
}

TEST_CASE("A model of several files is replaced as one") {
  const TemporaryFolder folder;
  Model model;
  polyak::save_weights(folder.path(), model.params, {.shard_bytes = 30});
  const auto first = names_in(folder.path());
  model.b[0] = 42;
  polyak::save_weights(folder.path(), model.params, {.shard_bytes = 30});
  const auto second = names_in(folder.path());
  // The old files were not touched until the new index was there, so the new ones have other names.
  CHECK(second.size() == first.size());
  CHECK(second.front() == "model-00001-of-00003-2.safetensors");
  const auto saved = model.bytes();
  model.clear();
  polyak::load_weights(folder.path(), model.params);
  CHECK(model.bytes() == saved);
  polyak::save_weights(folder.path(), model.params, {.shard_bytes = 1000});
  CHECK(names_in(folder.path()) == std::vector<std::string>{"model.safetensors"});
  polyak::save_weights(folder.path(), model.params, {.shard_bytes = 30});
  CHECK(names_in(folder.path()) == first);
}

TEST_CASE("Files that are not an index are refused") {
  const TemporaryFolder folder;
  Model model;
  polyak::save_weights(folder.path(), model.params, {.shard_bytes = 30});
  const auto index = folder.path() / "model.safetensors.index.json";
  const std::string shard = "model-00001-of-00003.safetensors";
  const auto reads = [&](const std::string& text) {
    write(index, text);
    return polyak::SafetensorsModel(folder.path());
  };
  const auto refused = [&](const std::string& text) {
    write(index, text);
    INFO(text);
    return refusal<polyak::io_error>([&] { polyak::SafetensorsModel model_of_it(folder.path()); });
  };
  // Other fields than the map may hold anything.
  CHECK(reads(R"({"metadata": {"total_size": 1.5e3, "x": [{}, null]}, "more": [1, {"a": true}],
                  "weight_map": {"fc.w": ")" +
              shard + R"("}})")
            .names() == std::vector<std::string>{"fc.w"});
  CHECK(reads(R"({"weight_map": {}})").names().empty());
  CHECK(reads(R"({"weight_map": {"fc.w": ")" + shard + R"("}})").unlisted() ==
        std::vector<std::string>{});

  for (const char* bad : {"",
                          "[]",
                          "null",
                          "1",
                          "{}",
                          "{\"weight_map\": []}",
                          "{\"weight_map\": null}",
                          "{\"weight_map\": {\"a\": 1}}",
                          "{\"weight_map\": {\"a\": {}}}",
                          "{\"weight_map\": {\"a\": [\"x\"]}}",
                          "{\"weight_map\": {\"a\": \"\"}}",
                          "{\"weight_map\": {\"a\": \"..\"}}",
                          "{\"weight_map\": {\"a\": \"/etc/passwd\"}}",
                          "{\"weight_map\": {\"a\": \"x/y\"}}",
                          "{\"weight_map\": {\"a\": \"x\\\\y\"}}",
                          "{\"weight_map\": {\"a\": \"x\\u0000y\"}}",
                          "{\"weight_map\": {\"a\": \"x\"}",
                          "{\"weight_map\": {}, \"weight_map\": {}}",
                          "{\"weight_map\": {}} x",
                          "\xef\xbb\xbf{\"weight_map\": {}}",
                          "{\"weight_map\": {\"a\": \"\xff\"}}"}) {
    refused(bad);
  }
  CHECK(refused(R"({"weight_map": {"fc.w": ")" + shard + R"(", "\u0066c.w": ")" + shard + "\"}}")
            .find("is listed twice") != std::string::npos);
  refused(std::string("{\"weight_map\": {}}\0", 19));
  refused(std::string(200, '[') + std::string(200, ']'));
  refused("{\"a\": " + std::string(200, '[') + std::string(200, ']') + "}");
  CHECK(refused(R"({"weight_map": {"fc.b": ")" + shard + R"("}})")
            .find("is not in the file that the index names") != std::string::npos);
  CHECK(refused(R"({"weight_map": {"fc.b": "gone.safetensors"}})").find("gone.safetensors") !=
        std::string::npos);
}

TEST_CASE("Several lists are one model in files") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  Model model;
  std::vector<double> d{1, 2}, other{3};
  const std::vector<double> before = d;
  polyak::Parameters<double> doubles, others;
  doubles.add("d", d);
  others.add("other", other);
  const auto saved = model.bytes();
  for (const std::uint64_t shard : {0U, 30U}) {
    const auto place = folder.path() / std::to_string(shard);
    polyak::save_weights(place, {.shard_bytes = shard}, model.params, doubles);
    model.clear();
    d = {0, 0};
    polyak::load_weights(place, doubles, model.params);
    CHECK(model.bytes() == saved);
    CHECK(d == before);
  }
  CHECK(refuses([&] { polyak::load_weights(folder.path() / "0", model.params); },
                {"\"d\" is extra"}));
  CHECK(refuses([&] { polyak::load_weights(folder.path() / "0", model.params, doubles, others); },
                {"\"other\" is missing"}));
  CHECK(
      refuses([&] { polyak::save_weights(path, doubles, doubles); }, {"\"d\"", "among all lists"}));
  CHECK(refuses([&] { polyak::load_weights(folder.path() / "0", doubles, doubles); },
                {"\"d\"", "among all lists"}));
  CHECK_FALSE(std::filesystem::exists(path));

  SECTION("with an average of each, or of some") {
    polyak::Ema ema(model.params, {.decay = 0.5});
    polyak::Ema<double> ema_d(doubles, {.decay = 0.5});
    const auto old = model.w;
    for (float& w : model.w) w += 1;
    for (double& x : d) x += 1;
    ema.update(model.params);
    polyak::save_average(path, {}, model.params, ema, others, doubles);
    Model read;
    std::vector<double> read_d(2), read_other(1);
    polyak::Parameters<double> target;
    target.add("d", read_d).add("other", read_other);
    polyak::load_weights(path, read.params, target);
    CHECK(read.w[3] == old[3] + 0.5F);
    CHECK(read_d == d);
    CHECK(read_other == other);
    ema_d.update(doubles);
    polyak::save_average(path, {.dtype = polyak::DType::float64}, others, doubles, ema_d,
                         model.params, ema);
    polyak::load_weights(path, target, read.params);
    CHECK(read_d == std::vector<double>{1.5, 2.5});
    CHECK(polyak::SafetensorsFile(path).at("fc.w").dtype == polyak::SafetensorsType::F64);
    CHECK(refuses([&] { polyak::save_average(path, {}, doubles, ema, others); }, {"differ"}));
    const auto guard = ema_d.swap_into(doubles);
    for (const auto& call : std::vector<std::function<void()>>{
             [&] { polyak::save_weights(path, model.params, doubles); },
             [&] { polyak::save_average(path, {}, model.params, ema, doubles); },
             [&] { polyak::load_weights(path, model.params, doubles); }}) {
      CHECK_THROWS_AS(call(), std::logic_error);
    }
  }
}

namespace {

/// A file of some tensors of four floats, each with its numbers.
void write_file(const std::filesystem::path& path,
                const std::map<std::string, std::vector<float>>& tensors,
                const std::map<std::string, std::string>& metadata = {}) {
  std::vector<polyak::SafetensorsSpec> specs;
  for (const auto& [name, numbers] : tensors) {
    specs.push_back({name, polyak::SafetensorsType::F32, {2, numbers.size() / 2}});
  }
  polyak::SafetensorsWriter writer(path, specs, metadata, {});
  for (const auto& tensor : writer.tensors()) {
    const auto bytes = bits::bytes(tensors.at(tensor.name));
    writer.append(bytes);
  }
  writer.finish();
}

}  // namespace

TEST_CASE("Tied weights are read by any of their names") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  std::vector<float> embed(4), untied(4);
  polyak::Parameters<float> tied, apart;
  tied.add("embed", embed, {2, 2}).add("head", embed, {2, 2});
  apart.add("embed", embed, {2, 2}).add("head", untied, {2, 2});
  const std::vector<float> numbers{1, 2, 3, 4}, others{1, 2, 3, 5}, zero(4);

  for (const auto& names :
       std::vector<std::vector<std::string>>{{"embed"}, {"head"}, {"embed", "head"}}) {
    std::map<std::string, std::vector<float>> tensors;
    for (const auto& name : names) tensors[name] = numbers;
    write_file(path, tensors);
    embed = zero;
    polyak::load_weights(path, tied);
    CHECK(embed == numbers);
  }
  embed = zero;
  write_file(path, {{"embed", numbers}, {"head", others}});
  CHECK(refuses([&] { polyak::load_weights(path, tied); },
                {path.string(), "\"embed\" and \"head\" differ, but they are tied here"}));
  write_file(path, {{"embed", numbers}, {"head", {1, 2}}});
  CHECK(refuses([&] { polyak::load_weights(path, tied); },
                {"\"head\" is F32 [2, 1], expected float32 [2, 2]"}));
  write_file(path, {{"other", numbers}});
  CHECK(refuses([&] { polyak::load_weights(path, tied); },
                {"\"embed\" is missing", "\"other\" is extra"}));
  CHECK(embed == zero);
  write_file(path, {{"m.head", numbers}});
  const auto prefixed = [](const std::string& name) { return "m." + name; };
  polyak::load_weights(path, tied, {.name_in_file = prefixed});
  CHECK(embed == numbers);

  SECTION("and written once or under each name, noted in the metadata") {
    polyak::Ema ema(tied);
    ema.update(tied);
    for (const bool every_name : {false, true}) {
      for (const std::uint64_t shard : {0U, 16U}) {
        const auto place = folder.path() / (std::to_string(shard) + (every_name ? "both" : "one"));
        for (const bool average : {false, true}) {
          const polyak::SaveWeightsOptions options{.shard_bytes = shard, .every_name = every_name};
          if (average) {
            polyak::save_average(place, tied, ema, options);
          } else {
            polyak::save_weights(place, tied, options);
          }
          const polyak::SafetensorsModel model(place);
          CHECK(model.names().size() == (every_name ? 2 : 1));
          CHECK(model.files().front()->metadata().at("head") == "embed");
          std::fill(embed.begin(), embed.end(), 0.0F);
          untied = zero;
          polyak::load_weights(place, tied);
          CHECK(embed == numbers);
          embed = zero;
          polyak::load_weights(place, apart);  // both from one tensor, or each from its own
          CHECK(embed == numbers);
          CHECK(untied == numbers);
        }
      }
    }
    CHECK(refuses(
        [&] {
          polyak::save_weights(path, tied, {.metadata = {{"head", "x"}}});
        },
        {"SaveWeightsOptions.metadata", "\"head\""}));
    std::vector<float> h(1);
    const auto head = polyak::Parameters<float>().add("head", h);
    CHECK(
        refuses([&] { polyak::save_weights(path, tied, head); }, {"among all lists", "\"head\""}));
  }
}

TEST_CASE("Some weights are read, and the others stay as they are") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  write_file(path, {{"body", {1, 2, 3, 4}}, {"head", {5, 6}}});
  std::vector<float> body(4), head{9, 9, 9, 9};
  const auto params =
      polyak::Parameters<float>().add("head", head, {2, 2}).add("body", body, {2, 2});
  CHECK(refuses([&] { polyak::load_weights(path, params); }, {"\"head\" is F32 [2, 1]"}));
  polyak::load_weights(path, params, {.tensors = polyak::named("body")});
  CHECK(body == std::vector<float>{1, 2, 3, 4});
  CHECK(head == std::vector<float>(4, 9));
  CHECK(refuses([&] { polyak::load_weights(path, params, {.tensors = polyak::named("tail")}); },
                {"LoadWeightsOptions.tensors", "named(\"tail\")"}));
  write_file(path, {{"body", {1, 2, 3, 4}}, {"tail", {5, 6}}});
  CHECK(refuses([&] { polyak::load_weights(path, params, {.tensors = polyak::named("body")}); },
                {"\"tail\" is extra"}));
}

TEST_CASE("Files of weights name their format") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  Model model;
  polyak::Ema ema(model.params, {.decay = 0.5});
  ema.update(model.params);
  const auto format = [&](const std::filesystem::path& place) {
    return polyak::SafetensorsModel(place).files().back()->metadata().at("format");
  };
  for (const bool digests : {true, false}) {
    polyak::save_weights(path, model.params, {.digests = digests});
    CHECK(format(path) == "pt");
    polyak::save_average(path, model.params, ema, {.digests = digests});
    CHECK(format(path) == "pt");
    polyak::save_weights(folder.path() / "shards", model.params,
                         {.shard_bytes = 30, .digests = digests});
    CHECK(format(folder.path() / "shards") == "pt");
  }
  polyak::save_weights(path, model.params, {.metadata = {{"format", "mlx"}, {"k", "v"}}});
  CHECK(format(path) == "mlx");

  SECTION("and a tied tensor with this name is noted nevertheless") {
    std::vector<float> w{1, 2};
    polyak::Parameters<float> tied;
    tied.add("w", w).add("format", w);
    polyak::save_weights(path, tied);
    CHECK(format(path) == "w");
    w = {0, 0};
    polyak::load_weights(path, tied);
    CHECK(w == std::vector<float>{1, 2});
  }
}

TEST_CASE("Weights that another program wrote anew with the old metadata are read when asked to") {
  if (!polyak::detail::has_digest) return;
  const TemporaryFolder folder;
  Model model;
  // Another program orders the header anew and copies the metadata, also those of old numbers.
  const auto write_anew = [](const std::filesystem::path& path, std::byte change) {
    const polyak::SafetensorsFile old(path);
    nlohmann::json header;
    for (const auto& tensor : old.tensors()) {
      header[tensor.name] = {{"dtype", name_of(tensor.dtype)},
                             {"shape", tensor.shape},
                             {"data_offsets", {tensor.begin, tensor.end}}};
    }
    header["__metadata__"] = old.metadata();
    std::string text = header.dump(1);
    const std::uint64_t length = text.size();
    text.insert(0, std::string(reinterpret_cast<const char*>(&length), 8));
    for (const std::byte byte : old.file().bytes().subspan(old.data_start())) {
      text += static_cast<char>(byte ^ change);
    }
    std::filesystem::remove(path);
    write(path, text);
  };
  for (const std::uint64_t shard : {0U, 30U}) {
    for (const std::byte change : {std::byte{0}, std::byte{1}}) {
      const auto place = folder.path() / ("model" + std::to_string(shard));
      std::filesystem::remove_all(place);
      polyak::save_weights(place, model.params, {.shard_bytes = shard});
      const polyak::SafetensorsModel written(place);
      for (const auto& file : written.files()) write_anew(file->path(), change);
      Model read;
      read.clear();
      const auto before = read.bytes();
      CHECK(refusal<polyak::io_error>([&] {
              polyak::load_weights(place, read.params);
            }).find("has changed since it was written") != std::string::npos);
      CHECK(read.bytes() == before);
      polyak::load_weights(place, read.params, {.verify = false});
      auto expected = model.bytes();
      for (auto& tensor : expected) {
        for (std::byte& byte : tensor) byte ^= change;
      }
      CHECK(read.bytes() == expected);
    }
  }
}

}  // namespace weights_test
