// SPDX-License-Identifier: Apache-2.0
/// @file
/// An executor that runs a sweep on OpenMP's threads.
#pragma once

#include <cstddef>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
#if defined(_OPENMP)
template <class Range>
inline constexpr bool compiled_with_openmp = true;
#else
template <class Range>
inline constexpr bool compiled_with_openmp = false;
#endif
}  // namespace detail

/// Runs a sweep on the threads of OpenMP, in equal shares: `polyak::step(polyak::OpenMp{}, ...)`.
///
/// For programs that are compiled with OpenMP (-fopenmp); without it, uses do not compile. Never
/// changes OpenMP's settings. Inside a parallel region of the caller it gets the threads of a
/// nested region, by default one.
struct OpenMp {
  int threads = 0;                     ///< >= 0; 0 is omp_get_max_threads()
  std::size_t serial_below = 1 << 14;  ///< sweeps over fewer elements stay in the calling thread

  /// Throws std::invalid_argument if `threads` is negative.
  void validate() const { require(threads >= 0, "OpenMp.threads must be 0 or more", threads); }

  template <class Range>
  void operator()(std::size_t elements, Range&& range) const {
    static_assert(detail::compiled_with_openmp<Range>,
                  "polyak: OpenMp must be compiled with OpenMP (-fopenmp)");
#if defined(_OPENMP)
    validate();
    const int team = threads == 0 ? omp_get_max_threads() : threads;
    if (elements == 0 || elements < serial_below || team == 1) {
      range(std::size_t{0}, elements);
      return;
    }
    // Always use the whole team, even if a small sweep leaves some threads without a share:
    // runtimes stop and restart threads when the size of the team changes between regions.
#pragma omp parallel num_threads(team)
    {
      const auto shares = static_cast<std::size_t>(omp_get_num_threads());
      const auto k = static_cast<std::size_t>(omp_get_thread_num());
      const std::size_t begin = detail::share_begin(elements, shares, k);
      const std::size_t end = detail::share_begin(elements, shares, k + 1);
      if (begin < end) range(begin, end);
    }
#else
    range(std::size_t{0}, elements);
#endif
  }
};

}  // namespace POLYAK_V0
}  // namespace polyak
