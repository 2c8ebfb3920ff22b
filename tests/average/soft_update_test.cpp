// SPDX-License-Identifier: Apache-2.0
// polyak/average/soft_update.hpp
#include <polyak/average/ema.hpp>
#include <polyak/average/soft_update.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "model.hpp"
#include "refuses.hpp"
#include "splitter.hpp"

namespace soft_update_test {

using namespace polyak;

TEMPLATE_TEST_CASE("soft_update moves weights by the share tau and copies buffers", "", float,
                   double, Eigen::bfloat16) {
  using P = TestType;
  Model<P> online({5, 70, 0, 33}, true), target({5, 70, 0, 33}, true), split({5, 70, 0, 33}, true);
  Splitter pieces(Split::pieces);
  for (std::uint64_t step = 0; step < 5; ++step) {
    online.differentiate(step);
    online.wander(step);
    for (std::size_t k = 0; k < online.params.size(); ++k) {
      if (online.params[k].info().role != Role::average) continue;
      for (std::size_t i = 0; i < online.params[k].size(); ++i) {
        using C = default_state_t<P>;
        const C tau = static_cast<C>(0.005), before = static_cast<C>(target.params[k].data()[i]);
        const C expected =
            std::fma(tau, static_cast<C>(online.params[k].data()[i]) - before, before);
        split.params[k].data()[i] = static_cast<P>(expected);
      }
    }
    const auto expected = split.tensor_bytes(1);
    split.restore(target.bytes());
    const SoftUpdateOptions options{.accumulate = Accumulate::plain};
    soft_update(target.params, online.params, 0.005, options);
    soft_update(pieces, split.params, online.params, 0.005, options);
    CHECK(target.tensor_bytes(1) == expected);
    CHECK(split.bytes() == target.bytes());
    CHECK(target.params.at("counters").bytes() == 24);
    CHECK(target.tensor_bytes(4) != online.tensor_bytes(4));  // ignored
    const auto same_bytes = [&](const char* name) {
      const auto* const a = static_cast<const std::byte*>(target.params.at(name).raw());
      const auto* const b = static_cast<const std::byte*>(online.params.at(name).raw());
      return std::equal(a, a + target.params.at(name).bytes(), b);
    };
    CHECK(same_bytes("counters"));
    CHECK(same_bytes("statistics"));
    CHECK(target.margins_intact());
  }
  const auto before = target.tensor_bytes(0);
  soft_update(target.params, online.params, 0);
  CHECK(target.tensor_bytes(0) == before);
  soft_update(target.params, online.params, 1);
  CHECK(target.tensor_bytes(0) == online.tensor_bytes(0));
}

TEST_CASE("soft_update of 16 bits refuses to stall, and moves at random") {
  constexpr std::size_t n = 4096;
  std::vector<Eigen::bfloat16> online(n, Eigen::bfloat16(1)), target(n, Eigen::bfloat16(0.75f));
  Parameters<Eigen::bfloat16> from, to;
  from.add("w", online);
  to.add("w", target);
  CHECK(refuses([&] { soft_update(to, from, 0.005); },
                {"bfloat16", "0.01", "stochastic", "plain", "0.78125"}));
  CHECK(target == std::vector<Eigen::bfloat16>(n, Eigen::bfloat16(0.75f)));
  soft_update(to, from, 0.005, {.accumulate = Accumulate::plain});  // asked for by name
  CHECK(target == std::vector<Eigen::bfloat16>(n, Eigen::bfloat16(0.75f)));

  auto split = target;
  Parameters<Eigen::bfloat16> pieces_to;
  pieces_to.add("w", split);
  Splitter pieces(Split::pieces);
  for (std::uint64_t call = 1; call <= 200; ++call) {
    const SoftUpdateOptions options{.accumulate = Accumulate::stochastic, .seed = 4, .call = call};
    soft_update(to, from, 0.005, options);
    soft_update(pieces, pieces_to, from, 0.005, options);
  }
  CHECK(split == target);
  double mean = 0, square = 0;
  for (const auto x : target) mean += static_cast<double>(static_cast<float>(x)) / n;
  for (const auto x : target) {
    square += std::pow(static_cast<double>(static_cast<float>(x)) - mean, 2);
  }
  const double error = std::sqrt(square / (n * (n - 1.0)));
  CHECK(error > 0);
  CHECK(std::fabs(mean - (1 - 0.25 * std::pow(0.995, 200))) < 4 * error);

  CHECK_NOTHROW(soft_update(to, from, 0.5));  // half the way is far enough
  CHECK_NOTHROW(soft_update(to, from, 1));
  Model<float> wide({5}), other({5});
  CHECK(refuses(
      [&] { soft_update(wide.params, other.params, 0.5, {.accumulate = Accumulate::stochastic}); },
      {"stochastic", "16 bits"}));
  CHECK(refuses(
      [&] { soft_update(wide.params, other.params, 0.5, {.accumulate = Accumulate::kahan}); },
      {"SoftUpdateOptions.accumulate must be automatic, plain or stochastic"}));
}

TEST_CASE("soft_update accepts lists whose memory is adjacent and refuses overlaps") {
  float memory[] = {1, 2, 3, 4, 5, 6};
  const auto list = [&](std::size_t first) {
    Parameters<float> params;
    params.add("w", memory + first, {3});
    return params;
  };
  soft_update(list(0), list(3), 0.5);
  CHECK(memory[0] == 2.5F);
  CHECK(memory[2] == 4.5F);
  soft_update(list(3), list(0), 1);
  CHECK(memory[3] == 2.5F);
  CHECK(memory[5] == 4.5F);
  for (const std::size_t first : {1U, 2U}) {
    CHECK(refuses([&] { soft_update(list(0), list(first), 0.5); }, {"\"w\""}));
    CHECK(refuses([&] { soft_update(list(first), list(0), 0.5); }, {"\"w\""}));
  }
}

TEST_CASE("soft_update refuses a target that overlaps any tensor of the online list") {
  float a[] = {1, 2, 3}, y[] = {4, 5, 6}, c[] = {7, 8}, d[] = {9, 10}, e[] = {3, 4, 5},
        more[4] = {};
  const auto list = [](float* first, float* second, float* buffer, Role role) {
    Parameters<float> params;
    params.add("a", first, {3}).add("y", second, {3}, role).add("c", buffer, {2}, Role::copy);
    return params;
  };
  const Role roles[] = {Role::average, Role::ignore, Role::frozen};
  for (const Role role : roles) {
    for (const double tau : {0.0, 0.5, 1.0}) {
      CHECK(refuses([&] { soft_update(list(a, y, c, role), list(y, a, d, role), tau); },
                    {"\"a\"", "online tensor \"y\""}));
      CHECK(refuses([&] { soft_update(list(a, more, c, role), list(e, more + 1, c, role), tau); },
                    {role == Role::average ? "\"y\"" : "\"c\""}));
    }
  }
  CHECK(a[0] == 1);
  CHECK(y[0] == 4);
  CHECK(c[0] == 7);
  // both lists may share what is only read
  soft_update(list(a, y, c, Role::frozen), list(e, y, d, Role::frozen), 0.5);
  CHECK(a[0] == 2);
  CHECK(y[0] == 4);
  CHECK(c[0] == 9);
  soft_update(list(a, y, c, Role::ignore), list(e, y, d, Role::ignore), 1);
  CHECK(a[0] == 3);
}

TEST_CASE("soft_update refuses invalid arguments and changes nothing") {
  Model<float> online({5, 70}), target({5, 70}), other({5, 71});
  const auto before = target.bytes();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(refuses([&] { soft_update(target.params, online.params, 1.5); }, {"tau", "1.5"}));
  CHECK(refuses([&] { soft_update(target.params, online.params, nan); }, {"tau"}));
  CHECK(refuses([&] { soft_update(target.params, other.params, 0.5); }, {"tensor 1"}));
  CHECK(refuses([&] { soft_update(target.params, target.params, 0.5); },
                {"\"tensor 0\"", "online tensor \"tensor 0\""}));
  Ema<float> average(target.params);
  average.update(target.params);
  {
    const auto guard = average.swap_into(target.params);
    CHECK_THROWS_AS(soft_update(target.params, online.params, 0.5), std::logic_error);
  }
  CHECK(target.bytes() == before);
}

}  // namespace soft_update_test
