// SPDX-License-Identifier: Apache-2.0
/// @file
/// CottaTeacher: a teacher that averages a student at test time, and a student whose elements
/// return to the source at random.
///
///   teacher <- m teacher + (1 - m) student          the student as its optimizer left it
///   student <- source, afterwards, for each element with probability r
///
/// "Continual Test-Time Domain Adaptation" (arXiv 2203.13591). The source is the model at
/// construction. Whether an element is restored depends only on seed, call, tensor and element: it
/// is restored if its 40 random bits, as a number, are below r 2^40. State: 2 slots ("average", and
/// "source" in the parameters' type). Elementwise; any shape. 3 words per parameter and call, and
/// the cache lines with restored elements.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/chosen_tensors.hpp>
#include <polyak/average/engine/random_restore.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct CottaOptions {
  double decay = 0.99;               ///< m, 0 or in [0.5, 1]; 0.999 in the paper's experiments
  bool any_decay = false;            ///< accepts decays in (0, 0.5) too
  double restore_probability = 0.1;  ///< r per call, in [0, 1]; 0.01 or 0.001 in the experiments
  std::vector<std::string> restored = {};  ///< tensors to restore; empty: all averaged ones
  std::uint64_t restore_seed = 0;          ///< of the choice of elements
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  Nonfinite nonfinite = Nonfinite::propagate;
};

namespace detail {
/// The fields that a state lists as they are. It lists `restored` tensor by tensor.
template <class Fields>
void cotta_restore_fields(CottaOptions& o, Fields& field) {
  field("restore_probability", o.restore_probability, in_closed_0_1);
  field("restore_seed", o.restore_seed);
}
}  // namespace detail

template <class Fields>
void fields(CottaOptions& o, Fields& field) {
  field("decay", o.decay, decay_in_0_1, likely_decay(o.any_decay));
  field("any_decay", o.any_decay);
  detail::cotta_restore_fields(o, field);
  field("restored", o.restored);
  detail::average_fields(o, field);
}

/// The teacher is an average like any other: read it, swap it in, save it. Its update also changes
/// the student, so name it last in a step. With Nonfinite::skip_step, a skipped call restores
/// nothing. BatchNorm statistics and other buffers are not restored. Throws std::invalid_argument
/// for options out of range and for names in `restored` of unknown or not averaged tensors; for
/// everything else see Average.
template <ParameterScalar P, StateScalar S = default_state_t<P>>
class CottaTeacher final : public AverageOf<CottaTeacher<P, S>, P, ExponentialWeighting, S> {
  using Base = AverageOf<CottaTeacher<P, S>, P, ExponentialWeighting, S>;

 public:
  static constexpr std::string_view type_name = "CottaTeacher";
  static constexpr bool host_only = true;

  explicit CottaTeacher(const Parameters<P>& params, CottaOptions options = {},
                        const Selection& selection = {})
      : Base(params, weighting_of(options), options.nonfinite,
             {options.accumulate, options.seed, selection}),
        source_(source_of(params, this->slots())),
        options_(std::move(options)) {
    restores_ = detail::chosen_tensors(params, source_, options_.restored, "CottaOptions.restored");
  }

  /// See Average. The source of a new tensor is its value now. Names in `restored` must remain in a
  /// list that shrinks.
  void grow(const Parameters<P>& params) {
    follow(params, detail::ListChange::growth(ParameterAccess<P>::list(params), source_));
  }
  void shrink(const Parameters<P>& params) {
    follow(params, detail::ListChange::shrinking(ParameterAccess<P>::list(params), source_));
  }

  /// Restores the elements for which `choose(tensor, element)` holds, whatever the options are. Use
  /// it with restore_probability = 0 to make your own choice. Throws std::invalid_argument for
  /// other parameters, std::logic_error while an average is swapped in.
  template <class Choose>
  void restore(const Parameters<P>& params, Choose&& choose) const {
    if (params.swapped()) detail::refuse_order("polyak: restore() while an average is swapped in");
    detail::require_same(params.layout(), source_.layout(),
                         "the parameters and those of the teacher");
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!source_.keeps(k)) continue;
      const auto source = source_.tensor(0, k);
      for (std::size_t i = 0; i < source.size(); ++i) {
        if (choose(k, i)) params[k].data()[i] = source[i];
      }
    }
  }

  /// The model at construction; of tensors that came later, when they came.
  [[nodiscard]] SlotView<element_t<P>> source() const { return {source_, 0}; }
  /// Whether call `call` restores this element of this tensor.
  [[nodiscard]] bool restores(std::int64_t call, std::size_t tensor, std::size_t element) const {
    require(tensor < restores_.size(),
            "CottaTeacher: tensor must be below " + detail::text(restores_.size()), tensor);
    bool chosen = false;
    if (restores_[tensor]) {
      choice(call, tensor)
          .template each<detail::Baseline>(element, element + 1,
                                           [&](std::size_t, std::uint64_t) { chosen = true; });
    }
    return chosen;
  }

  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report = Base::memory_report();
    const MemoryReport source = source_.memory_report();
    for (const MemoryReport::Slot& slot : source.slots) report.slots.push_back(slot);
    report.total += source.total;
    return report;
  }

  // Called by step() and update().
  static constexpr bool writes_weights = true;
  void finish(const ExecutorRef& executor, const Parameters<P>& params) {
    Base::finish(executor, params);
    if (options_.restore_probability == 0) return;
    const int level = detail::level_in_use();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!restores_[k]) continue;
      const std::size_t size = params[k].size();
      const auto range = [&](std::size_t begin, std::size_t end) {
        // A boundary is rounded down to whole granules, the same from both sides.
        const std::size_t low = begin / detail::slot_granule * detail::slot_granule;
        const std::size_t high =
            end == size ? size : end / detail::slot_granule * detail::slot_granule;
        if (low >= high) return;
        detail::run_at(level, detail::RestoreKernel<element_t<P>>{params[k].data(),
                                                                  source_.tensor(0, k).data(), low,
                                                                  high, choice(this->calls(), k)});
      };
      executor(size, range);
    }
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    visit.some_options(self.options_,
                       [](auto& o, auto& field) { detail::cotta_restore_fields(o, field); });
    detail::list_chosen(visit, "restores", self.restores_, self.source_);
    visit.slots(self.source_);
    Base::list_state(self, visit);
  }

 private:
  [[nodiscard]] static Slots<element_t<P>> source_of(const Parameters<P>& params,
                                                     const Slots<S>& averages) {
    Slots<element_t<P>> source(params.layout(), detail::dtype_of<P>(), Kept::averaged, {"source"},
                               [&](std::size_t k) { return averages.keeps(k); });
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!source.keeps(k) || params[k].size() == 0) continue;
      std::copy_n(params[k].data(), params[k].size(), source.tensor(0, k).data());
    }
    return source;
  }
  void follow(const Parameters<P>& params, const detail::ListChange& change) {
    Base::follow(params, change, [&](const Slots<S>& slots) {
      auto source = source_of(params, slots);
      change.carry(source_, source);
      restores_ =
          detail::chosen_tensors(params, source, options_.restored, "CottaOptions.restored");
      source_ = std::move(source);
    });
  }
  static ExponentialWeighting weighting_of(const CottaOptions& options) {
    validate(options);
    return {options.decay, Start::params, 1};
  }
  [[nodiscard]] detail::RandomChoice choice(std::int64_t call, std::size_t tensor) const {
    // A random stream other than that of stochastic rounding.
    const std::uint64_t seed = options_.restore_seed ^ 0x436f5454412e2e2eu;
    return {{seed, static_cast<std::uint64_t>(call), tensor}, options_.restore_probability};
  }

  Slots<element_t<P>> source_;
  CottaOptions options_;
  std::vector<bool> restores_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
