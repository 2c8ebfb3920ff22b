// SPDX-License-Identifier: Apache-2.0
/// @file
/// The plan of a reduction: the tensors that it folds, the dimensions, and the places of the
/// elements. Shared by the loops of the host (core/reduce.hpp) and of a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/fold_tree.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/matrix_view.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
template <class>
struct ListScalar {};
template <ParameterScalar P>
struct ListScalar<Parameters<P>> {
  using type = P;
};
template <ParameterScalar P>
struct ListScalar<Gradients<P>> {
  using type = P;
};
}  // namespace detail

/// The P of Parameters<P> or Gradients<P>.
template <class List>
using list_scalar_t = typename detail::ListScalar<List>::type;
template <class List>
concept TensorList = requires {
  typename list_scalar_t<List>;
};
/// Parameters or Gradients in the host's memory.
template <class List>
concept HostList = TensorList<List> && !detail::on_device<list_scalar_t<List>>;

/// What each result is computed over.
enum class Per : std::uint8_t {
  list,    ///< all tensors together
  tensor,  ///< each tensor
  row,     ///< each row of each tensor, seen as a matrix
  column,  ///< each column
};

struct ReductionOptions {
  Per per = Per::list;
  MatrixView view = MatrixView::first_by_rest;
};

inline void validate(const ReductionOptions& o) {
  require(o.per <= Per::column, "ReductionOptions.per must be one of Per", static_cast<int>(o.per));
  require(o.view <= MatrixView::last_two, "ReductionOptions.view must be one of MatrixView",
          static_cast<int>(o.view));
}

namespace detail {

/// The loops that fold a tensor of `shape` under the options.
[[nodiscard]] inline FoldShape fold_shape(const Shape& shape, Order order,
                                          const ReductionOptions& options, std::size_t size) {
  if (options.per == Per::list || options.per == Per::tensor) return {1, size, 1};
  if (shape.size() < 2) {
    return options.per == Per::row ? FoldShape{1, size, 1} : FoldShape{1, 1, size};
  }
  std::size_t stack = 1, rows = 1, columns = 1;
  for (std::size_t k = 0; k < shape.size(); ++k) {
    const auto extent = static_cast<std::size_t>(shape[k]);
    if (options.view == MatrixView::first_by_rest) {
      (k == 0 ? rows : columns) *= extent;
    } else {
      (k + 2 < shape.size() ? stack : k + 2 == shape.size() ? rows : columns) *= extent;
    }
  }
  if (order == Order::channels_last && options.view == MatrixView::last_two) {
    refuse_value("polyak: a channels-last tensor has no rows and columns of MatrixView::last_two");
  }
  // In memory [stack][rows][columns] or, column-major, [columns][rows][stack].
  if (order != Order::column_major) {
    return options.per == Per::row ? FoldShape{stack * rows, columns, 1}
                                   : FoldShape{stack, rows, columns};
  }
  return options.per == Per::row ? FoldShape{1, columns, rows * stack}
                                 : FoldShape{columns, rows, stack};
}

/// One tensor of a plan.
struct FoldTensor {
  std::size_t index;  ///< in the list
  FoldShape shape;
  std::size_t parts;    ///< where its parts begin, in doubles
  std::size_t results;  ///< where its results begin
};

/// The tensors of a reduction, and the memory that it needs.
struct FoldPlan {
  std::vector<FoldTensor> tensors;
  std::vector<std::size_t> of_tensor;  ///< place in `tensors`, or `none`
  std::size_t parts = 0;               ///< doubles
  std::size_t results = 0;

  void add(std::size_t index, const FoldShape& shape, std::size_t accumulators) {
    fill_to(index);
    of_tensor.push_back(tensors.size());
    tensors.push_back({index, shape, parts, results});
    parts += shape.outer * shape.blocks() * accumulators * shape.inner;
    results += shape.results();
  }
  /// Leaves out the tensors up to number `size`.
  void fill_to(std::size_t size) {
    while (of_tensor.size() < size) of_tensor.push_back(none);
  }
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
};

/// The tensors of `layout` with type `dtype` for which `takes(index)` is true.
template <class Takes>
[[nodiscard]] FoldPlan fold_plan(const Layout& layout, DType dtype, const Takes& takes,
                                 const ReductionOptions& options, std::size_t accumulators) {
  validate(options);
  FoldPlan plan;
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    const TensorInfo& tensor = layout.tensors[k];
    if (tensor.dtype != dtype || !takes(k)) continue;
    plan.add(k, fold_shape(tensor.shape, tensor.order, options, tensor.size), accumulators);
  }
  plan.fill_to(layout.tensors.size());
  return plan;
}

/// The tensors that optimizers train: all except buffers and frozen weights.
struct Trained {
  const Layout* layout;
  bool operator()(std::size_t k) const { return is_trained(layout->tensors[k].role); }
};

}  // namespace detail

/// A stream of a reduction, made by stream_of().
template <FloatingScalar E>
using FoldStream = Stream<const E>;

}  // namespace POLYAK_V0
}  // namespace polyak
