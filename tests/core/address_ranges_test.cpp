// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/tensors/address_ranges.hpp>

#include <cstddef>
#include <random>
#include <utility>
#include <vector>

#include <catch.hpp>

using polyak::detail::AddressRanges;

TEST_CASE("AddressRanges finds the overlaps that a look at each range finds") {
  static const std::byte memory[512]{};
  std::mt19937 random(7);
  const auto below = [&](std::size_t end) {
    return std::uniform_int_distribution<std::size_t>(0, end - 1)(random);
  };
  std::size_t overlaps = 0, free = 0;
  for (int round = 0; round < 300; ++round) {
    // Ranges may overlap, lie within each other and be empty.
    AddressRanges<9> ranges;
    std::vector<std::pair<std::size_t, std::size_t>> all;
    for (std::size_t count = below(9); count-- > 0;) {
      const std::size_t begin = below(480), bytes = below(3) == 0 ? 0 : 1 + below(32);
      CHECK_FALSE(ranges.full());
      ranges.add(memory + begin, bytes);
      if (bytes != 0) all.emplace_back(begin, begin + bytes);
    }
    ranges.order();
    for (std::size_t begin = 0; begin < 500; begin += 1 + below(5)) {
      const std::size_t bytes = 1 + below(12);
      bool expected = false;
      for (const auto& [from, to] : all) expected |= from < begin + bytes && begin < to;
      CHECK(ranges.overlap(memory + begin, bytes) == expected);
      ++(expected ? overlaps : free);
    }
  }
  CHECK(overlaps > 1000);
  CHECK(free > 1000);
}

TEST_CASE("AddressRanges is full with the number of ranges that it is made for") {
  static const std::byte memory[3]{};
  AddressRanges<2> ranges;
  ranges.add(memory, 1);
  CHECK_FALSE(ranges.full());
  ranges.add(memory + 1, 0);  // left out
  CHECK_FALSE(ranges.full());
  ranges.add(memory + 1, 1);
  CHECK(ranges.full());
}
