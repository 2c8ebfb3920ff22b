// SPDX-License-Identifier: Apache-2.0
// polyak/io/save.hpp, state_match.hpp: parts of a file, tensors of a file, and tied tensors.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "refuses.hpp"
#include "temporary_folder.hpp"

namespace partial_load_test {

using namespace polyak;  // NOLINT

namespace {

using Bytes = std::vector<std::byte>;

/// A body, a head, a buffer; AdamW and two Emas.
struct Run {
  std::vector<float> w{1, 2, 3, 4, 5, 6}, b{7, 8}, head, mean{0, 0};
  Parameters<float> params;
  std::unique_ptr<AdamW<float>> adamw;
  std::unique_ptr<Ema<float>> fast, slow;

  /// The last tensors, in this order.
  explicit Run(std::size_t classes = 3, bool head_first = false) : head(classes, 9) {
    if (head_first) params.add("head", head);
    params.add("body.w", w, {2, 3}).add("body.b", b).add("mean", mean, Role::copy);
    if (!head_first) params.add("head", head);
    adamw = std::make_unique<AdamW<float>>(params);
    fast = std::make_unique<Ema<float>>(params, EmaOptions{.decay = 0.75});
    slow = std::make_unique<Ema<float>>(params, EmaOptions{.decay = 0.875});
  }
  void train(int steps) {
    std::vector<float> g(16, 0.5F);
    Gradients<float> gradients(params);
    for (int t = 0; t < steps; ++t) {
      for (auto& one : g) one = -0.75F * one + 0.125F;
      mean[1] += 1;
      for (const char* name : {"body.w", "body.b"}) gradients.set(name, g.data());
      gradients.set("head", g.data());
      if (t == 1) gradients.set("head", no_gradient);
      step(params, gradients, *adamw, *fast, *slow);
    }
  }
  [[nodiscard]] Bytes weights() const {
    Bytes all;
    for (const auto* values : {&w, &b, &head, &mean}) {
      const Bytes one = bits::bytes(*values);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
};

Bytes state_of(const Run& run, int which) {
  return which == 0   ? run.weights()
         : which == 1 ? state_bytes(*run.adamw)
         : which == 2 ? state_bytes(*run.fast)
                      : state_bytes(*run.slow);
}

/// Which of weights, AdamW, fast and slow Ema are as in `saved`; all others must be as before.
std::string loaded(const Run& run, const Run& saved, const Run& before) {
  std::string all;
  for (int which = 0; which < 4; ++which) {
    const Bytes now = state_of(run, which);
    const bool as_saved = now == state_of(saved, which);
    CHECK(as_saved != (now == state_of(before, which)));
    if (as_saved) all += "wafs"[which];
  }
  return all;
}

}  // namespace

TEST_CASE("A part is loaded alone, and everything else stays as it is") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  Run saved, fresh;
  saved.train(4);
  save(path, saved.params, *saved.adamw, *saved.fast, *saved.slow);

  SECTION("with the whole program given") {
    const auto load_only = [&](Parts parts) {
      Run run;
      const auto report = load(path, {.only = parts}, run.params, *run.adamw, *run.fast, *run.slow);
      CHECK(report.overridden.empty());
      return loaded(run, saved, fresh);
    };
    CHECK(load_only(Parts::weights) == "w");
    CHECK(load_only(Parts::optimizers) == "a");
    CHECK(load_only(Parts::averages) == "fs");
    CHECK(load_only(Parts::weights | Parts::averages) == "wfs");
    CHECK(load_only(Parts::all) == "wafs");
  }
  SECTION("with the part alone given, which is found by type and options") {
    Run run;
    load(path, {.only = Parts::weights}, run.params);
    CHECK(loaded(run, saved, fresh) == "w");
    load(path, {.only = Parts::averages}, run.params, *run.slow);
    CHECK(loaded(run, saved, fresh) == "ws");
    load(path, {.only = Parts::averages}, run.params, *run.fast);
    CHECK(loaded(run, saved, fresh) == "wfs");
    load(path, {.only = Parts::optimizers}, run.params, *run.adamw);
    CHECK(loaded(run, saved, fresh) == "wafs");
  }
  SECTION("into a run that goes on: what was used already may stay, but not be loaded over") {
    Run run;
    run.train(1);
    const Bytes adamw = state_bytes(*run.adamw);
    load(path, {.only = Parts::weights}, run.params, *run.adamw, *run.fast);
    CHECK(run.weights() == saved.weights());
    CHECK(state_bytes(*run.adamw) == adamw);
    CHECK_THROWS_AS(load(path, {.only = Parts::averages}, run.params, *run.fast), std::logic_error);
    CHECK_NOTHROW(load(path, {.only = Parts::averages}, run.params, *Run().fast, *run.adamw));
  }
}

TEST_CASE("A file that lacks the part is refused by name") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  Run saved, run;
  saved.train(2);
  save(path, saved.params, *saved.adamw, *saved.fast);
  const auto refused = [&](const std::vector<std::string>& words, Parts parts, auto&... objects) {
    const Run fresh;
    const bool right = refuses([&] { load(path, {.only = parts}, run.params, objects...); }, words);
    CHECK(run.weights() == fresh.weights());
    CHECK(state_bytes(*run.fast) == state_bytes(*fresh.fast));
    return right;
  };
  Swa<float> swa(run.params);
  CHECK(refused({path, "no Swa", "(AdamW, Ema)"}, Parts::averages, *run.fast, swa));
  CHECK(refused({"no Ema"}, Parts::averages, *run.fast, *run.slow));  // there is one only
  CHECK(refused({"option \"decay\" is 0.75 in the file, 0.875 here"}, Parts::averages, *run.slow));
  CHECK(refused({"LoadOptions.only has averages, but load() was given none"},
                Parts::averages | Parts::weights, *run.adamw));
  CHECK(refused({"LoadOptions.only has optimizers"}, Parts::optimizers));
  CHECK(refused({"LoadOptions.only must be one of Parts"}, Parts{}));
  CHECK(refused({"LoadOptions.only must be one of Parts"}, static_cast<Parts>(8)));
  const auto report =
      load(path, {.override_options = true, .only = Parts::averages}, run.params, *run.slow);
  CHECK(report.overridden.size() == 1);
  CHECK(run.slow->view()["body.b"][1] == saved.fast->view()["body.b"][1]);
}

TEST_CASE("Some tensors are loaded, with their state, into another model") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  Run saved;
  saved.train(4);
  save(path, saved.params, *saved.adamw, *saved.fast, *saved.slow);
  Run run(5, true);
  const auto head = bits::bytes(run.head);
  CHECK(refuses([&] { load(path, {.only = Parts::weights}, run.params); },
                {"\"head\" is float32 [3], expected float32 [5]"}));
  load(path, {.tensors = named("body.*", "mean")}, run.params, *run.adamw, *run.slow);
  CHECK(run.w == saved.w);
  CHECK(run.mean == saved.mean);
  CHECK(bits::bytes(run.head) == head);
  CHECK(run.adamw->count() == 4);
  CHECK(run.adamw->slot("exp_avg")["body.b"][1] == saved.adamw->slot("exp_avg")["body.b"][1]);
  CHECK(run.adamw->slot("exp_avg")["head"][2] == 0);
  CHECK(run.slow->view()["body.w"][5] == saved.slow->view()["body.w"][5]);
  CHECK(run.slow->view()["head"][4] == 9);
  // The clocks of the tensors came too: the body goes on as in the saved run, the head begins.
  std::vector<float> g(16, 0.25F);
  const auto go_on = [&](Run& one) {
    Gradients<float> gradients(one.params);
    for (const char* name : {"body.w", "body.b", "head"}) gradients.set(name, g.data());
    step(one.params, gradients, *one.adamw, *one.slow);
  };
  go_on(run);
  go_on(saved);
  CHECK(run.w == saved.w);
  CHECK(run.b == saved.b);
  CHECK(run.slow->view()["body.w"][5] == saved.slow->view()["body.w"][5]);
  CHECK(run.head[0] == Approx(9 - 1e-3 - 1e-3 * 0.01 * 9));

  Run other;
  CHECK(refuses([&] { load(path, {.tensors = named("tail")}, other.params); },
                {"LoadOptions.tensors", "named(\"tail\")", "\"body.w\""}));
}

TEST_CASE("Options of tensors that are not loaded need not agree") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  std::vector<float> zero{1}, one{2, 3};
  const auto list = Parameters<float>().add("0", zero).add("1", one);
  AdamW<float> saved(list, {}, named("0", "1"));
  saved.group(named("1"), {.learning_rate_factor = 0.5});
  EmaBank<float, 2> bank(list, std::array{0.75, 0.875});
  save(path, list, saved, bank);

  AdamW<float> adamw(list, {}, named("0", "1"));
  CHECK(refuses([&] { load(path, {.only = Parts::optimizers}, list, adamw); },
                {"learning_rate_factor.1"}));
  load(path, {.only = Parts::optimizers, .tensors = named("0")}, list, adamw);
  // "decay.0" is no option of the tensor "0".
  EmaBank<float, 2> other(list, std::array{0.5, 0.875});
  for (const char* name : {"0", "1"}) {
    CHECK(
        refuses([&] { load(path, {.only = Parts::averages, .tensors = named(name)}, list, other); },
                {"\"decay.0\" is 0.75 in the file, 0.5 here"}));
  }
}

TEST_CASE("Parts are found in files with several lists") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  std::vector<float> a{1, 2};
  std::vector<double> b{3, 4};
  const auto floats = Parameters<float>().add("a", a);
  Parameters<double> doubles;
  doubles.add("b", b);
  Ema<float> ema_a(floats, {.decay = 0.5});
  Ema<double> ema_b(doubles, {.decay = 0.5});
  a[0] = 9;
  b[0] = 9;
  update(floats, ema_a);
  update(doubles, ema_b);
  save(path, floats, ema_a, doubles, ema_b);
  a = {0, 0};
  b = {0, 0};
  Ema<double> again(doubles, {.decay = 0.5});
  load(path, {.only = Parts::averages}, doubles, again);
  CHECK(again.view()["b"][0] == 6);
  CHECK(b[0] == 0);
  load(path, {.only = Parts::weights}, doubles, floats);
  CHECK(b[0] == 9);
  CHECK(a[1] == 2);
}

#if POLYAK_HAS_XXHASH
TEST_CASE("Damage is found in what is loaded, and does not matter elsewhere") {
  const TemporaryFolder folder;
  const auto path = folder.file("run"), damaged = folder.file("damaged");
  Run saved, run;
  saved.train(2);
  save(path, saved.params, *saved.adamw, *saved.fast);
  {
    const SafetensorsFile file(path);
    std::string content(std::filesystem::file_size(path), '\0');
    std::ifstream(path, std::ios::binary)
        .read(content.data(), static_cast<std::streamsize>(content.size()));
    const std::string bytes(
        reinterpret_cast<const char*>(file.bytes(file.at("polyak/1/average/body.w")).data()), 24);
    content[content.find(bytes)] ^= 1;
    std::ofstream(damaged, std::ios::binary) << content;
  }
  CHECK(
      load(damaged, {.only = Parts::weights | Parts::optimizers}, run.params, *run.adamw).verified);
  CHECK(run.w == saved.w);
  CHECK_THROWS_AS(load(damaged, {.only = Parts::averages}, run.params, *run.fast), io_error);
  CHECK(run.fast->calls() == 0);
}
#endif

namespace {

/// Embeddings and a head, which share memory or do not.
struct Tied {
  std::vector<float> e{1, 2, 3, 4}, h;
  Parameters<float> params;
  AdamW<float> adamw;
  Ema<float> ema;

  /// The names in order; a second one is an alias unless it is `apart`.
  explicit Tied(const std::vector<std::string>& names, bool apart = false)
      : h(e), params(list(names, apart)), adamw(params), ema(params) {}
  Parameters<float> list(const std::vector<std::string>& names, bool apart) {
    Parameters<float> all;
    all.add(names[0], e, {2, 2});
    if (names.size() > 1) all.add(names[1], apart ? h : e, {2, 2});
    return all;
  }
  void train(float second = 1) {
    std::vector<float> g{1, -2, 0.5F, 1}, other(g);
    for (float& one : other) one *= second;
    Gradients<float> gradients(params);
    gradients.set(params[0].name(), g.data());
    if (params.size() > 1) gradients.set(params[1].name(), other.data());
    step(params, gradients, adamw, ema);
  }
};

}  // namespace

TEST_CASE("A tied tensor is loaded by any of its names") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  const std::vector<std::string> here{"embed", "head"};
  const auto check = [&](Tied& saved) {
    save(path, saved.params, saved.adamw, saved.ema);
    Tied run(here);
    run.e = {0, 0, 0, 0};
    load(path, run.params, run.adamw, run.ema);
    CHECK(run.e == saved.e);
    CHECK(run.adamw.slot("exp_avg")["head"][1] == saved.adamw.slot("exp_avg")["head"][1]);
    CHECK(run.ema.view()["embed"][2] == saved.ema.view()["embed"][2]);
    run.train();
    saved.train();
    CHECK(run.e == saved.e);
    CHECK(bits::bytes(run.ema.view()[0].data(), 4) == bits::bytes(saved.ema.view()[0].data(), 4));
  };
  Tied same(here), reversed({"head", "embed"}), apart(here, true);
  for (Tied* saved : {&same, &reversed, &apart}) {
    saved->train();
    saved->train();
    check(*saved);
  }
  Tied alias({"head"});
  alias.train();
  save(path, alias.params, alias.adamw, alias.ema);
  Tied run(here), left({"embed"});
  load(path, run.params, run.adamw, run.ema);
  CHECK(run.e == alias.e);
  CHECK(refuses([&] { load(path, left.params, left.adamw, left.ema); }, {"\"embed\" is missing"}));
  save(path, run.params, run.adamw, run.ema);
  load(path, left.params, left.adamw, left.ema);  // the file notes that "head" is "embed"
  CHECK(left.e == alias.e);
}

TEST_CASE("Tied tensors that differ in the file are refused with both names") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  Tied saved({"embed", "head"}, true), run({"embed", "head"});
  const auto fresh = run.e;
  saved.train();
  saved.train(3);
  saved.h = saved.e;  // their moments differ
  save(path, saved.params, saved.adamw, saved.ema);
  CHECK(refuses([&] { load(path, run.params, run.adamw, run.ema); },
                {path, "\"polyak/0/exp_avg/embed\" and \"polyak/0/exp_avg/head\" differ"}));
  saved.h[3] = 0;
  save(path, saved.params, saved.adamw, saved.ema);
  CHECK(refuses([&] { load(path, {.only = Parts::weights}, run.params); },
                {"\"embed\" and \"head\" differ, but they are tied here"}));
  CHECK(run.e == fresh);

  // The other way round: one tensor of the file for two here is another run, but has weights.
  Tied tied({"embed", "head"}), apart({"embed", "head"}, true);
  tied.train();
  save(path, tied.params, tied.adamw, tied.ema);
  CHECK(refuses([&] { load(path, apart.params, apart.adamw, apart.ema); },
                {"\"head\" and \"embed\" are tied in the file, but not here"}));
  load(path, {.only = Parts::weights}, apart.params);
  CHECK(apart.e == tied.e);
  CHECK(apart.h == tied.e);
}

TEST_CASE("A state file has the weights under every name if that is wanted") {
  const TemporaryFolder folder;
  const auto path = folder.file("run");
  Tied saved({"embed", "head"}), run({"embed", "head"});
  saved.train();
  save(path, {.every_name = true}, saved.params, saved.adamw, saved.ema);
  const SafetensorsFile file(path);
  const auto of = [&](const char* name) {
    const auto bytes = file.bytes(file.at(name));
    return Bytes(bytes.begin(), bytes.end());
  };
  CHECK(of("head") == bits::bytes(saved.e));
  CHECK(of("head") == of("embed"));
  CHECK(file.find("polyak/0/exp_avg/head") == nullptr);
  load(path, run.params, run.adamw, run.ema);
  CHECK(run.e == saved.e);
}

}  // namespace partial_load_test
