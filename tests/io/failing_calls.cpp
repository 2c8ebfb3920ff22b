// SPDX-License-Identifier: Apache-2.0
// Makes every call of the system in every way to save a file fail once, and looks at what is left:
//
//   polyak_io_failing_calls [--long]
//
// After each failure the old files or the new ones can be loaded whole; the error says which: what
// throws without io_error::replaced() has changed nothing, and left nothing behind. The next save
// succeeds. `--long` tries more errors, failures that last, and writes that stop half-way.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/io.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/optim/adamw.hpp>

#include "failing_system.hpp"
#include "temporary_folder.hpp"

namespace {

using failing_system::Armed;
using failing_system::Plan;
using polyak::io_error;

/// A run whose weights, average and metadata are all of one version.
struct Run {
  explicit Run(int version_here) : version(static_cast<float>(version_here)) {
    std::fill(w.begin(), w.end(), version);
    std::fill(b.begin(), b.end(), version);
    params.add("w", w).add("b", b);
    adamw.emplace(params);
    ema.emplace(params, polyak::EmaOptions{.decay = 0.5, .start = polyak::Start::first_update});
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  /// Makes the state one that can be saved.
  void use() { ema->update(params); }
  /// The version of the weights; nothing if they are of several.
  [[nodiscard]] std::optional<int> weights() const {
    const auto is_first = [&](float value) { return value == w[0]; };
    const bool whole =
        std::all_of(w.begin(), w.end(), is_first) && std::all_of(b.begin(), b.end(), is_first);
    return whole ? std::optional(static_cast<int>(w[0])) : std::nullopt;
  }

  float version;
  std::vector<float> w = std::vector<float>(3000), b = std::vector<float>(500);
  polyak::Parameters<float> params;
  std::optional<polyak::AdamW<float>> adamw;
  std::optional<polyak::Ema<float>> ema;
};

/// A way to save, and to load what was saved.
struct Way {
  std::string name;
  /// Saves a version, 1 to 3, into a folder; waits for the disk if that is asked for.
  std::function<void(const std::filesystem::path&, int, bool durable)> save;
  /// Loads it. Returns nothing for a mixture.
  std::function<std::optional<int>(const std::filesystem::path&)> load;
  /// Saves version 1 before anything fails; as `save` if there is none.
  std::function<void(const std::filesystem::path&, int, bool durable)> first = nullptr;
  /// Whether an error may say that it has replaced some of several files.
  bool several = false;
};

void save_state(const std::filesystem::path& path, int version, bool durable) {
  Run run(version);
  run.use();
  polyak::save(path, {.metadata = {{"version", std::to_string(version)}}, .durable = durable},
               run.params, *run.adamw, *run.ema);
}
std::optional<int> load_state(const std::filesystem::path& path) {
  Run run(0);
  const auto report = polyak::load(path, run.params, *run.adamw, *run.ema);
  const auto version = run.weights();
  if (!version || report.metadata.at("version") != std::to_string(*version)) return std::nullopt;
  const auto average = run.ema->view()["w"];
  const bool same = std::all_of(average.begin(), average.end(),
                                [&](float value) { return value == static_cast<float>(*version); });
  return same ? version : std::nullopt;
}
void save_weights(const std::filesystem::path& path, int version, std::uint64_t shard_bytes,
                  bool durable = true) {
  Run run(version);
  polyak::save_weights(path, run.params, {.shard_bytes = shard_bytes, .durable = durable});
}
std::optional<int> load_weights(const std::filesystem::path& path) {
  Run run(0);
  polyak::load_weights(path, run.params);
  return run.weights();
}

/// Appends the snapshot of a version, whose weights are all equal to it.
void append_snapshot(const std::filesystem::path& folder, int version, std::size_t most,
                     bool durable) {
  polyak::SnapshotStore store(folder, {.most = most, .durable = durable});
  Run run(version);
  for (int call = 0; call < version + 1; ++call) run.use();
  store.append("ema", *run.ema);
}
/// The newest version; nothing unless every snapshot is whole and of its version.
std::optional<int> newest_snapshot(const std::filesystem::path& folder) {
  const auto store = polyak::SnapshotStore::read_only(folder);
  if (!store.problems().empty() || store.snapshots().empty()) return std::nullopt;
  for (const auto& one : store.snapshots()) {
    const polyak::SafetensorsFile file(one.file);
    file.verify();
    for (const float value : file.view<float>("w")) {
      if (value != static_cast<float>(one.calls - 1)) return std::nullopt;
    }
  }
  return static_cast<int>(store.snapshots().back().calls) - 1;
}

/// Both averages that were made from the snapshots of a version.
std::optional<int> load_averages(const std::filesystem::path& folder) {
  const auto one = load_weights(folder / "a.safetensors");
  return one == load_weights(folder / "b.safetensors") ? one : std::nullopt;
}

/// All ways. The snapshots of each version lie in `stores`.
std::vector<Way> ways(const std::filesystem::path& stores) {
  using Folder = std::filesystem::path;
  std::vector<Way> all;
  const auto file = [](const Folder& folder) { return folder / "x.safetensors"; };
  const auto single = [file](const Folder& folder, int version, bool durable) {
    save_weights(file(folder), version, 0, durable);
  };
  const auto load_single = [file](const Folder& folder) { return load_weights(file(folder)); };
  all.push_back({"a state",
                 [file](const Folder& folder, int version, bool durable) {
                   save_state(file(folder), version, durable);
                 },
                 [file](const Folder& folder) { return load_state(file(folder)); }});
  all.push_back({"weights", single, load_single});
  all.push_back(
      {"weights, not durable",
       [single](const Folder& folder, int version, bool) { single(folder, version, false); },
       load_single});
  all.push_back({"weights of mode 0444", single, load_single,
                 [single, file](const Folder& folder, int version, bool durable) {
                   single(folder, version, durable);
                   std::filesystem::permissions(file(folder), std::filesystem::perms(0444));
                 }});
  const auto model = [](std::uint64_t shard_bytes) {
    return [shard_bytes](const Folder& folder, int version, bool durable) {
      save_weights(folder / "m", version, shard_bytes, durable);
    };
  };
  const auto sharded = model(4096), whole = model(1 << 20);
  const auto load_model = [](const Folder& folder) { return load_weights(folder / "m"); };
  all.push_back({"shards in place of shards", sharded, load_model});
  all.push_back({"shards in place of a file", sharded, load_model, whole});
  all.push_back({"a file in place of shards", whole, load_model, sharded});
  for (const std::size_t most : {0U, 2U}) {
    all.push_back({most == 0 ? "a snapshot" : "a snapshot, with thinning",
                   [most](const Folder& folder, int version, bool durable) {
                     append_snapshot(folder / "store", version, most, durable);
                   },
                   [](const Folder& folder) { return newest_snapshot(folder / "store"); },
                   [most](const Folder& folder, int version, bool durable) {
                     if (most > 0) append_snapshot(folder / "store", version - 1, 0, durable);
                     append_snapshot(folder / "store", version, 0, durable);
                   }});
  }
  all.push_back(
      {"two averages of snapshots",
       [stores](const Folder& folder, int version, bool durable) {
         const auto target = polyak::ProfileTarget::ema(0.5);
         const auto store = polyak::SnapshotStore::read_only(stores / std::to_string(version));
         if (!store.problems().empty()) {
           throw io_error({stores, {}, {}, store.problems().front()});
         }
         polyak::reconstruct(
             store, {{target, folder / "a.safetensors"}, {target, folder / "b.safetensors"}},
             {.fit = {.force = true}, .durable = durable});
       },
       load_averages, nullptr, true});
  return all;
}

/// The files of a folder, without those that lock it.
std::set<std::string> names(const std::filesystem::path& folder) {
  std::set<std::string> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().filename() != ".lock") {
      all.insert(std::filesystem::relative(entry.path(), folder).string());
    }
  }
  return all;
}
bool has_temporary(const std::set<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.ends_with(".tmp"); });
}
std::size_t open_files() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

struct Outcome {
  bool thrown = false, replaced = false;
  std::string words = {};
  std::string foreign = {};  ///< what was thrown, if it is no io_error
};

/// One save with one plan.
class Trial {
 public:
  Trial(const Way& way, const Plan& plan) : way_(way), plan_(plan) {}

  /// Returns whether a call failed; if not, the save made fewer calls.
  bool run() {
    const std::filesystem::path& folder = folder_.path();
    (way_.first ? way_.first : way_.save)(folder, 1, false);
    const auto before = names(folder);
    const std::size_t files = open_files();
    const Outcome outcome = save(2);
    failed_ = failing_system::failed();
    check(open_files() == files, "a descriptor stays open");
    check(outcome.foreign.empty(), "it threw " + outcome.foreign);
    words_ = outcome.words;
    // Only calls that look at files or remove them may leave something behind.
    const bool cleans = failed_ == "unlink" || failed_ == "remove" || failed_ == "unlinkat" ||
                        failed_ == "fstat" || failed_ == "lstat" || failed_ == "stat";
    const auto now = names(folder);
    try {
      const auto version = way_.load(folder);
      const int expected = !outcome.thrown || outcome.replaced ? 2 : 1;
      const bool partly = way_.several && outcome.replaced && !version;
      check(partly || version == expected, version
                                               ? "version " + std::to_string(*version) +
                                                     " is loaded, not " + std::to_string(expected)
                                               : "what is loaded is a mixture");
    } catch (const std::exception& error) {
      check(false, std::string("nothing can be loaded: ") + error.what());
    }
    const bool says = outcome.words.find("replaced") != std::string::npos ||
                      outcome.words.find("is stored") != std::string::npos ||
                      outcome.words.find("written are") != std::string::npos;
    check(outcome.replaced == says, "its words are not true");
    if (outcome.thrown && !outcome.replaced && !cleans) {
      check(now == before, "files have come or gone");
    }
    if (!cleans) check(!has_temporary(now), "a temporary file is left");
    const Outcome again = save_freely(3, false);
    check(!again.thrown, "the next save fails: " + again.words + again.foreign);
    try {
      check(way_.load(folder) == 3, "the next save has not saved");
    } catch (const std::exception& error) {
      check(false, std::string("the next save cannot be loaded: ") + error.what());
    }
    if (!cleans || has_temporary(now)) {
      check(!has_temporary(names(folder)), "a temporary file is left for ever");
    }
    return !failed_.empty();
  }
  [[nodiscard]] int faults() const { return faults_; }

 private:
  Outcome save(int version) {
    const Armed armed(plan_);
    return save_freely(version, true);
  }
  Outcome save_freely(int version, bool durable) {
    Outcome outcome;
    try {
      way_.save(folder_.path(), version, durable);
    } catch (const io_error& error) {
      outcome = {true, error.replaced(), error.what()};
    } catch (const std::exception& error) {
      outcome = {true, false, {}, error.what()};
    }
    return outcome;
  }
  void check(bool holds, const std::string& what) {
    if (holds) return;
    ++faults_;
    std::printf("%s: call %ld, %s, fails with %s%s%s: %s [%s]\n", way_.name.c_str(), plan_.at,
                failed_.c_str(), std::strerror(plan_.error),
                plan_.from_then_on ? ", and so on" : "", plan_.half ? ", half-way" : "",
                what.c_str(), words_.c_str());
  }

  const Way& way_;
  Plan plan_;
  TemporaryFolder folder_;
  std::string failed_, words_;
  int faults_ = 0;
};

/// Loading while calls fail: an error and unchanged memory, or what was saved.
int check_loads(const std::vector<int>& errors, long& trials) {
  int faults = 0;
  const TemporaryFolder folder;
  const auto state = folder.path() / "state", model = folder.path() / "m";
  save_state(state, 2, false);
  save_weights(model, 2, 4096, false);
  const std::vector<std::pair<std::string, std::function<void(Run&)>>> loads{
      {"loading a state", [&](Run& run) { polyak::load(state, run.params, *run.adamw, *run.ema); }},
      {"loading shards", [&](Run& run) { polyak::load_weights(model, run.params); }}};
  for (const auto& [name, load] : loads) {
    for (const int error : errors) {
      bool failed = true;
      for (long at = 1; failed; ++at, ++trials) {
        Run run(0);
        bool thrown = false;
        std::string foreign;
        {
          const Armed armed({.at = at, .error = error});
          try {
            load(run);
          } catch (const io_error&) {
            thrown = true;
          } catch (const std::exception& other) {
            foreign = other.what();
          }
        }
        failed = !failing_system::failed().empty();
        if (foreign.empty() && run.weights() == (thrown ? 0 : 2)) continue;
        ++faults;
        std::printf("%s: call %ld, %s, fails with %s: %s %s\n", name.c_str(), at,
                    failing_system::failed().c_str(), std::strerror(error),
                    thrown ? "the weights have changed" : "wrong weights", foreign.c_str());
      }
    }
  }
  return faults;
}

}  // namespace

int main(int count, char** words) {
  const bool all = count == 2 && std::string_view(words[1]) == "--long";
  std::vector<int> errors{ENOSPC, EIO, EINTR, EMFILE};
  if (all) errors.insert(errors.end(), {EACCES, EPERM, ENOSYS, ENOLCK, ENODEV, EDQUOT, ENOTSUP});
  const TemporaryFolder stores;
  for (int version = 1; version <= 3; ++version) {
    append_snapshot(stores.path() / std::to_string(version), version, 0, false);
  }
  int faults = 0;
  long trials = 0;
  const auto try_all = [&](const Way& way, Plan plan, std::size_t first_error, std::size_t kinds) {
    bool failed = true;
    for (plan.at = 1; failed; ++plan.at, ++trials) {
      // One error after the other, so that each call meets all of them in turn.
      plan.error = errors[(first_error + static_cast<std::size_t>(plan.at)) % kinds];
      // What is interrupted for ever is tried for ever.
      if (plan.from_then_on && plan.error == EINTR) plan.error = EIO;
      Trial trial(way, plan);
      failed = trial.run();
      faults += trial.faults();
    }
  };
  for (const Way& way : ways(stores.path())) {
    for (std::size_t k = 0; k < (all ? errors.size() : 1); ++k) {
      try_all(way, {}, k, errors.size());
      if (all) try_all(way, {.from_then_on = true}, k, errors.size());
    }
    try_all(way, {.from_then_on = true, .half = true}, 0, 1);  // a full disk
  }
  faults += check_loads(errors, trials);
  std::printf("%ld failures, %d faults\n", trials, faults);
  return faults == 0 && trials > 500 ? 0 : 1;
}
