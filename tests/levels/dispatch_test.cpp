// SPDX-License-Identifier: Apache-2.0
// Levels of dispatch: how to limit them, and how their results differ.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/polyak.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/levels.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"

namespace dispatch_test {

namespace {

using polyak::DispatchLevel;

/// Limits the level while it lives.
class Capped {
 public:
  explicit Capped(DispatchLevel level) { polyak::cap_dispatch_level(level); }
  Capped(const Capped&) = delete;
  Capped& operator=(const Capped&) = delete;
  ~Capped() { polyak::cap_dispatch_level(DispatchLevel::x86_64_v4); }
};

constexpr std::size_t size = 3001;
constexpr double learning_rate = 0.01;

/// AdamW with an Ema.
template <class P>
struct Training {
  Model<P> model{std::vector<std::size_t>{size}};
  polyak::AdamW<P> adamw{model.params, {.learning_rate = learning_rate, .weight_decay = 0.1}};
  polyak::Ema<P> ema{model.params, {.decay = 0.9}};

  void step(std::uint64_t number) {
    model.differentiate(number);
    polyak::step(model.params, model.gradients, adamw, ema);
  }
  [[nodiscard]] auto bytes() {
    return std::tuple(model.bytes(), polyak::state_bytes(adamw), polyak::state_bytes(ema));
  }
};

template <class P>
auto step_at(DispatchLevel level) {
  const Capped capped(level);
  Training<P> training;
  for (std::uint64_t step = 0; step < 20; ++step) training.step(step);
  return training.bytes();
}

}  // namespace

TEST_CASE("the dispatch level can be limited and released again") {
  const DispatchLevel free = polyak::dispatch_level();
  for (const DispatchLevel level :
       {DispatchLevel::baseline, DispatchLevel::x86_64_v3, DispatchLevel::x86_64_v4}) {
    const Capped capped(level);
    CHECK(polyak::dispatch_level() == std::min(level, free));
  }
  CHECK(polyak::dispatch_level() == free);
  CHECK(refuses([] { polyak::cap_dispatch_level(static_cast<DispatchLevel>(3)); },
                {"cap_dispatch_level", "DispatchLevel", "got 3"}));
  CHECK(polyak::dispatch_level() == free);
}

TEMPLATE_TEST_CASE("levels with fused multiply-adds give the same bits", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  const auto widest = step_at<TestType>(DispatchLevel::x86_64_v4);
  CHECK(step_at<TestType>(DispatchLevel::x86_64_v3) == widest);
  if (levels::baseline_rounds_once) CHECK(step_at<TestType>(DispatchLevel::baseline) == widest);
}

// Without fused multiply-adds each a * b + c rounds twice. From one state, a step of AdamW and Ema
// then leaves weight and average within 4 units in the last place of the largest number that
// went into them: the weight before and after, the learning rate, the average.
TEMPLATE_TEST_CASE("a step without fused multiply-adds is close to one with them", "", float,
                   double) {
  using T = TestType;
  constexpr double bound = 4;  // seen: 3.0 for float, 2.1 for double
  Training<T> once, twice;
  double worst = 0;
  const auto compare = [&](double a, double b, double largest) {
    largest = std::max({largest, std::abs(a), std::abs(b)});
    const double unit =
        std::ldexp(static_cast<double>(std::numeric_limits<T>::epsilon()), std::ilogb(largest));
    worst = std::max(worst, std::abs(a - b) / unit);
  };
  for (std::uint64_t step = 0; step < 100; ++step) {
    twice.model.restore(once.model.bytes());
    polyak::restore_state(twice.adamw, polyak::state_bytes(once.adamw));
    polyak::restore_state(twice.ema, polyak::state_bytes(once.ema));
    const T* const x = once.model.params[0].data();
    const std::vector<T> before(x, x + size);
    once.step(step);
    {
      const Capped capped(DispatchLevel::baseline);
      twice.step(step);
    }
    const auto a = once.ema.view()[0], b = twice.ema.view()[0];
    for (std::size_t k = 0; k < size; ++k) {
      const double weight = std::max(std::abs(static_cast<double>(before[k])), learning_rate);
      const auto after = static_cast<double>(x[k]);
      compare(after, static_cast<double>(twice.model.params[0].data()[k]), weight);
      compare(static_cast<double>(a[k]), static_cast<double>(b[k]), std::abs(after));
    }
  }
  CHECK(worst <= bound);
  const bool same =
      levels::baseline_rounds_once || polyak::dispatch_level() == DispatchLevel::baseline;
  CHECK((worst == 0) == same);
}

TEST_CASE(
    "levels with fused multiply-adds round 16-bit averages alike and choose the same elements at "
    "random") {
  using namespace polyak;
  using Bfloat16 = Eigen::bfloat16;
  const auto bits_at = [](DispatchLevel level, Accumulate accumulate) {
    const Capped capped(level);
    std::vector<Bfloat16> memory(1000);
    for (std::size_t k = 0; k < memory.size(); ++k) {
      memory[k] = static_cast<Bfloat16>(static_cast<float>(bits::uniform(k)));
    }
    memory[5] = std::numeric_limits<Bfloat16>::quiet_NaN();
    memory[70] = std::numeric_limits<Bfloat16>::infinity();
    Parameters<Bfloat16> params;
    params.add("even", memory.data(), {640}).add("odd", memory.data() + 641, {333});
    Ema<Bfloat16, Bfloat16> ema(params, {.decay = 0.5, .accumulate = accumulate, .seed = 3});
    CottaTeacher<Bfloat16> teacher(params, {.restore_probability = 0.1, .restore_seed = 3});
    for (int step = 0; step < 5; ++step) {
      for (Bfloat16& value : memory) {
        value = static_cast<Bfloat16>(static_cast<float>(value) + 0.125F);
      }
      update(params, ema, teacher);
    }
    return std::pair(state_bytes(ema), bits::bytes(memory));
  };
  for (const Accumulate accumulate :
       {Accumulate::plain, Accumulate::kahan, Accumulate::stochastic}) {
    CHECK(bits_at(DispatchLevel::x86_64_v3, accumulate) ==
          bits_at(DispatchLevel::x86_64_v4, accumulate));
  }
}

}  // namespace dispatch_test
