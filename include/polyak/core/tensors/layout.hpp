// SPDX-License-Identifier: Apache-2.0
/// @file
/// Names, shapes and roles of a list of tensors: what a method must agree on with its parameters.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/memory_space.hpp>

namespace polyak {
inline namespace v0 {

/// What averages do with a tensor.
enum class Role : std::uint8_t {
  average,  ///< a weight: trained by optimizers, averaged by averages
  copy,  ///< a buffer (BatchNorm statistics, counters): not trained; averages keep the newest value
  ignore,  ///< trained where it has a gradient, but no business of averages
};

/// How the elements of a tensor follow each other in memory.
enum class Order : std::uint8_t { row_major, column_major };

/// Sizes of the dimensions; empty for a single number.
using Shape = std::vector<std::int64_t>;

/// One tensor of a Layout.
struct TensorInfo {
  std::string name;
  Shape shape;
  Order order = Order::row_major;  ///< row_major where both orders are the same
  Role role = Role::average;
  DType dtype = DType::float32;
  std::size_t size = 0;  ///< elements

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

/// The items of a Layout: a vector that only the layout extends, so that its indexes stay right.
template <class T>
class LayoutItems {
 public:
  using value_type = T;
  using const_iterator = typename std::vector<T>::const_iterator;

  [[nodiscard]] std::size_t size() const { return items_.size(); }
  [[nodiscard]] bool empty() const { return items_.empty(); }
  [[nodiscard]] const T& operator[](std::size_t index) const { return items_[index]; }
  [[nodiscard]] const_iterator begin() const { return items_.begin(); }
  [[nodiscard]] const_iterator end() const { return items_.end(); }
  friend bool operator==(const LayoutItems&, const LayoutItems&) = default;

 private:
  friend struct Layout;
  std::vector<T> items_;
};

/// The tensors of a parameter list, without their memory. Adding a tensor and finding a name cost
/// O(1).
struct Layout {
  LayoutItems<TensorInfo> tensors;
  /// Further names of tensors that share their memory: alias, name in `tensors`.
  LayoutItems<std::pair<std::string, std::string>> aliases;
  /// Where the list and its methods have their memory; null for the host's.
  std::shared_ptr<MemorySpace> space;

  /// Index of the tensor of that name; tensors.size() where there is none.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    const std::size_t found =
        names_.find(name, [&](std::size_t k) { return tensors[k].name == name; });
    return found == detail::NameIndex::none ? tensors.size() : found;
  }

  /// Index in `aliases` of that alias; aliases.size() where there is none.
  [[nodiscard]] std::size_t find_alias(std::string_view name) const {
    const std::size_t found =
        alias_names_.find(name, [&](std::size_t k) { return aliases[k].first == name; });
    return found == detail::NameIndex::none ? aliases.size() : found;
  }

  /// Index of the tensor of that name or alias; tensors.size() where there is none.
  [[nodiscard]] std::size_t find_any(std::string_view name) const {
    const std::size_t alias = find_alias(name);
    return find(alias == aliases.size() ? name : std::string_view(aliases[alias].second));
  }

  /// Adds a tensor. Where the name is there already, find() goes on to return the earlier one.
  void add(TensorInfo tensor) {
    make_room();
    const std::size_t index = tensors.size();
    if (find(tensor.name) == index) names_.add(tensor.name, index);
    tensors.items_.push_back(std::move(tensor));
  }

  /// Adds a further name of the tensor `target`.
  void add_alias(std::string alias, std::string target) {
    detail::make_room(aliases.items_);
    alias_names_.make_room();
    const std::size_t index = aliases.size();
    if (find_alias(alias) == index) alias_names_.add(alias, index);
    aliases.items_.emplace_back(std::move(alias), std::move(target));
  }

  /// Allocates for one more tensor, so that the next add() cannot fail.
  void make_room() {
    detail::make_room(tensors.items_);
    names_.make_room();
  }

 private:
  detail::NameIndex names_, alias_names_;
};

namespace detail {

[[nodiscard]] inline std::size_t elements_of(const Shape& shape, std::string_view name) {
  std::size_t elements = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0) {
      refuse_argument(
          std::string("a dimension of tensor \"").append(name).append("\" must be >= 0"), extent);
    }
    elements *= static_cast<std::size_t>(extent);
  }
  return elements;
}

/// Memory order does not matter where at most one dimension is longer than 1.
[[nodiscard]] inline Order canonical(Order order, const Shape& shape) {
  const auto longer = std::count_if(shape.begin(), shape.end(), [](auto n) { return n > 1; });
  return longer <= 1 ? Order::row_major : order;
}

[[nodiscard]] inline std::string describe(const TensorInfo& tensor) {
  std::string words(name_of(tensor.dtype));
  words += " [";
  for (std::size_t k = 0; k < tensor.shape.size(); ++k) {
    words += (k == 0 ? "" : ", ") + text(tensor.shape[k]);
  }
  words += tensor.order == Order::row_major ? "]" : "] column-major";
  constexpr std::string_view roles[] = {"", " (copy)", " (ignore)"};
  return words.append(roles[static_cast<std::size_t>(tensor.role)]);
}

/// Whether describe() says the same of both.
[[nodiscard]] inline bool alike(const TensorInfo& a, const TensorInfo& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.order == b.order && a.role == b.role;
}

/// Every difference between what is given and what is expected, or nothing.
[[nodiscard]] POLYAK_COLD inline std::string differences(const Layout& given,
                                                         const Layout& expected) {
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
      add("\"" + name + "\" is there twice");
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

/// Bytes of the tensors that averages only copy, one after another.
[[nodiscard]] inline std::size_t buffer_bytes(const Layout& layout) {
  std::size_t bytes = 0;
  for (const TensorInfo& tensor : layout.tensors) {
    if (tensor.role == Role::copy) bytes += tensor.size * bytes_of(tensor.dtype);
  }
  return bytes;
}

/// Throws std::invalid_argument that lists the differences, unless the layouts agree.
inline void require_same(const std::shared_ptr<const Layout>& given,
                         const std::shared_ptr<const Layout>& expected, std::string_view what) {
  if (given == expected) [[likely]] {
    return;
  }
  if (given->space != expected->space) {
    refuse_value(
        std::string("polyak: ")
            .append(what)
            .append(" differ: they are of different memory, the host's or that of two executors"));
  }
  if (given->tensors == expected->tensors) return;
  const std::string list = differences(*given, *expected);
  if (!list.empty()) refuse_value(std::string("polyak: ").append(what).append(" differ: ") + list);
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak
