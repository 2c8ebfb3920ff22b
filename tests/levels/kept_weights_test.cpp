// SPDX-License-Identifier: Apache-2.0
// core/kept_weights.hpp, core/simd/masters.hpp: a weight of 16 bits and its rest are a float.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/simd/masters.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"

namespace kept_weights_test {

using Eigen::bfloat16;
using Eigen::half;

/// Random floats, and those between two numbers of 16 bits, at the ends of the ranges, and others.
std::vector<float> many_floats() {
  std::vector<float> all{0.0f,
                         -0.0f,
                         1.0f,
                         0x1p-14f,
                         0x1p-15f,
                         65504.0f,
                         65519.0f,
                         std::numeric_limits<float>::max(),
                         std::numeric_limits<float>::min()};
  for (std::uint64_t k = 0; k < 20000; ++k) {
    const auto bits = static_cast<std::uint32_t>((bits::uniform(k, 5) + 1) * 0x1p31);
    all.push_back(bits::number<float>(bits));
    all.push_back(bits::number<float>((bits & 0xffff0000u) | 0x8000u));  // ties
    all.push_back(static_cast<float>(bits::uniform(k, 6)));
  }
  return all;
}

TEST_CASE("a master of bfloat16 is the float, bit for bit") {
  for (const float value : many_floats()) {
    std::int16_t rest = 0;
    const float weight = polyak::detail::split<bfloat16>(value, rest);
    INFO(value << " " << weight << " " << rest);
    if (value != value) {
      CHECK(weight != weight);
      continue;
    }
    CHECK((bits::of(weight) & 0xffffu) == 0);
    const float whole = polyak::detail::joined<bfloat16>(weight, rest);
    if (bits::of(whole) != bits::of(value)) FAIL_CHECK("differs");
    const float nearest = static_cast<float>(static_cast<bfloat16>(value));
    if (std::isfinite(nearest)) CHECK(std::fabs(weight - value) == std::fabs(nearest - value));
  }
}

TEST_CASE("a master of half is the float, from 2^-16 to the largest half") {
  for (const float value : many_floats()) {
    std::int16_t rest = 0;
    const float weight = polyak::detail::split<half>(value, rest);
    const float whole = polyak::detail::joined<half>(weight, rest);
    const float nearest = static_cast<float>(static_cast<half>(value));
    INFO(value << " " << weight << " " << rest);
    CHECK((weight == nearest || value != value));
    if (!std::isfinite(nearest)) {
      CHECK((whole == nearest || value != value));
    } else if (std::fabs(value) >= 0x1p-16f) {
      CHECK(whole == value);
    } else {
      CHECK(std::fabs(whole - value) <= 0x1p-40f);
    }
  }
}

TEST_CASE("a weight that was set to another value keeps that value") {
  for (const auto low : {-32768, -5, 0, 7, 32767}) {
    const auto rest = static_cast<std::int16_t>(low);
    for (const float set : {0.0f, -0.0f, 1.0f, -3.0f, 0x1p-24f}) {
      const float is16 = polyak::detail::joined<bfloat16>(set, rest);
      CHECK(std::fabs(is16 - set) <= std::fabs(set) * 0x1p-8f + 1e-38f);
      CHECK(std::fabs(polyak::detail::joined<half>(set, rest) - set) <=
            std::fabs(set) * 0x1p-9f + 0x1p-24f);
    }
    const float infinite = std::numeric_limits<float>::infinity();
    if (low >= 0) CHECK(polyak::detail::joined<bfloat16>(infinite, rest) == infinite);
    CHECK(polyak::detail::joined<half>(infinite, rest) == infinite);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(polyak::detail::joined<bfloat16>(nan, rest)));
    CHECK(std::isnan(polyak::detail::joined<half>(nan, rest)));
  }
}

/// Splits floats, and joins weights and rests, through packs.
template <class P>
struct Split {
  const float* values;
  float* weights;
  std::int16_t* rests;
  float* whole;
  std::size_t count;  // a multiple of every pack

  template <class Level>
  POLYAK_LAW void run() const {
    constexpr int lanes = polyak::detail::native_lanes<float, Level>;
    using V = polyak::detail::Pack<float, lanes, Level>;
    const P* const type = nullptr;
    for (std::size_t k = 0; k < count; k += static_cast<std::size_t>(lanes)) {
      V pack = V::load(values + k);
      split_lanes(type, rests + k, pack);
      pack.store(weights + k);
      join_lanes(type, rests + k, pack);
      pack.store(whole + k);
    }
  }
};

template <class P>
struct Join {
  float* weights;
  const std::int16_t* rests;
  std::size_t count;

  template <class Level>
  POLYAK_LAW void run() const {
    constexpr int lanes = polyak::detail::native_lanes<float, Level>;
    using V = polyak::detail::Pack<float, lanes, Level>;
    for (std::size_t k = 0; k < count; k += static_cast<std::size_t>(lanes)) {
      V pack = V::load(weights + k);
      join_lanes(static_cast<const P*>(nullptr), rests + k, pack);
      pack.store(weights + k);
    }
  }
};

TEMPLATE_TEST_CASE("packs of every level split and join as single numbers do", "", bfloat16, half) {
  using P = TestType;
  std::vector<float> values = many_floats();
  values.resize(values.size() / 64 * 64);
  const std::size_t n = values.size();
  for (const int level : levels::supported()) {
    std::vector<float> weights(n), whole(n);
    std::vector<std::int16_t> rests(n);
    polyak::detail::run_at(level,
                           Split<P>{values.data(), weights.data(), rests.data(), whole.data(), n});
    std::size_t differ = 0;
    for (std::size_t k = 0; k < n; ++k) {
      std::int16_t rest = 0;
      const float weight = polyak::detail::split<P>(values[k], rest);
      differ += !bits::same(weight, weights[k]) || rest != rests[k];
      differ += !bits::same(polyak::detail::joined<P>(weight, rest), whole[k]);
    }
    INFO("level " << level);
    CHECK(differ == 0);
    // Rests of weights that were set to other values.
    for (std::size_t k = 0; k < n; ++k) weights[k] = weights[(k * 7 + 3) % n];
    std::vector<float> joined = weights;
    polyak::detail::run_at(level, Join<P>{joined.data(), rests.data(), n});
    for (std::size_t k = 0; k < n; ++k) {
      differ += !bits::same(polyak::detail::joined<P>(weights[k], rests[k]), joined[k]);
    }
    CHECK(differ == 0);
  }
}

}  // namespace kept_weights_test
