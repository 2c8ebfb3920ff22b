// SPDX-License-Identifier: Apache-2.0
/// @file
/// A training run that is small, and complete: what tests save, load and kill.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/state.hpp>
#include <polyak/io/save.hpp>
#include <polyak/optim/adamw.hpp>

#include "bits.hpp"

using Bytes = std::vector<std::byte>;

/// Two matrices, a vector, a buffer, a counter; AdamW and two averages.
struct Run {
  std::vector<float> w, b, scale, mean = {1, 2};
  std::vector<std::int64_t> seen{0};
  std::vector<float> gw, gb, gscale;
  polyak::Parameters<float> params;
  polyak::Gradients<float> grads;
  polyak::AdamW<float> adamw;
  polyak::Ema<float> ema;
  polyak::PowerEma<float> power;

  explicit Run(polyak::AdamWOptions adamw_options = {}, polyak::EmaOptions ema_options = {},
               double gamma = 7)
      : w(numbers(12, 1)),
        b(numbers(5, 2)),
        scale(numbers(1, 3)),
        gw(12),
        gb(5),
        gscale(1),
        params(list()),
        grads(polyak::like(params, gw, gb, gscale)),
        adamw(params, adamw_options),
        ema(params, ema_options),
        power(params, {.gamma = gamma}) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  static std::vector<float> numbers(std::size_t count, std::uint64_t seed) {
    std::vector<float> list(count);
    for (std::size_t k = 0; k < count; ++k) list[k] = static_cast<float>(bits::uniform(k, seed));
    return list;
  }
  polyak::Parameters<float> list() {
    polyak::Parameters<float> tensors;
    tensors.add("fc.weight", w, {3, 4}).add("fc.bias", b).add("scale", scale.data(), {});
    tensors.add("bn.mean", mean, polyak::Role::copy).add("seen", seen, polyak::Role::ignore);
    tensors.add("tied.weight", w, {3, 4});
    return tensors;
  }
  void step(std::uint64_t number) {
    std::uint64_t seed = 10 * number;
    for (auto* gradient : {&gw, &gb, &gscale}) {  // in place: `grads` knows their memory
      const auto drawn = numbers(gradient->size(), seed++);
      std::copy(drawn.begin(), drawn.end(), gradient->begin());
    }
    mean[0] += 1;
    ++seen[0];
    power.at(1 + static_cast<double>(number % 3));
    adamw.at(0.01 / static_cast<double>(number + 1));
    polyak::step(params, grads, adamw, ema, power);
  }
  std::vector<Bytes> bytes() {
    return {bits::bytes(w),           bits::bytes(b),
            bits::bytes(scale),       bits::bytes(mean),
            bits::bytes(seen),        polyak::state_bytes(adamw),
            polyak::state_bytes(ema), polyak::state_bytes(power)};
  }
  void save(const std::string& path) { polyak::save(path, params, adamw, ema, power); }
  polyak::LoadReport load(const std::string& path, const polyak::LoadOptions& options = {}) {
    return polyak::load(path, options, params, adamw, ema, power);
  }
};
