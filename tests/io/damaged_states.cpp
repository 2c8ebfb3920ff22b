// SPDX-License-Identifier: Apache-2.0
// States that are changed at random, with digests made anew: damaged_state.hpp.
//   polyak_io_damaged_states COUNT [FIRST]
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "damaged_state.hpp"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

std::uint64_t current = 0;

void say_which() {
  std::fprintf(stderr, "at recipe %llu\n", static_cast<unsigned long long>(current));
}

}  // namespace

int main(int count, char** arguments) {
  const std::uint64_t recipes = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1000;
  const std::uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(say_which);
  std::signal(SIGABRT, [](int) { say_which(); });
  std::array<std::uint64_t, 3> outcomes{};
  for (current = first; current < first + recipes; ++current) {
    std::array<std::uint8_t, 96> bytes;
    std::uint64_t state = current * 0x9e3779b97f4a7c15u;
    for (std::uint8_t& byte : bytes) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      byte = static_cast<std::uint8_t>((state + 0x9e3779b97f4a7c15u) >> 56);
    }
    ++outcomes[static_cast<std::size_t>(damaged_state::follow(bytes))];
  }
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("%llu states: %llu taken, %llu refused, %llu that no file can hold\n",
              number(recipes), number(outcomes[0]), number(outcomes[1]), number(outcomes[2]));
  return outcomes[0] > 0 && outcomes[1] > 0 ? 0 : 1;  // a test that sees both
}
