// SPDX-License-Identifier: Apache-2.0
/// @file
/// SafetensorsFile reads a safetensors file in place; SafetensorsWriter writes one.
///
/// io/safetensors_header.hpp lists the rules of the format and what is refused. The format has no
/// checksum, so if xxHash is available, files get digests in their metadata: XXH3-128 of each
/// tensor ("xxh3_128:NAME") and of the header ("xxh3_128", of the length and the header with its
/// own 32 digits as zeros). A file of very many tensors may have those of all tensors in one entry,
/// "xxh3_128s", in the order of their data. Opening a file checks the digest of the header;
/// verify() checks the digests of tensors. Digests detect damage, not tampering.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/atomic_file.hpp>
#include <polyak/io/digest.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/mapped_file.hpp>
#include <polyak/io/safetensors_header.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

inline constexpr std::string_view digest_key = "xxh3_128";
inline constexpr std::string_view joint_digests_key = "xxh3_128s";
POLYAK_ON_USE [[nodiscard]] std::string tensor_digest_key(std::string_view tensor);
/// The k-th number of type From at any address, widened to the computing type.
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

}  // namespace detail

/// A safetensors file, mapped and checked. bytes() and view() show its data in place, read on
/// access; copy_to() and verify() read it without the map. Safe for any number of reading threads.
/// MappedFile describes the effect of truncating an open file.
class SafetensorsFile {
 public:
  /// Throws io_error if the file cannot be read or breaks a rule of the format, or if its header
  /// does not match its digest. `verify_header = false` skips the digest, for files whose metadata
  /// another program has copied without updating the digest.
  POLYAK_ON_USE explicit SafetensorsFile(const std::filesystem::path& path,
                                         bool verify_header = true);

  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their data.
  [[nodiscard]] const std::vector<SafetensorsTensor>& tensors() const { return header_.tensors; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const {
    return header_.metadata;
  }
  /// Bytes before the data; offsets of tensors are relative to this place.
  [[nodiscard]] std::uint64_t data_start() const { return header_.data_start; }
  [[nodiscard]] const MappedFile& file() const { return file_; }

  /// The tensor with this name, or null.
  POLYAK_ON_USE [[nodiscard]] const SafetensorsTensor* find(std::string_view name) const;
  /// The tensor with this name. Throws io_error if there is none.
  POLYAK_ON_USE [[nodiscard]] const SafetensorsTensor& at(std::string_view name) const;

  /// The bytes of a tensor of this file, in place. The address may be unaligned.
  POLYAK_ON_USE [[nodiscard]] std::span<const std::byte> bytes(
      const SafetensorsTensor& tensor) const;

  /// The elements of a tensor, in place. Throws io_error if their type is not T or their address is
  /// not aligned for T. Other programs may write unaligned tensors; copy_to() reads them.
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

  /// Copies bytes of a tensor from `offset` on, as MappedFile::read() does.
  POLYAK_ON_USE void read(const SafetensorsTensor& tensor, std::uint64_t offset,
                          std::span<std::byte> to) const;

  /// Copies the elements of a tensor, of F16, BF16, F32 or F64, rounded to T if necessary. Throws
  /// io_error for other types, std::invalid_argument if `out` has another size.
  template <ParameterScalar T>
  void copy_to(const SafetensorsTensor& tensor, std::span<T> out) const {
    const std::uint64_t size = (tensor.end - tensor.begin) * 8 / bits_of(tensor.dtype);
    require(out.size() == size,
            "copy_to: the span must have as many elements as tensor \"" + tensor.name + "\" (" +
                detail::text(size) + ")",
            out.size());
    copy_part(tensor, 0, out);
  }
  /// The same for elements from `first` on. Throws std::logic_error beyond the end of the tensor.
  template <ParameterScalar T>
  void copy_part(const SafetensorsTensor& tensor, std::uint64_t first, std::span<T> out) const {
    switch (tensor.dtype) {
      case SafetensorsType::F16:
        return convert<Eigen::half>(tensor, first, out);
      case SafetensorsType::BF16:
        return convert<Eigen::bfloat16>(tensor, first, out);
      case SafetensorsType::F32:
        return convert<float>(tensor, first, out);
      case SafetensorsType::F64:
        return convert<double>(tensor, first, out);
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

  /// Whether the file has digests of tensors and xxHash is available to check them.
  POLYAK_ON_USE [[nodiscard]] bool has_digests() const;
  /// Reads a tensor and compares it with its digest. Throws io_error if it differs or has no
  /// digest.
  POLYAK_ON_USE void verify(const SafetensorsTensor& tensor) const;
  /// All tensors, shared by a few threads (io/shared_work.hpp).
  POLYAK_ON_USE void verify() const;

 private:
  template <class From, class T>
  void convert(const SafetensorsTensor& tensor, std::uint64_t first, std::span<T> out) const {
    constexpr std::size_t bytes = detail::scalar_bytes<From>;
    if constexpr (std::same_as<From, T>) {
      read(tensor, first * bytes, std::as_writable_bytes(out));
    } else {
      // In pieces that are still in the cache when they are converted.
      constexpr std::size_t most = 8192;
      std::byte piece[most * bytes];
      for (std::size_t done = 0; done < out.size(); done += most) {
        const std::size_t count = out.size() - done < most ? out.size() - done : most;
        read(tensor, (first + done) * bytes, std::span(piece).first(count * bytes));
        for (std::size_t k = 0; k < count; ++k) {
          detail::narrow_into(out.data() + done, k, detail::element_at<From>(piece, k));
        }
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
  bool digests = true;  ///< in the metadata; left out without xxHash
  bool durable = true;  ///< finish() waits for the disk
  /// Writes the digests of all tensors as one entry, for a short header. Version 0.1 does not
  /// read such files.
  bool joint_digests = false;
};

namespace detail {

/// The header of a file to be written. All that can be refused of it is refused before there is a
/// file.
struct SafetensorsPlan {
  /// Throws std::invalid_argument as SafetensorsWriter does.
  POLYAK_ON_USE SafetensorsPlan(std::vector<SafetensorsSpec> specs,
                                std::map<std::string, std::string> given,
                                const SafetensorsWriteOptions& options);

  /// The length and the header. Two calls differ only in the digits of digests.
  POLYAK_ON_USE [[nodiscard]] std::string header_text() const;

  std::vector<SafetensorsTensor> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
  bool digests, joint_digests;
  std::string header;  ///< the first text, whose digests are zeros

 private:
  POLYAK_ON_USE void lay_out(std::vector<SafetensorsSpec> specs);
};

}  // namespace detail

/// Writes a safetensors file: first the header, then the data in one stream. The complete file
/// atomically replaces an old one.
///
/// Tensors are ordered by type, the widest first, then by name, and the data begin at a multiple of
/// 64 bytes, so every tensor is aligned for its type. A writer that is destroyed without finish()
/// leaves nothing behind.
class SafetensorsWriter {
 public:
  /// Throws std::invalid_argument for a name that is used twice, is "__metadata__" or not UTF-8,
  /// for a tensor that does not end at a whole byte or whose size needs more than 64 bits, for
  /// metadata keys that begin with "xxh3_128", and for a header of more than 100,000,000 bytes;
  /// io_error if the file cannot be written.
  POLYAK_ON_USE SafetensorsWriter(const std::filesystem::path& path,
                                  std::vector<SafetensorsSpec> specs,
                                  std::map<std::string, std::string> metadata = {},
                                  SafetensorsWriteOptions options = {});
  /// Writes a file whose header is known. Throws io_error if the file cannot be written.
  POLYAK_ON_USE SafetensorsWriter(detail::SafetensorsPlan plan, const std::filesystem::path& path,
                                  bool durable);

  /// In the order in which append() takes their bytes.
  [[nodiscard]] const std::vector<SafetensorsTensor>& tensors() const { return plan_.tensors; }
  /// Bytes of all tensors.
  [[nodiscard]] std::uint64_t data_size() const {
    return tensors().empty() ? 0 : tensors().back().end;
  }
  /// The digest of the header, which has those of all tensors: empty before stage(), and without
  /// digests.
  [[nodiscard]] const std::string& digest() const { return header_digest_; }

  /// Appends bytes of the data; they may belong to several tensors. Throws std::logic_error for
  /// more bytes than the tensors have, io_error if a system call fails.
  POLYAK_ON_USE void append(std::span<const std::byte> bytes);

  /// Does everything that can take long or fail for lack of space. To replace several files as one,
  /// stage() all of them, then finish() each. Throws std::logic_error before all bytes have been
  /// appended.
  POLYAK_ON_USE void stage();
  /// Replaces the old file.
  POLYAK_ON_USE void finish();

 private:
  /// Adds bytes to the digests of the tensors that they belong to.
  POLYAK_ON_USE void digest(std::span<const std::byte> bytes);
  POLYAK_ON_USE void next_tensor();

  detail::SafetensorsPlan plan_;
  std::optional<AtomicFile> file_;
  detail::Digest digest_;
  std::uint64_t written_ = 0;
  std::size_t tensor_ = 0;  ///< the tensor of `digest_`
  std::string header_digest_;
  bool staged_ = false;
};

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/safetensors.ipp>
#endif
