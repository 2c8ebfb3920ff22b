// SPDX-License-Identifier: Apache-2.0
// The other side of independent_reader.py, which says what numbers are in the files:
//   polyak_io_exchange write FILE          writes a file for it
//   polyak_io_exchange write-wrong FILE    writes one that it must refuse: one number is wrong
//   polyak_io_exchange read FILE           reads the file that it writes
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/io/safetensors.hpp>

namespace {

using polyak::SafetensorsType;

void demand(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

template <class T>
void append(polyak::SafetensorsWriter& writer, std::size_t count, double factor, bool wrong) {
  std::vector<T> numbers(count);
  for (std::size_t k = 0; k < count; ++k)
    numbers[k] = static_cast<T>(static_cast<double>(k) * factor);
  if (wrong) numbers[3] = 7;
  writer.append(std::as_bytes(std::span(numbers)));
}

void write(const std::string& path, bool wrong) {
  polyak::SafetensorsWriter writer(path,
                                   {{"single", SafetensorsType::F32, {3, 5}},
                                    {"odd", SafetensorsType::U8, {3}},
                                    {"gr\xc3\xb6\xc3\x9f"
                                     "er",
                                     SafetensorsType::F32,
                                     {1000}},
                                    {"half", SafetensorsType::F16, {3}},
                                    {"quo\"te\\\n", SafetensorsType::I64, {1}},
                                    {"bits", SafetensorsType::F4, {2, 3}},
                                    {"double", SafetensorsType::F64, {7}},
                                    {"scalar", SafetensorsType::F64, {}},
                                    {"nothing", SafetensorsType::F64, {2, 0}},
                                    {"whole", SafetensorsType::I64, {2, 2, 2}}},
                                   {{"from", "C++ \"\xe2\x82\xac\"\n"}});
  for (const polyak::SafetensorsTensor& tensor : writer.tensors()) {
    const std::size_t bytes = tensor.end - tensor.begin;
    switch (tensor.dtype) {
      case SafetensorsType::F32:
        append<float>(writer, bytes / 4, 0.5, wrong && tensor.name == "single");
        break;
      case SafetensorsType::F64:
        append<double>(writer, bytes / 8, 0.5, false);
        break;
      case SafetensorsType::I64:
        append<std::int64_t>(writer, bytes / 8, 1, false);
        break;
      default:
        writer.append(std::vector<std::byte>(bytes, std::byte{0x5a}));
    }
  }
  writer.finish();
}

/// The numbers, copied as T, whatever they are in the file.
template <class T>
void check_numbers(const polyak::SafetensorsFile& file, const char* name, std::size_t count) {
  std::vector<T> numbers(count);
  file.copy_to(name, std::span(numbers));
  for (std::size_t k = 0; k < count; ++k) {
    demand(static_cast<double>(numbers[k]) == static_cast<double>(k) * 0.5,
           std::string(name) + ": element " + std::to_string(k));
  }
}

void read(const std::string& path) {
  const polyak::SafetensorsFile file(path);
  demand(file.data_start() % 2 == 1, "the file was meant to be unaligned");
  demand(!file.has_digests(), "the file was meant to have no digests");
  file.verify();
  demand(file.metadata().at("from") == "pyth\xc3\xb6n", "metadata");
  const std::vector<std::string> names{"odd",
                                       "single",
                                       "nothing",
                                       "double",
                                       "scalar",
                                       "whole",
                                       "gr\xc3\xb6\xc3\x9f"
                                       "er"};
  demand(file.tensors().size() == names.size(), "the number of tensors");
  for (std::size_t k = 0; k < names.size(); ++k) {
    // "nothing" is as long as nothing: it and what begins at the same place are in either order.
    demand(file.tensors()[k].name == names[k], "the order of tensors");
  }
  for (const char* name : {"single",
                           "gr\xc3\xb6\xc3\x9f"
                           "er"}) {
    demand(file.at(name).dtype == SafetensorsType::F32, name);
    check_numbers<float>(file, name, *name == 's' ? 15 : 1000);
    check_numbers<double>(file, name, *name == 's' ? 15 : 1000);
  }
  check_numbers<float>(file, "double", 7);
  check_numbers<double>(file, "double", 7);
  check_numbers<double>(file, "scalar", 1);
  check_numbers<double>(file, "nothing", 0);
  demand(file.at("scalar").shape.empty(), "the shape of scalar");
  demand(file.at("whole").shape == std::vector<std::uint64_t>{2, 2, 2}, "the shape of whole");
  demand(file.at("nothing").shape == std::vector<std::uint64_t>{2, 0}, "the shape of nothing");
  const auto whole = file.bytes(file.at("whole"));
  for (std::size_t k = 0; k < 8; ++k) {
    std::int64_t number = 0;
    std::memcpy(&number, whole.data() + 8 * k, 8);
    demand(number == static_cast<std::int64_t>(k), "whole");
  }
  const auto odd = file.view<std::uint8_t>("odd");
  demand(std::string(odd.begin(), odd.end()) == "abc", "odd");
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string mode = count == 3 ? arguments[1] : "";
    if (mode == "read") {
      read(arguments[2]);
    } else {
      demand(mode == "write" || mode == "write-wrong", "read, write or write-wrong, and FILE");
      write(arguments[2], mode == "write-wrong");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
