// SPDX-License-Identifier: Apache-2.0
// polyak/io/model_folder.hpp, model_index.hpp: models of several files that are replaced as one,
// by several processes, in spite of failures and kills.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <polyak/average/ema.hpp>
#include <polyak/io/model_folder.hpp>
#include <polyak/io/safetensors_index.hpp>
#include <polyak/io/weights.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace model_folder_test {

namespace {

namespace fs = std::filesystem;

const std::string index_name = "model.safetensors.index.json";
const std::string model_name = "model.safetensors";

/// Four tensors of the same number.
struct Model {
  std::vector<float> a, b, c, d;
  polyak::Parameters<float> params;

  explicit Model(float number = 0, std::size_t size = 8)
      : a(size, number), b(size, number), c(size, number), d(size, number) {
    params.add("a", a).add("b", b).add("c", c).add("d", d);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  void set(float number) {
    for (auto* tensor : {&a, &b, &c, &d}) std::fill(tensor->begin(), tensor->end(), number);
  }
  /// The number, or -1 where the tensors differ.
  [[nodiscard]] float number() const {
    for (const auto* tensor : {&a, &b, &c, &d}) {
      for (const float x : *tensor) {
        if (x != a[0]) return -1;
      }
    }
    return a[0];
  }
};

/// The number of the model on the disk.
float number_in(const fs::path& path, std::size_t size = 8, bool verify = true) {
  Model model(-2, size);
  polyak::load_weights(path, model.params, {.verify = verify});
  return model.number();
}

/// A size that makes files of one tensor each, and one that makes a single file.
constexpr std::uint64_t each = 1, all = 1'000'000;

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = content(entry.path());
  }
  return files;
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// The files that the index names, and the index; else the model in one file.
std::vector<std::string> files_of_model(const fs::path& folder) {
  if (!fs::exists(folder / index_name)) return {model_name};
  std::vector<std::string> names{index_name};
  const auto index = nlohmann::json::parse(content(folder / index_name));
  for (const auto& [tensor, file] : index.at("weight_map").items()) names.push_back(file);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

/// Writes an index as other programs do: without digests.
void write_index(const fs::path& folder, const std::map<std::string, std::string>& places) {
  nlohmann::json index;
  index["metadata"]["total_size"] = 128;
  index["weight_map"] = places;
  write(folder / index_name, index.dump());
}

/// Each way to save a model into a folder, as one file and as several.
void save_by(int way, const fs::path& folder, Model& model) {
  switch (way) {
    case 0:
      return polyak::save_weights(folder, model.params, {.shard_bytes = all});
    case 1:
      return polyak::save_weights(folder, model.params, {.shard_bytes = each});
    case 2:
      return polyak::save_weights(folder / model_name, model.params);
    default:
      polyak::Ema ema(model.params, {.decay = 0.5});
      ema.update(model.params);
      polyak::save_average(way == 3 ? folder : folder / model_name, model.params, ema,
                           {.shard_bytes = way == 3 ? all : 0});
  }
}
constexpr int ways = 5;

}  // namespace

TEST_CASE("A save removes the old model's files, and nothing that it has written") {
  for (int way = 0; way < ways; ++way) {
    for (const bool linked : {false, true}) {
      INFO(way << ' ' << linked);
      const TemporaryFolder place;
      const auto& folder = place.path();
      Model model(1);
      // Other programs write an index that names the usual file, alone or with others.
      polyak::save_weights(folder / model_name, model.params);
      std::string other = model_name;
      if (linked) {
        other = "alias.safetensors";
        fs::create_hard_link(folder / model_name, folder / other);
      }
      write_index(folder, {{"a", model_name}, {"b", other}, {"c", other}, {"d", model_name}});
      CHECK(number_in(folder) == 1);
      model.set(2);
      save_by(way, folder, model);
      CHECK(number_in(folder) == 2);
      if (way == 1) {
        CHECK(names_in(folder) == files_of_model(folder));
        CHECK(names_in(folder).size() == 5);
      } else {
        CHECK(names_in(folder) == std::vector<std::string>{model_name});
      }
      model.set(3);
      save_by(way, folder, model);
      CHECK(number_in(folder) == 3);
      CHECK(names_in(folder) == files_of_model(folder));
    }
  }
}

TEST_CASE("A save removes only files of the old model") {
  for (int way = 0; way < ways; ++way) {
    INFO(way);
    const TemporaryFolder place;
    const auto& folder = place.path();
    Model model(1);
    polyak::save_weights(folder, model.params, {.shard_bytes = each});
    const auto files = files_of_model(folder);
    // An index may name anything, and two indices may name one file.
    auto index = nlohmann::json::parse(content(folder / index_name));
    index["weight_map"]["x"] = "config.json";
    index["weight_map"]["y"] = "gone.safetensors";
    write(folder / index_name, index.dump());
    write(folder / "config.json", "{}");
    write(folder / "ema.safetensors", "other");
    write(folder / "model.fp16.safetensors.index.json",
          R"({"weight_map": {"a": ")" + files[0] + "\"}}");
    write(folder / "bad.index.json", "{");
    save_by(way, folder, model);
    const auto names = names_in(folder);
    for (const std::string& name : {std::string("config.json"), std::string("ema.safetensors"),
                                    std::string("bad.index.json"), files[0]}) {
      CHECK(std::count(names.begin(), names.end(), name) == 1);
    }
    CHECK(names.size() == 5 + files_of_model(folder).size());
    CHECK(number_in(folder) == 1);
  }
}

TEST_CASE("A file of a folder's model replaces the model whole, or is refused") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  Model model(1);
  polyak::save_weights(folder, model.params, {.shard_bytes = each});
  model.set(2);

  SECTION("under the usual name") {
    polyak::save_weights(folder / model_name, model.params);
    CHECK(number_in(folder) == 2);
    CHECK(names_in(folder) == std::vector<std::string>{model_name});
  }
  SECTION("through a link") {
    const TemporaryFolder elsewhere;
    write(folder / model_name, "");
    fs::create_symlink(folder / model_name, elsewhere.path() / "link.safetensors");
    polyak::save_weights(elsewhere.path() / "link.safetensors", model.params);
    CHECK(number_in(folder) == 2);
    CHECK(names_in(folder) == std::vector<std::string>{model_name});
  }
  SECTION("under the name of one of several files") {
    const auto before = contents(folder);
    CHECK(refusal<polyak::io_error>([&] {
            polyak::save_weights(folder / "model-00002-of-00004.safetensors", model.params);
          }).find("save the model to the folder") != std::string::npos);
    CHECK(contents(folder) == before);
  }
  SECTION("under the name of an index") {
    const auto before = contents(folder);
    CHECK(refuses([&] { polyak::save_weights(folder / index_name, model.params); },
                  {"\".json\"", index_name}));
    CHECK(contents(folder) == before);
  }
  SECTION("other names are files of their own") {
    polyak::save_weights(folder / "ema.safetensors", model.params);
    CHECK(number_in(folder) == 1);
    CHECK(number_in(folder / "ema.safetensors") == 2);
  }
  SECTION("and a folder that does not exist is not made for a file") {
    refusal<polyak::io_error>(
        [&] { polyak::save_weights(folder / "none" / model_name, model.params); });
    CHECK_FALSE(fs::exists(folder / "none"));
  }
}

TEST_CASE("A damaged old index does not forbid a save") {
  for (int way = 0; way < ways; ++way) {
    for (const char* bad : {"", "{", "[]", "{\"weight_map\": {\"a\": \"../x\"}}", "\xff"}) {
      INFO(way << ' ' << bad);
      const TemporaryFolder place;
      const auto& folder = place.path();
      Model model(1);
      polyak::save_weights(folder, model.params, {.shard_bytes = each});
      const auto before = names_in(folder);
      write(folder / index_name, bad);
      model.set(2);
      save_by(way, folder, model);
      CHECK(number_in(folder) == 2);
      // What the index named is not known, so nothing of it is removed.
      for (const std::string& name : before) {
        CHECK((name == index_name || fs::exists(folder / name)));
      }
      model.set(3);
      save_by(way, folder, model);
      CHECK(number_in(folder) == 3);
    }
  }
  const TemporaryFolder place;
  fs::create_directory(place.path() / index_name);
  Model model(1);
  for (int way = 0; way < ways; ++way) {
    refusal<polyak::io_error>([&] { save_by(way, place.path(), model); });
    CHECK(names_in(place.path()) == std::vector<std::string>{index_name});
  }
}

TEST_CASE("A model is refused as a whole before anything is written") {
  const TemporaryFolder place;
  const auto folder = place.path() / "model";
  const auto refused = [&](const std::vector<polyak::SafetensorsSpec>& specs, std::string word) {
    int fills = 0;
    CHECK(refuses(
        [&] {
          polyak::write_sharded(folder, specs, {}, [&](polyak::SafetensorsWriter&) { ++fills; },
                                {.shard_bytes = each});
        },
        {word}));
    CHECK(fills == 0);
    CHECK(names_in(place.path()).empty());
  };
  constexpr auto type = polyak::SafetensorsType::U8;
  refused({{"a", type, {1}}, {"\xff", type, {1}}}, "UTF-8");
  refused({{"a", type, {1}}, {"a", type, {1}}}, "must be new");
  refused({{"a", type, {1}}, {"b", type, {std::uint64_t{1} << 63}}}, "more bits");
  refused({{"a", type, {1}}, {std::string(101'000'000, 'n'), type, {1}}}, "at most 100000000");
}

TEST_CASE("A save that fails leaves the folder as it was") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  const std::vector<polyak::SafetensorsSpec> specs{{"a", polyak::SafetensorsType::U8, {1}},
                                                   {"b", polyak::SafetensorsType::U8, {1}},
                                                   {"c", polyak::SafetensorsType::U8, {1}}};
  const auto fail_at = [&](const fs::path& path, int failing, std::uint64_t shard_bytes) {
    int fills = 0;
    CHECK_THROWS_AS(polyak::write_sharded(path, specs, {},
                                          [&](polyak::SafetensorsWriter& writer) {
                                            if (fills++ == failing) throw std::runtime_error("no");
                                            const std::vector<std::byte> bytes(writer.data_size());
                                            writer.append(bytes);
                                          },
                                          {.shard_bytes = shard_bytes}),
                    std::runtime_error);
  };
  Model model(1);
  for (const std::uint64_t old : {std::uint64_t{0}, each, all}) {
    if (old != 0) polyak::save_weights(folder, model.params, {.shard_bytes = old});
    const auto before = contents(folder);
    for (int failing = 0; failing < 3; ++failing) fail_at(folder, failing, each);
    fail_at(folder, 0, all);
    fail_at(folder / "new" / "folder", 1, each);
    fail_at(folder / "new" / "folder" / "", 0, all);
    CHECK(contents(folder) == before);
  }

  SECTION("also where a file would become too large") {
    // The limit stands for a full disk: each size fails at another place of the save.
    Model large(2, 4000);
    for (const std::uint64_t old : {each, all}) {
      polyak::save_weights(folder, model.params, {.shard_bytes = old});
      const auto before = contents(folder);
      for (const std::uint64_t shard : {each, std::uint64_t{40000}, all}) {
        for (const ::rlim_t limit : {1U, 60U, 300U, 1000U, 15000U}) {
          const ::pid_t child = ::fork();
          REQUIRE(child >= 0);
          if (child == 0) {
            ::signal(SIGXFSZ, SIG_IGN);
            const struct ::rlimit most { limit, limit };
            ::setrlimit(RLIMIT_FSIZE, &most);
            int code = 1;
            try {
              polyak::save_weights(folder, large.params, {.shard_bytes = shard});
            } catch (const polyak::io_error&) {
              code = 0;
            }
            ::_exit(code);
          }
          int status = 0;
          REQUIRE(::waitpid(child, &status, 0) == child);
          CHECK(status == 0);
          CHECK(contents(folder) == before);
        }
      }
    }
  }
}

TEST_CASE("What a killed save has left is removed by the next one") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  Model model(1);
  const std::vector<polyak::SafetensorsSpec> specs{{"a", polyak::SafetensorsType::F32, {8}},
                                                   {"b", polyak::SafetensorsType::F32, {8}},
                                                   {"c", polyak::SafetensorsType::F32, {8}}};
  const auto kill_at = [&](int killed, std::uint64_t shard_bytes) {
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int fills = 0;
      polyak::write_sharded(folder, specs, {},
                            [&](polyak::SafetensorsWriter& writer) {
                              if (fills++ == killed) ::raise(SIGKILL);
                              const std::vector<std::byte> bytes(writer.data_size());
                              writer.append(bytes);
                            },
                            {.shard_bytes = shard_bytes});
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
  };
  for (const std::uint64_t old : {each, all}) {
    for (const std::uint64_t failing : {each, all}) {
      for (const std::uint64_t next : {each, std::uint64_t{40}, all, std::uint64_t{0}}) {
        model.set(1);
        polyak::save_weights(folder, model.params, {.shard_bytes = old});
        const auto before = names_in(folder);
        kill_at(failing == each ? 2 : 0, failing);
        CHECK(names_in(folder) != before);
        CHECK(number_in(folder) == 1);
        model.set(2);
        polyak::save_weights(next == 0 ? folder / model_name : folder, model.params,
                             {.shard_bytes = next});
        CHECK(number_in(folder) == 2);
        CHECK(names_in(folder) == files_of_model(folder));
      }
    }
  }

  SECTION("and what an unfinished removal has left") {
    model.set(1);
    polyak::save_weights(folder, model.params, {.shard_bytes = each});
    const auto old = contents(folder);
    model.set(2);
    polyak::save_weights(folder, model.params, {.shard_bytes = each});
    // As after a kill behind the new index.
    nlohmann::json journal;
    for (const auto& [name, bytes] : old) {
      if (name == index_name) continue;
      write(folder / name, bytes);
      journal["weight_map"][name] = name;
    }
    for (const auto& name : files_of_model(folder)) {
      if (name != index_name) journal["weight_map"][name] = name;
    }
    write(folder / polyak::detail::journal_name, journal.dump());
    write(folder / "mine.safetensors", "");
    CHECK(number_in(folder) == 2);
    model.set(3);
    polyak::save_weights(folder, model.params, {.shard_bytes = all});
    CHECK(number_in(folder) == 3);
    CHECK(names_in(folder) == std::vector<std::string>{"mine.safetensors", model_name});
  }
}

TEST_CASE("The index keeps the digests of its files") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  Model model(1);
  polyak::save_weights(folder, model.params, {.shard_bytes = each});
  const auto index = nlohmann::json::parse(content(folder / index_name));
  const std::string second = "model-00002-of-00004.safetensors";
  if (polyak::detail::has_digest) {
    CHECK(index.at("metadata").at("xxh3_128:" + second) ==
          polyak::SafetensorsFile(folder / second).metadata().at("xxh3_128"));
  }
  CHECK(index.at("metadata").at("total_size") == 128);

  SECTION("so a file of another model is found out") {
    model.set(2);
    polyak::save_weights(folder / "other", model.params, {.shard_bytes = each});
    fs::copy_file(folder / "other" / second, folder / second, fs::copy_options::overwrite_existing);
    if (!polyak::detail::has_digest) return;
    Model read(-2);
    CHECK(refusal<polyak::io_error>([&] {
            polyak::load_weights(folder, read.params);
          }).find(second) != std::string::npos);
    CHECK(read.number() == -2);
    CHECK(refusal<polyak::io_error>([&] {
            polyak::SafetensorsModel model_of_it(folder / index_name);
          }).find("its digest differs") != std::string::npos);
    CHECK(number_in(folder, 8, false) == -1);
    polyak::save_weights(folder / "other", model.params, {.shard_bytes = each, .digests = false});
    fs::copy_file(folder / "other" / "model-00002-of-00004-2.safetensors", folder / second,
                  fs::copy_options::overwrite_existing);
    refusal<polyak::io_error>([&] { number_in(folder); });
  }
  SECTION("and a model without them is read, as earlier versions and others write it") {
    write_index(folder, index.at("weight_map"));
    CHECK(number_in(folder) == 1);
    polyak::save_weights(folder, model.params, {.shard_bytes = each, .digests = false});
    CHECK(nlohmann::json::parse(content(folder / index_name)).at("metadata").size() == 1);
    CHECK(number_in(folder) == 1);
  }
  SECTION("whatever else the metadata hold") {
    for (const char* other :
         {"[\"x\", {\"xxh3_128:model-00002-of-00004.safetensors\": \"x\"}]", "null", "\"x\"",
          "{\"xxh3_128\": {\"xxh3_128:model-00002-of-00004.safetensors\": \"x\"}, \"n\": [1]}",
          "{\"xxh3_128:model-00002-of-00004.safetensors\": 1}",
          "{\"xxh3_128:none.safetensors\": \"x\"}"}) {
      write(folder / index_name,
            "{\"metadata\": " + std::string(other) +
                ", \"xxh3_128:model-00002-of-00004.safetensors\": \"x\", \"weight_map\": " +
                index.at("weight_map").dump() + "}");
      CHECK(number_in(folder) == 1);
    }
  }
}

TEST_CASE("The lock of a folder excludes others, leaves no file and ends with its holder") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  using polyak::detail::FolderLock;
  {
    FolderLock lock;
    REQUIRE(lock.take(folder));
    if (!lock.exclusive()) return;
    CHECK(names_in(folder).empty());
    FolderLock second;
    CHECK(refusal<polyak::io_error>([&] {
            static_cast<void>(second.take(folder, 5));
          }).find("another model is being saved there") != std::string::npos);
    CHECK_FALSE(second.exclusive());
  }
  FolderLock gone;
  CHECK_FALSE(gone.take(folder / "none"));

  // A child that lives on does not keep the lock.
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::pid_t child = -1;
  {
    FolderLock lock;
    REQUIRE(lock.take(folder));
    child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(ends[1]);
      char byte = 0;
      static_cast<void>(::read(ends[0], &byte, 1) == 0);
      ::_exit(0);
    }
  }
  FolderLock again;
  CHECK(again.take(folder, 0));
  ::close(ends[0]);
  ::close(ends[1]);
  CHECK(::waitpid(child, nullptr, 0) == child);
}

namespace {

/// Saves models of these numbers into the folder, one after the other.
[[noreturn]] void save_all(const fs::path& folder, int first, int count) {
  int code = 0;
  try {
    for (int n = 0; n < count; ++n) {
      Model model(static_cast<float>(first + n), 500);
      const std::uint64_t shards[] = {each, 4000, each, all};
      if (n % 7 == 6) {
        polyak::save_weights(folder / model_name, model.params, {.durable = false});
      } else {
        polyak::save_weights(folder, model.params,
                             {.shard_bytes = shards[n % 4], .durable = n % 5 == 0});
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    code = 1;
  }
  ::_exit(code);
}

/// POLYAK_LONG_TESTS sets the number of rounds of the long form.
int rounds(int usual) {
  const char* const number = std::getenv("POLYAK_LONG_TESTS");
  return number == nullptr ? usual : std::max(usual, std::atoi(number));
}

}  // namespace

TEST_CASE("Two processes save into one folder, and a third always reads one model") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  const int count = rounds(20);
  Model model(1, 500);
  polyak::save_weights(folder, model.params, {.shard_bytes = each});
  ::pid_t children[2];
  for (int k = 0; k < 2; ++k) {
    children[k] = ::fork();
    REQUIRE(children[k] >= 0);
    if (children[k] == 0) save_all(folder, k == 0 ? 100 : 100000, count);
  }
  int running = 2, loads = 0, mixed = 0;
  std::string failures;
  while (running > 0 || loads < 3) {
    try {
      if (number_in(folder, 500) < 1) ++mixed;
    } catch (const std::exception& error) {
      failures += error.what() + std::string("\n");
    }
    ++loads;
    int status = 0;
    if (running > 0 && ::waitpid(-1, &status, WNOHANG) > 0) {
      CHECK(status == 0);
      --running;
    }
  }
  CHECK(mixed == 0);
  CHECK(failures.empty());
  const float last = number_in(folder, 500);
  CHECK((last == static_cast<float>(99 + count) || last == static_cast<float>(99999 + count)));
  CHECK(names_in(folder) == files_of_model(folder));
}

TEST_CASE("A save that is killed at any moment leaves one model") {
  const TemporaryFolder place;
  const auto& folder = place.path();
  Model model(1, 500);
  polyak::save_weights(folder, model.params, {.shard_bytes = each});
  for (int n = 0; n < rounds(25); ++n) {
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) save_all(folder, 2 + n * 100, 100);
    const double wait = 30000 * std::abs(bits::uniform(static_cast<std::uint64_t>(n), 7));
    ::usleep(static_cast<::useconds_t>(wait));
    ::kill(child, SIGKILL);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    CHECK(number_in(folder, 500) >= 1);
    model.set(1);
    polyak::save_weights(folder, model.params, {.shard_bytes = n % 3 == 0 ? all : each});
    CHECK(number_in(folder, 500) == 1);
    CHECK(names_in(folder) == files_of_model(folder));
  }
}

}  // namespace model_folder_test
