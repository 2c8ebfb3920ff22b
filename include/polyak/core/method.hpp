// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a method is to step() and update().
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

/// What a method does about a NaN or an infinity, in the gradients (optimizers) or in the weights
/// (averages). The last two read them once more, before the pass.
enum class Nonfinite : std::uint8_t {
  propagate,  ///< nothing is checked
  skip_step,  ///< nothing changes but the count of skipped steps; a fused step is skipped as a
              ///< whole
  error,      ///< nonfinite_error
};

[[nodiscard]] constexpr std::string_view name_of(Nonfinite value) {
  switch (value) {
    case Nonfinite::propagate:
      return "propagate";
    case Nonfinite::skip_step:
      return "skip_step";
    default:
      return "error";
  }
}

namespace detail {
/// Returns the policy. -ffast-math removes the checks for NaN, so there only `propagate` is honest.
[[nodiscard]] inline Nonfinite checked(Nonfinite nonfinite) {
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
  require(nonfinite == Nonfinite::propagate,
          "nonfinite must be Nonfinite::propagate under -ffast-math or -ffinite-math-only",
          static_cast<int>(nonfinite));
#endif
  return nonfinite;
}
}  // namespace detail

/// The law form of a method that does nothing in this step.
inline constexpr int resting = -1;

/// What step() and update() need of a method. It runs in one of several forms, the usual one first;
/// `run<form>(tensor)` gives the law of that form with its slots. Methods in their usual form are
/// fused into one pass. To be saved (io/save.hpp) it also has a `type_name`, `state(visitor)` as
/// core/state.hpp says, and `count()` and `skipped()`.
template <class M>
concept Method = requires(M& method, const M& constant,
                          const element_t<typename M::Parameter>* const* gradients,
                          std::size_t tensor, const Parameters<typename M::Parameter>& params) {
  typename M::State;
  { M::trains } -> std::convertible_to<bool>;  // reads gradients
  { constant.slots() } -> std::same_as<const Slots<typename M::State>&>;
  { constant.nonfinite() } -> std::same_as<Nonfinite>;
  {method.advance(params, gradients)};  // the clock moves on by one step, and the laws with it
  { M::forms } -> std::convertible_to<std::size_t>;
  { constant.form() } -> std::same_as<int>;  // below forms, or resting
  {constant.template run<0>(tensor)};
  { constant.same_law(tensor, tensor) } -> std::same_as<bool>;
  {method.finish(
      params)};     // after the pass; finish(executor, params) where it has passes of its own
  {method.skip()};  // instead of advance
};

template <class M>
concept AveragingMethod = Method<M> && !M::trains;

}  // namespace v0
}  // namespace polyak
