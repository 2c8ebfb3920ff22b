// SPDX-License-Identifier: Apache-2.0
#include <polyak/core/option_reader.hpp>
#include <polyak/core/option_table.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/type_name.hpp>

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bits.hpp"
#include "refusal_battery.hpp"

namespace options_test {

namespace users {

enum class Kind : std::uint8_t { plain, fancy };
constexpr std::string_view name_of(Kind kind) { return kind == Kind::plain ? "plain" : "fancy"; }

struct PartOptions {
  double width = 0.25;
};
template <class Fields>
void fields(PartOptions& o, Fields& field) {
  field("width", o.width, polyak::in_closed_0_1);
}

struct UserOptions {
  double rate = 0.1;
  std::int64_t steps = 3;
  bool strict = false;
  Kind kind = Kind::fancy;
  std::vector<double> weights = {1, 2};
  PartOptions part = {};
};
template <class Fields>
void fields(UserOptions& o, Fields& field) {
  field("rate", o.rate, polyak::finite_and_not_negative);
  field("steps", o.steps, polyak::at_least_1);
  field("strict", o.strict);
  field.check(!o.strict || o.steps > 1, "strict needs steps > 1; steps are", o.steps);
  field("kind", o.kind);
  field.list("weight", o.weights, 1, polyak::finite_and_positive);
  field.check(!o.weights.empty(), ": there must be a weight; weights are", o.weights.size());
  field.inside(o.part);
}

template <class T>
struct Wrapped {
  T inner = {};
};
template <class T, class Fields>
void fields(Wrapped<T>& o, Fields& field) {
  field("inner", o.inner, polyak::in_0_1);
}

}  // namespace users

namespace {

using users::Kind;
using users::UserOptions;
using Texts = std::map<std::string, std::string>;

std::string refused(const UserOptions& options) {
  return refusal<std::invalid_argument>([&] { polyak::validate(options); });
}
Texts texts_of(const UserOptions& options) {
  Texts all;
  for (auto& option : polyak::detail::option_texts(options)) all.emplace(option.name, option.text);
  return all;
}

TEST_CASE("validate names struct, field and value of the first broken rule", "[options]") {
  CHECK_NOTHROW(polyak::validate(UserOptions{}));
  CHECK(refused({.rate = -1, .steps = 0}) ==
        "polyak: UserOptions.rate must be finite and >= 0, got -1");
  CHECK(refused({.steps = 0}) == "polyak: UserOptions.steps must be >= 1, got 0");
  CHECK(refused({.steps = 1, .strict = true}) ==
        "polyak: UserOptions.strict needs steps > 1; steps are, got 1");
  CHECK(refused({.weights = {1, 0}}) == "polyak: UserOptions.weight must be finite and > 0, got 0");
  CHECK(refused({.weights = {}}) ==
        "polyak: UserOptions: there must be a weight; weights are, got 0");
  CHECK(refused({.part = {2}}) == "polyak: PartOptions.width must lie in [0, 1], got 2");
  CHECK(refusal<std::invalid_argument>([] { polyak::validate(users::Wrapped<double>{2}); }) ==
        "polyak: Wrapped.inner must lie in [0, 1), got 2");
  CHECK(check_refusals<UserOptions>({{}}, [](const UserOptions& o) { polyak::validate(o); }) ==
        polyak::finite_and_not_negative.count + polyak::at_least_1.count +
            polyak::finite_and_positive.count + polyak::in_closed_0_1.count);
}

TEST_CASE("HasFields tells types with a list of fields from others", "[options]") {
  CHECK(polyak::HasFields<UserOptions>);
  CHECK(polyak::HasFields<const UserOptions>);
  CHECK(!polyak::HasFields<double>);
  CHECK(!polyak::HasFields<std::vector<double>>);
}

TEST_CASE("plain_type_name drops namespaces and template arguments", "[options]") {
  using polyak::detail::plain_type_name;
  CHECK(plain_type_name<UserOptions>() == "UserOptions");
  CHECK(plain_type_name<users::Wrapped<users::Wrapped<std::string>>>() == "Wrapped");
  CHECK(plain_type_name<double>() == "double");
}

TEST_CASE("option_texts lists fields as text in their order", "[options]") {
  const UserOptions options{.rate = 0.1, .kind = Kind::plain};
  const polyak::detail::OptionTexts expected{
      {"rate", "0.1"},   {"steps", "3"},    {"strict", "false"}, {"kind", "plain"},
      {"weight.1", "1"}, {"weight.2", "2"}, {"width", "0.25"}};
  CHECK(polyak::detail::option_texts(options) == expected);
}

TEST_CASE("fields are read back from their texts, numbers to the last bit", "[options]") {
  for (const double rate : {1.0 / 3, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 0.0}) {
    const UserOptions written{.rate = rate,
                              .steps = std::numeric_limits<std::int64_t>::max(),
                              .strict = true,
                              .kind = Kind::plain,
                              .weights = {rate + 1e-9, 1.0 / 7, 3},
                              .part = {1.0 / 9}};
    UserOptions read;
    CHECK(polyak::detail::read_options(texts_of(written), read).empty());
    CHECK(std::bit_cast<std::uint64_t>(read.rate) == std::bit_cast<std::uint64_t>(rate));
    CHECK(read.steps == written.steps);
    CHECK(read.strict);
    CHECK(read.kind == Kind::plain);
    CHECK(read.weights == written.weights);
    CHECK(read.part.width == written.part.width);
    CHECK(polyak::same_options(read, written));
  }
}

TEST_CASE("read_options names texts that are not values of their fields", "[options]") {
  const auto problem = [](const std::string& name, const std::string& text) {
    Texts texts = texts_of({});
    if (text.empty()) {
      texts.erase(name);
    } else {
      texts[name] = text;
    }
    UserOptions read;
    return polyak::detail::read_options(texts, read);
  };
  CHECK(problem("rate", "") == "lacks the option rate");
  CHECK(problem("steps", "") == "lacks the option steps");
  CHECK(problem("width", "") == "lacks the option width");
  CHECK(problem("rate", "0.1x") == "has a wrong option rate");
  CHECK(problem("steps", "0.5") == "has a wrong option steps");
  CHECK(problem("strict", "yes") == "has a wrong option strict");
  CHECK(problem("kind", "other") == "has a wrong option kind");
  CHECK(problem("weight.2", "heavy") == "has a wrong option weight.2");
  CHECK(problem("rate", "-1") ==
        "has a wrong option: UserOptions.rate must be finite and >= 0, got -1");
  CHECK(problem("strict", "").empty());  // flags and enums keep their defaults
  CHECK(problem("kind", "").empty());
}

TEST_CASE("same_options compares all fields", "[options]") {
  using polyak::same_options;
  CHECK(same_options(UserOptions{}, UserOptions{}));
  CHECK(!same_options(UserOptions{}, UserOptions{.rate = std::nextafter(0.1, 1)}));
  CHECK(!same_options(UserOptions{}, UserOptions{.strict = true}));
  CHECK(!same_options(UserOptions{}, UserOptions{.kind = Kind::plain}));
  CHECK(!same_options(UserOptions{}, UserOptions{.weights = {1}}));
  CHECK(!same_options(UserOptions{}, UserOptions{.part = {0.5}}));
}

TEST_CASE("option_table has the types, defaults and rules of all fields", "[options]") {
  const polyak::OptionTable table = polyak::option_table<UserOptions>();
  CHECK(table.name == "UserOptions");
  const std::vector<std::vector<std::string>> expected{
      {"rate", "number", "0.1", "must be finite and >= 0"},
      {"steps", "integer", "3", "must be >= 1"},
      {"strict", "flag", "false", ""},
      {"kind", "plain, fancy", "fancy", ""},
      {"weight", "list of number", "", "must be finite and > 0"},
      {"width", "number", "0.25", "must lie in [0, 1]"}};
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : table.rows)
    rows.push_back({row.name, row.type, row.default_value, row.rule});
  CHECK(rows == expected);
  CHECK(table.rules == std::vector<std::string>{"strict needs steps > 1; steps are",
                                                ": there must be a weight; weights are"});
}

}  // namespace

TEST_CASE("plain_type_name names structs, enums and templates") {
  using polyak::detail::plain_type_name;
  CHECK(plain_type_name<users::UserOptions>() == "UserOptions");
  CHECK(plain_type_name<users::Kind>() == "Kind");
  CHECK(plain_type_name<std::map<std::string, std::vector<users::PartOptions>>>() == "map");
}

}  // namespace options_test
