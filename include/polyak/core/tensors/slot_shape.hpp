// SPDX-License-Identifier: Apache-2.0
/// @file
/// SlotShape: a slot has the shapes of the parameters, or other numbers for each tensor.
///
///   Slots<float> slots(params.layout(), dtype, Kept::trained,
///                      {"exp_avg",                                    // as the parameters
///                       {"row_mean", SlotShape::rows},                // a number for each row
///                       {"norm", SlotShape::scalar},                  // one for each tensor
///                       {"left", [](const TensorInfo& tensor) -> std::optional<Shape> {
///                          if (tensor.shape.size() != 2) return std::nullopt;  // nothing
///                          return Shape{tensor.shape[0], tensor.shape[0]};
///                        }}});
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/matrix_view.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The numbers that a slot holds for each tensor. Laws can be bound to full slots only.
enum class SlotShape : std::uint8_t {
  full,     ///< one number for each element of the tensor
  rows,     ///< one number for each row, in the sense of MatrixView and reductions
  columns,  ///< one number for each column
  scalar,   ///< one number; the numbers of all tensors are contiguous
  free,     ///< a shape that a function of the tensor returns
};

/// Returns the shape of a free slot for a tensor; std::nullopt if the slot has nothing for it.
using FreeShape = std::function<std::optional<Shape>(const TensorInfo&)>;

/// A slot: its name and its shape. A name alone means a full slot.
struct SlotSpec {
  std::string name;
  SlotShape shape = SlotShape::full;
  MatrixView view = MatrixView::first_by_rest;  ///< of rows and columns
  FreeShape free = {};

  template <std::convertible_to<std::string_view> Name>
  SlotSpec(const Name& n) : name(std::string_view(n)) {}
  /// Throws std::invalid_argument for SlotShape::free, which needs a function.
  SlotSpec(std::string_view n, SlotShape s, MatrixView v = MatrixView::first_by_rest)
      : name(n), shape(s), view(v) {
    require(shape < SlotShape::free,
            "SlotSpec.shape must be full, rows, columns or scalar, or a function; of slot \"" +
                name + "\" it is",
            static_cast<int>(shape));
    require(view <= MatrixView::last_two, "SlotSpec.view must be one of MatrixView",
            static_cast<int>(view));
  }
  /// A free slot.
  SlotSpec(std::string_view n, FreeShape f) : name(n), shape(SlotShape::free), free(std::move(f)) {}
};

}  // namespace POLYAK_V0
}  // namespace polyak
