// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: any bytes are either refused by a rule, or satisfy all rules.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <span>
#include <string>

#include <polyak/io/safetensors_header.hpp>

namespace {
void check(bool holds) {
  if (!holds) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::set<std::string> rules{"R1", "R2", "R3", "R4",  "R5",  "R6",
                                           "R7", "R8", "R9", "R10", "R11", "R12"};
  const auto bytes = std::as_bytes(std::span(data, size));
  polyak::SafetensorsHeader header;
  try {
    header = polyak::parse_safetensors(bytes, "input");
  } catch (const polyak::io_error& error) {
    check(rules.contains(error.rule()));
    return 0;
  }
  check(header.data_start >= 10 && header.data_start <= size);
  std::uint64_t end = 0;
  std::set<std::string> names;
  for (const polyak::SafetensorsTensor& tensor : header.tensors) {
    check(names.insert(tensor.name).second);
    check(tensor.begin == end && tensor.end >= tensor.begin);
    const auto needed = polyak::detail::tensor_bytes(tensor.shape, tensor.dtype);
    check(needed.rule == nullptr && needed.bytes == tensor.end - tensor.begin);
    end = tensor.end;
  }
  check(header.data_start + end == size);
  return 0;
}
