// SPDX-License-Identifier: Apache-2.0
// The functions of lists, optimizers and averages, for the compiled library.
#include <polyak/average/analysis/profile_fit.ipp>
#include <polyak/core/tensors/layout.ipp>
#include <polyak/core/tensors/selection_checks.ipp>
#include <polyak/optim/tensor_groups.ipp>
