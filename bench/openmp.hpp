// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <polyak/core/executors/openmp.hpp>

namespace polyak_bench {

using polyak::OpenMp;

#ifdef _OPENMP
inline constexpr std::size_t max_threads = 2;
#else
inline constexpr std::size_t max_threads = 1;
#endif

}  // namespace polyak_bench
