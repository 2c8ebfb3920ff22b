// SPDX-License-Identifier: Apache-2.0
// The functions of gradient_places.hpp.
#pragma once

#include <polyak/core/tensors/gradient_places.hpp>

#include <string>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

[[nodiscard]] inline bool is_trained(const TensorInfo& tensor, DType weights) {
  return is_trained(tensor.role) && tensor.dtype == weights;
}

POLYAK_DEFINE GradientPlaces::GradientPlaces(const ParameterList& params, DType weights)
    : params_(params),
      weights_(weights),
      free_((static_cast<void>(params.memory()), params.index())),
      moves_(params.moves()) {
  const auto& tensors = params.layout()->tensors;
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    if (!is_trained(tensors[k], weights)) continue;
    trained_.push_back({k, tensors[k].size * bytes_of(tensors[k].dtype), 0});
  }
}

POLYAK_DEFINE std::size_t GradientPlaces::index_of(std::string_view name) const {
  const auto& layout = params_.layout();
  const std::size_t alias = layout->find_alias(name);
  if (alias != layout->aliases.size()) {
    refuse_value(std::string("polyak: \"").append(name) + "\" is an alias of \"" +
                 layout->aliases[alias].second + "\": give that tensor the summed gradient");
  }
  const std::size_t index = layout->find(name);
  if (index == layout->tensors.size()) {
    refuse_value(std::string("polyak: there is no tensor \"").append(name).append("\""));
  }
  return index;
}

POLYAK_DEFINE const void* GradientPlaces::place_of(std::size_t index, const void* data) const {
  const TensorInfo& tensor = info(index);
  if (!is_trained(tensor, weights_)) {
    refuse_value("polyak: \"" + tensor.name + "\" is not trained, it takes no gradient");
  }
  if (data == nullptr && tensor.size != 0) {
    refuse_argument("the gradient of \"" + tensor.name + "\" must have memory, not a null address",
                    std::string_view("null"));
  }
  if (tensor.size != 0) {
    const std::uintptr_t begin = MemoryIndex::address(data);
    const std::uintptr_t end = begin + tensor.size * bytes_of(tensor.dtype);
    static_cast<void>(params_.memory(index));
    if (params_.moves() != moves_) find_gaps();
    if (!free_.fits(free_.gap_before(end), begin, end)) {
      static_cast<void>(gap_or_refusal(index, data, begin, end));
    }
    if (params_.layout()->space != nullptr) check_space(index, data);
  }
  alignas(double) static constexpr char nowhere = 0;
  return data != nullptr ? data : &nowhere;
}

POLYAK_DEFINE void GradientPlaces::require_shape(std::size_t index, const Shape& shape,
                                                 Order order) const {
  const TensorInfo& tensor = info(index);
  if (shape == tensor.shape && order == tensor.order) return;
  TensorInfo given = tensor;
  given.shape = shape;
  given.order = order;
  refuse_value("polyak: the gradient of \"" + tensor.name + "\" is " + describe(given) +
               ", expected " + describe(tensor));
}
POLYAK_DEFINE void GradientPlaces::require_size(std::size_t index, std::size_t size) const {
  const TensorInfo& tensor = info(index);
  if (size == tensor.size) return;
  refuse_argument(
      "the gradient of \"" + tensor.name + "\" must have " + text(tensor.size) + " elements", size);
}
POLYAK_DEFINE void GradientPlaces::require_number(std::string_view function,
                                                  std::size_t given) const {
  if (given == trained_.size()) return;
  refuse_argument(std::string(function) + " must be given one gradient for each of the " +
                      text(trained_.size()) + " trained tensors",
                  given);
}

POLYAK_DEFINE void GradientPlaces::find_gaps() const {
  static_cast<void>(params_.memory());
  if (params_.moves() == moves_) return;
  free_.find(params_.index());
  moves_ = params_.moves();
}
POLYAK_DEFINE std::size_t GradientPlaces::gap_or_refusal(std::size_t index, const void* data,
                                                         std::uintptr_t begin,
                                                         std::uintptr_t end) const {
  find_gaps();
  const std::size_t gap = free_.gap_before(end);
  if (!free_.fits(gap, begin, end)) refuse_overlap(index, data);
  return gap;
}
POLYAK_DEFINE void GradientPlaces::check_space(std::size_t index, const void* data) const {
  params_.layout()->space->check(data, info(index).name);
}
POLYAK_DEFINE void GradientPlaces::refuse_overlap(std::size_t index, const void* data) const {
  const TensorInfo& tensor = info(index);
  const std::size_t overlapped =
      params_.index().first_overlap(data, tensor.size * bytes_of(tensor.dtype));
  refuse_value("polyak: the gradient of \"" + tensor.name + "\" overlaps the memory of tensor \"" +
               info(overlapped).name + "\"");
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
