// SPDX-License-Identifier: Apache-2.0
/// @file
/// Lawa: the mean of the k latest checkpoints.
///
///   every `period` calls the oldest of k checkpoints makes room for x
///   average = (x_{t} + x_{t - period} + ... + x_{t - (k-1) period}) / k      once k are held
///
/// "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging"
/// (arXiv 2209.14981), Algorithm 1, one checkpoint per epoch; in the paper, more than 16
/// checkpoints do harm.
/// State: k + 1 slots. Elementwise; any shape. 2 words per parameter at a checkpoint, and
/// k + 2 (k/4 + k mod 4) for the mean, which is summed four checkpoints at a time and then one by
/// one; with running_mean 5 in all.
#pragma once

#include <cstdint>
#include <string_view>

#include <polyak/average/engine/ring_of_blocks.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct LawaOptions {
  std::int64_t checkpoints = 6;  ///< k in [1, 65536]; 1 is the last checkpoint
  std::int64_t period = 1;       ///< calls from one checkpoint to the next, >= 1
  /// Updates the mean from its last value, and recomputes it every k checkpoints. Until then a NaN
  /// can outlive its checkpoint.
  bool running_mean = false;
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

template <class Fields>
void fields(LawaOptions& o, Fields& field) {
  constexpr Rule<std::int64_t> in_1_65536{[](std::int64_t v) { return v >= 1 && v <= 65536; },
                                          "must lie in [1, 65536]",
                                          {0, -1, 65537}};
  field("checkpoints", o.checkpoints, in_1_65536);
  field("period", o.period, at_least_1);
  field("running_mean", o.running_mean);
  detail::average_fields(o, field);
}

/// One block of one iterate, every `period` calls.
struct LawaWeighting {
  std::int64_t period = 1;

  [[nodiscard]] double least_gain() const { return 1; }
  [[nodiscard]] bool samples(std::int64_t t) const { return t % period == 0; }
  [[nodiscard]] bool completes(std::int64_t t) const { return t % period == 0; }
};
template <class Fields>
void fields(LawaWeighting& w, Fields& field) {
  field("period", w.period, at_least_1);
}

/// Latest weight averaging. Throws std::invalid_argument for options out of range. It is not
/// readable until it holds k checkpoints. Buffers (Role::copy) belong to the newest checkpoint, so
/// re-estimate BatchNorm statistics. For everything else see RingOfBlocks.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class Lawa final : public RingOfBlocks<Lawa<P, S>, P, LawaWeighting, S> {
 public:
  static constexpr std::string_view type_name = "Lawa";

  explicit Lawa(const Parameters<P>& params, LawaOptions options = {},
                const Selection& selection = {})
      : RingOfBlocks<Lawa<P, S>, P, LawaWeighting, S>(
            params, weighting_of(options),
            {.ring = options.checkpoints,
             .kept = options.checkpoints,
             .width = options.checkpoints,
             .running = options.running_mean},
            options.nonfinite, {options.accumulate, options.seed, selection}) {}

 private:
  static LawaWeighting weighting_of(const LawaOptions& options) {
    validate(options);
    return {options.period};
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
