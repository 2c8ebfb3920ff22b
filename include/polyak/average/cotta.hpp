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
///
/// Above 300 lines: the choice of elements by random masks is written out for speed beside the
/// method.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/average/engine/average.hpp>
#include <polyak/average/schedules/conversions.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/random.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>

namespace polyak {
inline namespace v0 {

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

namespace detail {

/// Chooses elements of a tensor with a given probability: an element is chosen if its 40 random
/// bits, as a number, are below r 2^40. The highest 8 bits nearly always decide.
struct RandomChoice {
  /// Elements for which eight calls of Philox make 8 bits each, and elements of one mask.
  static constexpr std::size_t group = 128, masked = 64;
  static constexpr std::uint64_t all = std::uint64_t{1} << 40;

  RandomKey key;
  std::uint64_t below;  ///< of 2^40

  RandomChoice(const RandomKey& whose, double probability)
      : key(whose), below(static_cast<std::uint64_t>(std::ldexp(probability, 40))) {
    if (probability > 0 && below == 0) below = 1;
  }

  /// Goes through begin..end in groups of 64 elements, and calls `use(first, chosen)` for each
  /// group with a chosen element; bit k of `chosen` is element first + k.
  template <class Level, class Use>
  POLYAK_INLINE void each(std::size_t begin, std::size_t end, Use use) const {
    const auto high = static_cast<std::uint32_t>(below >> 32);
    RandomBits random;
    random.schedule(key);
    for (std::size_t start = begin / group * group; start < end; start += group) {
      if (below < all) fill_bytes(Level{}, key, start / group, random);
      for (std::size_t part = 0; part < group; part += masked) {
        const std::size_t first = start + part;
        if (first + masked <= begin || first >= end) continue;
        const unsigned char* const bytes = random.bytes.data() + part;
        std::uint64_t chosen = ~std::uint64_t{0};
        if (below < all) {
          const std::uint64_t candidates = high < 0x7f ? perhaps_below(bytes, high + 1) : chosen;
          chosen = 0;
          for (std::uint64_t rest = candidates; rest != 0; rest &= rest - 1) {
            const auto k = static_cast<std::size_t>(std::countr_zero(rest));
            const bool own = bytes[k] < high || (bytes[k] == high && tie(first + k));
            chosen |= std::uint64_t{own} << k;
          }
        }
        if (first < begin) chosen &= ~std::uint64_t{0} << (begin - first);
        if (end - first < masked) chosen &= ~(~std::uint64_t{0} << (end - first));
        if (chosen != 0) use(first, chosen);
      }
    }
  }

 private:
  /// One bit for each of 64 bytes: set if the byte is below `limit` <= 0x7f, and for a few other
  /// bytes. It takes eight bytes at a time: a subtraction sets the highest bit of each such byte,
  /// and a product gathers these bits.
  [[nodiscard]] POLYAK_INLINE static std::uint64_t perhaps_below(const unsigned char* bytes,
                                                                 std::uint32_t limit) {
    constexpr std::uint64_t ones = 0x0101010101010101u, gather = 0x0102040810204080u;
    std::uint64_t mask = 0;
    for (std::size_t k = 0; k < masked; k += 8) {
      std::uint64_t eight = 0;
      if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(&eight, bytes + k, sizeof eight);
      } else {
        for (std::size_t byte = 0; byte < 8; ++byte) {
          eight |= std::uint64_t{bytes[k + byte]} << (8 * byte);
        }
      }
      const std::uint64_t borrows = (eight - ones * limit) & ~eight & ones * 0x80;
      mask |= ((borrows >> 7) * gather >> 56) << k;
    }
    return mask;
  }
  /// Compares the lower 32 bits of an element whose upper 8 bits are equal.
  [[nodiscard]] bool tie(std::size_t element) const {
    const auto words = philox4x32<RandomKey::rounds>(
        key.counter((std::uint64_t{1} << 35) + element / 4), key.key());
    return words[element % 4] < static_cast<std::uint32_t>(below);
  }
};

/// x <- source for the chosen elements of one tensor.
template <class P>
struct RestoreKernel {
  P* x;
  const P* source;
  std::size_t begin, end;
  RandomChoice choice;

  /// Chosen elements are far apart, so the processor cannot predict their addresses. Their cache
  /// lines are prefetched some groups before they are used.
  template <class Level>
  POLYAK_INLINE void run() const {
    constexpr std::size_t most = 32;
    std::size_t firsts[most];
    std::uint64_t masks[most];
    std::size_t waiting = 0;
    choice.template each<Level>(begin, end, [&](std::size_t first, std::uint64_t chosen) {
      for (std::uint64_t rest = chosen; rest != 0; rest &= rest - 1) {
        const std::size_t k = first + static_cast<std::size_t>(std::countr_zero(rest));
#if defined(__GNUC__)
        __builtin_prefetch(x + k, 1);
        __builtin_prefetch(source + k);
#endif
      }
      firsts[waiting] = first;
      masks[waiting] = chosen;
      if (++waiting < most) return;
      for (std::size_t one = 0; one < most; ++one) restore(firsts[one], masks[one]);
      waiting = 0;
    });
    for (std::size_t one = 0; one < waiting; ++one) restore(firsts[one], masks[one]);
  }

 private:
  POLYAK_INLINE void restore(std::size_t first, std::uint64_t chosen) const {
    for (; chosen != 0; chosen &= chosen - 1) {
      const std::size_t k = first + static_cast<std::size_t>(std::countr_zero(chosen));
      x[k] = source[k];
    }
  }
};

}  // namespace detail

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
        source_(params.layout(), detail::dtype_of<P>(), Kept::averaged, {"source"},
                [this](std::size_t k) { return this->slots().keeps(k); }),
        options_(std::move(options)) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      const bool kept = source_.keeps(k);
      restores_.push_back(kept && options_.restored.empty());
      if (!kept || params[k].size() == 0) continue;
      std::copy_n(params[k].data(), params[k].size(), source_.tensor(0, k).data());
    }
    for (const std::string& name : options_.restored) {
      const std::string& own = params.at(name).name();
      const std::size_t k = params.layout()->find(own);
      if (!source_.keeps(k)) {
        detail::refuse_value("polyak: CottaOptions.restored must name averaged tensors, got \"" +
                             name + "\"");
      }
      restores_[k] = true;
    }
  }

  /// The source cannot grow.
  void grow(const Parameters<P>& params) = delete;

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

  /// The model at construction.
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
    report.slots.insert(report.slots.end(), source.slots.begin(), source.slots.end());
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
    for (std::size_t k = 0; k < self.restores_.size(); ++k) {
      if (!self.source_.keeps(k)) continue;
      visit.option("restores", self.source_.layout()->tensors[k].name,
                   static_cast<bool>(self.restores_[k]));
    }
    visit.slots(self.source_);
    Base::list_state(self, visit);
  }

 private:
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

}  // namespace v0
}  // namespace polyak
