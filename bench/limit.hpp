// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyak_bench {

// Kernels that are as fast as this machine does the work: the arithmetic of each method, written
// with intrinsics and apart from the library, over the same reads and writes. Streams begin at
// multiples of 64 bytes, and the padding of their tensors is read and written as well.

/// The optimizer of a limit kernel; `none` for averages of resting parameters.
enum class LimitMethod {
  none,
  sgd_plain,
  sgd,
  adamw,
  adam_amsgrad,
  lion,
  ademamix,
  ademamix_beta1_0,
  schedule_free_sgd,
  schedule_free_adamw,
};

inline constexpr std::size_t max_limit_averages = 3;

// The methods' options, where they are not the library's defaults.
inline constexpr double sgd_momentum = 0.9;
inline constexpr double adamw_weight_decay = 0.01;

/// The clock and the scalars that do not depend on the element.
struct LimitState {
  double learning_rate = 0;
  float gains[max_limit_averages] = {};  ///< c of avg <- avg + c (x - avg)
  long steps = 0;
  double beta1_power = 1, beta2_power = 1;
  double weight_sum = 0;  ///< of the Schedule-Free averaging
};

/// Elements begin..end of every stream, multiples of 32.
struct LimitRange {
  std::size_t begin, end;
};

/// One step over the ranges. Streams: parameters, gradients (absent for `none`), the method's
/// slots, averages.
using LimitKernel = void (*)(const LimitState& state, float* const* streams,
                             const LimitRange* ranges, std::size_t count);

[[nodiscard]] LimitKernel limit_kernel(LimitMethod method, std::size_t averages);
[[nodiscard]] std::size_t limit_slots(LimitMethod method);

/// Advances the clock; then the kernel may run, over any split of the ranges.
void limit_advance(LimitState& state);

/// target = sum of weights[k] sources[k] over `terms` (2, 4 or 8) streams.
using LimitSum = void (*)(const float* weights, const float* const* sources, float* target,
                          const LimitRange* ranges, std::size_t count);

/// `streamed`: the stores bypass the caches, which pays where the target is larger than them.
[[nodiscard]] LimitSum limit_sum(std::size_t terms, bool streamed);

/// How an average is stored: in float, in bfloat16, or in bfloat16 with a second array of it that
/// has the excess of the rounded number over the exact one.
enum class LimitStorage { floats, bfloat16, compensated };

/// average += gain (x - average), x of bfloat16, computed in float and rounded to nearest even
/// where it is stored; `excess` is null unless the average is compensated.
using LimitBfloat16Ema = void (*)(float gain, const std::uint16_t* x, void* average,
                                  std::uint16_t* excess, const LimitRange* ranges,
                                  std::size_t count);

[[nodiscard]] LimitBfloat16Ema limit_bfloat16_ema(LimitStorage storage);

/// AdamW of weights x and gradients g of bfloat16 with moments of float. With `rests`, another
/// stream of bfloat16 keeps the rounding errors of the weights.
using LimitBfloat16AdamW = void (*)(const LimitState& state, std::uint16_t* x,
                                    const std::uint16_t* g, std::uint16_t* rest, float* m, float* v,
                                    const LimitRange* ranges, std::size_t count);

[[nodiscard]] LimitBfloat16AdamW limit_bfloat16_adamw(bool rests);

/// Sum of the products of two streams, which may be one.
[[nodiscard]] double limit_dot(const float* x, const float* y, const LimitRange* ranges,
                               std::size_t count);

/// Width in bytes of the vectors that the kernels were compiled for.
[[nodiscard]] std::size_t limit_vector_bytes();

}  // namespace polyak_bench
