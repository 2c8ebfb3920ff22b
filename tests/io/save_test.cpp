// SPDX-License-Identifier: Apache-2.0
// polyak/io/save.hpp, state_record.hpp, row_major.hpp. That every method, type and option resumes
// bit for bit is shown by the battery of core/.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <polyak/average/ema.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace save_test {

namespace {

using Bytes = std::vector<std::byte>;

/// Two matrices, a vector, a buffer, a counter; AdamW and two averages.
struct Run {
  std::vector<float> w, b, scale, mean = {1, 2};
  std::vector<std::int64_t> seen{0};
  std::vector<float> gw, gb, gscale;
  polyak::Parameters<float> params;
  polyak::Gradients<float> grads;
  polyak::AdamW<float> adamw;
  polyak::Ema<float> ema;
  polyak::PowerEma<float> power;

  explicit Run(polyak::AdamWOptions adamw_options = {}, polyak::EmaOptions ema_options = {},
               double gamma = 7)
      : w(numbers(12, 1)),
        b(numbers(5, 2)),
        scale(numbers(1, 3)),
        gw(12),
        gb(5),
        gscale(1),
        params(list()),
        grads(polyak::like(params, gw, gb, gscale)),
        adamw(params, adamw_options),
        ema(params, ema_options),
        power(params, {.gamma = gamma}) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  static std::vector<float> numbers(std::size_t count, std::uint64_t seed) {
    std::vector<float> list(count);
    for (std::size_t k = 0; k < count; ++k) list[k] = static_cast<float>(bits::uniform(k, seed));
    return list;
  }
  polyak::Parameters<float> list() {
    polyak::Parameters<float> tensors;
    tensors.add("fc.weight", w, {3, 4}).add("fc.bias", b).add("scale", scale.data(), {});
    tensors.add("bn.mean", mean, polyak::Role::copy).add("seen", seen, polyak::Role::ignore);
    tensors.add("tied.weight", w, {3, 4});
    return tensors;
  }
  void step(std::uint64_t number) {
    std::uint64_t seed = 10 * number;
    for (auto* gradient : {&gw, &gb, &gscale}) {  // in place: `grads` knows their memory
      const auto drawn = numbers(gradient->size(), seed++);
      std::copy(drawn.begin(), drawn.end(), gradient->begin());
    }
    mean[0] += 1;
    ++seen[0];
    power.at(1 + static_cast<double>(number % 3));
    adamw.at(0.01 / static_cast<double>(number + 1));
    polyak::step(params, grads, adamw, ema, power);
  }
  std::vector<Bytes> bytes() {
    return {bits::bytes(w),           bits::bytes(b),
            bits::bytes(scale),       bits::bytes(mean),
            bits::bytes(seen),        polyak::state_bytes(adamw),
            polyak::state_bytes(ema), polyak::state_bytes(power)};
  }
  void save(const std::string& path) { polyak::save(path, params, adamw, ema, power); }
  polyak::LoadReport load(const std::string& path, const polyak::LoadOptions& options = {}) {
    return polyak::load(path, options, params, adamw, ema, power);
  }
};

std::string content(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// The message of a refused load, which must not have changed anything.
template <class Error>
std::string refused_load(Run& run, const std::string& path,
                         const polyak::LoadOptions& options = {}) {
  const auto before = run.bytes();
  const std::string message = refusal<Error>([&] { run.load(path, options); });
  CHECK(run.bytes() == before);
  return message;
}

constexpr std::int64_t killed_steps = 60;

/// Trains to the end, saving after every step. Runs in a process of its own.
[[noreturn]] void train(const std::string& path) {
  Run run;
  if (std::filesystem::exists(path)) run.load(path);
  while (run.adamw.count() < killed_steps) {
    run.step(static_cast<std::uint64_t>(run.adamw.count()));
    run.save(path);
  }
  ::_exit(0);
}

}  // namespace

TEST_CASE("A run that is saved and loaded continues bit for bit") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run whole;
  for (std::uint64_t n = 0; n < 5; ++n) whole.step(n);
  polyak::save(path, {.metadata = {{"epoch", "3"}}}, whole.params, whole.adamw, whole.ema,
               whole.power);
  const auto saved = whole.bytes();
  Run resumed;
  const polyak::LoadReport report = resumed.load(path);
  CHECK(resumed.bytes() == saved);
  CHECK(report.metadata == std::map<std::string, std::string>{{"epoch", "3"}});
  CHECK(report.overridden.empty());
  for (std::uint64_t n = 5; n < 9; ++n) {
    whole.step(n);
    resumed.step(n);
  }
  CHECK(resumed.bytes() == whole.bytes());

  SECTION("and saving twice gives the same bytes") {
    whole.save(path);
    const std::string first = content(path);
    resumed.save(path);
    CHECK(content(path) == first);
  }
}

TEST_CASE("A state file is a model for any reader of safetensors") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run;
  run.step(0);
  run.save(path);
  const polyak::SafetensorsFile file(path);
  CHECK(file.at("fc.weight").shape == std::vector<std::uint64_t>{3, 4});
  CHECK(bits::bytes(run.w) ==
        Bytes(file.bytes(file.at("fc.weight")).begin(), file.bytes(file.at("fc.weight")).end()));
  CHECK(file.at("scale").shape.empty());
  CHECK(file.find("tied.weight") == nullptr);  // its memory is saved once
  CHECK(file.at("polyak/0/exp_avg/fc.bias").shape == std::vector<std::uint64_t>{5});
  CHECK(file.at("polyak/1/buffer/bn.mean").dtype == polyak::SafetensorsType::F32);
  CHECK(file.at("polyak/0/tensor_steps").dtype == polyak::SafetensorsType::I64);
}

TEST_CASE("Lists of several types can share one file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  const auto run = [&](bool first) {
    std::vector<double> wide{1, 2, 3};
    std::vector<float> single{4, 5};
    polyak::Parameters<double> a;
    polyak::Parameters<float> b;
    a.add("wide", wide);
    b.add("single", single);
    polyak::Ema<double> ema_a(a, {.decay = 0.5});
    polyak::Ema<float, double> ema_b(b, {.decay = 0.75});
    if (first) {
      ema_a.update(a);
      wide[0] = single[0] = 9;
      ema_a.update(a);
      ema_b.update(b);
      polyak::save(path, a, ema_a, b, ema_b);
    } else {
      wide = {0, 0, 0};
      single = {0, 0};
      polyak::load(path, a, ema_a, b, ema_b);
    }
    return std::vector<Bytes>{bits::bytes(wide), bits::bytes(single), polyak::state_bytes(ema_a),
                              polyak::state_bytes(ema_b)};
  };
  const auto saved = run(true);
  CHECK(run(false) == saved);
}

TEST_CASE("Column-major tensors are row-major in the file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  const auto run = [](std::vector<float>& matrix, std::vector<float>& cube, polyak::Order order,
                      auto act) {
    polyak::Parameters<float> params;
    params.add("matrix", matrix, {70, 33}, polyak::Role::average, order)
        .add("cube", cube, {2, 3, 4}, polyak::Role::average, order);
    polyak::Ema<float> ema(params);
    act(params, ema);
    return polyak::state_bytes(ema);
  };
  std::vector<float> matrix(70 * 33), cube(24);
  for (std::size_t k = 0; k < matrix.size(); ++k) matrix[k] = static_cast<float>(k);
  for (std::size_t k = 0; k < cube.size(); ++k) cube[k] = static_cast<float>(k);
  const auto save = [&](auto& params, auto& ema) {
    ema.update(params);
    polyak::save(path, params, ema);
  };
  const auto load = [&](auto& params, auto& ema) { polyak::load(path, params, ema); };
  const Bytes state = run(matrix, cube, polyak::Order::column_major, save);

  std::vector<float> turned_matrix(matrix.size()), turned_cube(cube.size());
  run(turned_matrix, turned_cube, polyak::Order::row_major, load);
  for (std::size_t i = 0; i < 70; ++i) {
    for (std::size_t j = 0; j < 33; ++j) {
      if (turned_matrix[33 * i + j] != matrix[i + 70 * j]) FAIL(i << ", " << j);
    }
  }
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 4; ++k) {
        CHECK(turned_cube[12 * i + 4 * j + k] == cube[i + 2 * j + 6 * k]);
      }
    }
  }
  std::vector<float> back_matrix(matrix.size()), back_cube(cube.size());
  CHECK(run(back_matrix, back_cube, polyak::Order::column_major, load) == state);
  CHECK(back_matrix == matrix);
  CHECK(back_cube == cube);
}

TEST_CASE("Loading lists every difference in one error") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run({.beta1 = 0.8, .amsgrad = true}, {.decay = 0.99});
  run.step(0);
  run.save(path);

  SECTION("options") {
    Run other({.beta1 = 0.9, .amsgrad = true},
              {.decay = 0.5, .start = polyak::Start::first_update});
    CHECK(refused_load<std::invalid_argument>(other, path) ==
          "polyak: the state in " + path +
              " is of another run: "
              "method 0 (AdamW): option \"beta1\" is 0.8 in the file, 0.9 here; "
              "method 1 (Ema): option \"decay\" is 0.99 in the file, 0.5 here; "
              "method 1 (Ema): option \"start\" is params in the file, first_update here; "
              "LoadOptions.override_options goes on with the options here");
  }
  SECTION("slots and their types, which cannot be overridden") {
    Run other({.beta1 = 0.8}, {.decay = 0.99, .accumulate = polyak::Accumulate::kahan});
    const std::string list =
        "method 0 (AdamW): the list of slots is \"exp_avg, exp_avg_sq, max_exp_avg_sq\" in the "
        "file, \"exp_avg, exp_avg_sq\" here; method 1 (Ema): the list of slots is \"average\" in "
        "the file, \"average, compensation\" here";
    CHECK(refused_load<std::invalid_argument>(other, path, {.override_options = true}) ==
          "polyak: the state in " + path + " is of another run: " + list);
    CHECK(refused_load<std::invalid_argument>(other, path) ==
          "polyak: the state in " + path + " is of another run: " + list +
              "; method 0 (AdamW): option \"amsgrad\" is true in the file, false here; "
              "method 1 (Ema): option \"accumulate\" is plain in the file, kahan here");
  }
  SECTION("tensors") {
    std::vector<float> w(12), b(4), scale(1), mean(2), other(1);
    std::vector<std::int32_t> seen(1);
    polyak::Parameters<float> params;
    params.add("fc.weight", w, {4, 3})
        .add("fc.bias", b)
        .add("scale", scale.data(), {}, polyak::Role::ignore)
        .add("bn.mean", mean, polyak::Role::copy)
        .add("seen", seen, polyak::Role::ignore)
        .add("new", other);
    polyak::Ema<float> ema(params);
    CHECK(refusal<std::invalid_argument>([&] { polyak::load(path, params, ema); }) ==
          "polyak: the state in " + path +
              " is of another run: parameters of the file: "
              "\"fc.weight\" is float32 [3, 4], expected float32 [4, 3]; "
              "\"fc.bias\" is float32 [5], expected float32 [4]; "
              "\"scale\" is float32 [], expected float32 [] (ignore); "
              "\"seen\" is int64 [1] (ignore), expected int32 [1] (ignore); "
              "\"new\" is missing; "
              "the file has 3 methods (AdamW, Ema, PowerEma), here are 1; "
              "method 0 (Ema): the type is \"AdamW\" in the file, \"Ema\" here");
  }
  SECTION("methods in another order") {
    Run other({.beta1 = 0.8, .amsgrad = true}, {.decay = 0.99});
    CHECK(refusal<std::invalid_argument>(
              [&] { polyak::load(path, other.params, other.ema, other.adamw, other.power); }) ==
          "polyak: the state in " + path +
              " is of another run: method 0 (Ema): the type is \"AdamW\" in the file, "
              "\"Ema\" here; method 1 (AdamW): the type is \"Ema\" in the file, \"AdamW\" here");
  }
}

TEST_CASE("override_options allows differences in options only") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run;
  for (std::uint64_t n = 0; n < 3; ++n) run.step(n);
  run.save(path);
  Run other({.learning_rate = 0.5, .beta2 = 0.99});
  const auto report = other.load(path, {.override_options = true});
  CHECK(report.overridden ==
        std::vector<std::string>{
            "method 0 (AdamW): option \"beta2\" is 0.999 in the file, 0.99 here",
            "method 0 (AdamW): option \"learning_rate\" is 0.001 in the file, 0.5 here"});
  CHECK(other.adamw.learning_rate() == 0.5);  // the program's, not the file's
  CHECK(other.adamw.options().beta2 == 0.99);
  CHECK(other.adamw.count() == 3);
  CHECK(polyak::state_bytes(other.ema) == polyak::state_bytes(run.ema));
  for (const char* slot : {"exp_avg", "exp_avg_sq"}) {
    CHECK(bits::bytes(other.adamw.slot(slot)["fc.weight"].data(), 12) ==
          bits::bytes(run.adamw.slot(slot)["fc.weight"].data(), 12));
  }
}

TEST_CASE("Loading and saving at the wrong time is refused") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run;
  run.step(0);
  run.save(path);
  const std::string saved = content(path);

  SECTION("after the first step or update") {
    CHECK(refused_load<std::logic_error>(run, path) ==
          "polyak: load() into a method that has been used already; load before the first step");
    Run skipping({}, {.nonfinite = polyak::Nonfinite::skip_step});
    skipping.w[0] = std::numeric_limits<float>::infinity();
    CHECK_FALSE(skipping.ema.update(skipping.params));
    refused_load<std::logic_error>(skipping, path);
  }
  SECTION("while an average is swapped in") {
    {
      const polyak::Parameters<float> same_memory = run.list();  // another list
      const auto guard = run.ema.swap_into(run.params);
      CHECK(refusal<std::logic_error>([&] { run.save(path); }) ==
            "polyak: save or load while an average is swapped in; end its guard first");
      CHECK(refusal<std::logic_error>([&] { polyak::save(path, same_memory, run.ema); }) ==
            "polyak: save or load while an average is swapped in; end its guard first");
    }
    CHECK(content(path) == saved);
    Run fresh;
    const auto guard = fresh.ema.swap_into(fresh.params, polyak::or_current);
    CHECK(refusal<std::logic_error>([&] { fresh.load(path); }) ==
          "polyak: save or load while an average is swapped in; end its guard first");
  }
  SECTION("with parts that do not belong together") {
    std::vector<float> w(3);
    polyak::Parameters<float> others;
    others.add("fc.weight", w);
    refusal<std::invalid_argument>([&] { polyak::save(path, others, run.ema); });
    refusal<std::invalid_argument>([&] { polyak::save(path, run.params, run.ema, run.ema); });
    refusal<std::invalid_argument>([&] { polyak::save(path, run.params, run.ema, others); });
    polyak::Parameters<float> reserved;
    reserved.add("polyak/w", w);
    CHECK(refusal<std::invalid_argument>([&] { polyak::save(path, reserved); }) ==
          "polyak: a tensor that is saved must not have a name that begins with \"polyak/\", got "
          "\"polyak/w\"");
    refusal<std::invalid_argument>([&] {
      polyak::save(path, {.metadata = {{"polyak", ""}}}, run.params);
    });
    CHECK(content(path) == saved);
  }
}

TEST_CASE("A damaged state changes nothing") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run;
  run.step(0);
  run.save(path);
  const std::string saved = content(path);
  Run fresh;

  SECTION("no file") { refused_load<polyak::io_error>(fresh, folder.file("none")); }
  SECTION("cut off anywhere") {
    for (std::size_t size = 0; size < saved.size(); size += 1 + saved.size() / 97) {
      write(path, saved.substr(0, size));
      refused_load<polyak::io_error>(fresh, path);
    }
  }
  SECTION("a model without a state") {
    polyak::SafetensorsWriter writer(path, {{"fc.weight", polyak::SafetensorsType::U8, {0}}}, {},
                                     {});
    writer.finish();
    CHECK(refused_load<polyak::io_error>(fresh, path).find("holds no state of a run") !=
          std::string::npos);
  }
  SECTION("a record that is none") {
    const std::string record = polyak::SafetensorsFile(path).metadata().at("polyak");
    const auto with = [&](const std::string& metadata) {
      write(path, saved);
      const polyak::SafetensorsFile file(path);
      std::vector<polyak::SafetensorsSpec> specs;
      for (const auto& one : file.tensors()) specs.push_back({one.name, one.dtype, one.shape});
      const std::string copy = folder.file("copy.safetensors");
      polyak::SafetensorsWriter writer(copy, specs, {{"polyak", metadata}}, {});
      for (const auto& one : writer.tensors()) writer.append(file.bytes(file.at(one.name)));
      writer.finish();
      return copy;
    };
    CHECK_NOTHROW(Run().load(with(record)));
    const auto replaced = [&](std::string from, const std::string& to) {
      const std::size_t place = record.find(from);
      REQUIRE(place != std::string::npos);
      return std::string(record).replace(place, from.size(), to);
    };
    for (const std::string& bad :
         {std::string(), std::string("null"), std::string("[]"), record.substr(1),
          replaced("polyak-state-1", "polyak-state-2"),
          replaced(R"("role":"average")", R"("role":"avrage")"),
          replaced(R"("dtype":"float32")", R"("dtype":"float31")"), replaced("[3,4]", "[3,-4]"),
          replaced("[3,4]", "{}"), replaced("\"list\":0", "\"list\":\"0\""),
          replaced("\"steps\":\"1\"", "\"steps\":\"1.5\""),
          replaced("\"steps\":\"1\"", "\"steps\":1"),
          replaced("\"steps\":\"1\"", "\"steps\":\"\"")}) {
      INFO(bad);
      refused_load<polyak::io_error>(fresh, with(bad));
    }
    // Another shape in the record than in the header is damage, not another model.
    std::string twice = replaced("\"shape\":[3,4]", "\"shape\":[12]");
    refused_load<std::invalid_argument>(fresh, with(twice));
  }
#if POLYAK_HAS_XXHASH
  SECTION("any flipped bit") {
    std::size_t refused = 0;
    for (std::size_t place = 0; place < saved.size(); place += 13) {
      std::string flipped = saved;
      flipped[place] = static_cast<char>(flipped[place] ^ (1 << place % 8));
      write(path, flipped);
      const auto before = fresh.bytes();
      try {
        fresh.load(path);
        FAIL("byte " << place);
      } catch (const polyak::io_error&) {
        ++refused;
      }
      if (fresh.bytes() != before) FAIL("byte " << place << " left traces");
    }
    CHECK(refused > 100);
  }
#endif
}

TEST_CASE("A save that fails leaves the file unchanged") {
  const TemporaryFolder folder;
  Run run;
  CHECK_THROWS_AS(run.save(folder.file("no such folder/run.safetensors")), polyak::io_error);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("200 kills of a training process lose nothing that was saved") {
  std::vector<std::vector<Bytes>> undisturbed;  // after each number of steps
  {
    Run run;
    for (std::int64_t n = 0; n <= killed_steps; ++n) {
      undisturbed.push_back(run.bytes());
      run.step(static_cast<std::uint64_t>(n));
    }
  }
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  std::mt19937 random(1);
  std::int64_t last = 0;
  int kills = 0, finished = 0;
  useconds_t longest = 12000;  // more where that is too short to get anywhere
  while (kills < 200) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) train(path);
    ::usleep(std::uniform_int_distribution<useconds_t>(1, longest)(random));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) {
      ++kills;
    } else {
      REQUIRE(WEXITSTATUS(status) == 0);
    }
    Run resumed;
    if (std::filesystem::exists(path)) resumed.load(path);
    const std::int64_t now = resumed.adamw.count();
    INFO("kill " << kills << ", step " << now << " after step " << last);
    REQUIRE(now >= last);
    REQUIRE(resumed.bytes() == undisturbed[static_cast<std::size_t>(now)]);
    if (now == last && longest < 300'000) longest += longest / 8;
    last = now;
    if (last == killed_steps) {  // the next run starts from the beginning
      ++finished;
      last = 0;
      std::filesystem::remove(path);
    }
  }
  CHECK(finished * killed_steps + last > 50);
  // The next save reuses the file that a kill left behind, so there is never more than one.
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    ++files;
  }
  CHECK(files <= 2);
}

#if POLYAK_HAS_XXHASH
TEST_CASE(
    "A state whose metadata were rewritten by another program loads without checking digests") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  Run run;
  for (std::uint64_t n = 0; n < 3; ++n) run.step(n);
  polyak::save(path, {.metadata = {{"note", "old"}}}, run.params, run.adamw, run.ema, run.power);
  std::string bytes = content(path);
  const std::size_t place = bytes.find("\"old\"");
  REQUIRE(place != std::string::npos);
  bytes.replace(place, 5, "\"new\"");
  std::ofstream(path, std::ios::binary) << bytes;
  Run other;
  const auto before = other.bytes();
  CHECK(refusal<polyak::io_error>([&] {
          polyak::load(path, other.params, other.adamw, other.ema, other.power);
        }).find("the header has changed") != std::string::npos);
  CHECK(other.bytes() == before);
  const auto report =
      polyak::load(path, {.verify = false}, other.params, other.adamw, other.ema, other.power);
  CHECK(report.metadata.at("note") == "new");
  CHECK(other.bytes() == run.bytes());
}
#endif

}  // namespace save_test
