// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/snapshot_store.hpp.
///
/// Above 300 lines: the members of one class.
#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/descriptors.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/snapshot_store.hpp>
#include <polyak/io/weights.ipp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

[[nodiscard]] inline std::optional<double> number_in(std::string_view words) {
  double value = 0;
  const char* const end = words.data() + words.size();
  const auto result = std::from_chars(words.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

/// The content of a snapshot's metadata, or the reason why it is not valid.
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
    record.fault = "is not a snapshot";
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

}  // namespace detail

POLYAK_DEFINE SnapshotStore::SnapshotStore(std::filesystem::path folder,
                                           SnapshotStoreOptions options)
    : folder_(std::move(folder)), options_(std::move(options)), writable_(true) {
  validate(options_);
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) detail::refuse_io(folder_, {}, {}, "is not a folder: " + error.message());
  lock();
  scan();
  if (options_.most > 0) thin(options_.most);
}

POLYAK_DEFINE SnapshotStore SnapshotStore::read_only(std::filesystem::path folder) {
  return SnapshotStore(std::move(folder), ForReading{});
}

POLYAK_DEFINE void SnapshotStore::thin(std::size_t most) {
  if (writable_) require_lock();
  std::vector<std::string> names;
  for (const StoredSnapshot& snapshot : snapshots_) names.push_back(snapshot.average);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  for (const std::string& name : names) thin(most, name);
}

POLYAK_DEFINE void SnapshotStore::remove(const std::string& average, std::int64_t calls) {
  if (!writable_) detail::refuse_order("polyak: remove() from a SnapshotStore opened for reading");
  const std::string name = average;  // may be of the list, which changes
  require_lock();
  const auto place =
      std::find_if(snapshots_.begin(), snapshots_.end(), [&](const StoredSnapshot& snapshot) {
        return snapshot.average == name && snapshot.calls == calls;
      });
  require(place != snapshots_.end(), "there is not a snapshot of \"" + name + "\" at call", calls);
  // One that is missing has been removed by hand.
  if (::unlink(place->file.c_str()) != 0 && errno != ENOENT) {
    detail::refuse_errno(place->file, "removing", errno);
  }
  snapshots_.erase(place);
}

POLYAK_DEFINE bool SnapshotStore::is_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.size() <= 200 &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '-' || c == '_';
         });
}

POLYAK_DEFINE std::string SnapshotStore::json_of(const StoredSnapshot& one) {
  nlohmann::json root = {{"format", detail::snapshot_format},
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
                         {"options", nlohmann::json::object()}};
  for (const auto& [name, value] : one.options) root["options"][name] = value;
  return root.dump();
}

POLYAK_DEFINE void SnapshotStore::check_tensors(const std::vector<SafetensorsSpec>& specs,
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

POLYAK_DEFINE void SnapshotStore::thin(std::size_t most, const std::string& name) {
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

POLYAK_DEFINE void SnapshotStore::lock() {
  const auto path = folder_ / ".lock";
  const auto opened = [&](int how) {
    return detail::uninterrupted([&] { return ::open(path.c_str(), how | O_CLOEXEC, 0666); });
  };
  detail::FileDescriptor number(opened(O_RDWR | O_CREAT));
  // Another user's file can be locked all the same.
  if (!number && errno == EACCES) number = detail::FileDescriptor(opened(O_RDONLY));
  detail::ProcessFile file(std::move(number));
  if (!file.here()) detail::refuse_errno(path, "opening the lock", errno);
  const auto result = detail::lock_now(file.number());
  if (result == detail::LockResult::held) {
    char holder[32] = {};
    const auto size = ::pread(file.number(), holder, sizeof holder - 1, 0);
    detail::refuse_io(folder_, {}, {},
                      "is open for writing already, by process " +
                          (size > 0 ? std::string(holder) : std::string("unknown")));
  }
  // For messages only, so a failure does not matter.
  const std::string process = detail::text(static_cast<std::int64_t>(::getpid()));
  static_cast<void>(::pwrite(file.number(), process.data(), process.size(), 0) > 0 &&
                    ::ftruncate(file.number(), static_cast<::off_t>(process.size())) == 0);
  has_locks_ = result == detail::LockResult::locked;
  lock_ = std::move(file);
}

POLYAK_DEFINE void SnapshotStore::require_lock() {
  if (!has_locks_ || lock_.here()) return;
  lock();
  // The parent may have changed the folder.
  snapshots_.clear();
  specs_.clear();
  recovered_.clear();
  problems_.clear();
  scan();
}

POLYAK_DEFINE void SnapshotStore::scan() {
  std::error_code error;
  std::filesystem::directory_iterator entries(folder_, error);
  std::vector<std::filesystem::path> files;
  while (!error && entries != std::filesystem::directory_iterator()) {
    files.push_back(entries->path());
    entries.increment(error);
  }
  if (error) detail::refuse_io(folder_, {}, {}, "cannot be read: " + error.message());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    const std::string name = file.filename().string();
    if (name == ".lock") continue;
    if (detail::is_temporary_name(name, detail::snapshot_suffix)) {
      if (writable_) read(file, &SnapshotStore::recover);
    } else if (name.ends_with(detail::snapshot_suffix)) {
      read(file, &SnapshotStore::take);
    } else {
      problems_.push_back(file.string() + " is not a snapshot");
    }
  }
  sort();
}

POLYAK_DEFINE void SnapshotStore::recover(const std::filesystem::path& file) {
  const auto result = detail::remove_leftover(file);
  if (result == detail::Leftover::removed) recovered_.push_back(file);
  if (result == detail::Leftover::not_permitted) {
    problems_.push_back(file.string() + " is half written, and may not be removed");
  }
}

POLYAK_DEFINE void SnapshotStore::read(const std::filesystem::path& file,
                                       void (SnapshotStore::*how)(const std::filesystem::path&)) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  try {
    (this->*how)(file);
  } catch (const io_error& error) {
    // What the process or the system lacks says nothing about the file.
    const int lack = error.system_error();
    if (lack == EMFILE || lack == ENFILE || lack == ENOMEM || lack == ENOLCK) throw;
    problems_.emplace_back(error.what());
  }
#else
  (this->*how)(file);
#endif
}

POLYAK_DEFINE void SnapshotStore::take(const std::filesystem::path& file) {
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

POLYAK_DEFINE bool SnapshotStore::holds(const std::vector<std::string>& names,
                                        std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

POLYAK_DEFINE bool SnapshotStore::can_be_averaged(const std::vector<SafetensorsSpec>& specs,
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

POLYAK_DEFINE bool SnapshotStore::same_tensors(const std::vector<SafetensorsSpec>& specs,
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

POLYAK_DEFINE void SnapshotStore::sort() {
  std::sort(snapshots_.begin(), snapshots_.end(),
            [](const StoredSnapshot& a, const StoredSnapshot& b) {
              return a.time != b.time         ? a.time < b.time
                     : a.average != b.average ? a.average < b.average
                                              : a.calls < b.calls;
            });
}

POLYAK_DEFINE void SnapshotStore::check_name(const std::string& name, std::int64_t begun_after) {
  require(begun_after >= 0, "a snapshot's begun_after must be >= 0", begun_after);
  if (!writable_) detail::refuse_order("polyak: append() to a SnapshotStore opened for reading");
  require(is_name(name), "a snapshot's name must consist of letters, digits, '.', '-', '_'",
          std::string_view(name));
  require_lock();
}

POLYAK_DEFINE void SnapshotStore::check_new(StoredSnapshot& one) const {
  const std::string digits = detail::text(one.calls);
  one.file = folder_ /
             (one.average + "-" + std::string(12 - std::min<std::size_t>(12, digits.size()), '0') +
              digits + std::string(detail::snapshot_suffix));
  for (const StoredSnapshot& other : snapshots_) {
    require(other.average != one.average || other.calls != one.calls,
            "the snapshots of \"" + one.average + "\" must be of different calls", one.calls);
    require(other.run == one.run,
            "a store's snapshots must be of one run, \"" + other.run + "\"; this is of",
            std::string_view(one.run));
  }
}

POLYAK_DEFINE void SnapshotStore::measure(const TensorInfo& info, DType dtype,
                                          const detail::NumberReader& read,
                                          detail::StorageError& error) {
  constexpr std::size_t most = std::size_t{1} << 13;
  std::vector<std::size_t> places(std::min(most, info.size));
  std::vector<double> numbers(places.size());
  for (std::size_t done = 0; done < info.size; done += most) {
    const std::size_t count = std::min(most, info.size - done);
    for (std::size_t k = 0; k < count; ++k) places[k] = done + k;
    read(std::span(places).first(count), numbers.data());
    detail::with_floating(dtype, [&]<class To>(To*) {
      for (std::size_t k = 0; k < count; ++k) {
        const double value = numbers[k];
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
}

POLYAK_DEFINE void SnapshotStore::write(const StoredSnapshot& one,
                                        const std::vector<detail::WeightSource>& sources) {
  std::vector<SafetensorsSpec> specs;
  specs.reserve(sources.size());
  for (const detail::WeightSource& source : sources) specs.push_back(source.spec);
  check_tensors(specs, one.buffers);
  const auto add = [&] {
    detail::write_weights(one.file, {sources, {}},
                          {.metadata = {{std::string(detail::snapshot_key), json_of(one)}},
                           .durable = options_.durable});
  };
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  try {
    add();
  } catch (const io_error& error) {
    if (error.replaced()) enlist(one, std::move(specs));
    throw;
  }
  enlist(one, std::move(specs));
  if (options_.most == 0) return;
  try {
    thin(options_.most, one.average);
  } catch (const io_error& error) {
    detail::refuse_io(
        {one.file,
         {},
         {},
         std::string("is stored, but the store keeps more snapshots than it should: ") +
             error.what(),
         true});
  }
#else
  add();
  enlist(one, std::move(specs));
  if (options_.most > 0) thin(options_.most, one.average);
#endif
}

POLYAK_DEFINE void SnapshotStore::enlist(const StoredSnapshot& one,
                                         std::vector<SafetensorsSpec> specs) {
  if (snapshots_.empty()) specs_ = std::move(specs);
  snapshots_.push_back(one);
  sort();
}

}  // namespace POLYAK_V0
}  // namespace polyak
