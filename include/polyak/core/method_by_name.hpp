// SPDX-License-Identifier: Apache-2.0
/// @file
/// Methods by the name of their type, with options as text, for configuration files and command
/// lines. optim/by_name.hpp and average/by_name.hpp have the lists of names.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/any_method.hpp>
#include <polyak/core/option_setter.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// A method of type M, made with options of type Options.
template <class M, class Options>
struct NamedMethod {
  static constexpr std::string_view name = plain_type_name<M>();
  template <class P>
  [[nodiscard]] static AnyMethod<P> make(const Parameters<P>& params, const OptionValues& values,
                                         const Selection& selection) {
    return M(params, options_from<Options>(values), selection);
  }
};

/// A list of methods to choose from.
template <class... Named>
struct NamedMethods {
  [[nodiscard]] static std::vector<std::string_view> names() { return {Named::name...}; }

  /// `kind` is the word for such a method in the refusal of an unknown name.
  template <class P>
  [[nodiscard]] static AnyMethod<P> make(std::string_view kind, std::string_view name,
                                         const Parameters<P>& params, const OptionValues& values,
                                         const Selection& selection) {
    std::optional<AnyMethod<P>> made;
    const auto try_one = [&]<class One>(One) {
      if (One::name == name) made.emplace(One::make(params, values, selection));
    };
    (try_one(Named{}), ...);
    if (made) return *std::move(made);
    std::string known;
    for (const std::string_view one : names()) known.append(known.empty() ? "" : ", ").append(one);
    refuse_value("polyak: there is no " + std::string(kind) + " \"" + std::string(name) +
                 "\"; there are " + known);
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
