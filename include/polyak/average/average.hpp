// SPDX-License-Identifier: Apache-2.0
/// @file
/// One average for every weighting: avg <- avg + c_t (x_t - avg).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/average/swap.hpp>
#include <polyak/average/weighting.hpp>
#include <polyak/core/arena.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/parameters.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/step.hpp>

namespace polyak {
inline namespace v0 {

/// avg + c (x - avg), for 0 < c < 1.
template <class T>
struct AverageLaw {
  static constexpr Traffic traffic{.slots = 1};
  T gain;
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& average) const {
    average = fma(V(gain), x - average, average);
  }
};

/// c = 1: a copy, so that a NaN in the old average disappears and every bit of x arrives.
template <class T>
struct CopyLaw {
  static constexpr Traffic traffic{.slots = 1};
  template <class V>
  POLYAK_LAW void operator()(const V& x, V& average) const {
    average = x;
  }
};

/// x = avg, rounded to the parameters' type.
template <class T>
struct ReadLaw {
  static constexpr Traffic traffic{.slots = 1, .writes_parameter = true, .writes_slots = false};
  template <class V>
  POLYAK_LAW void operator()(V& x, const V& average) const {
    x = average;
  }
};

/// The average of a model's weights under any Weighting W, kept in type S.
///
/// State: one slot "average" of the parameters' layout, and the newest value of each buffer
/// (Role::copy). The weighting is asked once per call, in double. A float average moves as long as
/// c |x - avg| exceeds half an ulp of avg: for a constant gain c it comes to rest within 2^-24 / c
/// (relative) of a constant x; keep it in double (`Ema<float, double>`) where that matters.
template <ParameterScalar P, Weighting W, StateScalar S = default_state_t<P>>
class Average {
  static_assert(sizeof(S) >= detail::scalar_bytes<P>,
                "polyak: double parameters need double state");

 public:
  using Parameter = P;
  using State = S;
  using Laws = std::tuple<AverageLaw<S>, CopyLaw<S>>;
  static constexpr bool trains = false;

  /// The average begins as a copy of the parameters; whether that copy has any weight is the
  /// weighting's affair. Throws std::logic_error while an average is swapped in.
  Average(const Parameters<P>& params, W weighting, Nonfinite nonfinite = Nonfinite::propagate)
      : slots_(params.layout(), detail::dtype_of<P>(), Kept::averaged, {"average"}),
        buffers_(std::make_shared<detail::Block>(buffer_bytes(params))),
        weighting_(std::move(weighting)),
        nonfinite_(detail::checked(nonfinite)) {
    if (params.swapped())
      detail::refuse_order("polyak: an average begun while another is swapped in");
    detail::walk_kept<P>(ParameterAccess<P>::memory(params), slots_, CopyLaw<S>{});
    copy_buffers(params);
  }

  Average(const Average& other)
      : slots_(other.slots_),
        buffers_(std::make_shared<detail::Block>(*other.buffers_)),
        weighting_(other.weighting_),
        nonfinite_(other.nonfinite_),
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
  [[nodiscard]] double gain() const { return static_cast<double>(gain_); }
  [[nodiscard]] const W& weighting() const { return weighting_; }

  /// Reads the average in place. Throws std::logic_error before the first update, and while a guard
  /// has exchanged it for the weights.
  [[nodiscard]] SlotView<S> view() const {
    require_ready();
    require_home();
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
    if constexpr (std::same_as<P, S>) {
      return SwapGuard::exchange(params, slots_.block(), buffers_, pieces(params));
    } else {
      auto guard = SwapGuard::keep(params, pieces(params));
      write_to(params);
      return guard;
    }
  }

  /// The same, but keeps the current weights before the first update.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, OrCurrent) {
    return ready() ? swap_into(params) : SwapGuard::keep(params, {});
  }

  /// Bytes of state.
  [[nodiscard]] MemoryReport memory_report() const {
    MemoryReport report = slots_.memory_report();
    report.total += buffers_->allocated();
    return report;
  }

  // What step() and update() call.
  [[nodiscard]] const Slots<S>& slots() const { return slots_; }
  [[nodiscard]] Nonfinite nonfinite() const { return nonfinite_; }
  void advance(const Parameters<P>&, const P* const*) {
    ++calls_;
    gain_ = static_cast<S>(weighting_.gain(calls_));
    if constexpr (requires { weighting_.advance(calls_); }) weighting_.advance(calls_);
    if (gain_ != 0) ++updates_;
  }
  [[nodiscard]] int form() const { return gain_ == 0 ? resting : gain_ == 1 ? 1 : 0; }
  [[nodiscard]] bool same_law(std::size_t, std::size_t) const { return true; }
  template <int K>
  [[nodiscard]] auto law(std::size_t) const {
    if constexpr (K == 0) {
      return AverageLaw<S>{gain_};
    } else {
      return CopyLaw<S>{};
    }
  }
  void finish(const Parameters<P>& params) {
    if (gain_ != 0) copy_buffers(params);
  }
  void skip() { ++skipped_; }

  /// Lists every scalar and slot of the state once; see core/state.hpp.
  template <class Visitor>
  void state(Visitor&& visit) {
    visit.scalar("calls", calls_);
    visit.scalar("updates", updates_);
    visit.scalar("skipped", skipped_);
    visit.scalar("gain", gain_);
    if constexpr (requires { weighting_.state(visit); }) weighting_.state(visit);
    visit.bytes("buffers", buffers_->data(), buffers_->bytes());
    visit.slots(slots_);
  }

 protected:
  [[nodiscard]] W& mutable_weighting() { return weighting_; }
  void require_next(std::int64_t step) const {
    if (step != calls_ + 1) {
      detail::refuse_order("polyak: update of step " + detail::text(step) + ", expected step " +
                           detail::text(calls_ + 1));
    }
  }

 private:
  static bool is_buffer(const TensorInfo& tensor) { return tensor.role == Role::copy; }

  [[nodiscard]] static std::size_t buffer_bytes(const Parameters<P>& params) {
    std::size_t bytes = 0;
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (is_buffer(params[k].info())) bytes += params[k].bytes();
    }
    return bytes;
  }

  void copy_buffers(const Parameters<P>& params) {
    std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (!is_buffer(params[k].info()) || params[k].bytes() == 0) continue;
      std::memcpy(place, params[k].raw(), params[k].bytes());
      place += params[k].bytes();
    }
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
    detail::walk_kept<P>(ParameterAccess<P>::memory(target), slots_, ReadLaw<S>{});
    const std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < target.size(); ++k) {
      if (!is_buffer(target[k].info()) || target[k].bytes() == 0) continue;
      std::memcpy(target[k].raw(), place, target[k].bytes());
      place += target[k].bytes();
    }
  }

  /// What the guard exchanges or keeps: averaged tensors and buffers.
  [[nodiscard]] std::vector<SwapGuard::Piece> pieces(const Parameters<P>& params) const {
    std::vector<SwapGuard::Piece> list;
    std::byte* place = buffers_->data();
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (slots_.keeps(k))
        list.push_back({params[k].raw(), slots_.tensor(0, k).data(), params[k].bytes()});
      if (!is_buffer(params[k].info())) continue;
      list.push_back({params[k].raw(), place, params[k].bytes()});
      place += params[k].bytes();
    }
    return list;
  }

  Slots<S> slots_;
  std::shared_ptr<detail::Block> buffers_;
  W weighting_;
  Nonfinite nonfinite_;
  std::int64_t calls_ = 0;
  std::int64_t updates_ = 0;
  std::int64_t skipped_ = 0;
  S gain_ = 0;
};

}  // namespace v0
}  // namespace polyak
