// SPDX-License-Identifier: Apache-2.0
/// @file
/// Models of several safetensors files with an index of their tensors, see io/model_index.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/options.hpp>
#include <polyak/io/model_index.hpp>
#include <polyak/io/safetensors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
/// A model on the disk: one safetensors file, or several with an index. Safe for any number of
/// reading threads.
class SafetensorsModel {
 public:
  /// `path` is a safetensors file, an index (".json"), or a folder with
  /// "model.safetensors.index.json" or else "model.safetensors".
  ///
  /// Throws io_error for files that cannot be read or break a rule, for an index without a weight
  /// map, with a duplicate name or a file that is not a plain name, and for files and tensors of
  /// the index that do not exist, and for files with other digests than the index has for them.
  /// `verify_header` as for SafetensorsFile; without it the digests in the index do not matter.
  ///
  /// A model that is replaced meanwhile is read again, up to a hundred times.
  POLYAK_ON_USE explicit SafetensorsModel(const std::filesystem::path& path,
                                          bool verify_header = true);

  /// All names, in alphabetical order.
  POLYAK_ON_USE [[nodiscard]] std::vector<std::string> names() const;
  /// The file that holds a tensor, or null.
  POLYAK_ON_USE [[nodiscard]] const SafetensorsFile* file_of(std::string_view name) const;
  [[nodiscard]] const std::vector<std::unique_ptr<SafetensorsFile>>& files() const {
    return files_;
  }
  /// Ignored tensors: in a file but not in the index.
  [[nodiscard]] const std::vector<std::string>& unlisted() const { return unlisted_; }

 private:
  POLYAK_ON_USE void add_file(const std::filesystem::path& path, bool verify_header);
  /// Returns whether each file had the digest that the index has for it.
  POLYAK_ON_USE bool add_index(const detail::PinnedFile& pinned, const std::filesystem::path& path,
                               bool verify_header);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> places_;
  std::vector<std::string> unlisted_;
};

struct WriteShardedOptions {
  std::uint64_t shard_bytes = 5'000'000'000;  ///< of tensors in one file, >= 1; a larger tensor
                                              ///< has a file of its own
  SafetensorsWriteOptions file = {};
};
template <class Fields>
void fields(WriteShardedOptions& o, Fields& field) {
  field("shard_bytes", o.shard_bytes);
  field.check(o.shard_bytes >= 1, "shard_bytes must be >= 1", o.shard_bytes);
  field("file", o.file);
}

/// Writes a model into a folder: "model.safetensors" if one file is enough, else
/// "model-00001-of-00005.safetensors" and so on, and the index with a digest of each file. Tensors
/// fill the files in the given order; `fill(writer)` appends the bytes of `writer.tensors()`.
///
/// The index is written last, when all files are durable. Until then a reader finds the old model,
/// whose files have other names ("-2", "-3", ... is added to a name that is in use). The files of
/// the old model, and nothing else, are removed at the end. An old index that is damaged is
/// replaced; what it named stays.
///
/// The folder is locked: another model that is being saved there is waited for, up to ten seconds.
/// What a killed call has left is removed by the next one.
///
/// Throws as SafetensorsWriter, and io_error if the lock cannot be had. The old model is then
/// intact, and all that the call has written is removed. All that is refused of the model is
/// refused before anything is written.
POLYAK_ON_USE void write_sharded(const std::filesystem::path& folder,
                                 std::vector<SafetensorsSpec> specs,
                                 const std::map<std::string, std::string>& metadata,
                                 const std::function<void(SafetensorsWriter&)>& fill,
                                 const WriteShardedOptions& options = {});

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/safetensors_index.ipp>
#endif
