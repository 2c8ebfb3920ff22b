// SPDX-License-Identifier: Apache-2.0
/// @file
/// Header-only use, and use with the compiled library polyak::compiled, which defines
/// POLYAK_COMPILED.
///
/// Functions that are not templates are declared in NAME.hpp and defined in NAME.ipp. In
/// header-only use, NAME.hpp includes NAME.ipp at its end. The library compiles all of them once,
/// together with the loops of usual methods that <polyak/compiled.hpp> lists.
#pragma once

#include <polyak/core/switches.hpp>

/// Stands before each definition in an .ipp file, and before the declaration of each virtual
/// function that one defines. A virtual function that is inline only in its definition makes g++
/// compile the whole class in every program.
#if defined(POLYAK_COMPILED)
#define POLYAK_DEFINE
#else
#define POLYAK_DEFINE inline
#endif

/// Stand before declaration and definition of a function that header-only programs should compile
/// only if they call it, since it costs much, such as JSON. It is a template there.
#if defined(POLYAK_COMPILED)
#define POLYAK_ON_USE
#define POLYAK_DEFINE_ON_USE
#else
#define POLYAK_ON_USE template <class = void>
#define POLYAK_DEFINE_ON_USE template <class>
#endif
