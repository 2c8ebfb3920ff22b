// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reading golden files: numbers, tensors, and objects that remember which entries were read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace golden {

using Json = nlohmann::json;

/// The fault of a file, in one line.
class Malformed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One flat row-major list per tensor.
using Tensors = std::vector<std::vector<double>>;

/// Names and shapes of the tensors of a case.
struct Layout {
  std::vector<std::string> names;
  std::vector<std::vector<std::int64_t>> shapes;
  bool named = false;  ///< Tensors are objects by name, else lists in order.

  [[nodiscard]] std::size_t elements(std::size_t tensor) const {
    std::size_t product = 1;
    for (const std::int64_t dimension : shapes[tensor]) {
      product *= static_cast<std::size_t>(dimension);
    }
    return product;
  }
};

/// A number, or one of the strings for numbers that JSON does not have.
[[nodiscard]] inline double number_of(const Json& value, const std::string& where) {
  if (value.is_number()) {
    return value.get<double>();
  }
  if (value == "inf" || value == "Infinity") {
    return std::numeric_limits<double>::infinity();
  }
  if (value == "-inf" || value == "-Infinity") {
    return -std::numeric_limits<double>::infinity();
  }
  if (value == "nan" || value == "NaN") {
    return std::numeric_limits<double>::quiet_NaN();
  }
  throw Malformed(where + " is not a number");
}

[[nodiscard]] inline const Json& list_of(const Json& value, const std::string& where) {
  if (!value.is_array()) {
    throw Malformed(where + " is not a list");
  }
  return value;
}

/// A list of numbers. A single number is a list of one; tensors of rank 0 are written like this.
[[nodiscard]] inline std::vector<double> numbers_of(const Json& value, const std::string& where) {
  if (!value.is_array()) {
    return {number_of(value, where)};
  }
  std::vector<double> numbers;
  numbers.reserve(value.size());
  for (const Json& entry : value) {
    numbers.push_back(number_of(entry, where));
  }
  return numbers;
}

[[nodiscard]] inline std::vector<std::int64_t> shape_of(const Json& value,
                                                        const std::string& where) {
  std::vector<std::int64_t> shape;
  for (const Json& dimension : list_of(value, where)) {
    if (!dimension.is_number_unsigned()) {
      throw Malformed(where + " is not a list of dimensions");
    }
    shape.push_back(dimension.get<std::int64_t>());
  }
  return shape;
}

[[nodiscard]] inline Layout layout_of(const Json& shapes) {
  Layout layout;
  layout.named = shapes.is_object();
  if (!layout.named) {
    (void)list_of(shapes, "shapes");
  }
  const auto add = [&layout](const std::string& name, const Json& shape) {
    layout.names.push_back(name);
    layout.shapes.push_back(shape_of(shape, "shapes." + name));
  };
  for (const auto& [key, shape] : shapes.items()) {
    if (shape.is_array() && !shape.empty() && shape.front().is_array()) {
      for (std::size_t k = 0; k < shape.size(); ++k) {  // several tensors of one name
        add(key + "[" + std::to_string(k) + "]", shape[k]);
      }
    } else {
      add(layout.named ? key : "tensor" + key, shape);
    }
  }
  return layout;
}

/// The tensor with index `tensor` in the layout, from a list or an object of tensors.
[[nodiscard]] inline const Json& tensor_of(const Json& tensors, const Layout& layout,
                                           std::size_t tensor, const std::string& where) {
  if (layout.named ? !tensors.is_object() : !tensors.is_array()) {
    throw Malformed(where + " does not hold tensors");
  }
  if (tensors.size() != layout.names.size()) {
    throw Malformed(where + " does not have one entry per tensor");
  }
  if (!layout.named) {
    return tensors[tensor];
  }
  const auto found = tensors.find(layout.names[tensor]);
  if (found == tensors.end()) {
    throw Malformed(where + " lacks " + layout.names[tensor]);
  }
  return *found;
}

[[nodiscard]] inline std::vector<double> values_of(const Json& tensors, const Layout& layout,
                                                   std::size_t tensor, const std::string& where) {
  const std::string place = where + "." + layout.names[tensor];
  auto values = numbers_of(tensor_of(tensors, layout, tensor, where), place);
  if (values.size() != layout.elements(tensor)) {
    throw Malformed(place + " does not have the size of its shape");
  }
  return values;
}

[[nodiscard]] inline Tensors tensors_of(const Json& tensors, const Layout& layout,
                                        const std::string& where) {
  Tensors all;
  for (std::size_t i = 0; i < layout.names.size(); ++i) {
    all.push_back(values_of(tensors, layout, i, where));
  }
  return all;
}

/// An object of a file. It remembers which entries were read, because an entry that nothing reads
/// is an error: a replay that ignored a hyperparameter or a recorded value would prove nothing.
class Section {
 public:
  Section(const Json& node, std::string path, std::set<const Json*>& read)
      : node_(&node), path_(std::move(path)), read_(&read) {
    if (!node.is_object()) {
      throw Malformed(path_ + " is not an object");
    }
  }

  [[nodiscard]] std::string path(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }

  /// Whether the entry exists and is not null.
  [[nodiscard]] bool has(const std::string& key) const {
    const auto found = node_->find(key);
    if (found == node_->end()) {
      return false;
    }
    if (found->is_null()) {
      read_->insert(&*found);
      return false;
    }
    return true;
  }

  /// The value of `key`. All of it counts as read.
  [[nodiscard]] const Json& at(const std::string& key) const {
    if (!has(key)) {
      throw Malformed(path(key) + " is missing");
    }
    const Json& value = *node_->find(key);
    read_->insert(&value);
    return value;
  }

  /// The object `key`, or an empty one if there is none. Its entries are read one by one.
  [[nodiscard]] Section section(const std::string& key) const {
    static const Json nothing = Json::object();
    return {has(key) ? *node_->find(key) : nothing, path(key), *read_};
  }

  /// The objects of the list `key`.
  [[nodiscard]] std::vector<Section> rows(const std::string& key) const {
    std::vector<Section> rows;
    if (!has(key)) {
      throw Malformed(path(key) + " is missing");
    }
    const Json& list = list_of(*node_->find(key), path(key));
    for (std::size_t i = 0; i < list.size(); ++i) {
      rows.emplace_back(list[i], path(key) + "[" + std::to_string(i) + "]", *read_);
    }
    return rows;
  }

  [[nodiscard]] double number(const std::string& key) const {
    return number_of(at(key), path(key));
  }
  [[nodiscard]] double number(const std::string& key, double fallback) const {
    return has(key) ? number(key) : fallback;
  }

  [[nodiscard]] std::int64_t integer(const std::string& key) const {
    const double value = number(key);
    if (!(value > -0x1p53 && value < 0x1p53) ||
        static_cast<double>(static_cast<std::int64_t>(value)) != value) {
      throw Malformed(path(key) + " is not an integer");
    }
    return static_cast<std::int64_t>(value);
  }
  [[nodiscard]] std::int64_t integer(const std::string& key, std::int64_t fallback) const {
    return has(key) ? integer(key) : fallback;
  }

  /// An integer >= 1, for periods and lengths.
  [[nodiscard]] std::int64_t count(const std::string& key) const {
    const std::int64_t value = integer(key);
    if (value < 1) {
      throw Malformed(path(key) + " must be at least 1");
    }
    return value;
  }
  [[nodiscard]] std::int64_t count(const std::string& key, std::int64_t fallback) const {
    return has(key) ? count(key) : fallback;
  }

  [[nodiscard]] bool flag(const std::string& key, bool fallback) const {
    if (!has(key)) {
      return fallback;
    }
    if (!at(key).is_boolean()) {
      throw Malformed(path(key) + " is neither true nor false");
    }
    return at(key).get<bool>();
  }

  [[nodiscard]] std::string text(const std::string& key) const {
    if (!at(key).is_string()) {
      throw Malformed(path(key) + " is not a string");
    }
    return at(key).get<std::string>();
  }
  [[nodiscard]] std::string text(const std::string& key, const std::string& fallback) const {
    return has(key) ? text(key) : fallback;
  }

  [[nodiscard]] std::vector<double> numbers(const std::string& key) const {
    return numbers_of(list_of(at(key), path(key)), path(key));
  }

 private:
  const Json* node_;
  std::string path_;
  std::set<const Json*>* read_;
};

/// The path of an entry below `node` that is not empty and was not read; else an empty string.
[[nodiscard]] inline std::string unread_entry(const Json& node, const std::string& path,
                                              const std::set<const Json*>& read) {
  if (read.contains(&node) || (node.is_structured() && node.empty())) {
    return {};
  }
  if (!node.is_object() && !(node.is_array() && node.front().is_object())) {
    return path;
  }
  for (const auto& [key, child] : node.items()) {
    auto found =
        unread_entry(child, node.is_array() ? path + "[" + key + "]" : path + "." + key, read);
    if (!found.empty()) {
      return found;
    }
  }
  return {};
}

}  // namespace golden
