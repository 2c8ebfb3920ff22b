// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/model_index.hpp.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/model_index.hpp>
#include <polyak/io/safetensors_header.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Receives the events of nlohmann's parser and records the weight map and the digests. Everything
/// else is ignored.
class IndexEvents {
 public:
  ModelIndex index;
  bool has_map = false;

  bool null() { return other(); }
  bool boolean(bool) { return other(); }
  bool number_integer(std::int64_t) { return other(); }
  bool number_unsigned(std::uint64_t) { return other(); }
  bool number_float(double, const std::string&) { return other(); }
  bool string(std::string& text) {
    if (in_metadata() && key_.starts_with(digest_start)) {
      index.digests.insert_or_assign(key_.substr(digest_start.size()), std::move(text));
      return true;
    }
    if (!in_map()) return other();
    if (!is_file_name(text)) {
      return refuse("the file of " + detail::text(std::string_view(key_)) + ", " +
                    detail::text(std::string_view(text)) + ", is not the name of a file beside it");
    }
    index.weight_map.emplace(std::move(key_), std::move(text));
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
    if (depth_ == 2 && top_ == "metadata") metadata_depth_ = depth_;
    return true;
  }
  bool end_object() {
    if (depth_ == map_depth_) map_depth_ = 0;
    if (depth_ == metadata_depth_) metadata_depth_ = 0;
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
    if (in_metadata()) key_ = name;
    if (in_map()) {
      if (index.weight_map.contains(name)) {
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
  static constexpr std::string_view digest_start = "xxh3_128:";

  [[nodiscard]] bool in_map() const { return map_depth_ != 0; }
  [[nodiscard]] bool in_metadata() const {
    return metadata_depth_ != 0 && metadata_depth_ == depth_;
  }
  bool refuse(std::string what) {
    if (index.fault.empty()) index.fault = std::move(what);
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
  int depth_ = 0, map_depth_ = 0, metadata_depth_ = 0;
};

POLYAK_DEFINE_ON_USE ModelIndex read_index(std::string_view words) {
  ModelIndex none;
  if (words.size() > safetensors_header_limit) {
    none.fault = "it has " + text(words.size()) + " bytes, more than 100000000";
    return none;
  }
  // The parser would skip a byte-order mark, and treat a zero byte as the end.
  if (!is_utf8(words) || words.starts_with("\xef\xbb\xbf") ||
      words.find('\0') != std::string_view::npos) {
    none.fault = "it is not plain UTF-8";
    return none;
  }
  IndexEvents events;
  if (nlohmann::json::sax_parse(words.begin(), words.end(), &events) && !events.has_map) {
    events.index.fault = "it has no weight_map";
  }
  return std::move(events.index);
}

POLYAK_DEFINE_ON_USE std::map<std::string, std::string> parse_index(
    std::span<const std::byte> file, const std::filesystem::path& path) {
  ModelIndex index = read_index({reinterpret_cast<const char*>(file.data()), file.size()});
  if (!index.fault.empty()) refuse_io(path, {}, {}, "is not an index: " + index.fault);
  return std::move(index.weight_map);
}

POLYAK_DEFINE_ON_USE std::string index_text(const ModelIndex& index, std::uint64_t total_size) {
  nlohmann::json all;
  all["metadata"]["total_size"] = total_size;
  for (const auto& [file, digest] : index.digests) {
    if (!digest.empty()) all["metadata"][std::string("xxh3_128:").append(file)] = digest;
  }
  all["weight_map"] = index.weight_map;
  return all.dump(2);
}

POLYAK_DEFINE PinnedFile::PinnedFile(const std::filesystem::path& path)
    : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  struct ::stat status {};
  if (!file_ || ::fstat(file_.number(), &status) != 0) {
    error_ = errno;
    return;
  }
  if (!S_ISREG(status.st_mode)) error_ = EINVAL;
  device_ = status.st_dev;
  number_ = status.st_ino;
  size_ = static_cast<std::uint64_t>(status.st_size);
}

POLYAK_DEFINE bool PinnedFile::is_still_there() const {
  struct ::stat status {};
  const bool there = ::stat(path_.c_str(), &status) == 0;
  if (!file_) return !there || error_ != ENOENT;
  return there && status.st_dev == device_ && status.st_ino == number_;
}

POLYAK_DEFINE int PinnedFile::read(std::string& bytes) const {
  if (error_ != 0) return error_;
  if (size_ > safetensors_header_limit) return EFBIG;
  bytes.assign(static_cast<std::size_t>(size_), '\0');
  for (std::size_t done = 0; done < bytes.size();) {
    const ::ssize_t part = ::pread(file_.number(), bytes.data() + done, bytes.size() - done,
                                   static_cast<::off_t>(done));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return errno;
    if (part == 0) bytes.resize(done);  // was cut meanwhile
    done += static_cast<std::size_t>(part);
  }
  return 0;
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
