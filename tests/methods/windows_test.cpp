// SPDX-License-Identifier: Apache-2.0
// The battery over banks, windows, teachers and filtered averages.
#include <array>
#include <vector>

#include <Eigen/Core>
#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/method_battery.hpp"

namespace {

using method_battery::entry;
using polyak::Accumulate;

template <class P, class S>
struct Bank : polyak::EmaBank<P, 3, S> {
  Bank(const polyak::Parameters<P>& params, const polyak::EmaBankOptions& options)
      : polyak::EmaBank<P, 3, S>(params, {0.75, 0.0, 0.9}, options) {}
};

template <class P, class S>
std::vector<method_battery::Entry<P>> elementwise(Accumulate accumulate) {
  using namespace polyak;
  return {
      entry<Bank<P, S>>("EmaBank", EmaBankOptions{.start = Start::first_update,
                                                  .update_every = 2,
                                                  .accumulate = accumulate,
                                                  .seed = 5}),
      entry<Lawa<P, S>>("Lawa", LawaOptions{.checkpoints = 5, .accumulate = accumulate}),
      entry<Lawa<P, S>>(
          "Lawa with a running mean",
          LawaOptions{.checkpoints = 3, .running_mean = true, .accumulate = accumulate}),
      entry<WindowAverage<P, S>>(
          "WindowAverage",
          WindowAverageOptions{.horizon = 4, .interval = 2, .blocks = 1, .accumulate = accumulate}),
      entry<Tail<P, S>>("Tail", TailOptions{.start = 3, .accumulate = accumulate}),
      entry<SampleEma<P, S>>("SampleEma",
                             SampleEmaOptions{.half_life = 2, .accumulate = accumulate}),
  };
}

/// What depends on how the tensors divide the memory.
template <class P, class S>
std::vector<method_battery::Entry<P>> by_tensor(Accumulate accumulate) {
  using namespace polyak;
  return {
      entry<CottaTeacher<P, S>>(
          "CottaTeacher",
          CottaOptions{.decay = 0.75, .restore_probability = 0.2, .accumulate = accumulate}),
      entry<Aswa<P, S>>("Aswa",
                        AswaOptions{.filter = AswaFilter::mean_norm, .accumulate = accumulate}),
  };
}

template <class P, class S>
void check(Accumulate accumulate) {
  const bool random = accumulate == Accumulate::stochastic;
  method_battery::check(elementwise<P, S>(accumulate), false, random);
  method_battery::check(by_tensor<P, S>(accumulate), false, true);
}

}  // namespace

TEST_CASE("battery of windows: rounded to nearest") { check<float, float>(Accumulate::plain); }

TEST_CASE("battery of windows: float with compensation and in double") {
  check<float, float>(Accumulate::kahan);
  check<float, float>(Accumulate::float64);
}

TEST_CASE("battery of windows: 16 bits") {
  check<Eigen::bfloat16, Eigen::bfloat16>(Accumulate::stochastic);
}
