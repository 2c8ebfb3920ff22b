// SPDX-License-Identifier: Apache-2.0
// The state of a run, changed by a recipe, with digests made anew: it is loaded to a run that goes
// on, or refused with the run unchanged. See io/damaged_state.hpp.
#include <cstddef>
#include <cstdint>
#include <span>

#include "../io/damaged_state.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static_cast<void>(damaged_state::follow(std::span(data, size)));
  return 0;
}
