// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops of reductions over the host's memory: loads of any element type as packs of doubles,
/// the folds of blocks and strips, and the blocks that belong to a range of elements.
///
/// Above 300 lines: blocks, strips and their partial packs are one set of loops.
#pragma once

#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

#include <polyak/core/fold.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/fold_tree.hpp>
#include <polyak/core/gradient_factor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/number.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/simd/pack_x86.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

// ---- any elements as packs of doubles ----------------------------------------------------------

#if POLYAK_X86_LEVELS
POLYAK_TARGET_V3 inline void load_double(const float* from, Pack<double, 4, X86V3>& to) {
  to = Pack<double, 4, X86V3>(_mm256_cvtps_pd(_mm_loadu_ps(from)));
}
POLYAK_TARGET_V4 inline void load_double(const float* from, Pack<double, 8, X86V4>& to) {
  to = Pack<double, 8, X86V4>(_mm512_maskz_cvtps_pd(all8, _mm256_loadu_ps(from)));
}
#endif
template <bool Fused, int Target>
POLYAK_INLINE void load_double(const float* from, Pack<double, 1, Scalars<Fused, Target>>& to) {
  to = Pack<double, 1, Scalars<Fused, Target>>(static_cast<double>(*from));
}
template <int Lanes, int Flags>
requires(Lanes == native_lanes<double, BaselineLevel<Flags>>) POLYAK_INLINE
    void load_double(const float* from, Pack<double, Lanes, BaselineLevel<Flags>>& to) {
  using V = Pack<double, Lanes, BaselineLevel<Flags>>;
#if POLYAK_X86 && defined(__AVX512F__)
  if constexpr (Lanes == 8) {
    to = V(typename V::Wrap{}, _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)));
    return;
  }
#endif
#if POLYAK_X86 && defined(__AVX__)
  if constexpr (Lanes == 4) {
    to = V(typename V::Wrap{}, _mm256_cvtps_pd(_mm_loadu_ps(from)));
    return;
  }
#endif
#if POLYAK_X86
  if constexpr (Lanes == 2) {
    to = V(typename V::Wrap{},
           _mm_cvtps_pd(_mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(from)))));
    return;
  }
#endif
  double values[static_cast<std::size_t>(Lanes)];
  for (int k = 0; k < Lanes; ++k) values[k] = static_cast<double>(from[k]);
  to = V::load(values);
}
template <int Lanes, class Level>
requires several_registers<double, Lanes, Level> POLYAK_INLINE void load_double(
    const float* from, Pack<double, Lanes, Level>& to) {
  load_double(from, to.low);
  load_double(from + Lanes / 2, to.high);
}
template <int Lanes, class Level>
POLYAK_INLINE void load_double(const double* from, Pack<double, Lanes, Level>& to) {
  to = Pack<double, Lanes, Level>::load(from);
}
template <class E, int Lanes, class Level>
requires(scalar_bytes<E> == 2) POLYAK_INLINE
    void load_double(const E* from, Pack<double, Lanes, Level>& to) {
  Pack<float, Lanes, Level> singles;
  load_pack(from, singles);
  convert(singles, to);
}

/// Gradients as a step reads them: scaled and clipped in the type of the list.
template <class E, int Lanes, class Level>
POLYAK_INLINE void load_double(const ReadGradients<E>& from, Pack<double, Lanes, Level>& to) {
  using V = Pack<carrier_t<E>, Lanes, Level>;
  V gradient;
  load_pack(from.data, gradient);
  from.template factor<V>().apply(gradient);
  convert(gradient, to);
}

/// Loads the first `count` lanes, fewer than all. The other lanes are 0, or `filler` if there is
/// one: a shifted fold subtracts the first number of the block, so filled with it they become 0.
template <class Source, class E, int Lanes, class Level>
POLYAK_INLINE void load_double_part(const Source& from, std::size_t count, const E* filler,
                                    Pack<double, Lanes, Level>& to) {
  constexpr auto lanes = static_cast<std::size_t>(Lanes);
  alignas(cache_line) std::byte copy[lanes * scalar_bytes<E>] = {};
  std::memcpy(copy, memory_of(from), count * scalar_bytes<E>);
  for (std::size_t k = count; filler != nullptr && k < lanes; ++k) {
    std::memcpy(copy + k * scalar_bytes<E>, filler, scalar_bytes<E>);
  }
  load_double(alike(from, reinterpret_cast<const E*>(copy)), to);
}

template <class E>
[[nodiscard]] POLYAK_INLINE double first_double(const E* from) {
  return widened<double>(from, 0);
}
template <class E>
[[nodiscard]] POLYAK_INLINE double first_double(const ReadGradients<E>& from) {
  using V = Number<carrier_t<E>>;
  V gradient(widened<carrier_t<E>>(from.data, 0));
  from.template factor<V>().apply(gradient);
  return static_cast<double>(gradient.value);
}

// ---- the loops ---------------------------------------------------------------------------------

/// Folds one block, or the rows of a strip of columns. A source is a pointer, or gradients that are
/// scaled as they are read.
template <class F, class Level, class... Source>
struct FoldLoops {
  static constexpr std::size_t streams = sizeof...(Source);
  static constexpr auto accumulators = static_cast<std::size_t>(F::accumulators);
  using Streams = std::index_sequence_for<Source...>;
  using Accumulators = std::make_index_sequence<accumulators>;
  using Sources = std::tuple<Source...>;

  /// Folds `count` consecutive elements, at most fold_block, to one part.
  POLYAK_INLINE static void block(const F& fold, const Sources& from, std::size_t count,
                                  double* part) {
    constexpr auto lanes = static_cast<std::size_t>(fold_lanes<F>);
    using V = Pack<double, fold_lanes<F>, Level>;
    V sums[accumulators], first[streams];
    clear(sums, Accumulators{});
    if constexpr (F::shifted) spread_first(from, first, Streams{});
    std::size_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      V x[streams];
      load(from, i, x, Streams{});
      apply(fold, x, first, sums, Streams{}, Accumulators{});
    }
    if (i < count) {
      V x[streams];
      load_part(from, i, count - i, x, Streams{});
      apply(fold, x, first, sums, Streams{}, Accumulators{});
    }
    typename F::Part all;
    all.count = static_cast<double>(count);
    for (std::size_t a = 0; a < accumulators; ++a) all.value[a] = joined_pack(fold, sums[a]);
    close(fold, from, 0, all, Streams{});
    for (std::size_t a = 0; a < accumulators; ++a) part[a] = all.value[a];
  }

  /// Folds `rows` rows, at most fold_block_rows, of `width` columns to `width` parts. The distance
  /// from one row to the next, and from one accumulator of the parts to the next, is `inner`.
  POLYAK_INLINE static void strip(const F& fold, const Sources& from, std::size_t rows,
                                  std::size_t width, std::size_t inner, double* parts) {
    constexpr std::size_t lanes = 16, rows_at_once = 4;
    using V = Pack<double, lanes, Level>;
    for (std::size_t r = 0; r < rows; r += rows_at_once) {
      const std::size_t some = rows - r < rows_at_once ? rows - r : rows_at_once;
      std::size_t c = 0;
      for (; c + lanes <= width; c += lanes) {
        V sums[accumulators], first[streams];
        load_sums(parts + c, inner, r == 0, sums, Accumulators{});
        if constexpr (F::shifted) load(from, c, first, Streams{});
        for (std::size_t k = 0; k < some; ++k) {
          V x[streams];
          load(from, (r + k) * inner + c, x, Streams{});
          apply(fold, x, first, sums, Streams{}, Accumulators{});
        }
        for (std::size_t a = 0; a < accumulators; ++a) sums[a].store(parts + a * inner + c);
      }
      if (c == width) continue;
      const std::size_t rest = width - c;
      V sums[accumulators], first[streams];
      alignas(cache_line) double copy[accumulators * lanes] = {};
      for (std::size_t a = 0; a < accumulators && r != 0; ++a) {
        std::memcpy(copy + a * lanes, parts + a * inner + c, rest * sizeof(double));
      }
      load_sums(copy, lanes, false, sums, Accumulators{});
      if constexpr (F::shifted) load_zeros(from, c, rest, first, Streams{});
      for (std::size_t k = 0; k < some; ++k) {
        V x[streams];
        load_zeros(from, (r + k) * inner + c, rest, x, Streams{});
        apply(fold, x, first, sums, Streams{}, Accumulators{});
      }
      for (std::size_t a = 0; a < accumulators; ++a) {
        sums[a].store(copy + a * lanes);
        std::memcpy(parts + a * inner + c, copy + a * lanes, rest * sizeof(double));
      }
    }
    if constexpr (F::shifted) {
      for (std::size_t c = 0; c < width; ++c) {
        typename F::Part all;
        all.count = static_cast<double>(rows);
        for (std::size_t a = 0; a < accumulators; ++a) all.value[a] = parts[a * inner + c];
        close(fold, from, c, all, Streams{});
        for (std::size_t a = 0; a < accumulators; ++a) parts[a * inner + c] = all.value[a];
      }
    }
  }

 private:
  template <class V, std::size_t... A>
  POLYAK_INLINE static void clear(V* sums, std::index_sequence<A...>) {
    ((sums[A] = V(0.0)), ...);
  }
  template <class V, std::size_t... A>
  POLYAK_INLINE static void load_sums(const double* parts, std::size_t stride, bool zeros, V* sums,
                                      std::index_sequence<A...>) {
    if (zeros) {
      ((sums[A] = V(0.0)), ...);
    } else {
      ((sums[A] = V::load(parts + A * stride)), ...);
    }
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void load(const Sources& from, std::size_t at, V* x,
                                 std::index_sequence<S...>) {
    (load_double(std::get<S>(from) + at, x[S]), ...);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void load_part(const Sources& from, std::size_t at, std::size_t count, V* x,
                                      std::index_sequence<S...>) {
    (load_double_part(std::get<S>(from) + at, count,
                      F::shifted ? memory_of(std::get<S>(from)) : nullptr, x[S]),
     ...);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void load_zeros(const Sources& from, std::size_t at, std::size_t count, V* x,
                                       std::index_sequence<S...>) {
    (load_some_double(std::get<S>(from) + at, count, x[S]), ...);
  }
  template <class One, class V>
  POLYAK_INLINE static void load_some_double(const One& from, std::size_t count, V& to) {
    load_double_part(from, count, decltype(memory_of(from)){nullptr}, to);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void spread_first(const Sources& from, V* first, std::index_sequence<S...>) {
    ((first[S] = V(first_double(std::get<S>(from)))), ...);
  }
  template <class V, std::size_t... S, std::size_t... A>
  POLYAK_INLINE static void apply(const F& fold, V* x, [[maybe_unused]] const V* first, V* sums,
                                  std::index_sequence<S...>, std::index_sequence<A...>) {
    if constexpr (F::shifted) ((x[S] = x[S] - first[S]), ...);
    fold(static_cast<const V&>(x[S])..., sums[A]...);
  }
  template <std::size_t... S>
  POLYAK_INLINE static void close(const F& fold, const Sources& from, std::size_t at,
                                  typename F::Part& all, std::index_sequence<S...>) {
    if constexpr (F::shifted) {
      const double first[] = {first_double(std::get<S>(from) + at)...};
      fold.close(all, first);
    } else {
      const double zeros[streams] = {};
      fold.close(all, zeros);
    }
  }
  template <int Lanes>
  POLYAK_INLINE static double joined_pack(const F& fold, Pack<double, Lanes, Level>& sum) {
    if constexpr (several_registers<double, Lanes, Level>) {
      fold.join(sum.low, static_cast<const typename Pack<double, Lanes, Level>::Half&>(sum.high));
      return joined_pack(fold, sum.low);
    } else {
      alignas(cache_line) double lanes[static_cast<std::size_t>(Lanes)];
      sum.store(lanes);
      return joined(fold, lanes, Lanes);
    }
  }
};

/// Columns that are folded together. The accumulators of so many columns stay in the first-level
/// cache.
inline constexpr std::size_t fold_strip = 512;

/// Folds elements begin..end, counted through all tensors that have elements in this call. A block
/// or strip belongs to the range in which it begins.
template <class F, class... S>
struct FoldKernel {
  using Sources = std::tuple<fold_source_t<S>...>;
  const F& fold;
  const FoldPlan& plan;
  const std::tuple<S...>& streams;
  double* parts;
  std::size_t begin, end;

  template <class Level>
  POLYAK_INLINE void run() const {
    std::size_t start = 0;  // of the tensor, in the count
    for (const FoldTensor& tensor : plan.tensors) {
      if (start >= end) return;
      const auto from = std::apply(
          [&](const auto&... stream) { return Sources(fold_source(stream, tensor.index)...); },
          streams);
      if (!has_all(from)) continue;
      const std::size_t size = tensor.shape.size();
      if (size == 0) continue;
      if (begin < start + size) {
        units<Level>(tensor, from, begin <= start ? 0 : begin - start,
                     end - start < size ? end - start : size);
      }
      start += size;
    }
  }

  [[nodiscard]] static bool has_all(const Sources& from) {
    return std::apply([](const auto&... p) { return ((memory_of(p) != nullptr) && ...); }, from);
  }

 private:
  /// Folds the blocks of one tensor that begin in low..high.
  template <class Level>
  POLYAK_INLINE void units(const FoldTensor& tensor, const Sources& from, std::size_t low,
                           std::size_t high) const {
    using Loops = FoldLoops<F, Level, fold_source_t<S>...>;
    const FoldShape& shape = tensor.shape;
    const std::size_t block = shape.block(), blocks = shape.blocks(), inner = shape.inner;
    const std::size_t strips = (inner + fold_strip - 1) / fold_strip;
    const std::size_t slice = shape.reduced * inner;
    const auto rows_of = [&](std::size_t b) {
      const std::size_t rest = shape.reduced - b * block;
      return rest < block ? rest : block;
    };
    std::size_t o = low / slice, rest = low % slice;
    std::size_t b = rest / (block * inner);
    rest -= b * block * inner;
    const std::size_t each = fold_strip * rows_of(b);
    std::size_t s = (rest + each - 1) / each;
    for (;; ++s) {
      if (s >= strips) s = 0, ++b;
      if (b == blocks) b = 0, ++o;
      const std::size_t rows = rows_of(b), column = s * fold_strip;
      if (o * slice + b * block * inner + column * rows >= high) return;
      const std::size_t at = o * slice + b * block * inner + column;
      const auto here = std::apply([&](const auto&... p) { return Sources((p + at)...); }, from);
      double* const to =
          parts + tensor.parts + (o * blocks + b) * Loops::accumulators * inner + column;
      if (inner == 1) {
        Loops::block(fold, here, rows, to);
      } else {
        const std::size_t width = inner - column < fold_strip ? inner - column : fold_strip;
        Loops::strip(fold, here, rows, width, inner, to);
      }
    }
  }
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
