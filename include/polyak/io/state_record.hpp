// SPDX-License-Identifier: Apache-2.0
/// @file
/// The record of a training run in a state file: which parameters, which methods with which
/// options, every number, and where every tensor is in memory. Made of a run by the methods'
/// `state` visitor (core/state.hpp), read from a file, and compared.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/option_text.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/safetensors.hpp>

namespace polyak {
inline namespace v0 {
namespace detail {

/// The metadata entry that holds a record, and the prefix of the names of methods' tensors.
inline constexpr std::string_view state_key = "polyak";
inline constexpr std::string_view state_prefix = "polyak/";
inline constexpr std::string_view state_format = "polyak-state-1";

/// A number of a method's state.
struct RecordedScalar {
  std::string name;
  std::string value;
  void* memory;
  std::size_t bytes;
  /// Writes the number that `text` is into `memory`; false where it is none of the type.
  bool (*parse)(std::string_view text, void* memory);
};

template <class T>
bool parse_scalar(std::string_view words, void* memory) {
  T value{};
  if (!read_option(words, value)) return false;
  std::memcpy(memory, &value, sizeof value);
  return true;
}

/// A tensor of a state: its name and shape in the file, and its elements in memory.
struct RecordedTensor {
  SafetensorsSpec spec;
  std::byte* data;
  std::size_t bytes;
  std::size_t element_bytes;
  Order order;
  MemorySpace* space;  ///< null for the host's memory
};

/// For each slot that has a shape of its own: its shape for each tensor of the list, if it has one.
using SlotShapes = std::map<std::string, std::vector<std::optional<Shape>>>;

/// A method: all that its state visitor lists but for the tensors.
struct RecordedMethod {
  std::string type;       ///< "AdamW"
  std::string parameter;  ///< "float32"
  std::string state;
  std::size_t list = 0;  ///< the list of parameters that it belongs to
  std::vector<std::pair<std::string, std::string>> options;
  std::vector<RecordedScalar> scalars;
  std::vector<std::string> slots;
  SlotShapes slot_shapes;
};

[[nodiscard]] std::string label(std::size_t index, const RecordedMethod& method);

struct StateRecord {
  std::vector<std::shared_ptr<const Layout>> lists;
  std::vector<RecordedMethod> methods;
  std::vector<RecordedTensor> tensors;
};

/// The visitor that lists a method in a record.
class StateRecorder {
 public:
  StateRecorder(StateRecord& record, RecordedMethod& method, std::string prefix)
      : record_(record), method_(method), prefix_(std::move(prefix)) {}

  template <class T>
  void option(std::string_view name, const T& value) {
    method_.options.emplace_back(name, option_text(value));
  }
  template <class T>
  void scalar(std::string_view name, T& value) {
    method_.scalars.push_back(
        {std::string(name), text(value), &value, sizeof value, &parse_scalar<T>});
  }
  void counters(std::string_view name, std::vector<std::int64_t>& values);
  void buffers(const Layout& layout, std::byte* data);
  template <class S>
  void slots(Slots<S>& slots) {
    require_readable(slots);
    const Layout& layout = *slots.layout();
    method_.state = name_of(dtype_of<S>());
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      const std::string& name = slots.names()[slot];
      method_.slots.push_back(name);
      auto* const shapes = slots.full(slot) ? nullptr : &method_.slot_shapes[name];
      if (shapes != nullptr) shapes->resize(layout.tensors.size());
      for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
        if (!slots.keeps(slot, k)) continue;
        const TensorInfo& info = slots.info(slot, k);
        if (shapes != nullptr) (*shapes)[k] = info.shape;
        tensor(prefix_ + name + "/" + info.name, info, dtype_of<S>(), slots.address(slot, k),
               slots.space());
      }
    }
  }

  /// Lists a tensor of the shape and order of `info`, in the host's memory or a space.
  void tensor(std::string name, const TensorInfo& info, DType dtype, void* data,
              MemorySpace* space);

 private:
  StateRecord& record_;
  RecordedMethod& method_;
  std::string prefix_;
};

/// Adds a list of parameters. Throws std::logic_error while an average is swapped in.
template <ParameterScalar P>
void record(StateRecord& all, const Parameters<P>& params) {
  if (params.swapped()) {
    refuse_order("polyak: save or load while an average is swapped in; end its guard first");
  }
  RecordedMethod none;
  StateRecorder recorder(all, none, {});
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& info = params[k].info();
    require(!info.name.starts_with(state_prefix),
            "a tensor that is saved must not have a name that begins with \"polyak/\"", info.name);
    for (const auto& list : all.lists) {
      require(list->find(info.name) == list->tensors.size(),
              "a tensor's name must be new among all lists that are saved together", info.name);
    }
    recorder.tensor(info.name, info, info.dtype, params[k].raw(), params.layout()->space.get());
  }
  all.lists.push_back(params.layout());
}

/// Adds a method of the parameters named last. Throws std::invalid_argument for another's
/// parameters, std::logic_error while its average is swapped in.
template <class M>
void record_method(StateRecord& all, M& method) {
  require_same(all.lists.back(), method.slots().layout(),
               "the parameters named before a method and those of the method");
  RecordedMethod one;
  one.type = M::type_name;
  one.parameter = name_of(dtype_of<typename M::Parameter>());
  one.state = name_of(dtype_of<typename M::State>());
  one.list = all.lists.size() - 1;
  method.state(StateRecorder(all, one, std::string(state_prefix) + text(all.methods.size()) + "/"));
  all.methods.push_back(std::move(one));
}

}  // namespace detail
}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/state_record.ipp>
#endif
