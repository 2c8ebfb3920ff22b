// SPDX-License-Identifier: Apache-2.0
// Ties, several files, several lists and partial loads together: weights, averages and states of
// one language model with a tied head. Each alone is tested in weights_test.cpp and
// partial_load_test.cpp.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <polyak/core/state.hpp>
#include <polyak/core/state_access.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
#include <polyak/polyak.hpp>

#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace tied_sharded_partial_test {

namespace {

using namespace polyak;  // NOLINT
using Bytes = std::vector<std::byte>;

/// The head is the embedding, or a tensor of its own; the norms are of double, tied as well.
struct Model {
  bool tied;
  std::vector<float> embedding, head, body, tail;
  std::vector<double> norm, last_norm;
  std::vector<std::int64_t> position{5};
  Parameters<float> params;
  Parameters<double> norms;

  explicit Model(bool is_tied, std::uint64_t seed)
      : tied(is_tied),
        embedding(numbers<float>(24, seed)),
        head(numbers<float>(24, seed + 1)),
        body(numbers<float>(30, seed + 2)),
        tail(numbers<float>(6, seed + 3)),
        norm(numbers<double>(5, seed + 4)),
        last_norm(numbers<double>(5, seed + 5)) {
    position[0] = static_cast<std::int64_t>(seed);
    params.add("embed.weight", embedding, {6, 4})
        .add("body.weight", body, {5, 6}, Role::average, Order::column_major)
        .add("body.tail", tail, {6}, Role::ignore)
        .add("position", position, Role::copy)
        .add("head.weight", tied ? embedding : head, {6, 4});
    norms.add("norm.first", norm).add("norm.last", tied ? norm : last_norm);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  template <class T>
  static std::vector<T> numbers(std::size_t count, std::uint64_t seed) {
    std::vector<T> list(count);
    for (std::size_t k = 0; k < count; ++k) list[k] = static_cast<T>(bits::uniform(k, seed));
    return list;
  }
  /// What a program sees under each name.
  [[nodiscard]] std::vector<Bytes> bytes() const {
    return {bits::bytes(embedding),
            bits::bytes(tied ? embedding : head),
            bits::bytes(body),
            bits::bytes(tail),
            bits::bytes(position),
            bits::bytes(norm),
            bits::bytes(tied ? norm : last_norm)};
  }
};
enum Place : std::size_t {
  embed_weight,
  head_weight,
  body_weight,
  body_tail,
  position,
  first,
  last
};

/// The bytes of `to`, but those of `from` at some places.
std::vector<Bytes> mixed(std::vector<Bytes> to, const std::vector<Bytes>& from,
                         const std::vector<Place>& places) {
  for (const Place place : places) to[place] = from[place];
  return to;
}

}  // namespace

TEST_CASE("A tied model of several files and lists is loaded whole and in part") {
  const TemporaryFolder folder;
  const Model saved(true, 10);
  const std::vector<Bytes> all = saved.bytes();
  const bool every_name = GENERATE(false, true);
  const std::uint64_t shard_bytes =
      GENERATE(std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{130}, std::uint64_t{1'000'000});
  CAPTURE(every_name, shard_bytes);
  const auto path = folder.file("model");
  save_weights(path, {.shard_bytes = shard_bytes, .every_name = every_name, .durable = false},
               saved.params, saved.norms);
  for (const bool tied : {true, false}) {
    CAPTURE(tied);
    {
      Model model(tied, 20);
      load_weights(path, model.params, model.norms);
      CHECK(model.bytes() == all);
    }
    {  // one list, then the other
      Model model(tied, 20);
      const auto before = model.bytes();
      load_weights(path, model.params, {.allow_extra = true});
      CHECK(model.bytes() == mixed(all, before, {first, last}));
      load_weights(path, model.norms, {.allow_extra = true});
      CHECK(model.bytes() == all);
    }
    {  // the tied tensor alone
      Model model(tied, 20);
      const auto before = model.bytes();
      load_weights(path, {.tensors = named("embed.*"), .allow_extra = true}, model.params,
                   model.norms);
      CHECK(model.bytes() ==
            mixed(before, all,
                  tied ? std::vector{embed_weight, head_weight} : std::vector{embed_weight}));
    }
    {  // everything but that
      Model model(tied, 20);
      const auto before = model.bytes();
      load_weights(path, {.tensors = !named("embed.*") && !named("head.*"), .allow_extra = true},
                   model.params, model.norms);
      CHECK(model.bytes() == mixed(all, before, {embed_weight, head_weight}));
    }
    {  // of the second list, with the names of another program
      Model model(tied, 20);
      const auto before = model.bytes();
      load_weights(path,
                   {.name_in_file = [](const std::string& name) { return name; },
                    .tensors = named("norm.first"),
                    .allow_extra = true},
                   model.params, model.norms);
      CHECK(model.bytes() ==
            mixed(before, all, tied ? std::vector{first, last} : std::vector{first}));
    }
  }
  {  // by the alias alone: of separate tensors it is one, of a tied list it is none
    Model model(false, 20);
    const auto before = model.bytes();
    load_weights(path, {.tensors = named("head.weight"), .allow_extra = true}, model.params,
                 model.norms);
    CHECK(model.bytes() == mixed(before, all, {head_weight}));
    Model tied(true, 20);
    const auto untouched = tied.bytes();
    CHECK_THROWS_AS(load_weights(path, {.tensors = named("head.weight"), .allow_extra = true},
                                 tied.params, tied.norms),
                    std::invalid_argument);
    CHECK(tied.bytes() == untouched);
  }
}

TEST_CASE("Separate tensors of several files become one tied tensor where they are equal") {
  const TemporaryFolder folder;
  const auto path = folder.file("model");
  Model saved(false, 10);
  const std::uint64_t shard_bytes = GENERATE(std::uint64_t{0}, std::uint64_t{1});
  const auto write = [&] {
    save_weights(path, {.shard_bytes = shard_bytes, .durable = false}, saved.params, saved.norms);
  };
  write();
  Model model(true, 20);
  const auto before = model.bytes();
  const std::string message =
      refusal<std::invalid_argument>([&] { load_weights(path, model.params, model.norms); });
  CHECK(message.find("\"embed.weight\" and \"head.weight\" differ") != std::string::npos);
  CHECK(message.find("\"norm.first\" and \"norm.last\" differ") != std::string::npos);
  CHECK(model.bytes() == before);
  // What is not loaded may differ.
  load_weights(path, {.tensors = named("body.*"), .allow_extra = true}, model.params, model.norms);
  CHECK(model.bytes() == mixed(before, saved.bytes(), {body_weight, body_tail}));
  saved.head = saved.embedding;
  saved.last_norm = saved.norm;
  write();
  load_weights(path, model.params, model.norms);
  CHECK(model.bytes() == saved.bytes());
}

TEST_CASE("An average of a tied model is written in several files, and read in part") {
  const TemporaryFolder folder;
  Model trained(true, 10);
  Ema<float> ema(trained.params, {.decay = 0.75});
  Swa<double> swa(trained.norms);
  for (int k = 0; k < 3; ++k) {
    for (float& value : trained.embedding) value += 0.5F;
    for (double& value : trained.norm) value -= 0.25;
    ++trained.position[0];
    ema.update(trained.params);
    swa.update(trained.norms);
  }
  Model expected(true, 20);
  expected.tail = trained.tail;
  ema.copy_to(expected.params);
  swa.copy_to(expected.norms);
  const bool every_name = GENERATE(false, true);
  const std::uint64_t shard_bytes = GENERATE(std::uint64_t{0}, std::uint64_t{1});
  const auto path = folder.file("average");
  save_average(path, {.shard_bytes = shard_bytes, .every_name = every_name, .durable = false},
               trained.params, ema, trained.norms, swa);
  for (const bool tied : {true, false}) {
    Model model(tied, 30);
    const auto before = model.bytes();
    load_weights(path, {.tensors = named("embed.*", "norm.first"), .allow_extra = true},
                 model.params, model.norms);
    CHECK(model.bytes() == mixed(before, expected.bytes(),
                                 tied ? std::vector{embed_weight, head_weight, first, last}
                                      : std::vector{embed_weight, first}));
    load_weights(path, model.params, model.norms);
    CHECK(model.bytes() == expected.bytes());
  }
}

TEST_CASE("The state of a tied model of several lists is resumed whole and in part") {
  struct Run : Model {
    explicit Run(std::uint64_t seed, bool is_tied = true)
        : Model(is_tied, seed), adamw(params), ema(params), sgd(norms, {.learning_rate = 0.5}) {}
    AdamW<float> adamw;
    Ema<float> ema;
    Sgd<double> sgd;
    void train(int steps) {
      const std::vector<float> g = numbers<float>(30, 7);
      const std::vector<double> h = numbers<double>(5, 8);
      Gradients<float> gradients(params);
      for (const char* name : {"embed.weight", "body.weight", "body.tail"}) {
        gradients.set(name, g.data());
      }
      Gradients<double> others(norms);
      others.set("norm.first", h.data());
      for (int k = 0; k < steps; ++k) {
        step(params, gradients, adamw, ema);
        step(norms, others, sgd);
      }
    }
    [[nodiscard]] std::vector<Bytes> state() const {
      return {state_bytes(adamw), state_bytes(ema), state_bytes(sgd)};
    }
  };
  const TemporaryFolder folder;
  const auto file = folder.file("run");
  const bool every_name = GENERATE(false, true);
  Run saved(10);
  saved.train(3);
  save(file, {.every_name = every_name, .durable = false}, saved.params, saved.adamw, saved.ema,
       saved.norms, saved.sgd);
  Run resumed(20);
  load(file, resumed.params, resumed.adamw, resumed.ema, resumed.norms, resumed.sgd);
  CHECK(resumed.bytes() == saved.bytes());
  CHECK(resumed.state() == saved.state());
  resumed.train(2);
  Run undisturbed(10);
  undisturbed.train(5);
  CHECK(resumed.bytes() == undisturbed.bytes());
  CHECK(resumed.state() == undisturbed.state());

  {  // the tied tensor with its state, and what is not loaded
    Run part(20);
    const auto before = part.bytes();
    const auto state = part.state();
    load(file, {.tensors = named("embed.*")}, part.params, part.adamw, part.ema, part.norms,
         part.sgd);
    CHECK(part.bytes() == mixed(before, saved.bytes(), {embed_weight, head_weight}));
    CHECK(part.state()[2] == state[2]);
    const auto slots = [](const Run& run, const char* tensor) {
      const auto m = slot_of<float>(run.adamw, "exp_avg", tensor);
      const auto a = slot_of<float>(run.ema, "average", tensor);
      std::vector<float> values(m.begin(), m.end());
      values.insert(values.end(), a.begin(), a.end());
      return values;
    };
    CHECK(slots(part, "head.weight") == slots(saved, "embed.weight"));
    CHECK(slots(part, "body.weight") == slots(Run(20), "body.weight"));
    CHECK(steps_of(part.adamw, "embed.weight") == 3);
    CHECK(steps_of(part.adamw, "body.weight") == 0);
  }
  {  // only the second list, with its method
    Run part(20);
    const auto before = part.bytes();
    load(file, {.only = Parts::weights | Parts::optimizers}, part.norms, part.sgd);
    CHECK(part.bytes() == mixed(before, saved.bytes(), {first, last}));
    CHECK(part.state()[2] == saved.state()[2]);
  }
  {  // weights alone, also into separate tensors, and by readers of weights
    Run separate(20, false);
    load(file, {.only = Parts::weights}, separate.params, separate.norms);
    CHECK(separate.bytes() == saved.bytes());
    Model weights(false, 30);
    if (every_name) {
      load_weights(file, {.allow_extra = true}, weights.params, weights.norms);
      CHECK(weights.bytes() == saved.bytes());
    }
  }
  {  // a run of separate tensors has no state for each of them
    Run separate(20, false);
    const auto before = separate.bytes();
    const auto state = separate.state();
    const std::string message = refusal<std::invalid_argument>([&] {
      load(file, separate.params, separate.adamw, separate.ema, separate.norms, separate.sgd);
    });
    CHECK(message.find("are tied in the file, but not here") != std::string::npos);
    CHECK(separate.bytes() == before);
    CHECK(separate.state() == state);
  }
}

}  // namespace tied_sharded_partial_test
