// SPDX-License-Identifier: Apache-2.0
// The functions of parameter_list.hpp.
#pragma once

#include <polyak/core/tensors/parameter_list.hpp>

#include <string>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE void refuse_moved_list() {
  refuse_order("polyak: a list of parameters or gradients is used after it was moved from");
}

POLYAK_DEFINE ParameterList::ParameterList(DType weights, std::shared_ptr<MemorySpace> space)
    : weights_(weights), places_(new Places), swapped_(new std::atomic<bool>(false)) {
  std::shared_ptr<Layout> layout(new Layout);
  layout->space = std::move(space);
  layout_ = std::move(layout);
}
POLYAK_DEFINE ParameterList::ParameterList(const ParameterList&) = default;
POLYAK_DEFINE ParameterList::ParameterList(ParameterList&&) noexcept = default;
POLYAK_DEFINE ParameterList& ParameterList::operator=(const ParameterList&) = default;
POLYAK_DEFINE ParameterList& ParameterList::operator=(ParameterList&&) noexcept = default;
POLYAK_DEFINE ParameterList::~ParameterList() = default;

POLYAK_DEFINE void ParameterList::require_memory(const TensorInfo& tensor, const void* data) const {
  const std::size_t bytes = tensor.size * bytes_of(tensor.dtype);
  if (data == nullptr && bytes != 0) {
    refuse_argument("tensor \"" + tensor.name + "\" must have memory, not a null address",
                    std::string_view("null"));
  }
  if (layout_->space != nullptr && bytes != 0) layout_->space->check(data, tensor.name);
}

/// Whether the same elements have other indexes in two tensors. Dimensions of 1 do not count, and a
/// tensor of one dimension is memory without indexes.
[[nodiscard]] inline bool turned(const TensorInfo& a, const TensorInfo& b) {
  const auto longer = [](const TensorInfo& tensor) {
    Shape shape;
    for (const std::int64_t size : tensor.shape) {
      if (size != 1) shape.push_back(size);
    }
    return shape;
  };
  const Shape first = longer(a), second = longer(b);
  if (first.size() < 2 || second.size() < 2) return false;
  return first != second || a.order != b.order;
}

POLYAK_DEFINE void ParameterList::add(TensorInfo tensor, void* data, Followed object) {
  static_cast<void>(layout());
  const std::string& name = tensor.name;
  tensor.size = elements_of(tensor.shape, name);
  tensor.order = canonical(tensor.order, tensor.shape);
  const std::size_t bytes = tensor.size * bytes_of(tensor.dtype);
  require(!name.empty(), "a tensor's name must not be empty", name);
  require(layout_->find_any(name) == size(), "a tensor's name must be new", name);
  if (tensor.role == Role::average && tensor.dtype != weights_) {
    refuse_argument("tensor \"" + name + "\" is not of the list's type " +
                        std::string(name_of(weights_)) +
                        ": its role must be copy, ignore or frozen; its type",
                    name_of(tensor.dtype));
  }
  require_memory(tensor, data);
  if (swapped()) refuse_order("polyak: add() while an average is swapped in");
  static_cast<void>(memory());
  if (const std::size_t k = index().first_overlap(data, bytes); k != MemoryIndex::none) {
    const TensorInfo& other = layout_->tensors[k];
    const bool same = data == places_->memory[k].data &&
                      bytes == other.size * bytes_of(other.dtype) && tensor.dtype == other.dtype &&
                      tensor.role == other.role;
    if (!same) {
      refuse_value("polyak: the memory of tensor \"" + name + "\" overlaps that of \"" +
                   other.name + "\"; only the same memory, type and role is an alias");
    }
    if (turned(tensor, other)) {
      refuse_value("polyak: the memory of tensor \"" + name + "\" is that of \"" + other.name +
                   "\" transposed or reshaped, " + describe(tensor) + " for " + describe(other) +
                   "; an alias must have the same shape and order, or one dimension");
    }
    own_layout().add_alias(name, other.name);
    return;
  }
  Places& places = own_places();
  detail::make_room(places.memory);  // so that adding to the lists cannot fail halfway
  detail::make_room(places.followed);
  places.index.make_room();
  Layout& layout = own_layout();
  layout.make_room();
  places.memory.push_back({data, tensor.size});
  places.any_followed = places.any_followed || object.object != nullptr;
  places.followed.push_back(std::move(object));
  places.index.add(data, bytes);
  layout.add(std::move(tensor));
}

POLYAK_DEFINE void ParameterList::rebind(const TensorInfo& given, void* data,
                                         const Followed& object) {
  const std::size_t k = index_of(given.name);
  const TensorInfo& tensor = layout_->tensors[k];
  if (given.dtype != tensor.dtype || given.shape != tensor.shape ||
      canonical(given.order, given.shape) != tensor.order) {
    TensorInfo words = given;
    words.role = tensor.role;
    words.order = canonical(given.order, given.shape);
    refuse_value("polyak: rebind: tensor \"" + tensor.name + "\" is " + describe(tensor) +
                 ", the new memory is " + describe(words));
  }
  require_memory(tensor, data);
  if (swapped()) refuse_order("polyak: rebind() while an average is swapped in");
  const std::size_t bytes = tensor.size * bytes_of(tensor.dtype);
  for (std::size_t other = 0; other < size(); ++other) {
    const TensorInfo& there = layout_->tensors[other];
    if (other == k) continue;
    if (overlap(data, bytes, address(other), there.size * bytes_of(there.dtype))) {
      refuse_value("polyak: rebind: the memory of tensor \"" + tensor.name +
                   "\" overlaps that of \"" + there.name + "\"");
    }
  }
  places_->memory[k].data = data;
  places_->followed[k] = object;
  places_->any_followed = places_->any_followed || object.object != nullptr;
  ++places_->moves;
}

POLYAK_DEFINE void ParameterList::follow(std::size_t tensor) const {
  const Followed& followed = places_->followed[tensor];
  TensorMemory& memory = places_->memory[tensor];
  if (followed.object == nullptr || memory.size == 0) return;
  const TensorInfo& info = layout_->tensors[tensor];
  void* now = nullptr;
  if (!followed.read(followed.object, info, &now, nullptr)) {
    refuse_reshaped("tensor", info, followed);
  }
  if (now == memory.data) return;
  memory.data = now;
  ++places_->moves;
}
POLYAK_DEFINE void ParameterList::follow() const {
  for (std::size_t k = 0; k < places_->memory.size(); ++k) follow(k);
}

POLYAK_DEFINE void* ParameterList::address(std::size_t tensor) const noexcept {
  const Followed& followed = places_->followed[tensor];
  void* now = places_->memory[tensor].data;
  if (followed.object == nullptr || places_->memory[tensor].size == 0) return now;
  return followed.read(followed.object, layout_->tensors[tensor], &now, nullptr) ? now : nullptr;
}

POLYAK_DEFINE std::shared_ptr<const KeptMemory> ParameterList::keep(std::size_t tensor) const {
  const Followed& followed = places().followed[tensor];
  return followed.shared == nullptr ? nullptr : followed.shared->keep();
}

POLYAK_DEFINE bool ParameterList::swapped() const {
  if (mark()->load()) return true;
  return !SwappedMemory::empty() && SwappedMemory::overlaps(ranges(std::vector(size(), true)));
}
POLYAK_DEFINE std::vector<AddressRange> ParameterList::ranges(
    const std::vector<bool>& tensors) const {
  std::vector<AddressRange> all(size());
  for (std::size_t k = 0; k < all.size(); ++k) {
    if (!tensors[k] || memory(k).size == 0) continue;
    all[k].begin = MemoryIndex::address(memory(k).data);
    all[k].end = all[k].begin + memory(k).size * bytes_of(layout()->tensors[k].dtype);
  }
  return all;
}

POLYAK_DEFINE const MemoryIndex& ParameterList::index() const {
  if (places().indexed != places_->moves) {
    places_->index.clear();
    for (std::size_t k = 0; k < places_->memory.size(); ++k) {
      places_->index.add(places_->memory[k].data,
                         places_->memory[k].size * bytes_of(layout_->tensors[k].dtype));
    }
    places_->indexed = places_->moves;
  }
  return places_->index;
}

POLYAK_DEFINE void refuse_reshaped(std::string_view what, const TensorInfo& tensor,
                                   const Followed& followed) {
  if (followed.shared != nullptr) followed.shared->check();
  void* data = nullptr;
  Shape shape;
  followed.read(followed.object, tensor, &data, &shape);
  refuse_value("polyak: the object of " + std::string(what) + " \"" + tensor.name +
               "\" has the shape " + shape_text(shape) + " now, expected " +
               shape_text(tensor.shape));
}

POLYAK_DEFINE std::size_t ParameterList::index_of(std::string_view name) const {
  const std::size_t index = layout()->find_any(name);
  if (index == size()) {
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
  if (layout_.use_count() > 1) layout_.reset(new Layout(*layout_));
  return const_cast<Layout&>(*layout_);  // made without const, above or in the constructor
}

/// The places for writing; copied first if another list shares them.
POLYAK_DEFINE Places& ParameterList::own_places() {
  if (places_.use_count() > 1) places_.reset(new Places(*places_));
  return *places_;
}

POLYAK_DEFINE void require_dtype(DType dtype, std::string_view name) {
  if (dtype <= DType::float64) return;
  refuse_argument(std::string("the type of tensor \"").append(name).append("\" must be a DType"),
                  static_cast<int>(dtype));
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
}  // namespace POLYAK_V0
}  // namespace polyak
