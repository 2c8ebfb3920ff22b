// SPDX-License-Identifier: Apache-2.0
// Prints the level of dispatch and a digest of a fixed run of AdamW with an Ema, which is the same
// on all processors that fuse multiply-adds. Where the library refuses to run it prints the reason
// and returns 3, or 1 if anything had changed.
#include <polyak/polyak.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>

namespace {

constexpr std::size_t size = 1003;
using Numbers = std::array<float, size>;

/// Numbers in [-1, 1) that look random.
void fill(Numbers& numbers, std::uint32_t seed) {
  std::uint32_t word = seed * 2654435761U + 1;
  for (float& number : numbers) {
    word ^= word << 13;
    word ^= word >> 17;
    word ^= word << 5;
    number = static_cast<float>(static_cast<std::int32_t>(word) >> 8) * 0x1p-23F;
  }
}

std::uint64_t digest(std::uint64_t hash, const float* numbers) {
  for (std::size_t k = 0; k < size; ++k) {
    std::uint32_t bits;
    std::memcpy(&bits, numbers + k, sizeof bits);
    hash = (hash ^ bits) * 0x100000001b3U;
  }
  return hash;
}

const char* name_of(polyak::DispatchLevel level) {
  switch (level) {
    case polyak::DispatchLevel::baseline:
      return "baseline";
    case polyak::DispatchLevel::x86_64_v3:
      return "x86-64-v3";
    default:
      return "x86-64-v4";
  }
}

}  // namespace

int main() {
  static Numbers weights, gradient, start;
  fill(weights, 1);
  start = weights;
  polyak::Parameters params;
  params.add("weights", weights);
  const auto gradients = polyak::like(params, gradient);
  polyak::AdamW adamw(params, {.learning_rate = 0.01, .weight_decay = 0.1});
  try {
    fill(gradient, 2);
    adamw.step(params, gradients);
    polyak::Ema ema(params, {.decay = 0.9});
    for (std::uint32_t step = 0; step < 50; ++step) {
      fill(gradient, step + 3);
      polyak::step(params, gradients, adamw, ema);
    }
    const std::uint64_t hash =
        digest(digest(0xcbf29ce484222325U, weights.data()), ema.view()[0].data());
    std::printf("%s %016llx\n", name_of(polyak::dispatch_level()),
                static_cast<unsigned long long>(hash));
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return adamw.count() == 0 && weights == start ? 3 : 1;
  }
}
