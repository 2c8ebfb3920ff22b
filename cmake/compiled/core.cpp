// SPDX-License-Identifier: Apache-2.0
// The functions of core and averages, for the compiled library.
#include <polyak/average/analysis/profile_fit.ipp>
