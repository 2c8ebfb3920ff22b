// SPDX-License-Identifier: Apache-2.0
/// @file
/// Optimizers by name, with options as text, for configuration files and command lines.
///
///   auto optimizer = polyak::make_optimizer("AdamW", params, {{"learning_rate", "1e-3"},
///                                                             {"nonfinite", "skip_step"}});
///   optimizer.at(rate).step(params, gradients);
///
/// <polyak/polyak.hpp> does not include this file, which compiles every optimizer of the library.
#pragma once

#include <string_view>
#include <vector>

#include <polyak/core/any_method.hpp>
#include <polyak/core/method_by_name.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// Every optimizer of the library. A test compares it with the headers.
template <class P, class S>
using NamedOptimizers =
    NamedMethods<NamedMethod<Sgd<P, S>, SgdOptions>, NamedMethod<AdamW<P, S>, AdamWOptions>,
                 NamedMethod<Adam<P, S>, AdamOptions>, NamedMethod<AdEMAMix<P, S>, AdEMAMixOptions>,
                 NamedMethod<Lion<P, S>, LionOptions>,
                 NamedMethod<ScheduleFreeSgd<P, S>, ScheduleFreeSgdOptions>,
                 NamedMethod<ScheduleFreeAdamW<P, S>, ScheduleFreeAdamWOptions>>;
}  // namespace detail

/// The names that make_optimizer() knows: those of the classes.
[[nodiscard]] inline std::vector<std::string_view> optimizer_names() {
  return detail::NamedOptimizers<float, float>::names();
}

/// The optimizer of the library whose class has this name, with state of type S, for the selected
/// tensors. Options that `values` does not name keep their defaults.
///
/// Throws std::invalid_argument for an unknown name and an unknown option, each with a list of
/// those that there are, for a text that is not a value of the option, and for options out of
/// range.
template <ParameterScalar P, ComputeScalar S = default_state_t<P>>
[[nodiscard]] AnyMethod<P> make_optimizer(std::string_view name, const Parameters<P>& params,
                                          const OptionValues& values = {},
                                          const Selection& selection = {}) {
  return detail::NamedOptimizers<P, S>::make("optimizer", name, params, values, selection);
}

}  // namespace POLYAK_V0
}  // namespace polyak
