// SPDX-License-Identifier: Apache-2.0
/// @file
/// step() and update(): one call, one pass over memory, any number of methods.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step_driver.hpp>
#include <polyak/core/step_methods.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Lists in the host's memory need an executor that calls back with ranges. Lists on a device need
/// one that launches kernels there.
template <class E, class P>
concept ExecutorOf = (Executor<E> && !on_device<P>) ||
                     (on_device<P> && requires(E & executor) { executor.space(); });

template <class M, class P>
concept MethodOf = Method<M> && std::same_as<typename M::Parameter, P>;

/// Refuses a method that cannot take part in a step or update of `params`.
template <class M, class P>
void check_method(const M& method, const Parameters<P>& params) {
  if (params.layout() != method.slots().layout()) [[unlikely]] {
    require_same(params.layout(), method.slots().layout(),
                 "the parameters and those of the method");
  }
  if (method.slots().lent()) [[unlikely]] {
    refuse_order("polyak: step or update of a method whose average is swapped in");
  }
  require_gain(method);
}

/// Refuses a step whose lists do not fit, before anything changes.
template <class P>
void check_lists(const Parameters<P>& params, const Gradients<P>* gradients) {
  if (params.swapped()) {
    refuse_order("polyak: step or update while an average is swapped in; end its guard first");
  }
  static_cast<void>(ParameterAccess<P>::memory(params));  // looks where objects have it now
  if (gradients != nullptr && gradients->layout() != params.layout()) [[unlikely]] {
    require_same(gradients->layout(), params.layout(),
                 "the gradients' parameters and the parameters");
  }
}

/// The usual step: in the calling thread, of methods that check for no NaN and read no weights
/// ahead. It does what StepDriver does, but knows the methods' types, so that an average of a
/// thousand weights takes three quarters of the time.
template <class P, class... M>
void call_directly(const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  constexpr std::size_t count = sizeof...(M);
  const ExecutorRef executor(serial);
  const auto* const pointers = gradients == nullptr ? nullptr : gradients->data();
  const auto prepare = [&](auto& method) {
    if constexpr (prepares<P, std::remove_cvref_t<decltype(method)>>) {
      method.prepare(executor, params, gradients);
    }
  };
  (prepare(methods), ...);
  LawMemory<P, M...> memory;
  const StepParts<P> parts = memory.parts({});
  std::uint64_t usual = 0;
  std::size_t place = 0;
  const auto start = [&]<class Some>(Some& method) {
    auto& single = parts.singles[place];
    single.needs_gradient = Some::trains;
    single.offsets = method.slots().offsets();
    const bool is_usual =
        TableOf<P, Some>::table.start(&method, params, pointers, parts.bound[place], single);
    usual |= std::uint64_t{is_usual} << place++;
  };
  (start(methods), ...);
  if constexpr (count == 1) {
    Sweep<P>::alone(params, pointers, reading_of(gradients), parts.singles[0]);
  } else {
    run_laws(executor, params, pointers, reading_of(gradients), parts, count, usual);
  }
  const auto finish = [&](auto& method) {
    if constexpr (finishes<P, std::remove_cvref_t<decltype(method)>>) {
      method.finish(executor, params);
    }
  };
  (finish(methods), ...);
}

/// Whether the methods can make a step directly, see call_directly(), after checking them.
template <class P, class... M>
[[nodiscard]] bool may_be_called_directly(const Parameters<P>& params, const M&... methods) {
  (check_method(methods, params), ...);
  if (((methods.nonfinite() != Nonfinite::propagate || methods.reads_weights()) || ...)) {
    return false;
  }
  const void* const objects[] = {&methods...};
  for (std::size_t i = 1; i < sizeof...(M); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (objects[j] == objects[i]) return false;  // StepDriver refuses
    }
  }
  return true;
}

template <class E, class P, class... M>
bool call(E& executor, const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  static_assert(sizeof...(M) <= Sweep<P>::Plan::most_methods);
  check_lists(params, gradients);
  Sweep<P>::check(executor, params);
  constexpr int optimizers = (0 + ... + (M::trains ? 1 : 0));
  if constexpr (std::same_as<std::remove_cv_t<E>, Serial> && !on_device<P> && optimizers <= 1) {
    if (may_be_called_directly(params, methods...)) [[likely]] {
      call_directly(params, gradients, methods...);
      return true;
    }
  }
  StepMemory<P, M...> memory(methods...);
  const ExecutorRef any(executor);
  using Driver = typename Sweep<P>::template Driver<StepDriver<P>>;
  return Driver(any, params, gradients, memory.parts()).check_and_advance();
}

}  // namespace detail

/// One training step: the methods run in the order given, and each tensor is read and written once.
///
/// The result has the same bits as `optimizer.step(params, grads)` followed by
/// `average.update(params)` for each average, which rests in a step that was skipped (see
/// Nonfinite). Name a method that rests in most steps last: the methods before it then stay fused.
/// Returns false if Nonfinite::skip_step skipped a method or found a weight that the update made
/// non-finite. Throws std::logic_error while an average is swapped in, std::invalid_argument if
/// parameters, gradients and methods disagree, nonfinite_error as Nonfinite says. If it throws,
/// nothing has changed, except that an update stands which made a weight non-finite.
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(sizeof...(M) > 0) bool step(const Parameters<P>& params, const Gradients<P>& gradients,
                                     M&... methods) {
  return detail::call(serial, params, &gradients, methods...);
}

/// The same on the given executor.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> &&
         sizeof...(M) > 0) bool step(E&& executor, const Parameters<P>& params,
                                     const Gradients<P>& gradients, M&... methods) {
  return detail::call(executor, params, &gradients, methods...);
}

/// Updates averages with the current parameters, in one pass. For everything else see step().
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(AveragingMethod<M>&&...) &&
    (sizeof...(M) > 0) bool update(const Parameters<P>& params, M&... averages) {
  return detail::call(serial, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

/// The same on the given executor.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> && (AveragingMethod<M> && ...) &&
         sizeof...(M) > 0) bool update(E&& executor, const Parameters<P>& params, M&... averages) {
  return detail::call(executor, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

}  // namespace POLYAK_V0
}  // namespace polyak
