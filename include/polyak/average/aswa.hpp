// SPDX-License-Identifier: Apache-2.0
/// @file
/// Aswa: the equal average of an epoch's iterates, or of the iterates that pass a test by norm. At
/// the end of the epoch it is copied into the model.
///
///   offered x:   nu = mean (or max) over tensors of |average - x|          N: norms since the last
///                accept where  nu > mean(N),  mean of none = 0              one that was accepted
///   accepted:    average <- average + (x - average)/(n + 1),  n <- n + 1,  N = {nu}
///   rejected:    N <- N + {nu}  where nu > 0
///   epoch ends:  x <- average,  N = {}
///
/// ASWA accepts all iterates, NASWA tests the norm (arXiv 1909.10447). State: 1 slot ("average"). 3
/// words per parameter and accepted call, and 2 for the norm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/chosen_tensors.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The iterates that Aswa accepts.
enum class AswaFilter : std::uint8_t {
  all,           ///< ASWA
  mean_norm,     ///< NASWA, nu is the mean of the tensors' norms
  largest_norm,  ///< NASWA, nu is the largest norm
};
[[nodiscard]] constexpr std::string_view name_of(AswaFilter value) {
  switch (value) {
    case AswaFilter::all:
      return "all";
    case AswaFilter::mean_norm:
      return "mean_norm";
    default:
      return "largest_norm";
  }
}

struct AswaOptions {
  AswaFilter filter = AswaFilter::all;
  std::vector<std::string> normed = {};  ///< tensors whose norms count; empty: all averaged ones
  std::int64_t start = 1;                ///< first call that is offered, >= 1
  std::int64_t period = 1;               ///< calls from one offer to the next, >= 1
  /// Follows the authors' code: at the end of an epoch, average and weights are exchanged, and with
  /// AswaFilter::all the first iterate counts twice.
  bool reference_swap = false;
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

namespace detail {
/// The fields that a state lists as they are. It lists `normed` tensor by tensor.
template <class Fields>
void aswa_filter_fields(AswaOptions& o, Fields& field) {
  constexpr Rule<AswaFilter> known{[](AswaFilter v) { return v <= AswaFilter::largest_norm; },
                                   "must be one of AswaFilter",
                                   {static_cast<AswaFilter>(9)}};
  field("filter", o.filter, known);
  field("reference_swap", o.reference_swap);
  field("start", o.start, at_least_1);
  field("period", o.period, at_least_1);
}
}  // namespace detail

template <class Fields>
void fields(AswaOptions& o, Fields& field) {
  detail::aswa_filter_fields(o, field);
  field("normed", o.normed);
  detail::average_fields(o, field);
}

/// c = 1/(n + 1) if the call is accepted, else 0.
struct AswaWeighting {
  std::int64_t averaged = 0;  ///< n
  bool first_twice = false;
  bool accepts = true;  ///< whether the next call is accepted

  [[nodiscard]] double gain(std::int64_t) const {
    return accepts ? 1 / (static_cast<double>(averaged) + 1) : 0;
  }
  [[nodiscard]] double complement(std::int64_t) const {
    const auto n = static_cast<double>(averaged);
    return accepts ? n / (n + 1) : 1;
  }
  void advance(std::int64_t) {
    if (accepts) averaged += averaged == 0 && first_twice ? 2 : 1;
  }
  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.scalar("averaged", self.averaged, count_range);
  }
};

/// Exchanges x and the average.
template <class T>
struct ExchangeLaw {
  static constexpr LawSlots slots = LawSlots::exchanging("average");
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, Slot& average) const {
    const V before = x;
    x = average;
    average = before;
  }
};

/// Offer the weights by update() (or step()) after each iteration, and call end_epoch() after each
/// epoch; n is not reset. The norm filters reject an iterate with a NaN or an infinity. Runs on
/// the host only. For everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class Aswa final : public AverageOf<Aswa<P, S>, P, AswaWeighting, S> {
  using Base = AverageOf<Aswa<P, S>, P, AswaWeighting, S>;

 public:
  static constexpr std::string_view type_name = "Aswa";
  static constexpr bool host_only = true;

  /// Throws std::invalid_argument for options out of range, and for names in `normed` of unknown or
  /// not averaged tensors.
  explicit Aswa(const Parameters<P>& params, AswaOptions options = {},
                const Selection& selection = {})
      : Base(params, weighting_of(options), options.nonfinite,
             {options.accumulate, options.seed, selection}),
        options_(std::move(options)) {
    choose_normed(params, this->slots());
  }

  /// See Average. Without names in `normed`, the norms include the new tensors. Names in it must
  /// remain in a list that shrinks.
  void grow(const Parameters<P>& params) {
    follow(params, detail::ListChange::growth(ParameterAccess<P>::list(params), this->slots()));
  }
  void shrink(const Parameters<P>& params) {
    follow(params, detail::ListChange::shrinking(ParameterAccess<P>::list(params), this->slots()));
  }

  /// Whether the last call was accepted.
  [[nodiscard]] bool accepted() const { return accepted_; }
  /// n: the number of iterates in the average.
  [[nodiscard]] std::int64_t averaged() const { return this->weighting().averaged; }
  /// nu of the last call; 0 where none was computed.
  [[nodiscard]] double norm() const { return norm_; }

  /// Ends the epoch: copies the average into the model. Throws std::logic_error before the first
  /// call and while an average is swapped in, std::invalid_argument for other parameters.
  void end_epoch(const Parameters<P>& params) {
    this->require_ready();
    if (params.swapped()) {
      detail::refuse_order("polyak: end_epoch() while an average is swapped in");
    }
    detail::check_method(*this, params);
    if (options_.reference_swap) {
      this->template sweep_all<ExchangeLaw>(params);
    } else {
      this->template sweep_all<ReadLaw>(params);
    }
    norms_ = sum_ = 0;
  }

  // Called by step() and update().
  /// Called before the sweep: it needs the weights that earlier methods write.
  [[nodiscard]] bool reads_weights() const { return options_.filter != AswaFilter::all; }
  void skip() {
    accepted_ = false;
    Base::skip();
  }
  void prepare(const ExecutorRef& executor, const Parameters<P>& params, const Gradients<P>*) {
    const std::int64_t call = this->calls() + 1;
    next_ = {.accepts = is_offered(call), .norm = 0};
    if (!next_.accepts || options_.filter == AswaFilter::all) return;
    if (averaged() == 0) {
      next_.accepts = detail::Sweep<P>::weights_finite(
          params, [this](std::size_t k) { return this->slots().keeps(k); });
      return;
    }
    next_.norm = distance(executor, params);
    next_.accepts = detail::is_finite(next_.norm) && next_.norm > (norms_ == 0 ? 0 : sum_ / norms_);
  }
  void advance(const Parameters<P>& params, const element_t<P>* const* gradients) {
    norm_ = next_.norm;
    accepted_ = next_.accepts;
    if (accepted_ && norm_ > 0) norms_ = sum_ = 0;
    if (norm_ > 0 && detail::is_finite(norm_)) {
      sum_ += norm_;
      ++norms_;
    }
    this->mutable_weighting().accepts = accepted_;
    Base::advance(params, gradients);
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.some_options(self.options_,
                       [](auto& o, auto& field) { detail::aswa_filter_fields(o, field); });
    detail::list_chosen(visit, "normed", self.normed_, self.slots());
    Base::list_state(self, visit);
    visit.scalar("norms", self.norms_, count_range);
    visit.scalar("sum_of_norms", self.sum_, not_negative_range);
  }

 private:
  void follow(const Parameters<P>& params, const detail::ListChange& change) {
    Base::follow(params, change, [&](const Slots<S>& slots) { choose_normed(params, slots); });
  }
  /// Strong guarantee.
  void choose_normed(const Parameters<P>& params, const Slots<S>& slots) {
    auto normed = detail::chosen_tensors(params, slots, options_.normed, "AswaOptions.normed");
    distances_ = Reduction<Distance>(
        params, [&](std::size_t k) { return static_cast<bool>(normed[k]); }, {.per = Per::tensor});
    normed_ = std::move(normed);
  }
  static AswaWeighting weighting_of(const AswaOptions& options) {
    validate(options);
    return {0, options.reference_swap && options.filter == AswaFilter::all, true};
  }
  /// The mean or the maximum of the tensors' distances; NaN if any of them is NaN.
  [[nodiscard]] double distance(const ExecutorRef& executor, const Parameters<P>& params) {
    this->with_stored([]<class C>(C) { return ReadLaw<C>{}; },
                      [&](const auto& bound) {
                        using A = typename std::remove_cvref_t<decltype(bound)>::State;
                        distances_(
                            executor, params,
                            FoldStream<A>(params.layout().get(), bound.slots[0], bound.offsets));
                      },
                      std::size_t{0});
    double total = 0, largest = 0;
    std::size_t tensors = 0;
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!normed_[k] || params[k].size() == 0) continue;
      const double one = distances_.results(k)[0];
      total += one;
      largest = one > largest ? one : largest;
      ++tensors;
    }
    if (options_.filter == AswaFilter::largest_norm) return detail::is_nan(total) ? total : largest;
    return tensors == 0 ? 0 : total / static_cast<double>(tensors);
  }

  [[nodiscard]] bool is_offered(std::int64_t call) const {
    return call >= options_.start && (call - options_.start) % options_.period == 0;
  }

  AswaOptions options_;
  /// Set by `prepare` for the next call.
  struct Next {
    bool accepts = true;
    double norm = 0;
  };

  bool accepted_ = false;
  Next next_ = {};
  std::vector<bool> normed_;
  Reduction<Distance> distances_{Shape{}};
  double norm_ = 0;
  double norms_ = 0, sum_ = 0;  // of N
};

}  // namespace POLYAK_V0
}  // namespace polyak
