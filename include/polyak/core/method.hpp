// SPDX-License-Identifier: Apache-2.0
/// @file
/// The concept of a method: the functions that step() and update() call.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// What a method does about a NaN or an infinity in the gradients (optimizers) or in the weights
/// and buffers (averages). `skip_step` and `error` read these once more; other tensors do not
/// count.
///
/// Gradients, before the pass: those of all tensors that an optimizer of the step trains, as they
/// are in memory. A gradient also counts if it is so large, with scale, clip coefficient and value
/// limit, that a moment could overflow in this step or a later one: in AdamW, AdEMAMix and
/// Schedule-Free AdamW beyond 2^63 (2^511 with state in double), in Lion and in Sgd with momentum
/// near the largest number of the state. `skip_step` of one optimizer skips all methods of a step;
/// `error` of any method throws, and nothing has changed.
///
/// Weights, after the pass: those that an optimizer with this policy trains, because a step of
/// finite numbers can overflow (65000 + 1000 in half). Then `error` throws and `skip_step` returns
/// false, but the update stands. A device looks after the pass only with `error`.
///
/// Weights and buffers that an average reads, before it takes them.
///
/// One meaning for averages: a step that is skipped makes no new weights, so all averages of this
/// step() rest, whatever their own policy. Separate calls do the same, to the last bit, as
///
///     if (optimizer.step(params, grads)) average.update(params);
///
/// in which only skipped() of an average with `skip_step` differs: it counts fused steps. On a
/// device, settle() of the GPU's headers says it instead, for step() does not wait for the check.
enum class Nonfinite : std::uint8_t {
  propagate,  ///< nothing is checked: one NaN, or one gradient whose square overflows, stays in the
              ///< moments for ever; require_finite() finds it
  skip_step,  ///< only the count of skipped steps changes
  error,      ///< throws nonfinite_error
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
/// Returns the policy. -ffast-math removes the checks for NaN, so it allows only `propagate`.
[[nodiscard]] inline Nonfinite checked(Nonfinite nonfinite) {
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
  require(nonfinite == Nonfinite::propagate,
          "nonfinite must be Nonfinite::propagate under -ffast-math or -ffinite-math-only",
          static_cast<int>(nonfinite));
#endif
  return nonfinite;
}
}  // namespace detail

/// Defaults of the hooks that few methods need.
template <ParameterScalar P>
struct MethodHooks {
  using Parameter = P;
  /// Whether an average changes the weights.
  static constexpr bool writes_weights = false;
  /// Whether the method cannot run on a device.
  static constexpr bool host_only = false;
  /// Whether `prepare` reads the weights. If so, it waits for earlier methods that write them.
  [[nodiscard]] bool reads_weights() const { return false; }
  /// The largest gradient, as a step reads it, with which no moment ever overflows.
  [[nodiscard]] double largest_gradient() const { return std::numeric_limits<double>::infinity(); }
  /// Runs before any clock advances: the place for passes over whole tensors, and for refusals. It
  /// must not change the state. If it throws, nothing of the step has changed, with one exception:
  /// a method that reads weights which earlier methods write is prepared after their updates, and
  /// these stand. The gradients, null in an update, are those of all tensors, whichever method owns
  /// them. Folds (core/reduce.hpp) read them as the pass does, with scale, clip coefficient and
  /// value limit; their pointers point to the numbers without these.
  void prepare(const ExecutorRef&, const Parameters<P>&, const Gradients<P>*) {}
  /// Runs after the pass, when every law of the step has run. Name a method that changes weights
  /// here last in a step.
  void finish(const ExecutorRef&, const Parameters<P>&) {}
};

/// The members of a method that step() and update() use, in the order of the calls. For saving
/// (io/save.hpp), a method also needs a `type_name`, `list_state` (see core/state.hpp), `count()`
/// and `skipped()`.
///
/// `bind()` returns a BoundLaw, or a std::variant of them with the usual one first (see
/// bound_law.hpp). Methods whose usual variant is bound share a pass.
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
  { constant.largest_gradient() } -> std::same_as<double>;
  {method.prepare(executor, params, gradients)};
  {method.advance(params, pointers)};  // advances the clock by one step, and makes its laws
  {method.skip()};                     // instead of advance
  { constant.resting() } -> std::same_as<bool>;  // does nothing in this step
  requires !std::is_void_v<decltype(constant.bind())>;
  {method.finish(executor, params)};
};

template <class M>
concept AveragingMethod = Method<M> && !M::trains;

}  // namespace POLYAK_V0
}  // namespace polyak
