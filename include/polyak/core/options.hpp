// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options: every field of an options struct is listed once, with its name and its rules.
///
///   template <class Fields>
///   void fields(LionOptions& o, Fields& field) {
///     field("learning_rate", o.learning_rate, finite_and_not_negative);
///     field("beta1", o.beta1, in_0_1);
///     field("nonfinite", o.nonfinite);
///     field.check(o.beta1 <= o.beta2, "beta1 must be at most beta2", o.beta1);
///   }
///
/// Validation and its messages, saving, loading, comparison, the tests of rejected values and the
/// option tables are visitors of that list. Besides the two calls above, a visitor has
///   field.list("weight", o.weights, 1, rules...)   a vector, element by element: "weight.1", ...
///   field.inside(o.part)                           all fields of another struct, under its name
///   field.after_reading(action)                    runs `action` after loading: derived members
///   field.added("seed", o.seed, rules...)          a field that older files lack; the default then
///   field.label("weighting", words)                a text that is saved and compared but not read;
///                                                  older files may lack it
/// Names, order and text of fields are the format of saved files: add at the end, never rename.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/type_name.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// A condition on the value of one field.
template <class T>
struct Rule {
  bool (*holds)(T value);
  std::string_view words;                  ///< "must lie in [0, 1)"
  T breaks[6] = {};                        ///< values that break it, for tests
  std::size_t count = 0;                   ///< number of values in `breaks`
  std::string (*hint)(T value) = nullptr;  ///< appended to the words: "; did you mean ...?"

  constexpr Rule(bool (*condition)(T), std::string_view text, std::initializer_list<T> bad,
                 std::string (*guess)(T) = nullptr)
      : holds(condition), words(text), hint(guess) {
    for (const T& value : bad) breaks[count++] = value;
  }
};

namespace detail {
inline constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinite = std::numeric_limits<double>::infinity();
}  // namespace detail

inline constexpr Rule<double> finite_number{
    [](double v) { return detail::is_finite(v); },
    "must be finite",
    {detail::nan_value, detail::infinite, -detail::infinite}};
inline constexpr Rule<double> finite_and_not_negative{
    [](double v) { return v >= 0 && detail::is_finite(v); },
    "must be finite and >= 0",
    {-0.5, detail::nan_value, detail::infinite, -detail::infinite}};
inline constexpr Rule<double> finite_and_positive{
    [](double v) { return v > 0 && detail::is_finite(v); },
    "must be finite and > 0",
    {0, -1, detail::nan_value, detail::infinite, -detail::infinite}};
/// Unlike finite_and_positive, it allows infinity.
inline constexpr Rule<double> above_0{
    [](double v) { return v > 0; }, "must be > 0", {0, -1, detail::nan_value, -detail::infinite}};
inline constexpr Rule<double> in_0_1{
    [](double v) { return v >= 0 && v < 1; },
    "must lie in [0, 1)",
    {-0.5, 1, 1.5, detail::nan_value, detail::infinite, -detail::infinite}};
inline constexpr Rule<double> in_closed_0_1{
    [](double v) { return v >= 0 && v <= 1; },
    "must lie in [0, 1]",
    {-0.5, 1.5, detail::nan_value, detail::infinite, -detail::infinite}};
inline constexpr Rule<double> in_open_0_1{[](double v) { return v > 0 && v < 1; },
                                          "must lie in (0, 1)",
                                          {-0.5, 0, 1, 1.5, detail::nan_value, detail::infinite}};
inline constexpr Rule<double> in_0_1_above_0{[](double v) { return v > 0 && v <= 1; },
                                             "must lie in (0, 1]",
                                             {-0.5, 0, 1.5, detail::nan_value, detail::infinite}};
inline constexpr Rule<std::int64_t> at_least_0{
    [](std::int64_t v) { return v >= 0; }, "must be >= 0", {-1, -100}};
inline constexpr Rule<std::int64_t> at_least_1{
    [](std::int64_t v) { return v >= 1; }, "must be >= 1", {0, -1, -100}};

namespace detail {

/// The name of an options struct in messages: its own, unless it has an `options_name`.
template <class O>
[[nodiscard]] constexpr std::string_view options_name() {
  if constexpr (requires { O::options_name; }) {
    return O::options_name;
  } else {
    return plain_type_name<O>();
  }
}

/// The base of visitors of fields; `Derived` has operator()(name, value, rules...).
template <class Derived>
struct FieldVisitor {
  template <class Value>
  void check(bool, std::string_view, const Value&) {}
  template <class Action>
  void after_reading(Action&&) {}
  void label(std::string_view, std::string_view) {}
  template <class T, class... Rules>
  void added(std::string_view name, T& value, const Rules&... rules) {
    derived()(name, value, rules...);
  }
  template <class O>
  void inside(O& o) {
    fields(o, derived());
  }
  template <class T, class... Rules>
  void list(std::string_view name, std::vector<T>& values, std::size_t first,
            const Rules&... rules) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      derived()(std::string(name) + "." + text(first + k), values[k], rules...);
    }
  }

 protected:
  [[nodiscard]] Derived& derived() { return static_cast<Derived&>(*this); }
};

/// A visitor for testing whether a type has a list.
struct AnyField : FieldVisitor<AnyField> {
  template <class T, class... Rules>
  void operator()(std::string_view, T&, const Rules&...) {}
};

}  // namespace detail

/// A type with a list `fields(o, field)` in its namespace.
template <class O>
concept HasFields = requires(std::remove_const_t<O>& o, detail::AnyField& field) {
  fields(o, field);
};

namespace detail {

/// Visits the fields of an object, or of a copy of a constant object. Does nothing without a list.
template <class O, class Visitor>
void visit_fields(O& o, Visitor& visitor) {
  if constexpr (!HasFields<O>) {
    static_cast<void>(visitor);
  } else if constexpr (std::is_const_v<O>) {
    std::remove_const_t<O> copy = o;
    fields(copy, visitor);
  } else {
    fields(o, visitor);
  }
}

/// The value as text for a message.
template <class T>
[[nodiscard]] std::string refused_text(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return text(static_cast<int>(value));
  } else {
    return text(value);
  }
}

template <class T>
[[nodiscard]] POLYAK_COLD std::string refusal_of(std::string_view name, T value,
                                                 const Rule<T>& rule) {
  std::string words = std::string(name).append(" ").append(rule.words);
  if (rule.hint != nullptr) words += rule.hint(value);
  return words + ", got " + refused_text(value);
}

/// Throws std::invalid_argument "polyak: NAME RULE, got VALUE" unless the rule holds.
template <class T>
void require_rule(std::string_view name, std::type_identity_t<T> value, const Rule<T>& rule) {
  if (!rule.holds(value)) [[unlikely]] {
    refuse_value("polyak: " + refusal_of(name, value, rule));
  }
}

/// Finds the first broken rule.
class FieldChecker : public FieldVisitor<FieldChecker> {
 public:
  explicit FieldChecker(std::string_view owner) : owner_(owner) {}

  template <class T, class... Rules>
  void operator()([[maybe_unused]] std::string_view name, T& value, const Rules&... rules) {
    (test(name, value, rules), ...);
    if constexpr (HasFields<T>) inside(value);
  }
  /// A rule of several fields: "SgdOptions.momentum must be > 0 with nesterov, got 0". Words that
  /// begin with ':' follow the struct's name directly.
  template <class Value>
  void check(bool holds, std::string_view words, const Value& value) {
    if (holds || !problem_.empty()) [[likely]] {
      return;
    }
    fail(words, refused_text(value));
  }
  template <class T, class... Rules>
  void list(std::string_view name, std::vector<T>& values, std::size_t, const Rules&... rules) {
    for (T& value : values) (*this)(name, value, rules...);
  }
  template <class O>
  void inside(O& o) {
    if (!problem_.empty()) return;
    FieldChecker part(options_name<O>());
    fields(o, part);
    problem_ = std::move(part.problem_);
  }
  /// See problem_of().
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  template <class T>
  void test(std::string_view name, T value, const Rule<T>& rule) {
    if (!problem_.empty() || rule.holds(value)) [[likely]] {
      return;
    }
    fail(name, value, rule);
  }
  template <class T>
  POLYAK_COLD void fail(std::string_view name, T value, const Rule<T>& rule) {
    problem_ = refusal_of(std::string(owner_).append(".").append(name), value, rule);
  }
  POLYAK_COLD void fail(std::string_view words, const std::string& value) {
    problem_ = owner_;
    problem_.append(words.starts_with(':') ? "" : ".").append(words).append(", got ");
    problem_.append(value);
  }

  std::string_view owner_;
  std::string problem_;
};

/// The first broken rule, "AdamWOptions.beta1 must lie in [0, 1), got 1.5", or nothing.
template <class O>
[[nodiscard]] std::string problem_of(const O& o) {
  FieldChecker checker(options_name<O>());
  visit_fields(o, checker);
  return checker.problem();
}

}  // namespace detail

/// Throws std::invalid_argument "polyak: STRUCT.FIELD RULE, got VALUE" for the first rule that is
/// broken.
template <HasFields O>
void validate(const O& o) {
  const std::string problem = detail::problem_of(o);
  if (!problem.empty()) [[unlikely]] {
    detail::refuse_value("polyak: " + problem);
  }
}

}  // namespace POLYAK_V0
}  // namespace polyak
