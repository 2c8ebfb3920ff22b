// SPDX-License-Identifier: Apache-2.0
/// @file
/// Saves a training run in one file and goes on from it, bit for bit.
///
///   polyak::save("run.safetensors", params, optimizer, ema);
///   polyak::load("run.safetensors", params, optimizer, ema);      // in a new process
///
/// The file is safetensors: the weights under their own names, in row-major order, so that any
/// reader finds a model; the slots as "polyak/<method>/<slot>/<tensor>"; counters, options and
/// everything else in the metadata. It is replaced atomically and durably.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/io/state_record.hpp>

namespace polyak {
inline namespace v0 {

struct SaveOptions {
  /// Text of your own, read back by load(): the epoch, the place in the data.
  std::map<std::string, std::string> metadata = {};
  bool digests = true;  ///< of every tensor and the header, by which loading detects damage
  bool durable = true;  ///< returns when the disk has it; false: when the system has it
};

struct LoadOptions {
  /// Goes on with the options of this program where those of the file differ; what they begin with
  /// (the learning rate) is then this program's too. So are selections, groups and their factors:
  /// the state of tensors that have none here is left in the file, and a file without the state of
  /// tensors that have some here is refused.
  bool override_options = false;
  bool verify = true;  ///< the digests, where the file has them
};

/// The findings of load() besides the state.
struct LoadReport {
  std::map<std::string, std::string> metadata;  ///< SaveOptions.metadata
  std::vector<std::string> overridden;          ///< the options that differed
  bool verified = false;                        ///< whether there were digests, and they fit
};

namespace detail {

template <class T>
inline constexpr bool is_parameters = false;
template <class P>
inline constexpr bool is_parameters<Parameters<P>> = true;
template <class P>
inline constexpr bool is_parameters<const Parameters<P>> = true;

/// A part that load() can write to: a list of parameters owns no memory.
template <class Part>
concept Loadable = is_parameters<Part> || !std::is_const_v<Part>;

template <ParameterScalar P>
void record_part(StateRecord& all, const Parameters<P>& params) {
  record_parameters(all, ParameterAccess<P>::list(params));
}
template <class M>
void record_part(StateRecord& all, const M& method) {
  record_method(all, method);
}

/// Refuses an object that is given twice.
void require_distinct(std::span<const void* const> addresses);

/// The arguments of save and load after their options: parameters, then their methods; then, for a
/// model of several types, the next parameters and their methods.
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

/// Where loading writes: to the weights, and to the state of methods.
template <Loadable Part>
void add_places(StatePlaces& all, Part& part) {
  if constexpr (is_parameters<Part>) {
    for (std::size_t k = 0; k < part.size(); ++k) {
      all.tensors.push_back(static_cast<std::byte*>(part[k].raw()));
    }
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

template <class M>
[[nodiscard]] bool has_started(const M& method) {
  if constexpr (is_parameters<M>) {
    return false;
  } else if constexpr (requires { method.calls(); }) {
    return method.calls() > 0 || method.skipped() > 0;
  } else {
    return method.count() > 0 || method.skipped() > 0;
  }
}

void save_record(const std::filesystem::path& path, const StateRecord& all,
                 const SaveOptions& options);

/// `places` are those of the methods and parameters in `run`.
[[nodiscard]] LoadReport load_record(const std::filesystem::path& path, const StateRecord& run,
                                     const StatePlaces& places, const LoadOptions& options);

}  // namespace detail

/// Saves parameters and methods in the file `path`: weights and buffers, slots, counters, options,
/// the keys of generators. Several lists of parameters, each followed by its methods, make one file
/// too. The old file stays whole until the new one is; a failure leaves it as it was.
///
/// Throws std::logic_error while an average is swapped in, std::invalid_argument for methods of
/// other parameters and for names that are used twice or begin with "polyak/", io_error where the
/// system refuses.
template <class... Parts>
void save(const std::filesystem::path& path, const SaveOptions& options, const Parts&... parts) {
  detail::save_record(path, detail::record_parts(parts...), options);
}
template <class First, class... Rest>
requires(detail::is_parameters<First>) void save(const std::filesystem::path& path,
                                                 const First& params, const Rest&... methods) {
  save(path, SaveOptions{}, params, methods...);
}

/// Reads what save() wrote into parameters and methods that were made as those were, and have not
/// been used yet. The run goes on as if it had not been interrupted, to the last bit.
///
/// Nothing has changed when it throws: std::invalid_argument that lists every difference of names,
/// shapes, types, roles, methods and options; io_error for a file that is damaged, truncated or no
/// state of polyak; std::logic_error after the first step or update, and while an average is
/// swapped in.
template <detail::Loadable... Parts>
LoadReport load(const std::filesystem::path& path, const LoadOptions& options, Parts&... parts) {
  if ((detail::has_started(parts) || ...)) {
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

}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/save.ipp>
#endif
