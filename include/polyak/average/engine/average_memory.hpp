// SPDX-License-Identifier: Apache-2.0
/// @file
/// AverageMemory: the memory of averages, the ways of storing them, guards and copies. It does not
/// depend on the method, so it is compiled once for all methods.
///
/// One or more averages of the parameters' layout in one block of slots, the newest values of the
/// buffers (Role::copy), the count of calls. The derived classes define how an average moves:
/// Average, EmaBank, RingOfBlocks.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/average/engine/accumulation.hpp>
#include <polyak/average/engine/average_record.hpp>
#include <polyak/average/engine/stored_laws.hpp>
#include <polyak/average/engine/swap.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/list_change.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/selection_checks.hpp>
#include <polyak/core/tensors/slot_view.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The memory of one or more averages of a list, and the ways of storing them, for any method.
template <ParameterScalar P, StateScalar S>
class AverageMemory : public MethodHooks<P> {
  static_assert(std::same_as<S, double> || !std::same_as<element_t<P>, double>,
                "polyak: double parameters need double state");

 public:
  using State = S;
  static constexpr bool trains = false;

  [[nodiscard]] std::int64_t calls() const { return record_.calls; }
  /// Calls that Nonfinite::skip_step left out; they are not in calls().
  [[nodiscard]] std::int64_t skipped() const { return record_.skipped; }
  [[nodiscard]] Accumulate accumulate() const { return record_.accumulation.accumulate; }

  /// Continues with a larger model: a list that has all previous tensors, found by name, and new
  /// ones. The averages of previous tensors are kept; the average of a new tensor is a copy, as if
  /// the tensor had always had its current values. A selection is applied to the new tensors too.
  /// Throws std::invalid_argument, with the differences, if a previous tensor is missing or
  /// differs, std::logic_error while something is swapped in. If it throws, nothing has changed.
  void grow(const Parameters<P>& params) {
    follow(params, detail::ListChange::growth(ParameterAccess<P>::list(params), slots_));
  }
  /// Continues with a smaller model: a list of some of the previous tensors. The averages of the
  /// others are lost. Throws as grow(), for a tensor that is new or differs, and for a list without
  /// any selected tensor.
  void shrink(const Parameters<P>& params) {
    follow(params, detail::ListChange::shrinking(ParameterAccess<P>::list(params), slots_));
  }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report = wide_ ? wide_->memory_report() : slots_.memory_report();
    report.total += record_.buffers->allocated();
    return report;
  }

  // Called by step() and update().
  [[nodiscard]] const Slots<S>& slots() const { return slots_; }
  /// The copies of tensors with Role::copy, one after another.
  [[nodiscard]] const std::byte* buffers() const { return record_.buffers->data(); }
  [[nodiscard]] Nonfinite nonfinite() const { return record_.nonfinite; }
  void skip() { ++record_.skipped; }

 protected:
  /// The type that laws compute in, unless the averages are stored in double.
  using T = detail::carrier_t<S>;
  static constexpr bool may_be_wide = std::same_as<S, float>;
  /// A variant of the bound laws `make(C())` for each way of storing values; a law computes in C.
  template <class Make>
  using Stored = typename detail::StoredLaws<S, T, Make>::type;

  /// Averages with these names, each a copy of the parameters. `least_gain` is their smallest gain
  /// above 0.
  AverageMemory(const Parameters<P>& params, std::string_view owner, Nonfinite nonfinite,
                const Accumulation& accumulation, double least_gain,
                const std::vector<std::string>& names);
  AverageMemory(const AverageMemory&) = default;
  AverageMemory(AverageMemory&&) noexcept = default;
  AverageMemory& operator=(const AverageMemory&) = default;
  AverageMemory& operator=(AverageMemory&&) noexcept = default;
  ~AverageMemory() = default;

  // ---- one of several averages

  [[nodiscard]] SlotView<S> view_of_unready(std::size_t which) const {
    require_home();
    if constexpr (may_be_wide) {
      if (wide_) return {slots_, which, &*wide_};
    }
    return {slots_, which * record_.arrays()};
  }
  void copy_of_unready(std::size_t which, const Parameters<P>& target) const {
    check_target(target);
    write_to(target, which);
  }
  [[nodiscard]] SwapGuard swap_of_unready(std::size_t which, const Parameters<P>& params) {
    require_home();
    detail::require_same(params.layout(), slots_.layout(),
                         "the parameters and those of the average");
    if constexpr (std::same_as<element_t<P>, S>) {
      if (!wide_) {
        return SwapGuard::exchange(ParameterAccess<P>::list(params), slots_.block(),
                                   record_.buffers, pieces(params, which));
      }
    }
    auto guard = SwapGuard::keep(ParameterAccess<P>::list(params), pieces(params, which));
    write_to(params, which);
    return guard;
  }

  // ---- laws on the averages, however they are stored

  /// How the values are stored, as a number: 0 plain, 1 kahan, 2 the third way that S supports.
  [[nodiscard]] int storage() const {
    return accumulate() == Accumulate::plain ? 0 : accumulate() == Accumulate::kahan ? 1 : 2;
  }
  /// Binds the law `make(C())` to some of the averages, for the way they are stored.
  template <class Make, class... Which>
  [[nodiscard]] Stored<Make> bind_stored(Make make, Which... which) const {
    const std::array<std::size_t, sizeof...(Which)> values{which...};
    if constexpr (!std::same_as<S, double>) {
      if (storage() == 1) return detail::bind_law<detail::Kahan>(make(T()), slots_, {}, values);
      if constexpr (may_be_wide) {
        if (storage() == 2) return detail::bind_law(make(double()), *wide_, {}, values);
      } else {
        if (storage() == 2) {
          return detail::bind_law<detail::Stochastic>(
              make(T()), slots_,
              {record_.accumulation.seed, static_cast<std::uint64_t>(record_.calls), 0}, values);
        }
      }
    }
    return detail::bind_law(make(T()), slots_, {}, values);
  }
  /// Binds a law to averages that are stored plainly.
  template <class Law, class... Which>
  [[nodiscard]] detail::BoundLaw<Law, S> bind_plain(const Law& law, Which... which) const {
    return detail::bind_law(law, slots_, {}, std::array<std::size_t, sizeof...(Which)>{which...});
  }
  /// Calls use(bound) with the law that bind_stored() gives.
  template <class Make, class Use, class... Which>
  void with_stored(Make make, Use use, Which... which) const {
    std::visit(use, bind_stored(make, which...));
  }
  /// Memory for one average, stored as in the bound law `Like`.
  template <class Like>
  [[nodiscard]] auto average_memory() const {
    std::vector<std::string> names{"average"};
    if constexpr (Like::Storage::arrays == 2) names.push_back("compensation");
    return Slots<typename Like::State>(slots_.layout(), detail::specs_of(names),
                                       record_.averaged());
  }
  /// Runs a law without scalars over all weights and one average, in the calling thread.
  template <template <class> class Law>
  void sweep_all(const Parameters<P>& params, std::size_t which = 0) const {
    with_stored([]<class C>(C) { return Law<C>{}; },
                [&](const auto& bound) { detail::Sweep<P>::all(serial, params, bound); }, which);
  }
  /// The gain, rounded to the type of the law.
  [[nodiscard]] double applied(double gain) const {
    return wide_ ? gain : static_cast<double>(static_cast<T>(gain));
  }

  // ---- the rest

  void copy_buffers(const Parameters<P>& params) {
    if (record_.buffers->bytes() == 0) return;
    const auto& copies = record_.copies_of(ParameterAccess<P>::list(params));
    if (!copies.empty()) detail::Sweep<P>::copy(params, copies);
  }
  /// Replaces options between calls. Throws std::invalid_argument as the constructor.
  void change_options(Nonfinite nonfinite, double least_gain) {
    static_cast<void>(detail::checked(nonfinite));
    detail::validate(record_.accumulation, detail::dtype_of<S>(), least_gain);
    record_.nonfinite = nonfinite;
  }
  std::int64_t next_call() { return ++record_.calls; }
  [[nodiscard]] std::uint64_t seed() const { return record_.accumulation.seed; }
  void require_next(std::int64_t step) const { detail::require_next_call(step, record_.calls); }
  void require_home() const { detail::require_home(slots_); }
  void check_target(const Parameters<P>& target) const {
    detail::require_target(ParameterAccess<P>::list(target), slots_);
  }
  void write_buffers(const Parameters<P>& target) const {
    record_.write_buffers(ParameterAccess<P>::list(target));
  }

  /// Makes the memory for another list. `adopt(slots)` is called when nothing else can fail, with
  /// the new slots, and makes what a derived class keeps for each tensor.
  void follow(const Parameters<P>& params, const detail::ListChange& change,
              const std::function<void(const Slots<S>&)>& adopt = nullptr);

  /// Parts of list_state(); see core/state.hpp.
  void list_options(OptionVisitor& visit) const { record_.list_options(*slots_.layout(), visit); }
  template <class Self, class Count>
  static void list_clocks(Self& self, StateVisitorOf<Self>& visit, Count& updates,
                          const NumberRange& calls = count_range,
                          const NumberRange& updates_range = count_range) {
    auto& own = detail::as_base<AverageMemory>(self);
    visit.scalar("calls", own.record_.calls, calls);
    visit.scalar("updates", updates, updates_range);
    visit.scalar("skipped", own.record_.skipped, count_range);
  }
  template <class Self>
  static void list_memory(Self& self, StateVisitorOf<Self>& visit) {
    auto& own = detail::as_base<AverageMemory>(self);
    visit.buffers(*own.slots_.layout(), own.record_.buffers->data());
    if (own.wide_) {
      visit.slots(*own.wide_);
    } else {
      visit.slots(own.slots_);
    }
  }

 private:
  void write_to(const Parameters<P>& target, std::size_t which) const;

  [[nodiscard]] std::vector<SwapGuard::Piece> pieces(const Parameters<P>& params,
                                                     std::size_t which) const {
    return record_.pieces(ParameterAccess<P>::list(params), slots_, which, wide_.has_value());
  }

  detail::AverageRecord record_;
  Slots<S> slots_;                     // without memory if the averages are wide
  std::optional<Slots<double>> wide_;  // of Accumulate::float64
};

// Outside the class, so that programs that link the library do not compile them.

template <ParameterScalar P, StateScalar S>
AverageMemory<P, S>::AverageMemory(const Parameters<P>& params, std::string_view owner,
                                   Nonfinite nonfinite, const Accumulation& accumulation,
                                   double least_gain, const std::vector<std::string>& names)
    : record_(owner, ParameterAccess<P>::list(params), detail::dtype_of<P>(), detail::dtype_of<S>(),
              detail::checked(nonfinite), detail::checked(accumulation), least_gain, names),
      slots_(params.layout(), record_.slots(), record_.averaged()) {
  if (accumulation.accumulate == Accumulate::float64) {
    wide_.emplace(params.layout(), record_.wide_slots(), record_.averaged());
  }
  for (std::size_t k = 0; k < names.size(); ++k) sweep_all<CopyLaw>(params, k);
  copy_buffers(params);
}

template <ParameterScalar P, StateScalar S>
void AverageMemory<P, S>::follow(const Parameters<P>& params, const detail::ListChange& change,
                                 const std::function<void(const Slots<S>&)>& adopt) {
  AverageMemory memory(params, record_.owner, record_.nonfinite, record_.accumulation, 1,
                       record_.names);
  change.carry(slots_, memory.slots_);
  if (wide_) change.carry(*wide_, *memory.wide_);
  memory.record_.carry_buffers(change, record_, *slots_.layout());
  memory.record_.calls = record_.calls;
  memory.record_.skipped = record_.skipped;
  if (adopt) adopt(memory.slots_);
  *this = std::move(memory);
}

template <ParameterScalar P, StateScalar S>
void AverageMemory<P, S>::write_to(const Parameters<P>& target, std::size_t which) const {
  sweep_all<ReadLaw>(target, which);
  write_buffers(target);
}

}  // namespace POLYAK_V0
}  // namespace polyak
