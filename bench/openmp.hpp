// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#if defined(_OPENMP) && __has_include(<polyak/core/openmp.hpp>)
#include <polyak/core/openmp.hpp>
#endif

#include "racer.hpp"

namespace polyak_bench {

#if defined(_OPENMP) && __has_include(<polyak/core/openmp.hpp>)

using polyak::OpenMp;

#elif defined(_OPENMP)

/// Equal shares of the elements, one per thread.
struct OpenMp {
  int threads = 0;

  template <typename Range>
  void operator()(std::size_t elements, Range&& range) const {
    const std::size_t shares =
        elements < elements_per_thread_pair ? 1 : static_cast<std::size_t>(threads);
    if (shares == 1) return range(std::size_t{0}, elements);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (std::size_t share = 0; share < shares; ++share) {
      range(elements * share / shares, elements * (share + 1) / shares);
    }
  }
};

#endif

#ifdef _OPENMP
inline constexpr std::size_t max_threads = 2;
#else
inline constexpr std::size_t max_threads = 1;
#endif

}  // namespace polyak_bench
