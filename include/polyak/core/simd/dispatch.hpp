// SPDX-License-Identifier: Apache-2.0
/// @file
/// Choosing the instruction set at run time. Only the entry functions here and the pack operations
/// name a target; laws and loops are inlined into them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <polyak/core/require.hpp>
#include <polyak/core/simd/pack.hpp>

namespace polyak {

/// Data of the process, which units with different switches share (core/switches.hpp).
namespace whole_process {

/// The limit from cap_dispatch_level(): the only global variable of the library.
inline std::atomic<int> called_cap{4};

}  // namespace whole_process

inline namespace POLYAK_V0 {

/// The instruction sets that loops are compiled for. x86_64_v3 (AVX2, FMA) and x86_64_v4 (AVX-512)
/// give the same results to the last bit, and so does a baseline that has fused multiply-adds.
enum class DispatchLevel : std::uint8_t {
  baseline,   ///< the instruction set of the program; the only level except on x86-64
  x86_64_v3,  ///< "x86-64-v3" in environment variables
  x86_64_v4,  ///< "x86-64-v4" in environment variables
};

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
/// Marked cold, so that the compiler spends little time on it.
template <class Lowest, class Kernel>
__attribute__((cold, noinline)) void enter_lowest(const Kernel& kernel) {
  kernel.template run<Lowest>();
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

[[nodiscard]] constexpr int number_of(DispatchLevel level) {
  return level == DispatchLevel::baseline ? 0 : level == DispatchLevel::x86_64_v3 ? 3 : 4;
}

/// The limit from POLYAK_DISPATCH_LEVEL. Throws std::invalid_argument, at every call, if its value
/// is not a level.
[[nodiscard]] inline int environment_cap() {
  static const int cap = [] {
    const char* const value = std::getenv("POLYAK_DISPATCH_LEVEL");
    if (value == nullptr) return 4;
    const std::string_view name(value);
    require(name == "baseline" || name == "x86-64-v3" || name == "x86-64-v4",
            "POLYAK_DISPATCH_LEVEL must be baseline, x86-64-v3 or x86-64-v4", name);
    return name == "baseline" ? 0 : name == "x86-64-v3" ? 3 : 4;
  }();
  return cap;
}

/// The widest level that the processor supports and the environment allows. Throws as
/// environment_cap().
[[nodiscard]] inline int own_level() {
  static const int level = [] {
    const int cap = environment_cap(), supported = supported_level();
    return cap < supported ? cap : supported;
  }();
  return level;
}

using whole_process::called_cap;

/// The level of all loops: the widest that the processor supports and both limits allow.
[[nodiscard]] inline int level_in_use() {
  const int level = own_level(), cap = called_cap.load(std::memory_order_relaxed);
  return cap < level ? cap : level;
}

/// Runs `kernel.run<Level>()` at the given level, which must be supported: 0 is Lowest.
template <class Lowest = Baseline, class Kernel>
void run_at(int level, const Kernel& kernel) {
#if POLYAK_X86_LEVELS
  if (level == 4) return enter_v4(kernel);
  if (level == 3) return enter_v3(kernel);
  enter_lowest<Lowest>(kernel);
#else
  static_cast<void>(level);
  kernel.template run<Lowest>();
#endif
}

/// The same for loops that are used too rarely to be compiled for every level: v3 replaces v4, with
/// the same bits. Programs compiled for AVX-512 as a whole use v4: in them, g++ would split the
/// registers of v3 into single numbers, and the loop would be ten times slower.
template <class Kernel>
void run_rarely_at(int level, const Kernel& kernel) {
#if POLYAK_X86_LEVELS
#if defined(__AVX512F__)
  if (level == 4) return enter_v4(kernel);
#endif
  if (level >= 3) return enter_v3(kernel);
  enter_lowest<Baseline>(kernel);
#else
  static_cast<void>(level);
  kernel.template run<Baseline>();
#endif
}

}  // namespace detail

/// The current level of all loops: the widest that the processor supports, unless
/// cap_dispatch_level() or the environment variable POLYAK_DISPATCH_LEVEL (`baseline`, `x86-64-v3`
/// or `x86-64-v4`; read once, at first use) limits it. Throws std::invalid_argument if the variable
/// holds anything else; so does every first call of another function, before it changes anything.
[[nodiscard]] inline DispatchLevel dispatch_level() {
  const int level = detail::level_in_use();
  return level == 4   ? DispatchLevel::x86_64_v4
         : level == 3 ? DispatchLevel::x86_64_v3
                      : DispatchLevel::baseline;
}

/// For tests and bug reports: limits the level of all loops in this process that begin afterwards.
/// The processor and POLYAK_DISPATCH_LEVEL still limit it, so DispatchLevel::x86_64_v4 removes this
/// limit. May be called from any thread. Throws std::invalid_argument for a number that is not a
/// level.
inline void cap_dispatch_level(DispatchLevel level) {
  require(level <= DispatchLevel::x86_64_v4, "cap_dispatch_level: level must be a DispatchLevel",
          static_cast<int>(level));
  detail::called_cap.store(detail::number_of(level), std::memory_order_relaxed);
}

}  // namespace POLYAK_V0
}  // namespace polyak
