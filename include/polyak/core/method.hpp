// SPDX-License-Identifier: Apache-2.0
/// @file
/// The concept of a method: the functions that step() and update() call.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

/// The policy of a method for a NaN or an infinity, in the gradients (optimizers) or in the weights
/// (averages). The last two read them once more, before the pass: the gradients of all tensors that
/// an optimizer of the step trains, as they lie in memory, before scale, clip coefficient and
/// limit; the weights of all tensors that the averages keep. Other tensors do not count.
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

/// The hooks of a method that few need, as they are unless a method has its own.
template <ParameterScalar P>
struct MethodHooks {
  using Parameter = P;
  /// Whether the method changes weights although it is an average.
  static constexpr bool writes_weights = false;
  /// Whether the method has no form for a device.
  static constexpr bool host_only = false;
  /// Whether `prepare` reads the weights, so that it waits for methods before it that write them.
  [[nodiscard]] bool reads_weights() const { return false; }
  /// Runs before any clock moves: passes over whole tensors, and refusals. Changes no state. Where
  /// it throws, nothing of the step has changed; but a method that reads the weights after others
  /// wrote them is prepared after these, whose updates stand. The gradients, null in an update, are
  /// those of all tensors, whoever owns them. Folds over them (core/reduce.hpp) read them as the
  /// pass will, with scale, clip coefficient and value limit; their pointers lead to memory that
  /// has none of these.
  void prepare(const ExecutorRef&, const Parameters<P>&, const Gradients<P>*) {}
  /// Runs after the pass, and after every law of the step. A method that changes weights here is
  /// named last in a step.
  void finish(const ExecutorRef&, const Parameters<P>&) {}
};

/// What step() and update() need of a method, in the order in which they call it. To be saved
/// (io/save.hpp) a method also has a `type_name`, `list_state` as core/state.hpp says, and
/// `count()` and `skipped()`.
///
/// `bind()` returns a BoundLaw, or a std::variant of them with the usual one first; bound_law.hpp
/// says more. Methods in their usual variant share a pass.
template <class M>
concept Method = requires(M& method, const M& constant, const ExecutorRef& executor,
                          const element_t<typename M::Parameter>* const* pointers,
                          const Gradients<typename M::Parameter>* gradients,
                          const Parameters<typename M::Parameter>& params) {
  typename M::State;
  { M::trains } -> std::convertible_to<bool>;  // reads gradients
  { M::writes_weights } -> std::convertible_to<bool>;
  { M::host_only } -> std::convertible_to<bool>;
  { constant.slots() } -> std::same_as<const Slots<typename M::State>&>;
  { constant.nonfinite() } -> std::same_as<Nonfinite>;
  { constant.reads_weights() } -> std::same_as<bool>;
  {method.prepare(executor, params, gradients)};
  {method.advance(params, pointers)};  // the clock moves on by one step, and the laws with it
  {method.skip()};                     // instead of advance
  { constant.resting() } -> std::same_as<bool>;  // does nothing in this step
  requires !std::is_void_v<decltype(constant.bind())>;
  {method.finish(executor, params)};
};

template <class M>
concept AveragingMethod = Method<M> && !M::trains;

}  // namespace v0
}  // namespace polyak
