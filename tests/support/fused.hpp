// SPDX-License-Identifier: Apache-2.0
/// @file
/// One call for several methods against one call for each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include <polyak/average/engine/fed_back_average.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>

#include "allocations.hpp"
#include "catch.hpp"
#include "model.hpp"
#include "splitter.hpp"

namespace fused {

/// An average that goes through all that averages do, by the call's number: it rests, copies,
/// averages, is fed back, and is blended back.
struct ScriptedGain {
  int phase;
  [[nodiscard]] double gain(std::int64_t t) const {
    constexpr std::array<double, 7> gains{0.25, 1, 0.5, 0, 0.125, 0.75, 0.25};
    return gains[static_cast<std::size_t>(t + phase) % gains.size()];
  }
  [[nodiscard]] double complement(std::int64_t t) const { return 1 - gain(t); }
};
struct ScriptedSwitch {
  int phase;
  [[nodiscard]] bool after(std::int64_t t) const { return (t + phase) % 3 == 0; }
};
template <class P, class S = polyak::default_state_t<P>>
class Scripted final
    : public polyak::FedBackAverage<Scripted<P, S>, P, ScriptedGain, ScriptedSwitch, S> {
 public:
  static constexpr std::string_view type_name = "Scripted";
  Scripted(const polyak::Parameters<P>& params, int phase)
      : polyak::FedBackAverage<Scripted<P, S>, P, ScriptedGain, ScriptedSwitch, S>(
            params, {phase}, {phase}, phase % 2 == 0 ? 0 : 0.25, polyak::Nonfinite::propagate) {}
};

inline constexpr std::uint64_t steps = 22;  // all phases of gain and switch meet

/// Runs the methods that `make(params)` gives in one call and one by one.
template <class P, class Make>
void check(const std::string& name, Make make) {
  const std::vector<std::size_t> sizes{5, 70, 0, 33, 160};
  Model<P> fused_model(sizes, true), separate_model(sizes, true);
  auto fused = make(fused_model.params);
  auto separate = make(separate_model.params);
  Splitter whole(Split::whole), pieces(Split::pieces), threads(Split::threads);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const std::set<std::size_t> without = step % 5 == 1   ? std::set<std::size_t>{1, 3}
                                          : step % 5 == 3 ? std::set<std::size_t>{5}
                                                          : std::set<std::size_t>{};
    fused_model.differentiate(step, without);
    separate_model.differentiate(step, without);

    Splitter& splitter = step % 3 == 0 ? whole : step % 3 == 1 ? pieces : threads;
    const allocations::Counter counter;
    const bool complete = std::apply(
        [&](auto&... methods) {
          return polyak::step(splitter, fused_model.params, fused_model.gradients, methods...);
        },
        fused);
    const std::size_t allocated = counter.counts().number;
    const auto alone = [&](auto& method) {
      if constexpr (std::remove_reference_t<decltype(method)>::trains) {
        method.step(separate_model.params, separate_model.gradients);
      } else {
        method.update(separate_model.params);
      }
    };
    std::apply([&](auto&... methods) { (alone(methods), ...); }, separate);

    const auto states = [](auto&... methods) {
      return std::vector<std::vector<std::byte>>{polyak::state_bytes(methods)...};
    };
    INFO(name << ", step " << step);
    CHECK(complete);
    CHECK((allocated == 0 || step % 3 == 2));
    CHECK(fused_model.gradient_bytes() == separate_model.gradient_bytes());
    REQUIRE(fused_model.bytes() == separate_model.bytes());
    REQUIRE(std::apply(states, fused) == std::apply(states, separate));
  }
  CHECK(fused_model.margins_intact());
}

}  // namespace fused
