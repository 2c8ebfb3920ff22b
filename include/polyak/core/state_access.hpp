// SPDX-License-Identifier: Apache-2.0
/// @file
/// The state of a method by name: moments, averages, step counts and other numbers, to read them
/// and to set them from another framework's checkpoint.
///
///   for (const auto& one : checkpoint) {                            PyTorch's AdamW
///     polyak::set_slot(adamw, "exp_avg", one.name, one.exp_avg);
///     polyak::set_slot(adamw, "exp_avg_sq", one.name, one.exp_avg_sq);
///   }
///   polyak::set_steps(adamw, checkpoint.step);
///   std::span<const float> m = polyak::slot_of<float>(adamw, "exp_avg", "layer.weight");
///
/// The header of a method names its slots. The functions take any method, an AnyMethod too, and
/// find what its list_state() lists (core/state.hpp). Files of this library are loaded by
/// io/save.hpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/views.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

/// The elements of a tensor in a slot.
struct FoundSlot {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  TensorInfo info;  ///< of the slot: its type and shape
  MemorySpace* space = nullptr;
};

/// Finds a tensor in a slot. `owner` is the method's name in messages.
class SlotFinder final : public StateVisitor {
 public:
  SlotFinder(std::string_view owner, std::string_view slot, std::string_view tensor)
      : StateVisitor(false), owner_(owner), slot_(slot), tensor_(tensor) {}
  /// Throws std::invalid_argument, after the visit, unless the slot and the tensor were found.
  [[nodiscard]] const FoundSlot& found() const;
  /// The slots that the slot is in, and its place among them. Throws as found(), but for the
  /// tensor.
  [[nodiscard]] const ConstSlots& where() const;
  [[nodiscard]] std::size_t place() const { return place_; }
  POLYAK_DEFINE void counters(std::string_view name, std::span<const std::int64_t> values) override;
  POLYAK_DEFINE void buffers(const Layout& layout, const std::byte* data) override;
  /// Throws std::logic_error while an average is swapped in.
  POLYAK_DEFINE void slots(const ConstSlots& slots) override;

 private:
  POLYAK_DEFINE void add_scalar(std::string_view name, const void* value,
                                const StateScalarType& type) override;
  std::string_view owner_, slot_, tensor_;
  bool any_slot_ = false, any_tensor_ = false;  // of these names
  std::string names_;                           // of all slots
  FoundSlot found_;
  std::optional<ConstSlots> where_;
  std::size_t place_ = 0;
};

/// Refuses values of another type, shape or order than the slot has.
void require_slot(const FoundSlot& found, std::string_view slot, DType type, const Shape& shape,
                  Order order, bool flat);

/// Finds the numbers that count the steps, and others, of a method.
class NumberFinder final : public StateEditor {
 public:
  NumberFinder(std::string_view owner, std::string_view scalar) : owner_(owner), scalar_(scalar) {}
  struct Number {
    void* memory = nullptr;
    StateScalarType type = {};
  };
  /// The scalar. Throws std::invalid_argument if there is none.
  [[nodiscard]] const Number& number() const;
  /// The steps of each tensor; throws as number().
  [[nodiscard]] std::span<std::int64_t> tensor_steps() const;
  /// Whether the method has state for a tensor.
  [[nodiscard]] bool keeps(std::size_t tensor) const { return slots_->keeps(tensor); }
  /// Index of a tensor with state, by its name or alias. Throws std::invalid_argument.
  [[nodiscard]] std::size_t index_of(std::string_view tensor) const;

  POLYAK_DEFINE void counters(std::string_view name, std::span<std::int64_t> values) override;
  POLYAK_DEFINE void buffers(const Layout& layout, std::byte* data) override;
  POLYAK_DEFINE void slots(SlotMemory& slots) override;

 private:
  POLYAK_DEFINE void add_scalar(std::string_view name, void* value,
                                const StateScalarType& type) override;
  std::string_view owner_, scalar_;
  std::string names_;  // of all scalars
  Number number_;
  bool any_steps_ = false;
  std::span<std::int64_t> tensor_steps_;
  SlotMemory* slots_ = nullptr;
};

/// Sets a number from its text. Throws std::invalid_argument if the text is none of its type.
void set_found_number(const NumberFinder::Number& number, std::string_view name,
                      const std::string& value);
void require_steps(std::int64_t steps);

/// The name of a method in messages.
template <class M>
[[nodiscard]] std::string_view method_name(const M& method) {
  if constexpr (requires { method.entry(); }) {  // an AnyMethod
    return method.name();
  } else if constexpr (requires { M::type_name; }) {
    return M::type_name;
  } else {
    return plain_type_name<M>();
  }
}

template <class M>
[[nodiscard]] FoundSlot find_slot(const M& method, std::string_view slot, std::string_view tensor) {
  SlotFinder finder(method_name(method), slot, tensor);
  visit_state(method, finder);
  return finder.found();
}
template <class M>
[[nodiscard]] NumberFinder find_numbers(M& method, std::string_view scalar = "steps") {
  NumberFinder finder(method_name(method), scalar);
  visit_state(method, finder);
  return finder;
}

}  // namespace detail

/// The elements of `tensor` in a slot, in the storage order of the tensor, read in place. T is the
/// type of the slot. The span is valid until the method moves, dies or changes its list.
///
/// Throws std::invalid_argument for an unknown slot (naming those that there are) or tensor, a
/// tensor without state, another type, and slots on a device; std::logic_error while an average is
/// swapped in.
template <StateScalar T, class Method>
[[nodiscard]] std::span<const T> slot_of(const Method& method, std::string_view slot,
                                         std::string_view tensor) {
  const detail::FoundSlot found = detail::find_slot(method, slot, tensor);
  detail::require_slot(found, slot, detail::dtype_of<T>(), {}, Order::row_major, true);
  if (found.space != nullptr) {
    detail::refuse_value("polyak: slot \"" + std::string(slot) + "\" lies on a device");
  }
  return {reinterpret_cast<const T*>(found.data), found.info.size};
}

/// Copies `values` into `tensor` of a slot: an Eigen object of the slot's shape and storage order
/// for that tensor, or a span, std::vector or std::array of its size. The values are on the host;
/// the slot may be on a device. Moments are stored uncorrected, as the header of the method says.
///
/// Throws as slot_of(), and std::invalid_argument for values of another type, size, shape or order;
/// nothing has changed then.
template <class Method, detail::Registrable Object>
requires(!std::is_const_v<Method>) void set_slot(Method& method, std::string_view slot,
                                                 std::string_view tensor, const Object& values) {
  const auto given = detail::describe_object(values);
  using Number = std::remove_const_t<std::remove_pointer_t<decltype(given.data)>>;
  const detail::FoundSlot found = detail::find_slot(method, slot, tensor);
  detail::require_contiguous(given.contiguous, tensor);
  detail::require_slot(found, slot, detail::dtype_of<typename detail::Registered<Number>::type>(),
                       given.shape, given.order, given.flat);
  if (found.bytes == 0) return;
  // The method is not const, so its slots are not either.
  detail::write_bytes(found.space, const_cast<std::byte*>(found.data), given.data, found.bytes);
}

/// Sets count() of an optimizer, and the steps of each of its tensors, on which bias corrections
/// depend. Throws std::invalid_argument unless steps lie in [0, 2^53], and for a method that counts
/// no steps.
template <class Method>
requires(!std::is_const_v<Method>) void set_steps(Method& method, std::int64_t steps) {
  detail::require_steps(steps);
  const detail::NumberFinder found = detail::find_numbers(method);
  const std::span<std::int64_t> of_tensors = found.tensor_steps();
  detail::set_found_number(found.number(), "steps", detail::text(steps));
  for (std::size_t k = 0; k < of_tensors.size(); ++k) of_tensors[k] = found.keeps(k) ? steps : 0;
}

/// Sets the steps of one tensor, for checkpoints in which they differ. count() stays. Throws as
/// above, and for an unknown tensor and one without state.
template <class Method>
requires(!std::is_const_v<Method>) void set_steps(Method& method, std::string_view tensor,
                                                  std::int64_t steps) {
  detail::require_steps(steps);
  const detail::NumberFinder found = detail::find_numbers(method);
  found.tensor_steps()[found.index_of(tensor)] = steps;
}

/// The steps of a tensor. Throws std::invalid_argument for an unknown tensor, one without state,
/// and a method that counts no steps.
template <class Method>
[[nodiscard]] std::int64_t steps_of(const Method& method, std::string_view tensor) {
  // Only read; there is one list of the numbers.
  const detail::NumberFinder found = detail::find_numbers(const_cast<Method&>(method));
  return found.tensor_steps()[found.index_of(tensor)];
}

/// Sets another number of the state by its name in files: "calls" and "updates" of an average,
/// "weight_sum" of a Schedule-Free optimizer. What the number means, and which values a run can
/// have, is up to the method. Throws std::invalid_argument for an unknown name (naming those that
/// there are) and a value that its type or its range (core/state.hpp) does not have.
template <class Method, class Number>
requires(!std::is_const_v<Method> &&
         std::is_arithmetic_v<Number>) void set_number(Method& method, std::string_view name,
                                                       Number value) {
  detail::set_found_number(detail::find_numbers(method, name).number(), name, detail::text(value));
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/state_access.ipp>
#endif
