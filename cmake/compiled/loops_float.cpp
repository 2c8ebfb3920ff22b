// SPDX-License-Identifier: Apache-2.0
// The loops of usual methods on parameters of float, for the compiled library.
#include <polyak/compiled.hpp>

POLYAK_LOOPS(, float)
POLYAK_CLASSES(, float)
