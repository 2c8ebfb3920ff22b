// SPDX-License-Identifier: Apache-2.0
// Commits the misuse whose number is given. With exceptions it prints the message of the exception
// and returns 3; without them the library prints the message and ends the program.
#include <polyak/polyak.hpp>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <vector>

namespace {

void misuse(int which) {
  std::vector<float> weights{1.0F, 2.0F, 3.0F};
  polyak::Parameters params;
  params.add("weights", weights.data(), {3});
  switch (which) {
    case 0: {
      const polyak::Ema ema(params, {.decay = 1.5});
      break;
    }
    case 1: {
      const polyak::Ema ema(params, {.decay = std::numeric_limits<double>::quiet_NaN()});
      break;
    }
    case 2: {
      const polyak::Sgd sgd(params, {.momentum = 0.9});
      break;
    }
    case 3: {
      const polyak::AdamW adamw(params, {.learning_rate = std::numeric_limits<double>::infinity()});
      break;
    }
    case 4: {
      const polyak::Swa swa(params);
      swa.copy_to(params);
      break;
    }
    default:
      std::puts("no such misuse");
      std::exit(2);
  }
  std::puts("not refused");
  std::exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  const int which = argc == 2 ? std::atoi(argv[1]) : -1;
#if defined(__cpp_exceptions)
  try {
    misuse(which);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
#else
  misuse(which);
#endif
}
