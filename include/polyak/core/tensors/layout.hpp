// SPDX-License-Identifier: Apache-2.0
/// @file
/// Names, shapes and roles of a list of tensors. A method and its parameters must agree on them.
#pragma once

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
inline namespace POLYAK_V0 {

/// The part of a tensor in training and in averages. Files of a model hold the tensors of all
/// roles.
enum class Role : std::uint8_t {
  average,  ///< a weight: trained by optimizers, averaged by averages
  copy,  ///< a buffer (BatchNorm statistics, counters): not trained; averages keep the newest value
  ignore,  ///< trained if it has a gradient, but not averaged
  /// A weight that nothing changes, of any type: it takes no gradient, no method has state for it,
  /// and no pass reads or writes it. For weights that train later, see Elementwise::group().
  frozen,
};

[[nodiscard]] constexpr std::string_view name_of(Role role) {
  constexpr std::string_view names[] = {"average", "copy", "ignore", "frozen"};
  return names[static_cast<std::size_t>(role)];
}

/// The order of a tensor's elements in memory.
enum class Order : std::uint8_t {
  row_major,
  column_major,
  /// A tensor (d0, d1, d2, ...) lies as (d0, d2, ..., d1) row-major: images and filters whose
  /// channels, the second dimension, are adjacent. Needs three dimensions or more.
  channels_last
};

/// Sizes of the dimensions; empty for a single number.
using Shape = std::vector<std::int64_t>;

/// One tensor of a Layout.
struct TensorInfo {
  std::string name;
  Shape shape;
  Order order = Order::row_major;  ///< row_major if the orders are the same
  Role role = Role::average;
  DType dtype = DType::float32;
  std::size_t size = 0;  ///< elements

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

/// The items of a Layout: a vector that only the layout can extend, so that its indexes stay valid.
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
  /// Other names of tensors, for the same memory: alias, name in `tensors`.
  LayoutItems<std::pair<std::string, std::string>> aliases;
  /// The memory space of the list and its methods; null for the host's memory.
  std::shared_ptr<MemorySpace> space;

  /// Index of the tensor with this name; tensors.size() if there is none.
  [[nodiscard]] std::size_t find(std::string_view name) const;

  /// Index of this alias in `aliases`; aliases.size() if there is none.
  [[nodiscard]] std::size_t find_alias(std::string_view name) const;

  /// Index of the tensor with this name or alias; tensors.size() if there is none.
  [[nodiscard]] std::size_t find_any(std::string_view name) const;

  /// Adds a tensor. If the name exists already, find() still returns the earlier tensor.
  void add(TensorInfo tensor);

  /// Adds another name of the tensor `target`.
  void add_alias(std::string alias, std::string target);

  /// Allocates for one more tensor, so that the next add() cannot fail.
  void make_room();

 private:
  detail::NameIndex names_, alias_names_;
};

namespace detail {

/// Whether optimizers train tensors of this role.
[[nodiscard]] constexpr bool is_trained(Role role) {
  return role == Role::average || role == Role::ignore;
}

/// "[2, 3]".
[[nodiscard]] std::string shape_text(const Shape& shape);

/// The product of the dimensions. Throws std::invalid_argument for a negative dimension, and for
/// more elements than memory can have.
[[nodiscard]] std::size_t elements_of(const Shape& shape, std::string_view name);

/// Returns row_major if that is the same order: at most one dimension is longer than 1 or, for
/// channels_last, the second dimension or all after it are not.
[[nodiscard]] Order canonical(Order order, const Shape& shape);

[[nodiscard]] std::string describe(const TensorInfo& tensor);

/// Whether describe() returns the same text for both.
[[nodiscard]] bool alike(const TensorInfo& a, const TensorInfo& b);

/// Every difference between the given and the expected layout, or an empty text.
[[nodiscard]] std::string differences(const Layout& given, const Layout& expected);

/// Bytes of all tensors that averages only copy, stored one after another.
[[nodiscard]] std::size_t buffer_bytes(const Layout& layout);

/// Throws std::invalid_argument that lists the differences, unless the layouts agree.
void require_same(const std::shared_ptr<const Layout>& given,
                  const std::shared_ptr<const Layout>& expected, std::string_view what);

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/tensors/layout.ipp>
#endif
