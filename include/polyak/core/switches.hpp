// SPDX-License-Identifier: Apache-2.0
/// @file
/// The language that the library needs, and the switches of a build. Every header includes this
/// file before any other code of the library.
///
/// A function of the library is inline and has the same name in all units of a program, of which
/// the linker takes any one. So the inline namespace of the library has the unit's switches in its
/// name: units with different switches each run by their own, and what they pass to each other, or
/// expect of the compiled library, does not link.
#pragma once

#if __cplusplus <= 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG > 201703L)
#error "polyak needs C++20: compile with -std=c++20"
// A missing file ends the compilation, so that nothing else is reported.
#include <polyak/needs/C++20>
#endif

#if POLYAK_HAS_XXHASH
#define POLYAK_V0_DIGESTS _digests
#else
#define POLYAK_V0_DIGESTS
#endif
#if defined(POLYAK_NO_DISPATCH)
#define POLYAK_V0_LEVELS _one_level
#else
#define POLYAK_V0_LEVELS
#endif
#if defined(POLYAK_SMALL_LOOPS)
#define POLYAK_V0_LOOPS _small_loops
#else
#define POLYAK_V0_LOOPS
#endif
#define POLYAK_JOIN_NAME(a, b, c) v0##a##b##c
#define POLYAK_JOINED_NAME(a, b, c) POLYAK_JOIN_NAME(a, b, c)

/// The inline namespace of the library: `namespace polyak { inline namespace POLYAK_V0 { ... } }`.
#define POLYAK_V0 POLYAK_JOINED_NAME(POLYAK_V0_DIGESTS, POLYAK_V0_LEVELS, POLYAK_V0_LOOPS)
