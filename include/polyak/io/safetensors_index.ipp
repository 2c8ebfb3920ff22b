// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/safetensors_index.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/mapped_file.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// Receives the events of nlohmann's parser and records the weight map. Everything else is ignored.
class IndexEvents {
 public:
  std::map<std::string, std::string> weight_map;
  bool has_map = false;
  std::string fault;

  bool null() { return other(); }
  bool boolean(bool) { return other(); }
  bool number_integer(std::int64_t) { return other(); }
  bool number_unsigned(std::uint64_t) { return other(); }
  bool number_float(double, const std::string&) { return other(); }
  bool string(std::string& text) {
    if (!in_map()) return other();
    if (!is_file_name(text)) {
      return refuse("the file of " + detail::text(std::string_view(key_)) + ", " +
                    detail::text(std::string_view(text)) + ", is not the name of a file beside it");
    }
    weight_map.emplace(std::move(key_), std::move(text));
    return true;
  }
  template <class Binary>
  bool binary(Binary&) {
    return false;
  }
  bool start_object(std::size_t) {
    if (in_map()) return other();
    if (++depth_ > 128) return refuse("it is nested too deeply");
    if (depth_ == 2 && top_ == "weight_map") map_depth_ = depth_;
    return true;
  }
  bool end_object() {
    if (depth_ == map_depth_) map_depth_ = 0;
    --depth_;
    return true;
  }
  bool start_array(std::size_t) {
    if (in_map() || depth_ == 0) return other();
    if (depth_ == 1 && top_ == "weight_map") return other();
    return ++depth_ > 128 ? refuse("it is nested too deeply") : true;
  }
  bool end_array() {
    --depth_;
    return true;
  }
  bool key(std::string& name) {
    if (depth_ == 1) {
      if (!tops_.insert(name).second) {
        return refuse(detail::text(std::string_view(name)) + " is listed twice");
      }
      top_ = name;
      has_map = has_map || name == "weight_map";
    }
    if (in_map()) {
      if (weight_map.contains(name)) {
        return refuse("tensor " + detail::text(std::string_view(name)) + " is listed twice");
      }
      key_ = name;
    }
    return true;
  }
  template <class Error>
  bool parse_error(std::size_t position, const std::string&, const Error&) {
    return refuse("it is not JSON from byte " + detail::text(position) + " on");
  }

  /// Whether a name can only refer to a file in the same folder.
  [[nodiscard]] static bool is_file_name(std::string_view name) {
    return !name.empty() && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
  }

 private:
  [[nodiscard]] bool in_map() const { return map_depth_ != 0; }
  bool refuse(std::string what) {
    if (fault.empty()) fault = std::move(what);
    return false;
  }
  bool other() {
    if (in_map()) {
      return refuse("the file of " + detail::text(std::string_view(key_)) + " is not a string");
    }
    if (depth_ == 0) return refuse("it is not an object");
    if (depth_ == 1 && top_ == "weight_map") return refuse("weight_map is not an object");
    return true;
  }

  std::string key_, top_;
  std::set<std::string> tops_;
  int depth_ = 0, map_depth_ = 0;
};

POLYAK_DEFINE_ON_USE std::map<std::string, std::string> parse_index(
    std::span<const std::byte> file, const std::filesystem::path& path) {
  if (file.size() > safetensors_header_limit) {
    refuse_io(path, {}, {}, "has " + text(file.size()) + " bytes, more than 100000000");
  }
  const std::string_view words(reinterpret_cast<const char*>(file.data()), file.size());
  // The parser would skip a byte-order mark, and treat a zero byte as the end.
  if (!is_utf8(words) || words.starts_with("\xef\xbb\xbf") ||
      words.find('\0') != std::string_view::npos) {
    refuse_io(path, {}, {}, "is not an index: it is not plain UTF-8");
  }
  IndexEvents events;
  if (!nlohmann::json::sax_parse(words.begin(), words.end(), &events)) {
    refuse_io(path, {}, {}, "is not an index: " + events.fault);
  }
  if (!events.has_map) refuse_io(path, {}, {}, "is not an index: it has no weight_map");
  return std::move(events.weight_map);
}

}  // namespace detail

POLYAK_DEFINE_ON_USE SafetensorsModel::SafetensorsModel(const std::filesystem::path& path,
                                                        bool verify_header) {
  std::error_code ignored;
  std::filesystem::path file = path;
  if (std::filesystem::is_directory(path, ignored)) {
    file = path / detail::index_name;
    if (!std::filesystem::exists(file, ignored)) file = path / detail::model_name;
  }
  if (file.extension() != ".json") {
    files_.push_back(std::make_unique<SafetensorsFile>(file, verify_header));
    for (const SafetensorsTensor& tensor : files_[0]->tensors()) {
      places_.emplace(tensor.name, files_[0].get());
    }
    return;
  }
  const MappedFile index(file);
  std::map<std::string, const SafetensorsFile*> known;
  for (const auto& [name, shard] : detail::parse_index(index.bytes(), file)) {
    const SafetensorsFile*& in = known[shard];
    if (in == nullptr) {
      files_.push_back(
          std::make_unique<SafetensorsFile>(file.parent_path() / shard, verify_header));
      in = files_.back().get();
    }
    if (in->find(name) == nullptr) {
      detail::refuse_io(in->path(), name, {}, "is not in the file that the index names");
    }
    places_.emplace(name, in);
  }
  for (const auto& shard : files_) {
    for (const SafetensorsTensor& tensor : shard->tensors()) {
      const auto place = places_.find(tensor.name);
      if (place == places_.end()) unlisted_.push_back(tensor.name);
    }
  }
}

POLYAK_DEFINE_ON_USE std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> all;
  for (const auto& [name, file] : places_) all.push_back(name);
  return all;
}

POLYAK_DEFINE_ON_USE const SafetensorsFile* SafetensorsModel::file_of(std::string_view name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : place->second;
}

POLYAK_DEFINE_ON_USE void write_sharded(const std::filesystem::path& folder,
                                        std::vector<SafetensorsSpec> specs,
                                        const std::map<std::string, std::string>& metadata,
                                        const std::function<void(SafetensorsWriter&)>& fill,
                                        const WriteShardedOptions& options) {
  validate(options);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) detail::refuse_io(folder, {}, {}, "is not a folder: " + error.message());

  std::vector<std::vector<SafetensorsSpec>> shards;
  std::set<std::string> names;
  std::uint64_t filled = 0, total = 0;
  for (SafetensorsSpec& spec : specs) {
    require(names.insert(spec.name).second, "a tensor's name must be new",
            std::string_view(spec.name));
    const detail::TensorBytes size = detail::tensor_bytes(spec.shape, spec.dtype);
    if (size.rule != nullptr) {
      detail::refuse_value("polyak: tensor \"" + spec.name + "\" " + size.what);
    }
    if (shards.empty() || (filled > 0 && filled + size.bytes > options.shard_bytes)) {
      shards.emplace_back();
      filled = 0;
    }
    filled += size.bytes;
    total += size.bytes;
    shards.back().push_back(std::move(spec));
  }

  // The files of the old model, to be removed at the end.
  std::set<std::string> old;
  const auto index_path = folder / detail::index_name;
  if (std::filesystem::exists(index_path, error)) {
    const MappedFile index(index_path);
    for (const auto& [name, file] : detail::parse_index(index.bytes(), index_path))
      old.insert(file);
  }

  if (shards.size() <= 1) {
    SafetensorsWriter writer(folder / detail::model_name,
                             shards.empty() ? std::vector<SafetensorsSpec>{} : std::move(shards[0]),
                             metadata, options.file);
    fill(writer);
    writer.finish();
    std::filesystem::remove(index_path, error);  // from here on the single file is the model
  } else {
    const auto padded = [](std::size_t number) {
      const std::string digits = detail::text(number);
      return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
    };
    nlohmann::json index, &weight_map = index["weight_map"] = nlohmann::json::object();
    index["metadata"]["total_size"] = std::uint64_t{total};
    std::vector<std::string> files;
    for (int attempt = 1; files.empty(); ++attempt) {
      bool taken = false;
      for (std::size_t k = 0; k < shards.size(); ++k) {
        const std::string again = attempt == 1 ? "" : "-" + detail::text(attempt);
        files.push_back("model-" + padded(k + 1) + "-of-" + padded(shards.size()) + again +
                        ".safetensors");
        taken = taken || old.contains(files.back());
      }
      if (taken) files.clear();
    }
    for (std::size_t k = 0; k < shards.size(); ++k) {
      for (const SafetensorsSpec& spec : shards[k]) weight_map[spec.name] = files[k];
      SafetensorsWriter writer(folder / files[k], std::move(shards[k]), metadata, options.file);
      fill(writer);
      writer.finish();
    }
    AtomicFile last(index_path, options.file.durable);
    last.append(std::string_view(index.dump(2)));
    last.commit();
    for (const std::string& file : files) old.erase(file);
    old.emplace(detail::model_name);
  }
  for (const std::string& file : old) std::filesystem::remove(folder / file, error);
}

}  // namespace POLYAK_V0
}  // namespace polyak
