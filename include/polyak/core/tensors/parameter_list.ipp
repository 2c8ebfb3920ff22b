// SPDX-License-Identifier: Apache-2.0
// The functions of parameter_list.hpp.
#pragma once

#include <polyak/core/tensors/parameter_list.hpp>

#include <string>
#include <utility>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

POLYAK_DEFINE void refuse_moved_list() {
  refuse_order("polyak: a list of parameters or gradients is used after it was moved from");
}

POLYAK_DEFINE ParameterList::ParameterList(DType weights, std::shared_ptr<MemorySpace> space)
    : weights_(weights), swapped_(std::make_shared<std::atomic<bool>>(false)) {
  auto layout = std::make_shared<Layout>();
  layout->space = std::move(space);
  layout_ = std::move(layout);
}
POLYAK_DEFINE ParameterList::ParameterList(const ParameterList&) = default;
POLYAK_DEFINE ParameterList::ParameterList(ParameterList&&) noexcept = default;
POLYAK_DEFINE ParameterList& ParameterList::operator=(const ParameterList&) = default;
POLYAK_DEFINE ParameterList& ParameterList::operator=(ParameterList&&) noexcept = default;
POLYAK_DEFINE ParameterList::~ParameterList() = default;

POLYAK_DEFINE void ParameterList::add(TensorInfo tensor, void* data) {
  static_cast<void>(layout());
  const std::string& name = tensor.name;
  tensor.size = elements_of(tensor.shape, name);
  tensor.order = canonical(tensor.order, tensor.shape);
  const std::size_t bytes = tensor.size * bytes_of(tensor.dtype);
  require(!name.empty(), "a tensor's name must not be empty", name);
  require(layout_->find_any(name) == memory_.size(), "a tensor's name must be new", name);
  if (tensor.role == Role::average && tensor.dtype != weights_) {
    refuse_argument("tensor \"" + name + "\" is not of the list's type " +
                        std::string(name_of(weights_)) +
                        ": its role must be copy or ignore; its type",
                    name_of(tensor.dtype));
  }
  if (data == nullptr && bytes != 0) {
    refuse_argument("tensor \"" + name + "\" must have memory, not a null address",
                    std::string_view("null"));
  }
  if (layout_->space != nullptr && bytes != 0) layout_->space->check(data, name);
  if (swapped_->load()) refuse_order("polyak: add() while an average is swapped in");
  if (const std::size_t k = index_.first_overlap(data, bytes); k != MemoryIndex::none) {
    const TensorInfo& other = layout_->tensors[k];
    const bool same = data == memory_[k].data && bytes == other.size * bytes_of(other.dtype) &&
                      tensor.dtype == other.dtype && tensor.role == other.role;
    if (!same) {
      refuse_value("polyak: the memory of tensor \"" + name + "\" overlaps that of \"" +
                   other.name + "\"; only the same memory, type and role is an alias");
    }
    own_layout().add_alias(name, other.name);
    return;
  }
  detail::make_room(memory_);  // so that adding to the three lists cannot fail halfway
  index_.make_room();
  Layout& layout = own_layout();
  layout.make_room();
  memory_.push_back({data, tensor.size});
  index_.add(data, bytes);
  layout.add(std::move(tensor));
}

POLYAK_DEFINE std::size_t ParameterList::index_of(std::string_view name) const {
  const std::size_t index = layout()->find_any(name);
  if (index == memory_.size()) {
    refuse_value(std::string("polyak: there is no tensor \"").append(name).append("\""));
  }
  return index;
}

POLYAK_DEFINE std::size_t ParameterList::elements() const {
  std::size_t sum = 0;
  for (const TensorInfo& tensor : layout()->tensors) {
    if (tensor.dtype == weights_) sum += tensor.size;
  }
  return sum;
}

/// The layout for writing; copied first if a method or another list shares it.
POLYAK_DEFINE Layout& ParameterList::own_layout() {
  auto own = layout_.use_count() > 1 ? std::make_shared<Layout>(*layout_)
                                     : std::const_pointer_cast<Layout>(layout_);
  layout_ = own;
  return *own;
}

POLYAK_DEFINE void refuse_data_of(const TensorInfo& tensor) {
  refuse_value("polyak: tensor \"" + tensor.name + "\" holds " +
               std::string(name_of(tensor.dtype)));
}
POLYAK_DEFINE void refuse_size(std::string_view name, std::size_t given, std::size_t elements) {
  refuse_argument(std::string("the shape of tensor \"").append(name).append("\" must have ") +
                      text(given) + " elements",
                  elements);
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
