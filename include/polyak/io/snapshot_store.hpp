// SPDX-License-Identifier: Apache-2.0
/// @file
/// SnapshotStore: a folder of snapshots of averages, from which averages of any other kind can be
/// made after training (io/reconstruct.hpp).
///
/// A snapshot is one safetensors file, "NAME-CALLS.safetensors", with the averaged tensors and the
/// buffers under their own names, and in the metadata whose profile it has and when it was taken.
#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/state_record.hpp>
#include <polyak/io/weights.hpp>

namespace polyak {
inline namespace v0 {

/// One snapshot of a store.
struct StoredSnapshot {
  std::filesystem::path file;
  std::string average;     ///< the name that it was appended under
  std::string type;        ///< "PowerEma"
  std::int64_t calls = 0;  ///< of the average's update
  /// Calls that the other averages of the store had seen when this one began.
  std::int64_t begun_after = 0;
  double time = 0;  ///< on the clock of a PowerEma; of others the same as calls
  std::string run;  ///< SnapshotStoreOptions.run
  DType dtype = DType::float32;
  /// What rounding to `dtype` cost: root mean square and largest difference, relative to the root
  /// mean square and the largest value of the average.
  double rms_error = 0, largest_error = 0;
  std::vector<std::string> buffers;            ///< tensors that are copied, not averaged
  std::string weighting;                       ///< its type: "power_clock"
  std::map<std::string, std::string> options;  ///< of the weighting
};

struct SnapshotStoreOptions {
  /// Type that averages are stored in: float32, or 16 bits, or float64; their own unless given.
  /// What rounding costs is measured and kept with each snapshot: for numbers of all sizes
  /// about 2.1e-4 (float16) and 1.7e-3 (bfloat16), root mean square; the largest float16 is 65504.
  std::optional<DType> dtype = std::nullopt;
  std::string run = {};  ///< which training run: snapshots of two are never mixed
  /// Largest number of snapshots of each average, 0 for all: thin() is called when the store is
  /// opened and after each append.
  std::size_t most = 0;
  bool durable = true;  ///< append() returns when the disk has the snapshot
};
template <class Fields>
void fields(SnapshotStoreOptions& o, Fields& field) {
  field("dtype", o.dtype);
  detail::check_floating(field, o.dtype);
  field("run", o.run);
  field("most", o.most);
  field.check(o.most != 1, "most must be 0 or at least 2", o.most);
  field.check(detail::is_utf8(o.run), "run must be UTF-8", std::string_view(o.run));
  field("durable", o.durable);
}

namespace detail {

inline constexpr std::string_view snapshot_key = "polyak.snapshot";
inline constexpr std::string_view snapshot_format = "polyak-snapshot-1";
inline constexpr std::string_view snapshot_suffix = ".safetensors";

[[nodiscard]] inline std::optional<double> number_in(std::string_view words) {
  double value = 0;
  const char* const end = words.data() + words.size();
  const auto result = std::from_chars(words.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

/// What a snapshot's metadata say, or why they say nothing.
struct SnapshotRecord {
  StoredSnapshot snapshot;
  std::string fault;
};
[[nodiscard]] inline SnapshotRecord read_snapshot_record(
    const std::map<std::string, std::string>& metadata) {
  using Json = nlohmann::json;
  SnapshotRecord record;
  StoredSnapshot& one = record.snapshot;
  const auto words = metadata.find(std::string(snapshot_key));
  if (words == metadata.end()) {
    record.fault = "is no snapshot";
    return record;
  }
  const Json root = Json::parse(words->second, nullptr, false);
  std::map<std::string, std::string> texts;
  bool holds = root.is_object();
  if (holds) {
    for (const auto& [key, value] : root.items()) {
      if (key == "options" && value.is_object()) {
        for (const auto& [name, option] : value.items()) {
          holds = holds && option.is_string();
          if (holds) one.options.emplace(name, *option.get_ptr<const std::string*>());
        }
      } else if (key == "buffers" && value.is_array()) {
        for (const auto& name : value) {
          holds = holds && name.is_string();
          if (holds) one.buffers.push_back(*name.template get_ptr<const std::string*>());
        }
      } else if (value.is_string()) {
        texts.emplace(key, *value.get_ptr<const std::string*>());
      } else {
        holds = false;
      }
    }
  }
  const auto text_of = [&](const char* key) {
    const auto known = texts.find(key);
    holds = holds && known != texts.end();
    return known == texts.end() ? std::string() : known->second;
  };
  const auto number_of = [&](const char* key) {
    const auto number = number_in(text_of(key));
    holds = holds && number && is_finite(*number);
    return number.value_or(0);
  };
  holds = holds && text_of("format") == snapshot_format;
  one.average = text_of("average");
  one.type = text_of("type");
  one.run = text_of("run");
  one.weighting = text_of("weighting");
  const double calls = number_of("calls");
  holds = holds && calls >= 1 && calls <= 0x1p53 && calls == std::floor(calls);
  if (holds) one.calls = static_cast<std::int64_t>(calls);
  one.time = number_of("time");
  const double begun_after = number_of("begun_after");
  holds =
      holds && begun_after >= 0 && begun_after <= 0x1p52 && begun_after == std::floor(begun_after);
  if (holds) one.begun_after = static_cast<std::int64_t>(begun_after);
  one.rms_error = number_of("rms_error");
  one.largest_error = number_of("largest_error");
  const std::string dtype = text_of("dtype");
  bool known = false;
  for (int k = static_cast<int>(DType::float16); k <= static_cast<int>(DType::float64); ++k) {
    if (name_of(static_cast<DType>(k)) != dtype) continue;
    one.dtype = static_cast<DType>(k);
    known = true;
  }
  if (!holds || !known || !(one.time > 0)) {
    record.fault = "is a snapshot whose record is damaged, or of a later version";
  }
  return record;
}

/// Rounding errors, gathered number by number.
struct StorageError {
  double square = 0, error_square = 0, largest = 0, largest_error = 0;
  void add(double value, double stored) {
    const double error = std::fabs(value - stored);
    square += value * value;
    error_square += error * error;
    largest = std::max(largest, std::fabs(value));
    largest_error = std::max(largest_error, error);
  }
  [[nodiscard]] double rms() const { return square > 0 ? std::sqrt(error_square / square) : 0; }
  [[nodiscard]] double worst() const { return largest > 0 ? largest_error / largest : 0; }
};

}  // namespace detail

/// A folder of snapshots. Opened for writing by one object at a time, for reading by any number.
///
/// Every change is atomic: a kill or a loss of power at any moment leaves all snapshots whole but
/// for the one that was being appended. Opening for writing removes what such an end has left half
/// written, and says so in recovered(). What else does not belong there stays, and is told by
/// problems().
class SnapshotStore {
 public:
  /// Opens a folder for writing and creates it where it does not exist.
  ///
  /// Throws std::invalid_argument for a dtype that is not floating-point, for `most` = 1 and for a
  /// run that is not UTF-8; io_error where the system refuses or another object, of this process or
  /// another, has the folder open for writing.
  explicit SnapshotStore(std::filesystem::path folder, SnapshotStoreOptions options = {})
      : folder_(std::move(folder)), options_(std::move(options)), writable_(true) {
    validate(options_);
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) detail::refuse_io(folder_, {}, {}, "is no folder: " + error.message());
    lock();
    scan();
    if (options_.most > 0) thin(options_.most);
  }

  /// Opens a folder that exists for reading. What it holds is read once: here.
  [[nodiscard]] static SnapshotStore read_only(std::filesystem::path folder) {
    return SnapshotStore(std::move(folder), ForReading{});
  }

  SnapshotStore(SnapshotStore&&) noexcept = default;
  SnapshotStore& operator=(SnapshotStore&&) noexcept = default;

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  /// By time, those of one time by the name of their average.
  [[nodiscard]] const std::vector<StoredSnapshot>& snapshots() const { return snapshots_; }
  /// Files that an end in the middle had left half written, removed when the store was opened.
  [[nodiscard]] const std::vector<std::filesystem::path>& recovered() const { return recovered_; }
  /// Files that are no snapshots, each with the reason.
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

  /// Adds an average as it is now. `name` tells the averages of a run apart: letters, digits, '.',
  /// '-' and '_', not with '.' first. Any Average whose gains are functions of the call will do,
  /// and PowerEma; of an EmaBank, one of its averages. reconstruct() knows every weighting of the
  /// library but RepeatedWeighting. Buffers
  /// go along as the average has them. (Of one on a device, a copy on the host:
  /// cuda::copy_state().)
  ///
  /// Profiles of different averages are matched call by call, so all must be updated at the same
  /// steps; one that began later says after how many: `begun_after`, >= 0.
  ///
  /// Returns the snapshot, with what rounding cost. Throws std::logic_error before the first
  /// update, while the average is swapped in, and for a store that is open for reading;
  /// std::invalid_argument for a name that cannot be one, calls that are stored already, other
  /// tensors or another run than the snapshots there, and for a finite number that the stored type
  /// cannot hold; io_error where the system refuses. The store is then what it was.
  template <class A>
  requires(!detail::on_device<typename A::Parameter>) StoredSnapshot
      append(const std::string& name, const A& average, std::int64_t begun_after = 0) {
    using W = std::remove_cvref_t<decltype(average.weighting())>;
    static_assert(Weighting<W> && (std::same_as<W, PowerClock> ||
                                   !requires(W & w) { w.advance(std::int64_t{1}); }),
                  "polyak: snapshots are of averages whose gains are functions of the call, and of "
                  "PowerEma: no profile of another one can be told from its calls");
    require(begun_after >= 0, "a snapshot's begun_after must be >= 0", begun_after);
    if (!writable_) detail::refuse_order("polyak: append() to a SnapshotStore opened for reading");
    require(is_name(name), "a snapshot's name must consist of letters, digits, '.', '-', '_'",
            std::string_view(name));
    const auto view = average.view();  // refuses what must not be handed out
    StoredSnapshot one;
    one.average = name;
    one.type = A::type_name;
    one.calls = average.calls();
    one.begun_after = begun_after;
    one.time = time_of(average);
    one.run = options_.run;
    using S = typename A::State;
    const bool wide = average.accumulate() == Accumulate::float64;
    one.dtype = options_.dtype.value_or(wide ? DType::float32 : detail::dtype_of<S>());
    describe(average.weighting(), one);
    const std::string digits = detail::text(one.calls);
    one.file =
        folder_ / (name + "-" + std::string(12 - std::min<std::size_t>(12, digits.size()), '0') +
                   digits + std::string(detail::snapshot_suffix));
    for (const StoredSnapshot& other : snapshots_) {
      require(other.average != name || other.calls != one.calls,
              "the snapshots of \"" + name + "\" must be of different calls", one.calls);
      require(other.run == one.run,
              "a store's snapshots must be of one run, \"" + other.run + "\"; this is of",
              std::string_view(one.run));
    }
    std::vector<detail::WeightSource> sources;
    std::vector<SafetensorsSpec> specs;
    detail::StorageError error;
    const Layout& layout = *average.slots().layout();
    const std::byte* buffer = average.buffers();
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      const TensorInfo& info = layout.tensors[k];
      if (average.slots().keeps(k)) {
        sources.push_back(detail::average_source(info, one.dtype, view[k], wide));
        if (wide || one.dtype != detail::dtype_of<S>()) measure(info, one.dtype, view[k], error);
      } else if (info.role == Role::copy) {
        sources.push_back(detail::raw_source(info, info.dtype, buffer));
        buffer += info.size * detail::bytes_of(info.dtype);
        one.buffers.push_back(info.name);
      } else {
        continue;
      }
      specs.push_back(sources.back().spec);
    }
    check_tensors(specs, one.buffers);
    one.rms_error = error.rms();
    one.largest_error = error.worst();
    detail::write_weights(one.file, sources,
                          {.metadata = {{std::string(detail::snapshot_key), json_of(one)}},
                           .durable = options_.durable});
    if (snapshots_.empty()) specs_ = std::move(specs);
    snapshots_.push_back(one);
    sort();
    if (options_.most > 0) thin(options_.most, name);
    return one;
  }

  /// Removes snapshots until each average has at most `most` (>= 2). The first and the last stay;
  /// the next to go is always the one whose neighbours are closest, relative to the later of them:
  /// what is left is spaced by about equal ratios, as power averages need. Throws as append().
  void thin(std::size_t most) {
    std::vector<std::string> names;
    for (const StoredSnapshot& snapshot : snapshots_) names.push_back(snapshot.average);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    for (const std::string& name : names) thin(most, name);
  }

  /// Removes the snapshot of an average at a number of calls. Throws std::invalid_argument where
  /// there is none, and as append().
  void remove(const std::string& average, std::int64_t calls) {
    if (!writable_)
      detail::refuse_order("polyak: remove() from a SnapshotStore opened for reading");
    const auto place =
        std::find_if(snapshots_.begin(), snapshots_.end(), [&](const StoredSnapshot& snapshot) {
          return snapshot.average == average && snapshot.calls == calls;
        });
    require(place != snapshots_.end(), "there is no snapshot of \"" + average + "\" at call",
            calls);
    if (::unlink(place->file.c_str()) != 0) detail::refuse_errno(place->file, "removing", errno);
    snapshots_.erase(place);
  }

 private:
  struct ForReading {};
  SnapshotStore(std::filesystem::path folder, ForReading) : folder_(std::move(folder)) { scan(); }

  [[nodiscard]] static bool is_name(const std::string& name) {
    return !name.empty() && name[0] != '.' && name.size() <= 200 &&
           std::all_of(name.begin(), name.end(), [](char c) {
             return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '-' || c == '_';
           });
  }

  template <class A>
  [[nodiscard]] static double time_of(const A& average) {
    if constexpr (requires { average.updated_time(); }) {
      return average.updated_time();
    } else {
      return static_cast<double>(average.calls());
    }
  }
  template <class W>
  static void describe(const W& weighting, StoredSnapshot& one) {
    if constexpr (requires { W::type_name; }) one.weighting = W::type_name;
    for (auto& [name, value] : detail::option_texts(weighting)) one.options[name] = value;
  }

  /// What storing the elements costs; refuses what the type cannot hold.
  template <class View>
  static void measure(const TensorInfo& info, DType dtype, const View& view,
                      detail::StorageError& error) {
    detail::with_floating(dtype, [&]<class To>(To*) {
      for (std::size_t k = 0; k < info.size; ++k) {
        const auto element = view(k);
        const auto value = detail::widened<double>(&element, 0);
        std::byte stored[sizeof(double)];
        detail::narrow_into(reinterpret_cast<To*>(stored), 0, value);
        const auto back = static_cast<double>(detail::element_at<To>(stored, 0));
        if (!detail::is_finite(back) && detail::is_finite(value)) {
          require(false,
                  "tensor \"" + info.name + "\" must fit into " +
                      std::string(detail::name_of(dtype)) + " to be stored; an element",
                  value);
        }
        if (detail::is_finite(value)) error.add(value, back);
      }
    });
  }

  [[nodiscard]] static std::string json_of(const StoredSnapshot& one) {
    nlohmann::ordered_json root = {{"format", detail::snapshot_format},
                                   {"average", one.average},
                                   {"type", one.type},
                                   {"calls", detail::text(one.calls)},
                                   {"begun_after", detail::text(one.begun_after)},
                                   {"time", detail::text(one.time)},
                                   {"run", one.run},
                                   {"dtype", detail::name_of(one.dtype)},
                                   {"rms_error", detail::text(one.rms_error)},
                                   {"largest_error", detail::text(one.largest_error)},
                                   {"buffers", one.buffers},
                                   {"weighting", one.weighting},
                                   {"options", nlohmann::ordered_json::object()}};
    for (const auto& [name, value] : one.options) root["options"][name] = value;
    return root.dump();
  }

  [[nodiscard]] static bool holds(const std::vector<std::string>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  /// Names, shapes and roles must be those of the snapshots there, and the types of buffers.
  void check_tensors(const std::vector<SafetensorsSpec>& specs,
                     const std::vector<std::string>& buffers) const {
    if (snapshots_.empty()) return;
    std::map<std::string, const SafetensorsSpec*> known;
    for (const SafetensorsSpec& spec : specs_) known[spec.name] = &spec;
    std::string list;
    const auto add = [&](const std::string& line) { list += (list.empty() ? "" : "; ") + line; };
    for (const SafetensorsSpec& spec : specs) {
      const auto place = known.find(spec.name);
      if (place == known.end()) {
        add("\"" + spec.name + "\" is new");
        continue;
      }
      const bool copied = holds(buffers, spec.name);
      if (place->second->shape != spec.shape) add("\"" + spec.name + "\" has another shape");
      if (copied != holds(snapshots_.front().buffers, spec.name)) {
        add("\"" + spec.name + "\" is " + (copied ? "copied here" : "averaged here"));
      } else if (copied && place->second->dtype != spec.dtype) {
        add("\"" + spec.name + "\" has another type");
      }
      known.erase(place);
    }
    for (const auto& [name, spec] : known) add("\"" + name + "\" is missing");
    if (!list.empty()) {
      detail::refuse_value("polyak: the tensors of the average and of the snapshots in " +
                           folder_.string() + " differ: " + list);
    }
  }

  void thin(std::size_t most, const std::string& name) {
    require(most >= 2, "a store must keep at least 2 snapshots of each average, most", most);
    for (;;) {
      std::vector<const StoredSnapshot*> own;
      for (const StoredSnapshot& snapshot : snapshots_) {
        if (snapshot.average == name) own.push_back(&snapshot);
      }
      if (own.size() <= most) return;
      std::size_t dispensable = 1;
      double closest = 2;
      for (std::size_t k = 1; k + 1 < own.size(); ++k) {
        const double distance = (own[k + 1]->time - own[k - 1]->time) / own[k + 1]->time;
        if (distance < closest) {
          closest = distance;
          dispensable = k;
        }
      }
      remove(name, own[dispensable]->calls);
    }
  }

  void lock() {
    const auto path = folder_ / ".lock";
    detail::FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (!file) detail::refuse_errno(path, "opening the lock", errno);
    if (::flock(file.number(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) detail::refuse_errno(path, "locking", errno);
      char holder[32] = {};
      const auto size = ::pread(file.number(), holder, sizeof holder - 1, 0);
      detail::refuse_io(folder_, {}, {},
                        "is open for writing already, by process " +
                            (size > 0 ? std::string(holder) : std::string("unknown")));
    }
    const std::string process = detail::text(static_cast<std::int64_t>(::getpid()));
    if (::ftruncate(file.number(), 0) != 0 ||
        ::pwrite(file.number(), process.data(), process.size(), 0) < 0) {
      detail::refuse_errno(path, "writing the lock", errno);
    }
    lock_ = std::move(file);
  }

  /// Reads what is in the folder.
  void scan() {
    std::error_code error;
    std::filesystem::directory_iterator entries(folder_, error);
    if (error) detail::refuse_io(folder_, {}, {}, "cannot be read: " + error.message());
    std::vector<std::filesystem::path> files;
    for (; entries != std::filesystem::directory_iterator(); entries.increment(error)) {
      if (error) detail::refuse_io(folder_, {}, {}, "cannot be read: " + error.message());
      files.push_back(entries->path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      const std::string name = file.filename().string();
      if (name == ".lock") continue;
      if (name.starts_with('.') && name.ends_with(std::string(detail::snapshot_suffix) + ".tmp")) {
        if (!writable_) continue;
        if (::unlink(file.c_str()) == 0) {
          recovered_.push_back(file);
        } else {
          problems_.push_back(file.string() + " is half written, and cannot be removed: " +
                              std::generic_category().message(errno));
        }
      } else if (name.ends_with(detail::snapshot_suffix)) {
        read(file);
      } else {
        problems_.push_back(file.string() + " is no snapshot");
      }
    }
    sort();
  }

  /// Takes a file for a snapshot, or for a problem. (Without exceptions a damaged one ends the
  /// program.)
  void read(const std::filesystem::path& file) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    try {
      take(file);
    } catch (const io_error& error) {
      problems_.emplace_back(error.what());
    }
#else
    take(file);
#endif
  }
  void take(const std::filesystem::path& file) {
    const SafetensorsFile content(file);
    auto [one, fault] = detail::read_snapshot_record(content.metadata());
    std::vector<SafetensorsSpec> specs;
    for (const SafetensorsTensor& tensor : content.tensors()) {
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    if (fault.empty() && !can_be_averaged(specs, one.buffers)) {
      fault = "is a snapshot whose record does not fit its tensors";
    }
    if (fault.empty() && !snapshots_.empty() && !same_tensors(specs, one.buffers)) {
      fault = "is a snapshot of other tensors than " + snapshots_.front().file.filename().string();
    }
    for (const StoredSnapshot& other : snapshots_) {
      if (fault.empty() && other.average == one.average && other.calls == one.calls) {
        fault = "is the same snapshot as " + other.file.filename().string();
      }
    }
    if (!fault.empty()) {
      problems_.push_back(file.string() + " " + fault);
      return;
    }
    one.file = file;
    if (snapshots_.empty()) specs_ = std::move(specs);
    snapshots_.push_back(std::move(one));
  }
  /// Buffers are tensors of the file, all others floating-point.
  [[nodiscard]] static bool can_be_averaged(const std::vector<SafetensorsSpec>& specs,
                                            const std::vector<std::string>& buffers) {
    std::size_t copied = 0;
    for (const SafetensorsSpec& spec : specs) {
      const auto type = parameter_type(spec.dtype);
      if (holds(buffers, spec.name)) {
        ++copied;
      } else if (!type || !detail::is_floating(*type)) {
        return false;
      }
    }
    return copied == buffers.size();
  }
  [[nodiscard]] bool same_tensors(const std::vector<SafetensorsSpec>& specs,
                                  const std::vector<std::string>& buffers) const {
    std::map<std::string_view, const SafetensorsSpec*> known;
    for (const SafetensorsSpec& spec : specs_) known[spec.name] = &spec;
    return specs.size() == known.size() &&
           std::all_of(specs.begin(), specs.end(), [&](const SafetensorsSpec& spec) {
             const auto place = known.find(spec.name);
             const bool copied = holds(buffers, spec.name);
             return place != known.end() && place->second->shape == spec.shape &&
                    copied == holds(snapshots_.front().buffers, spec.name) &&
                    (!copied || place->second->dtype == spec.dtype);
           });
  }

  void sort() {
    std::sort(snapshots_.begin(), snapshots_.end(),
              [](const StoredSnapshot& a, const StoredSnapshot& b) {
                return a.time != b.time         ? a.time < b.time
                       : a.average != b.average ? a.average < b.average
                                                : a.calls < b.calls;
              });
  }

  std::filesystem::path folder_;
  SnapshotStoreOptions options_;
  bool writable_ = false;
  detail::FileDescriptor lock_;
  std::vector<StoredSnapshot> snapshots_;
  std::vector<SafetensorsSpec> specs_;  ///< names and shapes of all of them
  std::vector<std::filesystem::path> recovered_;
  std::vector<std::string> problems_;
};

}  // namespace v0
}  // namespace polyak
