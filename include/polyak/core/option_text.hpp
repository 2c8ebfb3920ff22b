// SPDX-License-Identifier: Apache-2.0
/// @file
/// Options as text, for saving and comparison, from the lists of core/options.hpp.
#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Names of enumerators. Not in `detail`: its own name_of() would be found or not, depending on the
/// order of includes.
namespace enum_names {

template <class T>
concept NamedEnum = std::is_enum_v<T> && requires(T value) {
  name_of(value);
};

template <NamedEnum E>
[[nodiscard]] constexpr std::string_view name(E value) {
  return name_of(value);
}

/// The enumerator with this name. Enumerators are numbered from 0 without gaps. Beyond the last
/// one, name_of() repeats the name of an enumerator, so the first value with a name is the
/// enumerator.
template <NamedEnum E>
[[nodiscard]] std::optional<E> find(std::string_view wanted) {
  for (int k = 0; k <= std::numeric_limits<std::uint8_t>::max(); ++k) {
    if (name_of(static_cast<E>(k)) == wanted) return static_cast<E>(k);
  }
  return std::nullopt;
}

}  // namespace enum_names

namespace detail {

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

/// The text of a value in files: a number with enough digits to read back the same bits, an enum as
/// its name. Functions have no text.
template <class T>
[[nodiscard]] std::string option_text(const T& value) {
  if constexpr (enum_names::NamedEnum<T>) {
    return std::string(enum_names::name(value));
  } else if constexpr (std::is_enum_v<T>) {
    return text(static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (requires { text(value); }) {
    return text(value);
  } else if constexpr (is_optional<T>) {
    return value ? option_text(*value) : "none";
  } else {
    return {};
  }
}
[[nodiscard]] inline std::string option_text(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

/// Reads a value that option_text() wrote; returns false if the text is not a value of the type.
template <class T>
[[nodiscard]] bool read_option(std::string_view words, T& value) {
  if constexpr (std::same_as<T, bool>) {
    value = words == "true";
    return value || words == "false";
  } else if constexpr (enum_names::NamedEnum<T>) {
    const std::optional<T> found = enum_names::find<T>(words);
    if (found) value = *found;
    return found.has_value();
  } else {
    static_assert(std::is_arithmetic_v<T>, "polyak: fields of this type cannot be loaded");
    T read{};
    const char* const end = words.data() + words.size();
    const auto result = std::from_chars(words.data(), end, read);
    if (result.ec != std::errc() || result.ptr != end) return false;
    value = read;
    return true;
  }
}

/// An option as it is saved.
struct OptionText {
  std::string name, text;
  bool older_files_lack_it = false;
  std::string tensor = {};  ///< the tensor that it is an option of; the end of `name`
  friend bool operator==(const OptionText&, const OptionText&) = default;
};
/// The fields as text, in the order of the list.
using OptionTexts = std::vector<OptionText>;
class FieldLister : public FieldVisitor<FieldLister> {
 public:
  explicit FieldLister(OptionTexts& all) : all_(all) {}
  template <class T, class... Rules>
  void operator()(std::string_view name, const T& value, const Rules&...) {
    all_.push_back({std::string(name), option_text(value)});
  }
  template <class T, class... Rules>
  void added(std::string_view name, const T& value, const Rules&...) {
    all_.push_back({std::string(name), option_text(value), true});
  }
  void label(std::string_view name, std::string_view words) {
    all_.push_back({std::string(name), std::string(words), true});
  }

 private:
  OptionTexts& all_;
};
/// The fields of options; nothing without a list.
template <class O>
[[nodiscard]] OptionTexts option_texts(const O& o) {
  OptionTexts all;
  FieldLister lister(all);
  visit_fields(o, lister);
  return all;
}

}  // namespace detail

/// Whether all fields are equal. Numbers are compared bit for bit, except that all NaNs are equal.
template <HasFields O>
[[nodiscard]] bool same_options(const O& a, const O& b) {
  return detail::option_texts(a) == detail::option_texts(b);
}

}  // namespace POLYAK_V0
}  // namespace polyak
