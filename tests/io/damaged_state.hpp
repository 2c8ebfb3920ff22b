// SPDX-License-Identifier: Apache-2.0
/// @file
/// States that are changed on purpose: a saved run, changes by a recipe, and digests made anew, so
/// that nothing but the rules of a state stands between the file and the program. Each is loaded to
/// a run that goes on, or refused by a documented error with the run unchanged. The program of
/// damaged_states.cpp makes recipes at random, the fuzz target reads them.
///
/// Above 300 lines: one recipe chooses the run, the changes and the way of loading.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include <polyak/io.hpp>
#include <polyak/polyak.hpp>

#include "../support/restarted.hpp"

namespace damaged_state {

using namespace polyak;  // NOLINT
using Bytes = std::vector<std::byte>;

inline void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "a damaged state: %s\n", what);
  std::abort();
}

/// The numbers of a recipe; zeros beyond its end.
class Recipe {
 public:
  explicit Recipe(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  [[nodiscard]] std::size_t below(std::size_t end) {
    std::size_t number = next();
    if (end > 256) number = number * 256 + next();
    if (end > 65536) number = (number * 256 + next()) * 256 + next();
    return end == 0 ? 0 : number % end;
  }
  [[nodiscard]] std::uint8_t next() {
    return place_ < bytes_.size() ? bytes_[place_++] : std::uint8_t{0};
  }

 private:
  std::span<const std::uint8_t> bytes_;
  std::size_t place_ = 0;
};

/// Tensors of all roles, one of them tied.
struct Model {
  std::vector<float> w, b, mean{1, 2}, other{3}, fixed{4};
  std::vector<std::int64_t> seen{5};
  std::vector<float> gw = std::vector<float>(6, 0.25F), gb = std::vector<float>(4, -0.5F);
  std::vector<std::vector<float>> more;
  Parameters<float> params;
  Gradients<float> grads;

  explicit Model(float first = 0.5F, std::size_t small_tensors = 0)
      : w(6, first), b(4, first), more(small_tensors, {first}), grads(list(params)) {
    grads.set("w", gw.data()).set("b", gb.data()).set("other", gb.data());
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Parameters<float>& list(Parameters<float>& to) {
    to.add("w", w, {2, 3}, Role::average, Order::column_major).add("b", b);
    to.add("mean", mean, Role::copy).add("seen", seen, Role::copy);
    to.add("other", other, Role::ignore).add("fixed", fixed, Role::frozen).add("tied", b);
    for (std::size_t k = 0; k < more.size(); ++k) to.add("more." + std::to_string(k), more[k]);
    return to;
  }
  [[nodiscard]] std::vector<Bytes> bytes() const {
    std::vector<Bytes> all;
    for (std::size_t k = 0; k < params.size(); ++k) {
      const auto* const data = static_cast<const std::byte*>(params[k].raw());
      all.emplace_back(data, data + params[k].bytes());
    }
    return all;
  }
};

/// The calls of one method, and what a program reads of it.
template <class M>
void call(M& method, Model& model) {
  if constexpr (M::trains) {
    static_cast<void>(method.step(model.params, model.grads));
  } else {
    method.update(model.params);
  }
  if constexpr (requires { method.begin_epoch(model.params); }) {
    if (method.weighting().made_with.unit == SwitchUnit::epochs) {
      static_cast<void>(method.begin_epoch(model.params));
    }
  }
}
template <class M>
void read(M& method, Model& model) {
  Model target(0, model.more.size());
  if constexpr (requires { method.held(); }) {
    if (method.held() > 0) method.copy_to(target.params, method.held());
  }
  if constexpr (requires { method.current(); }) {
    try {
      static_cast<void>(method.current()[0](0));
    } catch (const std::logic_error&) {  // no block has begun
    }
  }
  if constexpr (requires { method.ready(); }) {
    if (!method.ready()) return;
    if constexpr (requires { method.copy_to(target.params); }) {
      method.copy_to(target.params);
      const auto guard = method.swap_into(model.params);
    } else if constexpr (requires { method.copy_to(model.params, target.params); }) {
      method.copy_to(model.params, target.params);
      const auto guard = method.swap_into(model.params);
    } else {
      method.copy_to(target.params, std::size_t{0});
    }
  }
  if constexpr (requires { method.end_epoch(model.params); }) method.end_epoch(model.params);
  static_cast<void>(state_bytes(method));
}
/// Calls use(), which may refuse by a documented error. Returns whether it did not.
template <class Use>
bool permitted(Use use) {
  try {
    use();
    return true;
  } catch (const std::invalid_argument&) {
  } catch (const nonfinite_error&) {
  } catch (const io_error&) {
  }
  return false;
}

/// A saved run, and how to make one that loads it.
struct SavedRun {
  std::size_t small_tensors = 0;
  std::function<void(const std::filesystem::path&)> save;
  /// Loads a file into a new run; returns whether it was taken.
  std::function<bool(const std::filesystem::path&, const LoadOptions&)> load;
};
template <class Make>
[[nodiscard]] SavedRun saved_run(Make make, std::size_t small_tensors = 0) {
  using Methods = decltype(make(std::declval<const Parameters<float>&>()));
  const auto state = [](const Model& model, const Methods& methods) {
    std::vector<Bytes> all = model.bytes();
    std::apply([&](const auto&... one) { (all.push_back(state_bytes(one)), ...); }, methods);
    return all;
  };
  SavedRun run;
  run.small_tensors = small_tensors;
  run.save = [=](const std::filesystem::path& path) {
    Model model(0.5F, small_tensors);
    Methods methods = make(model.params);
    std::apply(
        [&](auto&... one) {
          for (int k = 0; k < 3; ++k) (call(one, model), ...);
          polyak::save(path, {.durable = false}, model.params, one...);
        },
        methods);
  };
  run.load = [=](const std::filesystem::path& path, const LoadOptions& options) {
    Model model(0.25F, small_tensors);
    Methods methods = make(model.params);
    const auto before = state(model, methods);
    const bool taken = permitted([&] {
      std::apply([&](auto&... one) { polyak::load(path, options, model.params, one...); }, methods);
    });
    if (!taken) {
      check(state(model, methods) == before, "it was refused, and something has changed");
      return false;
    }
    std::apply(
        [&](auto&... one) {
          const auto use = [&](auto& method) {
            permitted([&] { read(method, model); });
            for (int k = 0; k < 3; ++k) permitted([&] { call(method, model); });
            permitted([&] { read(method, model); });
          };
          (use(one), ...);
          const auto again = path.string() + ".again";
          permitted([&] { polyak::save(again, {.durable = false}, model.params, one...); });
        },
        methods);
    return true;
  };
  return run;
}

using Float = const Parameters<float>&;

/// One run for each kind of state.
[[nodiscard]] inline const std::vector<SavedRun>& saved_runs() {
  static const std::vector<SavedRun> all = [] {
    std::vector<SavedRun> runs;
    const auto add = [&](auto make, std::size_t small_tensors = 0) {
      runs.push_back(saved_run(make, small_tensors));
    };
    add([](Float p) {
      AdamW<float> adamw(p, {}, named("w", "b"));
      adamw.group(named("b"), {.weight_decay_factor = 0});
      return std::tuple(std::move(adamw), Ema<float>(p, {.start = Start::zero_debiased}));
    });
    add([](Float p) {
      return std::tuple(Sgd<float>(p, {.learning_rate = 0.1, .momentum = 0.9}),
                        Swa<float>(p, {.start = 2, .period = 2}), Tail<float>(p, {.start = 2}));
    });
    add([](Float p) { return std::tuple(Lion<float>(p), PowerEma<float>(p, {.gamma = 3})); });
    add([](Float p) { return std::tuple(AdEMAMix<float>(p), SampleEma<float>(p)); });
    add([](Float p) { return std::tuple(ScheduleFreeAdamW<float>(p)); });
    add([](Float p) {
      return std::tuple(ScheduleFreeSgd<float>(p, {.learning_rate = 0.1, .warmup_steps = 4}));
    });
    add([](Float p) {
      return std::tuple(Lawa<float>(p, {.checkpoints = 3, .running_mean = true}),
                        WindowAverage<float>(p, {.horizon = 4, .interval = 2, .blocks = 2}));
    });
    add([](Float p) {
      return std::tuple(SwitchEma<float>(p, {.unit = SwitchUnit::iterations, .interval = 2}),
                        SwitchEma<float>(p), HareTortoise<float>(p, {.switch_every = 2}));
    });
    add([](Float p) {
      return std::tuple(Aswa<float>(p, {.filter = AswaFilter::mean_norm}),
                        CottaTeacher<float>(p, {.restored = {"w"}}));
    });
    add([](Float p) {
      return std::tuple(EmaBank<float, 2>(p, {0.75, 0.9}),
                        Ema<float>(p, {.accumulate = Accumulate::kahan}),
                        Ema<float>(p, {.accumulate = Accumulate::float64}));
    });
    add([](Float p) {
      return std::tuple(
          Average<float, StreamWeighting>(p, StreamWeighting({1, 2, 3, 4})),
          Average<float, RepeatedWeighting<DiffusersWeighting>>(p, {{.decay = 0.9}, 1'000}),
          Average<float, Restarted>(p, {}));
    });
    add([](Float p) {
      return std::tuple(
          Ema<float, Eigen::bfloat16>(p, {.accumulate = Accumulate::stochastic, .seed = 3}));
    });
    add([](Float p) { return std::tuple(AdamW<float>(p), Ema<float>(p)); }, 250);
    return runs;
  }();
  return all;
}

/// The tensors and the metadata of a file, to change.
struct Content {
  struct Tensor {
    SafetensorsSpec spec;
    Bytes bytes;
  };
  std::vector<Tensor> tensors;
  std::map<std::string, std::string> metadata;

  explicit Content(const std::filesystem::path& path) {
    const SafetensorsFile file(path);
    for (const SafetensorsTensor& one : file.tensors()) {
      const auto bytes = file.bytes(one);
      tensors.push_back({{one.name, one.dtype, one.shape}, {bytes.begin(), bytes.end()}});
    }
    for (const auto& [key, value] : file.metadata()) {
      if (!key.starts_with("xxh3_128")) metadata.emplace(key, value);
    }
  }
  /// Writes a file with digests of its own. Throws std::invalid_argument where no file can hold it.
  void write(const std::filesystem::path& path, bool joint) const {
    std::map<std::string_view, const Bytes*> by_name;
    std::vector<SafetensorsSpec> specs;
    for (const Tensor& one : tensors) {
      specs.push_back(one.spec);
      by_name[one.spec.name] = &one.bytes;
    }
    SafetensorsWriter writer(path, std::move(specs), metadata,
                             {.durable = false, .joint_digests = joint});
    for (const SafetensorsTensor& one : writer.tensors()) {
      Bytes bytes = *by_name.at(one.name);
      bytes.resize(static_cast<std::size_t>(one.end - one.begin));
      writer.append(bytes);
    }
    writer.finish();
  }
};

inline constexpr std::array<std::string_view, 28> hostile_texts{"9223372036854775807",
                                                                "-9223372036854775808",
                                                                "9223372036854775808",
                                                                "18446744073709551615",
                                                                "9007199254740992",
                                                                "9007199254740993",
                                                                "4611686018427387904",
                                                                "2147483648",
                                                                "-2147483649",
                                                                "-1",
                                                                "0",
                                                                "1",
                                                                "-0",
                                                                "3",
                                                                "nan",
                                                                "-nan",
                                                                "inf",
                                                                "-inf",
                                                                "1e308",
                                                                "1e-320",
                                                                "0x10",
                                                                "",
                                                                " 1",
                                                                "true",
                                                                "none",
                                                                "w",
                                                                "tied",
                                                                "polyak/0/average/w"};
inline constexpr std::array<std::int64_t, 10> hostile_numbers{
    INT64_MAX, INT64_MIN, std::int64_t{1} << 53, (std::int64_t{1} << 53) + 1, -1, 0, 1,
    2,         1000000,   std::int64_t{1} << 62};

/// Every value of a JSON text, the text itself the last.
inline void list_values(nlohmann::json& value, std::vector<nlohmann::json*>& all) {
  if (value.is_structured()) {
    for (auto& one : value) list_values(one, all);
  }
  all.push_back(&value);
}
inline void change_record(std::string& record, Recipe& recipe) {
  using Json = nlohmann::json;
  Json root = Json::parse(record, nullptr, false);
  if (root.is_discarded()) return;
  std::vector<Json*> all;
  list_values(root, all);
  Json& one = *all[recipe.below(all.size())];
  const std::string text(hostile_texts[recipe.below(hostile_texts.size())]);
  switch (recipe.below(9)) {
    case 0:
    case 1:
      one = Json(text);
      break;
    case 2:
      one = Json(std::uint64_t{recipe.below(5)});
      break;
    case 3:
      one = Json(hostile_numbers[recipe.below(hostile_numbers.size())]);
      break;
    case 4:
      one = Json(*all[recipe.below(all.size())]);
      break;
    case 5:
      if (one.is_array()) one.push_back(one.empty() ? Json(text) : Json(one[0]));
      if (one.is_object()) one[text] = Json(text);
      break;
    case 6:
      if (one.is_array() && !one.empty()) one.erase(recipe.below(one.size()));
      if (one.is_object() && !one.empty()) one.erase(one.begin().key());
      break;
    case 7:
      if (one.is_array() && !one.empty()) std::swap(one[0], one[recipe.below(one.size())]);
      if (one.is_string()) one = Json(*one.get_ptr<const std::string*>() + text);
      break;
    default:
      one = Json();
      break;
  }
  record = root.dump(-1, ' ', false, Json::error_handler_t::replace);
}
/// Sets a number that the record says as text.
inline void change_scalar(std::string& record, Recipe& recipe) {
  nlohmann::json root = nlohmann::json::parse(record, nullptr, false);
  std::vector<nlohmann::json*> all;
  if (!root.is_object() || !root.contains("methods") || !root["methods"].is_array()) return;
  for (auto& method : root["methods"]) {
    if (!method.is_object()) continue;
    for (const char* part : {"scalars", "scalars", "options"}) {
      if (!method.contains(part) || !method[part].is_object()) continue;
      for (auto& one : method[part]) all.push_back(&one);
    }
  }
  if (all.empty()) return;
  *all[recipe.below(all.size())] = std::string(hostile_texts[recipe.below(hostile_texts.size())]);
  record = root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
inline void change_tensor(std::vector<Content::Tensor>& tensors, Recipe& recipe) {
  if (tensors.empty()) return;
  const std::size_t place = recipe.below(tensors.size());
  Content::Tensor& one = tensors[place];
  switch (recipe.below(6)) {
    case 0:
      for (std::byte& byte : one.bytes) byte = static_cast<std::byte>(recipe.next());
      break;
    case 1:
      one.spec.name = hostile_texts[recipe.below(hostile_texts.size())];
      break;
    case 2:
      one.spec.shape.push_back(recipe.below(3));
      break;
    case 3:
      one.spec.dtype = static_cast<SafetensorsType>(recipe.below(22));
      break;
    case 4:
      std::swap(one.spec.name, tensors[recipe.below(tensors.size())].spec.name);
      break;
    default:
      tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(place));
      break;
  }
}
/// Sets a counter of a tensor.
inline void change_counter(std::vector<Content::Tensor>& tensors, Recipe& recipe) {
  std::vector<Content::Tensor*> all;
  for (Content::Tensor& one : tensors) {
    if (one.spec.dtype == SafetensorsType::I64 && one.bytes.size() >= 8) all.push_back(&one);
  }
  if (all.empty()) return;
  Bytes& bytes = all[recipe.below(all.size())]->bytes;
  const std::int64_t number = hostile_numbers[recipe.below(hostile_numbers.size())];
  std::memcpy(bytes.data() + 8 * recipe.below(bytes.size() / 8), &number, 8);
}

enum class Outcome : std::uint8_t { taken, refused, not_written };

/// A folder of this process, in memory where the system has such files.
[[nodiscard]] inline const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    std::error_code ignored;
    const std::filesystem::path memory = "/dev/shm";
    const auto parent = std::filesystem::is_directory(memory, ignored)
                            ? memory
                            : std::filesystem::temp_directory_path();
    auto own = parent / ("polyak-states-" + std::to_string(::getpid()));
    std::filesystem::create_directories(own);
    std::atexit([] {
      std::error_code error;
      std::filesystem::remove_all(folder(), error);
    });
    return own;
  }();
  return path;
}

/// Changes a saved run as the recipe says, loads it and goes on. Aborts, or lets a sanitizer abort,
/// where that breaks what load() promises.
inline Outcome follow(std::span<const std::uint8_t> bytes) {
  static std::map<std::size_t, Content> saved;
  Recipe recipe(bytes);
  const std::size_t number = recipe.below(saved_runs().size());
  const SavedRun& run = saved_runs()[number];
  if (!saved.contains(number)) {
    run.save(folder() / "saved");
    saved.emplace(number, Content(folder() / "saved"));
  }
  Content content = saved.at(number);
  LoadOptions options;
  const std::size_t how = recipe.below(8);
  options.override_options = how % 2 == 1;
  if (how == 4) options.only = Parts::weights;
  if (how == 5) options.tensors = named("w", "b");
  if (how == 6) options.verify = false;
  for (std::size_t changes = recipe.below(4) + 1; changes > 0; --changes) {
    std::string& record = content.metadata["polyak"];
    switch (recipe.below(6)) {
      case 0:
      case 1:
        change_scalar(record, recipe);
        break;
      case 2:
        change_record(record, recipe);
        break;
      case 3:
        change_counter(content.tensors, recipe);
        break;
      case 4:
        change_tensor(content.tensors, recipe);
        break;
      default:
        if (!record.empty()) record[recipe.below(record.size())] = static_cast<char>(recipe.next());
        break;
    }
  }
  const auto path = folder() / "changed";
  if (!permitted([&] { content.write(path, recipe.below(2) == 1); })) return Outcome::not_written;
  return run.load(path, options) ? Outcome::taken : Outcome::refused;
}

}  // namespace damaged_state
