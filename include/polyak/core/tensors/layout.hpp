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

/// The tensors of a parameter list, without their memory.
struct Layout {
  std::vector<TensorInfo> tensors;
  /// Further names of tensors that share their memory: alias, name in `tensors`.
  std::vector<std::pair<std::string, std::string>> aliases;
  /// Where the list and its methods have their memory; null for the host's.
  std::shared_ptr<MemorySpace> space;

  /// Index of the tensor of that name; tensors.size() where there is none.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    const auto it = std::find_if(tensors.begin(), tensors.end(),
                                 [&](const TensorInfo& tensor) { return tensor.name == name; });
    return static_cast<std::size_t>(it - tensors.begin());
  }
};

namespace detail {

[[nodiscard]] inline std::size_t elements_of(const Shape& shape, std::string_view name) {
  std::size_t elements = 1;
  for (const std::int64_t extent : shape) {
    require(extent >= 0,
            std::string("a dimension of tensor \"").append(name).append("\" must be >= 0"), extent);
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
    } else if (describe(given.tensors[k]) != describe(want)) {
      add("\"" + want.name + "\" is " + describe(given.tensors[k]) + ", expected " +
          describe(want));
    }
  }
  for (const TensorInfo& have : given.tensors) {
    if (expected.find(have.name) == expected.tensors.size()) add("\"" + have.name + "\" is extra");
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
