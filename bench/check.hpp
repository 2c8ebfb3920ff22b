// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cases.hpp"
#include "ensemble.hpp"
#include "racer.hpp"

namespace polyak_bench {

/// How many floats lie between two finite numbers; the largest number where one is not finite.
inline std::int64_t ulps_between(float a, float b) {
  const auto place = [](float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits < 0 ? std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits
                    : std::int64_t{bits};
  };
  const float zero = 0 * a + 0 * b;  // NaN where either is not finite
  if (zero != 0) return std::numeric_limits<std::int64_t>::max();
  const std::int64_t distance = place(a) - place(b);
  return distance < 0 ? -distance : distance;
}

/// The parameters and averages after each of a few steps along gradients of changing length:
/// errors of later steps could cancel those of earlier ones.
inline std::vector<float> race(const MakeRacer& make, const Setting& setting) {
  const std::unique_ptr<Racer> racer = make(setting);
  std::vector<float> results;
  for (const float factor : {1.0F, 0.5F, 2.0F, -0.125F, 0.0625F}) {
    racer->scale_gradients(factor);
    racer->pass();
    const std::vector<float> now = racer->results();
    results.insert(results.end(), now.begin(), now.end());
  }
  return results;
}

/// The competitors that disagree with the library's results, if any: the limit kernels by more than
/// the subject's few ulp, fusion and threads by a single bit, peers by more than their formulas'
/// rounding.
inline std::optional<std::string> disagreement(const Subject& subject) {
  constexpr std::int64_t some = 64;
  const Case tensors = check_case();
  const auto differs = [](const std::vector<float>& a, const std::vector<float>& b,
                          std::int64_t allowed) {
    return !std::equal(a.begin(), a.end(), b.begin(), b.end(),
                       [&](float x, float y) { return ulps_between(x, y) <= allowed; });
  };
  const std::vector<float> expected = race(subject.make_method, {tensors, 1, true});
  if (subject.make_separate &&
      differs(race(subject.make_separate, {tensors, 1, true}), expected, 0)) {
    return "its separate calls";
  }
  for (std::size_t threads = 1; threads <= (subject.threaded ? max_threads : 1); ++threads) {
    const std::string suffix = " with " + std::to_string(threads) + " thread(s)";
    const Setting setting{tensors, threads, true};
    if (differs(race(subject.make_method, setting), expected, 0)) return "itself" + suffix;
    if (subject.limit_ulps >= 0 &&
        differs(race(subject.make_limit, setting), expected, subject.limit_ulps)) {
      return "its limit kernel" + suffix;
    }
    for (const Peer& peer : subject.peers) {
      if (threads > 1 && !peer.threaded) continue;
      if (differs(race(peer.make, setting), expected, some)) {
        return "the peer of " + peer.counter + suffix;
      }
    }
  }
  return std::nullopt;
}

}  // namespace polyak_bench
