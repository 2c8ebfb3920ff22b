// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/save.hpp.
///
/// Above 300 lines: what is written is what is read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/selection_checks.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/save.hpp>
#include <polyak/io/state_match.ipp>
#include <polyak/io/state_record.ipp>
#include <polyak/io/tensor_reads.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Gathers small tensors, because each piece that a file gets costs a call of the system.
class GatheringWriter {
 public:
  explicit GatheringWriter(SafetensorsWriter& writer) : writer_(writer) {}
  POLYAK_ON_USE void append(std::span<const std::byte> piece) {
    constexpr std::size_t most = std::size_t{1} << 18;
    if (kept_.size() + piece.size() > most) flush();
    if (piece.size() >= most / 4) {
      flush();
      writer_.append(piece);
    } else {
      kept_.insert(kept_.end(), piece.begin(), piece.end());
    }
  }
  POLYAK_ON_USE void flush() {
    writer_.append(kept_);
    kept_.clear();
  }

 private:
  SafetensorsWriter& writer_;
  std::vector<std::byte> kept_;
};

/// Writes a tensor to the file. A tensor in another memory space is copied to the host part by
/// part, or as a whole if it must be transposed.
POLYAK_ON_USE inline void append_tensor(GatheringWriter& writer, const RecordedTensor& one) {
  if (one.space == nullptr) {
    append_row_major([&](std::span<const std::byte> piece) { writer.append(piece); }, one.data,
                     one.spec.shape, one.element_bytes, one.order);
    return;
  }
  const bool transposed = one.order != Order::row_major;
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

/// Adds what reads a tensor from the file into memory of the host.
POLYAK_ON_USE inline void read_into_host(TensorReads& reads, const RecordedTensor& one,
                                         std::byte* place, const SafetensorsFile& file,
                                         const SafetensorsTensor& from) {
  if (one.order == Order::row_major) {
    reads.add_pieces(one.bytes, 1, [&file, &from, place](std::uint64_t first, std::uint64_t count) {
      file.read(from, first, std::span(place + first, static_cast<std::size_t>(count)));
    });
    return;
  }
  reads.add(one.bytes, [&one, &file, &from, place] {
    take_row_major(
        place, one.spec.shape, one.element_bytes, one.order,
        [&](std::size_t offset, std::span<std::byte> to) { file.read(from, offset, to); });
  });
}

/// Reads a tensor from the file into another memory space, part by part, or as a whole if it must
/// be transposed.
POLYAK_ON_USE inline void read_into_space(const RecordedTensor& one, std::byte* place,
                                          const SafetensorsFile& file,
                                          const SafetensorsTensor& from) {
  const bool transposed = one.order != Order::row_major;
  const std::size_t part = transposed ? one.bytes : std::min(one.bytes, std::size_t{1} << 26);
  std::vector<std::byte> host(part);
  for (std::size_t done = 0; done < one.bytes; done += part) {
    const std::size_t bytes = std::min(part, one.bytes - done);
    take_row_major(
        host.data(), transposed ? one.spec.shape : std::vector<std::uint64_t>{bytes},
        transposed ? one.element_bytes : 1, one.order,
        [&](std::size_t offset, std::span<std::byte> to) { file.read(from, done + offset, to); });
    write_bytes(one.space, place + done, host.data(), bytes);
  }
}

POLYAK_DEFINE_ON_USE void require_distinct(std::span<const void* const> addresses) {
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (addresses[i] == addresses[j]) refuse_value("polyak: the same object is given twice");
    }
  }
}

/// Refuses numbers that load() would refuse, so that every file that is written can be read.
POLYAK_ON_USE inline void check_numbers(const StateRecord& all) {
  for (std::size_t k = 0; k < all.methods.size(); ++k) {
    for (const RecordedScalar& scalar : all.methods[k].scalars) {
      std::array<std::byte, 8> number;
      if (scalar.type.parse(scalar.value, number.data()) && scalar.type.allows(number.data())) {
        continue;
      }
      refuse_value("polyak: save: " + label(k, all.methods[k]) + ": \"" + scalar.name + "\" " +
                   range_text(scalar.type.range) + ", got " + scalar.value);
    }
  }
}

/// Calls use(alias, tensor) for each other name of a weight.
template <class Use>
void each_alias(const StateRecord& all, Use use) {
  std::vector<std::vector<std::vector<std::string_view>>> aliases;
  for (const auto& list : all.lists) aliases.push_back(aliases_of(*list));
  for (const RecordedTensor& tensor : all.tensors) {
    if (tensor.part.method != RecordedPart::none) continue;
    for (const std::string_view alias : aliases[tensor.part.list][tensor.part.tensor]) {
      use(alias, tensor);
    }
  }
}

POLYAK_DEFINE_ON_USE void save_record(const std::filesystem::path& path, const StateRecord& all,
                                      const SaveOptions& options) {
  check_numbers(all);
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
  if (options.every_name) {
    each_alias(all, [&](std::string_view alias, const RecordedTensor& tensor) {
      require(!alias.starts_with(state_prefix) && !tensors.contains(alias),
              "a name of a tied tensor must be new, and not begin with \"polyak/\"", alias);
      specs.push_back({std::string(alias), tensor.spec.dtype, tensor.spec.shape});
      tensors[alias] = &tensor;
    });
  }
  SafetensorsWriter writer(
      path, std::move(specs), std::move(metadata),
      {.digests = options.digests, .durable = options.durable, .joint_digests = all.is_short()});
  GatheringWriter gathering(writer);
  for (const SafetensorsTensor& tensor : writer.tensors()) {
    append_tensor(gathering, *tensors.at(tensor.name));
  }
  gathering.flush();
  writer.finish();
}

/// Refuses all differences in one error, except in options that are overridden.
POLYAK_ON_USE inline void check_match(const std::filesystem::path& path, const StateMatch& found,
                                      const LoadOptions& options, bool everything) {
  std::vector<std::string> refused = found.others;
  if (!options.override_options) {
    refused.insert(refused.end(), found.options.begin(), found.options.end());
  }
  if (refused.empty()) return;
  std::string list;
  for (const std::string& line : refused) list += (list.empty() ? "" : "; ") + line;
  if (found.others.empty()) list += "; LoadOptions.override_options goes on with the options here";
  refuse_value("polyak: the state in " + path.string() +
               (everything ? " is of another run: " : " has not what is to be loaded: ") + list);
}

/// Refuses options that choose nothing of what load() was given.
POLYAK_ON_USE inline void check_wanted(const StateRecord& run, const Wanted& wanted) {
  require(static_cast<unsigned>(wanted.parts) - 1 < static_cast<unsigned>(Parts::all),
          "LoadOptions.only must be one of Parts, or several by |",
          static_cast<unsigned>(wanted.parts));
  const auto given = [&](bool trains) {
    return std::any_of(run.methods.begin(), run.methods.end(),
                       [&](const RecordedMethod& method) { return method.trains == trains; });
  };
  const auto check = [&](Parts part, const char* name, bool trains) {
    if (wanted.parts == Parts::all || !includes(wanted.parts, part) || given(trains)) return;
    refuse_value(std::string("polyak: LoadOptions.only has ") + name +
                 ", but load() was given none");
  };
  check(Parts::optimizers, "optimizers", true);
  check(Parts::averages, "averages", false);
  for (const auto& list : run.lists) {
    const std::vector<bool> bits = selected(wanted.tensors, *list);
    if (std::find(bits.begin(), bits.end(), true) != bits.end()) return;
  }
  if (wanted.tensors.is_everything()) return;
  refuse_value("polyak: LoadOptions.tensors, " + wanted.tensors.describe() +
               ", selects no tensor; the lists begin with " + some_names(*run.lists.front()));
}

/// A tensor that is loaded: its names in the file.
struct NamedTensor {
  const RecordedTensor* here;
  std::byte* place;
  std::vector<std::string> names;
};

/// What is loaded, in the order of the record.
POLYAK_ON_USE [[nodiscard]] inline std::vector<NamedTensor> wanted_tensors(
    const SafetensorsFile& file, const FiledRecord& record, const StateRecord& run,
    const StatePlaces& places, const StateMatch& match, Parts parts) {
  std::vector<NamedTensor> all;
  // The aliases in the lists of the file, for SaveOptions.every_name.
  std::vector<std::vector<std::vector<std::string_view>>> aliases;
  for (const Layout& list : record.lists) aliases.push_back(aliases_of(list));
  for (std::size_t k = 0; k < run.tensors.size(); ++k) {
    const RecordedPart& part = run.tensors[k].part;
    const bool weight = part.method == RecordedPart::none;
    const StateMatch::List& list = match.lists[part.list];
    if (list.place == StateMatch::none) continue;
    if (weight ? !includes(parts, Parts::weights)
               : match.methods[part.method] == StateMatch::none) {
      continue;
    }
    const std::size_t method = weight ? RecordedPart::none : match.methods[part.method];
    NamedTensor one{&run.tensors[k], places.tensors[k], {}};
    if (part.tensor == RecordedPart::none) {
      one.names.push_back(part.name(method, {}));
    } else {
      const Layout& there = record.lists[list.place];
      for (const std::size_t place : list.tensors[part.tensor]) {
        one.names.push_back(part.name(method, there.tensors[place].name));
        if (!weight) continue;
        for (const std::string_view alias : aliases[list.place][place]) {
          if (file.find(alias) != nullptr) one.names.emplace_back(alias);
        }
      }
      if (one.names.empty()) continue;
      // Of tensors that are not tied in the file, some may have no state.
      const auto lacks = [&](const std::string& name) { return file.find(name) == nullptr; };
      if (!std::all_of(one.names.begin(), one.names.end(), lacks)) std::erase_if(one.names, lacks);
    }
    all.push_back(std::move(one));
  }
  return all;
}

/// Refuses a file that lacks state which this run has. With other options, it may lack that of
/// tensors that were frozen or not selected when it was saved.
POLYAK_ON_USE inline void require_state(const SafetensorsFile& file,
                                        const std::vector<NamedTensor>& tensors) {
  std::string list;
  for (const NamedTensor& tensor : tensors) {
    if (file.find(tensor.names.front()) != nullptr) continue;
    list += (list.empty() ? "\"" : ", \"") + tensor.here->spec.name + "\"";
  }
  if (list.empty()) return;
  refuse_value("polyak: the state in " + file.path().string() + " lacks " + list +
               ", which this run keeps");
}

/// The numbers of the file, checked, in the order of the methods that are loaded; the usual number
/// where the file lacks one.
POLYAK_ON_USE [[nodiscard]] inline std::vector<std::array<std::byte, 8>> parse_scalars(
    const std::filesystem::path& path, const FiledRecord& file, const StateRecord& run,
    const StateMatch& match) {
  std::vector<std::array<std::byte, 8>> parsed;
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    if (match.methods[k] == StateMatch::none) continue;
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const auto& scalars = file.methods[match.methods[k]].scalars;
      const auto known = scalars.find(scalar.name);
      const std::string& words = known == scalars.end() ? scalar.usual : known->second;
      const auto refuse = [&](const std::string& rule) {
        refuse_io(path, {}, {},
                  label(k, run.methods[k]) + ": \"" + scalar.name + "\" is " + text(words) + rule);
      };
      std::byte* const number = parsed.emplace_back().data();
      if (!scalar.type.parse(words, number)) refuse(", which is not such a number");
      if (!scalar.type.allows(number)) refuse(", and " + range_text(scalar.type.range));
    }
  }
  return parsed;
}

/// Refuses counters out of their range, of the tensors that are loaded.
POLYAK_ON_USE inline void check_counters(const std::filesystem::path& path,
                                         const RecordedTensor& here,
                                         std::span<const std::byte> bytes,
                                         const StateMatch::List& list) {
  for (const auto& places : list.tensors) {
    if (places.empty()) continue;
    std::int64_t value = 0;
    std::memcpy(&value, bytes.data() + places.front() * sizeof value, sizeof value);
    if (lies_in(value, here.range)) continue;
    refuse_io(path, here.spec.name, {},
              "has the counter " + text(value) + ", and each " + range_text(here.range));
  }
}

/// Reads the counters of the tensors that are loaded; those of the others stay as they are.
POLYAK_ON_USE inline void take_counters(const RecordedTensor& here, std::byte* place,
                                        std::span<const std::byte> bytes,
                                        const StateMatch::List& list) {
  for (std::size_t k = 0; k < here.bytes / here.element_bytes; ++k) {
    if (list.tensors[k].empty()) continue;
    std::memcpy(place + k * here.element_bytes,
                bytes.data() + list.tensors[k].front() * here.element_bytes, here.element_bytes);
  }
}

POLYAK_DEFINE_ON_USE LoadReport load_record(const std::filesystem::path& path,
                                            const StateRecord& run, const StatePlaces& places,
                                            const LoadOptions& options) {
  const Wanted wanted{options.only, options.tensors};
  check_wanted(run, wanted);
  const SafetensorsFile file(path, options.verify);
  const auto words = file.metadata().find(std::string(state_key));
  if (words == file.metadata().end()) {
    refuse_io(path, {}, {}, "holds no state of a run; load_weights() reads weights alone");
  }
  const FiledRecord record = RecordReader(file).read(words->second);
  const StateMatch found = match(record, run, wanted);
  check_match(path, found, options, wanted.everything());
  const auto tensors = wanted_tensors(file, record, run, places, found, options.only);
  if (!found.options.empty()) require_state(file, tensors);
  for (const NamedTensor& tensor : tensors) {
    SafetensorsSpec expected = tensor.here->spec;
    const RecordedPart& part = tensor.here->part;
    if (part.tensor == RecordedPart::none) {
      expected.shape = {record.lists[found.lists[part.list].place].tensors.size()};
    }
    for (const std::string& name : tensor.names) {
      const SafetensorsTensor& there = file.at(name);
      if (there.dtype != expected.dtype || there.shape != expected.shape) {
        refuse_io(path, name, {}, "is not what the record of the state says");
      }
    }
  }
  const auto scalars = parse_scalars(path, record, run, found);
  LoadReport report;
  for (const auto& [key, value] : file.metadata()) {
    if (key != state_key && !key.starts_with(digest_key)) report.metadata.emplace(key, value);
  }
  report.overridden = found.options;
  report.verified = options.verify && file.has_digests();
  if (report.verified && wanted.everything()) {
    file.verify();
  } else if (report.verified) {
    std::vector<FoundTensor> read;
    for (const NamedTensor& tensor : tensors) {
      for (const std::string& name : tensor.names) read.push_back({&file, &file.at(name)});
    }
    verify_tensors(std::move(read));
  }
  for (const NamedTensor& tensor : tensors) {
    const FoundTensor first{&file, &file.at(tensor.names.front())};
    for (std::size_t k = 1; k < tensor.names.size(); ++k) {
      if (same_bytes(first, {&file, &file.at(tensor.names[k])})) continue;
      refuse_value("polyak: the state in " + path.string() + ": \"" + tensor.names.front() +
                   "\" and \"" + tensor.names[k] + "\" differ, but they are tied here");
    }
  }
  std::vector<std::vector<std::byte>> counters;
  for (const NamedTensor& tensor : tensors) {
    const RecordedPart& part = tensor.here->part;
    if (part.tensor != RecordedPart::none) continue;
    const SafetensorsTensor& from = file.at(tensor.names.front());
    counters.emplace_back(static_cast<std::size_t>(from.end - from.begin));
    file.read(from, 0, counters.back());
    check_counters(path, *tensor.here, counters.back(), found.lists[part.list]);
  }
  // From here on only a device can fail, or a file that another program changes.
  auto counted = counters.begin();
  TensorReads reads;
  for (const NamedTensor& tensor : tensors) {
    const SafetensorsTensor& from = file.at(tensor.names.front());
    if (tensor.here->part.tensor == RecordedPart::none) {
      take_counters(*tensor.here, tensor.place, *counted++, found.lists[tensor.here->part.list]);
    } else if (tensor.here->space != nullptr) {
      read_into_space(*tensor.here, tensor.place, file, from);
    } else {
      read_into_host(reads, *tensor.here, tensor.place, file, from);
    }
  }
  reads.run();
  auto parsed = scalars.begin();
  auto place = places.scalars.begin();
  for (std::size_t k = 0; k < run.methods.size(); ++k) {
    if (found.methods[k] == StateMatch::none) {
      place += std::ssize(run.methods[k].scalars);
      continue;
    }
    const auto& kept = found.differing[k];
    for (const RecordedScalar& scalar : run.methods[k].scalars) {
      const std::array<std::byte, 8>& value = *parsed++;
      void* const memory = *place++;
      if (std::find(kept.begin(), kept.end(), scalar.name) != kept.end()) continue;
      std::memcpy(memory, value.data(), scalar.type.bytes);
    }
  }
  return report;
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
