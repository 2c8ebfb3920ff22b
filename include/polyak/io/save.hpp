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

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
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

/// What load() found besides the state.
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

template <class Part>
void record_part(StateRecord& all, Part& part) {
  if constexpr (is_parameters<Part>) {
    record(all, part);
  } else {
    record_method(all, part);
  }
}

/// What save and load take after their options: parameters, then their methods; then, for a model
/// of several types, the next parameters and their methods.
template <class First, class... Rest>
[[nodiscard]] StateRecord record_parts(const First& first, const Rest&... rest) {
  static_assert(is_parameters<First>,
                "polyak: save and load need the parameters before the methods that belong to them");
  const std::array<const void*, sizeof...(Rest)> addresses{static_cast<const void*>(&rest)...};
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (addresses[i] == addresses[j]) refuse_value("polyak: the same object is given twice");
    }
  }
  StateRecord all;
  record_part(all, first);
  // The visitor of a method lists its state, whoever changes it afterwards.
  (record_part(all, const_cast<Rest&>(rest)), ...);
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

/// Writes a tensor to the file. What is in a space comes to the host part by part, unless it has to
/// be turned.
inline void append_tensor(SafetensorsWriter& writer, const RecordedTensor& one) {
  if (one.space == nullptr) {
    append_row_major(writer, one.data, one.spec.shape, one.element_bytes, one.order);
    return;
  }
  const bool turned = one.order == Order::column_major;
  const std::size_t part = turned ? one.bytes : std::min(one.bytes, std::size_t{1} << 26);
  std::vector<std::byte> host(part);
  if (turned) {
    read_bytes(one.space, host.data(), one.data, one.bytes);
    append_row_major(writer, host.data(), one.spec.shape, one.element_bytes, one.order);
    return;
  }
  for (std::size_t done = 0; done < one.bytes; done += part) {
    const std::size_t bytes = std::min(part, one.bytes - done);
    read_bytes(one.space, host.data(), one.data + done, bytes);
    writer.append(std::span<const std::byte>(host.data(), bytes));
  }
}

/// Takes a tensor from the file into memory.
inline void take_tensor(const RecordedTensor& one, std::span<const std::byte> rows) {
  if (one.space == nullptr) {
    take_row_major(one.data, one.spec.shape, one.element_bytes, one.order, rows);
  } else if (one.order == Order::row_major) {
    write_bytes(one.space, one.data, rows.data(), rows.size());
  } else {
    std::vector<std::byte> host(one.bytes);
    take_row_major(host.data(), one.spec.shape, one.element_bytes, one.order, rows);
    write_bytes(one.space, one.data, host.data(), one.bytes);
  }
}

inline void save_record(const std::filesystem::path& path, const StateRecord& all,
                        const SaveOptions& options) {
  std::map<std::string, std::string> metadata = options.metadata;
  require(!metadata.contains(std::string(state_key)),
          "SaveOptions.metadata must not have the key of the state's record", state_key);
  metadata[std::string(state_key)] = json_of(all);
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, const RecordedTensor*> tensors;
  for (const RecordedTensor& tensor : all.tensors) {
    specs.push_back(tensor.spec);
    tensors[tensor.spec.name] = &tensor;
  }
  SafetensorsWriter writer(path, std::move(specs), std::move(metadata),
                           {.digests = options.digests, .durable = options.durable});
  for (const SafetensorsTensor& tensor : writer.tensors()) {
    const RecordedTensor& one = *tensors.at(tensor.name);
    append_tensor(writer, one);
  }
  writer.finish();
}

/// Refuses every difference between a run and a file at once, but for the options where they are
/// overridden, and returns what it found.
[[nodiscard]] inline StateDifferences check_record(const std::filesystem::path& path,
                                                   const FiledRecord& file, const StateRecord& run,
                                                   const LoadOptions& options) {
  StateDifferences found = compare(file, run);
  std::vector<std::string> refused = found.others;
  if (!options.override_options) {
    refused.insert(refused.end(), found.options.begin(), found.options.end());
  }
  if (refused.empty()) return found;
  std::string list;
  for (const std::string& line : refused) list += (list.empty() ? "" : "; ") + line;
  if (found.others.empty()) list += "; LoadOptions.override_options goes on with the options here";
  refuse_value("polyak: the state in " + path.string() + " is of another run: " + list);
}

/// Refuses state that this run has and the file lacks, where options may differ: of tensors that
/// were frozen, or not selected, when it was saved.
inline void require_state(const SafetensorsFile& file, const StateRecord& run) {
  std::string list;
  for (const RecordedTensor& tensor : run.tensors) {
    if (file.find(tensor.spec.name) != nullptr) continue;
    list += (list.empty() ? "\"" : ", \"") + tensor.spec.name + "\"";
  }
  if (list.empty()) return;
  refuse_value("polyak: the state in " + file.path().string() + " lacks " + list +
               ", which this run keeps");
}

/// The tensors of the file, in the order of the record's.
[[nodiscard]] inline std::vector<std::span<const std::byte>> find_tensors(
    const SafetensorsFile& file, const StateRecord& run) {
  std::vector<std::span<const std::byte>> found;
  for (const RecordedTensor& tensor : run.tensors) {
    const SafetensorsTensor& in_file = file.at(tensor.spec.name);
    if (in_file.dtype != tensor.spec.dtype || in_file.shape != tensor.spec.shape) {
      refuse_io(file.path(), tensor.spec.name, {}, "is not what the record of the state says");
    }
    found.push_back(file.bytes(in_file));
  }
  return found;
}

/// The numbers of the file, checked, method after method.
[[nodiscard]] inline std::vector<std::array<std::byte, 8>> parse_scalars(
    const std::filesystem::path& path, const FiledRecord& file, const StateRecord& run) {
  std::vector<std::array<std::byte, 8>> parsed;
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const std::string& words = file.methods[k].scalars.at(scalar.name);
      parsed.emplace_back();
      if (!scalar.parse(words, parsed.back().data())) {
        refuse_io(path, {}, {},
                  label(k, run.methods[k]) + ": \"" + scalar.name + "\" is " + text(words) +
                      ", which is no such number");
      }
    }
  }
  return parsed;
}

[[nodiscard]] inline LoadReport load_record(const std::filesystem::path& path,
                                            const StateRecord& run, const LoadOptions& options) {
  const SafetensorsFile file(path);
  const auto words = file.metadata().find(std::string(state_key));
  if (words == file.metadata().end()) {
    refuse_io(path, {}, {}, "holds no state of a run; load_weights() reads weights alone");
  }
  const FiledRecord record = RecordReader(path).read(words->second);
  const StateDifferences found = check_record(path, record, run, options);
  if (!found.options.empty()) require_state(file, run);
  const auto tensors = find_tensors(file, run);
  const auto scalars = parse_scalars(path, record, run);
  LoadReport report;
  for (const auto& [key, value] : file.metadata()) {
    if (key != state_key && !key.starts_with(digest_key)) report.metadata.emplace(key, value);
  }
  report.overridden = found.options;
  report.verified = options.verify && file.has_digests();
  if (report.verified) file.verify();
  // From here on nothing fails, unless a device does.
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    const RecordedTensor& one = run.tensors[k];
    take_tensor(one, tensors[k]);
  }
  auto parsed = scalars.begin();
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    const auto& kept = found.differing[k];
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const std::array<std::byte, 8>& value = *parsed++;
      if (std::find(kept.begin(), kept.end(), scalar.name) != kept.end()) continue;
      std::memcpy(scalar.memory, value.data(), scalar.bytes);
    }
  }
  return report;
}

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
template <class... Parts>
LoadReport load(const std::filesystem::path& path, const LoadOptions& options, Parts&... parts) {
  if ((detail::has_started(parts) || ...)) {
    detail::refuse_order(
        "polyak: load() into a method that has been used already; load before the first step");
  }
  return detail::load_record(path, detail::record_parts(parts...), options);
}
template <class First, class... Rest>
requires(detail::is_parameters<First>) LoadReport
    load(const std::filesystem::path& path, First& params, Rest&... methods) {
  return load(path, LoadOptions{}, params, methods...);
}

}  // namespace v0
}  // namespace polyak
