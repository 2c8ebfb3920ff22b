// SPDX-License-Identifier: Apache-2.0
// The functions for C do what the classes of C++ do, to the bit, and report every error.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <polyak/interop/c.h>
#include <allocations.hpp>
#include <catch.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/core/clip.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/weights.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/sgd.hpp>
#include <temporary_folder.hpp>

namespace c_test {
namespace {

using Options = std::vector<polyak_option>;

/// Fails the test with the message of the call.
void succeed(polyak_status status) {
  if (status != POLYAK_OK) FAIL(polyak_last_error());
}

template <class P>
constexpr polyak_dtype dtype_of = static_cast<polyak_dtype>(polyak::detail::dtype_of<P>());

template <class P>
struct Tensors {
  std::vector<P> kernel = std::vector<P>(9 * 37), bias = std::vector<P>(37);
  std::vector<std::int64_t> batches = {3};

  static constexpr std::int64_t kernel_shape[] = {9, 37}, bias_shape[] = {37};
  static constexpr std::int64_t batches_shape[] = {1};

  explicit Tensors(double scale = 1) {
    for (std::size_t k = 0; k < kernel.size(); ++k) {
      kernel[k] = static_cast<P>(static_cast<float>(scale * std::sin(static_cast<double>(k))));
    }
    for (std::size_t k = 0; k < bias.size(); ++k) {
      bias[k] = static_cast<P>(static_cast<float>(scale * std::cos(static_cast<double>(k))));
    }
  }
  // Assignment keeps the memory, as it moves nothing.
  Tensors(const Tensors&) = default;
  Tensors& operator=(const Tensors&) = default;
  ~Tensors() = default;

  [[nodiscard]] std::array<polyak_tensor, 3> described() {
    return {polyak_tensor{"layer.kernel", kernel.data(), dtype_of<P>, POLYAK_ROLE_AVERAGE,
                          POLYAK_ROW_MAJOR, 2, kernel_shape},
            polyak_tensor{"batches", batches.data(), POLYAK_INT64, POLYAK_ROLE_COPY,
                          POLYAK_ROW_MAJOR, 1, batches_shape},
            polyak_tensor{"layer.bias", bias.data(), dtype_of<P>, POLYAK_ROLE_AVERAGE,
                          POLYAK_ROW_MAJOR, 1, bias_shape}};
  }
  [[nodiscard]] polyak::Parameters<P> list() {
    polyak::Parameters<P> params;
    params.add("layer.kernel", kernel.data(), {9, 37});
    params.add("batches", batches.data(), {1}, polyak::Role::copy);
    params.add("layer.bias", bias.data(), {37});
    return params;
  }
  friend bool operator==(const Tensors& a, const Tensors& b) {
    return std::memcmp(a.kernel.data(), b.kernel.data(), a.kernel.size() * sizeof(P)) == 0 &&
           std::memcmp(a.bias.data(), b.bias.data(), a.bias.size() * sizeof(P)) == 0 &&
           a.batches == b.batches;
  }
};

/// Objects of C, destroyed at the end.
template <class P>
struct Model {
  Tensors<P> tensors;
  polyak_parameters* list = nullptr;
  polyak_optimizer* optimizer = nullptr;
  std::vector<polyak_average*> averages;

  Model() {
    const auto described = tensors.described();
    succeed(polyak_parameters_create(dtype_of<P>, described.data(), described.size(), &list));
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model() {
    polyak_parameters_destroy(list);  // the others keep what they need of it
    polyak_optimizer_destroy(optimizer);
    for (polyak_average* average : averages) polyak_average_destroy(average);
  }
  Model& train(const char* method, const Options& options) {
    succeed(polyak_optimizer_create(list, method, options.data(), options.size(), &optimizer));
    return *this;
  }
  Model& average(const char* method, const Options& options) {
    averages.push_back(nullptr);
    succeed(polyak_average_create(list, method, options.data(), options.size(), &averages.back()));
    return *this;
  }
  void step(const Tensors<P>& gradient, bool bias = true) {
    const void* const pointers[] = {gradient.kernel.data(), bias ? gradient.bias.data() : nullptr};
    int complete = -1;
    succeed(polyak_step(optimizer, pointers, 2, averages.data(), averages.size(), &complete));
    CHECK(complete == 1);
  }
};

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Trains in C and in C++, and compares weights, files and averages.
template <class P, class Optimizer, class... Average>
void compare(Model<P>& model, Tensors<P>& weights, Optimizer& optimizer, Average&... average) {
  const polyak::Parameters<P> params = weights.list();
  polyak::Gradients<P> gradients(params);
  for (int t = 1; t <= 7; ++t) {
    const Tensors<P> gradient(1. / t);
    const bool bias = t % 3 != 0;
    const double rate = 0.01 / t;
    succeed(polyak_optimizer_set_learning_rate(model.optimizer, rate));
    model.tensors.batches[0] = weights.batches[0] = t;
    model.step(gradient, bias);
    gradients.set_all(
        std::array<const P*, 2>{gradient.kernel.data(), bias ? gradient.bias.data() : nullptr});
    REQUIRE(polyak::step(params, gradients, optimizer.at(rate), average...));
    REQUIRE(model.tensors == weights);
  }
  const TemporaryFolder folder;
  succeed(polyak_save(folder.file("c").c_str(), model.list, model.optimizer, model.averages.data(),
                      model.averages.size()));
  polyak::save(folder.file("cpp"), params, optimizer, average...);
  CHECK(bytes_of(folder.file("c")) == bytes_of(folder.file("cpp")));
}

TEST_CASE("C trains every optimizer with one fused average as C++ does") {
  Model<float> model;
  Tensors<float> weights;
  const polyak::Parameters<float> params = weights.list();
  polyak::Ema<float> ema(params, {.decay = 0.9});
  model.average("Ema", {{"decay", "0.9"}});
  SECTION("Sgd") {
    polyak::Sgd<float> sgd(params, {.learning_rate = 1, .momentum = 0.9, .nesterov = true});
    model.train("Sgd", {{"momentum", "0.9"}, {"learning_rate", "1"}, {"nesterov", "true"}});
    compare(model, weights, sgd, ema);
  }
  SECTION("AdamW") {
    polyak::AdamW<float> adamw(params, {.beta2 = 0.99, .epsilon = 1e-6});
    model.train("AdamW", {{"beta2", "0.99"}, {"epsilon", "1e-6"}});
    compare(model, weights, adamw, ema);
  }
  SECTION("AdEMAMix") {
    polyak::AdEMAMix<float> ademamix(
        params, {.beta3_warmup = 5, .accumulate_slow = polyak::Accumulate::kahan});
    model.train("AdEMAMix", {{"beta3_warmup", "5"}, {"accumulate_slow", "kahan"}});
    compare(model, weights, ademamix, ema);
  }
  SECTION("Lion") {
    polyak::Lion<float> lion(params, {.weight_decay = 0.1});
    model.train("Lion", {{"weight_decay", "0.1"}});
    compare(model, weights, lion, ema);
  }
  SECTION("ScheduleFreeAdamW") {
    polyak::ScheduleFreeAdamW<float> free(params, {.warmup_steps = 3});
    model.train("ScheduleFreeAdamW", {{"warmup_steps", "3"}});
    compare(model, weights, free, ema);
    // Its own average, in the model's memory.
    polyak_guard* guard = nullptr;
    const Tensors<float> own = weights;
    succeed(polyak_optimizer_swap_in(model.optimizer, &guard));
    {
      const auto swapped = free.swap_into(params);
      CHECK(model.tensors == weights);
      CHECK(!(weights == own));
    }
    polyak_swap_out(guard);
    CHECK(model.tensors == own);
  }
}

TEST_CASE("C updates several averages in one step as C++ does") {
  Model<float> model;
  Tensors<float> weights;
  const polyak::Parameters<float> params = weights.list();
  polyak::AdamW<float> adamw(params);
  polyak::Ema<float> ema(params, {.start = polyak::Start::zero_debiased});
  polyak::PowerEma<float> power(params, {.gamma = 6});
  polyak::Swa<float> swa(params, {.start = 2, .period = 3});
  model.train("AdamW", {})
      .average("Ema", {{"start", "zero_debiased"}})
      .average("PowerEma", {{"gamma", "6"}})
      .average("Swa", {{"start", "2"}, {"period", "3"}});
  compare(model, weights, adamw, ema, power, swa);

  // The averages alone, one and two in a call.
  model.tensors = Tensors<float>(3);
  weights = Tensors<float>(3);
  for (std::size_t count = 1; count <= 3; ++count) {
    succeed(polyak_update(model.averages.data(), count, nullptr));
  }
  for (int k = 0; k < 3; ++k) {
    polyak::update(params, ema);
    if (k > 0) polyak::update(params, power);
    if (k > 1) polyak::update(params, swa);
  }
  const TemporaryFolder folder;
  const std::string c = folder.file("c"), cpp = folder.file("cpp");
  const auto compare_files = [&](std::size_t which, const auto& average) {
    succeed(polyak_save_average(c.c_str(), model.averages[which]));
    polyak::save_average(cpp, params, average);
    CHECK(bytes_of(c) == bytes_of(cpp));
    std::int64_t updates = -1;
    succeed(polyak_average_updates(model.averages[which], &updates));
    CHECK(updates == average.count());
    Model<float> target;
    Tensors<float> other;
    succeed(polyak_average_copy_to(model.averages[which], target.list));
    average.copy_to(other.list());
    CHECK(target.tensors == other);
    CHECK(other.batches[0] == 3);
  };
  compare_files(0, ema);
  compare_files(1, power);
  compare_files(2, swa);
}

TEST_CASE("C groups, scales and clips as C++ does") {
  Model<float> model;
  Tensors<float> weights;
  const polyak::Parameters<float> params = weights.list();
  polyak::AdamW<float> adamw(params, {.weight_decay = 0.5});
  adamw.group(polyak::named("*.bias"), {.learning_rate_factor = 2, .weight_decay_factor = 0});
  model.train("AdamW", {{"weight_decay", "0.5"}});
  double norm = -1, rate = -1;
  CHECK(polyak_optimizer_gradient_norm(model.optimizer, &norm) == POLYAK_WRONG_ORDER);
  succeed(polyak_optimizer_group(model.optimizer, "*.bias", 2, 0));
  polyak::Gradients<float> gradients(params);
  const Tensors<float> gradient(5);
  gradients.set("layer.kernel", gradient.kernel.data()).set("layer.bias", gradient.bias.data());
  gradients.scale(0.5);
  succeed(polyak_optimizer_scale_gradients(model.optimizer, 0.5));
  for (const double most : {1e-6, 0.25, std::numeric_limits<double>::infinity()}) {
    succeed(polyak_optimizer_clip_norm(model.optimizer, most));
    gradients.scale(0.5);
    const double expected = polyak::clip_norm(gradients, most);
    polyak::step(params, gradients, adamw);
    model.step(gradient);
    CHECK(model.tensors == weights);
    if (!std::isinf(most)) {
      succeed(polyak_optimizer_gradient_norm(model.optimizer, &norm));
      CHECK(norm == expected);
    }
  }
  CHECK(polyak_optimizer_gradient_norm(model.optimizer, &norm) == POLYAK_WRONG_ORDER);
  std::int64_t steps = -1;
  succeed(polyak_optimizer_steps(model.optimizer, &steps));
  CHECK(steps == 3);
  succeed(polyak_optimizer_set_learning_rate(model.optimizer, 0.125));
  succeed(polyak_optimizer_get_learning_rate(model.optimizer, &rate));
  CHECK(rate == 0.125);
}

template <class P>
void compare_type(const Options& options, polyak::AdamWOptions expected) {
  Model<P> model;
  Tensors<P> weights;
  const polyak::Parameters<P> params = weights.list();
  polyak::AdamW<P> adamw(params, expected);
  polyak::Ema<P> ema(params);
  model.train("AdamW", options).average("Ema", {});
  compare(model, weights, adamw, ema);
}

TEST_CASE("C trains weights of each type that is compiled as C++ does") {
  const Options master{{"accumulate", "master"}};
  [[maybe_unused]] const polyak::AdamWOptions expected{.accumulate = polyak::Accumulate::master};
  polyak_parameters* list = nullptr;
#if POLYAK_C_LEAVES_OUT_FLOAT64
  CHECK(polyak_parameters_create(POLYAK_FLOAT64, nullptr, 0, &list) == POLYAK_INVALID_ARGUMENT);
#else
  compare_type<double>({}, {});
#endif
#if POLYAK_C_LEAVES_OUT_FLOAT16
  CHECK(polyak_parameters_create(POLYAK_FLOAT16, nullptr, 0, &list) == POLYAK_INVALID_ARGUMENT);
#else
  compare_type<Eigen::half>(master, expected);
#endif
#if POLYAK_C_LEAVES_OUT_BFLOAT16
  CHECK(polyak_parameters_create(POLYAK_BFLOAT16, nullptr, 0, &list) == POLYAK_INVALID_ARGUMENT);
#else
  compare_type<Eigen::bfloat16>(master, expected);
#endif
  CHECK(list == nullptr);
}

TEST_CASE("C resumes a saved run to the bit") {
  const TemporaryFolder folder;
  const std::string path = folder.file("run.safetensors");
  const auto prepare = [](Model<float>& model) {
    model.train("AdamW", {{"learning_rate", "0.01"}}).average("Ema", {}).average("Swa", {});
  };
  Model<float> model, resumed;
  prepare(model);
  prepare(resumed);
  resumed.tensors = Tensors<float>(9);
  for (int t = 1; t < 4; ++t) model.step(Tensors<float>(t));
  succeed(polyak_save(path.c_str(), model.list, model.optimizer, model.averages.data(), 2));
  succeed(polyak_load(path.c_str(), resumed.list, resumed.optimizer, resumed.averages.data(), 2));
  model.step(Tensors<float>(4));
  resumed.step(Tensors<float>(4));
  CHECK(model.tensors == resumed.tensors);
  succeed(
      polyak_save(folder.file("a").c_str(), model.list, model.optimizer, model.averages.data(), 2));
  succeed(polyak_save(folder.file("b").c_str(), resumed.list, resumed.optimizer,
                      resumed.averages.data(), 2));
  CHECK(bytes_of(folder.file("a")) == bytes_of(folder.file("b")));
  CHECK(polyak_load(path.c_str(), model.list, model.optimizer, model.averages.data(), 2) ==
        POLYAK_WRONG_ORDER);

  // Weights alone, for other programs.
  succeed(polyak_save_weights(folder.file("w").c_str(), model.list));
  polyak::save_weights(folder.file("v"), model.tensors.list());
  CHECK(bytes_of(folder.file("w")) == bytes_of(folder.file("v")));
  Model<float> read;
  read.tensors = Tensors<float>(9);
  succeed(polyak_load_weights(folder.file("w").c_str(), read.list));
  CHECK(read.tensors == model.tensors);
}

TEST_CASE("C swaps an average in and out") {
  Model<float> model;
  model.train("AdamW", {{"learning_rate", "0.01"}}).average("Ema", {{"decay", "0.5"}});
  polyak_guard* guard = nullptr;
  CHECK(polyak_average_swap_in(model.averages[0], &guard) == POLYAK_WRONG_ORDER);  // never updated
  CHECK(guard == nullptr);
  model.step(Tensors<float>(2));
  const Tensors<float> own = model.tensors;
  Model<float> copy;
  succeed(polyak_average_copy_to(model.averages[0], copy.list));
  succeed(polyak_average_swap_in(model.averages[0], &guard));
  CHECK(model.tensors == copy.tensors);
  CHECK(!(model.tensors == own));

  const Tensors<float> gradient;
  const void* const pointers[] = {gradient.kernel.data(), gradient.bias.data()};
  polyak_guard* second = nullptr;
  CHECK(polyak_step(model.optimizer, pointers, 2, nullptr, 0, nullptr) == POLYAK_WRONG_ORDER);
  CHECK(polyak_update(model.averages.data(), 1, nullptr) == POLYAK_WRONG_ORDER);
  CHECK(polyak_average_swap_in(model.averages[0], &second) == POLYAK_WRONG_ORDER);
  CHECK(second == nullptr);
  CHECK(model.tensors == copy.tensors);

  SECTION("the weights return") {
    polyak_swap_out(guard);
    CHECK(model.tensors == own);
    model.step(gradient);
  }
  SECTION("the average is destroyed first") {
    polyak_average_destroy(model.averages[0]);
    model.averages.clear();
    polyak_swap_out(guard);
    CHECK(model.tensors == own);
  }
}

TEST_CASE("C reports memory as C++ does") {
  Model<float> model;
  model.train("AdamW", {}).average("Ema", {{"accumulate", "float64"}});
  Tensors<float> weights;
  const polyak::AdamW<float> adamw(weights.list());
  const auto expected = adamw.memory_report();
  polyak_slot slots[2];
  std::size_t count = 0, total = 0;
  succeed(polyak_optimizer_memory(model.optimizer, nullptr, 0, &count, &total));
  CHECK(count == 2);
  CHECK(total == expected.total);
  succeed(polyak_optimizer_memory(model.optimizer, slots, 2, nullptr, nullptr));
  for (std::size_t k = 0; k < 2; ++k) {
    CHECK(slots[k].name == expected.slots[k].name);
    CHECK(slots[k].dtype == POLYAK_FLOAT32);
    CHECK(slots[k].elements == expected.slots[k].elements);
    CHECK(slots[k].bytes == expected.slots[k].bytes);
  }
  succeed(polyak_average_memory(model.averages[0], slots, 1, &count, nullptr));
  CHECK(count == 1);
  CHECK(slots[0].name == std::string("average"));
  CHECK(slots[0].dtype == POLYAK_FLOAT64);
}

TEST_CASE("tensors of C have orders, ties and memory that moves") {
  std::vector<float> a(6, 1), b(6, 2);
  const std::int64_t shape[] = {2, 3};
  const polyak_tensor tensors[] = {
      {"a", a.data(), POLYAK_FLOAT32, POLYAK_ROLE_AVERAGE, POLYAK_COLUMN_MAJOR, 2, shape},
      {"tied", a.data(), POLYAK_FLOAT32, POLYAK_ROLE_AVERAGE, POLYAK_COLUMN_MAJOR, 2, shape},
      {"number", b.data(), POLYAK_FLOAT32, POLYAK_ROLE_IGNORE, POLYAK_ROW_MAJOR, 0, nullptr}};
  polyak_parameters* list = nullptr;
  succeed(polyak_parameters_create(POLYAK_FLOAT32, tensors, 3, &list));
  std::size_t trained = 0;
  succeed(polyak_parameters_trained(list, &trained));
  CHECK(trained == 2);
  for (int k = 0; k < 6; ++k) a[static_cast<std::size_t>(k)] = static_cast<float>(k);
  const TemporaryFolder folder;
  succeed(polyak_save_weights(folder.file("w").c_str(), list));
  std::vector<float> row_major(6);
  polyak::Parameters<float> read;
  read.add("a", row_major.data(), {2, 3}).add("number", b.data() + 1, {});
  polyak::load_weights(folder.file("w"), read);
  CHECK(row_major == std::vector<float>{0, 2, 4, 1, 3, 5});
  CHECK(b[1] == 2);

  std::vector<float> moved(6, 7);
  succeed(polyak_parameters_rebind(list, "tied", moved.data()));
  succeed(polyak_load_weights(folder.file("w").c_str(), list));
  CHECK(moved == std::vector<float>{0, 1, 2, 3, 4, 5});
  polyak_parameters_destroy(list);
}

TEST_CASE("a step of C allocates nothing after the first") {
  Model<float> model;
  model.train("AdamW", {}).average("Ema", {}).average("Swa", {});
  succeed(polyak_optimizer_clip_norm(model.optimizer, 1));
  const Tensors<float> gradient;
  model.step(gradient);
  const void* const pointers[] = {gradient.kernel.data(), gradient.bias.data()};
  const allocations::Counter counter;
  const polyak_status status =
      polyak_step(model.optimizer, pointers, 2, model.averages.data(), 2, nullptr);
  const std::size_t number = counter.counts().number;
  succeed(status);
  CHECK(number == 0);
}

TEST_CASE("C reports gradients that are not finite") {
  Tensors<float> gradient;
  gradient.bias[5] = std::numeric_limits<float>::quiet_NaN();
  const void* const pointers[] = {gradient.kernel.data(), gradient.bias.data()};
  const Tensors<float> before;
  SECTION("as an error") {
    Model<float> model;
    model.train("Sgd", {{"learning_rate", "1"}, {"nonfinite", "error"}});
    CHECK(polyak_step(model.optimizer, pointers, 2, nullptr, 0, nullptr) == POLYAK_NONFINITE);
    CHECK_THAT(polyak_last_error(), Catch::Contains("nothing was changed"));
    CHECK(model.tensors == before);
  }
  SECTION("as a step that was skipped, with its averages") {
    Model<float> model;
    model.train("Sgd", {{"learning_rate", "1"}, {"nonfinite", "skip_step"}}).average("Ema", {});
    int complete = -1;
    succeed(polyak_step(model.optimizer, pointers, 2, model.averages.data(), 1, &complete));
    CHECK(complete == 0);
    CHECK(model.tensors == before);
    std::int64_t updates = -1;
    succeed(polyak_average_updates(model.averages[0], &updates));
    CHECK(updates == 0);
  }
}

/// A call that must fail, and words of its message.
void refuse(polyak_status status, polyak_status expected, const std::string& words) {
  const std::string message = polyak_last_error();
  INFO(message);
  CHECK(status == expected);
  CHECK_THAT(message, Catch::Contains(words));
}
void refuse(polyak_status status, const std::string& words) {
  refuse(status, POLYAK_INVALID_ARGUMENT, words);
}

TEST_CASE("every refusal reaches C as a code and a message, and nothing has changed") {
  Model<float> model;
  model.train("AdamW", {{"learning_rate", "0.5"}}).average("Ema", {});
  const Tensors<float> before;
  const auto optimizer_refused = [&](const char* method, const Options& options,
                                     const std::string& words) {
    polyak_optimizer* made = nullptr;
    refuse(polyak_optimizer_create(model.list, method, options.data(), options.size(), &made),
           words);
    CHECK(made == nullptr);
  };
  const auto average_refused = [&](const char* method, const Options& options,
                                   const std::string& words) {
    polyak_average* made = nullptr;
    refuse(polyak_average_create(model.list, method, options.data(), options.size(), &made), words);
    CHECK(made == nullptr);
  };
  const auto list_refused = [](polyak_dtype dtype, std::vector<polyak_tensor> tensors,
                               const std::string& words) {
    polyak_parameters* made = nullptr;
    refuse(polyak_parameters_create(dtype, tensors.data(), tensors.size(), &made), words);
    CHECK(made == nullptr);
  };

  SECTION("options") {
    optimizer_refused("Adamw", {}, "AdEMAMix, Lion or ScheduleFreeAdamW, got \"Adamw\"");
    optimizer_refused("AdamW", {{"learning_rat", "1"}},
                      "AdamWOptions has no option \"learning_rat\"; it has learning_rate, beta1, ");
    optimizer_refused("AdamW", {{"beta1", "0,9"}}, "AdamWOptions.beta1 must be a number");
    optimizer_refused("AdamW", {{"beta1", ""}}, "AdamWOptions.beta1 must be a number");
    optimizer_refused("AdamW", {{"beta1", "1.5"}}, "AdamWOptions.beta1 must lie in [0, 1)");
    optimizer_refused("AdamW", {{"amsgrad", "1"}}, "AdamWOptions.amsgrad must be true or false");
    optimizer_refused("AdamW", {{"accumulate", "Kahan"}}, "accumulate must be one of ");
    optimizer_refused("AdamW", {{"beta1", "0.9"}, {"beta1", "0.9"}}, "once only, got \"beta1\"");
    optimizer_refused("AdamW", {{nullptr, "0.9"}}, "the name of an option must not be null");
    optimizer_refused("AdamW", {{"beta1", nullptr}}, "the value of an option must not be null");
    optimizer_refused("Sgd", {}, "SgdOptions.learning_rate must be finite and >= 0");
    average_refused("EMA", {}, "Ema, PowerEma or Swa, got \"EMA\"");
    average_refused("Ema", {{"decay", "0.001"}}, "did you mean 1 - 0.001 = 0.999?");
    average_refused("Swa", {{"period", "1.5"}}, "SwaOptions.period must be an integer");
  }
  SECTION("lists") {
    auto tensors = model.tensors.described();
    const polyak_tensor good = tensors[0];
    polyak_tensor bad = good;
    list_refused(POLYAK_INT32, {good}, "the type of weights must be POLYAK_FLOAT16");
    list_refused(POLYAK_FLOAT32, {good, good}, "layer.kernel");
    bad.name = nullptr;
    list_refused(POLYAK_FLOAT32, {bad}, "the name of a tensor must not be null");
    bad = good;
    bad.data = nullptr;
    list_refused(POLYAK_FLOAT32, {bad}, "must have memory");
    bad = good;
    bad.data = static_cast<char*>(good.data) + 1;
    list_refused(POLYAK_FLOAT32, {bad}, "must be aligned to, got 4");
    bad = good;
    bad.shape = nullptr;
    list_refused(POLYAK_FLOAT32, {bad}, "the shape of tensor \"layer.kernel\" must not be null");
    bad = good;
    const std::int64_t negative[] = {-9, 37};
    bad.shape = negative;
    list_refused(POLYAK_FLOAT32, {bad}, "layer.kernel");
    bad = good;
    bad.dtype = POLYAK_INT32;
    list_refused(POLYAK_FLOAT32, {bad}, "layer.kernel");
    const int number = 99;
    bad = good;
    std::memcpy(&bad.dtype, &number, sizeof number);
    list_refused(POLYAK_FLOAT32, {bad}, "must be one of polyak_dtype, got 99");
    bad = good;
    std::memcpy(&bad.role, &number, sizeof number);
    list_refused(POLYAK_FLOAT32, {bad}, "must be one of polyak_role, got 99");
    bad = good;
    std::memcpy(&bad.order, &number, sizeof number);
    list_refused(POLYAK_FLOAT32, {bad}, "must be one of polyak_order, got 99");
    polyak_parameters* made = nullptr;
    refuse(polyak_parameters_create(POLYAK_FLOAT32, nullptr, 1, &made), "tensors must not be null");
    refuse(polyak_parameters_create(POLYAK_FLOAT32, &good, 1, nullptr), "list must not be null");
    refuse(polyak_parameters_rebind(model.list, "layer", good.data), "layer");
    refuse(polyak_parameters_rebind(model.list, "layer.bias", good.data), "layer.kernel");
    refuse(polyak_parameters_rebind(nullptr, "layer.bias", good.data), "list must not be null");
    refuse(polyak_parameters_trained(model.list, nullptr), "count must not be null");
  }
  SECTION("steps and updates") {
    const Tensors<float> gradient;
    Model<float> other;
    other.average("Ema", {});
    const void* const pointers[] = {gradient.kernel.data(), gradient.bias.data()};
    const void* const weights[] = {model.tensors.kernel.data(), gradient.bias.data()};
    refuse(polyak_step(nullptr, pointers, 2, nullptr, 0, nullptr), "optimizer must not be null");
    refuse(polyak_step(model.optimizer, nullptr, 2, nullptr, 0, nullptr), "gradients must not be");
    refuse(polyak_step(model.optimizer, pointers, 1, nullptr, 0, nullptr), "must be 2");
    refuse(polyak_step(model.optimizer, weights, 2, nullptr, 0, nullptr), "layer.kernel");
    refuse(polyak_step(model.optimizer, pointers, 2, nullptr, 1, nullptr), "averages must not be");
    refuse(polyak_step(model.optimizer, pointers, 2, other.averages.data(), 1, nullptr),
           "the same list");
    polyak_average* const twice[] = {model.averages[0], model.averages[0]};
    refuse(polyak_step(model.optimizer, pointers, 2, twice, 2, nullptr), "given twice");
    const std::vector<polyak_average*> many(16, model.averages[0]);
    refuse(polyak_step(model.optimizer, pointers, 2, many.data(), 16, nullptr), "got 17");
    polyak_average* const null[] = {nullptr};
    refuse(polyak_step(model.optimizer, pointers, 2, null, 1, nullptr), "an average must not be");
    refuse(polyak_update(null, 1, nullptr), "an average must not be");
    refuse(polyak_update(nullptr, 0, nullptr), "at least one average");
    polyak_average* const mixed[] = {model.averages[0], other.averages[0]};
    refuse(polyak_update(mixed, 2, nullptr), "the same list");
    std::int64_t steps = -1;
    succeed(polyak_optimizer_steps(model.optimizer, &steps));
    CHECK(steps == 0);
    model.step(gradient);
    Model<float> fresh;
    fresh.train("AdamW", {{"learning_rate", "0.5"}}).step(gradient);
    CHECK(model.tensors == fresh.tensors);
    model.tensors = before;
  }
  SECTION("numbers of an optimizer") {
    refuse(polyak_optimizer_set_learning_rate(model.optimizer, -1), "learning_rate must be");
    refuse(polyak_optimizer_scale_gradients(model.optimizer, -1), "scale of gradients");
    refuse(polyak_optimizer_clip_norm(model.optimizer, std::nan("")), "max_norm must be >= 0");
    refuse(polyak_optimizer_group(model.optimizer, "*.scale", 1, 1), "*.scale");
    refuse(polyak_optimizer_group(model.optimizer, "*.bias", -1, 1), "learning_rate_factor");
    refuse(polyak_optimizer_group(model.optimizer, nullptr, 1, 1), "pattern must not be null");
    double rate = -1;
    succeed(polyak_optimizer_get_learning_rate(model.optimizer, &rate));
    CHECK(rate == 0.5);
  }
  SECTION("averages of other lists") {
    model.step(Tensors<float>());
    const std::int64_t shape[] = {9};
    const polyak_tensor tensor{"layer.kernel",
                               model.tensors.kernel.data(),
                               POLYAK_FLOAT32,
                               POLYAK_ROLE_AVERAGE,
                               POLYAK_ROW_MAJOR,
                               1,
                               shape};
    polyak_parameters* target = nullptr;
    succeed(polyak_parameters_create(POLYAK_FLOAT32, &tensor, 1, &target));
    refuse(polyak_average_copy_to(model.averages[0], target), "layer.bias");
    polyak_guard* guard = nullptr;
    refuse(polyak_optimizer_swap_in(model.optimizer, &guard), "only Schedule-Free optimizers");
    polyak_parameters_destroy(target);
    model.tensors = before;
  }
  SECTION("files") {
    const TemporaryFolder folder;
    const std::string none = folder.file("none/file"), path = folder.file("file");
    const auto save = [&](const std::string& to) {
      return polyak_save(to.c_str(), model.list, model.optimizer, model.averages.data(), 1);
    };
    refuse(save(none), POLYAK_IO_ERROR, "none/file");
    refuse(polyak_load(path.c_str(), model.list, nullptr, nullptr, 0), POLYAK_IO_ERROR, "file");
    succeed(save(path));
    Model<float> other;
    other.train("AdamW", {{"beta2", "0.5"}}).average("Ema", {});
    refuse(polyak_load(path.c_str(), other.list, other.optimizer, other.averages.data(), 1),
           "beta2");
    refuse(polyak_save(path.c_str(), model.list, other.optimizer, nullptr, 0), "the same list");
    polyak_average* const twice[] = {model.averages[0], model.averages[0]};
    refuse(polyak_save(path.c_str(), model.list, nullptr, twice, 2), "given twice");
    refuse(polyak_save(nullptr, model.list, nullptr, nullptr, 0), "path must not be null");
    refuse(polyak_save_average(path.c_str(), model.averages[0]), POLYAK_WRONG_ORDER,
           "never updated");
    std::ofstream(path, std::ios::binary) << "not safetensors";
    refuse(polyak_load_weights(path.c_str(), model.list), POLYAK_IO_ERROR, "file");
  }
  CHECK(model.tensors == before);
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program instead
TEST_CASE("memory that runs out reaches C as a code") {
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
  return;
#endif
#endif
  float weight = 0;
  const std::int64_t shape[] = {std::int64_t{1} << 45};
  const polyak_tensor tensor{"vast",           &weight, POLYAK_FLOAT32, POLYAK_ROLE_AVERAGE,
                             POLYAK_ROW_MAJOR, 1,       shape};
  polyak_parameters* list = nullptr;
  polyak_optimizer* optimizer = nullptr;
  succeed(polyak_parameters_create(POLYAK_FLOAT32, &tensor, 1, &list));
  refuse(polyak_optimizer_create(list, "AdamW", nullptr, 0, &optimizer), POLYAK_OUT_OF_MEMORY,
         "out of memory");
  CHECK(optimizer == nullptr);
  polyak_parameters_destroy(list);
}
#endif

TEST_CASE("each thread of C has its own last error") {
  refuse(polyak_update(nullptr, 0, nullptr), "at least one average");
  std::string first = "?", second = "?";
  std::thread([&] {
    first = polyak_last_error();
    polyak_parameters_trained(nullptr, nullptr);
    second = polyak_last_error();
  }).join();
  CHECK(first.empty());
  CHECK_THAT(second, Catch::Contains("must not be null"));
  CHECK_THAT(polyak_last_error(), Catch::Contains("at least one average"));
}

TEST_CASE("nothing is destroyed where C gives null") {
  polyak_parameters_destroy(nullptr);
  polyak_optimizer_destroy(nullptr);
  polyak_average_destroy(nullptr);
  polyak_swap_out(nullptr);
  SUCCEED();
}

}  // namespace
}  // namespace c_test
