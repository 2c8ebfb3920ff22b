// SPDX-License-Identifier: Apache-2.0
/// @file
/// The driver of a step.
///
/// Above 300 lines: methods are checked, started, run and skipped in one order, which is read as a
/// whole.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/finite.hpp>
#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step_methods.hpp>
#include <polyak/core/sweep_plan.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Refuses two optimizers that own the same tensor.
template <class P>
void check_owners(const Layout& layout, std::span<const StepMethod<P>> methods) {
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    int owners = 0;
    for (const auto& m : methods) {
      owners += m.table->trains && m.facts.offsets[k] != Slots<float>::absent;
    }
    if (owners > 1) {
      refuse_value("polyak: two optimizers of this step own tensor \"" + layout.tensors[k].name +
                   "\"; give them selections that have no tensor in common");
    }
  }
}

template <class P>
[[nodiscard]] GradientReading reading_of(const Gradients<P>* gradients) {
  return gradients == nullptr ? GradientReading{} : GradientAccess<P>::reading(*gradients);
}

/// Runs the laws of started methods. `usual` has a bit for each that is in its usual variant.
template <class P>
void run_laws(const ExecutorRef& executor, const Parameters<P>& params,
              const element_t<P>* const* gradients, const GradientReading& reading,
              const StepParts<P>& parts, std::size_t count, std::uint64_t usual);

/// One call of step() or update(). It checks the methods, and determines which of them wait for
/// others and which are skipped. It does not know their types.
template <class P>
class StepDriver {
 public:
  using Plan = typename Sweep<P>::Plan;
  using Chosen = std::uint64_t;  ///< a bit for each method

  StepDriver(const ExecutorRef& executor, const Parameters<P>& params,
             const Gradients<P>* gradients, const StepParts<P>& parts)
      : executor_(executor),
        params_(params),
        list_(gradients),
        gradients_(gradients == nullptr ? nullptr : gradients->data()),
        methods_(parts.methods),
        parts_(parts) {}

  /// Checks the methods and makes the step. Returns false if Nonfinite::skip_step skipped a method.
  bool check_and_advance();

  /// Collects the facts of the methods and refuses those that cannot take part, before anything
  /// changes. Call it first.
  void check();
  /// One step of all methods, after check(). Returns false if Nonfinite::skip_step skipped a
  /// method.
  bool advance_all() {
    const Chosen all = everything();
    if (!watches_ || (all_of([](const auto& m) { return m.checks(); }) == 0 && waiting(all) == 0))
        [[likely]] {
      advance(all);
      return true;
    }
    return advance_checked(all);
  }

  /// One step of the chosen methods.
  void advance(Chosen chosen) {
    prepare(chosen);
    advance_prepared(chosen);
  }
  void prepare(Chosen chosen) {
    each(chosen, [&](const auto& m) {
      if (m.table->prepare != nullptr) m.table->prepare(m.object, executor_, params_, list_);
    });
  }
  void advance_prepared(Chosen chosen);

  [[nodiscard]] Chosen everything() const { return ~Chosen{0} >> (64 - methods_.size()); }
  /// The methods for which `test` is true.
  template <class Test>
  [[nodiscard]] Chosen all_of(Test test) const {
    Chosen found = 0;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      found |= Chosen{test(methods_[i])} << i;
    }
    return found;
  }
  [[nodiscard]] Chosen those_that(Nonfinite policy, bool train) const {
    return all_of(
        [&](const auto& m) { return m.table->trains == train && m.facts.nonfinite == policy; });
  }

  /// Those of the given methods that must wait for another pass, because they need the weights that
  /// earlier methods write: averages that check for NaN after an optimizer, and methods that read
  /// the weights before the pass after a method that writes them. A method that writes the weights
  /// after a waiting one waits too, and so do all methods after it.
  [[nodiscard]] Chosen waiting(Chosen among) const {
    Chosen found = 0;
    bool trained = false, written = false, written_late = false;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if ((among >> i & 1) == 0) continue;
      const StepMethod<P>& m = methods_[i];
      const bool writes = m.table->writes_weights;
      const bool waits = written_late || (found != 0 && writes) ||
                         (written && m.facts.reads_weights) ||
                         (trained && !m.table->trains && m.checks());
      found |= Chosen{waits} << i;
      trained = trained || m.table->trains;
      written = written || writes;
      written_late = written_late || (waits && writes);
    }
    return found;
  }

  template <class Use>
  void each(Chosen chosen, Use use) const {
    for (std::size_t i = 0; i < methods_.size(); ++i) {
      if ((chosen >> i & 1) != 0) use(methods_[i]);
    }
  }
  void skip(Chosen chosen) const {
    each(chosen, [](const auto& m) { m.table->skip(m.object); });
  }

  // The tensors that are checked for NaN and infinity. No other tensor moves in this step.
  /// The largest gradient that the optimizers of a tensor allow; 0 if none trains it.
  [[nodiscard]] auto largest_gradients() const {
    return [this](std::size_t k) {
      double largest = 0;
      for (const StepMethod<P>& m : methods_) {
        if (m.table->trains && keeps(m, k)) largest = m.facts.largest_gradient;
      }
      return largest;
    };
  }
  /// The weights that an optimizer which checks has trained.
  [[nodiscard]] auto trained() const {
    return [this](std::size_t k) {
      return any_of([k](const auto& m) { return m.table->trains && m.checks() && keeps(m, k); });
    };
  }
  /// The weights and buffers that an average which checks reads.
  [[nodiscard]] auto averaged() const {
    return [this](std::size_t k) {
      const TensorInfo& tensor = params_.layout()->tensors[k];
      const bool buffer = tensor.role == Role::copy && is_floating(tensor.dtype);
      return any_of(
          [&](const auto& m) { return !m.table->trains && m.checks() && (buffer || keeps(m, k)); });
    };
  }

 private:
  [[nodiscard]] static bool keeps(const StepMethod<P>& method, std::size_t tensor) {
    return method.facts.offsets[tensor] != Slots<float>::absent;
  }
  template <class Test>
  [[nodiscard]] bool any_of(Test test) const {
    return std::any_of(methods_.begin(), methods_.end(), test);
  }

  POLYAK_COLD bool advance_checked(Chosen all) {
    const Chosen training = all_of([](const auto& m) { return m.table->trains; });
    const Chosen errors = those_that(Nonfinite::error, true) | those_that(Nonfinite::error, false);
    const Chosen skips = those_that(Nonfinite::skip_step, true);
    if (training != 0 && (errors | skips) != 0 &&
        !Sweep<P>::gradients_within(params_, gradients_, reading_of(list_), largest_gradients())) {
      if (errors != 0) {
        refuse_nonfinite(
            "polyak: a gradient holds a NaN or an infinity, or a number so large that a moment "
            "could overflow; nothing was changed");
      }
      skip(skips | those_that(Nonfinite::skip_step, false));
      return false;
    }
    const Chosen checked = all_of([](const auto& m) { return !m.table->trains && m.checks(); });
    const Chosen refusing = those_that(Nonfinite::error, false);
    Chosen later = waiting(all), now = all & ~later, skipped = 0;
    if (checked != 0 && !Sweep<P>::weights_finite(params_, averaged())) {
      if (refusing != 0) {
        refuse_nonfinite(
            "polyak: a weight or buffer holds a NaN or an infinity; nothing was changed");
      }
      skipped = checked & now;
    }
    // A method may refuse the step in prepare(). All methods prepare before anything changes,
    // except those that need the weights that others write.
    const Chosen reading = later & all_of([](const auto& m) { return m.facts.reads_weights; });
    prepare(all & ~reading & ~skipped);
    skip(skipped);
    advance_prepared(now & ~skipped);
    bool complete = skipped == 0;
    while (later != 0) {
      const Chosen rest = waiting(later);
      now = later & ~rest;
      later = rest;
      skipped = 0;
      if ((checked & now) != 0 && !Sweep<P>::weights_finite(params_, averaged())) {
        if ((refusing & now) != 0) {
          refuse_nonfinite(
              "polyak: the optimizer's update made a weight NaN or infinite; the update stands, "
              "the averages that check for it were not updated");
        }
        skipped = checked & now;
      }
      prepare(reading & now & ~skipped);
      skip(skipped);
      advance_prepared(now & ~skipped);
      complete = complete && skipped == 0;
    }
    if (training != 0 && (those_that(Nonfinite::error, true) | skips) != 0 &&
        !Sweep<P>::weights_finite(params_, trained())) {
      if (those_that(Nonfinite::error, true) != 0) {
        refuse_nonfinite(
            "polyak: after the optimizer's update a weight is NaN or infinite; the update stands");
      }
      return false;
    }
    return complete;
  }

 protected:
  const ExecutorRef& executor_;
  const Parameters<P>& params_;
  const Gradients<P>* list_;  ///< the gradients; null in an update
  const element_t<P>* const* gradients_;
  std::span<StepMethod<P>> methods_;
  StepParts<P> parts_;
  bool watches_ = false;  ///< a method checks for NaN or reads the weights ahead of the pass
};

template <class P>
bool StepDriver<P>::check_and_advance() {
  check();
  return advance_all();
}

template <class P>
void StepDriver<P>::check() {
  std::size_t optimizers = 0;
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    StepMethod<P>& method = methods_[i];
    method.table->facts(method.object, method.facts);
    if (params_.layout() != *method.facts.layout) [[unlikely]] {
      require_same(params_.layout(), *method.facts.layout,
                   "the parameters and those of the method");
    }
    if (method.facts.lent) [[unlikely]] {
      refuse_order("polyak: step or update of a method whose average is swapped in");
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (methods_[j].object != method.object) continue;
      refuse_value("polyak: the same method is given twice to one step or update");
    }
    optimizers += method.table->trains ? 1 : 0;
    watches_ = watches_ || method.facts.reads_weights || method.checks();
  }
  if (optimizers > 1) check_owners<P>(*params_.layout(), methods_);
}

template <class P>
void StepDriver<P>::advance_prepared(Chosen chosen) {
  Chosen usual = 0;
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const StepMethod<P>& m = methods_[i];
    auto& single = parts_.singles[i];
    single.takes_part = false;
    if ((chosen >> i & 1) == 0) continue;
    single.needs_gradient = m.table->trains;
    single.offsets = m.facts.offsets;
    if (m.table->start(m.object, params_, gradients_, parts_.bound[i], single)) {
      usual |= Chosen{1} << i;
    }
  }
  run_laws(executor_, params_, gradients_, reading_of(list_), parts_, methods_.size(), usual);
  each(chosen, [&](const auto& m) {
    if (m.table->finish != nullptr) m.table->finish(m.object, executor_, params_);
  });
}

template <class P>
void run_laws(const ExecutorRef& executor, const Parameters<P>& params,
              const element_t<P>* const* gradients, const GradientReading& reading,
              const StepParts<P>& parts, std::size_t count, std::uint64_t usual) {
  const void** laws = parts.usual;
  for (auto& shared : parts.shared) {
    shared.usable = (shared.methods & ~usual) == 0;
    shared.loop.bound = laws;
    if (!shared.usable) continue;
    for (auto rest = shared.methods; rest != 0; rest &= rest - 1) {
      *laws++ = parts.singles[std::countr_zero(rest)].loop.bound;
    }
  }
  Sweep<P>::over(executor, params, gradients, reading,
                 {parts.singles, count, parts.shared.data(), parts.shared.size()});
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
