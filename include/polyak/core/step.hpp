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

#include <polyak/core/arena.hpp>
#include <polyak/core/dispatch.hpp>
#include <polyak/core/executor.hpp>
#include <polyak/core/gradients.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/parameters.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/walk.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

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

template <class P>
[[nodiscard]] bool weights_finite(const Parameters<P>& params) {
  for (std::size_t k = 0; k < params.size(); ++k) {
    if (params[k].info().role == Role::average && !all_finite(params[k].data(), params[k].size())) {
      return false;
    }
  }
  return true;
}

template <class P>
[[nodiscard]] bool gradients_finite(const Parameters<P>& params, const P* const* gradients) {
  for (std::size_t k = 0; k < params.size(); ++k) {
    if (gradients[k] != nullptr && !all_finite(gradients[k], params[k].size())) return false;
  }
  return true;
}

/// One call of step() or update().
template <class E, class P, class... M>
class Call {
 public:
  Call(E& executor, const Parameters<P>& params, const P* const* gradients, M&... methods)
      : executor_(executor), params_(params), gradients_(gradients), methods_(methods...) {}

  /// False where Nonfinite::skip_step skipped a method.
  bool run() {
    bool complete = true;
    const bool read_gradients = any([](auto, const auto& method) {
      return trains && (is_trainer(method) ? method.nonfinite() != Nonfinite::propagate
                                           : method.nonfinite() == Nonfinite::error);
    });
    if (read_gradients && !gradients_finite(params_, gradients_)) {
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
    if (read_weights && !weights_finite(params_)) {
      if (any([](auto, const auto& m) {
            return !is_trainer(m) && m.nonfinite() == Nonfinite::error;
          })) {
        refuse_nonfinite("polyak: a weight holds a NaN or an infinity; nothing was changed");
      }
      complete = skip_averages(now);
    }
    advance(now);
    if (any([&](auto i, const auto&) { return waiting[i]; })) {
      if (!weights_finite(params_)) {
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

 private:
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

  /// An average that checks its input and comes after an optimizer.
  template <class Index, class Some>
  [[nodiscard]] static bool waits(Index, const Some& method) {
    constexpr std::array<bool, count> trainers{M::trains...};
    for (std::size_t i = 0; i < Index::value; ++i) {
      if (trainers[i] && !Some::trains) return method.nonfinite() != Nonfinite::propagate;
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
    for (std::size_t first = 0; first < params_.size();) {
      const Chosen taking = taking_part(chosen, first);
      std::size_t last = first + 1;
      while (last < params_.size() && taking_part(chosen, last) == taking &&
             same_laws(first, last)) {
        ++last;
      }
      pass(first, last, taking);
      first = last;
    }
    each([&](auto i, auto& m) {
      if (chosen[i]) m.finish(params_);
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

  /// The tensors first..last: the leading methods in their usual form fused, the others one by one.
  void pass(std::size_t first, std::size_t last, const Chosen& taking) {
    std::size_t fused = 0;
    bool leading = true;
    each([&](auto i, auto& m) {
      leading = leading && taking[i] && m.form() == 0;
      if (leading) fused = i + 1;
    });
    if (fused < 2) fused = 0;
    [&]<std::size_t... J>(std::index_sequence<J...>) {
      ((fused == J + 2 ? fuse(first, last, std::make_index_sequence<J + 2>{}) : void()), ...);
    }
    (std::make_index_sequence<count - 1>{});
    each([&](auto i, auto& m) {
      if (i >= fused && taking[i]) alone(first, last, m);
    });
  }

  template <std::size_t... I>
  void fuse(std::size_t first, std::size_t last, std::index_sequence<I...>) {
    walk<E, P>(executor_, ParameterAccess<P>::memory(params_), gradients_, first, last,
               std::tuple(std::get<I>(methods_).template run<0>(first)...));
  }

  template <class Some>
  void alone(std::size_t first, std::size_t last, Some& method) {
    const auto run_form = [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
      walk<E, P>(
          executor_, ParameterAccess<P>::memory(params_), gradients_, first, last,
          std::tuple(method.template run<static_cast<int>(K)>(first)));
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
  const P* const* gradients_;
  std::tuple<M&...> methods_;
};

template <class E, class P, class... M>
bool call(E& executor, const Parameters<P>& params, const Gradients<P>* gradients, M&... methods) {
  if (params.swapped()) {
    refuse_order("polyak: step or update while an average is swapped in; end its guard first");
  }
  check_executor(executor);
  static_cast<void>(level_in_use());  // refuses a wrong POLYAK_DISPATCH_LEVEL
  check_distinct(methods...);
  (check_method(methods, params), ...);
  if (gradients != nullptr) {
    require_same(gradients->layout(), params.layout(),
                 "the gradients' parameters and the parameters");
  }
  return Call<E, P, M...>(executor, params, gradients == nullptr ? nullptr : gradients->data(),
                          methods...)
      .run();
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
requires(Executor<E> && sizeof...(M) > 0) bool step(E&& executor, const Parameters<P>& params,
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
requires(Executor<E> && (AveragingMethod<M> && ...) &&
         sizeof...(M) > 0) bool update(E&& executor, const Parameters<P>& params, M&... averages) {
  return detail::call(executor, params, static_cast<const Gradients<P>*>(nullptr), averages...);
}

}  // namespace v0
}  // namespace polyak
