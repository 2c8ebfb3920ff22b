// SPDX-License-Identifier: Apache-2.0
/// @file
/// The library's version, for the preprocessor. The build system reads it from here; there is no
/// copy.
#pragma once

#define POLYAK_VERSION_MAJOR 0
#define POLYAK_VERSION_MINOR 1
#define POLYAK_VERSION_PATCH 0

/// "major.minor.patch".
#define POLYAK_VERSION_STRING "0.1.0"

/// One number that grows with every version: `#if POLYAK_VERSION >= 100` tests for 0.1.0 or later.
#define POLYAK_VERSION \
  (POLYAK_VERSION_MAJOR * 10000 + POLYAK_VERSION_MINOR * 100 + POLYAK_VERSION_PATCH)
