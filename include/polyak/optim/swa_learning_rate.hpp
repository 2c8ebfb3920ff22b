// SPDX-License-Identifier: Apache-2.0
/// @file
/// Learning rates of SWA: annealing to a constant rate, a fixed plan to a constant rate, and a
/// cyclic rate.
///
///   SwaLearningRate   s f(u) + lr_0 (1 - f(u)),   u = min(k/N, 1) after k steps
///                     f(u) = (1 - cos(pi u))/2 or u
///   swa_constant      lr_0 for u <= 1/2, then linear, s for u >= 0.9;   u = epoch/start
///   swa_cyclic        (1 - u) a_1 + u a_2,   u = ((i - 1) mod c + 1)/c,   i = 1, 2, ...
///
/// "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407); the
/// first is PyTorch's SWALR, the second the plan of the paper's training script.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/anneal.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SwaLearningRateOptions {
  /// s, required: one for all groups or one per group; finite, >= 0
  std::vector<double> swa_learning_rate = {};
  std::int64_t anneal_epochs = 10;  ///< N >= 0; 0: s at once
  AnnealStrategy strategy = AnnealStrategy::cosine;
  /// true: each step starts from the current rates, which may have been changed since the last
  /// step. false: it starts from lr_0, and nothing else may change the rates.
  bool rebase = false;
};

template <class Fields>
void fields(SwaLearningRateOptions& o, Fields& field) {
  field.check(!o.swa_learning_rate.empty(), "swa_learning_rate must have at least one rate",
              o.swa_learning_rate.size());
  field.list("swa_learning_rate", o.swa_learning_rate, 0, finite_and_not_negative);
  field("anneal_epochs", o.anneal_epochs, at_least_0);
  field("strategy", o.strategy);
  field("rebase", o.rebase);
}

/// Anneals the learning rates of one or more groups of parameters to their SWA rates.
///
/// Rates are absolute. With `rebase` (as in PyTorch) step k replaces the current rate lr by
///   base = (lr - f(u') s)/(1 - f(u')),   lr <- s f(u) + base (1 - f(u)),   u' = min((k-1)/N, 1)
/// which is computed as s + (lr - s)(1 - f(u))/(1 - f(u')), from 1 - f without cancellation, so
/// that no digits are lost near the end. From step N on the rate is s, even if it was changed from
/// outside. Without such changes both ways give the same rates up to rounding, and step N gives
/// exactly s.
///
///     polyak::SwaLearningRate rate({0.1}, {.swa_learning_rate = {0.05}, .anneal_epochs = 5});
///     optimizer.at(rate.rate());            // an epoch
///     rate.step();                          // after it
class SwaLearningRate {
 public:
  /// `initial_rates`: lr_0 of each group, at least one, finite, >= 0. Throws std::invalid_argument
  /// for rates or options out of range, and unless there is one s or as many as groups.
  explicit SwaLearningRate(std::vector<double> initial_rates, SwaLearningRateOptions options)
      : initial_(std::move(initial_rates)), options_(std::move(options)) {
    validate(options_);
    require(!initial_.empty(), "SwaLearningRate must have at least one initial rate",
            initial_.size());
    for (const double rate : initial_) {
      detail::require_rule("SwaLearningRate: initial rates", rate, finite_and_not_negative);
    }
    auto& targets = options_.swa_learning_rate;
    require(targets.size() == 1 || targets.size() == initial_.size(),
            "SwaLearningRateOptions.swa_learning_rate must have one rate, or one per group, " +
                detail::text(initial_.size()),
            targets.size());
    while (targets.size() < initial_.size()) targets.push_back(targets.front());
    rates_ = options_.anneal_epochs == 0 ? targets : initial_;
  }

  /// Advances by one step, usually an epoch. Returns rates().
  const std::vector<double>& step() {
    ++steps_;
    const double left = remainder(steps_), before = remainder(steps_ - 1);
    for (std::size_t group = 0; group < rates_.size(); ++group) {
      const double target = options_.swa_learning_rate[group];
      const double from = options_.rebase ? rates_[group] : initial_[group];
      const double share = !options_.rebase ? left : before == 0 ? 0 : left / before;
      rates_[group] = share == 0 ? target : target + share * (from - target);
    }
    return rates_;
  }

  /// The same, from the rates that the optimizer has now. Throws std::logic_error without `rebase`,
  /// std::invalid_argument for another number of rates than of groups, or rates out of range.
  const std::vector<double>& step(std::span<const double> current_rates) {
    require_rebase();
    if (current_rates.size() != rates_.size()) {  // build the message only if needed
      require(
          false,
          "SwaLearningRate::step: there must be one rate per group, " + detail::text(rates_.size()),
          current_rates.size());
    }
    for (const double rate : current_rates) {
      detail::require_rule("SwaLearningRate::step: rates", rate, finite_and_not_negative);
    }
    // Not std::copy: current_rates may be rates() itself.
    for (std::size_t group = 0; group < rates_.size(); ++group) {
      rates_[group] = current_rates[group];
    }
    return step();
  }

  /// Changes the rate of a group; the next step starts from it. Throws std::logic_error without
  /// `rebase`, std::invalid_argument for an unknown group or a rate out of range.
  void set_rate(std::size_t group, double rate) {
    require_rebase();
    require_group(group);
    detail::require_rule("SwaLearningRate::set_rate: the rate", rate, finite_and_not_negative);
    rates_[group] = rate;
  }

  /// The current rates, one per group.
  [[nodiscard]] const std::vector<double>& rates() const { return rates_; }
  /// The current rate of one group. Throws std::invalid_argument for an unknown group.
  [[nodiscard]] double rate(std::size_t group = 0) const {
    require_group(group);
    return rates_[group];
  }
  /// Steps so far.
  [[nodiscard]] std::int64_t count() const { return steps_; }
  /// The options as given, but with one s per group.
  [[nodiscard]] const SwaLearningRateOptions& options() const { return options_; }

  /// Lists the whole state once, for state_bytes() and restore_state(); see core/state.hpp.
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.options(self.options_);
    visit.scalar("steps", self.steps_, count_range);
    for (std::size_t group = 0; group < self.rates_.size(); ++group) {
      visit.scalar("initial_rate." + std::to_string(group), self.initial_[group],
                   finite_not_negative_range);
      visit.scalar("rate." + std::to_string(group), self.rates_[group], finite_not_negative_range);
    }
  }

 private:
  /// 1 - f(k/N), computed from the number of remaining steps, which loses no digits.
  [[nodiscard]] double remainder(std::int64_t k) const {
    const std::int64_t all = std::max<std::int64_t>(options_.anneal_epochs, 1);
    if (k >= all) return 0;
    const double left = static_cast<double>(all - k) / static_cast<double>(all);
    if (options_.strategy == AnnealStrategy::linear) return left;
    const double sine = std::sin(std::numbers::pi / 2 * left);
    return sine * sine;
  }
  void require_rebase() const {
    if (!options_.rebase) {
      detail::refuse_order(
          "polyak: the rates of SwaLearningRate can be changed with rebase = true only");
    }
  }
  void require_group(std::size_t group) const {
    if (group >= rates_.size()) {
      require(false,
              "SwaLearningRate: the group must lie in [0, " + detail::text(rates_.size()) + ")",
              group);
    }
  }

  std::vector<double> initial_;
  SwaLearningRateOptions options_;
  std::vector<double> rates_;
  std::int64_t steps_ = 0;
};

struct SwaConstantOptions {
  double learning_rate = std::numeric_limits<double>::quiet_NaN();      ///< lr_0, required
  double swa_learning_rate = std::numeric_limits<double>::quiet_NaN();  ///< s, required
  std::int64_t start = 0;  ///< epoch at which averaging begins, required, >= 1
};

template <class Fields>
void fields(SwaConstantOptions& o, Fields& field) {
  field("learning_rate", o.learning_rate, finite_and_not_negative);
  field("swa_learning_rate", o.swa_learning_rate, finite_and_not_negative);
  field("start", o.start, at_least_1);
}

/// The rate of an epoch, counted from 0: lr_0 for half the time until `start`, then linear, and s
/// for the last tenth and afterwards. For runs without averaging the script uses the same plan,
/// with the number of epochs as `start` and 0.01 lr_0 as s. Throws std::invalid_argument for epoch
/// < 0 and options out of range.
[[nodiscard]] inline double swa_constant(std::int64_t epoch, const SwaConstantOptions& o) {
  require(epoch >= 0, "swa_constant: epoch must be >= 0", epoch);
  validate(o);
  const double u = static_cast<double>(epoch) / static_cast<double>(o.start);
  if (u <= 0.5) return o.learning_rate;
  if (u >= 0.9) return o.swa_learning_rate;
  return o.learning_rate + (o.swa_learning_rate - o.learning_rate) * ((u - 0.5) / 0.4);
}

struct SwaCyclicOptions {
  double first_rate = std::numeric_limits<double>::quiet_NaN();  ///< a_1, required, finite, >= 0
  double last_rate = std::numeric_limits<double>::quiet_NaN();   ///< a_2, required, finite, >= 0
  std::int64_t cycle = 0;  ///< c, iterations of a cycle, required, >= 1
};

template <class Fields>
void fields(SwaCyclicOptions& o, Fields& field) {
  field("first_rate", o.first_rate, finite_and_not_negative);
  field("last_rate", o.last_rate, finite_and_not_negative);
  field("cycle", o.cycle, at_least_1);
}

/// The rate of an iteration, counted from 1: in every cycle it falls linearly from a_1 (which it
/// does not quite reach) to a_2 in the last iteration. Throws std::invalid_argument for iteration <
/// 1 and options out of range.
[[nodiscard]] inline double swa_cyclic(std::int64_t iteration, const SwaCyclicOptions& o) {
  require(iteration >= 1, "swa_cyclic: iteration must be >= 1", iteration);
  validate(o);
  const double u =
      static_cast<double>((iteration - 1) % o.cycle + 1) / static_cast<double>(o.cycle);
  return (1 - u) * o.first_rate + u * o.last_rate;
}

/// Whether an iteration, counted from 1, is the last of its cycle: SWA collects the weights there;
/// `Swa(params, {.start = cycle, .period = cycle})` does so by itself. Throws std::invalid_argument
/// for iteration < 1 or cycle < 1.
[[nodiscard]] inline bool swa_cycle_ends(std::int64_t iteration, std::int64_t cycle) {
  require(iteration >= 1, "swa_cycle_ends: iteration must be >= 1", iteration);
  require(cycle >= 1, "swa_cycle_ends: cycle must be >= 1", cycle);
  return iteration % cycle == 0;
}

}  // namespace POLYAK_V0
}  // namespace polyak
