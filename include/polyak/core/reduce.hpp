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
/// The executor is called once for the whole list, and each element is read once. Results are
/// doubles, whose bits do not depend on the executor or the instruction set (see core/fold.hpp).
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/fold.hpp>
#include <polyak/core/fold_loops.hpp>
#include <polyak/core/fold_plan.hpp>
#include <polyak/core/fold_tree.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/simd/denormals.hpp>
#include <polyak/core/simd/dispatch.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// A fold over the tensors of a list, with the memory that it needs. Construct it once and call it
/// many times; a call does not allocate. It is a value, for one thread at a time.
template <class F>
class Reduction {
 public:
  using Result = fold_result_t<F>;

  /// Folds all tensors of a list of P, Parameters or Gradients, that hold P and are neither
  /// buffers (Role::copy) nor frozen. Throws std::invalid_argument for options out of range.
  template <TensorList List>
  explicit Reduction(const List& list, const ReductionOptions& options = {}, const F& fold = {})
      : Reduction(list, detail::Trained{list.layout().get()}, options, fold) {}

  /// Folds the tensors of type P for whose index `takes(index)` is true.
  template <TensorList List, std::predicate<std::size_t> Takes>
  Reduction(const List& list, const Takes& takes, const ReductionOptions& options = {},
            const F& fold = {})
      : Reduction(list.layout(),
                  detail::fold_plan(*list.layout(), detail::dtype_of<list_scalar_t<List>>(), takes,
                                    options, static_cast<std::size_t>(F::accumulators)),
                  options.per, fold) {}

  /// Folds single arrays of this shape. Throws std::invalid_argument if a dimension is negative.
  explicit Reduction(const Shape& shape, const ReductionOptions& options = {},
                     Order order = Order::row_major, const F& fold = {})
      : Reduction(nullptr, plan_of(shape, options, order), options.per, fold) {}

  /// Folds as many streams as the fold reads (see stream_of()), each of them with the tensors of
  /// the list. A tensor for which a stream has no elements is left out, and its results are those
  /// of no numbers. Gradients are folded as a step reads them, with scale, clip coefficient and
  /// value limit; stream_of(gradients) gives them as they are in memory. Returns results().
  ///
  /// Throws std::invalid_argument for streams of another layout or size.
  template <Executor E, class... Streams>
  std::span<const Result> operator()(E&& executor, const Streams&... streams) {
    static_assert(sizeof...(Streams) == static_cast<std::size_t>(F::streams),
                  "polyak: a reduction is given as many streams as its fold reads");
    return fold_streams(executor, detail::folded_stream(streams)...);
  }

  /// One result with Per::list, one for each folded tensor with Per::tensor, and otherwise those of
  /// the rows or columns of all folded tensors, one tensor after the other.
  [[nodiscard]] std::span<const Result> results() const { return {results_.get(), plan_.results}; }
  /// The results of tensor `index` of the list. Empty if it is not folded, and with Per::list.
  [[nodiscard]] std::span<const Result> results(std::size_t index) const {
    const std::size_t k = plan_.of_tensor[index];
    if (k == detail::FoldPlan::none || per_ == Per::list) return {};
    return {results_.get() + plan_.tensors[k].results, plan_.tensors[k].shape.results()};
  }

  /// The fold. Its members may be changed between calls.
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
  std::span<const Result> fold_streams(E& executor, const S&... streams) {
    if constexpr ((detail::is_gradient_stream<S> || ...)) {  // plain pointers are faster
      if ((detail::reads_as_stored(detail::reading_of(streams)) && ...)) {
        return fold_streams(executor, FoldStream<typename S::Element>(streams)...);
      }
    }
    using Kernel = detail::FoldKernel<F, S...>;
    detail::check_executor(executor);
    (check(streams), ...);
    const int level = detail::level_in_use();
    const std::tuple<S...> all(streams...);
    std::size_t elements = 0;
    for (const detail::FoldTensor& tensor : plan_.tensors) {
      if (((streams[tensor.index] != nullptr) && ...)) elements += tensor.shape.size();
    }
    const auto range = [&](std::size_t begin, std::size_t end) {
      detail::run_at(level, Kernel{fold_, plan_, all, parts_.data(), begin, end});
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

  /// Combines the parts of the k-th folded tensor to its results.
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

// ---- single calls, which allocate the memory that they need ------------------------------------

/// One fold over single arrays of equal size, in the calling thread: `reduce<Dot>(a, b)`. Throws
/// std::invalid_argument if their sizes differ.
template <class F, class First, class... Rest>
requires(detail::FlatObject<const First>)
    [[nodiscard]] fold_result_t<F> reduce(const First& first, const Rest&... rest) {
  Reduction<F> reduction(Shape{static_cast<std::int64_t>(first.size())});
  return reduction(serial, first, rest...)[0];
}

/// One fold over all trained tensors of a list: `reduce<Dot>(executor, params, params, gradients)`.
/// `list` determines the tensors; `streams` (see stream_of()) are folded.
template <class F, Executor E, HostList List, class... Streams>
[[nodiscard]] fold_result_t<F> reduce(E&& executor, const List& list, const Streams&... streams) {
  Reduction<F> reduction(list);
  return reduction(executor, streams...)[0];
}

/// The Euclidean norm of all weights that are trained, neither buffers (Role::copy) nor frozen, or
/// of all gradients that are set, as a step reads them. 0 if there are none.
template <Executor E, HostList List>
[[nodiscard]] double norm(E&& executor, const List& list) {
  return reduce<Norm>(executor, list, list);
}
template <HostList List>
[[nodiscard]] double norm(const List& list) {
  return norm(serial, list);
}

/// Writes the norm of each tensor of a list to `to`: 0 for buffers, frozen weights and tensors
/// without a gradient. Throws std::invalid_argument unless `to` has one number for each tensor.
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

}  // namespace POLYAK_V0
}  // namespace polyak
