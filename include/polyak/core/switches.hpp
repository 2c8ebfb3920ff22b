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

/// The inline namespace of the library: `namespace polyak { inline namespace POLYAK_V0 { ... } }`.
#if POLYAK_HAS_XXHASH && defined(POLYAK_NO_DISPATCH)
#define POLYAK_V0 v0_digests_one_level
#elif POLYAK_HAS_XXHASH
#define POLYAK_V0 v0_digests
#elif defined(POLYAK_NO_DISPATCH)
#define POLYAK_V0 v0_one_level
#else
#define POLYAK_V0 v0
#endif
