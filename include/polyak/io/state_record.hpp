// SPDX-License-Identifier: Apache-2.0
/// @file
/// The record of a training run in a state file: its parameters, its methods with their options and
/// numbers, and the place of every tensor in memory. `list_state` of the const methods
/// (core/state.hpp) makes a record, which is written to a file, or compared with that of a file.
/// The places that loading writes to are listed separately, by methods that are not const.
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

#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/safetensors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The metadata entry that holds a record, and the prefix of the names of methods' tensors.
inline constexpr std::string_view state_key = "polyak";
inline constexpr std::string_view state_prefix = "polyak/";
inline constexpr std::string_view state_format = "polyak-state-1";
/// The format of a state of more tensors than `few_tensors`, weights and slots. Its header is
/// shorter: the record lists names of weights, whose types and shapes the header has anyway, and
/// the digests are one entry. Version 0.1 does not read it.
inline constexpr std::string_view short_state_format = "polyak-state-2";
inline constexpr std::size_t few_tensors = 1000;

/// A number of a method's state.
struct RecordedScalar {
  std::string name;
  std::string value;
  StateScalarType type;
  std::string usual = {};  ///< of a number that files lack where it has this value; else empty
};

/// What a tensor of a state is a part of.
struct RecordedPart {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::string what;           ///< "exp_avg/", "buffer/", "tensor_steps"; empty for weights
  std::size_t method = none;  ///< none for weights
  std::size_t list = 0;
  std::size_t tensor = none;  ///< of the list; none for the counters of all tensors

  /// Its name in a file, where the method and the tensor may have other places and names.
  POLYAK_ON_USE [[nodiscard]] std::string name(std::size_t method_in_file,
                                               std::string_view tensor_in_file) const;
};

/// A tensor of a state: its name and shape in the file, and its elements in memory.
struct RecordedTensor {
  RecordedPart part;
  SafetensorsSpec spec;
  const std::byte* data;
  std::size_t bytes;
  std::size_t element_bytes;
  Order order;
  MemorySpace* space;      ///< null for the host's memory
  NumberRange range = {};  ///< of counters
};

/// For each slot with a shape of its own: its shape for each tensor of the list; none if the slot
/// has no elements there.
using SlotShapes = std::map<std::string, std::vector<std::optional<Shape>>>;

/// A method: everything that it lists except the tensors.
struct RecordedMethod {
  std::string type;       ///< "AdamW"
  bool trains = false;    ///< an optimizer
  std::string parameter;  ///< "float32"
  std::string state;
  std::size_t list = 0;  ///< the list of parameters that it belongs to
  OptionTexts options;
  std::vector<RecordedScalar> scalars;
  std::vector<std::string> slots;
  SlotShapes slot_shapes;
};

POLYAK_ON_USE [[nodiscard]] std::string label(std::size_t index, const RecordedMethod& method);

struct StateRecord {
  std::vector<std::shared_ptr<const Layout>> lists;
  std::vector<RecordedMethod> methods;
  std::vector<RecordedTensor> tensors;

  /// Whether the state has the short format.
  [[nodiscard]] bool is_short() const { return tensors.size() > few_tensors; }
};

/// Adds a tensor of the name, shape and order of `info`, in the host's memory or a space.
POLYAK_ON_USE void record_tensor(StateRecord& all, RecordedPart part, const TensorInfo& info,
                                 DType dtype, const void* data, MemorySpace* space);

/// Adds a method to a record. It belongs to the parameters that were added last.
class StateRecorder final : public StateVisitor {
 public:
  /// Throws std::invalid_argument for a method of other parameters.
  POLYAK_ON_USE StateRecorder(StateRecord& all, std::string_view type, DType parameter, DType state,
                              const std::shared_ptr<const Layout>& layout);
  POLYAK_DEFINE void counters(std::string_view name, std::span<const std::int64_t> values) override;
  POLYAK_DEFINE void counters_in(std::string_view name, std::span<const std::int64_t> values,
                                 const NumberRange& range) override;
  POLYAK_DEFINE void buffers(const Layout& layout, const std::byte* data) override;
  POLYAK_DEFINE void slots(const ConstSlots& slots) override;

 private:
  POLYAK_DEFINE void add_option(OptionText&& option) override;
  POLYAK_DEFINE void add_scalar(std::string_view name, const void* value,
                                const StateScalarType& type) override;
  POLYAK_ON_USE [[nodiscard]] RecordedPart part(std::string what,
                                                std::size_t tensor = RecordedPart::none) const;
  POLYAK_DEFINE void add_newer_scalar(std::string_view name, const void* value,
                                      const StateScalarType& type, const void* usual) override;

  StateRecord& all_;
  std::size_t method_;  // its place among all methods
};

/// The memory that loading writes to: of all tensors in the order of the record, and of all
/// scalars, method by method.
struct StatePlaces {
  std::vector<std::byte*> tensors;
  std::vector<void*> scalars;
};

/// Adds the places of a method.
class StatePlaceLister final : public StateEditor {
 public:
  explicit StatePlaceLister(StatePlaces& all) : all_(all) {}
  POLYAK_DEFINE void counters(std::string_view name, std::span<std::int64_t> values) override;
  POLYAK_DEFINE void buffers(const Layout& layout, std::byte* data) override;
  POLYAK_DEFINE void slots(SlotMemory& slots) override;

 private:
  POLYAK_DEFINE void add_scalar(std::string_view name, void* value,
                                const StateScalarType& type) override;
  StatePlaces& all_;
};

/// Adds a list of parameters. Throws std::logic_error while an average is swapped in,
/// std::invalid_argument for names that are used twice, begin with "polyak/" or are not UTF-8.
POLYAK_ON_USE void record_parameters(StateRecord& all, const ParameterList& params);

/// Throws std::invalid_argument for a method of other parameters, std::logic_error while its
/// average is swapped in.
template <class M>
void record_method(StateRecord& all, const M& method) {
  const auto record = [&](std::string_view type, bool trains, DType parameter, DType state,
                          const std::shared_ptr<const Layout>& layout) {
    StateRecorder recorder(all, type, parameter, state, layout);
    all.methods.back().trains = trains;
    visit_state(method, recorder);
  };
  if constexpr (requires { method.entry(); }) {  // an AnyMethod
    const auto entry = method.entry();
    record(entry.type, entry.trains, entry.parameter, entry.state, entry.layout);
  } else {
    record(M::type_name, M::trains, dtype_of<typename M::Parameter>(),
           dtype_of<typename M::State>(), method.slots().layout());
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/state_record.ipp>
#endif
