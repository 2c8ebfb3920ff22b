// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/safetensors_header.hpp.
///
/// Above 300 lines: one parser receives the events and checks the rules in the order of the format.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors_header.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE_ON_USE bool is_utf8(std::string_view text) {
  for (std::size_t k = 0; k < text.size();) {
    const auto byte = [&](std::size_t n) {
      return k + n < text.size() ? static_cast<unsigned char>(text[k + n]) : 0U;
    };
    const unsigned lead = byte(0);
    const std::size_t length = lead < 0x80    ? 1
                               : lead < 0xc2  ? 0
                               : lead < 0xe0  ? 2
                               : lead < 0xf0  ? 3
                               : lead <= 0xf4 ? 4
                                              : 0;
    if (length == 0) return false;
    for (std::size_t n = 1; n < length; ++n) {
      if ((byte(n) & 0xc0) != 0x80) return false;
    }
    if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) ||
        (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) {
      return false;
    }
    k += length;
  }
  return true;
}

POLYAK_DEFINE_ON_USE TensorBytes tensor_bytes(std::span<const std::uint64_t> shape,
                                              SafetensorsType type) {
  std::uint64_t product = 1;
  const auto multiply = [&](std::uint64_t factor) {
    if (factor != 0 && product > std::numeric_limits<std::uint64_t>::max() / factor) return false;
    product *= factor;
    return true;
  };
  for (const std::uint64_t extent : shape) {
    if (!multiply(extent)) return {0, "R10", "has more elements than 64 bits can count"};
  }
  if (!multiply(bits_of(type))) return {0, "R10", "has more bits than 64 bits can count"};
  if (product % 8 != 0) return {0, "R11", "does not end at a whole byte"};
  return {product / 8};
}

/// Receives the events of nlohmann's parser, which keeps its own stack, and fills a header. It
/// records the first fault and reads on, because broken JSON takes precedence over a wrong entry.
class SafetensorsEvents {
 public:
  struct Fault {
    std::string tensor, rule, what;
  };
  SafetensorsHeader header;
  std::optional<Fault> fault;

  bool null() {
    if (where() == Where::root && key_ == safetensors_metadata_name) return true;
    return other("null");
  }
  bool boolean(bool) { return other("a boolean"); }
  bool number_integer(std::int64_t) { return other("a negative number"); }
  bool number_float(double, const std::string&) {
    return other("a number with a fraction or an exponent, or beyond 64 bits");
  }
  bool number_unsigned(std::uint64_t number) {
    if (where() == Where::shape) {
      tensor_.shape.push_back(number);
      return true;
    }
    if (where() == Where::offsets) {
      offsets_.push_back(number);
      return true;
    }
    return other("a number");
  }
  bool string(std::string& text) {
    if (where() == Where::metadata) {
      header.metadata.emplace(std::move(key_), std::move(text));
      return true;
    }
    if (where() != Where::entry || field_ != "dtype") return other("a string");
    for (std::size_t k = 0; k < safetensors_types.size(); ++k) {
      if (safetensors_types[k].name != text) continue;
      tensor_.dtype = static_cast<SafetensorsType>(k);
      return true;
    }
    return entry_fault("has the unknown dtype " + detail::text(std::string_view(text)));
  }
  template <class Binary>
  bool binary(Binary&) {
    return false;  // not in JSON
  }

  bool start_object(std::size_t) {
    switch (where()) {
      case Where::outside:
        return enter(Where::root);
      case Where::root:
        if (key_ == safetensors_metadata_name) {
          keys_.clear();
          return enter(Where::metadata);
        }
        tensor_ = {};
        tensor_.name = key_;
        offsets_.clear();
        fields_.clear();
        return enter(Where::entry);
      default:
        other("an object");
        return enter(Where::ignored);
    }
  }
  bool key(std::string& name) {
    switch (where()) {
      case Where::root:
        key_ = name;
        if (!names_.insert(name).second) {
          note(name == safetensors_metadata_name ? "" : name, "R6",
               name == safetensors_metadata_name ? "\"__metadata__\" is listed twice"
                                                 : "is listed twice");
        }
        break;
      case Where::metadata:
        key_ = name;
        if (!keys_.insert(name).second) {
          note({}, "R6", "metadata " + detail::text(std::string_view(name)) + " is listed twice");
        }
        break;
      case Where::entry:
        field_ = name;
        if (!fields_.insert(name).second) {
          note(tensor_.name, "R6",
               "the field " + detail::text(std::string_view(name)) + " is listed twice");
        }
        break;
      default:
        break;
    }
    return true;
  }
  bool end_object() {
    if (where() == Where::entry) end_entry();
    stack_.pop_back();
    return true;
  }
  bool start_array(std::size_t) {
    if (where() == Where::entry && field_ == "shape") return enter(Where::shape);
    if (where() == Where::entry && field_ == "data_offsets") return enter(Where::offsets);
    other("an array");
    return enter(Where::ignored);
  }
  bool end_array() {
    stack_.pop_back();
    return true;
  }
  template <class Error>
  bool parse_error(std::size_t position, const std::string&, const Error&) {
    syntax_ = position;
    return false;
  }

  /// The position of a syntax error.
  [[nodiscard]] std::size_t syntax_position() const { return syntax_; }
  [[nodiscard]] bool too_deep() const { return stack_.size() >= depth_limit; }

 private:
  enum class Where : std::uint8_t { outside, root, metadata, entry, shape, offsets, ignored };
  static constexpr std::size_t depth_limit = 128;

  [[nodiscard]] Where where() const { return stack_.empty() ? Where::outside : stack_.back(); }
  bool enter(Where next) {
    if (too_deep()) return false;
    stack_.push_back(next);
    return true;
  }
  void note(std::string tensor, const char* rule, std::string what) {
    if (!fault) fault = Fault{std::move(tensor), rule, std::move(what)};
  }
  bool entry_fault(std::string what) {
    note(tensor_.name, "R8", std::move(what));
    return true;
  }
  /// Handles a value in a wrong place.
  bool other(const char* value) {
    switch (where()) {
      case Where::outside:
        note({}, "R5", std::string("the header is ") + value + ", not an object");
        break;
      case Where::root:
        if (key_ == safetensors_metadata_name) {
          note({}, "R7",
               std::string("\"__metadata__\" is ") + value + ", not an object of strings");
        } else {
          note(key_, "R8", std::string("is ") + value + ", not an object");
        }
        break;
      case Where::metadata:
        note(
            {}, "R7",
            "metadata " + detail::text(std::string_view(key_)) + " is " + value + ", not a string");
        break;
      case Where::entry:
        if (field_ == "dtype" || field_ == "shape" || field_ == "data_offsets") {
          entry_fault(field_ + " is " + value);
        }
        break;
      case Where::shape:
        entry_fault(std::string("shape has ") + value);
        break;
      case Where::offsets:
        entry_fault(std::string("data_offsets has ") + value);
        break;
      case Where::ignored:
        break;
    }
    return true;
  }
  void end_entry() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!fields_.contains(field)) entry_fault(std::string("lacks ") + field);
    }
    if (fields_.contains("data_offsets") && offsets_.size() != 2) {
      entry_fault("data_offsets has " + detail::text(offsets_.size()) + " numbers, not 2");
    }
    if (fault) return;
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    header.tensors.push_back(std::move(tensor_));
  }

  std::vector<Where> stack_;
  std::string key_, field_;
  SafetensorsTensor tensor_;
  std::vector<std::uint64_t> offsets_;
  std::unordered_set<std::string> names_, keys_;
  std::set<std::string> fields_;
  std::size_t syntax_ = 0;
};

/// Checks rules R9 to R12 for tensors in the order of their data.
POLYAK_ON_USE inline void check_data(const SafetensorsHeader& header, std::uint64_t file_size,
                                     const std::filesystem::path& path) {
  std::uint64_t last = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    const auto refuse = [&](const char* rule, std::string what) {
      refuse_io(path, tensor.name, rule, std::move(what));
    };
    if (tensor.begin != last) {
      refuse("R9", "begins at " + text(tensor.begin) +
                       (tensor.begin < last ? ", within" : ", after") + " what ends at " +
                       text(last));
    }
    if (tensor.end < tensor.begin) {
      refuse("R9", "ends at " + text(tensor.end) + ", before it begins at " + text(tensor.begin));
    }
    const TensorBytes size = tensor_bytes(tensor.shape, tensor.dtype);
    if (size.rule != nullptr) refuse(size.rule, size.what);
    if (size.bytes != tensor.end - tensor.begin) {
      refuse("R11", "has " + text(tensor.end - tensor.begin) + " bytes, its shape needs " +
                        text(size.bytes));
    }
    last = tensor.end;
  }
  const std::uint64_t data = file_size - header.data_start;
  if (last != data) {
    refuse_io(path, {}, "R12",
              "has " + text(data) + " bytes of data, its tensors need " + text(last));
  }
}

}  // namespace detail

POLYAK_DEFINE_ON_USE SafetensorsHeader parse_safetensors(std::span<const std::byte> file,
                                                         const std::filesystem::path& path) {
  using detail::refuse_io;
  using detail::text;
  static_assert(std::endian::native == std::endian::little,
                "polyak: safetensors are little-endian, and so must the host be");
  if (file.size() < 8) {
    refuse_io(path, {}, "R1", "has " + text(file.size()) + " bytes, fewer than the 8 of a length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > detail::safetensors_header_limit) {
    refuse_io(path, {}, "R2", "says that its header has " + text(length) + " bytes");
  }
  if (length > file.size() - 8) {
    refuse_io(path, {}, "R3",
              "says that its header has " + text(length) + " bytes, and has " +
                  text(file.size() - 8) + " altogether");
  }
  const std::string_view words(reinterpret_cast<const char*>(file.data()) + 8,
                               static_cast<std::size_t>(length));
  if (words.starts_with("\xef\xbb\xbf")) refuse_io(path, {}, "R4", "begins with a byte-order mark");
  if (!detail::is_utf8(words)) refuse_io(path, {}, "R4", "the header is not UTF-8");
  // The parser would treat a zero byte as the end.
  if (words.find('\0') != std::string_view::npos)
    refuse_io(path, {}, "R5", "the header has a zero");
  detail::SafetensorsEvents events;
  if (!nlohmann::json::sax_parse(words.begin(), words.end(), &events)) {
    refuse_io(path, {}, "R5",
              events.too_deep()
                  ? "the header is nested too deeply"
                  : "the header is not JSON from byte " + text(events.syntax_position()) + " on");
  }
  if (events.fault) {
    refuse_io(path, events.fault->tensor, events.fault->rule, events.fault->what);
  }
  SafetensorsHeader header = std::move(events.header);
  header.data_start = 8 + length;
  std::sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  detail::check_data(header, file.size(), path);
  return header;
}

}  // namespace POLYAK_V0
}  // namespace polyak
