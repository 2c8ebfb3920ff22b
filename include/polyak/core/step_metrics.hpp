// SPDX-License-Identifier: Apache-2.0
/// @file
/// StepMetrics: the norms of gradients and updates, measured as a step runs; and the distance of
/// the weights to an average.
///
///   polyak::StepMetrics<float> metrics(params);
///   polyak::step(params, gradients, metrics, optimizer, ema);      metrics come first
///   log(metrics.gradient_norm(), metrics.update_norm(), polyak::distance_to_average(params, ema));
///
/// A step without metrics has no code for them. In a step with metrics, the gradient norm reads the
/// gradients once more (1 word per parameter). The update norm keeps the weights of before the
/// step, in a slot of the size of the weights: 1 word to write it in the pass, and 2 to read it and
/// the weights after the pass. The distance to an average reads both: 2 words per call.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/fold.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/state_access.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// What StepMetrics measures.
struct StepMetricsOptions {
  bool gradient_norm = true;
  bool update_norm = true;  ///< takes a slot of the size of the weights
};

/// Keeps the weights of before a step.
struct KeepWeightsLaw {
  static constexpr LawSlots slots = LawSlots::averaging("before");
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& before) const {
    before = x;
  }
};

/// Measures a step or update that it is named in. Name it first: it measures the methods after it.
/// An update of a method that waits for another pass, such as an average that is fed back and
/// checks for NaN, does not count.
///
/// It is a method that changes no weights and no bit of the others, for parameters on the host. Its
/// norms are of the selected tensors that are trained, computed as in core/reduce.hpp: their bits
/// depend neither on the executor nor on the instruction set. A step that is skipped or refused is
/// not measured; the numbers stay those of the last measured one.
template <ParameterScalar P>
class StepMetrics final : public MethodHooks<P> {
 public:
  using State = element_t<P>;
  static constexpr bool trains = false;
  static constexpr bool host_only = true;
  static constexpr std::string_view type_name = "StepMetrics";

  /// Throws std::invalid_argument if both options are false.
  explicit StepMetrics(const Parameters<P>& params, const StepMetricsOptions& options = {},
                       const Selection& selection = {})
      : options_(checked(options)),
        slots_(
            params.layout(), detail::dtype_of<P>(), Kept::trained,
            options.update_norm ? std::vector<std::string>{"before"} : std::vector<std::string>{},
            [&](std::size_t k) { return selection(params[k].info()); }),
        gradient_(params, kept()),
        update_(params, kept()) {}

  /// Steps and updates that were measured.
  [[nodiscard]] std::int64_t count() const { return count_; }
  /// The Euclidean norm of the gradients as the last step read them, with scale, clip coefficient
  /// and value limit. 0 before the first step, after an update, and where it is not measured.
  [[nodiscard]] double gradient_norm() const { return gradient_norm_; }
  /// The Euclidean norm of the change of the weights in the last step. 0 before the first step and
  /// where it is not measured.
  [[nodiscard]] double update_norm() const { return update_norm_; }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const { return slots_.memory_report(); }

  // Called by step() and update().
  [[nodiscard]] const Slots<State>& slots() const { return slots_; }
  [[nodiscard]] Nonfinite nonfinite() const { return Nonfinite::propagate; }
  [[nodiscard]] std::int64_t skipped() const { return 0; }
  void skip() {}
  void prepare(const ExecutorRef& executor, const Parameters<P>&, const Gradients<P>* gradients) {
    const bool measures = options_.gradient_norm && gradients != nullptr;
    next_gradient_norm_ = measures ? gradient_(executor, *gradients)[0] : 0;
  }
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    gradient_norm_ = next_gradient_norm_;
    ++count_;
  }
  [[nodiscard]] bool resting() const { return !options_.update_norm; }
  [[nodiscard]] auto bind() const { return detail::bind_law(KeepWeightsLaw{}, slots_); }
  void finish(const ExecutorRef& executor, const Parameters<P>& params) {
    if (options_.update_norm) update_norm_ = update_(executor, params, stream_of(slots_, 0))[0];
  }
  /// Files hold nothing of it.
  template <class Self>
  static void list_state(Self&, StateVisitorOf<Self>&) {}

 private:
  static const StepMetricsOptions& checked(const StepMetricsOptions& options) {
    require(options.gradient_norm || options.update_norm,
            "StepMetricsOptions must have gradient_norm or update_norm; update_norm",
            options.update_norm);
    return options;
  }
  [[nodiscard]] auto kept() const {
    return [this](std::size_t k) { return slots_.keeps(k); };
  }

  StepMetricsOptions options_;
  Slots<State> slots_;
  Reduction<Norm> gradient_;
  Reduction<Distance> update_;
  std::int64_t count_ = 0;
  double next_gradient_norm_ = 0, gradient_norm_ = 0, update_norm_ = 0;
};

/// The Euclidean distance of the weights to an average of them, over the tensors that are averaged.
/// The average is read as it is stored: without the compensation of Accumulate::kahan, and of
/// Accumulate::float64 in double. `slot` is the name of the slot, for methods with several
/// averages.
///
/// Allocates memory for the partial sums. Throws std::logic_error before the first update of the
/// average and while an average is swapped in, std::invalid_argument for other parameters and for a
/// method without such a slot (naming those that there are).
template <Executor E, FloatingScalar P, class Average>
requires(!Average::trains)
    [[nodiscard]] double distance_to_average(E&& executor, const Parameters<P>& params,
                                             const Average& average,
                                             std::string_view slot = "average") {
  if (params.swapped()) detail::refuse_order("polyak: the distance while an average is swapped in");
  if constexpr (requires { average.ready(); }) {
    if (!average.ready()) detail::refuse_order("polyak: the average was never updated");
  }
  detail::require_same(params.layout(), average.slots().layout(),
                       "the parameters and those of the average");
  detail::SlotFinder finder(detail::method_name(average), slot, {});
  detail::visit_state(average, finder);
  const ConstSlots& slots = finder.where();
  const auto keeps = [&](std::size_t k) { return slots.keeps(finder.place(), k); };
  const auto measured = [&]<class S>(std::type_identity<S>) {
    std::vector<const S*> places(params.size(), nullptr);
    for (std::size_t k = 0; k < places.size(); ++k) {
      if (keeps(k)) places[k] = reinterpret_cast<const S*>(slots.address(finder.place(), k));
    }
    Reduction<Distance> distance(params, keeps);
    return distance(executor, params, FoldStream<S>(params.layout().get(), places.data()))[0];
  };
  using S = typename Average::State;
  if constexpr (!std::same_as<S, double>) {
    if (slots.dtype() != detail::dtype_of<S>()) return measured(std::type_identity<double>());
  }
  return measured(std::type_identity<S>());
}
/// The same in the calling thread.
template <FloatingScalar P, class Average>
requires(!Average::trains)
    [[nodiscard]] double distance_to_average(const Parameters<P>& params, const Average& average,
                                             std::string_view slot = "average") {
  return distance_to_average(serial, params, average, slot);
}

}  // namespace POLYAK_V0
}  // namespace polyak
