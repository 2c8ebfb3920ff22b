// SPDX-License-Identifier: Apache-2.0
/// @file
/// Refuses, for every field of an options struct with a rule, every value that breaks it.
#pragma once

#include <cstddef>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <polyak/core/options.hpp>

#include "catch.hpp"
#include "refusal.hpp"

/// Sets the n-th of all bad values of an object's fields, and records the expected refusal.
class FieldBreaker : public polyak::detail::FieldVisitor<FieldBreaker> {
 public:
  FieldBreaker(std::string_view owner, std::size_t n) : owner_(owner), left_(n) {}

  template <class T, class... Rules>
  void operator()([[maybe_unused]] std::string_view name, T& place, const Rules&... rules) {
    (apply(name, place, rules), ...);
    if constexpr (polyak::HasFields<T>) inside(place);
  }
  template <class T, class... Rules>
  void list(std::string_view name, std::vector<T>& values, std::size_t, const Rules&... rules) {
    if (!values.empty()) (*this)(name, values.back(), rules...);
  }
  template <class O>
  void inside(O& o) {
    const std::string_view outer = owner_;
    owner_ = polyak::detail::options_name<O>();
    fields(o, *this);
    owner_ = outer;
  }

  bool found = false;       ///< whether there is an n-th bad value
  bool breaks = false;      ///< whether it breaks the rule
  std::string field, rule;  ///< "AdamWOptions.beta1", "must lie in [0, 1)"
  std::string got;          ///< "1.5"

 private:
  template <class T>
  void apply(std::string_view name, T& place, const polyak::Rule<T>& one) {
    if (found) return;
    if (left_ >= one.count) {
      left_ -= one.count;
      return;
    }
    found = true;
    const T bad = one.breaks[left_];
    breaks = !one.holds(bad);
    field = std::string(owner_) + "." + std::string(name);
    rule = one.words;
    std::ostringstream words;
    if constexpr (std::is_enum_v<T>) {
      words << static_cast<int>(bad);
    } else {
      words << bad;
    }
    got = words.str();
    place = bad;
  }

  std::string_view owner_;
  std::size_t left_;
};

/// `make` accepts each of the `valid` options and refuses them with every bad value of every field:
/// std::invalid_argument that names the struct. For at least one of them it is "polyak:
/// STRUCT.FIELD RULE, got VALUE"; of others a rule of several fields may come first. Returns the
/// number of bad values.
template <class O, class Make>
std::size_t check_refusals(const std::vector<O>& valid, Make&& make) {
  for (const O& options : valid) {
    INFO(polyak::detail::problem_of(options));
    CHECK_NOTHROW(make(options));
  }
  const std::string_view owner = polyak::detail::options_name<O>();
  for (std::size_t n = 0;; ++n) {
    bool by_own_rule = false;
    for (const O& options : valid) {
      O bad = options;
      FieldBreaker breaker(owner, n);
      fields(bad, breaker);
      if (!breaker.found) return n;
      INFO(breaker.field << " " << breaker.rule << ": " << breaker.got);
      CHECK(breaker.breaks);
      const std::string message = refusal<std::invalid_argument>([&] { make(bad); });
      INFO(message);
      CHECK(message.starts_with("polyak: "));
      CHECK(message.find(breaker.field.substr(0, breaker.field.find('.'))) != std::string::npos);
      by_own_rule =
          by_own_rule || (message.starts_with("polyak: " + breaker.field + " " + breaker.rule) &&
                          message.ends_with(", got " + breaker.got));
      if (&options == &valid.back()) CHECK(by_own_rule);
    }
  }
}
