// SPDX-License-Identifier: Apache-2.0
/// @file
/// Averages by name, with options as text, for configuration files and command lines.
///
///   auto average = polyak::make_average("Ema", params, {{"decay", "0.999"}});
///   average.update(params);
///
/// EmaBank, which needs a list of decays, and Average with its weightings are made by their
/// constructors. <polyak/polyak.hpp> does not include this file, which compiles all averages.
#pragma once

#include <string_view>
#include <vector>

#include <polyak/average/aswa.hpp>
#include <polyak/average/cotta.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/average/tail.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/core/any_method.hpp>
#include <polyak/core/method_by_name.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// Every average that is made of options alone. A test compares it with the headers.
template <class P, class S>
using NamedAverages = NamedMethods<
    NamedMethod<Swa<P, S>, SwaOptions>, NamedMethod<Ema<P, S>, EmaOptions>,
    NamedMethod<PowerEma<P, S>, PowerEmaOptions>, NamedMethod<SampleEma<P, S>, SampleEmaOptions>,
    NamedMethod<Tail<P, S>, TailOptions>, NamedMethod<Lawa<P, S>, LawaOptions>,
    NamedMethod<WindowAverage<P, S>, WindowAverageOptions>,
    NamedMethod<SwitchEma<P, S>, SwitchEmaOptions>,
    NamedMethod<HareTortoise<P, S>, HareTortoiseOptions>, NamedMethod<Aswa<P, S>, AswaOptions>,
    NamedMethod<CottaTeacher<P, S>, CottaOptions>>;
}  // namespace detail

/// The names that make_average() knows: those of the classes.
[[nodiscard]] inline std::vector<std::string_view> average_names() {
  return detail::NamedAverages<float, float>::names();
}

/// The average of the library whose class has this name, stored in type S, of the selected tensors.
/// Everything else is as in make_optimizer(). AswaOptions.normed, a selection, has no text.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
[[nodiscard]] AnyMethod<P> make_average(std::string_view name, const Parameters<P>& params,
                                        const OptionValues& values = {},
                                        const Selection& selection = {}) {
  return detail::NamedAverages<P, S>::make("average", name, params, values, selection);
}

}  // namespace POLYAK_V0
}  // namespace polyak
