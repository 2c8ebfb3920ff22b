// SPDX-License-Identifier: Apache-2.0
// 16-bit numbers: scalar.hpp, Eigen and the packs of every level convert alike.
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/pack.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"

namespace sixteen_bits_test {

namespace {

using polyak::detail::narrow_into;
using polyak::detail::widened;

constexpr std::size_t patterns = 65536;

/// Every number of the type.
template <class P>
std::vector<P> all_numbers() {
  std::vector<P> numbers;
  for (std::size_t word = 0; word < patterns; ++word) {
    numbers.push_back(bits::number<P>(static_cast<std::uint16_t>(word)));
  }
  return numbers;
}

/// Floats on, halfway between and just off the numbers of the type, and others of all magnitudes.
template <class P>
std::vector<float> floats() {
  std::vector<float> list;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::vector<P> numbers = all_numbers<P>();
  for (std::size_t word = 0; word + 1 < patterns; ++word) {
    const float here = widened<float>(numbers.data(), word);
    const float next = widened<float>(numbers.data(), word + 1);
    const float middle = here / 2 + next / 2;
    for (const float value : {here, middle}) {
      list.insert(list.end(),
                  {value, std::nextafter(value, infinity), std::nextafter(value, -infinity)});
    }
  }
  for (const float value : {65504.0F, 65519.99F, 65520.0F, 65536.0F, 0x1p-24F, 0x1p-25F, 0x1p-26F,
                            0x1.8p-25F, 0x1p-14F, 0x1.ffcp-15F, std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::denorm_min(), infinity}) {
    list.insert(list.end(), {value, -value});
  }
  // NaNs, quiet and signalling, with payloads high and low.
  for (const std::uint32_t nan : {0x7fc00000U, 0xffc00001U, 0x7f800001U, 0xff802000U, 0x7fbfffffU,
                                  0x7fffffffU, 0xffffffffU, 0x7f80ffffU}) {
    list.push_back(bits::number<float>(nan));
  }
  for (std::uint64_t k = 0; k < 300000; ++k) {
    list.push_back(bits::number<float>(static_cast<std::uint32_t>(bits::mixed(k))));
  }
  return list;
}

/// One array to another through packs of float.
template <class P, class T>
struct Convert {
  const P* from;
  T* to;
  std::size_t count;  // a multiple of every pack

  template <class Level>
  POLYAK_LAW void run() const {
    constexpr int lanes = polyak::detail::native_lanes<float, Level>;
    for (std::size_t k = 0; k < count; k += static_cast<std::size_t>(lanes)) {
      polyak::detail::Pack<float, lanes, Level> pack;
      polyak::detail::load_pack(from + k, pack);
      polyak::detail::store_pack(to + k, pack);
    }
  }
};

/// Floats to arrays of P as a loop stores them in which all memory has the type P: rounded to
/// nearest, split into rounded numbers and their excess, and rounded at random.
template <class P>
struct StoreWhole {
  const float* from;
  const unsigned char* random;
  P *nearest, *split, *excess, *by_chance;
  std::size_t count;  // a multiple of every pack

  template <class Level>
  POLYAK_LAW void run() const {
    using Whole = typename polyak::detail::WholePacks<Level, P>::Level;
    constexpr int lanes = 2 * polyak::detail::native_lanes<float, Whole>;
    constexpr auto step = static_cast<std::size_t>(lanes);
    // The lane of each element: packs may permute them.
    P numbers[step];
    float places[step], values[step];
    for (std::size_t k = 0; k < step; ++k) numbers[k] = static_cast<P>(static_cast<float>(k));
    polyak::detail::Pack<float, lanes, Whole> pack;
    polyak::detail::load_pack(static_cast<const P*>(numbers), pack);
    pack.store(places);
    for (std::size_t k = 0; k < count; k += step) {
      for (std::size_t lane = 0; lane < step; ++lane) {
        values[lane] = from[k + static_cast<std::size_t>(places[lane])];
      }
      pack = polyak::detail::Pack<float, lanes, Whole>::load(values);
      polyak::detail::store_pack(nearest + k, pack);
      polyak::detail::store_split(split + k, excess + k, pack);
      polyak::detail::store_at_random(by_chance + k, pack, random + 2 * k);
    }
  }
};

template <class From, class To>
std::vector<To> converted(int level, std::vector<From> from) {
  const std::size_t count = from.size();
  from.resize((count + 15) / 16 * 16);
  std::vector<To> to(from.size());
  polyak::detail::run_at(level, Convert<From, To>{from.data(), to.data(), to.size()});
  to.resize(count);
  return to;
}

}  // namespace

TEMPLATE_TEST_CASE("16-bit numbers widen to their exact values", "", Eigen::half, Eigen::bfloat16) {
  const std::vector<TestType> numbers = all_numbers<TestType>();
  std::vector<std::size_t> wrong;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    const auto single = widened<float>(numbers.data(), k);
    const bool good = bits::same(single, static_cast<float>(numbers[k])) &&
                      bits::same(widened<double>(numbers.data(), k), static_cast<double>(single));
    if (!good) wrong.push_back(k);
  }
  CHECK(wrong == std::vector<std::size_t>{});
}

TEMPLATE_TEST_CASE("16-bit numbers survive conversion to float and back", "", Eigen::half,
                   Eigen::bfloat16) {
  const std::vector<TestType> numbers = all_numbers<TestType>();
  std::vector<std::size_t> wrong;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    TestType back{};
    narrow_into(&back, 0, widened<float>(numbers.data(), k));
    // A NaN becomes quiet and keeps the rest of its payload.
    constexpr std::uint16_t quiet = std::is_same_v<TestType, Eigen::half> ? 0x0200 : 0x0040;
    const auto expected = static_cast<std::uint16_t>(k | (bits::is_nan(numbers[k]) ? quiet : 0U));
    if (bits::of(back) != expected) wrong.push_back(k);
  }
  CHECK(wrong == std::vector<std::size_t>{});
}

TEST_CASE("a signalling half widens to a quiet NaN with its payload, as on processors") {
  using polyak::detail::bits_of;
  using polyak::detail::float_from_half;
  CHECK(bits_of(float_from_half(0x7c01)) == 0x7fc02000U);
  CHECK(bits_of(float_from_half(0xfdff)) == 0xffffe000U);
  CHECK(bits_of(float_from_half(0x7e01)) == 0x7fc02000U);
  CHECK(bits_of(float_from_half(0x7c00)) == 0x7f800000U);
}

TEMPLATE_TEST_CASE("floats round to 16 bits as in Eigen", "", Eigen::half, Eigen::bfloat16) {
  std::size_t wrong = 0;
  for (const float value : floats<TestType>()) {
    TestType rounded{}, from_double{};
    narrow_into(&rounded, 0, value);
    narrow_into(&from_double, 0, static_cast<double>(value));
    const bool good = bits::same(rounded, static_cast<TestType>(value)) &&
                      bits::same(rounded, from_double) &&
                      bits::is_nan(rounded) == bits::is_nan(value) &&
                      (std::signbit(value) == (bits::of(rounded) >= 0x8000));
    if (!good && ++wrong <= 5) FAIL_CHECK("float " << std::hex << bits::of(value));
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("conversions of 16-bit numbers in packs equal those of single numbers", "",
                   Eigen::half, Eigen::bfloat16) {
  const std::vector<TestType> numbers = all_numbers<TestType>();
  const std::vector<float> singles = floats<TestType>();
  for (const int level : levels::supported()) {
    CAPTURE(level);
    const auto wide = converted<TestType, float>(level, numbers);
    std::vector<std::size_t> wrong;
    for (std::size_t k = 0; k < wide.size(); ++k) {
      // NaNs bit for bit, too: the kept part of a payload does not depend on the level.
      if (bits::of(wide[k]) != bits::of(widened<float>(numbers.data(), k))) wrong.push_back(k);
    }
    CHECK(wrong == std::vector<std::size_t>{});

    const auto narrow = converted<float, TestType>(level, singles);
    std::size_t narrowed_wrong = 0;
    for (std::size_t k = 0; k < narrow.size(); ++k) {
      TestType expected{};
      narrow_into(&expected, 0, singles[k]);
      if (bits::of(narrow[k]) != bits::of(expected) && ++narrowed_wrong <= 5) {
        FAIL_CHECK("float " << std::hex << bits::of(singles[k]));
      }
    }
    CHECK(narrowed_wrong == 0);
  }
}

TEMPLATE_TEST_CASE("packs of loops that have one 16-bit type store as single numbers are stored",
                   "", Eigen::half, Eigen::bfloat16) {
  std::vector<float> singles = floats<TestType>();
  for (std::size_t k = 0; k < 32; ++k) {  // a NaN and an infinity alone among common numbers
    singles.insert(singles.end(), 32, 1.234567F * static_cast<float>(k));
    singles[singles.size() - 32 + k] = k % 2 == 0 ? std::numeric_limits<float>::quiet_NaN()
                                                  : -std::numeric_limits<float>::infinity();
  }
  singles.resize(singles.size() / 32 * 32);
  const std::size_t count = singles.size();
  std::vector<unsigned char> random(2 * count);
  for (std::size_t k = 0; k < random.size(); ++k) {
    random[k] = static_cast<unsigned char>(bits::mixed(k, 5));
  }
  for (const int level : levels::supported()) {
    std::vector<TestType> nearest(count), split(count), excess(count), by_chance(count);
    polyak::detail::run_at(
        level, StoreWhole<TestType>{singles.data(), random.data(), nearest.data(), split.data(),
                                    excess.data(), by_chance.data(), count});
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < count; ++k) {
      const float value = singles[k];
      TestType rounded{}, difference{}, chosen{};
      narrow_into(&rounded, 0, value);
      const float wide = widened<float>(&rounded, 0);
      narrow_into(&difference, 0, std::isfinite(wide) ? wide - value : 0.0F);
      narrow_into(&chosen, 0, value, polyak::detail::sixteen_bits(&random[2 * k]));
      const bool good =
          bits::of(nearest[k]) == bits::of(rounded) && bits::of(split[k]) == bits::of(rounded) &&
          bits::of(excess[k]) == bits::of(difference) && bits::of(by_chance[k]) == bits::of(chosen);
      if (!good && ++wrong <= 5) {
        FAIL_CHECK("level " << level << ", float " << std::hex << bits::of(value) << ": "
                            << bits::of(nearest[k]) << ' ' << bits::of(split[k]) << ' '
                            << bits::of(excess[k]) << ' ' << bits::of(by_chance[k]) << " for "
                            << bits::of(rounded) << ' ' << bits::of(difference) << ' '
                            << bits::of(chosen));
      }
    }
    CHECK(wrong == 0);
  }
}

}  // namespace sixteen_bits_test
