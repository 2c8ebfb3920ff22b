// SPDX-License-Identifier: Apache-2.0
// Selections: the tensors that they select, their combinations, and refusals.
#include <polyak/core/tensors/selection.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection_checks.hpp>

#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace selection_test {

namespace {

using polyak::everything;
using polyak::Layout;
using polyak::matrices;
using polyak::named;
using polyak::Role;
using polyak::selected;
using polyak::selected_names;
using polyak::Selection;
using polyak::Shape;
using polyak::TensorInfo;
using polyak::vectors;
using polyak::detail::matches;

using Names = std::vector<std::string>;

TensorInfo tensor(std::string name, Shape shape, Role role = Role::average) {
  TensorInfo info;
  info.name = std::move(name);
  info.shape = std::move(shape);
  info.role = role;
  info.size = 1;
  for (const std::int64_t extent : info.shape) info.size *= static_cast<std::size_t>(extent);
  return info;
}

Layout model() {
  Layout layout;
  layout.add(tensor("wte.weight", {50, 8}));
  layout.add(tensor("h.0.attn.weight", {8, 24}));
  layout.add(tensor("h.0.attn.bias", {24}));
  layout.add(tensor("h.0.norm.weight", {8}, Role::ignore));
  layout.add(tensor("conv.weight", {4, 3, 3, 3}));
  layout.add(tensor("conv.count", {}, Role::copy));
  layout.add_alias("lm_head.weight", "wte.weight");
  return layout;
}

bool has_norm(const TensorInfo& info) { return info.name.find("norm") != std::string::npos; }

/// Matches by the definition: every way of cutting the name.
bool matches_slowly(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*') {
    for (std::size_t k = 0; k <= name.size(); ++k) {
      if (matches_slowly(pattern.substr(1), name.substr(k))) return true;
    }
    return false;
  }
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) &&
         matches_slowly(pattern.substr(1), name.substr(1));
}

}  // namespace

TEST_CASE("patterns match whole names", "[selection]") {
  CHECK(matches("*.bias", "h.0.attn.bias"));
  CHECK_FALSE(matches("*.bias", "bias"));
  CHECK_FALSE(matches("*.bias", "h.bias.weight"));
  CHECK_FALSE(matches("bias", "h.bias"));
  CHECK(matches("h.?.norm", "h.3.norm"));
  CHECK_FALSE(matches("h.?.norm", "h.13.norm"));
  CHECK_FALSE(matches("h.?.norm", "h..norm"));
  CHECK(matches("h.*.norm.*", "h.13.norm.weight"));
  CHECK(matches("*", ""));
  CHECK(matches("a[0].b+", "a[0].b+"));
  CHECK_FALSE(matches("A", "a"));
  STATIC_REQUIRE(matches("a*c", "abcabc"));
}

TEST_CASE("patterns match like an exhaustive search over all splits of the name", "[selection]") {
  // All patterns of up to 5 characters against all names of up to 5.
  const auto words = [](std::string_view letters, std::size_t length) {
    std::vector<std::string> all{""};
    for (std::size_t begin = 0, size = 0; size < length; ++size) {
      const std::size_t end = all.size();
      for (; begin < end; ++begin) {
        for (const char letter : letters) all.push_back(all[begin] + letter);
      }
    }
    return all;
  };
  const auto patterns = words("ab*?", 5), names = words("ab", 5);
  REQUIRE(patterns.size() == 1365);
  REQUIRE(names.size() == 63);
  std::size_t differing = 0, matching = 0;
  for (const std::string& pattern : patterns) {
    for (const std::string& name : names) {
      const bool expected = matches_slowly(pattern, name);
      matching += expected ? 1 : 0;
      if (matches(pattern, name) != expected) ++differing;
    }
  }
  CHECK(differing == 0);
  CHECK(matching > 10'000);
}

TEST_CASE("tensors are selected by name, shape and role", "[selection]") {
  const Layout layout = model();
  const auto names = [&](const Selection& selection) { return selected_names(selection, layout); };
  CHECK(names({}).size() == 6);
  CHECK(names(everything) == names({}));
  CHECK(names(named("*.bias")) == Names{"h.0.attn.bias"});
  CHECK(names(named("*.bias", "wte.*")) == Names{"wte.weight", "h.0.attn.bias"});
  CHECK(names(named(Names{"h.?.attn.*"})) == Names{"h.0.attn.weight", "h.0.attn.bias"});
  CHECK(names(named(std::string("conv.*"), std::string_view("nothing"))) ==
        Names{"conv.weight", "conv.count"});
  CHECK(names(matrices) == Names{"wte.weight", "h.0.attn.weight"});
  CHECK(names(vectors) == Names{"h.0.attn.bias", "h.0.norm.weight"});
  CHECK(names(polyak::rank(0)) == Names{"conv.count"});
  CHECK(names(polyak::rank(4)) == Names{"conv.weight"});
  CHECK(names(polyak::rank_below(2)) == Names{"h.0.attn.bias", "h.0.norm.weight", "conv.count"});
  CHECK(names(polyak::RankBetween{2, 4}) == Names{"wte.weight", "h.0.attn.weight", "conv.weight"});
  CHECK(names(polyak::with_role(Role::ignore)) == Names{"h.0.norm.weight"});
  CHECK(names(polyak::with_role(Role::copy)) == Names{"conv.count"});
  CHECK(selected(matrices, layout) == std::vector<bool>{true, true, false, false, false, false});
  CHECK(selected(named("lm_head.weight"), layout) == std::vector<bool>(6, false));
}

TEST_CASE("any callable is a selection", "[selection]") {
  const Layout layout = model();
  CHECK(selected_names(has_norm, layout) == Names{"h.0.norm.weight"});
  CHECK(selected_names(&has_norm, layout) == Names{"h.0.norm.weight"});
  const std::size_t least = layout.tensors[0].size;  // 400
  CHECK(selected_names([least](const TensorInfo& info) { return info.size >= least; }, layout) ==
        Names{"wte.weight"});
  const std::function<bool(const TensorInfo&)> function = has_norm;
  CHECK(selected_names(function, layout) == Names{"h.0.norm.weight"});
  // One that cannot be copied.
  CHECK(selected_names([owned = std::make_unique<std::string>("conv.count")](
                           const TensorInfo& info) { return info.name == *owned; },
                       layout) == Names{"conv.count"});
  STATIC_REQUIRE_FALSE(std::is_constructible_v<Selection, bool>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<Selection, bool (*)(int)>);
}

TEST_CASE("selections combine by and, or and not", "[selection]") {
  const Layout layout = model();
  const auto names = [&](const Selection& selection) { return selected_names(selection, layout); };
  CHECK(names(matrices && named("h.*")) == Names{"h.0.attn.weight"});
  CHECK(names(matrices && !named("wte.*")) == Names{"h.0.attn.weight"});
  CHECK(names(matrices || polyak::rank(4)) ==
        Names{"wte.weight", "h.0.attn.weight", "conv.weight"});
  CHECK(names(!matrices && !vectors && named("*.weight")) == Names{"conv.weight"});
  CHECK(names(!everything).empty());
  CHECK(names(named("wte.*") || has_norm) == Names{"wte.weight", "h.0.norm.weight"});
  CHECK(names(!Selection(has_norm) && vectors) == Names{"h.0.attn.bias"});

  // De Morgan, over all tensors; a copy is equal and outlives its original.
  Selection both = everything;
  {
    const Selection a = named("*.weight"), b = polyak::rank_below(3);
    CHECK(selected(!(a && b), layout) == selected(!a || !b, layout));
    CHECK(selected(!(a || b), layout) == selected(!a && !b, layout));
    both = a && b;
  }
  CHECK(names(both) == Names{"wte.weight", "h.0.attn.weight", "h.0.norm.weight"});
  const Selection copy = both;
  both = !both;
  CHECK(names(copy).size() == 3);
  CHECK(names(both).size() == 3);
}

TEST_CASE("selections describe themselves in words", "[selection]") {
  CHECK(Selection().describe() == "everything");
  CHECK(Selection(everything).is_everything());
  CHECK(Selection().is_everything());
  CHECK_FALSE(Selection(matrices).is_everything());
  CHECK_FALSE((!everything).is_everything());
  CHECK((!everything).describe() == "!everything");
  CHECK(named("*.bias", "a").describe() == "named(\"*.bias\", \"a\")");
  CHECK((matrices && !named("h.*")).describe() == "(matrices && !named(\"h.*\"))");
  CHECK((vectors || has_norm).describe() == "(vectors || a predicate)");
  CHECK(Selection(polyak::rank(3)).describe() == "rank(3)");
  CHECK(Selection(polyak::rank_below(2)).describe() == "rank_below(2)");
  CHECK(Selection(polyak::RankBetween{2, 3}).describe() == "RankBetween{2, 3}");
  CHECK(polyak::with_role(Role::ignore).describe() == "with_role(Role::ignore)");
}

TEST_CASE("selections that make no sense are refused", "[selection]") {
  CHECK(refuses([] { static_cast<void>(named("")); }, {"named()", "empty"}));
  CHECK(refuses([] { static_cast<void>(named("a", "")); }, {"named()", "empty"}));
  CHECK(refuses([] { static_cast<void>(named(Names{})); }, {"named()", "at least one", "got 0"}));
  CHECK(refuses([] { static_cast<void>(polyak::rank_below(0)); }, {"rank_below()", ">= 1"}));
  bool (*const null)(const TensorInfo&) = nullptr;
  CHECK(refuses([&] { static_cast<void>(Selection(null)); }, {"Selection", "null"}));
}

TEST_CASE("a selection of no tensor is refused, and the error says what to do", "[selection]") {
  const Layout layout = model();
  const auto require_some = [&](const Selection& selection) {
    polyak::detail::require_some(selected(selection, layout), selection, layout, "AdamW");
  };
  CHECK_NOTHROW(require_some(named("*.bias")));
  CHECK(refuses(
      [&] { require_some(named("*.biass")); },
      {"AdamW", "named(\"*.biass\")", "none", "\"wte.weight\"", "\"conv.count\"", "leave it out"}));
  CHECK(refuses([&] { require_some(named("lm_head.weight")); },
                {"\"lm_head.weight\" is an alias", "select \"wte.weight\""}));
  // Of a long list, the first names.
  Layout longer;
  for (int k = 0; k < 100; ++k) longer.add(tensor("t" + std::to_string(k), {1}));
  const std::string message = refusal<std::invalid_argument>(
      [&] { polyak::detail::require_some(selected(matrices, longer), matrices, longer, "Muon"); });
  CHECK(message.find("\"t7\", ...") != std::string::npos);
  CHECK(message.find("\"t8\"") == std::string::npos);
}

TEST_CASE("two selections of the same tensor are refused, and the error names it", "[selection]") {
  const Layout layout = model();
  const auto require_disjoint = [&](const Selection& a, const Selection& b) {
    polyak::detail::require_disjoint(selected(a, layout), selected(b, layout), layout, "Muon",
                                     "AdamW");
  };
  CHECK_NOTHROW(require_disjoint(matrices, !matrices));
  CHECK(refuses([&] { require_disjoint(matrices, named("h.*")); },
                {"\"h.0.attn.weight\"", "Muon", "AdamW", "!named(\"h.0.attn.weight\")"}));
  CHECK(polyak::detail::first_common(selected(matrices, layout), selected({}, layout)) == 0);
  CHECK(polyak::detail::first_common(selected(matrices, layout), selected(vectors, layout)) == 6);
}

TEST_CASE("every method takes a selection in its constructor", "[selection]") {
  struct Method {
    explicit Method(const polyak::Parameters<float>& params, const Selection& selection = {})
        : bits(selected(selection, *params.layout())) {}
    std::vector<bool> bits;
  };
  std::vector<float> w(6), b(3);
  polyak::Parameters<float> params;
  params.add("w", w, {2, 3}).add("b", b);
  CHECK(Method(params).bits == std::vector<bool>{true, true});
  CHECK(Method(params, matrices).bits == std::vector<bool>{true, false});
  CHECK(Method(params, !named("w")).bits == std::vector<bool>{false, true});
  CHECK(Method(params, [](const TensorInfo& info) { return info.size == 3; }).bits ==
        std::vector<bool>{false, true});
}

}  // namespace selection_test
