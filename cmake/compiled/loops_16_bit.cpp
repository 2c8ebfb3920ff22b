// SPDX-License-Identifier: Apache-2.0
// The loops of usual methods on parameters of 16 bits, for the compiled library.
#include <polyak/compiled.hpp>

POLYAK_LOOPS(, Eigen::half)
POLYAK_LOOPS(, Eigen::bfloat16)
