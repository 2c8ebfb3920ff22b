// SPDX-License-Identifier: Apache-2.0
/// @file
/// Checks a folder of safetensors files against its manifest: the content of valid files, and the
/// rule that each malformed file breaks.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>

#include "case.hpp"

namespace golden {
namespace {

namespace fs = std::filesystem;
using polyak::SafetensorsType;

/// A small floating-point format: the numbers of bits of exponent and mantissa, the bias, and the
/// meaning of the largest codes.
struct SmallFloat {
  int exponent_bits, mantissa_bits, bias;
  bool infinities, negative_zero_is_nan, all_ones_is_nan;
};

double decoded(unsigned code, const SmallFloat& type) {
  const int bits = 1 + type.exponent_bits + type.mantissa_bits;
  const unsigned sign = code >> (bits - 1) & 1U;
  const unsigned exponent = code >> type.mantissa_bits & ((1U << type.exponent_bits) - 1);
  const unsigned mantissa = code & ((1U << type.mantissa_bits) - 1);
  const bool top = exponent == (1U << type.exponent_bits) - 1;
  if (type.negative_zero_is_nan && sign == 1 && exponent == 0 && mantissa == 0) {
    return std::nan("");
  }
  if (type.infinities && top) {
    return mantissa != 0 ? std::nan("") : sign == 1 ? -INFINITY : INFINITY;
  }
  if (type.all_ones_is_nan && top && mantissa == (1U << type.mantissa_bits) - 1) {
    return std::nan("");
  }
  const double scale = std::ldexp(1.0, -type.mantissa_bits);
  const double value =
      exponent == 0 ? std::ldexp(mantissa * scale, 1 - type.bias)
                    : std::ldexp(1 + mantissa * scale, static_cast<int>(exponent) - type.bias);
  return sign == 1 ? -value : value;
}

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// The k-th element as a manifest lists it.
Json element(SafetensorsType type, const std::byte* bytes, std::size_t k) {
  const std::size_t bits = polyak::bits_of(type);
  const std::byte* const at = bytes + k * bits / 8;
  unsigned code = std::to_integer<unsigned>(*at);
  if (bits < 8) {  // packed, the first in the lowest bits
    const std::size_t shift = k * bits % 8;
    code = code >> shift;
    if (shift + bits > 8) {
      code |= std::to_integer<unsigned>(at[1]) << (8 - shift);
    }
    code &= (1U << bits) - 1;
  }
  switch (type) {
    case SafetensorsType::BOOL:
      return code != 0;
    case SafetensorsType::F4:
      return decoded(code, {2, 1, 1, false, false, false});
    case SafetensorsType::F6_E2M3:
      return decoded(code, {2, 3, 1, false, false, false});
    case SafetensorsType::F6_E3M2:
      return decoded(code, {3, 2, 3, false, false, false});
    case SafetensorsType::F8_E5M2:
      return decoded(code, {5, 2, 15, true, false, false});
    case SafetensorsType::F8_E4M3:
      return decoded(code, {4, 3, 7, false, false, true});
    case SafetensorsType::F8_E8M0:
      return code == 255 ? std::nan("") : std::ldexp(1.0, static_cast<int>(code) - 127);
    case SafetensorsType::F8_E4M3FNUZ:
      return decoded(code, {4, 3, 8, false, true, false});
    case SafetensorsType::F8_E5M2FNUZ:
      return decoded(code, {5, 2, 16, false, true, false});
    case SafetensorsType::U8:
      return code;
    case SafetensorsType::I8:
      return static_cast<int>(read<std::int8_t>(at));
    case SafetensorsType::I16:
      return read<std::int16_t>(at);
    case SafetensorsType::U16:
      return read<std::uint16_t>(at);
    case SafetensorsType::F16:
      return static_cast<double>(polyak::detail::float_from_half(read<std::uint16_t>(at)));
    case SafetensorsType::BF16:
      return static_cast<double>(polyak::detail::float_from_bfloat16(read<std::uint16_t>(at)));
    case SafetensorsType::I32:
      return read<std::int32_t>(at);
    case SafetensorsType::U32:
      return read<std::uint32_t>(at);
    case SafetensorsType::F32:
      return static_cast<double>(read<float>(at));
    case SafetensorsType::C64:
      return Json::array({read<float>(at), read<float>(at + 4)});
    case SafetensorsType::F64:
      return read<double>(at);
    case SafetensorsType::I64:
      return read<std::int64_t>(at);
    case SafetensorsType::U64:
      return read<std::uint64_t>(at);
  }
  return nullptr;
}

/// Whether two numbers are equal; NaN equals NaN. Numbers that are not finite may be recorded by
/// their names.
bool same(const Json& recorded, const Json& found) {
  if (recorded.is_boolean() || found.is_boolean() || recorded.is_array()) {
    return recorded == found;
  }
  if (recorded.is_number_integer() && found.is_number_integer()) {
    return recorded == found;
  }
  if (recorded.is_null()) {
    return found.is_number_float() && std::isnan(found.get<double>());
  }
  const double a = number_of(recorded, "values"), b = found.get<double>();
  return a == b ? std::signbit(a) == std::signbit(b) || a != 0 : std::isnan(a) && std::isnan(b);
}

void check(bool holds, const std::string& what) {
  if (!holds) {
    throw Malformed(what);
  }
}

void check_valid(const fs::path& path, const Section& from, Report& report) {
  const std::string name = path.filename().string();
  const polyak::SafetensorsFile file(path);
  const auto equal = [&](const std::string& key, std::uint64_t found) {
    if (from.has(key)) {
      report.compare(name + ": " + key, static_cast<double>(found), from.number(key), exact);
    }
  };
  equal("header_length", file.data_start() - 8);
  equal("file_size", fs::file_size(path));
  if (from.has("metadata")) {
    check(from.at("metadata").get<std::map<std::string, std::string>>() == file.metadata(),
          name + ": the metadata differ");
  }
  if (from.has("note")) {
    (void)from.at("note");
  }
  const Json& tensors = from.at("tensors");
  check(tensors.size() == file.tensors().size(),
        name + " has " + std::to_string(file.tensors().size()) + " tensors, the manifest " +
            std::to_string(tensors.size()));
  for (const auto& [key, recorded] : tensors.items()) {
    const std::string place = name + ": " + key;
    const polyak::SafetensorsTensor* const tensor = file.find(key);
    check(tensor != nullptr, place + " is not in the file");
    for (const auto& [field, value] : recorded.items()) {
      if (field == "dtype") {
        check(value == std::string(name_of(tensor->dtype)), place + ": dtype differs");
      } else if (field == "shape") {
        check(value.get<std::vector<std::uint64_t>>() == tensor->shape, place + ": shape differs");
      } else if (field == "data_offsets") {
        check(value == Json::array({tensor->begin, tensor->end}), place + ": offsets differ");
      } else if (field == "file_offset") {
        check(value == Json(file.data_start() + tensor->begin), place + ": file_offset differs");
      } else if (field == "values") {
        const auto bytes = file.bytes(*tensor);
        const std::size_t count = bytes.size() * 8 / polyak::bits_of(tensor->dtype);
        check(value.size() == count, place + " has " + std::to_string(count) + " elements");
        for (std::size_t k = 0; k < count; ++k) {
          const Json found = element(tensor->dtype, bytes.data(), k);
          check(same(value[k], found), place + "[" + std::to_string(k) + "] is " + found.dump() +
                                           ", the manifest says " + value[k].dump());
          report.check(place, true);
        }
      } else {
        throw Malformed(place + ": " + field + " is not known");
      }
    }
  }
}

void check_malformed(const fs::path& path, const Section& from, Report& report) {
  const std::string name = path.filename().string();
  check(fs::exists(path), name + " does not exist");
  for (const char* key : {"note", "reference_outcome", "strict_validator_outcome"}) {
    if (from.has(key)) {
      (void)from.at(key);
    }
  }
  if (from.has("file_size")) {
    report.compare(name + ": file_size", static_cast<double>(fs::file_size(path)),
                   from.number("file_size"), exact);
  }
  const std::string rule = from.text("rule");
  try {
    if (path.extension() == ".json") {
      const polyak::SafetensorsModel model(path);
    } else {
      const polyak::SafetensorsFile file(path);
    }
  } catch (const polyak::io_error& error) {
    check(error.rule() == rule,
          name + ": refused by " + error.rule() + ", not " + rule + ": " + error.what());
    report.check(name, true);
    return;
  }
  throw Malformed(name + " is accepted, though it breaks " + rule);
}

}  // namespace

Report check_manifest(const Json& manifest, const fs::path& folder) {
  Report report;
  for (const auto& [group, files] : manifest.items()) {
    check(group == "valid" || group == "malformed", "\"" + group + "\" is not known");
    for (const auto& [name, recorded] : files.items()) {
      std::set<const Json*> read;
      const Section from(recorded, name, read);
      if (group == "valid") {
        check_valid(folder / name, from, report);
      } else {
        check_malformed(folder / name, from, report);
      }
      for (const auto& [key, value] : recorded.items()) {
        check(value.is_null() || read.count(&value) != 0, name + ": " + key + " is not known");
      }
    }
  }
  // The files of an index, read as one model.
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(index)) {
    const polyak::SafetensorsModel model(index);
    check(!model.names().empty(), "the index names no tensors");
    check(model.unlisted().empty(), "a file of the index has tensors that it does not name");
    for (const std::string& name : model.names()) {
      const auto file = model.file_of(name)->path().filename().string();
      check(manifest.at("valid").contains(file) &&
                manifest.at("valid").at(file).at("tensors").contains(name),
            "the index names " + name + " in " + file + ", the manifest does not");
      report.check(name, true);
    }
  }
  return report;
}

}  // namespace golden
