// SPDX-License-Identifier: Apache-2.0
// polyak/average/tail.hpp
#include <polyak/average/tail.hpp>

#include <algorithm>
#include <cstdint>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace tail_test {

using namespace polyak;

TEST_CASE("Tail is the mean of the weights from its start on, and before it the newest weights") {
  double weight = 0;
  Parameters<double> params;
  params.add("w", &weight, {});
  Tail<double> tail(params, {.start = 4});
  RandomNumbers numbers(3);
  double sum = 0;
  for (std::int64_t t = 1; t <= 20; ++t) {
    weight = numbers();
    tail.update(params);
    sum = t <= 4 ? weight : sum + weight;
    CHECK(tail.view()[0][0] ==
          Approx(sum / static_cast<double>(t <= 4 ? 1 : t - 3)).epsilon(1e-13));
  }
}

TEST_CASE("suffix_start follows the paper") {
  CHECK(suffix_start(0.5, 10) == 6);
  CHECK(suffix_start(0.25, 10) == 9);  // ceil(7.5) + 1
  CHECK(suffix_start(1, 10) == 1);
  CHECK(suffix_start(1e-9, 10) == 10);
  CHECK(suffix_start(0.5, 1) == 1);
  for (const std::int64_t percent : {5, 15, 30, 35, 55, 60, 70, 85, 95}) {
    for (const std::int64_t calls : {10, 100, 1000, 10000, 12345}) {
      const std::int64_t before = (calls * (100 - percent) + 99) / 100;  // its ceiling
      CHECK(suffix_start(static_cast<double>(percent) / 100, calls) ==
            std::min(before, calls - 1) + 1);
    }
  }
  CHECK(refuses([] { static_cast<void>(suffix_start(0, 10)); }, {"share", "0"}));
  CHECK(refuses([] { static_cast<void>(suffix_start(nan_value, 10)); }, {"share"}));
  CHECK(refuses([] { static_cast<void>(suffix_start(0.5, 0)); }, {"calls", "0"}));
  Parameters params;
  check_refused([&](const TailOptions& o) { return Tail<float>(params, o); }, TailOptions{},
                &TailOptions::start, "TailOptions.start must be >= 1", {0, -3});
}

}  // namespace tail_test
