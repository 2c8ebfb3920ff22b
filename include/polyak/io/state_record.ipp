// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/state_record.hpp; the record as JSON, and its reading.
///
/// Above 300 lines: what is written and read is one format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_header.hpp>
#include <polyak/io/state_record.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE_ON_USE std::string label(std::size_t index, const RecordedMethod& method) {
  return "method " + text(index) + " (" + method.type + ")";
}

POLYAK_DEFINE_ON_USE std::string RecordedPart::name(std::size_t method_in_file,
                                                    std::string_view tensor_in_file) const {
  std::string all;
  if (method != none) all.append(state_prefix).append(text(method_in_file)).append("/");
  return all.append(what).append(tensor == none ? std::string_view() : tensor_in_file);
}

POLYAK_DEFINE_ON_USE void record_tensor(StateRecord& all, RecordedPart part, const TensorInfo& info,
                                        DType dtype, const void* data, MemorySpace* space) {
  RecordedTensor one;
  one.part = std::move(part);
  one.spec.name = one.part.name(one.part.method, info.name);
  one.spec.dtype = safetensors_type(dtype);
  one.spec.shape.assign(info.shape.begin(), info.shape.end());
  one.data = static_cast<const std::byte*>(data);
  one.space = space;
  one.element_bytes = bytes_of(dtype);
  one.bytes = info.size * one.element_bytes;
  one.order = info.order;
  all.tensors.push_back(std::move(one));
}

POLYAK_DEFINE_ON_USE void record_parameters(StateRecord& all, const ParameterList& params) {
  if (params.swapped()) {
    refuse_order("polyak: save or load while an average is swapped in; end its guard first");
  }
  const Layout& layout = *params.layout();
  const std::size_t number = all.lists.size();
  const auto check_utf8 = [](const std::string& name) {
    require(is_utf8(name), "a tensor that is saved must have a name in UTF-8; its name", name);
  };
  for (const auto& [alias, target] : layout.aliases) check_utf8(alias);
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    const TensorInfo& info = layout.tensors[k];
    check_utf8(info.name);
    require(!info.name.starts_with(state_prefix),
            "a tensor that is saved must not have a name that begins with \"polyak/\"", info.name);
    for (const auto& list : all.lists) {
      require(list->find(info.name) == list->tensors.size(),
              "a tensor's name must be new among all lists that are saved together", info.name);
    }
    record_tensor(all, {{}, RecordedPart::none, number, k}, info, info.dtype, params.memory(k).data,
                  layout.space.get());
  }
  all.lists.push_back(params.layout());
}

POLYAK_DEFINE_ON_USE StateRecorder::StateRecorder(StateRecord& all, std::string_view type,
                                                  DType parameter, DType state,
                                                  const std::shared_ptr<const Layout>& layout)
    : StateVisitor(true), all_(all), method_(all.methods.size()) {
  require_same(all.lists.back(), layout,
               "the parameters named before a method and those of the method");
  RecordedMethod& method = all.methods.emplace_back();
  method.type = type;
  method.parameter = name_of(parameter);
  method.state = name_of(state);
  method.list = all.lists.size() - 1;
}
POLYAK_DEFINE void StateRecorder::add_option(OptionText&& option) {
  all_.methods[method_].options.push_back(std::move(option));
}
POLYAK_DEFINE void StateRecorder::add_scalar(std::string_view name, const void* value,
                                             const StateScalarType& type) {
  all_.methods[method_].scalars.push_back({std::string(name), type.text(value), type});
}
POLYAK_DEFINE void StateRecorder::add_newer_scalar(std::string_view name, const void* value,
                                                   const StateScalarType& type, const void* usual) {
  add_scalar(name, value, type);
  all_.methods[method_].scalars.back().usual = type.text(usual);
}
POLYAK_DEFINE void StateRecorder::counters(std::string_view name,
                                           std::span<const std::int64_t> values) {
  counters_in(name, values, difference_range);
}
POLYAK_DEFINE void StateRecorder::counters_in(std::string_view name,
                                              std::span<const std::int64_t> values,
                                              const NumberRange& range) {
  TensorInfo info;
  info.shape = {static_cast<std::int64_t>(values.size())};
  info.dtype = DType::int64;
  info.size = values.size();
  record_tensor(all_, part(std::string(name)), info, info.dtype, values.data(), nullptr);
  all_.tensors.back().range = range;
}
POLYAK_DEFINE_ON_USE RecordedPart StateRecorder::part(std::string what, std::size_t tensor) const {
  return {std::move(what), method_, all_.methods[method_].list, tensor};
}
/// Calls use(tensor, offset) for each buffer. The copies of buffers lie one after another.
template <class Use>
void each_buffer(const Layout& layout, Use use) {
  std::size_t offset = 0;
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    const TensorInfo& info = layout.tensors[k];
    if (info.role != Role::copy) continue;
    use(k, offset);
    offset += info.size * bytes_of(info.dtype);
  }
}
POLYAK_DEFINE void StateRecorder::buffers(const Layout& layout, const std::byte* data) {
  each_buffer(layout, [&](std::size_t k, std::size_t offset) {
    const TensorInfo& info = layout.tensors[k];
    record_tensor(all_, part("buffer/", k), info, info.dtype, data + offset, layout.space.get());
  });
}
POLYAK_DEFINE void StateRecorder::slots(const ConstSlots& slots) {
  slots.require_readable();
  RecordedMethod& method = all_.methods[method_];
  const std::size_t tensors = slots.layout().tensors.size();
  method.state = name_of(slots.dtype());
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    const std::string& name = slots.names()[slot];
    method.slots.push_back(name);
    auto* const shapes = slots.full(slot) ? nullptr : &method.slot_shapes[name];
    if (shapes != nullptr) shapes->resize(tensors);
    for (std::size_t k = 0; k < tensors; ++k) {
      if (!slots.keeps(slot, k)) continue;
      const TensorInfo& info = slots.info(slot, k);
      if (shapes != nullptr) (*shapes)[k] = info.shape;
      record_tensor(all_, part(name + "/", k), info, slots.dtype(), slots.address(slot, k),
                    slots.space());
    }
  }
}

POLYAK_DEFINE void StatePlaceLister::add_scalar(std::string_view, void* value,
                                                const StateScalarType&) {
  all_.scalars.push_back(value);
}
POLYAK_DEFINE void StatePlaceLister::counters(std::string_view, std::span<std::int64_t> values) {
  all_.tensors.push_back(reinterpret_cast<std::byte*>(values.data()));
}
POLYAK_DEFINE void StatePlaceLister::buffers(const Layout& layout, std::byte* data) {
  each_buffer(layout,
              [&](std::size_t, std::size_t offset) { all_.tensors.push_back(data + offset); });
}
POLYAK_DEFINE void StatePlaceLister::slots(SlotMemory& slots) {
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < slots.layout()->tensors.size(); ++k) {
      if (slots.keeps(slot, k)) all_.tensors.push_back(slots.address(slot, k));
    }
  }
}

// The record as JSON.

POLYAK_ON_USE [[nodiscard]] inline nlohmann::json extents_of(const Shape& shape) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::int64_t extent : shape) list.push_back(nlohmann::json(extent));
  return list;
}

/// A text of the record. Names of options and slots, and texts of options, may be a program's own.
POLYAK_ON_USE [[nodiscard]] inline const std::string& utf8(const std::string& words) {
  require(is_utf8(words), "what is saved of a method must be UTF-8; the text", words);
  return words;
}

POLYAK_ON_USE [[nodiscard]] inline nlohmann::json json_of(const Layout& layout) {
  using Json = nlohmann::json;
  Json list;
  Json& tensors = list["tensors"] = Json::array();
  for (const TensorInfo& info : layout.tensors) {
    Json tensor;
    tensor["name"] = info.name;
    tensor["dtype"] = std::string(name_of(info.dtype));
    tensor["shape"] = extents_of(info.shape);
    tensor["role"] = std::string(name_of(info.role));
    tensors.push_back(std::move(tensor));
  }
  return list;
}
/// The names, and the places of the tensors of each role but `average`.
POLYAK_ON_USE [[nodiscard]] inline nlohmann::json short_json_of(const Layout& layout) {
  using Json = nlohmann::json;
  Json list;
  Json& names = list["names"] = Json::array();
  Json& roles = list["roles"] = Json::object();
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    const TensorInfo& info = layout.tensors[k];
    names.push_back(Json(info.name));
    if (info.role == Role::average) continue;
    roles[std::string(name_of(info.role))].push_back(Json(std::uint64_t{k}));
  }
  return list;
}

/// The record without the elements of tensors. Numbers are stored as text, because numbers of JSON
/// would not keep every bit.
POLYAK_ON_USE [[nodiscard]] inline std::string json_of(const StateRecord& all) {
  using Json = nlohmann::json;
  using Words = std::string;
  Json root;
  root["format"] = Words(all.is_short() ? short_state_format : state_format);
  Json& lists = root["parameters"] = Json::array();
  Json& methods = root["methods"] = Json::array();
  for (const auto& layout : all.lists) {
    Json list = all.is_short() ? short_json_of(*layout) : json_of(*layout);
    Json& aliases = list["aliases"] = Json::object();
    for (const auto& [alias, target] : layout->aliases) aliases[alias] = target;
    lists.push_back(std::move(list));
  }
  for (const RecordedMethod& method : all.methods) {
    Json one;
    one["type"] = utf8(method.type);
    one["parameter"] = method.parameter;
    one["state"] = method.state;
    one["list"] = std::uint64_t{method.list};
    Json& options = one["options"] = Json::object();
    for (const OptionText& option : method.options) {
      options[utf8(option.name)] = utf8(option.text);
    }
    Json& scalars = one["scalars"] = Json::object();
    for (const RecordedScalar& scalar : method.scalars) {
      if (scalar.value != scalar.usual) scalars[utf8(scalar.name)] = scalar.value;
    }
    Json& slots = one["slots"] = Json::array();
    for (const std::string& slot : method.slots) slots.push_back(utf8(slot));
    for (const auto& [slot, shapes] : method.slot_shapes) {
      Json& list = one["slot_shapes"][slot] = Json::array();
      for (const auto& shape : shapes) {
        list.push_back(shape.has_value() ? extents_of(*shape) : Json());
      }
    }
    methods.push_back(std::move(one));
  }
  return root.dump();
}

/// The record of a file. It has no tensors: the file's header lists them.
struct FiledMethod {
  std::string type, parameter, state;
  std::size_t list = 0;
  std::map<std::string, std::string> options, scalars;
  std::vector<std::string> slots;
  SlotShapes slot_shapes;
};
struct FiledRecord {
  std::vector<Layout> lists;
  std::vector<FiledMethod> methods;
};

/// Reads the text of json_of(). Every access checks the type, so it throws nothing but io_error.
class RecordReader {
 public:
  using Json = nlohmann::json;
  explicit RecordReader(const SafetensorsFile& file) : file_(file) {}

  POLYAK_ON_USE [[nodiscard]] FiledRecord read(const std::string& words) const {
    const Json root = Json::parse(words, nullptr, false);
    check(root.is_object());
    const std::string format = text_of(root, "format");
    check(format == state_format || format == short_state_format);
    FiledRecord all;
    for (const Json& list : array_of(root, "parameters")) {
      all.lists.push_back(format == state_format ? layout_of(list) : short_layout_of(list));
      add_aliases(all.lists.back(), list);
    }
    for (const Json& method : array_of(root, "methods")) {
      FiledMethod one;
      one.type = text_of(method, "type");
      one.parameter = text_of(method, "parameter");
      one.state = text_of(method, "state");
      one.list = static_cast<std::size_t>(number_of(member(method, "list")));
      one.options = texts_of(method, "options");
      one.scalars = texts_of(method, "scalars");
      for (const Json& slot : array_of(method, "slots")) one.slots.push_back(text_of(slot));
      if (method.contains("slot_shapes"))
        one.slot_shapes = shapes_of(member(method, "slot_shapes"));
      all.methods.push_back(std::move(one));
    }
    return all;
  }

 private:
  void check(bool holds) const {
    if (!holds)
      refuse_io(file_.path(), {}, {}, "the record of the state is damaged, or of a later version");
  }
  POLYAK_ON_USE const Json& member(const Json& object, const char* name) const {
    check(object.is_object() && object.contains(name));
    return *object.find(name);
  }
  POLYAK_ON_USE [[nodiscard]] std::string text_of(const Json& value) const {
    check(value.is_string());
    return *value.get_ptr<const std::string*>();
  }
  POLYAK_ON_USE std::string text_of(const Json& object, const char* name) const {
    return text_of(member(object, name));
  }
  POLYAK_ON_USE [[nodiscard]] std::uint64_t number_of(const Json& value) const {
    check(value.is_number_unsigned());
    return *value.get_ptr<const std::uint64_t*>();
  }
  POLYAK_ON_USE const Json& array_of(const Json& object, const char* name) const {
    const Json& value = member(object, name);
    check(value.is_array());
    return value;
  }
  POLYAK_ON_USE std::map<std::string, std::string> texts_of(const Json& object,
                                                            const char* name) const {
    const Json& value = member(object, name);
    check(value.is_object());
    std::map<std::string, std::string> all;
    for (const auto& [key, words] : value.items()) all.emplace(key, text_of(words));
    return all;
  }
  POLYAK_ON_USE [[nodiscard]] Shape shape_of(const Json& extents) const {
    check(extents.is_array());
    Shape shape;
    for (const Json& extent : extents) {
      shape.push_back(static_cast<std::int64_t>(number_of(extent)));
    }
    return shape;
  }
  POLYAK_ON_USE [[nodiscard]] SlotShapes shapes_of(const Json& slots) const {
    check(slots.is_object());
    SlotShapes all;
    for (const auto& [slot, shapes] : slots.items()) {
      check(shapes.is_array());
      for (const Json& shape : shapes) {
        auto& one = all[slot].emplace_back();
        if (!shape.is_null()) one = shape_of(shape);
      }
    }
    return all;
  }
  POLYAK_ON_USE [[nodiscard]] Layout layout_of(const Json& list) const {
    Layout layout;
    for (const Json& one : array_of(list, "tensors")) {
      TensorInfo info;
      info.name = text_of(one, "name");
      info.shape = shape_of(array_of(one, "shape"));
      info.dtype = named<DType>(text_of(one, "dtype"), DType::float64);
      info.role = named<Role>(text_of(one, "role"), Role::frozen);
      layout.add(std::move(info));
    }
    return layout;
  }
  POLYAK_ON_USE [[nodiscard]] Layout short_layout_of(const Json& list) const {
    std::vector<TensorInfo> tensors;
    for (const Json& name : array_of(list, "names")) {
      TensorInfo info;
      info.name = text_of(name);
      const SafetensorsTensor* const there = file_.find(info.name);
      const auto dtype = there != nullptr ? parameter_type(there->dtype) : std::nullopt;
      check(dtype.has_value());
      info.dtype = *dtype;
      info.shape.assign(there->shape.begin(), there->shape.end());
      tensors.push_back(std::move(info));
    }
    const Json& roles = member(list, "roles");
    check(roles.is_object());
    for (const auto& [role, places] : roles.items()) {
      check(places.is_array());
      for (const Json& one : places) {
        const std::uint64_t place = number_of(one);
        check(place < tensors.size());
        tensors[static_cast<std::size_t>(place)].role = named<Role>(role, Role::frozen);
      }
    }
    Layout layout;
    for (TensorInfo& info : tensors) layout.add(std::move(info));
    return layout;
  }
  POLYAK_ON_USE void add_aliases(Layout& layout, const Json& list) const {
    for (auto& [alias, target] : texts_of(list, "aliases")) {
      check(layout.find(target) < layout.tensors.size());
      layout.add_alias(alias, target);
    }
  }
  template <class E>
  [[nodiscard]] E named(const std::string& name, E last) const {
    for (int k = 0; k <= static_cast<int>(last); ++k) {
      if (name_of(static_cast<E>(k)) == name) return static_cast<E>(k);
    }
    check(false);
    return last;
  }

  const SafetensorsFile& file_;
};

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
