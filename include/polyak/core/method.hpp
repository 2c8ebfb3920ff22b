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
inline namespace POLYAK_V0 {

/// What a method does about a NaN or an infinity in the gradients (optimizers) or in the weights
/// (averages). `skip_step` and `error` read these once more, before the pass: the gradients of all
/// tensors that an optimizer of the step trains, as they are in memory, before scale, clip
/// coefficient and limit; the weights of all tensors that the averages keep. Other tensors do not
/// count.
enum class Nonfinite : std::uint8_t {
  propagate,  ///< nothing is checked
  skip_step,  ///< only the count of skipped steps changes; a fused step is skipped as a whole
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
