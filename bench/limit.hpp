// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace polyak_bench {

/// Reads `count` floats of `source` and of each updated stream and writes the latter, with one
/// subtraction per value: what the machine needs for the traffic alone. Pointers lie on 64-byte
/// boundaries and the memory up to the next one is touched as well.
using LimitKernel = void (*)(const float* source, float* const* updated, std::size_t count);

inline constexpr std::size_t max_updated_streams = 8;

/// The kernel for one stream that is read and `updated` (1 to 8) that are read and written.
[[nodiscard]] LimitKernel limit_kernel(std::size_t updated);

inline constexpr std::size_t summed_streams = 8;

/// Reads `count` floats of each of the 8 sources and writes their sum; memory as above.
void limit_sum(const float* const* sources, float* target, std::size_t count);

/// Width in bytes of the vectors that the kernels were compiled for.
[[nodiscard]] std::size_t limit_vector_bytes();

}  // namespace polyak_bench
