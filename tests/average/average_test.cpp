// SPDX-License-Identifier: Apache-2.0
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/average_memory.hpp>
#include <polyak/average/engine/average_record.hpp>
#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/core/state.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"

namespace average_test {

using polyak::Nonfinite;
using polyak::Parameters;
using polyak::Role;
using polyak::Start;

TEST_CASE("update(step) refuses a step that was counted or left out", "[average]") {
  std::vector<double> x{1};
  Parameters<double> params;
  params.add("x", x);
  polyak::Ema<double> ema(params, {.decay = 0.5});
  CHECK(ema.update(params, 1));
  CHECK(ema.update(params));
  CHECK(ema.calls() == 2);
  const auto before = polyak::state_bytes(ema);
  for (const std::int64_t wrong : {-1, 0, 1, 2, 4}) {
    CHECK(refusal<std::logic_error>([&] { ema.update(params, wrong); }) ==
          "polyak: update of step " + std::to_string(wrong) + ", expected step 3");
  }
  CHECK(polyak::state_bytes(ema) == before);
  CHECK(ema.update(params, 3));
}

TEST_CASE("an average can be copied, moved and assigned", "[average]") {
  auto x = RandomNumbers(1).many<float>(40);
  std::int64_t counter = 3;
  Parameters<float> params;
  params.add("x", x).add("counter", &counter, {1}, Role::copy);
  polyak::Ema ema(params, {.decay = 0.5});
  RandomNumbers(2).fill(x);
  ema.update(params);

  polyak::Ema copy = ema;
  CHECK(polyak::state_bytes(copy) == polyak::state_bytes(ema));
  CHECK(copy.view()[0].data() != ema.view()[0].data());
  const auto before = polyak::state_bytes(ema);
  RandomNumbers(3).fill(x);
  counter = 4;
  copy.update(params);
  CHECK(polyak::state_bytes(ema) == before);

  ema.update(params);  // both have now seen the same
  CHECK(polyak::state_bytes(copy) == polyak::state_bytes(ema));
  polyak::Ema moved = std::move(copy);
  copy = moved;
  CHECK(polyak::state_bytes(copy) == polyak::state_bytes(ema));
  moved = std::move(copy);
  CHECK(polyak::state_bytes(moved) == polyak::state_bytes(ema));

  polyak::Ema resumed(params, {.decay = 0.5});
  polyak::restore_state(resumed, polyak::state_bytes(ema));
  RandomNumbers(4).fill(x);
  resumed.update(params, 3);
  ema.update(params, 3);
  CHECK(polyak::state_bytes(resumed) == polyak::state_bytes(ema));
}

TEST_CASE("averages keep the newest value of buffers and nothing of ignored tensors", "[average]") {
  std::vector<float> x{1, 2}, free{3}, y{0, 0}, other_free{0};
  std::int64_t counter = 10, other_counter = 0;
  std::vector<double> statistics{0.5, 0.25}, other_statistics{0, 0};
  Parameters<float> params, target;
  params.add("counter", &counter, {1}, Role::copy)
      .add("x", x)
      .add("free", free, Role::ignore)
      .add("statistics", statistics, Role::copy);
  target.add("counter", &other_counter, {1}, Role::copy)
      .add("x", y)
      .add("free", other_free, Role::ignore)
      .add("statistics", other_statistics, Role::copy);
  polyak::Ema ema(params, {.decay = 0.5, .update_every = 2});
  x = {3, 6};
  counter = 11;
  ema.update(params);  // rests: neither weights nor buffers are taken
  counter = 12;
  statistics = {0.75, 0.125};
  ema.update(params);
  counter = 13;
  ema.update(params);  // rests again
  ema.copy_to(target);
  CHECK(y == std::vector<float>{2.5, 5});
  CHECK(other_counter == 12);
  CHECK(other_statistics == std::vector<double>{0.75, 0.125});
  CHECK(other_free == std::vector<float>{0});
  CHECK(refusal<std::invalid_argument>([&] {
          static_cast<void>(ema.view()["free"]);
        }).find("\"free\"") != std::string::npos);
  CHECK(counter == 13);
  CHECK(x == std::vector<float>{3, 6});
}

TEST_CASE("Nonfinite determines what an average does about a NaN in the weights", "[average]") {
  std::vector<float> x{1, 2}, free{static_cast<float>(nan_value)};
  Parameters<float> params;
  params.add("x", x).add("free", free, Role::ignore);
  const float infinite = static_cast<float>(infinity);
  polyak::Ema propagate(params, {.decay = 0.5});
  polyak::Ema skip(params, {.decay = 0.5, .nonfinite = Nonfinite::skip_step});
  polyak::Ema error(params, {.decay = 0.5, .nonfinite = Nonfinite::error});
  x = {3, 4};
  CHECK(propagate.update(params));
  CHECK(skip.update(params));  // a tensor that is ignored may hold anything
  CHECK(error.update(params));

  for (const float bad : {static_cast<float>(nan_value), infinite, -infinite}) {
    x[1] = bad;
    const auto before = bytes_of(skip.view()[0]);
    const auto error_before = polyak::state_bytes(error);
    CHECK_FALSE(skip.update(params));
    CHECK(bytes_of(skip.view()[0]) == before);
    CHECK_THROWS_AS(error.update(params), polyak::nonfinite_error);
    CHECK(polyak::state_bytes(error) == error_before);
  }
  CHECK(skip.skipped() == 3);
  CHECK(skip.calls() == 1);
  CHECK(propagate.update(params));
  CHECK_FALSE(std::isfinite(propagate.view()[0](1)));
  x[1] = 4;
  CHECK(skip.update(params));
  CHECK(skip.view()[0](0) == 2.5f);
}

TEST_CASE("update refuses other parameters and lists the differences", "[average]") {
  std::vector<float> a{1, 2}, b{3}, c{4, 5, 6};
  Parameters<float> params, other;
  params.add("a", a).add("b", b);
  other.add("b", b).add("c", c);
  polyak::Ema ema(params, {.decay = 0.5});
  ema.update(params);
  const auto before = polyak::state_bytes(ema);
  for (const std::string& message :
       {refusal<std::invalid_argument>([&] { ema.update(other); }),
        refusal<std::invalid_argument>([&] { ema.copy_to(other); }),
        refusal<std::invalid_argument>([&] { auto guard = ema.swap_into(other); })}) {
    CHECK(message.find("\"a\" is missing") != std::string::npos);
    CHECK(message.find("\"c\" is extra") != std::string::npos);
  }
  CHECK(polyak::state_bytes(ema) == before);
  CHECK(c == std::vector<float>{4, 5, 6});
}

TEST_CASE("the memory of an average is one slot and the buffers", "[average]") {
  std::vector<float> x(1000, 1), free(500, 1);
  std::vector<double> statistics(10, 1);
  Parameters<float> params;
  params.add("x", x).add("free", free, Role::ignore).add("statistics", statistics, Role::copy);
  const polyak::Ema<float> narrow(params);
  const polyak::Ema<float, double> wide(params);
  const auto report = narrow.memory_report(), wide_report = wide.memory_report();
  REQUIRE(report.slots.size() == 1);
  CHECK(report.slots[0].name == "average");
  CHECK(report.slots[0].elements == 1000);
  CHECK(report.slots[0].dtype == polyak::DType::float32);
  CHECK(report.total == report.slots[0].bytes + 80);
  CHECK(report.total < 4 * 1000 + 80 + 1024);
  CHECK(wide_report.slots[0].dtype == polyak::DType::float64);
  CHECK(wide_report.total >= 8 * 1000 + 80);
}

TEST_CASE("lists without tensors and empty tensors are accepted", "[average]") {
  Parameters<float> nothing;
  polyak::Ema ema(nothing);
  CHECK(ema.update(nothing));
  CHECK(ema.ready());
  CHECK(ema.view().size() == 0);
  { const auto guard = ema.swap_into(nothing); }
  std::vector<float> empty;
  Parameters<float> params;
  params.add("empty", empty);
  polyak::Ema of_empty(params);
  CHECK(of_empty.update(params));
  { const auto guard = of_empty.swap_into(params); }
  of_empty.copy_to(params);
  CHECK(of_empty.view()[0].size() == 0);
}

TEST_CASE("an average continues with a model that grew", "[average]") {
  using namespace polyak;
  std::vector<float> a{1, 2, 3}, b{4, 5}, added{6, 7, 8, 9}, statistics{1, 1};
  std::int64_t counter = 3;
  const auto list = [&](bool grown) {
    Parameters params;
    if (grown) params.add("added", std::span(added));
    params.add("a", std::span(a)).add("statistics", std::span(statistics), Role::copy);
    if (grown) params.add("counter", &counter, {}, Role::copy);
    params.add("b", std::span(b));
    return params;
  };
  const Parameters before = list(false), after = list(true);
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::kahan, Accumulate::float64}) {
    const EmaOptions options{.decay = 0.5, .accumulate = accumulate};
    polyak::Ema ema(before, options), reference(before, options);
    a = {1, 2, 3};
    b = {4, 5};
    for (int t = 0; t < 3; ++t) {
      a[1] += 1;
      statistics[0] += 1;
      update(before, ema, reference);
    }
    ema.grow(after);
    CHECK(ema.calls() == 3);
    std::vector<float> read_added(4), read_a(3), read_b(2), read_statistics(2);
    std::int64_t read_counter = 0;
    Parameters target;
    target.add("added", std::span(read_added)).add("a", std::span(read_a));
    target.add("statistics", std::span(read_statistics), Role::copy);
    target.add("counter", &read_counter, {}, Role::copy).add("b", std::span(read_b));
    ema.copy_to(target);
    CHECK(read_added == added);
    CHECK(read_statistics == statistics);
    CHECK(read_counter == 3);
    for (int t = 0; t < 3; ++t) {
      a[2] -= 2;
      added[0] += 1;
      reference.update(before);
      ema.update(after);
    }
    for (std::size_t i = 0; i < 3; ++i) CHECK(ema.view()["a"][i] == reference.view()["a"][i]);
    CHECK(ema.view()["added"][0] == Approx(added[0] - 0.875));
    CHECK_THROWS_AS(ema.update(before), std::invalid_argument);
    CHECK_THROWS_AS(ema.grow(before), std::invalid_argument);  // "added" is missing
    const auto guard = ema.swap_into(after);
    CHECK_THROWS_AS(ema.grow(after), std::logic_error);
    added[0] -= 3;
  }
}

TEST_CASE("the buffers of a model that grew keep their values in the average", "[average]") {
  using namespace polyak;
  std::vector<float> w{1, 2}, added{3}, first{4, 5, 6}, second{7, 8}, fresh{9};
  const auto list = [&](bool grown) {
    Parameters params;
    if (grown) params.add("fresh", std::span(fresh), Role::copy);
    params.add("first", std::span(first), Role::copy).add("w", std::span(w));
    if (grown) params.add("added", std::span(added));
    params.add("second", std::span(second), Role::copy);
    return params;
  };
  polyak::Ema ema(list(false), {.decay = 0.5});
  ema.update(list(false));
  const auto seen_first = first, seen_second = second;
  first = {0, 0, 0};  // which the average has not seen
  second = {0, 0};
  const Parameters after = list(true);
  ema.grow(after);
  fresh = {0};
  ema.copy_to(after);
  CHECK(first == seen_first);
  CHECK(second == seen_second);
  CHECK(fresh == std::vector<float>{9});
}

}  // namespace average_test
