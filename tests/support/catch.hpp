// SPDX-License-Identifier: Apache-2.0
/// @file
/// Catch2, version 3 or (Debian 12) version 2.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // version 2 declares it so
#else
#include <catch2/catch.hpp>
#endif
