// SPDX-License-Identifier: Apache-2.0
// The guard that flushes denormals: its effect, and that its end restores everything.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

#include <polyak/core/simd/denormals.hpp>
#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/splitter.hpp"

namespace denormals_test {

namespace {

using Mode = polyak::detail::FloatMode;
using polyak::FlushDenormals;

static_assert(!std::is_copy_constructible_v<FlushDenormals>);
static_assert(!std::is_copy_assignable_v<FlushDenormals>);

constexpr bool acts = Mode::flush != 0;

/// Whether the thread's arithmetic knows denormals.
bool knows_denormals() {
  volatile float small = 1e-30F;
  volatile float denormal = small * 1e-10F;
  return denormal * 1e30F > 0;
}

/// The second moment of Adam after a gradient whose square is denormal, and all that a few steps
/// and an average leave.
template <class E>
std::vector<std::vector<std::byte>> trained(E&& executor, float& second_moment) {
  std::vector<float> weights(1000, 1.0F), gradient(1000, 1e-19F);
  polyak::Parameters<float> params;
  params.add("weights", weights);
  const auto gradients = polyak::like(params, gradient);
  polyak::AdamW adamw(params, {.learning_rate = 1e-3});
  polyak::Ema ema(params, {.decay = 0.9});
  for (int step = 0; step < 3; ++step) polyak::step(executor, params, gradients, adamw, ema);
  second_moment = adamw.slots().tensor(1, 0)[500];
  return {bits::bytes(weights), polyak::state_bytes(adamw), polyak::state_bytes(ema)};
}

/// Threads that were started before, in the usual mode, like the threads of a pool.
struct Worker {
  template <class Range>
  void operator()(std::size_t elements, Range&& range) const {
    range(std::size_t{0}, elements / 3);
    std::thread([&] {
      const Mode::Word usual = Mode::get() & ~Mode::flush;
      const polyak::detail::WithFloatMode outside(usual);
      range(elements / 3, elements);
      if (Mode::get() != usual) FAIL_CHECK("the worker's mode was not restored");
    }).join();
  }
};

}  // namespace

TEST_CASE("FlushDenormals flushes denormals and restores the mode") {
  const Mode::Word before = Mode::get();
  REQUIRE(knows_denormals());
  {
    const FlushDenormals guard;
    CHECK(knows_denormals() == !acts);
    {
      const FlushDenormals nested;
      CHECK(knows_denormals() == !acts);
    }
    CHECK(knows_denormals() == !acts);
  }
  CHECK(Mode::get() == before);
  CHECK(knows_denormals());
  try {
    const FlushDenormals guard;
    throw std::runtime_error("leaves the guard");
  } catch (const std::runtime_error&) {
  }
  CHECK(Mode::get() == before);
}

TEST_CASE("FlushDenormals restores a mode that already flushed") {
  const Mode::Word before = Mode::get();
  {
    const polyak::detail::WithFloatMode flushing(before | Mode::flush);
    { const FlushDenormals guard; }
    CHECK(Mode::get() == (before | Mode::flush));
  }
  CHECK(Mode::get() == before);
}

TEST_CASE("FlushDenormals affects only its own thread") {
  const FlushDenormals guard;
  bool other = true;
  std::thread([&] {
    const polyak::detail::WithFloatMode usual(Mode::get() & ~Mode::flush);
    other = knows_denormals();
  }).join();
  CHECK(other);
  CHECK(knows_denormals() == !acts);
}

TEST_CASE("Adam's denormal moments become zeros under FlushDenormals, for any number of threads") {
  float plain = 0, flushed = 1, threaded = 1, outside = 0;
  const auto usual = trained(polyak::serial, plain);
  CHECK(std::fpclassify(plain) == FP_SUBNORMAL);
  CHECK(trained(Worker{}, outside) == usual);
  {
    const FlushDenormals guard;
    const auto serial = trained(polyak::serial, flushed);
    CHECK(trained(Worker{}, threaded) == serial);
    CHECK((serial == usual) == !acts);
  }
  if (acts) CHECK((flushed == 0 && threaded == 0));
  float again = 0;
  CHECK(trained(polyak::serial, again) == usual);
}

}  // namespace denormals_test
