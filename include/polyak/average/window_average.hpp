// SPDX-License-Identifier: Apache-2.0
/// @file
/// WindowAverage: means over blocks of calls, and over any number of the newest blocks.
///
///   n calls made before:  n % interval = 0:  block <- block + (x - block)/j,
///                         j = (n % horizon)/interval + 1    the j-th sample of its block
///   block complete after every `horizon` calls; average: the mean of the m newest complete blocks
///
/// "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (arXiv 2405.18392),
/// `WeightAverager`. The first call of an interval is sampled. State: blocks + 2 slots.
/// Elementwise; any shape. 3 words per parameter and sample.
#pragma once

#include <cstdint>
#include <string_view>

#include <polyak/average/engine/ring_of_blocks.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/slot_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct WindowAverageOptions {
  std::int64_t horizon = 500;  ///< calls of a block, a multiple of `interval`
  std::int64_t interval = 5;   ///< calls from one sample to the next, >= 1
  std::int64_t blocks =
      1;  ///< newest complete blocks that are stored: the widest window, in [1, 65535]
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(WindowAverageOptions& o, Fields& field) {
  constexpr Rule<std::int64_t> in_1_65535{[](std::int64_t v) { return v >= 1 && v <= 65535; },
                                          "must lie in [1, 65535]",
                                          {0, -1, 65536}};
  field("horizon", o.horizon);
  field("interval", o.interval, at_least_1);
  field.check(o.interval < 1 || (o.horizon >= 1 && o.horizon % o.interval == 0),
              "horizon must be a positive multiple of interval", o.horizon);
  field("blocks", o.blocks, in_1_65535);
  detail::average_fields(o, field);
}

/// Blocks of `horizon` calls; the first of every `interval` calls is sampled.
struct WindowWeighting {
  std::int64_t horizon = 500, interval = 5;

  [[nodiscard]] double least_gain() const {
    return static_cast<double>(interval) / static_cast<double>(horizon);
  }
  [[nodiscard]] bool samples(std::int64_t t) const { return (t - 1) % interval == 0; }
  [[nodiscard]] bool completes(std::int64_t t) const { return t % horizon == 0; }
};
template <class Fields>
void fields(WindowWeighting& w, Fields& field) {
  field("horizon", w.horizon, at_least_1);
  field("interval", w.interval, at_least_1);
}

/// Block means of the weights. By default it returns the newest complete block;
/// `copy_to(target, m)` and `swap_into(params, m)` return the mean of the m newest ones, so
/// evaluate several m after training. A tail average then needs no start that is known in advance.
/// Throws std::invalid_argument for options out of range. For everything else see RingOfBlocks.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class WindowAverage final : public RingOfBlocks<WindowAverage<P, S>, P, WindowWeighting, S> {
 public:
  static constexpr std::string_view type_name = "WindowAverage";

  explicit WindowAverage(const Parameters<P>& params, WindowAverageOptions options = {},
                         const Selection& selection = {})
      : RingOfBlocks<WindowAverage<P, S>, P, WindowWeighting, S>(
            params, weighting_of(options),
            {.ring = options.blocks + 1, .kept = options.blocks, .width = 1}, options.nonfinite,
            {options.accumulate, options.seed, selection}) {}

  /// The block that is being sampled, or that the last call completed. Throws std::logic_error
  /// before the first call.
  [[nodiscard]] SlotView<S> current() const { return this->current_block(); }

 private:
  static WindowWeighting weighting_of(const WindowAverageOptions& options) {
    validate(options);
    return {options.horizon, options.interval};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
