// SPDX-License-Identifier: Apache-2.0
/// @file
/// Choosing the instruction set at run time. Only the entries here and the pack operations name a
/// target; laws and walk are inlined into them.
#pragma once

#include <polyak/core/pack.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

#if POLYAK_X86_LEVELS
template <class Kernel>
__attribute__((flatten)) POLYAK_TARGET_V4 void enter_v4(const Kernel& kernel) {
  kernel.template run<X86V4>();
}
template <class Kernel>
__attribute__((flatten)) POLYAK_TARGET_V3 void enter_v3(const Kernel& kernel) {
  kernel.template run<X86V3>();
}
#endif

/// The widest level that this processor and its system support: 4, 3, or 0 for the baseline.
[[nodiscard]] inline int supported_level() {
#if POLYAK_X86_LEVELS
  static const int level = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? 4 : 3;
  }();
  return level;
#else
  return 0;
#endif
}

/// Runs `kernel.run<Level>()` at the given level, which must be supported.
template <class Kernel>
void run_at(int level, const Kernel& kernel) {
#if POLYAK_X86_LEVELS
  if (level == 4) return enter_v4(kernel);
  if (level == 3) return enter_v3(kernel);
#else
  static_cast<void>(level);
#endif
  kernel.template run<Baseline>();
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
