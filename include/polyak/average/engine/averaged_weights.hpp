// SPDX-License-Identifier: Apache-2.0
/// @file
/// AveragedWeights: the base of all averages.
///
/// One or more averages of the parameters' layout in one block of slots, the newest values of the
/// buffers (Role::copy), the count of calls. The derived classes define how an average moves:
/// AverageOf, EmaBank, RingOfBlocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <polyak/average/engine/average_memory.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// `Derived` is final, has ready() and the rest of a Method, and befriends this class.
template <class Derived, ParameterScalar P, StateScalar S>
class AveragedWeights : public AverageMemory<P, S> {
  using Memory = AverageMemory<P, S>;

 public:
  /// One call. Returns false where Nonfinite::skip_step skipped it. Throws as polyak::update.
  bool update(const Parameters<P>& params) { return polyak::update(params, derived()); }

  /// The same, for a caller with its own clock: `step` must be calls() + 1. Throws std::logic_error
  /// for a step that was counted already or that leaves one out.
  bool update(const Parameters<P>& params, std::int64_t step) {
    this->require_next(step);
    return update(params);
  }

  /// Reads the average in place, rounded to S if it is stored more precisely. Throws
  /// std::logic_error unless the average is readable.
  [[nodiscard]] SlotView<S> view() const { return view_of(0); }

  /// Writes the average into `target`, a list of the same layout; buffers (Role::copy) too. Tensors
  /// with Role::ignore or Role::frozen and those that are not selected stay as they are. Throws
  /// std::logic_error unless the average is readable.
  void copy_to(const Parameters<P>& target) const { copy_of(0, target); }

  /// The same, but leaves `target` as it is before the first update.
  void copy_to(const Parameters<P>& target, OrCurrent) const {
    if (derived().ready()) copy_to(target);
  }

  /// Puts the average into the model until the guard ends; then the model has its own weights
  /// again, bit for bit. Needs no memory if weights and average have the same type. Throws
  /// std::logic_error before the first update and while something is swapped in already.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params) { return swap_of(0, params); }

  /// The same, but keeps the current weights before the first update.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, OrCurrent) {
    return derived().ready() ? swap_into(params)
                             : SwapGuard::keep(ParameterAccess<P>::list(params), {});
  }

 protected:
  /// Averages with these names, each a copy of the parameters. `least_gain` is their smallest gain
  /// above 0.
  AveragedWeights(const Parameters<P>& params, Nonfinite nonfinite,
                  const Accumulation& accumulation, double least_gain,
                  const std::vector<std::string>& names = {"average"})
      : Memory(params, Derived::type_name, nonfinite, accumulation, least_gain, names) {
    static_assert(std::is_final_v<Derived>,
                  "polyak: an average must be a final class: of a class derived from it, update() "
                  "would run the average's hooks and not those of the derived class");
  }

  // ---- one of several averages

  [[nodiscard]] SlotView<S> view_of(std::size_t which) const {
    require_ready();
    return this->view_of_unready(which);
  }
  void copy_of(std::size_t which, const Parameters<P>& target) const {
    require_ready();
    this->copy_of_unready(which, target);
  }
  [[nodiscard]] SwapGuard swap_of(std::size_t which, const Parameters<P>& params) {
    require_ready();
    return this->swap_of_unready(which, params);
  }
  void require_ready() const {
    if (!derived().ready()) {
      detail::refuse_order(
          "polyak: the average was never updated; ask for the current weights with "
          "or_current if that is meant");
    }
  }

 private:
  [[nodiscard]] Derived& derived() { return static_cast<Derived&>(*this); }
  [[nodiscard]] const Derived& derived() const { return static_cast<const Derived&>(*this); }
};

}  // namespace POLYAK_V0
}  // namespace polyak
