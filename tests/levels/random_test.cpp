// SPDX-License-Identifier: Apache-2.0
// Philox against the vectors of its authors; every level fills the same bytes and rounds alike.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/random.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/storage.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"

namespace random_test {

namespace {

using polyak::philox4x32;
using polyak::detail::RandomBits;
using polyak::detail::RandomKey;
using Words = polyak::detail::Array<std::uint32_t, 4>;

constexpr std::uint32_t ones = 0xffffffff;
constexpr Words pi{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};

/// Fills one block at a level.
struct Fill {
  RandomKey key;
  std::size_t block;
  RandomBits* to;
  template <class Level>
  POLYAK_LAW void run() const {
    to->schedule(key);
    polyak::detail::fill_bytes(Level{}, key, block, *to);
  }
};

/// Rounds an array at random, pack by pack, with bytes of the caller's.
template <class S>
struct Round {
  const float* from;
  const unsigned char* random;
  S* to;
  std::size_t count;
  template <class Level>
  POLYAK_LAW void run() const {
    constexpr int lanes = 2 * polyak::detail::native_lanes<float, Level>;
    constexpr auto step = static_cast<std::size_t>(lanes);
    for (std::size_t k = 0; k + step <= count; k += step) {
      polyak::detail::Pack<float, lanes, Level> pack;
      polyak::detail::load_pack(from + k, pack);
      polyak::detail::store_at_random(to + k, pack, random + 2 * k);
    }
    constexpr auto half = step / 2;  // one register at a time
    for (std::size_t k = 0; k + half <= count; k += half) {
      polyak::detail::Pack<float, lanes / 2, Level> pack;
      polyak::detail::load_pack(from + k, pack);
      S again[half];
      polyak::detail::store_at_random(again, pack, random + 2 * k);
      for (std::size_t i = 0; i < half; ++i) {
        if (bits::of(again[i]) != bits::of(to[k + i])) to[k + i] = static_cast<S>(12345.0f);
      }
    }
  }
};

}  // namespace

TEST_CASE("Philox4x32 gives the published numbers") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32(pi, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  CHECK(philox4x32<7>({0, 0, 0, 0}, {0, 0}) ==
        Words{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48});
  CHECK(philox4x32<7>({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662});
  CHECK(philox4x32<7>(pi, {0xa4093822, 0x299f31d0}) ==
        Words{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a});
}

TEST_CASE("every level fills the same random bytes") {
  for (const RandomKey& key : {RandomKey{0, 0, 0}, RandomKey{0xfedcba9876543210, 1, 2},
                               RandomKey{7, 0x123456789a, 0xffffff}}) {
    // Block 0x8000000 is the first one that needs more than 32 bits to count its calls.
    for (const std::size_t block : {std::size_t{0}, std::size_t{1}, std::size_t{0x7ffffff},
                                    std::size_t{0x8000000}, std::size_t{0x2af37bc048}}) {
      RandomBits expected{};
      polyak::detail::fill_bytes(key, block, expected);
      for (const int level : levels::supported()) {
        RandomBits bits{};
        polyak::detail::run_at(level, Fill{key, block, &bits});
        INFO("level " << level << ", block " << block);
        CHECK(bits.bytes == expected.bytes);
        for (std::size_t needed = 1; needed <= RandomBits::elements; needed += 127) {
          RandomBits some{};  // may have more bytes than it needs
          some.needed = block * RandomBits::elements + needed;
          polyak::detail::run_at(level, Fill{key, block, &some});
          CHECK(std::equal(some.of(0), some.of(needed - 1) + 2, expected.of(0)));
        }
      }
    }
  }
}

TEST_CASE("random bytes follow from their counters and differ between elements") {
  const RandomKey key{42, 5, 3};
  RandomBits bits{};
  polyak::detail::fill_bytes(key, 2, bits);  // group 9 is in block 2
  const Words words = philox4x32<7>({8 * 9 + 6, 3, 5, 0}, {42, 0});
  const auto number = [&](std::size_t element) {
    return polyak::detail::sixteen_bits(bits.of(9 * 128 + element));
  };
  CHECK(number(2 * 12) == (words[0] & 0xffff));  // call 6: words 12 and 13, then 28 and 29
  CHECK(number(2 * 12 + 1) == words[0] >> 16);
  CHECK(number(2 * 13) == (words[1] & 0xffff));
  CHECK(number(32 + 2 * 12) == (words[2] & 0xffff));
  CHECK(number(64 + 2 * 12) == (words[0] >> 8 & 0xffff));
  std::size_t equal = 0;  // of 8128 pairs of 16 bits an eighth is to be expected
  for (std::size_t a = 0; a < 128; ++a) {
    for (std::size_t b = 0; b < a; ++b) equal += number(a) == number(b) ? 1 : 0;
  }
  CHECK(equal <= 3);
}

TEST_CASE("random bits are uniform and independent of element, step, tensor and seed") {
  // The sum of n uniform numbers in [0, 1): mean n/2, variance n/12. The product of neighbours
  // likewise: mean 1/4, variance 7/144.
  constexpr std::size_t blocks = 100, count = blocks * RandomBits::elements;
  for (const auto& vary : {0, 1, 2, 3}) {
    double sum = 0, products = 0, same = 0;
    std::vector<double> before(RandomBits::elements, 0.5);
    for (std::size_t block = 0; block < blocks; ++block) {
      RandomKey key{1, 1, 1};
      if (vary == 1) key.step = block;
      if (vary == 2) key.tensor = block;
      if (vary == 3) key.seed = block;
      RandomBits bits{};
      polyak::detail::fill_bytes(key, vary == 0 ? block : 0, bits);
      for (std::size_t k = 0; k < RandomBits::elements; ++k) {
        const double value = (polyak::detail::sixteen_bits(bits.of(k)) + 0.5) / 65536;
        const std::size_t sharer = k ^ 64;  // of the same group
        const double other = (polyak::detail::sixteen_bits(bits.of(sharer)) + 0.5) / 65536;
        sum += value - 0.5;
        products += (value - 0.5) * (before[k] - 0.5);
        same += (value - 0.5) * (other - 0.5);
        before[k] = value;
      }
    }
    INFO("varied: " << vary);
    const double n = static_cast<double>(count);
    CHECK(std::abs(sum) < 4 * std::sqrt(n / 12));
    CHECK(std::abs(products) < 4 * std::sqrt(n) / 12);
    CHECK(std::abs(same) <
          5 * std::sqrt(n) / 12 + n / 256 / 12);  // they share a byte, lower in one
  }
}

TEMPLATE_TEST_CASE("every level rounds at random like single numbers", "", Eigen::half,
                   Eigen::bfloat16) {
  using Limits = std::numeric_limits<float>;
  std::vector<float> values{0.0F,
                            -0.0F,
                            Limits::infinity(),
                            -Limits::infinity(),
                            Limits::quiet_NaN(),
                            Limits::denorm_min(),
                            Limits::max(),
                            -1.0F,
                            65504.0F,
                            65519.0F,
                            65535.9F,
                            0x1p-14F,
                            0x1.fffffep-15F,
                            0x1p-24F,
                            0x1p-25F,
                            -0x1.8p-24F,
                            bits::number<float>(0x7f800001U),
                            bits::number<float>(0xffffffffU)};
  for (std::uint64_t k = 0; k < 100000; ++k) {
    values.push_back(bits::number<float>(static_cast<std::uint32_t>(bits::mixed(k))));
    values.push_back(
        static_cast<float>(std::ldexp(bits::uniform(k), static_cast<int>(k % 30) - 26)));
  }
  values.resize(values.size() / 32 * 32);
  std::vector<unsigned char> random(2 * values.size());
  for (std::size_t k = 0; k < random.size(); ++k) {
    random[k] = static_cast<unsigned char>(bits::mixed(k, 3));
  }
  for (const int level : levels::supported()) {
    std::vector<TestType> rounded(values.size());
    polyak::detail::run_at(
        level, Round<TestType>{values.data(), random.data(), rounded.data(), values.size()});
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < values.size(); ++k) {
      TestType expected{};
      polyak::detail::narrow_into(&expected, 0, values[k],
                                  polyak::detail::sixteen_bits(&random[2 * k]));
      if (bits::of(rounded[k]) != bits::of(expected) && ++wrong <= 5) {
        FAIL_CHECK("level " << level << ", float " << std::hex << bits::of(values[k]));
      }
    }
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE(
    "stochastic rounding gives a neighbour, up with the probability of the remainder", "",
    Eigen::half, Eigen::bfloat16) {
  // Over all 65536 random numbers the mean is the number itself.
  const auto rounded = [](float value, std::uint32_t random) {
    TestType result{};
    polyak::detail::narrow_into(&result, 0, value, random);
    return static_cast<double>(static_cast<float>(result));
  };
  for (const double value :
       {1.0, 1.001, -1.00390625, 3.14159, -0.3333, 1e-3, -6.0e-5, 3.21e-6, 1e-7, 40000.0}) {
    const auto single = static_cast<float>(value);
    double sum = 0, low = rounded(single, 0), high = rounded(single, 0xffff);
    for (std::uint32_t random = 0; random < 65536; ++random) {
      const double one = rounded(single, random);
      sum += one;
      if (one != low && one != high) FAIL_CHECK(value << " became " << one);
    }
    const double ulp = std::abs(high - low);
    INFO(value);
    CHECK(std::abs(sum / 65536 - static_cast<double>(single)) <= ulp * 0x1p-13);
  }
  // Numbers that the type holds are kept.
  for (std::uint32_t word = 0; word < 65536; ++word) {
    const auto number = bits::number<TestType>(static_cast<std::uint16_t>(word));
    if (bits::is_nan(number)) continue;
    for (const std::uint32_t random : {0U, 1U, 0x8000U, 0xffffU}) {
      TestType again{};
      polyak::detail::narrow_into(&again, 0, polyak::detail::widened<float>(&number, 0), random);
      if (bits::of(again) != word) FAIL_CHECK("number " << std::hex << word);
    }
  }
}

}  // namespace random_test
