// SPDX-License-Identifier: Apache-2.0
/// @file
/// step() and update(): one call, one pass over memory, any number of methods.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#if !defined(__CUDACC__)
#include <polyak/core/sweep.hpp>
#endif

namespace polyak {
inline namespace v0 {

namespace detail {

/// Host lists are walked by what calls back with ranges, lists of a device by what launches there.
template <class E, class P>
concept ExecutorOf = (Executor<E> && !on_device<P>) ||
                     (on_device<P> && requires(E & executor) { executor.space(); });

template <class M, class P>
concept MethodOf = Method<M> && std::same_as<typename M::Parameter, P>;

template <class M, class P>
void check_method(const M& method, const Parameters<P>& params) {
  require_same(params.layout(), method.slots().layout(), "the parameters and those of the method");
  if (method.slots().lent()) {
    refuse_order("polyak: step or update of a method whose average is swapped in");
  }
}

template <class... M>
void check_distinct(const M&... methods) {
  const std::array<const void*, sizeof...(M)> addresses{static_cast<const void*>(&methods)...};
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (addresses[i] == addresses[j]) {
        refuse_value("polyak: the same method is given twice to one step or update");
      }
    }
  }
}

/// One call of step() or update().
template <class E, class P, class... M>
class Call {
 public:
  Call(E& executor, const Parameters<P>& params, const element_t<P>* const* gradients,
       M&... methods)
      : executor_(executor), params_(params), gradients_(gradients), methods_(methods...) {}

  /// False where Nonfinite::skip_step skipped a method.
  bool run() {
    bool complete = true;
    const bool read_gradients = any([](auto, const auto& method) {
      return trains && (is_trainer(method) ? method.nonfinite() != Nonfinite::propagate
                                           : method.nonfinite() == Nonfinite::error);
    });
    if (read_gradients && !Walker<P>::gradients_finite(params_, gradients_)) {
      if (any([](auto, const auto& m) { return m.nonfinite() == Nonfinite::error; })) {
        refuse_nonfinite("polyak: a gradient holds a NaN or an infinity; nothing was changed");
      }
      if (any([](auto, const auto& m) {
            return is_trainer(m) && m.nonfinite() == Nonfinite::skip_step;
          })) {
        each([](auto, auto& m) {
          if (m.nonfinite() == Nonfinite::skip_step) m.skip();
        });
        return false;
      }
    }
    // Averages that an optimizer precedes read what it has just written, so they wait for it.
    Chosen now{}, waiting{};
    each([&](auto i, auto& m) { (waits(i, m) ? waiting : now)[i] = true; });
    const bool read_weights = any([](auto, const auto& m) {
      return !is_trainer(m) && m.nonfinite() != Nonfinite::propagate;
    });
    if (read_weights && !Walker<P>::weights_finite(params_)) {
      if (any([](auto, const auto& m) {
            return !is_trainer(m) && m.nonfinite() == Nonfinite::error;
          })) {
        refuse_nonfinite("polyak: a weight holds a NaN or an infinity; nothing was changed");
      }
      complete = skip_averages(now);
    }
    advance(now);
    if (any([&](auto i, const auto&) { return waiting[i]; })) {
      const bool check = any([&](auto i, const auto& m) {
        return waiting[i] && m.nonfinite() != Nonfinite::propagate;
      });
      if (check && !Walker<P>::weights_finite(params_)) {
        if (any([&](auto i, const auto& m) {
              return waiting[i] && m.nonfinite() == Nonfinite::error;
            })) {
          refuse_nonfinite(
              "polyak: the optimizer's update made a weight NaN or infinite; the update stands, "
              "the averages that check for it were not updated");
        }
        complete = skip_averages(waiting) && complete;
      }
      advance(waiting);
    }
    return complete;
  }

 protected:
  static constexpr std::size_t count = sizeof...(M);
  static constexpr bool trains = (M::trains || ...);
  using Chosen = std::array<bool, count>;

  template <class Each>
  void each(Each&& call) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (call(std::integral_constant<std::size_t, I>{}, std::get<I>(methods_)), ...);
    }
    (std::index_sequence_for<M...>{});
  }
  template <class Test>
  [[nodiscard]] bool any(Test&& test) {
    bool found = false;
    each([&](auto i, auto& m) { found = found || test(i, m); });
    return found;
  }
  template <class Some>
  static constexpr bool is_trainer(const Some&) {
    return Some::trains;
  }

  /// An average that checks its input, or reads it before the pass, and comes after what writes it.
  template <class Index, class Some>
  [[nodiscard]] static bool waits(Index, const Some& method) {
    constexpr std::array<bool, count> trainers{M::trains...};
    constexpr std::array<bool, count> writers{(M::trains || requires { M::writes_weights; })...};
    for (int i = 0; i < static_cast<int>(Index::value); ++i) {
      const auto k = static_cast<std::size_t>(i);
      if constexpr (requires { method.reads_weights(); }) {
        if (writers[k] && method.reads_weights()) return true;
      }
      if (trainers[k] && !Some::trains) return method.nonfinite() != Nonfinite::propagate;
    }
    return false;
  }

  bool skip_averages(Chosen& chosen) {
    bool complete = true;
    each([&](auto i, auto& m) {
      if (!chosen[i] || is_trainer(m) || m.nonfinite() == Nonfinite::propagate) return;
      chosen[i] = complete = false;
      m.skip();
    });
    return complete;
  }

  /// One step of the chosen methods.
  void advance(const Chosen& chosen) {
    each([&](auto i, auto& m) {
      if (chosen[i]) m.advance(params_, gradients_);
    });
    Walker<P>::groups(
        params_, [&](std::size_t tensor) { return taking_part(chosen, tensor); },
        [&](std::size_t k, std::size_t other) { return same_laws(k, other); },
        [&](const auto& tensors, const Chosen& taking) { pass(tensors, taking); });
    each([&](auto i, auto& m) {
      if (!chosen[i]) return;
      if constexpr (requires { m.finish(executor_, params_); }) {
        m.finish(executor_, params_);
      } else {
        m.finish(params_);
      }
    });
  }

  [[nodiscard]] Chosen taking_part(const Chosen& chosen, std::size_t tensor) {
    Chosen taking{};
    each([&](auto i, auto& m) {
      taking[i] = chosen[i] && m.form() != resting && m.slots().keeps(tensor) &&
                  (!is_trainer(m) || gradients_[tensor] != nullptr);
    });
    return taking;
  }

  [[nodiscard]] bool same_laws(std::size_t a, std::size_t b) {
    return !any([&](auto, const auto& m) { return !m.same_law(a, b); });
  }

  /// Some tensors of equal laws: the leading methods in their usual form fused, the others one by
  /// one.
  template <class Tensors>
  void pass(const Tensors& tensors, const Chosen& taking) {
    std::size_t fused = 0;
    bool leading = true;
    each([&](auto i, auto& m) {
      leading = leading && taking[i] && m.form() == 0;
      if (leading) fused = i + 1;
    });
    if (fused < 2) fused = 0;
    [&]<std::size_t... J>(std::index_sequence<J...>) {
      ((fused == J + 2 ? fuse(tensors, std::make_index_sequence<J + 2>{}) : void()), ...);
    }
    (std::make_index_sequence<count - 1>{});
    each([&](auto i, auto& m) {
      if (i >= fused && taking[i]) alone(tensors, m);
    });
  }

  template <class Tensors, std::size_t... I>
  void fuse(const Tensors& tensors, std::index_sequence<I...>) {
    Walker<P>::walk(executor_, params_, gradients_, tensors,
                    std::tuple(std::get<I>(methods_).template run<0>(tensors.first)...));
  }

  template <class Tensors, class Some>
  void alone(const Tensors& tensors, Some& method) {
    const auto run_form = [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
      Walker<P>::walk(executor_, params_, gradients_, tensors,
                      std::tuple(method.template run<static_cast<int>(K)>(tensors.first)));
    };
    [&]<std::size_t... K>(std::index_sequence<K...>) {
      ((method.form() == static_cast<int>(K) ? run_form(std::integral_constant<std::size_t, K>{})
                                             : void()),
       ...);
    }
    (std::make_index_sequence<Some::forms>{});
  }

  E& executor_;
  const Parameters<P>& params_;
  const element_t<P>* const* gradients_;
  std::tuple<M&...> methods_;
};

template <class E, class P, class... M>
bool call(E& executor, const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  if (params.swapped()) {
    refuse_order("polyak: step or update while an average is swapped in; end its guard first");
  }
  Walker<P>::check(executor);
  check_distinct(methods...);
  (check_method(methods, params), ...);
  if (gradients != nullptr) {
    require_same(gradients->layout(), params.layout(),
                 "the gradients' parameters and the parameters");
  }
  const auto list = gradients == nullptr ? nullptr : gradients->data();
  if constexpr (on_device<P>) {
    return Walker<P>::call(executor, params, list, methods...);
  } else {
    return Call<E, P, M...>(executor, params, list, methods...).run();
  }
}

}  // namespace detail

/// One training step: every method in the order given, each tensor read and written once.
///
/// The same, to the last bit, as `optimizer.step(params, grads)` followed by
/// `average.update(params)` for each average; a method that rests in most steps is best named last,
/// for the methods before it stay fused. Returns false where Nonfinite::skip_step skipped a method.
/// Throws std::logic_error while an average is swapped in, std::invalid_argument where the
/// parameters, gradients and methods disagree, nonfinite_error as Nonfinite says; nothing has
/// changed then.
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(sizeof...(M) > 0) bool step(const Parameters<P>& params, const Gradients<P>& gradients,
                                     M&... methods) {
  return detail::call(serial, params, &gradients, methods...);
}

/// As above, on the executor given.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> &&
         sizeof...(M) > 0) bool step(E&& executor, const Parameters<P>& params,
                                     const Gradients<P>& gradients, M&... methods) {
  return detail::call(executor, params, &gradients, methods...);
}

/// Updates averages with the parameters as they are now, in one pass. Otherwise as step().
template <ParameterScalar P, detail::MethodOf<P>... M>
requires(AveragingMethod<M>&&...) &&
    (sizeof...(M) > 0) bool update(const Parameters<P>& params, M&... averages) {
  return detail::call(serial, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

/// As above, on the executor given.
template <class E, ParameterScalar P, detail::MethodOf<P>... M>
requires(detail::ExecutorOf<E, P> && (AveragingMethod<M> && ...) &&
         sizeof...(M) > 0) bool update(E&& executor, const Parameters<P>& params, M&... averages) {
  return detail::call(executor, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

}  // namespace v0
}  // namespace polyak
