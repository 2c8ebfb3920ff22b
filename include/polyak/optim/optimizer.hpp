// SPDX-License-Identifier: Apache-2.0
/// @file
/// What all optimizers share: slots, step counts, the learning rate of the next step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

namespace detail {

/// 1 - beta^t, without cancellation for beta close to 1.
[[nodiscard]] inline double bias_correction(double beta, std::int64_t t) {
  if (t == 1) return 1 - beta;
  return beta == 0 ? 1 : -std::expm1(static_cast<double>(t) * std::log(beta));
}

/// epsilon must be representable in the state's type: 1e-50 would be 0 in float.
template <ComputeScalar S>
void require_epsilon(double value, bool zero_allowed, const char* rule) {
  const bool positive = value > 0 && detail::is_finite(value) && static_cast<S>(value) > 0;
  require(positive || (zero_allowed && value >= 0 && detail::is_finite(value)), rule, value);
}

}  // namespace detail

/// Rule of an epsilon that may be 0 where `zero_allowed` says that this is meant.
[[nodiscard]] constexpr Rule<double> epsilon_or_zero(bool zero_allowed) {
  constexpr std::string_view words = "must be finite and > 0 (0 with allow_zero_epsilon)";
  constexpr double nan = detail::nan_value, infinity = detail::infinite;
  if (zero_allowed) return {finite_and_not_negative.holds, words, {-1, nan, infinity, -infinity}};
  return {finite_and_positive.holds, words, {0, -1, nan, infinity, -infinity}};
}
/// Rule of a length in steps that is 0 where there is none.
inline constexpr Rule<std::int64_t> at_least_1_or_none{
    at_least_0.holds, "must be >= 1, or 0 for none", {-1, -100}};

/// Base of the optimizers. `Derived` has the laws.
///
/// A tensor without a gradient in a step is left alone: no decay, no change of state. Bias
/// corrections count the steps of each tensor, schedules those of the optimizer.
template <class Derived, ParameterScalar P, ComputeScalar S>
class Optimizer {
  static_assert(sizeof(S) >= detail::scalar_bytes<P>,
                "polyak: double parameters need double state");

 public:
  using Parameter = P;
  using State = S;
  static constexpr bool trains = true;

  /// One step. Gradients are only read. Returns false where Nonfinite::skip_step skipped it.
  /// Throws as polyak::step.
  bool step(const Parameters<P>& params, const Gradients<P>& gradients) {
    return polyak::step(params, gradients, derived());
  }

  /// Sets the learning rate from the next step on: `optimizer.at(rate).step(params, grads)`.
  /// Throws std::invalid_argument unless it is finite and >= 0.
  Derived& at(double learning_rate) {
    detail::require_rule("learning_rate", learning_rate, finite_and_not_negative);
    learning_rate_ = learning_rate;
    return derived();
  }
  [[nodiscard]] double learning_rate() const { return learning_rate_; }

  /// Steps made, and those that Nonfinite::skip_step left out.
  [[nodiscard]] std::int64_t count() const { return steps_; }
  [[nodiscard]] std::int64_t skipped() const { return skipped_; }

  /// Forgets the moments: all state is 0 and bias corrections begin anew, as after construction.
  /// Learning rate, count() and schedules go on. What to do where weights jump, if anything: see
  /// SwitchEma. On a device it throws std::logic_error while it is open whether the last step was
  /// skipped: cuda::settle() first.
  void reset_moments() {
    if (slots_.space() != nullptr) slots_.space()->require_settled(slots_.block().get());
    detail::clear_bytes(slots_.space(), slots_.block()->data(), slots_.block()->bytes());
    std::fill(tensor_steps_.begin(), tensor_steps_.end(), 0);
  }

  /// Reads one state slot in place. Throws std::invalid_argument for an unknown name.
  [[nodiscard]] SlotView<S> slot(std::string_view name) const {
    return {slots_, slots_.find(name)};
  }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const { return slots_.memory_report(); }

  // What step() calls.
  [[nodiscard]] const Slots<S>& slots() const { return slots_; }
  [[nodiscard]] Nonfinite nonfinite() const { return nonfinite_; }
  void advance(const Parameters<P>&, const element_t<P>* const* gradients) {
    count_step(gradients);
  }
  template <int K>
  [[nodiscard]] auto run(std::size_t tensor) const {
    return detail::make_run(static_cast<const Derived&>(*this).template law<K>(tensor), slots_);
  }
  [[nodiscard]] bool same_law(std::size_t a, std::size_t b) const {
    return tensor_steps_[a] == tensor_steps_[b];
  }
  void finish(const Parameters<P>&) {}
  void skip() { ++skipped_; }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Visitor>
  void state(Visitor&& visit) {
    detail::visit_options(derived().options(), visit);
    visit.scalar("learning_rate", learning_rate_);
    visit.scalar("steps", steps_);
    visit.scalar("skipped", skipped_);
    visit.counters("tensor_steps", tensor_steps_);
    visit.slots(slots_);
  }

 protected:
  Optimizer(const Parameters<P>& params, std::vector<std::string> slots, double learning_rate,
            Nonfinite nonfinite)
      : slots_(params.layout(), detail::dtype_of<P>(), Kept::trained, std::move(slots)),
        tensor_steps_(params.size(), 0),
        learning_rate_(learning_rate),
        nonfinite_(detail::checked(nonfinite)) {}

  void count_step(const element_t<P>* const* gradients) {
    ++steps_;
    for (std::size_t k = 0; k < tensor_steps_.size(); ++k) {
      if (gradients[k] != nullptr) ++tensor_steps_[k];
    }
  }

  /// Steps of one tensor, the current one included.
  [[nodiscard]] std::int64_t tensor_steps(std::size_t tensor) const {
    return tensor_steps_[tensor];
  }

 private:
  [[nodiscard]] Derived& derived() { return static_cast<Derived&>(*this); }

  Slots<S> slots_;
  std::vector<std::int64_t> tensor_steps_;
  double learning_rate_;
  Nonfinite nonfinite_;
  std::int64_t steps_ = 0;
  std::int64_t skipped_ = 0;
};

}  // namespace v0
}  // namespace polyak
