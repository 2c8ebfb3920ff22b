// SPDX-License-Identifier: Apache-2.0
/// @file
/// SnapshotStore: a folder of snapshots of averages, from which io/reconstruct.hpp computes other
/// averages after training.
///
/// A snapshot is one safetensors file, "NAME-CALLS.safetensors", with the averaged tensors and the
/// buffers under their own names. The metadata hold the weighting of the average and the time of
/// the snapshot.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/analysis/profile_target.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/descriptors.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/weights.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// One snapshot of a store.
struct StoredSnapshot {
  std::filesystem::path file;
  std::string average;     ///< the name that it was appended under
  std::string type;        ///< "PowerEma"
  std::int64_t calls = 0;  ///< of the average's update
  /// Calls of the store's other averages before this one began.
  std::int64_t begun_after = 0;
  double time = 0;  ///< on the clock of a PowerEma; for other averages equal to calls
  std::string run;  ///< SnapshotStoreOptions.run
  DType dtype = DType::float32;
  /// The errors of rounding to `dtype`: the root mean square relative to that of the average, and
  /// the largest error relative to the largest value.
  double rms_error = 0, largest_error = 0;
  std::vector<std::string> buffers;            ///< tensors that are copied, not averaged
  std::string weighting;                       ///< its type: "power_clock"
  std::map<std::string, std::string> options;  ///< of the weighting
};

struct SnapshotStoreOptions {
  /// Type in which averages are stored: float32, 16 bits or float64; by default their own. The
  /// rounding error is measured and stored with each snapshot: for numbers of all sizes about
  /// 2.1e-4 (float16) and 1.7e-3 (bfloat16), root mean square. The largest float16 is 65504.
  std::optional<DType> dtype = std::nullopt;
  std::string run = {};  ///< the training run; snapshots of two runs are never mixed
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

/// Accumulates rounding errors, number by number.
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

/// A folder of snapshots. One object at a time can open it for writing, any number for reading.
/// (Where the file system has no locks, nothing keeps writers apart.)
///
/// Every change is atomic: after a kill or a loss of power all snapshots are intact, except one
/// that was being appended. Opening for writing removes files that a kill left half written, and
/// lists them in recovered(); a file that another program is writing is left to it. Other foreign
/// files are kept, and problems() lists them.
///
/// A forked child does not have the store open for writing: its first change opens it again, which
/// fails with io_error as long as the parent has it open.
class SnapshotStore {
 public:
  /// Opens a folder for writing, and creates it if it does not exist.
  ///
  /// Throws std::invalid_argument for a dtype that is not floating-point, for `most` = 1 and for a
  /// run that is not UTF-8; io_error if a system call fails, or if another object, of this process
  /// or another, has the folder open for writing.
  explicit SnapshotStore(std::filesystem::path folder, SnapshotStoreOptions options = {});

  /// Opens an existing folder for reading. Its contents are read once, here.
  [[nodiscard]] static SnapshotStore read_only(std::filesystem::path folder);

  SnapshotStore(SnapshotStore&&) noexcept = default;
  SnapshotStore& operator=(SnapshotStore&&) noexcept = default;

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  /// Sorted by time, then by the name of the average.
  [[nodiscard]] const std::vector<StoredSnapshot>& snapshots() const { return snapshots_; }
  /// Half-written files that were removed when the store was opened.
  [[nodiscard]] const std::vector<std::filesystem::path>& recovered() const { return recovered_; }
  /// Files that are not snapshots, each with the reason.
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

  /// Adds an average as it is now. `name` distinguishes the averages of a run: letters, digits,
  /// '.', '-' and '_', not beginning with '.'. Supported are every Average whose gains are
  /// functions of the call, PowerEma, and each average of an EmaBank. reconstruct() knows every
  /// weighting of the library except RepeatedWeighting. The average's buffers are stored too. (For
  /// an average on a device, pass a copy on the host: cuda::copy_state().)
  ///
  /// Profiles of different averages are matched call by call, so all must be updated at the same
  /// steps. For an average that began later, `begun_after` >= 0 is the number of steps before it
  /// began.
  ///
  /// Returns the snapshot with its rounding errors. Throws std::logic_error before the first
  /// update, while the average is swapped in, and for a store that is open for reading;
  /// std::invalid_argument for an invalid name, calls that are stored already, an average whose
  /// decay has changed, other tensors or another run than the existing snapshots, and a finite
  /// number that the stored type cannot hold; io_error if a system call fails. The store is then
  /// unchanged, unless io_error::replaced() says that the snapshot is stored: what failed is its
  /// durability, or the removal of another one.
  template <class A>
  requires(!detail::on_device<typename A::Parameter>) StoredSnapshot
      append(const std::string& name, const A& average, std::int64_t begun_after = 0) {
    using W = std::remove_cvref_t<decltype(average.weighting())>;
    static_assert(Weighting<W> && (std::same_as<W, PowerClock> ||
                                   !requires(W & w) { w.advance(std::int64_t{1}); }),
                  "polyak: snapshots are of averages whose gains are functions of the call, and of "
                  "PowerEma: the profile of other averages does not follow from their calls");
    check_name(name, begun_after);
    const auto view = average.view();  // throws if the average is not readable
    if constexpr (requires { average.calls_before_change(); }) {
      require(average.calls_before_change() == 0,
              "append: an average must have one weighting since its first call; it changed after "
              "calls",
              average.calls_before_change());
    }
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
    check_new(one);
    std::vector<detail::WeightSource> sources;
    detail::StorageError error;
    const Layout& layout = *average.slots().layout();
    const std::byte* buffer = average.buffers();
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      const TensorInfo& info = layout.tensors[k];
      if (average.slots().keeps(k)) {
        sources.push_back(detail::average_source(info, one.dtype, view[k], wide));
        if (wide || one.dtype != detail::dtype_of<S>()) {
          measure(info, one.dtype, detail::reader_of(view[k]), error);
        }
      } else if (info.role == Role::copy) {
        sources.push_back(detail::raw_source(info, info.dtype, buffer));
        buffer += info.size * detail::bytes_of(info.dtype);
        one.buffers.push_back(info.name);
      }
    }
    one.rms_error = error.rms();
    one.largest_error = error.worst();
    write(one, sources);
    return one;
  }

  /// Removes snapshots until each average has at most `most` (>= 2). It keeps the first and the
  /// last, and removes next the snapshot whose neighbours are closest, relative to the later one.
  /// So the remaining snapshots have about equal ratios of times, as power averages need. Throws as
  /// append().
  void thin(std::size_t most);

  /// Removes the snapshot of an average at a number of calls. Throws std::invalid_argument if there
  /// is none, and as append().
  void remove(const std::string& average, std::int64_t calls);

 private:
  struct ForReading {};
  SnapshotStore(std::filesystem::path folder, ForReading) : folder_(std::move(folder)) { scan(); }

  [[nodiscard]] static bool is_name(const std::string& name);

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
    for (auto& option : detail::option_texts(weighting)) one.options[option.name] = option.text;
  }

  /// The checks that do not need the average.
  void check_name(const std::string& name, std::int64_t begun_after);
  /// Names the file of a snapshot, after checking that it fits the existing ones.
  void check_new(StoredSnapshot& one) const;
  /// Measures the rounding errors of stored elements; refuses elements that the type cannot hold.
  static void measure(const TensorInfo& info, DType dtype, const detail::NumberReader& read,
                      detail::StorageError& error);
  /// Adds a snapshot to the folder and the list.
  void write(const StoredSnapshot& one, const std::vector<detail::WeightSource>& sources);

  [[nodiscard]] static std::string json_of(const StoredSnapshot& one);

  [[nodiscard]] static bool holds(const std::vector<std::string>& names, std::string_view name);
  /// Requires names, shapes, roles and types of buffers to equal those of the existing snapshots.
  void check_tensors(const std::vector<SafetensorsSpec>& specs,
                     const std::vector<std::string>& buffers) const;

  void thin(std::size_t most, const std::string& name);
  /// Adds a snapshot to the list.
  void enlist(const StoredSnapshot& one, std::vector<SafetensorsSpec> specs);

  /// Keeps other writers out.
  void lock();
  /// The same again in a forked child.
  void require_lock();

  /// Reads the contents of the folder.
  void scan();

  /// Looks at a file in one of the two ways below; one that cannot be read becomes a problem,
  /// unless descriptors or memory are short. (Without exceptions it ends the program.)
  void read(const std::filesystem::path& file,
            void (SnapshotStore::*how)(const std::filesystem::path&));
  /// Adds a file to the snapshots or to the problems.
  void take(const std::filesystem::path& file);
  /// Removes a temporary file that nobody writes.
  void recover(const std::filesystem::path& file);
  /// Requires that buffers are tensors of the file and all other tensors are floating-point.
  [[nodiscard]] static bool can_be_averaged(const std::vector<SafetensorsSpec>& specs,
                                            const std::vector<std::string>& buffers);
  [[nodiscard]] bool same_tensors(const std::vector<SafetensorsSpec>& specs,
                                  const std::vector<std::string>& buffers) const;

  void sort();

  std::filesystem::path folder_;
  SnapshotStoreOptions options_;
  bool writable_ = false;
  detail::ProcessFile lock_;
  bool has_locks_ = true;
  std::vector<StoredSnapshot> snapshots_;
  std::vector<SafetensorsSpec> specs_;  ///< names and shapes in all snapshots
  std::vector<std::filesystem::path> recovered_;
  std::vector<std::string> problems_;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/snapshot_store.ipp>
#endif
