// SPDX-License-Identifier: Apache-2.0
/// @file
/// The state of a method, listed once, for comparison, saving and restoring.
///
///   template <class Self>
///   static void list_state(Self& self, StateVisitorOf<Self>& visit) {
///     Base::list_state(self, visit);                       where the method has a base with state
///     visit.options(self.options_);                        every field of an options struct
///     visit.option("width", self.width_);                  one more option
///     visit.scalar("steps", self.steps_, count_range);     a number, and the values it may have
///     visit.newer_scalar("decay", self.decay_, 0.9);       one that older files lack, and files
///                                                          where it is 0.9
///     visit.counters("tensor_steps", self.tensor_steps_);  a counter for each tensor
///     visit.slots(self.slots_);
///   }
///
/// `Self` is the method, or the const method: a StateVisitor reads the state of a const one, a
/// StateEditor changes the state of one that is not const. Options are fixed when a method is made,
/// so only a StateVisitor gets them. The list has the same entries in the same order for all
/// methods made with the same options on the same layout. Names are unique within a method.
///
/// A file may say anything, so a number has a range: where it is set from a file, from bytes or by
/// name, a number out of its range is refused before anything has changed.
///
/// Above 300 lines: what reads a state and what changes it list the same entries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/slots.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The values that a number of a state may have, in a run and in a file. Without bounds, any, NaN
/// too; otherwise NaN is none of them.
struct NumberRange {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
};
inline constexpr NumberRange any_number{};
/// Counts and differences of counts. Nothing counts beyond 2^53, which is exact in double and far
/// from the end of std::int64_t, so that sums and products of counts do not overflow.
inline constexpr NumberRange count_range{0, 0x1p53}, difference_range{-0x1p53, 0x1p53};
inline constexpr NumberRange not_negative_range{0, std::numeric_limits<double>::infinity()};
inline constexpr NumberRange finite_not_negative_range{0, std::numeric_limits<double>::max()};
inline constexpr NumberRange finite_positive_range{std::numeric_limits<double>::denorm_min(),
                                                   std::numeric_limits<double>::max()};

/// The type of a scalar of a state, and its range.
struct StateScalarType {
  std::size_t bytes;
  std::string (*text)(const void* value);
  /// Reads a number from `words` into `memory`. Returns false if `words` are not a number of the
  /// type.
  bool (*parse)(std::string_view words, void* memory);
  bool older_files_lack_it = false;
  bool (*lies_in)(const void* value, const NumberRange& range) = nullptr;
  NumberRange range = {};

  [[nodiscard]] bool allows(const void* value) const { return lies_in(value, range); }
};

namespace detail {

[[nodiscard]] constexpr std::int64_t as_integer(double bound) {
  return static_cast<std::int64_t>(bound);
}
/// Integers are compared as integers, because large ones are not exact in double.
template <class T>
[[nodiscard]] bool lies_in(const T& value, const NumberRange& range) {
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    constexpr double end = 0x1p63;
    return (range.least < -end || std::cmp_greater_equal(+value, as_integer(range.least))) &&
           (range.most >= end || std::cmp_less_equal(+value, as_integer(range.most)));
  } else if constexpr (std::is_floating_point_v<T>) {
    const auto number = static_cast<double>(value);
    const bool any = range.least == any_number.least && range.most == any_number.most;
    return any || (number >= range.least && number <= range.most);
  } else {
    return true;
  }
}
template <class T, bool Newer = false>
inline constexpr StateScalarType state_scalar_type = {
    sizeof(T), [](const void* value) { return option_text(*static_cast<const T*>(value)); },
    [](std::string_view words, void* memory) {
      T value{};
      if (!read_option(words, value)) return false;
      std::memcpy(memory, &value, sizeof value);
      return true;
    },
    Newer,
    [](const void* value, const NumberRange& range) {
      T number;
      std::memcpy(&number, value, sizeof number);
      return lies_in(number, range);
    }};
template <class T, bool Newer = false>
[[nodiscard]] constexpr StateScalarType state_scalar_in(const NumberRange& range) {
  StateScalarType type = state_scalar_type<T, Newer>;
  type.range = range;
  return type;
}
/// The range of a number that is listed without one. A std::int64_t counts something.
template <class T>
inline constexpr NumberRange usual_range =
    std::is_same_v<T, std::int64_t> ? difference_range : any_number;

/// "must lie in [0, 9007199254740992]", for messages.
[[nodiscard]] std::string range_text(const NumberRange& range);

}  // namespace detail

/// A read-only view of slots.
class ConstSlots {
 public:
  ConstSlots(const detail::SlotMemory& slots) : slots_(slots) {}  // NOLINT: the same slots

  [[nodiscard]] DType dtype() const { return slots_.dtype(); }
  [[nodiscard]] std::size_t count() const { return slots_.count(); }
  [[nodiscard]] const std::vector<std::string>& names() const { return slots_.names(); }
  [[nodiscard]] const Layout& layout() const { return *slots_.layout(); }
  [[nodiscard]] MemorySpace* space() const { return slots_.space(); }
  [[nodiscard]] bool full(std::size_t slot) const { return slots_.full(slot); }
  [[nodiscard]] bool keeps(std::size_t slot, std::size_t tensor) const {
    return slots_.keeps(slot, tensor);
  }
  [[nodiscard]] const TensorInfo& info(std::size_t slot, std::size_t tensor) const {
    return slots_.info(slot, tensor);
  }
  [[nodiscard]] const std::byte* address(std::size_t slot, std::size_t tensor) const {
    return slots_.address(slot, tensor);
  }
  [[nodiscard]] std::size_t bytes(std::size_t slot, std::size_t tensor) const {
    return slots_.bytes(slot, tensor);
  }
  /// Throws std::logic_error where the slots do not hold the state of the method now.
  void require_readable() const;

 private:
  const detail::SlotMemory& slots_;
};

/// Gets the options of a method, unless it wants none.
class OptionVisitor {
 public:
  /// A number, bool or enum.
  template <class T>
  void option(std::string_view name, const T& value) {
    if (wants_options_) add_option({std::string(name), detail::option_text(value)});
  }
  /// The option of one tensor, "name.tensor".
  template <class T>
  void option(std::string_view name, std::string_view tensor, const T& value) {
    if (!wants_options_) return;
    add_option({joined(name, tensor), detail::option_text(value), false, std::string(tensor)});
  }
  /// A name, such as that of a weighting. Files of versions that did not list it are loaded.
  void label(std::string_view name, std::string_view words) {
    if (wants_options_) add_option({std::string(name), std::string(words), true});
  }
  /// All fields of an options struct, if it has a list of them (core/options.hpp).
  template <class O>
  void options(const O& o) {
    if (!wants_options_) return;
    for (detail::OptionText& one : detail::option_texts(o)) add_option(std::move(one));
  }
  /// The fields that `list(o, field)` lists, for options of which a state has only some.
  template <class O, class List>
  void some_options(const O& o, List list) {
    if (!wants_options_) return;
    detail::OptionTexts texts;
    detail::FieldLister lister(texts);
    O copy = o;
    list(copy, lister);
    for (detail::OptionText& one : texts) add_option(std::move(one));
  }
  /// All fields of the options of one tensor, "field.tensor".
  template <class O>
  void options(const O& o, std::string_view tensor) {
    if (!wants_options_) return;
    for (detail::OptionText& one : detail::option_texts(o)) {
      one.name = joined(one.name, tensor);
      one.tensor = tensor;
      add_option(std::move(one));
    }
  }

 protected:
  explicit OptionVisitor(bool wants_options) : wants_options_(wants_options) {}
  OptionVisitor(const OptionVisitor&) = default;
  OptionVisitor& operator=(const OptionVisitor&) = default;
  ~OptionVisitor() = default;

 private:
  static std::string joined(std::string_view name, std::string_view tensor);
  POLYAK_DEFINE virtual void add_option(detail::OptionText&& option);

  bool wants_options_;
};

/// Reads the state of a const method.
class StateVisitor : public OptionVisitor {
 public:
  POLYAK_DEFINE virtual ~StateVisitor();
  /// A counter or another number, and the values that it may have. Without a range, a std::int64_t
  /// lies within difference_range; give any_number to one that counts nothing.
  template <class T>
  void scalar(std::string_view name, const T& value,
              const NumberRange& range = detail::usual_range<T>) {
    add_scalar(name, &value, detail::state_scalar_in<T>(range));
  }
  /// A number that files of earlier versions lack, and that is written only where it is not
  /// `usual`, its value after construction: so earlier versions read files that do not need it. A
  /// file without it sets the number to `usual`.
  template <class T>
  void newer_scalar(std::string_view name, const T& value, const std::type_identity_t<T>& usual,
                    const NumberRange& range = detail::usual_range<T>) {
    add_newer_scalar(name, &value, detail::state_scalar_in<T, true>(range), &usual);
  }
  /// A counter for each tensor, within difference_range.
  virtual void counters(std::string_view name, std::span<const std::int64_t> values) = 0;
  /// The same, within another range. As counters(), unless a visitor reads or writes files.
  POLYAK_DEFINE virtual void counters_in(std::string_view name,
                                         std::span<const std::int64_t> values,
                                         const NumberRange& range);
  /// The copies of the tensors with Role::copy, one after another.
  virtual void buffers(const Layout& layout, const std::byte* data) = 0;
  virtual void slots(const ConstSlots& slots) = 0;

 protected:
  explicit StateVisitor(bool wants_options) : OptionVisitor(wants_options) {}

 private:
  virtual void add_scalar(std::string_view name, const void* value,
                          const StateScalarType& type) = 0;
  /// As add_scalar(), unless a visitor writes files.
  POLYAK_DEFINE virtual void add_newer_scalar(std::string_view name, const void* value,
                                              const StateScalarType& type, const void* usual);
};

/// Changes the state of a method. Gets the same entries as a StateVisitor but for the options.
class StateEditor : public OptionVisitor {
 public:
  POLYAK_DEFINE virtual ~StateEditor();
  template <class T>
  requires(!std::is_const_v<T>) void scalar(std::string_view name, T& value,
                                            const NumberRange& range = detail::usual_range<T>) {
    add_scalar(name, &value, detail::state_scalar_in<T>(range));
  }
  template <class T>
  requires(!std::is_const_v<T>) void newer_scalar(
      std::string_view name, T& value, const std::type_identity_t<T>&,
      const NumberRange& range = detail::usual_range<T>) {
    add_scalar(name, &value, detail::state_scalar_in<T, true>(range));
  }
  virtual void counters(std::string_view name, std::span<std::int64_t> values) = 0;
  POLYAK_DEFINE virtual void counters_in(std::string_view name, std::span<std::int64_t> values,
                                         const NumberRange& range);
  virtual void buffers(const Layout& layout, std::byte* data) = 0;
  virtual void slots(detail::SlotMemory& slots) = 0;

 protected:
  StateEditor() : OptionVisitor(false) {}

 private:
  virtual void add_scalar(std::string_view name, void* value, const StateScalarType& type) = 0;
};

/// The visitor of a method: a StateVisitor if the method is const, else a StateEditor.
template <class Self>
using StateVisitorOf = std::conditional_t<std::is_const_v<Self>, StateVisitor, StateEditor>;

namespace detail {

/// Refuses slots that do not hold the state of the method now.
void require_readable(const SlotMemory& slots);

/// A method, const or not, as one of its bases, whose members it may hide.
template <class Base, class Self>
[[nodiscard]] auto& as_base(Self& self) {
  return static_cast<std::conditional_t<std::is_const_v<Self>, const Base, Base>&>(self);
}

/// The form of the list before version 0.2, `state(visitor)`, which is no longer called.
template <class Part>
concept ListsStateByMember = requires(std::remove_const_t<Part>& part, StateEditor& visit) {
  part.state(visit);
};

/// Lists the state of a method.
template <class M>
void visit_state(M& method, StateVisitorOf<M>& visit) {
  static_assert(!ListsStateByMember<M>, "polyak: list_state() lists the state; see core/state.hpp");
  std::remove_const_t<M>::list_state(method, visit);
}
/// Lists the state of a part of a method, such as a weighting, if it has any.
template <class Part>
void visit_part(Part& part, StateVisitorOf<Part>& visit) {
  static_assert(!ListsStateByMember<Part>,
                "polyak: list_state() lists the state; see core/state.hpp");
  using Plain = std::remove_const_t<Part>;
  if constexpr (requires { Plain::list_state(part, visit); }) Plain::list_state(part, visit);
}

/// Copies a state out, bit for bit, behind a description of the options and the layout.
class StateWriter final : public StateVisitor {
 public:
  StateWriter() : StateVisitor(true) {}
  POLYAK_DEFINE void counters(std::string_view name, std::span<const std::int64_t> values) override;
  POLYAK_DEFINE void buffers(const Layout& layout, const std::byte* data) override;
  POLYAK_DEFINE void slots(const ConstSlots& slots) override;
  /// The description and the state. Call it once.
  [[nodiscard]] std::vector<std::byte> bytes();

 private:
  POLYAK_DEFINE void add_option(OptionText&& option) override;
  POLYAK_DEFINE void add_scalar(std::string_view name, const void* value,
                                const StateScalarType& type) override;
  void add(const void* data, std::size_t bytes, MemorySpace* space = nullptr);
  void describe(std::string_view name, const std::string& what);
  std::string description_;  // a line for each option and each part of the state
  std::vector<std::byte> state_;
};

/// The state within the result of StateWriter::bytes(). Throws std::invalid_argument where its
/// description is another than the method's own, or its length.
[[nodiscard]] std::span<const std::byte> state_within(std::span<const std::byte> given,
                                                      std::span<const std::byte> own);

/// Copies a state in, or only checks its numbers.
class StateReader final : public StateEditor {
 public:
  StateReader(const std::byte* in, bool checks) : in_(in), checks_(checks) {}
  POLYAK_DEFINE void counters(std::string_view name, std::span<std::int64_t> values) override;
  POLYAK_DEFINE void counters_in(std::string_view name, std::span<std::int64_t> values,
                                 const NumberRange& range) override;
  POLYAK_DEFINE void buffers(const Layout& layout, std::byte* data) override;
  POLYAK_DEFINE void slots(SlotMemory& slots) override;

 private:
  POLYAK_DEFINE void add_scalar(std::string_view name, void* value,
                                const StateScalarType& type) override;
  void take(void* data, std::size_t bytes, MemorySpace* space = nullptr);
  const std::byte* in_;
  bool checks_;
};

}  // namespace detail

/// The whole state of a method, as it is in memory, behind its options and the names, types and
/// shapes of the state: what two runs compare, and what a resumed run continues from within one
/// build of a program. Throws std::logic_error while an average is swapped in.
template <class Method>
[[nodiscard]] std::vector<std::byte> state_bytes(const Method& method) {
  detail::StateWriter writer;
  detail::visit_state(method, writer);
  return writer.bytes();
}

/// Restores the result of state_bytes() into a method made with the same options for the same
/// layout. Throws std::invalid_argument, with the first difference, where options or layout differ,
/// the bytes are cut short or a number is out of its range, and std::logic_error while an average
/// is swapped in; nothing has changed then.
template <class Method>
requires(!std::is_const_v<Method>) void restore_state(Method& method,
                                                      const std::vector<std::byte>& bytes) {
  const std::vector<std::byte> own = state_bytes(method);
  const std::byte* const state = detail::state_within(bytes, own).data();
  for (const bool checks : {true, false}) {
    detail::StateReader reader(state, checks);
    detail::visit_state(method, reader);
  }
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/core/state.ipp>
#endif
