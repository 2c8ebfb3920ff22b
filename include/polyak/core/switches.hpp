// SPDX-License-Identifier: Apache-2.0
/// @file
/// The language that the library needs. Every header includes this file before any other code of
/// the library.
#pragma once

#if __cplusplus <= 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG > 201703L)
#error "polyak needs C++20: compile with -std=c++20"
// A missing file ends the compilation, so that nothing else is reported.
#include <polyak/needs/C++20>
#endif
