// SPDX-License-Identifier: Apache-2.0
/// @file
/// AverageMemory: the memory of averages, the ways of storing them, guards and copies. Knows
/// nothing of the method, so that it is compiled once for all of them.
///
/// One or more averages of the parameters' layout in one block of slots, the newest values of the
/// buffers (Role::copy), the count of calls. How an average moves is the affair of what is derived
/// from this: Average, EmaBank, RingOfBlocks.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/average/engine/swap.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/selection_checks.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace v0 {

/// c = 1: a copy, so that a NaN in the old average disappears and every bit of x arrives.
template <class T>
struct CopyLaw {
  static constexpr LawSlots slots = LawSlots::averaging("average");
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = x;
  }
};

/// x = avg, rounded to the parameters' type.
template <class T>
struct ReadLaw {
  static constexpr LawSlots slots = LawSlots::reading("average");
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, const Slot& average) const {
    x = average;
  }
};

/// How an average is kept.
struct Accumulation {
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic; another one for another average
  Selection tensors = {};  ///< that are averaged; buffers (Role::copy) are copied all the same
};

/// Largest distance, relative to a weight, at which an average of gain c stays although its input
/// is constant: half an ulp of S over c, of a sum of two S with Accumulate::kahan. Of averages that
/// round at random half an ulp of float, which their sums are formed in. (Halves have subnormals
/// from 6e-5 on, below which the distance is larger.)
template <StateScalar S>
[[nodiscard]] double dead_zone(double gain, Accumulate accumulate = Accumulate::plain) {
  constexpr bool single = std::same_as<S, float>;
  constexpr int digits = single                         ? 24
                         : std::same_as<S, double>      ? 53
                         : std::same_as<S, Eigen::half> ? 11
                                                        : 8;
  const int kept = accumulate == Accumulate::float64      ? 53
                   : accumulate == Accumulate::kahan      ? 2 * digits + 1
                   : accumulate == Accumulate::stochastic ? 24
                                                          : digits;
  return std::ldexp(1.0, -kept) / gain;
}

namespace detail {
/// Refuses what the type cannot do, and 16-bit averages that would hardly move at the least gain.
template <StateScalar S>
void validate(const Accumulation& o, double least) {
  constexpr bool sixteen = scalar_bytes<S> == 2;
  const auto refuse = [&](const char* rule) {
    refuse_value(std::string("polyak: ") + rule + "; the average is of " +
                 std::string(name_of(dtype_of<S>())));
  };
  switch (o.accumulate) {
    case Accumulate::plain:
      break;
    case Accumulate::kahan:
      if (std::same_as<S, double>) refuse("accumulate = kahan is for averages of 16 or 32 bits");
#if defined(__FAST_MATH__)
      refuse("accumulate = kahan is removed by -ffast-math");
#endif
      break;
    case Accumulate::stochastic:
      if (!sixteen) refuse("accumulate = stochastic is for averages of 16 bits");
      if (least == 0) return;  // it moves for more than 10^5 calls
      break;
    case Accumulate::float64:
      if (!std::same_as<S, float>) refuse("accumulate = float64 is for averages of float");
      return;
  }
  if constexpr (sixteen) {
    const double zone = dead_zone<S>(least, o.accumulate);
    require(zone <= 0.01,
            "an average of " + std::string(name_of(dtype_of<S>())) +
                " with accumulate = " + std::string(name_of(o.accumulate)) +
                " must rest within 0.01 of a constant weight (relative), use " +
                (o.accumulate == Accumulate::plain   ? "stochastic or kahan or an average of float"
                 : o.accumulate == Accumulate::kahan ? "stochastic or an average of float"
                                                     : "an average of float with kahan") +
                "; the distance",
            zone);
  }
}

/// The ways of storing averages of S, as bound laws.
template <class S, class T, class Make>
struct StoredLaws {
  template <class C>
  using Law = decltype(std::declval<Make>()(C()));
  using Third = std::conditional_t<std::same_as<S, float>, BoundLaw<Law<double>, double>,
                                   BoundLaw<Law<T>, S, Stochastic>>;
  using type = std::variant<BoundLaw<Law<T>, S>, BoundLaw<Law<T>, S, Kahan>, Third>;
};
template <class T, class Make>
struct StoredLaws<double, T, Make> {
  using type = std::variant<BoundLaw<decltype(std::declval<Make>()(double())), double>>;
};

/// A variant as one that has its alternatives and more.
template <class To, class... From>
[[nodiscard]] To widen_variant(const std::variant<From...>& from) {
  return std::visit([](const auto& one) { return To(one); }, from);
}
/// The alternatives of several variants.
template <class... Variants>
struct JoinedVariants;
template <class Variant>
struct JoinedVariants<Variant> {
  using type = Variant;
};
template <class... A, class... B, class... Rest>
struct JoinedVariants<std::variant<A...>, std::variant<B...>, Rest...>
    : JoinedVariants<std::variant<A..., B...>, Rest...> {};
template <class... Variants>
using joined_t = typename JoinedVariants<Variants...>::type;

}  // namespace detail

/// The memory of one or more averages of a list, and the ways of storing them, for any method.
template <ParameterScalar P, StateScalar S>
class AverageMemory : public MethodHooks<P> {
  static_assert(std::same_as<S, double> || !std::same_as<element_t<P>, double>,
                "polyak: double parameters need double state");

 public:
  using State = S;
  static constexpr bool trains = false;

  [[nodiscard]] std::int64_t calls() const { return calls_; }
  /// Calls that Nonfinite::skip_step left out; they are not in calls().
  [[nodiscard]] std::int64_t skipped() const { return skipped_; }
  [[nodiscard]] Accumulate accumulate() const { return accumulation_.accumulate; }

  /// Goes on with a list that has all the tensors of before and more: a model that grew. What it
  /// knows of the old ones stays; a new tensor enters by copy, as if it had always been what it is
  /// now. Throws std::invalid_argument, with the differences, where one of before is missing or
  /// another, std::logic_error while something is swapped in; nothing has changed then.
  void grow(const Parameters<P>& params) {
    require_home();
    if (params.swapped()) detail::refuse_order("polyak: grow() while an average is swapped in");
    if (slots_.space() != nullptr) slots_.space()->require_settled(slots_.block().get());
    const Layout& before = *slots_.layout();
    const Layout& now = *params.layout();
    Layout common;
    for (const TensorInfo& tensor : now.tensors) {
      if (before.find(tensor.name) != before.tensors.size()) common.add(tensor);
    }
    const std::string list = detail::differences(common, before);
    if (!list.empty() || now.space != before.space) {
      detail::refuse_value("polyak: the parameters of a grown model differ from those before: " +
                           (list.empty() ? "they are of other memory" : list));
    }
    AverageMemory grown(params, owner_, nonfinite_, accumulation_, 1, names_);
    for (std::size_t k = 0; k < before.tensors.size(); ++k) {
      const std::size_t place = now.find(before.tensors[k].name);
      copy_tensor(slots_, k, grown.slots_, place);
      if (wide_) copy_tensor(*wide_, k, *grown.wide_, place);
    }
    std::byte* to = grown.buffers_->data();
    for (const TensorInfo& tensor : now.tensors) {
      if (!is_buffer(tensor)) continue;
      const std::byte* from = buffers_->data();
      for (const TensorInfo& old : before.tensors) {
        if (!is_buffer(old)) continue;
        const std::size_t bytes = old.size * detail::bytes_of(old.dtype);
        if (old.name == tensor.name) detail::copy_bytes(slots_.space(), to, from, bytes);
        from += bytes;
      }
      to += tensor.size * detail::bytes_of(tensor.dtype);
    }
    slots_ = std::move(grown.slots_);
    wide_ = std::move(grown.wide_);
    buffers_ = std::move(grown.buffers_);
  }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report = wide_ ? wide_->memory_report() : slots_.memory_report();
    report.total += buffers_->allocated();
    return report;
  }

  // What step() and update() call.
  [[nodiscard]] const Slots<S>& slots() const { return slots_; }
  /// The copies of tensors with Role::copy, one after another.
  [[nodiscard]] const std::byte* buffers() const { return buffers_->data(); }
  [[nodiscard]] Nonfinite nonfinite() const { return nonfinite_; }
  void skip() { ++skipped_; }

 protected:
  /// The type that laws compute in, unless the averages are kept in double.
  using T = detail::carrier_t<S>;
  static constexpr bool may_be_wide = std::same_as<S, float>;
  /// The bound laws `make(C())`, C the type that a law computes in, for each way of storing values.
  template <class Make>
  using Stored = typename detail::StoredLaws<S, T, Make>::type;

  /// The averages of those names, each a copy of the parameters. `least_gain`: the smallest that
  /// moves them.
  AverageMemory(const Parameters<P>& params, std::string_view owner, Nonfinite nonfinite,
                const Accumulation& accumulation, double least_gain,
                const std::vector<std::string>& names)
      : owner_(owner),
        slots_(slots_for<S>(params.layout(), accumulation.tensors,
                            slot_names(accumulation, least_gain, names))),
        buffers_(std::make_shared<detail::Block>(detail::buffer_bytes(*params.layout()),
                                                 params.layout()->space)),
        names_(names),
        nonfinite_(detail::checked(nonfinite)),
        accumulation_(accumulation) {
    if (params.swapped()) {
      detail::refuse_order("polyak: an average begun while another is swapped in");
    }
    if (accumulation.accumulate == Accumulate::float64) {
      wide_.emplace(slots_for<double>(params.layout(), accumulation.tensors, names));
    }
    for (std::size_t k = 0; k < names.size(); ++k) sweep_all<CopyLaw>(params, k);
    copy_buffers(params);
  }

  AverageMemory(const AverageMemory& other)
      : owner_(other.owner_),
        slots_(other.slots_),
        wide_(other.wide_),
        buffers_(std::make_shared<detail::Block>(*other.buffers_)),
        names_(other.names_),
        nonfinite_(other.nonfinite_),
        accumulation_(other.accumulation_),
        calls_(other.calls_),
        skipped_(other.skipped_) {}
  AverageMemory(AverageMemory&&) noexcept = default;
  AverageMemory& operator=(const AverageMemory& other) { return *this = AverageMemory(other); }
  AverageMemory& operator=(AverageMemory&&) noexcept = default;
  ~AverageMemory() = default;

  // ---- one of several averages

  [[nodiscard]] SlotView<S> view_of_unready(std::size_t which) const {
    require_home();
    if constexpr (may_be_wide) {
      if (wide_) return {slots_, which, &*wide_};
    }
    return {slots_, which * arrays()};
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
        return SwapGuard::exchange(params, slots_.block(), buffers_, pieces(params, which));
      }
    }
    auto guard = SwapGuard::keep(params, pieces(params, which));
    write_to(params, which);
    return guard;
  }

  // ---- laws on the averages, however they are kept

  /// The way the values are kept, as a number: plain, kahan, and the third that S may have.
  [[nodiscard]] int storage() const {
    return accumulation_.accumulate == Accumulate::plain   ? 0
           : accumulation_.accumulate == Accumulate::kahan ? 1
                                                           : 2;
  }
  /// Binds the law `make(C())` to some of the averages, as these are stored.
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
              make(T()), slots_, {accumulation_.seed, static_cast<std::uint64_t>(calls_), 0},
              values);
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
  /// Memory for one average that is stored as `Like`, a bound law, has it.
  template <class Like>
  [[nodiscard]] auto average_memory() const {
    std::vector<std::string> names{"average"};
    if constexpr (Like::Storage::arrays == 2) names.push_back("compensation");
    return slots_for<typename Like::State>(slots_.layout(), accumulation_.tensors, names);
  }
  /// One law without scalars over all weights and one average, in the calling thread.
  template <template <class> class Law>
  void sweep_all(const Parameters<P>& params, std::size_t which = 0) const {
    with_stored([]<class C>(C) { return Law<C>{}; },
                [&](const auto& bound) { detail::Sweep<P>::all(serial, params, bound); }, which);
  }
  /// A gain as it is applied: rounded to the type of the law.
  [[nodiscard]] double applied(double gain) const {
    return wide_ ? gain : static_cast<double>(static_cast<T>(gain));
  }

  // ---- the rest

  void copy_buffers(const Parameters<P>& params) {
    if (buffers_->bytes() == 0) return;
    std::byte* place = buffers_->data();
    copies_.clear();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!is_buffer(params[k].info())) continue;
      copies_.push_back({place, params[k].raw(), params[k].bytes()});
      place += params[k].bytes();
    }
    detail::Sweep<P>::copy(params, copies_);
  }
  std::int64_t next_call() { return ++calls_; }
  [[nodiscard]] std::uint64_t seed() const { return accumulation_.seed; }
  void require_next(std::int64_t step) const {
    if (step != calls_ + 1) {
      detail::refuse_order("polyak: update of step " + detail::text(step) + ", expected step " +
                           detail::text(calls_ + 1));
    }
  }
  void require_home() const {
    if (slots_.lent())
      detail::refuse_order("polyak: the average is swapped in; end its guard first");
  }
  void check_target(const Parameters<P>& target) const {
    require_home();
    detail::require_same(target.layout(), slots_.layout(),
                         "the target and the parameters of the average");
    if (target.swapped()) detail::refuse_order("polyak: copy_to while an average is swapped in");
  }
  void write_buffers(const Parameters<P>& target) const {
    const std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < target.size(); ++k) {
      if (!is_buffer(target[k].info()) || target[k].bytes() == 0) continue;
      detail::copy_bytes(slots_.space(), target[k].raw(), place, target[k].bytes());
      place += target[k].bytes();
    }
  }

  /// Parts of state(); see core/state.hpp.
  template <class Visitor>
  void common_options(Visitor&& visit) {
    visit.option("accumulate", accumulation_.accumulate);
    visit.option("seed", accumulation_.seed);
    visit.option("nonfinite", nonfinite_);
    if (accumulation_.tensors.is_everything()) return;
    const Layout& layout = *slots_.layout();
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      if (layout.tensors[k].role != Role::average) continue;
      visit.option("selected." + layout.tensors[k].name, slots_.keeps(k));
    }
  }
  template <class Visitor>
  void clocks(Visitor&& visit, std::int64_t& updates) {
    visit.scalar("calls", calls_);
    visit.scalar("updates", updates);
    visit.scalar("skipped", skipped_);
  }
  template <class Visitor>
  void memory(Visitor&& visit) {
    visit.buffers(*slots_.layout(), buffers_->data());
    if (wide_) {
      visit.slots(*wide_);
    } else {
      visit.slots(slots_);
    }
  }

 private:
  static std::vector<std::string> slot_names(const Accumulation& accumulation, double least_gain,
                                             const std::vector<std::string>& names) {
    detail::validate<S>(accumulation, least_gain);
    if (accumulation.accumulate == Accumulate::float64) return {};
    if (accumulation.accumulate != Accumulate::kahan) return names;
    std::vector<std::string> all;
    for (const std::string& name : names) {
      all.push_back(name);
      all.push_back(name == "average" ? "compensation" : name + ".compensation");
    }
    return all;
  }
  [[nodiscard]] std::size_t arrays() const {
    return accumulation_.accumulate == Accumulate::kahan ? 2 : 1;
  }
  static bool is_buffer(const TensorInfo& tensor) { return tensor.role == Role::copy; }
  /// Memory for the selected tensors. Throws std::invalid_argument where there is none.
  template <class X>
  [[nodiscard]] Slots<X> slots_for(const std::shared_ptr<const Layout>& layout,
                                   const Selection& selection,
                                   std::vector<std::string> names) const {
    std::vector<bool> taken = selected(selection, *layout);
    for (std::size_t k = 0; k < taken.size(); ++k) {
      taken[k] =
          taken[k] && detail::may_keep(layout->tensors[k], detail::dtype_of<P>(), Kept::averaged);
    }
    if (!selection.is_everything()) {
      detail::require_some(taken, selection, *layout, owner_);
    }
    return Slots<X>(layout, detail::dtype_of<P>(), Kept::averaged, std::move(names),
                    [&](std::size_t k) { return static_cast<bool>(taken[k]); });
  }
  template <class X>
  static void copy_tensor(const Slots<X>& from, std::size_t k, const Slots<X>& to,
                          std::size_t place) {
    for (std::size_t slot = 0; slot < from.count(); ++slot) {
      detail::copy_bytes(from.space(), to.address(slot, place), from.address(slot, k),
                         from.bytes(slot, k));
    }
  }

  void write_to(const Parameters<P>& target, std::size_t which) const {
    sweep_all<ReadLaw>(target, which);
    write_buffers(target);
  }

  /// What the guard exchanges or keeps: averaged tensors and buffers.
  [[nodiscard]] std::vector<SwapGuard::Piece> pieces(const Parameters<P>& params,
                                                     std::size_t which) const {
    std::vector<SwapGuard::Piece> list;
    std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (slots_.keeps(k)) {
        void* const average = wide_ ? nullptr : slots_.address(which * arrays(), k);
        list.push_back({params[k].raw(), average, params[k].bytes()});
      }
      if (!is_buffer(params[k].info())) continue;
      list.push_back({params[k].raw(), place, params[k].bytes()});
      place += params[k].bytes();
    }
    return list;
  }

  std::string_view owner_;             // the method's name
  Slots<S> slots_;                     // without memory where the averages are wide
  std::optional<Slots<double>> wide_;  // of Accumulate::float64
  std::shared_ptr<detail::Block> buffers_;
  std::vector<std::string> names_;  // of the averages
  Nonfinite nonfinite_;
  Accumulation accumulation_;
  std::int64_t calls_ = 0;
  std::int64_t skipped_ = 0;
  std::vector<detail::CopyPiece> copies_;  // of the buffers; kept for its memory
};

}  // namespace v0
}  // namespace polyak
