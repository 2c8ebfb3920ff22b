// SPDX-License-Identifier: Apache-2.0
// The index of a model of several files: any bytes are refused, or name files beside it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include <polyak/io/safetensors_index.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    for (const auto& [name, file] :
         polyak::detail::parse_index(std::as_bytes(std::span(data, size)), "input")) {
      if (file.empty() || file == ".." || file.find('/') != std::string::npos) std::abort();
    }
  } catch (const polyak::io_error&) {
  }
  return 0;
}
