// SPDX-License-Identifier: Apache-2.0
/// @file
/// The index of a model of several safetensors files.
///
///   model.safetensors.index.json:
///     {"metadata": {"total_size": bytes, "xxh3_128:model-00001-of-00002.safetensors": "digits"},
///      "weight_map": {"name": "model-00001-of-00002.safetensors"}}
///
/// The digest of a file is that of its header, which has the digests of its tensors. Other programs
/// write an index without digests, and ignore them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <polyak/core/compiled.hpp>
#include <polyak/io/atomic_file.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

inline constexpr std::string_view model_name = "model.safetensors";
inline constexpr std::string_view index_name = "model.safetensors.index.json";

/// The content of an index.
struct ModelIndex {
  std::map<std::string, std::string> weight_map;  ///< tensors and their files
  std::map<std::string, std::string> digests;     ///< files and the digests that they must have
  std::string fault;                              ///< why it is not an index; empty for a valid one
};

/// Reads an index. All files in it are names of files beside it.
POLYAK_ON_USE [[nodiscard]] ModelIndex read_index(std::string_view words);

/// The weight map of an index. Throws io_error if it is not valid; `path` is for the message.
POLYAK_ON_USE [[nodiscard]] std::map<std::string, std::string> parse_index(
    std::span<const std::byte> file, const std::filesystem::path& path);

/// The text of an index. Files without a digest have no entry in the metadata.
POLYAK_ON_USE [[nodiscard]] std::string index_text(const ModelIndex& index,
                                                   std::uint64_t total_size);

/// A file, or that there is none, as it was at the time of opening. Kept open, so that it can be
/// told from a file that takes its name later.
class PinnedFile {
 public:
  /// Nothing is thrown for a file that cannot be opened: error() says why.
  explicit PinnedFile(const std::filesystem::path& path);

  /// 0 for a regular file that is open, ENOENT if there is none, else the error of the system.
  [[nodiscard]] int error() const { return error_; }
  /// Whether the path still names this file, or still none.
  [[nodiscard]] bool is_still_there() const;
  /// Reads all bytes of the file. Returns 0, or the error of the system; EFBIG for a file that is
  /// too large for an index.
  [[nodiscard]] int read(std::string& bytes) const;

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  int error_ = 0;
  ::dev_t device_ = 0;
  ::ino_t number_ = 0;
  std::uint64_t size_ = 0;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/model_index.ipp>
#endif
