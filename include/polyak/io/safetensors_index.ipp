// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/safetensors_index.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
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

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/model_folder.hpp>
#include <polyak/io/model_index.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

POLYAK_DEFINE_ON_USE SafetensorsModel::SafetensorsModel(const std::filesystem::path& path,
                                                        bool verify_header) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  if (!folder && path.extension() != ".json") {
    add_file(path, verify_header);
    return;
  }
  const auto index_path = folder ? path / detail::index_name : path;
  for (int left = 100, unchanged = 0;; --left) {
    places_.clear();
    files_.clear();
    unlisted_.clear();
    const detail::PinnedFile index(index_path);
    const auto read = [&] {
      if (folder && index.error() == ENOENT) {
        add_file(path / detail::model_name, verify_header);
        return true;
      }
      return add_index(index, index_path, verify_header) || index.is_still_there();
    };
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    try {
      if (read()) return;
    } catch (const io_error&) {
      // An index that is the same again may have been another one in between.
      if (index.is_still_there() && ++unchanged == 3) throw;
      if (left == 0) throw;
    }
#else
    static_cast<void>(unchanged);
    if (read()) return;
#endif
    if (left == 0) {
      detail::refuse_io(index_path, {}, {}, "is replaced again and again while it is read");
    }
    if (left < 90) detail::sleep_for_milliseconds(std::min(100 - left, 20) / 2);
  }
}

POLYAK_DEFINE_ON_USE void SafetensorsModel::add_file(const std::filesystem::path& path,
                                                     bool verify_header) {
  files_.push_back(std::make_unique<SafetensorsFile>(path, verify_header));
  for (const SafetensorsTensor& tensor : files_[0]->tensors()) {
    places_.emplace(tensor.name, files_[0].get());
  }
}

POLYAK_DEFINE_ON_USE bool SafetensorsModel::add_index(const detail::PinnedFile& pinned,
                                                      const std::filesystem::path& path,
                                                      bool verify_header) {
  std::string words;
  const int error = pinned.read(words);
  if (error != 0) detail::refuse_errno(path, "reading the index", error);
  const detail::ModelIndex index = detail::read_index(words);
  if (!index.fault.empty()) detail::refuse_io(path, {}, {}, "is not an index: " + index.fault);
  std::map<std::string, const SafetensorsFile*> known;
  bool digests = verify_header;
  for (const auto& [name, shard] : index.weight_map) {
    const SafetensorsFile*& in = known[shard];
    if (in == nullptr) {
      files_.push_back(
          std::make_unique<SafetensorsFile>(path.parent_path() / shard, verify_header));
      in = files_.back().get();
      const auto wanted = index.digests.find(shard);
      const auto digest = in->metadata().find(std::string(detail::digest_key));
      if (wanted == index.digests.end()) {
        digests = false;
      } else if (verify_header &&
                 (digest == in->metadata().end() || digest->second != wanted->second)) {
        detail::refuse_io(in->path(), {}, {},
                          "is not the file for which the index was written: its digest differs");
      }
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
  return digests;
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

  if (shards.empty()) shards.emplace_back();
  std::vector<detail::SafetensorsPlan> plans;
  plans.reserve(shards.size());
  for (auto& shard : shards) {
    plans.emplace_back(std::move(shard), metadata, options.file);
  }

  detail::ModelFolder place(folder, options.file.durable);
  const auto write = [&](detail::SafetensorsPlan plan, std::string_view file) {
    SafetensorsWriter writer(std::move(plan), folder / file, options.file.durable);
    fill(writer);
    writer.finish();
    return writer.digest();
  };
  if (plans.size() == 1 && !place.needs_index()) {
    place.begin({});
    static_cast<void>(write(std::move(plans[0]), detail::model_name));
    place.finish_with_file();
    return;
  }
  const std::vector<std::string> files = place.new_names(plans.size());
  detail::ModelIndex index;
  for (std::size_t k = 0; k < plans.size(); ++k) {
    for (const SafetensorsTensor& tensor : plans[k].tensors) {
      index.weight_map.emplace(tensor.name, files[k]);
    }
    if (plans[k].digests) index.digests[files[k]] = std::string(detail::digest_digits, '0');
  }
  const std::size_t length = detail::index_text(index, total).size();
  require(length <= detail::safetensors_header_limit,
          "the index of a model must have at most 100000000 bytes", length);
  place.begin(files);
  for (std::size_t k = 0; k < plans.size(); ++k) {
    index.digests[files[k]] = write(std::move(plans[k]), files[k]);
  }
  place.finish_with_index(detail::index_text(index, total));
}

}  // namespace POLYAK_V0
}  // namespace polyak
