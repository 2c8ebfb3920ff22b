// SPDX-License-Identifier: Apache-2.0
/// @file
/// The parts that Schedule-Free optimizers share: the averaging weights, the update of y and z, and
/// access to x.
///
///   gamma_t = learning_rate min(1, t/warmup_steps)
///   L_t = max(L_{t-1}, gamma_t),  w_t = t^r L_t^weight_lr_power,  c_t = w_t / sum_{s<=t} w_s
///   z <- z - gamma_t d                           base iterate
///   x <- x + c_t (z - x)                         average: evaluate and ship this one
///   y <- beta x + (1 - beta) z                   the model's memory: train at this one
///
/// Only y and z are stored: y <- y + c (z - y) + gamma (beta (1 - c) - 1) d, and x is recovered as
/// y + (1 - 1/beta)(z - y), by copy, guard or view. The model always holds y, so there are no
/// modes.
///
/// Clock: gamma_t and c_t are those of the optimizer, for all tensors. So x is the average of the
/// whole model's z, in which a tensor that joins the training late, or a step without its gradient,
/// counts as standing still: x of a tensor that joins after s steps begins as y and keeps the
/// weight of s steps there. To give its own steps more weight, set r, or begin a new optimizer.
/// Only the bias correction of v counts the steps of each tensor. "The Road Less Scheduled" (arXiv
/// 2405.15682).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/engine/swap.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/optim/elementwise.hpp>
#include <polyak/optim/schedule_free_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The learning rate from which the averaging weights w_t are computed.
enum class AverageWeight : std::uint8_t {
  running_maximum,  ///< L_t, as in the authors' code
  learning_rate,    ///< gamma_t, as in the paper
};

[[nodiscard]] constexpr std::string_view name_of(AverageWeight value) {
  switch (value) {
    case AverageWeight::running_maximum:
      return "running_maximum";
    default:
      return "learning_rate";
  }
}

/// The options from which the scalars of a step follow. A rule returns them from
/// `schedule(options)`.
struct ScheduleFreeSchedule {
  double beta;
  std::int64_t warmup_steps;
  double r, weight_lr_power;
  AverageWeight average_weight;
  double corrected_beta2 = 0;  ///< used with bias_correction_in_lr, else 0
};

/// The scalars of the last step.
struct ScheduleFreeScalars {
  double learning_rate = 0;       ///< gamma_t
  double learning_rate_max = -1;  ///< L_t
  double weight_sum = 0;          ///< sum of w_s
  double gain = 0;                ///< c_t
};

/// Moves y and z along a direction d.
template <class T>
struct ScheduleFreeMove {
  T gain;  ///< c_t
  T pull;  ///< gamma_t (beta (1 - c_t) - 1)
  T step;  ///< gamma_t
  template <class V>
  POLYAK_LAW void operator()(V& y, V& z, const V& d) const {
    y = fma(pull, d, interpolate(y, z, gain));
    z = fma(-step, d, z);
  }
};

/// A step of a Schedule-Free optimizer, as passed to its rule.
template <class T>
struct ScheduleFreeStep : StepOf<T> {
  ScheduleFreeScalars scalars = {};
  double beta = 0.9;

  [[nodiscard]] ScheduleFreeMove<T> move() const {
    const double c = scalars.gain, rate = scalars.learning_rate * this->rate_factor;
    return {
        .gain = (*this)(c), .pull = (*this)(rate * (beta * (1 - c) - 1)), .step = (*this)(rate)};
  }
};

/// Sets z = y when the training of a tensor begins.
struct ScheduleFreeBeginLaw {
  static constexpr LawSlots slots = LawSlots::averaging("z");
  template <class V>
  POLYAK_LAW void operator()(const V& y, V& z) const {
    z = y;
  }
};

/// Base of the Schedule-Free optimizers: the scalars of a step, and x.
template <class Derived, class Rule, ParameterScalar P, ComputeScalar S>
class ScheduleFree : public Elementwise<Derived, Rule, P, S> {
  using Base = Elementwise<Derived, Rule, P, S>;

 public:
  [[nodiscard]] const ScheduleFreeScalars& scalars() const { return scalars_; }
  /// Replaces the options as Elementwise::with(). Throws std::invalid_argument for another beta
  /// too: what y is between z and x cannot change.
  Derived& with(const typename Base::Options& options) {
    require(options.beta == schedule_.beta,
            "with() must leave beta as it is, " + detail::text(schedule_.beta) + "; beta",
            options.beta);
    Derived& self = Base::with(options);
    schedule_ = Rule::schedule(options);
    return self;
  }
  /// z is not a moment, so it cannot be reset.
  void reset_moments() = delete;
  /// Whether the average is readable.
  [[nodiscard]] bool ready() const { return this->count() > 0; }

  /// Reads x, element by element, without a copy; `params` hold y. Throws std::logic_error before
  /// the first step and while something is swapped in, std::invalid_argument for other parameters.
  [[nodiscard]] ScheduleFreeView<Derived, Rule, P, S> view(const Parameters<P>& params) const {
    check(params);
    return {*this, params};
  }

  /// Writes x into `target`, other memory of the same layout; `params` hold y. The two lists may
  /// share the memory of frozen weights. Throws as view().
  void copy_to(const Parameters<P>& params, const Parameters<P>& target) const {
    check(params);
    if (target.swapped()) detail::refuse_order("polyak: copy_to while an average is swapped in");
    detail::require_same(target.layout(), params.layout(), "the target and the parameters");
    const auto shared = [&](std::size_t k) {
      return params[k].info().role == Role::frozen && params[k].raw() == target[k].raw();
    };
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].bytes() == 0 || shared(k)) continue;
      if (detail::overlap(params[k].raw(), params[k].bytes(), target[k].raw(), target[k].bytes())) {
        detail::refuse_value("polyak: copy_to would overwrite the weights of tensor \"" +
                             params[k].name() + "\"; use swap_into");
      }
    }
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (shared(k)) continue;
      detail::copy_bytes(this->slots().space(), target[k].raw(), params[k].raw(),
                         params[k].bytes());
    }
    read_into(target);
  }

  /// Puts x into the model until the guard ends; then it holds y again, bit for bit. The guard
  /// keeps a copy of y, because y cannot be recomputed from x and z to the last bit. Throws as
  /// view().
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params) const {
    check(params);
    std::vector<SwapGuard::Piece> pieces;
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (this->slots().keeps(k)) pieces.push_back({k, nullptr, params[k].bytes()});
    }
    auto guard = SwapGuard::keep(ParameterAccess<P>::list(params), std::move(pieces));
    read_into(params);
    return guard;
  }

  /// The same, but keeps the current weights before the first step.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, OrCurrent) const {
    return ready() ? swap_into(params) : SwapGuard::keep(ParameterAccess<P>::list(params), {});
  }

  // Called by the view and by step().
  [[nodiscard]] std::span<const S> z_of(std::size_t tensor) const {
    return this->tensor_steps(tensor) > 0 ? this->slots().tensor(0, tensor) : std::span<S>{};
  }
  [[nodiscard]] detail::WeightKey<element_t<P>> kept_of(std::size_t tensor) const {
    detail::WeightKey<element_t<P>> key = this->weight_key();
    key.reads = 1;
    if (this->slots().keeps(tensor)) key.move_to(tensor, this->slots().offset(tensor));
    return key;
  }
  [[nodiscard]] ScheduleFreeReadLaw<S> read_law() const {
    return {static_cast<S>(1 - 1 / schedule_.beta)};
  }
  void advance(const Parameters<P>& params, const element_t<P>* const* gradients) {
    this->count_step(gradients);
    for (std::size_t k = 0; k < params.size(); ++k) {  // z begins with the training of the tensor
      if (gradients[k] == nullptr || this->tensor_steps(k) != 1 || !this->slots().keeps(k))
        continue;
      detail::Sweep<P>::one(params, k, detail::bind_law(ScheduleFreeBeginLaw{}, this->slots()));
    }
    const auto t = static_cast<double>(this->count());
    double rate = this->learning_rate();
    if (this->count() < schedule_.warmup_steps) {
      rate *= t / static_cast<double>(schedule_.warmup_steps);
    }
    if (schedule_.corrected_beta2 > 0) {
      rate *= std::sqrt(detail::bias_correction(schedule_.corrected_beta2, this->count()));
    }
    scalars_.learning_rate = rate;
    scalars_.learning_rate_max = std::fmax(scalars_.learning_rate_max, rate);
    const double base = schedule_.average_weight == AverageWeight::learning_rate
                            ? rate
                            : scalars_.learning_rate_max;
    const bool counts = base > 0 || schedule_.weight_lr_power == 0;  // a rate of 0 has no weight
    const double weight =
        counts ? std::pow(t, schedule_.r) * std::pow(base, schedule_.weight_lr_power) : 0;
    scalars_.weight_sum += weight;
    scalars_.gain = scalars_.weight_sum > 0 ? weight / scalars_.weight_sum : 0;
    this->make_laws(gradients);
  }
  [[nodiscard]] ScheduleFreeStep<S> step_of(std::size_t tensor) const {
    return {Base::step_of(tensor), scalars_, schedule_.beta};
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    Base::list_state(self, visit);
    auto& scalars = detail::as_base<ScheduleFree>(self).scalars_;
    visit.scalar("scheduled_learning_rate", scalars.learning_rate, not_negative_range);
    visit.scalar("learning_rate_max", scalars.learning_rate_max,
                 {-1, std::numeric_limits<double>::infinity()});
    visit.scalar("weight_sum", scalars.weight_sum, not_negative_range);
    visit.scalar("gain", scalars.gain);  // any number: the next step computes another
  }

 protected:
  ScheduleFree(const Parameters<P>& params, const typename Base::Options& options,
               const Selection& selection)
      : Base(params, options, selection), schedule_(Rule::schedule(options)) {}

 private:
  void check(const Parameters<P>& params) const {
    if (!ready()) {
      detail::refuse_order(
          "polyak: no step was made, there is no average yet; ask for the current "
          "weights with or_current if that is meant");
    }
    if (params.swapped())
      detail::refuse_order("polyak: an average is swapped in; end its guard first");
    detail::require_same(params.layout(), this->slots().layout(),
                         "the parameters and those of the optimizer");
  }

  void read_into(const Parameters<P>& target) const {
    for (std::size_t k = 0; k < target.size(); ++k) {
      if (this->tensor_steps(k) == 0 || !this->slots().keeps(k)) continue;
      this->with_reading(read_law(),
                         [&](const auto& bound) { detail::Sweep<P>::one(target, k, bound); });
    }
  }

  ScheduleFreeSchedule schedule_;
  ScheduleFreeScalars scalars_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
