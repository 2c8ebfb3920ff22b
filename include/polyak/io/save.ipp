// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/save.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/state_record.ipp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Writes a tensor to the file. A tensor in another memory space is copied to the host part by
/// part, or as a whole if it must be transposed.
inline void append_tensor(SafetensorsWriter& writer, const RecordedTensor& one) {
  if (one.space == nullptr) {
    append_row_major([&](std::span<const std::byte> piece) { writer.append(piece); }, one.data,
                     one.spec.shape, one.element_bytes, one.order);
    return;
  }
  const bool transposed = one.order == Order::column_major;
  const std::size_t part = transposed ? one.bytes : std::min(one.bytes, std::size_t{1} << 26);
  std::vector<std::byte> host(part);
  if (transposed) {
    read_bytes(one.space, host.data(), one.data, one.bytes);
    append_row_major([&](std::span<const std::byte> piece) { writer.append(piece); }, host.data(),
                     one.spec.shape, one.element_bytes, one.order);
    return;
  }
  for (std::size_t done = 0; done < one.bytes; done += part) {
    const std::size_t bytes = std::min(part, one.bytes - done);
    read_bytes(one.space, host.data(), one.data + done, bytes);
    writer.append(std::span<const std::byte>(host.data(), bytes));
  }
}

/// Reads a tensor from the file into memory.
inline void take_tensor(const RecordedTensor& one, std::byte* place,
                        std::span<const std::byte> rows) {
  if (one.space == nullptr) {
    take_row_major(place, one.spec.shape, one.element_bytes, one.order, rows);
  } else if (one.order == Order::row_major) {
    write_bytes(one.space, place, rows.data(), rows.size());
  } else {
    std::vector<std::byte> host(one.bytes);
    take_row_major(host.data(), one.spec.shape, one.element_bytes, one.order, rows);
    write_bytes(one.space, place, host.data(), one.bytes);
  }
}

POLYAK_DEFINE void require_distinct(std::span<const void* const> addresses) {
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (addresses[i] == addresses[j]) refuse_value("polyak: the same object is given twice");
    }
  }
}

POLYAK_DEFINE void save_record(const std::filesystem::path& path, const StateRecord& all,
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

/// Refuses all differences in one error, except in options that are overridden. Returns the
/// differences.
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

/// Refuses a file that lacks state which this run has. With other options, it may lack that of
/// tensors that were frozen or not selected when it was saved.
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

/// The tensors of the file, in the order of the record.
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

/// The numbers of the file, checked, in the order of the methods; none where an older file lacks
/// one.
[[nodiscard]] inline std::vector<std::optional<std::array<std::byte, 8>>> parse_scalars(
    const std::filesystem::path& path, const FiledRecord& file, const StateRecord& run) {
  std::vector<std::optional<std::array<std::byte, 8>>> parsed;
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const auto known = file.methods[k].scalars.find(scalar.name);
      auto& one = parsed.emplace_back();
      if (known == file.methods[k].scalars.end()) continue;
      const std::string& words = known->second;
      if (!scalar.type->parse(words, one.emplace().data())) {
        refuse_io(path, {}, {},
                  label(k, run.methods[k]) + ": \"" + scalar.name + "\" is " + text(words) +
                      ", which is not such a number");
      }
    }
  }
  return parsed;
}

POLYAK_DEFINE LoadReport load_record(const std::filesystem::path& path, const StateRecord& run,
                                     const StatePlaces& places, const LoadOptions& options) {
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
  // From here on only a device can fail.
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    take_tensor(run.tensors[k], places.tensors[k], tensors[k]);
  }
  auto parsed = scalars.begin();
  auto place = places.scalars.begin();
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    const auto& kept = found.differing[k];
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const std::optional<std::array<std::byte, 8>>& value = *parsed++;
      void* const memory = *place++;
      if (!value) continue;
      if (std::find(kept.begin(), kept.end(), scalar.name) != kept.end()) continue;
      std::memcpy(memory, value->data(), scalar.type->bytes);
    }
  }
  return report;
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
