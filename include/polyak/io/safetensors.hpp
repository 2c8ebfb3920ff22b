// SPDX-License-Identifier: Apache-2.0
/// @file
/// SafetensorsFile reads a safetensors file in place; SafetensorsWriter writes one.
///
/// The rules of the format, and what is refused, are in io/safetensors_header.hpp. The format has
/// no checksum, so files are written with digests in their metadata where xxHash is there: XXH3-128
/// of each tensor ("xxh3_128:NAME") and of the header ("xxh3_128", of the length and the header
/// with its own 32 digits as zeros). Reading checks that of the header at once, those of tensors
/// when it is asked to. They detect damage, not tampering.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/digest.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/mapped_file.hpp>
#include <polyak/io/safetensors_header.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

inline constexpr std::string_view digest_key = "xxh3_128";
[[nodiscard]] inline std::string tensor_digest_key(std::string_view tensor) {
  return std::string(digest_key).append(":").append(tensor);
}
/// The k-th number of type From at any address, widened.
template <class From>
[[nodiscard]] carrier_t<From> element_at(const std::byte* bytes, std::size_t k) {
  if constexpr (scalar_bytes<From> == 2) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes + 2 * k, 2);
    return std::same_as<From, Eigen::half> ? float_from_half(bits) : float_from_bfloat16(bits);
  } else {
    From number;
    std::memcpy(&number, bytes + sizeof(From) * k, sizeof(From));
    return number;
  }
}
/// Where the header's own digest stands in its text: quotes within a name would be escaped.
[[nodiscard]] inline std::size_t header_digest_place(std::string_view header) {
  constexpr std::string_view key = "\"xxh3_128\":\"";
  const std::size_t place = header.find(key);
  return place == std::string_view::npos ? place : place + key.size();
}
/// The digest of a length and a header whose own digest counts as zeros.
[[nodiscard]] inline std::string header_digest(std::string_view length_and_header) {
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

/// A safetensors file, mapped and checked. Bytes are read when they are looked at, and are never
/// copied but by copy_to(). Safe for any number of reading threads. See MappedFile on files that
/// are cut off while they are open.
class SafetensorsFile {
 public:
  /// Throws io_error where the file cannot be read, breaks a rule of the format, or where its
  /// header is not the one that its digest was made of. `verify_header = false` leaves the digest
  /// out: for a file whose metadata another program has copied without knowing what they say.
  explicit SafetensorsFile(const std::filesystem::path& path, bool verify_header = true)
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

  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their data.
  [[nodiscard]] const std::vector<SafetensorsTensor>& tensors() const { return header_.tensors; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const {
    return header_.metadata;
  }
  /// Bytes before the data; tensors count theirs from there.
  [[nodiscard]] std::uint64_t data_start() const { return header_.data_start; }
  [[nodiscard]] const MappedFile& file() const { return file_; }

  /// The tensor of that name, or null.
  [[nodiscard]] const SafetensorsTensor* find(std::string_view name) const {
    const auto place = places_.find(name);
    return place == places_.end() ? nullptr : &header_.tensors[place->second];
  }
  /// The tensor of that name. Throws io_error where there is none.
  [[nodiscard]] const SafetensorsTensor& at(std::string_view name) const {
    const SafetensorsTensor* const tensor = find(name);
    if (tensor == nullptr) detail::refuse_io(path(), std::string(name), {}, "is not in the file");
    return *tensor;
  }

  /// The bytes of a tensor of this file, in place; at any address.
  [[nodiscard]] std::span<const std::byte> bytes(const SafetensorsTensor& tensor) const {
    return file_.bytes().subspan(static_cast<std::size_t>(header_.data_start + tensor.begin),
                                 static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// The elements of a tensor in place. Throws io_error where they are of another type than T, or
  /// lie at an address that T cannot have: files of others may put them anywhere; copy_to() reads
  /// them from there.
  template <class T>
  [[nodiscard]] std::span<const T> view(std::string_view name) const {
    const SafetensorsTensor& tensor = at(name);
    constexpr SafetensorsType type = safetensors_type(detail::dtype_of<T>());
    if (tensor.dtype != type) {
      detail::refuse_io(path(), tensor.name, {},
                        std::string("is of ")
                            .append(name_of(tensor.dtype))
                            .append(", not of ")
                            .append(name_of(type)));
    }
    const auto raw = bytes(tensor);
    if (reinterpret_cast<std::uintptr_t>(raw.data()) % alignof(T) != 0) {
      detail::refuse_io(path(), tensor.name, {}, "is not aligned for its type; copy it");
    }
    return {reinterpret_cast<const T*>(raw.data()), raw.size() / sizeof(T)};
  }

  /// Copies the elements of a tensor, of F16, BF16, F32 or F64, rounded to T where they have to be.
  /// Throws io_error for other types, std::invalid_argument where `out` has another size.
  template <ParameterScalar T>
  void copy_to(const SafetensorsTensor& tensor, std::span<T> out) const {
    const auto raw = bytes(tensor);
    require(out.size() * bits_of(tensor.dtype) == raw.size() * 8,
            "copy_to: the span must have as many elements as tensor \"" + tensor.name + "\" (" +
                detail::text(raw.size() * 8 / bits_of(tensor.dtype)) + ")",
            out.size());
    switch (tensor.dtype) {
      case SafetensorsType::F16:
        return convert<Eigen::half>(raw, out);
      case SafetensorsType::BF16:
        return convert<Eigen::bfloat16>(raw, out);
      case SafetensorsType::F32:
        return convert<float>(raw, out);
      case SafetensorsType::F64:
        return convert<double>(raw, out);
      default:
        detail::refuse_io(
            path(), tensor.name, {},
            std::string("is of ").append(name_of(tensor.dtype)) + ", which is not converted");
    }
  }
  template <ParameterScalar T>
  void copy_to(std::string_view name, std::span<T> out) const {
    copy_to(at(name), out);
  }

  /// Whether there are digests of tensors, and xxHash to check them with.
  [[nodiscard]] bool has_digests() const {
    // Any of the keys: one alone may be damaged.
    const auto first = header_.metadata.lower_bound(std::string(detail::digest_key));
    return detail::has_digest && first != header_.metadata.end() &&
           first->first.starts_with(detail::digest_key);
  }
  /// Reads a tensor and compares it with its digest. Throws io_error where it differs or lacks one.
  void verify(const SafetensorsTensor& tensor) const {
    if (!has_digests()) return;
    const auto known = header_.metadata.find(detail::tensor_digest_key(tensor.name));
    if (known == header_.metadata.end()) {
      detail::refuse_io(path(), tensor.name, {}, "has no digest, others have");
    }
    detail::Digest digest;
    digest.add(bytes(tensor));
    if (digest.finish() != known->second) {
      detail::refuse_io(path(), tensor.name, {}, "has changed since it was written: damaged");
    }
  }
  /// All tensors.
  void verify() const {
    for (const SafetensorsTensor& tensor : header_.tensors) verify(tensor);
  }

 private:
  template <class From, class T>
  static void convert(std::span<const std::byte> raw, std::span<T> out) {
    if (raw.empty()) return;
    if constexpr (std::same_as<From, T>) {
      std::memcpy(static_cast<void*>(out.data()), raw.data(), raw.size());
    } else {
      for (std::size_t k = 0; k < out.size(); ++k) {
        detail::narrow_into(out.data(), k, detail::element_at<From>(raw.data(), k));
      }
    }
  }
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };

  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> places_;
};

/// A tensor to be written.
struct SafetensorsSpec {
  std::string name;
  SafetensorsType dtype = SafetensorsType::F32;
  std::vector<std::uint64_t> shape;
};

struct SafetensorsWriteOptions {
  bool digests = true;  ///< in the metadata; left out where xxHash is not there
  bool durable = true;  ///< finish() waits for the disk
};

/// Writes a safetensors file: the header first, then the data in one stream, and puts it in place
/// atomically when it is complete.
///
/// Tensors are ordered by type, the widest first, then by name, and the data begin at a multiple of
/// 64 bytes, so every tensor is aligned for its type. A writer that ends without finish() leaves
/// nothing behind.
class SafetensorsWriter {
 public:
  /// Throws std::invalid_argument for a name that is used twice, is "__metadata__" or not UTF-8,
  /// for a tensor that does not end at a whole byte or that 64 bits cannot count, for metadata that
  /// begin with "xxh3_128", and for a header of more than 100,000,000
  /// bytes; io_error where the file cannot be written.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsSpec> specs,
                    std::map<std::string, std::string> metadata = {},
                    SafetensorsWriteOptions options = {})
      : metadata_(std::move(metadata)), digests_(options.digests && detail::has_digest) {
    lay_out(std::move(specs));
    const std::string header = header_text();
    file_.emplace(path, options.durable);
    file_->append(header);
  }

  /// In the order in which append() takes their bytes.
  [[nodiscard]] const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  /// Bytes of all tensors.
  [[nodiscard]] std::uint64_t data_size() const {
    return tensors_.empty() ? 0 : tensors_.back().end;
  }

  /// The next bytes of the data; they may cross tensors. Throws std::logic_error for more than the
  /// tensors have, io_error where the system refuses.
  void append(std::span<const std::byte> bytes) {
    if (bytes.size() > data_size() - written_) {
      detail::refuse_order("polyak: SafetensorsWriter::append of more bytes than its tensors have");
    }
    if (!digests_) {
      file_->append(bytes);
      written_ += bytes.size();
      return;
    }
    while (!bytes.empty()) {
      while (tensors_[tensor_].end <= written_) next_tensor();
      const std::uint64_t rest = tensors_[tensor_].end - written_;
      // In pieces that are still in the cache when they are written.
      const auto part = bytes.first(static_cast<std::size_t>(
          std::min<std::uint64_t>({bytes.size(), rest, std::uint64_t{1} << 18})));
      digest_.add(part);
      file_->append(part);
      written_ += part.size();
      bytes = bytes.subspan(part.size());
    }
  }

  /// Everything that can take long or fail for want of space. To replace several files as one,
  /// stage() all of them, then finish() each. Throws std::logic_error before all bytes are there.
  void stage() {
    if (written_ != data_size()) {
      detail::refuse_order("polyak: SafetensorsWriter::finish after " + detail::text(written_) +
                           " of " + detail::text(data_size()) + " bytes");
    }
    if (staged_) return;
    if (digests_) {
      while (tensor_ < tensors_.size()) next_tensor();
      const std::string header = header_text();
      file_->write_at(0, std::as_bytes(std::span(header)));
    }
    file_->stage();
    staged_ = true;
  }
  /// Puts the file in its place.
  void finish() {
    stage();
    file_->commit();
  }

 private:
  void lay_out(std::vector<SafetensorsSpec> specs) {
    std::sort(specs.begin(), specs.end(), [](const auto& a, const auto& b) {
      return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
    });
    std::unordered_set<std::string> names{std::string(detail::safetensors_metadata_name)};
    std::uint64_t end = 0;
    for (SafetensorsSpec& spec : specs) {
      const std::string quoted = "tensor \"" + spec.name + "\" ";
      require(detail::is_utf8(spec.name), quoted + "must have a name in UTF-8; its name",
              std::string_view(spec.name));
      require(names.insert(spec.name).second,
              "a tensor's name must be new, and not \"__metadata__\"", std::string_view(spec.name));
      const detail::TensorBytes size = detail::tensor_bytes(spec.shape, spec.dtype);
      if (size.rule != nullptr || size.bytes > std::numeric_limits<std::int64_t>::max() - end) {
        detail::refuse_value("polyak: " + quoted +
                             (size.what != nullptr ? size.what : "does not fit into a file"));
      }
      tensors_.push_back(
          {std::move(spec.name), spec.dtype, std::move(spec.shape), end, end + size.bytes});
      end += size.bytes;
    }
    for (const auto& [key, value] : metadata_) {
      require(detail::is_utf8(key) && detail::is_utf8(value), "metadata must be UTF-8; its key",
              std::string_view(key));
      require(!key.starts_with(detail::digest_key),
              "metadata must not begin with \"xxh3_128\", which digests do; the key",
              std::string_view(key));
    }
    if (!digests_) return;
    const std::string zeros(detail::digest_digits, '0');
    metadata_.emplace(detail::digest_key, zeros);
    for (const SafetensorsTensor& tensor : tensors_) {
      metadata_.emplace(detail::tensor_digest_key(tensor.name), zeros);
    }
  }

  /// The length and the header. Only the digits of digests change between two calls.
  [[nodiscard]] std::string header_text() const {
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
    if (!metadata_.empty()) {
      text += "\"__metadata__\":{";
      for (const auto& [key, value] : metadata_) {
        text += quoted(key) + ":" + quoted(value) + ",";
      }
      text.back() = '}';
      text += ',';
    }
    for (const SafetensorsTensor& tensor : tensors_) {
      text += quoted(tensor.name) + ":{\"dtype\":\"";
      text.append(name_of(tensor.dtype)).append("\",\"shape\":").append(listed(tensor.shape));
      text += ",\"data_offsets\":" + listed(std::array{tensor.begin, tensor.end}) + "},";
    }
    if (text.back() == ',') text.pop_back();
    text += '}';
    text.append((64 - text.size() % 64) % 64, ' ');
    const std::uint64_t length = text.size() - 8;
    require(length <= detail::safetensors_header_limit,
            "the header of a safetensors file must have at most 100000000 bytes", length);
    std::memcpy(text.data(), &length, 8);
    if (digests_) {
      text.replace(detail::header_digest_place(text), detail::digest_digits,
                   detail::header_digest(text));
    }
    return text;
  }

  void next_tensor() {
    metadata_[detail::tensor_digest_key(tensors_[tensor_].name)] = digest_.finish();
    ++tensor_;
  }

  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::optional<AtomicFile> file_;
  detail::Digest digest_;
  std::uint64_t written_ = 0;
  std::size_t tensor_ = 0;  ///< the one that `digest_` is of
  bool digests_;
  bool staged_ = false;
};

}  // namespace v0
}  // namespace polyak
