// SPDX-License-Identifier: Apache-2.0
/// @file
/// Selections of tensors by name, shape and role: the tensors of a method or a group.
///
///   polyak::matrices && !polyak::named("*embedding*")
///   polyak::named("*.bias", "*.norm.*") || polyak::rank_below(2)
///   [](const polyak::TensorInfo& tensor) { return tensor.size > 1024; }
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The tensors whose shape has from `least` to `most` dimensions; a Selection, and the type of the
/// constants below.
struct RankBetween {
  std::size_t least = 0;
  std::size_t most = std::numeric_limits<std::size_t>::max();

  [[nodiscard]] bool operator()(const TensorInfo& tensor) const {
    return tensor.shape.size() >= least && tensor.shape.size() <= most;
  }
  [[nodiscard]] std::string describe() const;

  friend bool operator==(const RankBetween&, const RankBetween&) = default;
};

/// Every tensor.
inline constexpr RankBetween everything{};
/// Tensors of one dimension: biases, and the scales of norms.
inline constexpr RankBetween vectors{1, 1};
/// Tensors of two dimensions, including 1 x n and n x 1. Kernels of convolutions have more
/// dimensions.
inline constexpr RankBetween matrices{2, 2};

/// Tensors of n dimensions; a single number has 0.
[[nodiscard]] constexpr RankBetween rank(std::size_t n) { return {n, n}; }
/// Tensors of fewer than n dimensions. Throws std::invalid_argument for n = 0, which would select
/// nothing.
[[nodiscard]] constexpr RankBetween rank_below(std::size_t n) {
  if (n == 0) detail::refuse_argument("rank_below() must be given a rank >= 1", n);
  return {0, n - 1};
}

namespace detail {

/// A predicate with a description of the tensors that it selects.
template <class F>
concept DescribedPredicate = requires(const F& predicate) {
  { predicate.describe() } -> std::convertible_to<std::string>;
};

/// The predicate of a Selection, shared by its copies.
struct SelectionRule {
  SelectionRule() = default;
  SelectionRule(const SelectionRule&) = delete;
  SelectionRule& operator=(const SelectionRule&) = delete;
  SelectionRule(SelectionRule&&) = delete;
  SelectionRule& operator=(SelectionRule&&) = delete;
  virtual ~SelectionRule() = default;
  [[nodiscard]] virtual bool selects(const TensorInfo& tensor) const = 0;
  [[nodiscard]] virtual std::string describe() const = 0;
};

template <class F>
struct PredicateRule final : SelectionRule {
  explicit PredicateRule(F some) : predicate(std::move(some)) {}
  [[nodiscard]] bool selects(const TensorInfo& tensor) const override {
    return static_cast<bool>(predicate(tensor));
  }
  [[nodiscard]] std::string describe() const override {
    if constexpr (DescribedPredicate<F>) {
      return predicate.describe();
    } else {
      return "a predicate";
    }
  }
  F predicate;
};

/// Whether a name matches a pattern: `*` matches any sequence of characters, also none, `?` any one
/// byte, everything else itself.
[[nodiscard]] constexpr bool matches(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0;
  // If the text after the last star does not match, continue one character further from here.
  std::size_t star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      retry = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace detail

/// A set of tensors, defined by a predicate on name, shape and role. A value that is cheap to copy.
/// A default-constructed Selection selects everything.
///
/// Made by named(), rank(), rank_below(), with_role(), the constants everything, matrices and
/// vectors, and any callable on `const TensorInfo&`; combined by `&&`, `||` and `!`. A callable is
/// called when a method is constructed or a group is set. It must return the same result each time,
/// and several threads may call it. It gets the name of the first registration, not an alias.
class Selection {
 public:
  /// Every tensor.
  Selection() = default;

  /// The tensors for which the callable returns true. Throws std::invalid_argument for a null
  /// pointer to a function.
  template <class F>
  requires(!std::derived_from<std::remove_cvref_t<F>, Selection> &&
           std::predicate<const std::decay_t<F>&, const TensorInfo&>)
      Selection(F&& predicate) {  // NOLINT(bugprone-forwarding-reference-overload): constrained
    using Predicate = std::decay_t<F>;
    if constexpr (std::is_pointer_v<std::remove_reference_t<F>>) {
      require(predicate != nullptr, "the predicate of a Selection must be a function",
              std::string_view("null"));
    }
    if constexpr (std::same_as<Predicate, RankBetween>) {
      if (predicate == everything) return;
    }
    rule_.reset(static_cast<const detail::SelectionRule*>(
        new detail::PredicateRule<Predicate>(std::forward<F>(predicate))));
  }

  [[nodiscard]] bool operator()(const TensorInfo& tensor) const {
    return rule_ == nullptr || rule_->selects(tensor);
  }

  /// Whether it was constructed without a predicate, or from `everything`.
  [[nodiscard]] bool is_everything() const { return rule_ == nullptr; }

  /// A description for messages: `(matrices && !named("*embedding*"))`. For a callable it is "a
  /// predicate", unless the callable has describe().
  [[nodiscard]] std::string describe() const {
    return rule_ == nullptr ? everything.describe() : rule_->describe();
  }

 private:
  std::shared_ptr<const detail::SelectionRule> rule_;  // null for every tensor
};

inline std::string RankBetween::describe() const {
  constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();
  if (least == 0 && most == no_limit) return "everything";
  if (least == 1 && most == 1) return "vectors";
  if (least == 2 && most == 2) return "matrices";
  if (least == most) return "rank(" + detail::text(least) + ")";
  if (least == 0) return "rank_below(" + detail::text(most + 1) + ")";
  return "RankBetween{" + detail::text(least) + ", " + detail::text(most) + "}";
}

namespace detail {

struct NamedRule {
  std::vector<std::string> patterns;

  [[nodiscard]] bool operator()(const TensorInfo& tensor) const {
    for (const std::string& pattern : patterns) {
      if (matches(pattern, tensor.name)) return true;
    }
    return false;
  }
  [[nodiscard]] std::string describe() const {
    std::string words = "named(";
    for (const std::string& pattern : patterns) {
      words.append(words.back() == '(' ? "" : ", ").append(text(pattern));
    }
    return words + ")";
  }
};

struct RoleRule {
  Role role;

  [[nodiscard]] bool operator()(const TensorInfo& tensor) const { return tensor.role == role; }
  [[nodiscard]] std::string describe() const {
    return std::string("with_role(Role::").append(name_of(role)).append(")");
  }
};

enum class Connective : unsigned char { both, either, not_first };

struct CombinedRule {
  Connective connective;
  Selection first, second;

  [[nodiscard]] bool operator()(const TensorInfo& tensor) const {
    switch (connective) {
      case Connective::both:
        return first(tensor) && second(tensor);
      case Connective::either:
        return first(tensor) || second(tensor);
      default:
        return !first(tensor);
    }
  }
  [[nodiscard]] std::string describe() const {
    if (connective == Connective::not_first) return "!" + first.describe();
    return "(" + first.describe() + (connective == Connective::both ? " && " : " || ") +
           second.describe() + ")";
  }
};

}  // namespace detail

/// Tensors whose whole name matches one of the patterns: `*` matches any sequence of characters,
/// dots included, `?` any one byte, everything else itself. Throws std::invalid_argument for an
/// empty pattern, and without patterns.
[[nodiscard]] inline Selection named(std::vector<std::string> patterns) {
  require(!patterns.empty(), "named() must be given at least one pattern; their number",
          patterns.size());
  for (const std::string& pattern : patterns) {
    require(!pattern.empty(), "a pattern of named() must not be empty", pattern);
  }
  return Selection(detail::NamedRule{std::move(patterns)});
}

template <class... Patterns>
requires(sizeof...(Patterns) > 0 && (std::convertible_to<const Patterns&, std::string_view> && ...))
    [[nodiscard]] Selection named(const Patterns&... patterns) {
  return named(std::vector<std::string>{std::string(std::string_view(patterns))...});
}

/// Tensors that were registered with this role.
[[nodiscard]] inline Selection with_role(Role role) { return Selection(detail::RoleRule{role}); }

/// Tensors in both selections, in at least one, or not in this one.
[[nodiscard]] inline Selection operator&&(const Selection& a, const Selection& b) {
  return Selection(detail::CombinedRule{detail::Connective::both, a, b});
}
[[nodiscard]] inline Selection operator||(const Selection& a, const Selection& b) {
  return Selection(detail::CombinedRule{detail::Connective::either, a, b});
}
[[nodiscard]] inline Selection operator!(const Selection& a) {
  return Selection(detail::CombinedRule{detail::Connective::not_first, a, {}});
}

/// For each tensor of the layout, whether it is selected.
[[nodiscard]] inline std::vector<bool> selected(const Selection& selection, const Layout& layout) {
  std::vector<bool> bits;
  bits.reserve(layout.tensors.size());
  for (const TensorInfo& tensor : layout.tensors) bits.push_back(selection(tensor));
  return bits;
}

/// The names of the selected tensors, in order of registration.
[[nodiscard]] inline std::vector<std::string> selected_names(const Selection& selection,
                                                             const Layout& layout) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : layout.tensors) {
    if (selection(tensor)) names.push_back(tensor.name);
  }
  return names;
}

}  // namespace POLYAK_V0
}  // namespace polyak
