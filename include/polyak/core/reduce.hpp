// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reductions: norms, dot products, means and other folds (core/fold.hpp) over lists of tensors,
/// single tensors, or the rows or columns of matrices.
///
///   const double length = polyak::norm(executor, gradients);
///
///   polyak::Reduction<polyak::Norm> norms(params, {.per = polyak::Per::tensor});  // once
///   for (const double norm : norms(executor, gradients)) ...                     // no allocation
///
/// One call of the executor for the whole list, each element read once. Results are doubles, whose
/// bits do not depend on the executor or the instruction set (see core/fold.hpp).
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/fold.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/simd/pack.hpp>
#include <polyak/core/simd/pack_x86.hpp>

namespace polyak {
inline namespace v0 {
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

/// The first `count` lanes, fewer than all. The rest are 0, or where the fold is shifted the first
/// number of the block, whose difference to itself is 0.
template <class E, int Lanes, class Level>
POLYAK_INLINE void load_double_part(const E* from, std::size_t count, const E* filler,
                                    Pack<double, Lanes, Level>& to) {
  constexpr auto lanes = static_cast<std::size_t>(Lanes);
  alignas(cache_line) std::byte copy[lanes * scalar_bytes<E>] = {};
  std::memcpy(copy, from, count * scalar_bytes<E>);
  for (std::size_t k = count; filler != nullptr && k < lanes; ++k) {
    std::memcpy(copy + k * scalar_bytes<E>, filler, scalar_bytes<E>);
  }
  load_double(reinterpret_cast<const E*>(copy), to);
}

// ---- the loops ---------------------------------------------------------------------------------

/// One block, or rows of a strip of columns, of elements of the types E.
template <class F, class Level, class... E>
struct FoldLoops {
  static constexpr std::size_t streams = sizeof...(E);
  static constexpr auto accumulators = static_cast<std::size_t>(F::accumulators);
  using Streams = std::index_sequence_for<E...>;
  using Accumulators = std::make_index_sequence<accumulators>;
  using Pointers = std::tuple<const E*...>;

  /// `count` consecutive elements from `from` on, at most fold_block; to one part.
  POLYAK_INLINE static void block(const F& fold, const Pointers& from, std::size_t count,
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

  /// `rows` rows of `width` columns, at most fold_block_rows; `inner` elements lie from one row to
  /// the next, and from one accumulator of the parts to the next.
  POLYAK_INLINE static void strip(const F& fold, const Pointers& from, std::size_t rows,
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
  POLYAK_INLINE static void load(const Pointers& from, std::size_t at, V* x,
                                 std::index_sequence<S...>) {
    (load_double(std::get<S>(from) + at, x[S]), ...);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void load_part(const Pointers& from, std::size_t at, std::size_t count, V* x,
                                      std::index_sequence<S...>) {
    (load_double_part(std::get<S>(from) + at, count, F::shifted ? std::get<S>(from) : nullptr,
                      x[S]),
     ...);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void load_zeros(const Pointers& from, std::size_t at, std::size_t count,
                                       V* x, std::index_sequence<S...>) {
    (load_some_double(std::get<S>(from) + at, count, x[S]), ...);
  }
  template <class T, class V>
  POLYAK_INLINE static void load_some_double(const T* from, std::size_t count, V& to) {
    load_double_part(from, count, static_cast<const T*>(nullptr), to);
  }
  template <class V, std::size_t... S>
  POLYAK_INLINE static void spread_first(const Pointers& from, V* first,
                                         std::index_sequence<S...>) {
    ((first[S] = V(widened<double>(std::get<S>(from), 0))), ...);
  }
  template <class V, std::size_t... S, std::size_t... A>
  POLYAK_INLINE static void apply(const F& fold, V* x, [[maybe_unused]] const V* first, V* sums,
                                  std::index_sequence<S...>, std::index_sequence<A...>) {
    if constexpr (F::shifted) ((x[S] = x[S] - first[S]), ...);
    fold(static_cast<const V&>(x[S])..., sums[A]...);
  }
  template <std::size_t... S>
  POLYAK_INLINE static void close(const F& fold, const Pointers& from, std::size_t at,
                                  typename F::Part& all, std::index_sequence<S...>) {
    if constexpr (F::shifted) {
      const double first[] = {widened<double>(std::get<S>(from), at)...};
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

/// Columns that are folded together: so many accumulators of a strip stay in the first cache.
inline constexpr std::size_t fold_strip = 512;

/// Elements begin..end of all tensors that have elements this time, counted through them. A block
/// or strip belongs to the range in which it begins.
template <class F, class... E>
struct FoldPass {
  const F& fold;
  const FoldPlan& plan;
  const std::tuple<FoldStream<E>...>& streams;
  double* parts;
  std::size_t begin, end;

  template <class Level>
  POLYAK_INLINE void run() const {
    std::size_t start = 0;  // of the tensor, in the count
    for (const FoldTensor& tensor : plan.tensors) {
      if (start >= end) return;
      const auto from = std::apply(
          [&](const auto&... stream) { return std::tuple<const E*...>(stream[tensor.index]...); },
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

  [[nodiscard]] static bool has_all(const std::tuple<const E*...>& from) {
    return std::apply([](const auto*... p) { return ((p != nullptr) && ...); }, from);
  }

 private:
  /// The blocks of one tensor that begin in low..high.
  template <class Level>
  POLYAK_INLINE void units(const FoldTensor& tensor, const std::tuple<const E*...>& from,
                           std::size_t low, std::size_t high) const {
    using Loops = FoldLoops<F, Level, E...>;
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
      const auto here =
          std::apply([&](const auto*... p) { return std::tuple<const E*...>((p + at)...); }, from);
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

/// A fold over the tensors of a list, with the memory that it needs: made once, called again and
/// again, without an allocation. A value; for one thread at a time.
template <class F>
class Reduction {
 public:
  using Result = fold_result_t<F>;

  /// Over all tensors of a list of P, its Parameters or Gradients, that hold P and are no buffers
  /// (Role::copy). Throws std::invalid_argument for options
  /// out of range.
  template <TensorList List>
  explicit Reduction(const List& list, const ReductionOptions& options = {}, const F& fold = {})
      : Reduction(list, detail::Trained{list.layout().get()}, options, fold) {}

  /// Over the tensors of type P for whose index `takes(index)` holds.
  template <TensorList List, std::predicate<std::size_t> Takes>
  Reduction(const List& list, const Takes& takes, const ReductionOptions& options = {},
            const F& fold = {})
      : Reduction(list.layout(),
                  detail::fold_plan(*list.layout(), detail::dtype_of<list_scalar_t<List>>(), takes,
                                    options, static_cast<std::size_t>(F::accumulators)),
                  options.per, fold) {}

  /// Over single arrays of this shape. Throws std::invalid_argument where a dimension is negative.
  explicit Reduction(const Shape& shape, const ReductionOptions& options = {},
                     Order order = Order::row_major, const F& fold = {})
      : Reduction(nullptr, plan_of(shape, options, order), options.per, fold) {}

  /// Folds the elements of as many streams as the fold reads (see stream_of()), all of them with
  /// the tensors of the list. A tensor for which a stream has no elements is left out: its results
  /// are those of no numbers. Returns results().
  ///
  /// Throws std::invalid_argument for streams of another layout or size.
  template <Executor E, class... Streams>
  std::span<const Result> operator()(E&& executor, const Streams&... streams) {
    static_assert(sizeof...(Streams) == static_cast<std::size_t>(F::streams),
                  "polyak: a reduction is given as many streams as its fold reads");
    return run(executor, stream_of(streams)...);
  }

  /// Per::list: one. Per::tensor: one for each tensor taken, in their order. Rows and columns:
  /// those of all tensors taken, one after the other.
  [[nodiscard]] std::span<const Result> results() const { return {results_.get(), plan_.results}; }
  /// Those of tensor `index` of the list; none where it is not taken, or with Per::list.
  [[nodiscard]] std::span<const Result> results(std::size_t index) const {
    const std::size_t k = plan_.of_tensor[index];
    if (k == detail::FoldPlan::none || per_ == Per::list) return {};
    return {results_.get() + plan_.tensors[k].results, plan_.tensors[k].shape.results()};
  }

  /// The fold; what it holds may change from call to call.
  [[nodiscard]] F& fold() { return fold_; }

  Reduction(const Reduction& other)
      : Reduction(other.layout_, other.plan_, other.per_, other.fold_) {
    std::copy_n(other.results_.get(), plan_.results, results_.get());
  }
  Reduction(Reduction&&) noexcept = default;
  Reduction& operator=(const Reduction& other) { return *this = Reduction(other); }
  Reduction& operator=(Reduction&&) noexcept = default;
  ~Reduction() = default;

 private:
  using Part = typename F::Part;

  Reduction(std::shared_ptr<const Layout> layout, detail::FoldPlan plan, Per per, const F& fold)
      : layout_(std::move(layout)), plan_(std::move(plan)), per_(per), fold_(fold) {
    if (per_ == Per::list) {
      totals_.resize(plan_.tensors.size());
      plan_.results = 1;
    }
    parts_.resize(plan_.parts);
    results_ = std::make_unique<Result[]>(plan_.results);  // bools have addresses here
  }

  [[nodiscard]] static detail::FoldPlan plan_of(const Shape& shape, const ReductionOptions& options,
                                                Order order) {
    validate(options);
    const std::size_t size = detail::elements_of(shape, "reduced");
    detail::FoldPlan plan;
    plan.add(0, detail::fold_shape(shape, order, options, size),
             static_cast<std::size_t>(F::accumulators));
    return plan;
  }

  template <class S>
  void check(const FoldStream<S>& stream) const {
    if (stream.layout() == nullptr) {
      require(layout_ == nullptr && stream.size() == plan_.tensors[0].shape.size(),
              "an array that is reduced must have the size of the reduction", stream.size());
      return;
    }
    if (stream.layout() == layout_.get()) return;
    if (layout_ == nullptr || stream.layout()->tensors != layout_->tensors) {
      detail::refuse_value("polyak: what is reduced differs from the reduction: " +
                           (layout_ == nullptr ? std::string("it is made for single arrays")
                                               : detail::differences(*stream.layout(), *layout_)));
    }
  }

  template <class E, class... S>
  std::span<const Result> run(E& executor, const FoldStream<S>&... streams) {
    using Pass = detail::FoldPass<F, S...>;
    detail::check_executor(executor);
    (check(streams), ...);
    const int level = detail::level_in_use();
    const std::tuple<FoldStream<S>...> all(streams...);
    std::size_t elements = 0;
    for (const detail::FoldTensor& tensor : plan_.tensors) {
      if (((streams[tensor.index] != nullptr) && ...)) elements += tensor.shape.size();
    }
    const auto range = [&](std::size_t begin, std::size_t end) {
      detail::run_at(level, Pass{fold_, plan_, all, parts_.data(), begin, end});
    };
    if constexpr (std::same_as<std::remove_const_t<E>, Serial>) {
      executor(elements, range);
    } else {
      const detail::FloatMode::Word mode = detail::FloatMode::get();
      const auto as_in_the_caller = [&](std::size_t begin, std::size_t end) {
        const detail::WithFloatMode flushes_alike(mode);
        range(begin, end);
      };
      executor(elements, as_in_the_caller);
    }
    for (std::size_t k = 0; k < plan_.tensors.size(); ++k) {
      combine(k, ((streams[plan_.tensors[k].index] != nullptr) && ...));
    }
    if (per_ == Per::list) {
      results_[0] =
          detail::finished(fold_, detail::combined_all(fold_, totals_.data(), totals_.size()));
    }
    return results();
  }

  /// From the parts of the k-th tensor taken to its results.
  void combine(std::size_t k, bool present) {
    const detail::FoldTensor& tensor = plan_.tensors[k];
    const detail::FoldShape& shape = tensor.shape;
    const std::size_t blocks = shape.blocks();
    for (std::size_t o = 0; o < shape.outer; ++o) {
      double* const parts =
          parts_.data() + tensor.parts + o * blocks * shape.inner * std::size_t{F::accumulators};
      std::size_t nodes = present ? blocks : 0, span = shape.block();
      while (nodes > 1) {
        const std::size_t groups = (nodes + detail::fold_group - 1) / detail::fold_group;
        for (std::size_t group = 0; group < groups; ++group) {
          for (std::size_t column = 0; column < shape.inner; ++column) {
            detail::put_part<F>(parts, group, column, shape.inner,
                                detail::combined_group(fold_, parts, nodes, group, column,
                                                       shape.inner, span, shape.reduced));
          }
        }
        nodes = groups;
        span *= detail::fold_group;
      }
      for (std::size_t column = 0; column < shape.inner; ++column) {
        const Part all =
            nodes == 0 ? Part{}
                       : detail::part_of<F>(parts, 0, column, shape.inner, span, shape.reduced);
        if (per_ == Per::list) {
          totals_[k] = all;
        } else {
          results_[tensor.results + o * shape.inner + column] = detail::finished(fold_, all);
        }
      }
    }
  }

  std::shared_ptr<const Layout> layout_;
  detail::FoldPlan plan_;
  Per per_;
  F fold_;
  std::vector<double> parts_;
  std::vector<Part> totals_;  // of tensors
  std::unique_ptr<Result[]> results_;
};

// ---- for a single call: these allocate what they need -------------------------------------------

/// One fold over single arrays of equal size, in the calling thread: `reduce<Dot>(a, b)`. Throws
/// std::invalid_argument where sizes differ.
template <class F, class First, class... Rest>
requires(detail::FlatObject<const First>)
    [[nodiscard]] fold_result_t<F> reduce(const First& first, const Rest&... rest) {
  Reduction<F> reduction(Shape{static_cast<std::int64_t>(first.size())});
  return reduction(serial, first, rest...)[0];
}

/// One fold over all trained tensors of a list: `reduce<Dot>(executor, params, params, gradients)`.
/// `list` says which tensors there are, `streams` (see stream_of()) what is folded.
template <class F, Executor E, HostList List, class... Streams>
[[nodiscard]] fold_result_t<F> reduce(E&& executor, const List& list, const Streams&... streams) {
  Reduction<F> reduction(list);
  return reduction(executor, streams...)[0];
}

/// The Euclidean norm of all weights (buffers, Role::copy, do not count), or of all gradients that
/// are set. 0 for none.
template <Executor E, HostList List>
[[nodiscard]] double norm(E&& executor, const List& list) {
  return reduce<Norm>(executor, list, list);
}
template <HostList List>
[[nodiscard]] double norm(const List& list) {
  return norm(serial, list);
}

/// Writes the norm of each tensor of a list, 0 for buffers and where no gradient is set. Throws
/// std::invalid_argument unless `to` has one number for each tensor.
template <Executor E, HostList List>
void norms(E&& executor, const List& list, std::span<double> to) {
  const std::size_t tensors = list.layout()->tensors.size();
  require(to.size() == tensors, "norms() must be given one number for each tensor", to.size());
  Reduction<Norm> reduction(list, {.per = Per::tensor});
  reduction(executor, list);
  for (std::size_t k = 0; k < tensors; ++k) {
    const std::span<const double> one = reduction.results(k);
    to[k] = one.empty() ? 0 : one[0];
  }
}

}  // namespace v0
}  // namespace polyak
