// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/safetensors.hpp.
///
/// Above 300 lines: reader and writer of one format.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/digest.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_header.hpp>
#include <polyak/io/tensor_reads.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE_ON_USE std::string tensor_digest_key(std::string_view tensor) {
  return std::string(digest_key).append(":").append(tensor);
}

/// The place of the header's own digest in its text. A backslash before the first quote says that
/// the quote belongs to a name, which may end in the same letters.
POLYAK_ON_USE inline std::size_t header_digest_place(std::string_view header) {
  constexpr std::string_view key = "\"xxh3_128\":\"";
  std::size_t place = header.find(key);
  while (place != std::string_view::npos && place > 0 && header[place - 1] == '\\') {
    place = header.find(key, place + 1);
  }
  return place == std::string_view::npos ? place : place + key.size();
}
/// The digest of a length and a header whose own digest counts as zeros.
POLYAK_ON_USE inline std::string header_digest(std::string_view length_and_header) {
  std::string text(length_and_header);
  const std::size_t place = header_digest_place(text);
  if (place != std::string::npos && place + digest_digits <= text.size()) {
    text.replace(place, digest_digits, digest_digits, '0');
  }
  Digest digest;
  digest.add(std::as_bytes(std::span(text)));
  return digest.finish();
}

}  // namespace detail

POLYAK_DEFINE_ON_USE SafetensorsFile::SafetensorsFile(const std::filesystem::path& path,
                                                      bool verify_header)
    : file_(path), header_(parse_safetensors(file_.bytes(), path)) {
  places_.reserve(header_.tensors.size());
  for (std::size_t k = 0; k < header_.tensors.size(); ++k) {
    places_.emplace(header_.tensors[k].name, k);
  }
  if (!detail::has_digest || !verify_header || !has_digests()) return;
  const auto known = header_.metadata.find(std::string(detail::digest_key));
  if (known == header_.metadata.end()) {
    detail::refuse_io(path, {}, {}, "has digests of tensors but none of its header: damaged");
  }
  const auto start = file_.bytes().first(static_cast<std::size_t>(header_.data_start));
  const std::string_view text(reinterpret_cast<const char*>(start.data()), start.size());
  if (detail::header_digest(text) != known->second) {
    detail::refuse_io(path, {}, {}, "the header has changed since it was written: damaged");
  }
}

POLYAK_DEFINE_ON_USE const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : &header_.tensors[place->second];
}

POLYAK_DEFINE_ON_USE const SafetensorsTensor& SafetensorsFile::at(std::string_view name) const {
  const SafetensorsTensor* const tensor = find(name);
  if (tensor == nullptr) detail::refuse_io(path(), std::string(name), {}, "is not in the file");
  return *tensor;
}

POLYAK_DEFINE_ON_USE std::span<const std::byte> SafetensorsFile::bytes(
    const SafetensorsTensor& tensor) const {
  return file_.bytes().subspan(static_cast<std::size_t>(header_.data_start + tensor.begin),
                               static_cast<std::size_t>(tensor.end - tensor.begin));
}

POLYAK_DEFINE_ON_USE void SafetensorsFile::read(const SafetensorsTensor& tensor,
                                                std::uint64_t offset,
                                                std::span<std::byte> to) const {
  const std::uint64_t size = tensor.end - tensor.begin;
  if (offset > size || to.size() > size - offset) {
    detail::refuse_order("polyak: SafetensorsFile::read beyond the end of tensor \"" + tensor.name +
                         "\"");
  }
  file_.read(static_cast<std::size_t>(header_.data_start + tensor.begin + offset), to);
}

POLYAK_DEFINE_ON_USE bool SafetensorsFile::has_digests() const {
  // Look for any of the keys, because one of them may be damaged.
  const auto first = header_.metadata.lower_bound(std::string(detail::digest_key));
  return detail::has_digest && first != header_.metadata.end() &&
         first->first.starts_with(detail::digest_key);
}

POLYAK_DEFINE_ON_USE void SafetensorsFile::verify(const SafetensorsTensor& tensor) const {
  if (!has_digests()) return;
  std::string_view known;
  if (const auto one = header_.metadata.find(detail::tensor_digest_key(tensor.name));
      one != header_.metadata.end()) {
    known = one->second;
  } else if (const auto all = header_.metadata.find(std::string(detail::joint_digests_key));
             all != header_.metadata.end() &&
             all->second.size() == detail::digest_digits * header_.tensors.size()) {
    const std::size_t place = places_.find(tensor.name)->second;
    known =
        std::string_view(all->second).substr(detail::digest_digits * place, detail::digest_digits);
  } else {
    detail::refuse_io(path(), tensor.name, {}, "has no digest, others have");
  }
  const std::uint64_t size = tensor.end - tensor.begin;
  std::vector<std::byte> piece(
      static_cast<std::size_t>(std::min<std::uint64_t>(size, detail::read_at_once)));
  detail::Digest digest;
  for (std::uint64_t done = 0; done < size;) {
    const auto part = std::span(piece).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(size - done, piece.size())));
    read(tensor, done, part);
    digest.add(part);
    done += part.size();
  }
  if (digest.finish() != known) {
    detail::refuse_io(path(), tensor.name, {}, "has changed since it was written: damaged");
  }
}

POLYAK_DEFINE_ON_USE void SafetensorsFile::verify() const {
  std::vector<detail::FoundTensor> all;
  for (const SafetensorsTensor& tensor : header_.tensors) all.push_back({this, &tensor});
  detail::verify_tensors(std::move(all));
}

namespace detail {

POLYAK_DEFINE_ON_USE SafetensorsPlan::SafetensorsPlan(std::vector<SafetensorsSpec> specs,
                                                      std::map<std::string, std::string> given,
                                                      const SafetensorsWriteOptions& options)
    : metadata(std::move(given)),
      digests(options.digests && has_digest),
      joint_digests(options.joint_digests) {
  lay_out(std::move(specs));
  header = header_text();
}

POLYAK_DEFINE_ON_USE void SafetensorsPlan::lay_out(std::vector<SafetensorsSpec> specs) {
  std::sort(specs.begin(), specs.end(), [](const auto& a, const auto& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::unordered_set<std::string> names{std::string(safetensors_metadata_name)};
  std::uint64_t end = 0;
  for (SafetensorsSpec& spec : specs) {
    const std::string quoted = "tensor \"" + spec.name + "\" ";
    require(is_utf8(spec.name), quoted + "must have a name in UTF-8; its name",
            std::string_view(spec.name));
    require(names.insert(spec.name).second, "a tensor's name must be new, and not \"__metadata__\"",
            std::string_view(spec.name));
    const TensorBytes size = tensor_bytes(spec.shape, spec.dtype);
    if (size.rule != nullptr || size.bytes > std::numeric_limits<std::int64_t>::max() - end) {
      refuse_value("polyak: " + quoted +
                   (size.what != nullptr ? size.what : "does not fit into a file"));
    }
    tensors.push_back(
        {std::move(spec.name), spec.dtype, std::move(spec.shape), end, end + size.bytes});
    end += size.bytes;
  }
  for (const auto& [key, value] : metadata) {
    require(is_utf8(key) && is_utf8(value), "metadata must be UTF-8; its key",
            std::string_view(key));
    require(!key.starts_with(digest_key),
            "metadata must not begin with \"xxh3_128\", which digests do; the key",
            std::string_view(key));
  }
  if (!digests) return;
  const std::string zeros(digest_digits, '0');
  metadata.emplace(digest_key, zeros);
  if (joint_digests) {
    metadata.emplace(joint_digests_key, std::string(digest_digits * tensors.size(), '0'));
    return;
  }
  for (const SafetensorsTensor& tensor : tensors) {
    metadata.emplace(tensor_digest_key(tensor.name), zeros);
  }
}

POLYAK_DEFINE_ON_USE std::string SafetensorsPlan::header_text() const {
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  const auto listed = [](const auto& numbers) {
    std::string list = "[";
    for (const std::uint64_t number : numbers) {
      list += (list.size() == 1 ? "" : ",") + detail::text(number);
    }
    return list + "]";
  };
  std::string text(8, '\0');
  text += '{';
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      text += quoted(key) + ":" + quoted(value) + ",";
    }
    text.back() = '}';
    text += ',';
  }
  for (const SafetensorsTensor& tensor : tensors) {
    text += quoted(tensor.name) + ":{\"dtype\":\"";
    text.append(name_of(tensor.dtype)).append("\",\"shape\":").append(listed(tensor.shape));
    text += ",\"data_offsets\":" + listed(std::array{tensor.begin, tensor.end}) + "},";
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  text.append((64 - text.size() % 64) % 64, ' ');
  const std::uint64_t length = text.size() - 8;
  require(length <= safetensors_header_limit,
          "the header of a safetensors file must have at most 100000000 bytes", length);
  std::memcpy(text.data(), &length, 8);
  if (digests) {
    text.replace(header_digest_place(text), digest_digits, header_digest(text));
  }
  return text;
}

}  // namespace detail

POLYAK_DEFINE_ON_USE SafetensorsWriter::SafetensorsWriter(
    const std::filesystem::path& path, std::vector<SafetensorsSpec> specs,
    std::map<std::string, std::string> metadata, SafetensorsWriteOptions options)
    : SafetensorsWriter(detail::SafetensorsPlan(std::move(specs), std::move(metadata), options),
                        path, options.durable) {}

POLYAK_DEFINE_ON_USE SafetensorsWriter::SafetensorsWriter(detail::SafetensorsPlan plan,
                                                          const std::filesystem::path& path,
                                                          bool durable)
    : plan_(std::move(plan)) {
  file_.emplace(path, durable);
  file_->append(std::string_view(plan_.header));
  plan_.header = {};
}

POLYAK_DEFINE_ON_USE void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > data_size() - written_) {
    detail::refuse_order("polyak: SafetensorsWriter::append of more bytes than its tensors have");
  }
  if (!plan_.digests) {
    file_->append(bytes);
    written_ += bytes.size();
    return;
  }
  while (!bytes.empty()) {
    // In pieces that are still in the cache when they are written.
    const auto part = bytes.first(std::min(bytes.size(), std::size_t{1} << 18));
    file_->append(part);  // first, because it may fail
    digest(part);
    bytes = bytes.subspan(part.size());
  }
}

POLYAK_DEFINE_ON_USE void SafetensorsWriter::digest(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    while (tensors()[tensor_].end <= written_) next_tensor();
    const std::uint64_t rest = tensors()[tensor_].end - written_;
    const auto part =
        bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), rest)));
    digest_.add(part);
    written_ += part.size();
    bytes = bytes.subspan(part.size());
  }
}

POLYAK_DEFINE_ON_USE void SafetensorsWriter::stage() {
  if (written_ != data_size()) {
    detail::refuse_order("polyak: SafetensorsWriter::finish after " + detail::text(written_) +
                         " of " + detail::text(data_size()) + " bytes");
  }
  if (staged_) return;
  if (plan_.digests) {
    while (tensor_ < tensors().size()) next_tensor();
    const std::string header = plan_.header_text();
    header_digest_ = header.substr(detail::header_digest_place(header), detail::digest_digits);
    file_->write_at(0, std::as_bytes(std::span(header)));
  }
  file_->stage();
  staged_ = true;
}

POLYAK_DEFINE_ON_USE void SafetensorsWriter::finish() {
  stage();
  file_->commit();
}

POLYAK_DEFINE_ON_USE void SafetensorsWriter::next_tensor() {
  if (plan_.joint_digests) {
    plan_.metadata.find(std::string(detail::joint_digests_key))
        ->second.replace(detail::digest_digits * tensor_, detail::digest_digits, digest_.finish());
  } else {
    plan_.metadata[detail::tensor_digest_key(tensors()[tensor_].name)] = digest_.finish();
  }
  ++tensor_;
}

}  // namespace POLYAK_V0
}  // namespace polyak
