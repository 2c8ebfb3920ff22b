// SPDX-License-Identifier: Apache-2.0
/// @file
/// Saves a training run in one file and resumes it, bit for bit.
///
///   polyak::save("run.safetensors", params, optimizer, ema);
///   polyak::load("run.safetensors", params, optimizer, ema);      // in a new process
///   polyak::load("run.safetensors", {.only = polyak::Parts::averages}, params, ema);
///
/// A container of methods, such as a std::vector<AnyMethod<float>>, stands for its methods.
///
/// The file has the format safetensors. It holds the weights under their own names, in row-major
/// order, so that other readers find a model; the slots as "polyak/<method>/<slot>/<tensor>"; and
/// counters, options and everything else in the metadata. It is replaced atomically and durably.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/io/state_match.hpp>
#include <polyak/io/state_record.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SaveOptions {
  /// Text of your own, such as the epoch or the position in the data. load() returns it.
  std::map<std::string, std::string> metadata = {};
  /// Writes a tied weight under each of its names, for programs that do not know ties. By default
  /// it is written once, under the name of its first registration; the record has the others.
  bool every_name = false;
  bool digests = true;  ///< stores digests of every tensor and the header, to detect damage
  bool durable = true;  ///< returns when the data are on the disk; false: when the system has them
};

struct LoadOptions {
  /// If options of the file and of this program differ, uses those of this program, and the numbers
  /// that they initialise, such as the learning rate. This includes selections, groups and their
  /// factors: state of tensors that have none in this program is not read, and a file that lacks
  /// state which this program has is rejected.
  bool override_options = false;
  /// The parts that are loaded. All others stay as they are, and the file need not have them.
  Parts only = Parts::all;
  /// The tensors that are loaded, with their state; they are found by name. All others stay as they
  /// are, and the file need not have them.
  Selection tensors = {};
  bool verify = true;  ///< checks the digests of what is loaded, if the file has them
};

/// What load() returns.
struct LoadReport {
  std::map<std::string, std::string> metadata;  ///< SaveOptions.metadata
  std::vector<std::string> overridden;          ///< the options that differed
  bool verified = false;                        ///< whether the digests were checked
};

namespace detail {

/// A container or view of methods.
template <class Part>
concept ListOfMethods = requires(Part& part) {
  part.begin()->skipped();
  part.end();
};

/// A part that load() can write to: a list of parameters owns no memory.
template <class Part>
concept Loadable = is_parameters<Part> || !std::is_const_v<Part>;

template <ParameterScalar P>
void record_part(StateRecord& all, const Parameters<P>& params) {
  record_parameters(all, ParameterAccess<P>::list(params));
}
template <class M>
void record_part(StateRecord& all, const M& method) {
  if constexpr (ListOfMethods<M>) {
    for (const auto& one : method) record_method(all, one);
  } else {
    record_method(all, method);
  }
}

/// Refuses an object that is given twice.
POLYAK_ON_USE void require_distinct(std::span<const void* const> addresses);

/// Records the arguments of save() and load() that follow the options: parameters, then their
/// methods; for a model of several types, the next parameters and their methods follow.
template <class First, class... Rest>
[[nodiscard]] StateRecord record_parts(const First& first, const Rest&... rest) {
  static_assert(is_parameters<First>,
                "polyak: save and load need the parameters before the methods that belong to them");
  require_distinct(std::array<const void*, sizeof...(Rest)>{static_cast<const void*>(&rest)...});
  StateRecord all;
  record_part(all, first);
  (record_part(all, rest), ...);
  return all;
}

/// Adds the memory that loading writes: weights, or the state of a method.
template <Loadable Part>
void add_places(StatePlaces& all, Part& part) {
  if constexpr (is_parameters<Part>) {
    for (std::size_t k = 0; k < part.size(); ++k) {
      all.tensors.push_back(static_cast<std::byte*>(part[k].raw()));
    }
  } else if constexpr (ListOfMethods<Part>) {
    for (auto& one : part) add_places(all, one);
  } else {
    StatePlaceLister lister(all);
    visit_state(part, lister);
  }
}
template <Loadable... Parts>
[[nodiscard]] StatePlaces places_of(Parts&... parts) {
  StatePlaces all;
  (add_places(all, parts), ...);
  return all;
}

/// Whether an object is a method of these parts that has been used.
template <class M>
[[nodiscard]] bool has_started(const M& method, Parts parts) {
  if constexpr (is_parameters<M>) {
    return false;
  } else if constexpr (ListOfMethods<const M>) {
    bool started = false;
    for (const auto& one : method) started = started || has_started(one, parts);
    return started;
  } else if constexpr (requires { method.entry(); }) {  // an AnyMethod
    return includes(parts, part_of(method.entry().trains)) && method.started();
  } else {
    if (!includes(parts, part_of(M::trains))) return false;
    if constexpr (requires { method.calls(); }) {
      return method.calls() > 0 || method.skipped() > 0;
    } else {
      return method.count() > 0 || method.skipped() > 0;
    }
  }
}

POLYAK_ON_USE void save_record(const std::filesystem::path& path, const StateRecord& all,
                               const SaveOptions& options);

/// `run` is the record of the parameters and methods that are loaded into, `places` their memory.
POLYAK_ON_USE [[nodiscard]] LoadReport load_record(const std::filesystem::path& path,
                                                   const StateRecord& run,
                                                   const StatePlaces& places,
                                                   const LoadOptions& options);

}  // namespace detail

/// Saves parameters and methods in the file `path`: weights and buffers, slots, counters, options
/// and seeds. Several lists of parameters, each followed by its methods, can share one file. An
/// existing file is replaced only when the new one is complete; a failure leaves it unchanged.
///
/// Throws std::logic_error while an average is swapped in, std::invalid_argument for methods of
/// other parameters, for names that are used twice or begin with "polyak/", and for a number of a
/// method out of its range (core/state.hpp), io_error for an error of the file system.
template <class... Parts>
void save(const std::filesystem::path& path, const SaveOptions& options, const Parts&... parts) {
  detail::save_record(path, detail::record_parts(parts...), options);
}
template <class First, class... Rest>
requires(detail::is_parameters<First>) void save(const std::filesystem::path& path,
                                                 const First& params, const Rest&... methods) {
  save(path, SaveOptions{}, params, methods...);
}

/// Loads the file of save() into parameters and methods that were constructed in the same way and
/// have not been used yet. The run then continues as if it had not been interrupted, bit for bit.
///
/// With LoadOptions.only or LoadOptions.tensors, only some parts or tensors are loaded, and only
/// they are compared. The file may have more lists, tensors and methods, in any order: a method is
/// found by its type, and among several of them by its options. Methods that are loaded take over
/// their clocks; those that are not may have been used.
///
/// A tied tensor here is found by any of its names. Where the file has several of them, all must
/// have the same bytes, the state of methods included.
///
/// Throws std::invalid_argument, with a list of all differences in names, shapes, types, roles,
/// methods and options, and for tied tensors that differ in the file; io_error for a file that is
/// damaged, truncated, not a state of polyak, or that has a number out of its range
/// (core/state.hpp); std::logic_error after the first step or update, and while an average is
/// swapped in. If it throws, nothing has changed. There is one exception, and its message says so:
/// the file is read first to check it and then into place, and between the two a disk may fail, or
/// another program may cut the file.
template <detail::Loadable... Parts>
LoadReport load(const std::filesystem::path& path, const LoadOptions& options, Parts&... parts) {
  if ((detail::has_started(parts, options.only) || ...)) {
    detail::refuse_order(
        "polyak: load() into a method that has been used already; load before the first step");
  }
  const detail::StateRecord run = detail::record_parts(parts...);
  return detail::load_record(path, run, detail::places_of(parts...), options);
}
template <class First, detail::Loadable... Rest>
requires(detail::is_parameters<First>) LoadReport
    load(const std::filesystem::path& path, First& params, Rest&... methods) {
  return load(path, LoadOptions{}, params, methods...);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/save.ipp>
#endif
