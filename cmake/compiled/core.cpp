// SPDX-License-Identifier: Apache-2.0
// The functions of lists, optimizers and averages, for the compiled library.
#include <polyak/average/analysis/profile_fit.ipp>
#include <polyak/average/engine/accumulation.ipp>
#include <polyak/average/engine/average_record.ipp>
#include <polyak/average/engine/batch_norm_layers.ipp>
#include <polyak/average/engine/batch_norm_moments.ipp>
#include <polyak/average/engine/pass_memory.ipp>
#include <polyak/average/engine/swap.ipp>
#include <polyak/average/posthoc.ipp>
#include <polyak/average/schedules/conversions.ipp>
#include <polyak/core/finite.ipp>
#include <polyak/core/require_finite.ipp>
#include <polyak/core/state.ipp>
#include <polyak/core/state_access.ipp>
#include <polyak/core/tensors/block.ipp>
#include <polyak/core/tensors/gradient_places.ipp>
#include <polyak/core/tensors/index.ipp>
#include <polyak/core/tensors/layout.ipp>
#include <polyak/core/tensors/list_change.ipp>
#include <polyak/core/tensors/parameter_list.ipp>
#include <polyak/core/tensors/selection_checks.ipp>
#include <polyak/core/tensors/slots.ipp>
#include <polyak/core/tensors/swapped_memory.ipp>
#include <polyak/optim/scheduled_numbers.ipp>
#include <polyak/optim/tensor_groups.ipp>
#include <polyak/optim/weight_digits.ipp>

template class polyak::detail::BatchNormLayersOf<polyak::detail::BatchNormNumbers>;
