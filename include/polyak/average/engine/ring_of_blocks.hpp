// SPDX-License-Identifier: Apache-2.0
/// @file
/// RingOfBlocks: the base of Lawa and WindowAverage, the mean of the newest blocks of a run.
///
///   each call:       block <- block + c_t (x - block)        c_t = 1 begins a block
///   block complete:  average <- mean of the n newest complete blocks
///
/// The blocks are a ring of slots in one block of memory: a new block overwrites the oldest, and
/// nothing is moved. The mean is recomputed from the ring, block by block, so it does not drift.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// average <- average + c_j (block_j - average) for N blocks, one after the other; c_j = 1 copies.
template <class T, std::size_t N>
struct FoldLaw {
  static constexpr LawSlots slots = LawSlots::averaging(N + 1).first_written();
  detail::Array<T, N> gains, complements;
  template <class V, class Slot, class... Block>
  POLYAK_LAW void operator()(const V&, Slot& average, Block&... blocks) const {
    const T *gain = gains.data(), *complement = complements.data();
    (one<V>(*gain++, *complement++, blocks, average), ...);
  }

 private:
  template <class V, class Slot>
  POLYAK_LAW static void one(T gain, T complement, const V& block, Slot& average) {
    average = if_zero(complement, block, interpolate(average, block, gain));
  }
};

/// Advances a full ring of iterates by one: average <- average + (x - oldest)/k, oldest <- x.
template <class T>
struct RunningMeanLaw {
  static constexpr LawSlots slots = LawSlots::averaging("average", "oldest");
  T gain;  ///< 1/k
  template <class V, class Slot>
  POLYAK_LAW void operator()(const V& x, Slot& average, Slot& oldest) const {
    average = fma(gain + gain, half_difference(x, oldest), average);
    oldest = x;
  }
};

/// The numbers of blocks.
struct Window {
  std::int64_t ring = 1;   ///< slots
  std::int64_t kept = 1;   ///< newest complete blocks that are always stored
  std::int64_t width = 1;  ///< blocks in the readable average
  bool running = false;    ///< RunningMeanLaw updates the mean, recomputed once per turn
};
template <class Fields>
void fields(Window& w, Fields& field) {
  field("ring", w.ring);
  field("kept", w.kept);
  field("width", w.width);
  field("running", w.running);
}

/// Blocks of a run, and the mean of the newest ones. `W::samples(t)` says whether call t belongs to
/// a block, `W::completes(t)` whether the block ends with it.
///
/// State: "average" and `ring` slots "block.0", ..., the number of complete blocks, and the number
/// of samples in the open block. The position in the ring follows from them.
template <class Derived, ParameterScalar P, class W, StateScalar S>
class RingOfBlocks : public AveragedWeights<Derived, P, S> {
  using Base = AveragedWeights<Derived, P, S>;
  using typename Base::T;

  struct AverageOrCopy {
    double gain;
    template <class C>
    AverageOrCopyLaw<C> operator()(C) const {
      const auto rounded = static_cast<C>(gain);
      return {.gain = rounded, .complement = 1 - rounded};
    }
  };
  struct RunningMean {
    double gain;
    template <class C>
    RunningMeanLaw<C> operator()(C) const {
      return {.gain = static_cast<C>(gain)};
    }
  };
  using Bound = detail::joined_t<std::variant<detail::BoundLaw<AverageLaw<T>, S>>,
                                 typename Base::template Stored<AverageOrCopy>,
                                 typename Base::template Stored<RunningMean>>;

 protected:
  RingOfBlocks(const Parameters<P>& params, W weighting, Window window, Nonfinite nonfinite,
               Accumulation accumulation)
      : Base(params, nonfinite, accumulation, least_gain(weighting, window), names(window.ring)),
        weighting_(weighting),
        window_(window) {}

 public:
  using Base::copy_to;
  using Base::swap_into;

  /// The number of complete blocks so far, and of complete blocks that are stored now.
  [[nodiscard]] std::int64_t count() const { return count_; }
  [[nodiscard]] std::int64_t held() const {
    return std::clamp<std::int64_t>(count_, 0, window_.kept);
  }
  /// Whether the average is readable: there are as many complete blocks as it needs.
  [[nodiscard]] bool ready() const { return held() >= window_.width; }
  [[nodiscard]] const W& weighting() const { return weighting_; }

  /// Writes the mean of the `blocks` newest complete blocks into `target`; otherwise as copy_to().
  /// Needs temporary memory for one average. Throws std::invalid_argument unless 1 <= blocks <=
  /// held().
  void copy_to(const Parameters<P>& target, std::int64_t blocks) const {
    require_held(blocks);
    this->check_target(target);
    mean_into(target, blocks);
  }
  /// The same, swapped into the model until the guard ends.
  [[nodiscard]] SwapGuard swap_into(const Parameters<P>& params, std::int64_t blocks) const {
    require_held(blocks);
    this->require_home();
    detail::require_same(params.layout(), this->slots().layout(),
                         "the parameters and those of the average");
    std::vector<SwapGuard::Piece> pieces;
    for (std::size_t k = 0; k < params.size(); ++k) {
      const bool buffer = params[k].info().role == Role::copy;
      if (buffer || this->slots().keeps(k)) {
        pieces.push_back({k, nullptr, params[k].bytes()});
      }
    }
    auto guard = SwapGuard::keep(ParameterAccess<P>::list(params), std::move(pieces));
    mean_into(params, blocks);
    return guard;
  }

  // Called by step() and update().
  void advance(const Parameters<P>&, const element_t<P>* const*) {
    const std::int64_t call = this->next_call();
    gain_ = 0;
    if (weighting_.samples(call)) gain_ = this->applied(1 / static_cast<double>(++open_));
    cursor_ = place(count_);
    moves_ = window_.running && gain_ == 1 && cursor_ != 0 && held() == window_.ring;
    completes_ = open_ > 0 && weighting_.completes(call);
    if (completes_) {
      ++count_;
      open_ = 0;
    }
  }
  [[nodiscard]] bool resting() const { return gain_ == 0; }
  [[nodiscard]] Bound bind() const {
    const std::size_t block = slot(cursor_);
    if (moves_) {
      const double gain = 1 / static_cast<double>(window_.ring);
      return detail::widen_variant<Bound>(
          this->bind_stored(RunningMean{gain}, std::size_t{0}, block));
    }
    if (this->storage() == 0 && gain_ != 1) {
      return this->bind_plain(AverageLaw<T>{static_cast<T>(gain_)}, block);
    }
    return detail::widen_variant<Bound>(this->bind_stored(AverageOrCopy{gain_}, block));
  }
  void finish(const ExecutorRef& executor, const Parameters<P>& params) {
    if (!completes_) return;
    if (this->ready() && !moves_) {
      fold(executor, params, window_.width, [](auto bound) { return bound; });
    }
    this->copy_buffers(params);
  }

  template <class Self>
  static void list_state(Self& self, StateVisitorOf<Self>& visit) {
    auto& own = detail::as_base<RingOfBlocks>(self);
    visit.options(own.weighting_);
    visit.options(own.window_);
    own.list_options(visit);
    // place() finds a block for any count.
    Base::list_clocks(own, visit, own.count_, count_range, difference_range);
    visit.scalar("open", own.open_, count_range);
    Base::list_memory(own, visit);
  }

 protected:
  /// The block that is being averaged, or else the last complete one.
  [[nodiscard]] SlotView<S> current_block() const {
    if (count_ == 0 && open_ == 0) detail::refuse_order("polyak: no block has begun");
    return this->view_of_unready(slot(place(open_ > 0 ? count_ : count_ - 1)));
  }

 private:
  friend Base;

  /// The smallest gain above 0: of a block, or of the mean of all stored blocks.
  static double least_gain(const W& weighting, const Window& window) {
    return std::min(weighting.least_gain(), 1 / static_cast<double>(window.kept));
  }
  static std::vector<std::string> names(std::int64_t ring) {
    std::vector<std::string> all;
    all.reserve(static_cast<std::size_t>(ring) + 1);
    all.emplace_back("average");
    for (std::int64_t k = 0; k < ring; ++k) all.push_back("block." + std::to_string(k));
    return all;
  }
  static std::size_t slot(std::int64_t block) { return static_cast<std::size_t>(1 + block); }

  void require_held(std::int64_t blocks) const {
    require(blocks >= 1 && blocks <= held(),
            "a window must have 1 to " + detail::text(held()) + " complete blocks", blocks);
  }
  /// The j-th of the newest complete blocks, from 0.
  [[nodiscard]] std::size_t newest(std::int64_t j) const { return slot(place(count_ - 1 - j)); }
  /// The ring's place of block `number`, from 0.
  [[nodiscard]] std::int64_t place(std::int64_t number) const {
    return (number % window_.ring + window_.ring) % window_.ring;
  }

  /// average <- mean of the newest blocks, oldest first. `into(bound)` may give the law another
  /// average.
  template <class Into>
  void fold(const ExecutorRef& executor, const Parameters<P>& params, std::int64_t blocks,
            Into into) const {
    std::int64_t done = 0;
    const auto some = [&]<std::size_t... I>(std::index_sequence<I...>) {
      const auto make = [&]<class C>(C) {
        const auto gain = [&](std::size_t i) {
          return 1 / static_cast<double>(done + static_cast<std::int64_t>(i) + 1);
        };
        return FoldLaw<C, sizeof...(I)>{{static_cast<C>(gain(I))...},
                                        {static_cast<C>(1 - gain(I))...}};
      };
      this->with_stored(
          make,
          [&](const auto& stored) {
            auto bound = into(stored);
            // Each sweep needs new random bits.
            if constexpr (requires { bound.key.seed; }) {
              bound.key.seed += 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(done + 1);
            }
            detail::Sweep<P>::all(executor, params, bound);
          },
          std::size_t{0}, newest(blocks - 1 - done - static_cast<std::int64_t>(I))...);
      done += static_cast<std::int64_t>(sizeof...(I));
    };
    while (blocks - done >= 4) some(std::make_index_sequence<4>());
    while (done < blocks) some(std::make_index_sequence<1>());
  }

  void mean_into(const Parameters<P>& target, std::int64_t blocks) const {
    const auto read = []<class C>(C) { return ReadLaw<C>{}; };
    this->with_stored(
        read,
        [&](const auto& stored) {
          using Read = std::remove_cvref_t<decltype(stored)>;
          auto own = this->template average_memory<Read>();
          const auto into = [&](auto bound) {
            if constexpr (std::same_as<typename decltype(bound)::Storage, typename Read::Storage>) {
              for (std::size_t j = 0; j < own.count(); ++j) bound.slots[j] = own.data(j);
            }
            return bound;
          };
          fold(serial, target, blocks, into);
          detail::Sweep<P>::all(serial, target, into(stored));
        },
        std::size_t{0});
    this->write_buffers(target);
  }

  W weighting_;
  Window window_;
  std::int64_t count_ = 0;
  std::int64_t open_ = 0;    // samples in the block that is not complete
  std::int64_t cursor_ = 0;  // of the block that this call belongs to
  double gain_ = 0;
  bool completes_ = false, moves_ = false;
};

}  // namespace POLYAK_V0
}  // namespace polyak
