// SPDX-License-Identifier: Apache-2.0
/// @file
/// One average for every weighting: avg <- avg + c_t (x_t - avg).
#pragma once

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
#include <vector>

#include <polyak/average/swap.hpp>
#include <polyak/average/weighting.hpp>
#include <polyak/core/arena.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/memory_space.hpp>
#include <polyak/core/parameters.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/run.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/storage.hpp>

namespace polyak {
inline namespace v0 {

/// avg + c (x - avg), for 0 < c < 1.
template <class T>
struct AverageLaw {
  static constexpr Traffic traffic{.slots = 1};
  T gain;
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = fma(V(gain), x - average, average);
  }
};

/// c = 1: a copy, so that a NaN in the old average disappears and every bit of x arrives.
template <class T>
struct CopyLaw {
  static constexpr Traffic traffic{.slots = 1};
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = x;
  }
};

/// Both in one, for the ways of keeping an average that are used more seldom.
template <class T>
struct AverageOrCopyLaw {
  static constexpr Traffic traffic{.slots = 1};
  T gain;
  T complement;  ///< 1 - c, of which only counts whether it is 0
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average) const {
    average = if_zero(V(complement), x, fma(V(gain), x - average, average));
  }
};

/// x = avg, rounded to the parameters' type.
template <class T>
struct ReadLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true, .writes_slots = false};
  template <class V, class Slot>
  POLYAK_LAW void operator()(V& x, const Slot& average) const {
    x = average;
  }
};

/// How an average is kept.
struct Accumulation {
  Accumulate accumulate = Accumulate::plain;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic; another one for another average
};

/// Largest distance, relative to a weight, at which an average of gain c stays although its input
/// is constant: half an ulp of S over c, of a sum of two S with Accumulate::kahan. (Halves have
/// subnormals from 6e-5 on, below which the distance is larger.)
template <StateScalar S>
[[nodiscard]] double dead_zone(double gain, Accumulate accumulate = Accumulate::plain) {
  constexpr bool single = std::same_as<S, float>;
  constexpr int digits = single                            ? 24
                         : std::same_as<S, double>         ? 53
                         : std::same_as<S, Eigen::half>    ? 11
                                                           : 8;
  const bool pair = accumulate == Accumulate::kahan;
  const int kept = accumulate == Accumulate::float64 ? 53 : pair ? 2 * digits + 1 : digits;
  return std::ldexp(1.0, -kept) / gain;
}

namespace detail {
/// The smallest gain of a weighting: 0 unless it says otherwise.
template <class W>
[[nodiscard]] double least_gain(const W& weighting) {
  if constexpr (requires { weighting.least_gain(); }) {
    return weighting.least_gain();
  } else {
    return 0;
  }
}

/// Refuses what the type cannot do, and 16-bit averages that would hardly move.
template <StateScalar S, class W>
void validate(const Accumulation& o, const W& weighting) {
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
      return;
    case Accumulate::float64:
      if (!std::same_as<S, float>) refuse("accumulate = float64 is for averages of float");
      return;
  }
  if constexpr (sixteen) {
    const double zone = dead_zone<S>(least_gain(weighting), o.accumulate);
    require(zone <= 0.01,
            "an average of " + std::string(name_of(dtype_of<S>())) +
                (o.accumulate == Accumulate::plain
                     ? " with accumulate = plain must rest within 0.01 of a constant weight "
                       "(relative), use stochastic or kahan or an average of float; the distance"
                     : " with accumulate = kahan must rest within 0.01 of a constant weight "
                       "(relative), use stochastic or an average of float; the distance"),
            zone);
  }
}
}  // namespace detail

/// The average of a model's weights under any Weighting W, kept in type S.
///
/// State: one slot "average" of the parameters' layout (and "compensation" with Accumulate::kahan),
/// and the newest value of each buffer (Role::copy). The weighting is asked once per call, in
/// double. A plain float average moves as long as c |x - avg| exceeds half an ulp of avg: for a
/// constant gain c it comes to rest within 2^-24 / c (relative) of a constant x; where that
/// matters, accumulate with kahan or in float64, or keep it in double (`Ema<float, double>`, which
/// is also fused with other methods).
template <ParameterScalar P, Weighting W, StateScalar S = default_state_t<P>>
class Average {
  static_assert(std::same_as<S, double> || !std::same_as<element_t<P>, double>,
                "polyak: double parameters need double state");

 public:
  using Parameter = P;
  using State = S;
  static constexpr bool trains = false;
  static constexpr std::string_view type_name = "Average";

  /// The average begins as a copy of the parameters; whether that copy has any weight is the
  /// weighting's affair. Throws std::logic_error while an average is swapped in,
  /// std::invalid_argument for an accumulation that S cannot have, or with which a 16-bit average
  /// would rest further than 1 % from a constant weight.
  Average(const Parameters<P>& params, W weighting, Nonfinite nonfinite = Nonfinite::propagate,
          Accumulation accumulation = {})
      : slots_(params.layout(), detail::dtype_of<P>(), Kept::averaged,
               slot_names(accumulation, weighting)),
        buffers_(std::make_shared<detail::Block>(detail::buffer_bytes(*params.layout()),
                                                 params.layout()->space)),
        weighting_(std::move(weighting)),
        nonfinite_(detail::checked(nonfinite)),
        accumulation_(accumulation) {
    if (params.swapped())
      detail::refuse_order("polyak: an average begun while another is swapped in");
    if (accumulation.accumulate == Accumulate::float64) {
      wide_.emplace(params.layout(), detail::dtype_of<P>(), Kept::averaged,
                    std::vector<std::string>{"average"});
    }
    walk_all<CopyLaw>(params);
    copy_buffers(params);
  }

  Average(const Average& other)
      : slots_(other.slots_),
        wide_(other.wide_),
        buffers_(std::make_shared<detail::Block>(*other.buffers_)),
        weighting_(other.weighting_),
        nonfinite_(other.nonfinite_),
        accumulation_(other.accumulation_),
        calls_(other.calls_),
        updates_(other.updates_),
        skipped_(other.skipped_),
        gain_(other.gain_) {}
  Average(Average&&) noexcept = default;
  Average& operator=(const Average& other) { return *this = Average(other); }
  Average& operator=(Average&&) noexcept = default;
  ~Average() = default;

  /// One call: avg <- avg + c (x - avg). Returns false where Nonfinite::skip_step skipped it.
  /// Throws as polyak::update.
  bool update(const Parameters<P>& params) { return polyak::update(params, *this); }

  /// The same, where the caller keeps the clock: `step` must be calls() + 1. Throws
  /// std::logic_error for a step that was counted already, or left out.
  bool update(const Parameters<P>& params, std::int64_t step) {
    require_next(step);
    return update(params);
  }

  /// Calls so far, and how many of them changed the average.
  [[nodiscard]] std::int64_t calls() const { return calls_; }
  [[nodiscard]] std::int64_t count() const { return updates_; }
  /// Calls that Nonfinite::skip_step left out; they are not in calls().
  [[nodiscard]] std::int64_t skipped() const { return skipped_; }
  /// Whether there is an average to hand out: after the first update, or, where the parameters at
  /// construction have a weight, after the first call.
  [[nodiscard]] bool ready() const {
    if constexpr (requires { weighting_.weighs_initial(); }) {
      if (weighting_.weighs_initial() && calls_ > 0) return true;
    }
    return updates_ > 0;
  }
  /// The gain c of the last call, as it was applied.
  [[nodiscard]] double gain() const { return gain_; }
  [[nodiscard]] Accumulate accumulate() const { return accumulation_.accumulate; }
  [[nodiscard]] const W& weighting() const { return weighting_; }

  /// Reads the average in place, rounded to S where it is kept more precisely. Throws std::logic_error before the first update, and while a guard
  /// has exchanged it for the weights.
  [[nodiscard]] SlotView<S> view() const {
    require_ready();
    require_home();
    if constexpr (may_be_wide) {
      if (wide_) return {slots_, 0, &*wide_};
    }
    return {slots_, 0};
  }

  /// Writes the average into `target`, a list of the same layout; buffers (Role::copy) too. Throws
  /// std::logic_error before the first update.
  void copy_to(const Parameters<P>& target) const {
    require_ready();
    check_target(target);
    write_to(target);
  }

  /// The same, but leaves `target` as it is before the first update.
  void copy_to(const Parameters<P>& target, OrCurrent) const {
    if (ready()) copy_to(target);
  }

  /// Puts the average into the model until the guard ends; then the model has its own weights
  /// again, bit for bit. Costs no memory where weights and average have one type. Throws
  /// std::logic_error before the first update or while something is swapped in already.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params) {
    require_ready();
    require_home();
    detail::require_same(params.layout(), slots_.layout(),
                         "the parameters and those of the average");
    if constexpr (std::same_as<element_t<P>, S>) {
      if (!wide_) return SwapGuard::exchange(params, slots_.block(), buffers_, pieces(params));
    }
    auto guard = SwapGuard::keep(params, pieces(params));
    write_to(params);
    return guard;
  }

  /// The same, but keeps the current weights before the first update.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, OrCurrent) {
    return ready() ? swap_into(params) : SwapGuard::keep(params, {});
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
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    ++calls_;
    const double gain = weighting_.gain(calls_);
    gain_ = wide_ ? gain : static_cast<double>(static_cast<T>(gain));
    if constexpr (requires { weighting_.advance(calls_); }) weighting_.advance(calls_);
    if (gain_ != 0) ++updates_;
  }
  static constexpr std::size_t other_storages = std::same_as<S, double> ? 0 : 2;
  static constexpr std::size_t forms = 2 + other_storages;
  [[nodiscard]] int form() const {
    if (gain_ == 0) return resting;
    return storage() > 0 ? 1 + storage() : gain_ == 1 ? 1 : 0;
  }
  [[nodiscard]] bool same_law(std::size_t, std::size_t) const { return true; }
  template <int K>
  [[nodiscard]] auto run(std::size_t) const {
    return run_in<(K < 2 ? 0 : K - 1)>([&]<class C>(C) {
      const auto gain = static_cast<C>(gain_);
      if constexpr (K == 0) {
        return AverageLaw<C>{gain};
      } else if constexpr (K == 1) {
        return CopyLaw<C>{};
      } else {
        return AverageOrCopyLaw<C>{gain, 1 - gain};
      }
    });
  }
  void finish(const Parameters<P>& params) {
    if (gain_ != 0) copy_buffers(params);
  }
  void skip() { ++skipped_; }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Visitor>
  void state(Visitor&& visit) {
    if constexpr (requires { weighting_.options(visit); }) weighting_.options(visit);
    visit.option("accumulate", accumulation_.accumulate);
    visit.option("seed", accumulation_.seed);
    visit.option("nonfinite", nonfinite_);
    visit.scalar("calls", calls_);
    visit.scalar("updates", updates_);
    visit.scalar("skipped", skipped_);
    visit.scalar("gain", gain_);
    if constexpr (requires { weighting_.state(visit); }) weighting_.state(visit);
    visit.buffers(*slots_.layout(), buffers_->data());
    if (wide_) {
      visit.slots(*wide_);
    } else {
      visit.slots(slots_);
    }
  }

 protected:
  /// The type that the law computes in, unless the average is kept in double.
  using T = detail::carrier_t<S>;
  static constexpr bool may_be_wide = std::same_as<S, float>;

  /// The way the values are kept, as a number: plain, kahan, and the third that S may have.
  [[nodiscard]] int storage() const {
    return accumulation_.accumulate == Accumulate::plain   ? 0
           : accumulation_.accumulate == Accumulate::kahan ? 1
                                                           : 2;
  }
  /// The law `make(C())`, for the type C that it computes in, on the slots of a storage.
  template <int Storage, class Make>
  [[nodiscard]] auto run_in(Make make) const {
    if constexpr (Storage == 0) {
      return detail::make_run(make(T()), slots_);
    } else if constexpr (Storage == 1) {
      return detail::make_run<detail::Kahan>(make(T()), slots_);
    } else if constexpr (may_be_wide) {
      return detail::make_run(make(double()), *wide_);
    } else {
      return detail::make_run<detail::Stochastic>(
          make(T()), slots_,
          {accumulation_.seed, static_cast<std::uint64_t>(calls_), 0});
    }
  }
  /// One law without scalars over all weights, in the calling thread.
  template <template <class> class Law>
  void walk_all(const Parameters<P>& params) const {
    const auto walk = [&]<int Storage>(std::integral_constant<int, Storage>) {
      detail::Walker<P>::kept(params, run_in<Storage>([]<class C>(C) { return Law<C>{}; }));
    };
    if constexpr (std::same_as<S, double>) {
      walk(std::integral_constant<int, 0>());
    } else {
      storage() == 0   ? walk(std::integral_constant<int, 0>())
      : storage() == 1 ? walk(std::integral_constant<int, 1>())
                       : walk(std::integral_constant<int, 2>());
    }
  }
  [[nodiscard]] W& mutable_weighting() { return weighting_; }
  void require_next(std::int64_t step) const {
    if (step != calls_ + 1) {
      detail::refuse_order("polyak: update of step " + detail::text(step) + ", expected step " +
                           detail::text(calls_ + 1));
    }
  }

 private:
  static std::vector<std::string> slot_names(const Accumulation& accumulation,
                                             const W& weighting) {
    if constexpr (requires { validate(weighting); }) validate(weighting);
    detail::validate<S>(accumulation, weighting);
    if (accumulation.accumulate == Accumulate::float64) return {};
    if (accumulation.accumulate == Accumulate::kahan) return {"average", "compensation"};
    return {"average"};
  }
  static bool is_buffer(const TensorInfo& tensor) { return tensor.role == Role::copy; }

  void copy_buffers(const Parameters<P>& params) {
    if (buffers_->bytes() == 0) return;
    std::byte* place = buffers_->data();
    copies_.clear();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!is_buffer(params[k].info())) continue;
      copies_.push_back({place, params[k].raw(), params[k].bytes()});
      place += params[k].bytes();
    }
    detail::Walker<P>::copy(params, copies_);
  }

  void require_ready() const {
    if (!ready()) {
      detail::refuse_order(
          "polyak: the average was never updated; ask for the current weights with "
          "or_current if that is meant");
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

  void write_to(const Parameters<P>& target) const {
    walk_all<ReadLaw>(target);
    const std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < target.size(); ++k) {
      if (!is_buffer(target[k].info()) || target[k].bytes() == 0) continue;
      detail::copy_bytes(slots_.space(), target[k].raw(), place, target[k].bytes());
      place += target[k].bytes();
    }
  }

  /// What the guard exchanges or keeps: averaged tensors and buffers.
  [[nodiscard]] std::vector<SwapGuard::Piece> pieces(const Parameters<P>& params) const {
    std::vector<SwapGuard::Piece> list;
    std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (slots_.keeps(k)) {
        void* const average = wide_ ? nullptr : slots_.address(0, k);
        list.push_back({params[k].raw(), average, params[k].bytes()});
      }
      if (!is_buffer(params[k].info())) continue;
      list.push_back({params[k].raw(), place, params[k].bytes()});
      place += params[k].bytes();
    }
    return list;
  }

  Slots<S> slots_;                      // without memory where the average is wide
  std::optional<Slots<double>> wide_;  // of Accumulate::float64
  std::shared_ptr<detail::Block> buffers_;
  W weighting_;
  Nonfinite nonfinite_;
  Accumulation accumulation_;
  std::int64_t calls_ = 0;
  std::int64_t updates_ = 0;
  std::int64_t skipped_ = 0;
  double gain_ = 0;  // as applied: rounded to the type of the law
  std::vector<detail::CopyPiece> copies_;  // of the buffers; kept for its memory
};

}  // namespace v0
}  // namespace polyak
