// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of core/tensors/layout.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE std::string shape_text(const Shape& shape) {
  std::string words = "[";
  for (const std::int64_t extent : shape)
    words.append(words.size() > 1 ? ", " : "") += text(extent);
  return words + "]";
}

POLYAK_DEFINE std::size_t elements_of(const Shape& shape, std::string_view name) {
  for (const std::int64_t extent : shape) {
    if (extent < 0) {
      refuse_argument(
          std::string("a dimension of tensor \"").append(name).append("\" must be >= 0"), extent);
    }
  }
  for (const std::int64_t extent : shape) {
    if (extent == 0) return 0;
  }
  // Bytes of any type are then counted without overflow.
  constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max() / 16;
  std::size_t elements = 1;
  for (const std::int64_t extent : shape) {
    const auto next = static_cast<std::size_t>(extent);
    if (next > most / elements) {
      refuse_value(std::string("polyak: tensor \"").append(name).append("\" must have at most ") +
                   text(most) + " elements, got the shape " + shape_text(shape));
    }
    elements *= next;
  }
  return elements;
}

POLYAK_DEFINE Order canonical(Order order, const Shape& shape) {
  if (order == Order::channels_last) {
    std::int64_t places = 1;  // of one channel
    for (std::size_t k = 2; k < shape.size(); ++k) places *= shape[k];
    return shape.size() < 3 || shape[1] <= 1 || places <= 1 ? Order::row_major : order;
  }
  int longer = 0;
  for (const std::int64_t extent : shape) longer += extent > 1 ? 1 : 0;
  return longer <= 1 ? Order::row_major : order;
}

POLYAK_DEFINE std::string describe(const TensorInfo& tensor) {
  std::string words = std::string(name_of(tensor.dtype)) + " " + shape_text(tensor.shape);
  if (tensor.order == Order::column_major) words += " column-major";
  if (tensor.order == Order::channels_last) words += " channels-last";
  if (tensor.role != Role::average) words.append(" (").append(name_of(tensor.role)) += ')';
  return words;
}

POLYAK_DEFINE bool alike(const TensorInfo& a, const TensorInfo& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.order == b.order && a.role == b.role;
}

POLYAK_DEFINE POLYAK_COLD std::string differences(const Layout& given, const Layout& expected) {
  std::string list;
  const auto add = [&](const std::string& line) {
    list.append(list.empty() ? "" : "; ").append(line);
  };
  for (const TensorInfo& want : expected.tensors) {
    const std::size_t k = given.find(want.name);
    if (k == given.tensors.size()) {
      add("\"" + want.name + "\" is missing");
    } else if (!alike(given.tensors[k], want)) {
      add("\"" + want.name + "\" is " + describe(given.tensors[k]) + ", expected " +
          describe(want));
    }
  }
  for (std::size_t k = 0; k < given.tensors.size(); ++k) {
    const std::string& name = given.tensors[k].name;
    if (expected.find(name) == expected.tensors.size()) {
      add("\"" + name + "\" is extra");
    } else if (given.find(name) != k) {  // only where a file lists it
      add("\"" + name + "\" is listed twice");
    }
  }
  if (list.empty()) {
    for (std::size_t k = 0; k < given.tensors.size(); ++k) {
      const std::string& name = given.tensors[k].name;
      if (name != expected.tensors[k].name) {
        add("\"" + name + "\" is number " + text(k) + ", expected number " +
            text(expected.find(name)));
      }
    }
  }
  return list;
}

POLYAK_DEFINE std::size_t buffer_bytes(const Layout& layout) {
  std::size_t bytes = 0;
  for (const TensorInfo& tensor : layout.tensors) {
    if (tensor.role == Role::copy) bytes += tensor.size * bytes_of(tensor.dtype);
  }
  return bytes;
}

POLYAK_DEFINE void require_same(const std::shared_ptr<const Layout>& given,
                                const std::shared_ptr<const Layout>& expected,
                                std::string_view what) {
  if (given == expected) [[likely]] {
    return;
  }
  if (given->space != expected->space) {
    refuse_value(
        std::string("polyak: ")
            .append(what)
            .append(
                " differ: they are in different memory: the host's, or of different executors"));
  }
  if (given->tensors == expected->tensors) return;
  const std::string list = differences(*given, *expected);
  if (!list.empty()) refuse_value(std::string("polyak: ").append(what).append(" differ: ") + list);
}

}  // namespace detail

POLYAK_DEFINE std::size_t Layout::find(std::string_view name) const {
  const std::size_t found =
      names_.find(name, [&](std::size_t k) { return tensors[k].name == name; });
  return found == detail::NameIndex::none ? tensors.size() : found;
}

POLYAK_DEFINE std::size_t Layout::find_alias(std::string_view name) const {
  const std::size_t found =
      alias_names_.find(name, [&](std::size_t k) { return aliases[k].first == name; });
  return found == detail::NameIndex::none ? aliases.size() : found;
}

POLYAK_DEFINE std::size_t Layout::find_any(std::string_view name) const {
  const std::size_t alias = find_alias(name);
  return find(alias == aliases.size() ? name : std::string_view(aliases[alias].second));
}

POLYAK_DEFINE void Layout::add(TensorInfo tensor) {
  make_room();
  const std::size_t index = tensors.size();
  if (find(tensor.name) == index) names_.add(tensor.name, index);
  tensors.items_.push_back(std::move(tensor));
}

POLYAK_DEFINE void Layout::add_alias(std::string alias, std::string target) {
  detail::make_room(aliases.items_);
  alias_names_.make_room();
  const std::size_t index = aliases.size();
  if (find_alias(alias) == index) alias_names_.add(alias, index);
  aliases.items_.emplace_back(std::move(alias), std::move(target));
}

POLYAK_DEFINE void Layout::make_room() {
  detail::make_room(tensors.items_);
  names_.make_room();
}

}  // namespace POLYAK_V0
}  // namespace polyak
