// SPDX-License-Identifier: Apache-2.0
// Parameter lists: registration, layouts and refusals.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/views.hpp>
#include <polyak/polyak.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace parameters_test {

namespace {

using polyak::Order;
using polyak::Parameters;
using polyak::Role;
using polyak::Shape;

/// Everything observable of a list.
template <class P>
std::string description(const Parameters<P>& params) {
  std::string words = std::to_string(params.size()) + " of " + std::to_string(params.elements());
  const auto layout = params.layout();
  for (std::size_t k = 0; k < params.size(); ++k) {
    words += "; " + params[k].name() + " " + polyak::detail::describe(params[k].info()) + " at " +
             std::to_string(reinterpret_cast<std::uintptr_t>(params[k].raw())) + " size " +
             std::to_string(params[k].size());
  }
  for (const auto& [alias, target] : layout->aliases) words += "; " + alias + " = " + target;
  return words;
}

}  // namespace

TEST_CASE("Eigen objects are registered with their shape and order") {
  Eigen::MatrixXf columns = Eigen::MatrixXf::Zero(3, 4);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(3, 4);
  Eigen::Array<float, 2, 5> fixed;
  Eigen::VectorXf vector(6);
  Eigen::RowVectorXf row_vector(5);
  Eigen::ArrayXf array(4);
  Eigen::Matrix4f square;
  std::vector<float> memory(24);
  Eigen::Map<Eigen::MatrixXf> map(memory.data(), 4, 2);
  Eigen::Map<Eigen::Array<float, 2, 3, Eigen::RowMajor>> row_map(memory.data() + 8);
  Eigen::MatrixXf referred(2, 7);
  Eigen::Ref<Eigen::MatrixXf> ref = referred;
  Eigen::MatrixXf wide(3, 8);
  auto some_columns = wide.middleCols(2, 3);  // contiguous: whole columns
  Eigen::MatrixXf one_row(1, 9);

  Parameters params;
  params.add("columns", columns)
      .add("rows", rows)
      .add("fixed", fixed)
      .add("vector", vector)
      .add("row vector", row_vector)
      .add("array", array)
      .add("square", square)
      .add("map", map)
      .add("row map", row_map)
      .add("ref", ref)
      .add("columns of a block", some_columns)
      .add("one row", one_row);

  const auto is = [&](const char* name, const float* data, const Shape& shape, Order order) {
    INFO(name);
    const auto tensor = params.at(name);
    CHECK(tensor.data() == data);
    CHECK(tensor.shape() == shape);
    CHECK(tensor.info().order == order);
    CHECK(tensor.info().role == Role::average);
    CHECK(tensor.info().dtype == polyak::DType::float32);
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    CHECK(tensor.size() == static_cast<std::size_t>(size));
    CHECK(tensor.bytes() == 4 * static_cast<std::size_t>(size));
  };
  is("columns", columns.data(), {3, 4}, Order::column_major);
  is("rows", rows.data(), {3, 4}, Order::row_major);
  is("fixed", fixed.data(), {2, 5}, Order::column_major);
  is("vector", vector.data(), {6}, Order::row_major);
  is("row vector", row_vector.data(), {5}, Order::row_major);
  is("array", array.data(), {4}, Order::row_major);
  is("square", square.data(), {4, 4}, Order::column_major);
  is("map", memory.data(), {4, 2}, Order::column_major);
  is("row map", memory.data() + 8, {2, 3}, Order::row_major);
  is("ref", referred.data(), {2, 7}, Order::column_major);
  is("columns of a block", wide.data() + 6, {3, 3}, Order::column_major);
  is("one row", one_row.data(), {1, 9}, Order::row_major);  // order does not matter
  CHECK(params.size() == 12);
  CHECK(params.elements() == 12 + 12 + 10 + 6 + 5 + 4 + 16 + 8 + 6 + 14 + 9 + 9);
}

TEST_CASE("Eigen tensors are registered with their shape and order") {
  Eigen::Tensor<float, 3> columns(2, 3, 4);
  Eigen::Tensor<float, 4, Eigen::RowMajor> rows(2, 1, 3, 5);
  Eigen::Tensor<float, 1> line(7);
  Eigen::Tensor<float, 0> single;
  std::vector<float> memory(24);
  Eigen::TensorMap<Eigen::Tensor<float, 3, Eigen::RowMajor>> map(memory.data(), 4, 3, 2);
  Eigen::TensorFixedSize<float, Eigen::Sizes<2, 3>> fixed;

  Parameters params;
  params.add("columns", columns).add("rows", rows).add("line", line).add("single", single);
  params.add("map", map).add("fixed", fixed);
  CHECK(params.at("columns").shape() == Shape{2, 3, 4});
  CHECK(params.at("columns").info().order == Order::column_major);
  CHECK(params.at("columns").data() == columns.data());
  CHECK(params.at("rows").shape() == Shape{2, 1, 3, 5});
  CHECK(params.at("rows").info().order == Order::row_major);
  CHECK(params.at("line").shape() == Shape{7});
  CHECK(params.at("single").shape().empty());
  CHECK(params.at("single").size() == 1);
  CHECK(params.at("map").shape() == Shape{4, 3, 2});
  CHECK(params.at("map").data() == memory.data());
  CHECK(params.at("map").info().order == Order::row_major);
  CHECK(params.at("fixed").shape() == Shape{2, 3});
}

TEST_CASE("spans, standard containers and raw memory are registered") {
  std::vector<float> vector(12);
  std::array<float, 6> array{};
  float plain[8] = {};
  auto raw = std::make_unique<float[]>(12);
  float number = 1;

  Parameters params;
  params.add("vector", vector)
      .add("array", array, {2, 3})
      .add("span", std::span(plain), {2, 2, 2})
      .add("raw", raw.get(), {3, 4}, Role::average, Order::column_major)
      .add("number", &number, {});
  CHECK(params.at("vector").shape() == Shape{12});
  CHECK(params.at("array").shape() == Shape{2, 3});
  CHECK(params.at("array").data() == array.data());
  CHECK(params.at("array").info().order == Order::row_major);
  CHECK(params.at("span").shape() == Shape{2, 2, 2});
  CHECK(params.at("span").data() == plain);
  CHECK(params.at("raw").shape() == Shape{3, 4});
  CHECK(params.at("raw").info().order == Order::column_major);
  CHECK(params.at("number").size() == 1);
  CHECK(params.at("number").shape().empty());
  CHECK(params.elements() == 12 + 6 + 8 + 12 + 1);
}

TEST_CASE("Parameters support double and 16-bit types") {
  Eigen::MatrixXd doubles(2, 2);
  Eigen::Matrix<Eigen::half, 3, 2> halves;
  std::vector<Eigen::bfloat16> brains(5);
  Parameters<double> of_double;
  of_double.add("w", doubles);
  Parameters<Eigen::half> of_half;
  of_half.add("w", halves);
  Parameters<Eigen::bfloat16> of_bfloat16;
  of_bfloat16.add("w", brains);
  CHECK(of_double[0].info().dtype == polyak::DType::float64);
  CHECK(of_half[0].info().dtype == polyak::DType::float16);
  CHECK(of_half[0].bytes() == 12);
  CHECK(of_bfloat16[0].info().dtype == polyak::DType::bfloat16);
  CHECK(of_bfloat16[0].data() == brains.data());
}

TEST_CASE("Parameters hold roles and tensors of other types") {
  std::vector<float> weights(4), running(2), frozen(3);
  std::vector<double> doubles(2);
  std::vector<std::int64_t> count(1);
  std::array<bool, 3> mask{};
  std::vector<std::uint8_t> tokens(9);
  Parameters params;
  params.add("weights", weights)
      .add("running", running, Role::copy)
      .add("frozen", frozen, Role::ignore)
      .add("doubles", doubles, Role::copy)
      .add("count", count, Role::copy)
      .add("mask", mask, Role::ignore)
      .add("tokens", std::span(tokens), {3, 3}, Role::copy);
  CHECK(params.at("running").info().role == Role::copy);
  CHECK(params.at("frozen").info().role == Role::ignore);
  CHECK(params.at("count").info().dtype == polyak::DType::int64);
  CHECK(params.at("mask").info().dtype == polyak::DType::boolean);
  CHECK(params.at("tokens").info().dtype == polyak::DType::uint8);
  CHECK(params.at("doubles").bytes() == 16);
  CHECK(params.elements() == 9);  // elements of the list's type
  CHECK(refuses([&] { static_cast<void>(params.at("count").data()); }, {"\"count\"", "int64"}));
  CHECK(
      refuses([&] { static_cast<void>(params.at("doubles").data()); }, {"\"doubles\"", "float64"}));

  const std::string before = description(params);
  std::vector<std::int32_t> integers(2);
  CHECK(refuses([&] { params.add("integers", integers); },
                {"\"integers\"", "float32", "copy, ignore or frozen", "int32"}));
  std::vector<double> more(2);
  CHECK(refuses([&] { params.add("more", more, Role::average); }, {"\"more\"", "float64"}));
  CHECK(description(params) == before);
}

TEST_CASE("memory whose type is known at run time is registered as memory of the type itself") {
  using polyak::DType;
  std::vector<float> weights(6), more(6);
  std::vector<std::int64_t> count(1);
  std::vector<Eigen::bfloat16> low(2);
  std::vector<double> doubles(3);
  Parameters typed, untyped;
  typed.add("weights", weights.data(), {2, 3})
      .add("turned", more.data(), {2, 3}, Role::ignore, Order::column_major)
      .add("count", count.data(), {}, Role::copy)
      .add("low", low.data(), {2}, Role::frozen)
      .add("doubles", doubles.data(), {3}, Role::copy)
      .add("tied", weights.data(), {2, 3});
  void* const memory = weights.data();
  untyped.add("weights", memory, DType::float32, {2, 3})
      .add("turned", more.data(), DType::float32, {2, 3}, Role::ignore, Order::column_major)
      .add("count", count.data(), DType::int64, {}, Role::copy)
      .add("low", low.data(), DType::bfloat16, {2}, Role::frozen)
      .add("doubles", doubles.data(), DType::float64, {3}, Role::copy)
      .add("tied", memory, DType::float32, {2, 3});
  CHECK(description(untyped) == description(typed));
  CHECK(untyped.at("turned").data() == more.data());

  const std::string before = description(untyped);
  std::vector<float> fresh(4);
  const auto refused = [&](void* data, DType dtype, const Shape& shape, Role role,
                           const std::vector<std::string>& words) {
    return refuses([&] { untyped.add("new", data, dtype, shape, role); }, words) &&
           description(untyped) == before;
  };
  CHECK(refused(nullptr, DType::float32, {4}, Role::average, {"\"new\"", "null"}));
  CHECK(refused(fresh.data(), DType::float64, {2}, Role::average, {"\"new\"", "float64"}));
  CHECK(refused(fresh.data(), DType::float32, {-4}, Role::average, {"\"new\"", "-4"}));
  CHECK(refused(more.data() + 2, DType::float32, {4}, Role::average, {"\"new\"", "\"turned\""}));
  CHECK(refused(fresh.data(), static_cast<DType>(13), {4}, Role::copy,
                {"\"new\"", "must be a DType", "13"}));
  CHECK(
      refuses([&] { untyped.add("low", fresh.data(), DType::float32, {4}); }, {"\"low\"", "new"}));
  CHECK(description(untyped) == before);
}

TEST_CASE("memory with strides is refused") {
  Eigen::MatrixXf matrix(4, 5);
  auto block = matrix.block(1, 1, 2, 2);
  auto row = matrix.row(1);
  auto diagonal = matrix.diagonal();
  Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<2>> every_other(matrix.data(), 5);
  Eigen::Map<Eigen::MatrixXf, 0, Eigen::OuterStride<>> padded(matrix.data(), 2, 3,
                                                              Eigen::OuterStride<>(4));
  Eigen::Ref<Eigen::MatrixXf> ref = block;
  Parameters params;
  const std::string before = description(params);
  CHECK(refuses([&] { params.add("w", block); }, {"\"w\"", "contiguous"}));
  CHECK(refuses([&] { params.add("w", row); }, {"\"w\"", "contiguous"}));
  CHECK(refuses([&] { params.add("w", diagonal); }, {"\"w\"", "contiguous"}));
  CHECK(refuses([&] { params.add("w", every_other); }, {"\"w\"", "contiguous"}));
  CHECK(refuses([&] { params.add("w", padded); }, {"\"w\"", "contiguous"}));
  CHECK(refuses([&] { params.add("w", ref); }, {"\"w\"", "contiguous"}));
  CHECK(description(params) == before);

  // Strides of dimensions of size 1 do not matter.
  auto one_column = matrix.block(1, 1, 3, 1);
  params.add("one column", one_column);
  Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<2>> single(matrix.data(), 1);
  params.add("single", single);
  CHECK(params.size() == 2);
}

TEST_CASE("empty names and names used twice are refused") {
  std::vector<float> a(2), b(2);
  Parameters params;
  params.add("a", a).add("a again", a);
  const std::string before = description(params);
  CHECK(refuses([&] { params.add("", b); }, {"name", "empty"}));
  CHECK(refuses([&] { params.add("a", b); }, {"name", "new", "\"a\""}));
  CHECK(refuses([&] { params.add("a again", b); }, {"name", "new", "\"a again\""}));
  CHECK(refuses([&] { params.add("a", a); }, {"name", "new", "\"a\""}));
  CHECK(description(params) == before);
}

TEST_CASE("wrong shapes and null memory are refused") {
  std::vector<float> a(6);
  float* null = nullptr;
  Parameters params;
  const std::string before = description(params);
  CHECK(refuses([&] { params.add("a", a, {2, 4}); }, {"\"a\"", "6", "8"}));
  CHECK(refuses([&] { params.add("a", a, {-2, -3}); }, {"\"a\"", "dimension", "-2"}));
  CHECK(refuses([&] { params.add("a", null, {3}); }, {"\"a\"", "memory", "null"}));
  CHECK(refuses([&] { params.add("a", a.data(), {-1}); }, {"\"a\"", "dimension", "-1"}));
  CHECK(description(params) == before);
  params.add("empty", null, {0}).add("also empty", null, {3, 0});
  CHECK(params.size() == 2);
  CHECK(params.elements() == 0);
}

TEST_CASE("an alias that is transposed or reshaped is refused") {
  Eigen::MatrixXf embedding(3, 4), square(2, 2);
  Parameters params;
  params.add("embedding", embedding).add("square", square);
  const auto refused = [&](float* data, const Shape& shape, Order order, const char* words) {
    const std::string before = description(params);
    const bool right = refuses([&] { params.add("head", data, shape, Role::average, order); },
                               {"\"head\"", "transposed or reshaped", words});
    return right && description(params) == before;
  };
  CHECK(refused(embedding.data(), {4, 3}, Order::row_major, "\"embedding\""));
  CHECK(refused(embedding.data(), {3, 4}, Order::row_major,
                "[3, 4] for float32 [3, 4] column-major"));
  CHECK(refused(embedding.data(), {2, 6}, Order::column_major, "float32 [2, 6] column-major"));
  CHECK(refused(square.data(), {2, 2}, Order::row_major, "\"square\""));
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<RowMajor> transposed(embedding.data(), 4, 3);
  CHECK(refuses([&] { params.add("head", transposed); }, {"\"head\"", "\"embedding\""}));
  params.add("head", embedding.data(), {3, 1, 4}, Role::average, Order::column_major)
      .add("flat", embedding.data(), {12});
  CHECK(params.size() == 2);
}

TEST_CASE("the same memory registered twice is an alias") {
  Eigen::MatrixXf embedding = Eigen::MatrixXf::Constant(3, 4, 0.5F);
  std::vector<float> bias(4);
  std::vector<std::int32_t> count(1);
  Parameters params;
  params.add("embedding", embedding)
      .add("bias", bias)
      .add("head", embedding)
      .add("head, flat", embedding.data(), {12})
      .add("count", count, Role::copy)
      .add("count again", count, Role::copy);
  CHECK(params.size() == 3);
  CHECK(params.elements() == 16);
  CHECK(params.layout()->aliases.size() == 3);
  CHECK(params.at("head").name() == "embedding");
  CHECK(params.at("head, flat").shape() == Shape{3, 4});
  CHECK(params.at("count again").raw() == count.data());

  // State is read by either name.
  polyak::Ema ema(params);
  ema.update(params);
  CHECK(ema.view()["head"].data() == ema.view()["embedding"].data());
  CHECK(ema.view()["head"](11) == 0.5F);
  polyak::AdamW adamw(params);
  CHECK(adamw.slot("exp_avg")["head"].size() == 12);
  CHECK(adamw.slot("exp_avg")["head"].data() == adamw.slot("exp_avg")["embedding"].data());

  // The tensor is updated once.
  Eigen::MatrixXf gradient = Eigen::MatrixXf::Constant(3, 4, 1);
  polyak::Gradients<float> gradients(params);
  gradients.set("embedding", gradient);
  polyak::Sgd sgd(params, {.learning_rate = 0.25});
  sgd.step(params, gradients);
  CHECK(embedding == Eigen::MatrixXf::Constant(3, 4, 0.25F));
}

TEST_CASE("memory that overlaps partially is refused") {
  std::vector<float> memory(20);
  Parameters params;
  params.add("first", memory.data() + 4, {8});
  const std::string before = description(params);
  const auto overlaps = [&](std::size_t begin, std::int64_t size) {
    return refuses([&] { params.add("second", memory.data() + begin, {size}); },
                   {"\"second\"", "\"first\"", "overlap"});
  };
  CHECK(overlaps(0, 5));
  CHECK(overlaps(0, 20));
  CHECK(overlaps(4, 7));
  CHECK(overlaps(4, 9));
  CHECK(overlaps(5, 3));
  CHECK(overlaps(11, 1));
  CHECK(overlaps(11, 9));
  // The same memory in another type or role.
  CHECK(refuses([&] { params.add("second", memory.data() + 4, {8}, Role::copy); },
                {"\"second\"", "\"first\"", "overlap"}));
  CHECK(refuses(
      [&] {
        params.add("second", reinterpret_cast<std::int32_t*>(memory.data() + 4), {8}, Role::copy);
      },
      {"\"second\"", "\"first\"", "overlap"}));
  CHECK(description(params) == before);
  params.add("before", memory.data(), {4}).add("after", memory.data() + 12, {8});
  params.add("nothing", memory.data() + 6, {0});
  CHECK(params.size() == 4);
}

TEST_CASE("overlaps of tensors are found as by comparing every pair") {
  // Random stretches of one array: each list is compared with one that knows all stretches.
  std::mt19937 random(20);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  struct Stretch {
    std::string name;
    std::size_t begin, size;
    Role role;
  };
  std::size_t added = 0, aliased = 0, refused = 0, empty = 0;
  std::vector<float> memory(4000);
  for (int round = 0; round < 40; ++round) {
    Parameters params;
    std::vector<Stretch> known;
    std::vector<std::pair<std::string, std::string>> aliases;
    const std::size_t room = round % 2 == 0 ? 4000 : 300;
    for (int k = 0; k < 150; ++k) {
      Stretch one{"t" + std::to_string(k), 0, below(12),
                  below(8) == 0 ? Role::copy : Role::average};
      one.begin = below(room - one.size);
      if (!known.empty() && below(4) == 0) {  // mostly the very memory of another
        const Stretch& other = known[below(known.size())];
        one.begin = other.begin;
        one.size = other.size;
      }
      // The first one in order of registration.
      const Stretch* found = nullptr;
      for (const Stretch& other : known) {
        if (found == nullptr && one.size != 0 && other.size != 0 &&
            one.begin < other.begin + other.size && other.begin < one.begin + one.size) {
          found = &other;
        }
      }
      const auto add = [&] {
        params.add(one.name, memory.data() + one.begin, {static_cast<std::int64_t>(one.size)},
                   one.role);
      };
      if (found == nullptr) {
        add();
        known.push_back(one);
        ++(one.size == 0 ? empty : added);
      } else if (found->begin == one.begin && found->size == one.size && found->role == one.role) {
        add();
        aliases.emplace_back(one.name, found->name);
        ++aliased;
      } else {
        const std::string before = description(params);
        REQUIRE(refuses(add, {"tensor \"" + one.name + "\" overlaps that of \"" + found->name +
                              "\"; only the same memory"}));
        REQUIRE(description(params) == before);
        ++refused;
      }
    }
    REQUIRE(params.size() == known.size());
    for (std::size_t k = 0; k < known.size(); ++k) {
      REQUIRE(params[k].name() == known[k].name);
      REQUIRE(params[k].raw() == memory.data() + known[k].begin);
      REQUIRE(params.layout()->find(known[k].name) == k);
      REQUIRE(params.at(known[k].name).raw() == params[k].raw());
    }
    REQUIRE(params.layout()->aliases.size() == aliases.size());
    for (std::size_t k = 0; k < aliases.size(); ++k) {
      REQUIRE(params.layout()->aliases[k] == aliases[k]);
      REQUIRE(params.layout()->find_alias(aliases[k].first) == k);
      REQUIRE(params.layout()->find(aliases[k].first) == params.size());
      REQUIRE(params.at(aliases[k].first).name() == aliases[k].second);
    }
    // Names that were refused are new.
    REQUIRE(params.layout()->find_any("absent") == params.size());
  }
  CHECK(added > 1000);
  CHECK(aliased > 200);
  CHECK(refused > 1000);
  CHECK(empty > 100);
}

TEST_CASE("100,000 tensors are registered quickly in any order of addresses") {
  constexpr std::size_t count = 100'000;
  std::vector<float> memory(count * 2), other(1);
  for (const bool ascending : {true, false}) {
    Parameters params;
    for (std::size_t k = 0; k < count; ++k) {
      params.add("layers." + std::to_string(k), &memory[2 * (ascending ? k : count - 1 - k)], {2});
    }
    REQUIRE(params.size() == count);
    CHECK(params.at("layers.77777").data() == &memory[2 * (ascending ? 77777 : count - 1 - 77777)]);
    CHECK(refuses([&] { params.add("layers.3", other); }, {"new", "\"layers.3\""}));
    CHECK(refuses([&] { params.add("over", &memory[1], {2}); },
                  {"\"over\"", ascending ? "\"layers.0\"" : "\"layers.99998\""}));
    params.add("again", &memory[0], {2});
    CHECK(params.at("again").name() == (ascending ? "layers.0" : "layers.99999"));

    // Two lists are compared by name, in any order.
    Parameters turned;
    for (std::size_t k = count; k-- > 0;) {
      turned.add("layers." + std::to_string(k), &memory[2 * k], {2});
    }
    const std::string list = polyak::detail::differences(*turned.layout(), *params.layout());
    CHECK(list.starts_with("\"layers.99999\" is number 0, expected number 99999; "));
  }
}

TEST_CASE("a layout finds names and aliases, and counts a name once") {
  polyak::Layout layout;
  const auto info = [](std::string name, Shape shape) {
    polyak::TensorInfo tensor;
    tensor.name = std::move(name);
    tensor.shape = std::move(shape);
    return tensor;
  };
  CHECK(layout.find("a") == 0);
  CHECK(layout.find_alias("a") == 0);
  layout.add(info("a", {1}));
  layout.add(info("b", {2}));
  layout.add_alias("c", "b");
  CHECK(layout.find("b") == 1);
  CHECK(layout.find("c") == 2);
  CHECK(layout.find_alias("c") == 0);
  CHECK(layout.find_alias("b") == 1);
  CHECK(layout.find_any("c") == 1);
  CHECK(layout.find_any("a") == 0);
  CHECK(layout.find_any("d") == 2);

  // A copy has an index of its own.
  polyak::Layout copy = layout;
  copy.add(info("d", {1}));
  CHECK(copy.find("d") == 2);
  CHECK(layout.find("d") == layout.tensors.size());

  // A file may list a tensor twice.
  polyak::Layout twice;
  twice.add(info("a", {1}));
  twice.add(info("b", {2}));
  twice.add(info("a", {1}));
  for (int k = 0; k < 100; ++k) twice.add(info("more" + std::to_string(k), {}));
  CHECK(twice.find("a") == 0);
  CHECK(twice.find("more99") == 102);
  polyak::Layout few;
  few.add(info("a", {1}));
  few.add(info("b", {2}));
  few.add(info("a", {1}));
  CHECK(polyak::detail::differences(few, layout) == "\"a\" is listed twice");
  CHECK(polyak::detail::differences(layout, layout).empty());
}

TEST_CASE("const objects and temporaries do not compile") {
  STATIC_REQUIRE(polyak::detail::dies_with_its_memory<Eigen::MatrixXf>);
  STATIC_REQUIRE(polyak::detail::dies_with_its_memory<std::vector<float>>);
  STATIC_REQUIRE(polyak::detail::dies_with_its_memory<Eigen::Tensor<float, 2>>);
  STATIC_REQUIRE_FALSE(polyak::detail::dies_with_its_memory<Eigen::MatrixXf&>);
  STATIC_REQUIRE_FALSE(polyak::detail::dies_with_its_memory<std::span<float>>);
  STATIC_REQUIRE_FALSE(polyak::detail::dies_with_its_memory<Eigen::Map<Eigen::MatrixXf>>);
  STATIC_REQUIRE_FALSE(
      polyak::detail::dies_with_its_memory<Eigen::TensorMap<Eigen::Tensor<float, 2>>>);
  const Eigen::MatrixXf constant(2, 2);
  STATIC_REQUIRE(std::is_const_v<
                 std::remove_pointer_t<decltype(polyak::detail::describe_object(constant).data)>>);
}

TEST_CASE("copies of a list share tensors and layout until one of them grows") {
  std::vector<float> a(3), b(2);
  Parameters params;
  params.add("a", a);
  Parameters copy = params;
  CHECK(copy.layout() == params.layout());
  CHECK(copy[0].data() == a.data());
  const auto layout = params.layout();
  params.add("b", b);
  CHECK(params.size() == 2);
  CHECK(copy.size() == 1);
  CHECK(layout->tensors.size() == 1);
  CHECK(copy.layout() == layout);
}

TEST_CASE("nothing is added while an average is swapped in") {
  std::vector<float> a(3), b(2);
  Parameters params;
  params.add("a", a);
  polyak::Ema ema(params);
  ema.update(params);
  {
    const auto guard = ema.swap_into(params);
    CHECK(params.swapped());
    CHECK_THROWS_AS(params.add("b", b), std::logic_error);
    CHECK(params.size() == 1);
  }
  CHECK_FALSE(params.swapped());
  params.add("b", b);
  CHECK(params.size() == 2);
}

TEST_CASE("an unknown name is refused") {
  std::vector<float> a(3);
  Parameters params;
  params.add("a", a);
  CHECK(refuses([&] { static_cast<void>(params.at("c")); }, {"\"c\""}));
  polyak::AdamW adamw(params);
  CHECK(refuses([&] { static_cast<void>(adamw.slot("exp_avg")["c"]); }, {"\"c\""}));
  CHECK(refuses([&] { static_cast<void>(adamw.slot("momentum")); },
                {"\"momentum\"", "exp_avg", "exp_avg_sq"}));
}

TEST_CASE("a step lists the differences between its parameters and those of a method") {
  std::vector<float> a(6, 1), b(2, 1), c(3, 1), buffer(2);
  Eigen::MatrixXf matrix = Eigen::MatrixXf::Ones(2, 3);
  Parameters params;
  params.add("a", a, {2, 3}).add("b", b).add("c", c).add("buffer", buffer, Role::copy);
  polyak::AdamW adamw(params);
  polyak::Ema ema(params);
  const auto adamw_state = polyak::state_bytes(adamw);
  const auto ema_state = polyak::state_bytes(ema);

  const auto refused = [&](const Parameters<float>& other, const std::vector<std::string>& words) {
    polyak::Gradients<float> gradients(other);
    const std::vector<float> gradient(6, 1);
    gradients.set(other[0].name(), gradient.data());
    const std::string before = description(other);
    const bool good = refuses([&] { adamw.step(other, gradients); }, words) &&
                      refuses([&] { ema.update(other); }, words) &&
                      refuses([&] { polyak::step(other, gradients, adamw, ema); }, words) &&
                      refuses([&] { polyak::update(other, ema); }, words);
    return good && description(other) == before && polyak::state_bytes(adamw) == adamw_state &&
           polyak::state_bytes(ema) == ema_state && a == std::vector<float>(6, 1) &&
           b == std::vector<float>(2, 1) && c == std::vector<float>(3, 1);
  };
  {
    Parameters other;
    other.add("a", a, {2, 3}).add("b", b).add("buffer", buffer, Role::copy);
    CHECK(refused(other, {"differ", "\"c\" is missing"}));
  }
  {
    std::vector<float> d(1);
    Parameters other;
    other.add("a", a, {2, 3}).add("b", b).add("c", c).add("buffer", buffer, Role::copy);
    other.add("d", d);
    CHECK(refused(other, {"\"d\" is extra"}));
  }
  {
    Parameters other;
    other.add("a", a, {2, 3}).add("B", b).add("c", c).add("buffer", buffer, Role::copy);
    CHECK(refused(other, {"\"b\" is missing", "\"B\" is extra"}));
  }
  {
    Parameters other;
    other.add("b", a.data(), {2}).add("a", b.data(), {0});
    CHECK(refused(other, {"\"a\" is float32 [0], expected float32 [2, 3]", "\"c\" is missing",
                          "\"buffer\" is missing"}));
  }
  {
    Parameters other;
    other.add("b", b).add("a", a, {2, 3}).add("c", c).add("buffer", buffer, Role::copy);
    CHECK(refused(
        other, {"\"b\" is number 0, expected number 1", "\"a\" is number 1, expected number 0"}));
  }
  {
    Parameters other;
    other.add("a", a, {3, 2}).add("b", b).add("c", c, {1, 3}).add("buffer", buffer, Role::copy);
    CHECK(refused(other, {"\"a\" is float32 [3, 2], expected float32 [2, 3]",
                          "\"c\" is float32 [1, 3], expected float32 [3]"}));
  }
  {
    Parameters other;
    other.add("a", matrix).add("b", b).add("c", c).add("buffer", buffer);
    CHECK(refused(other, {"\"a\" is float32 [2, 3] column-major, expected float32 [2, 3]",
                          "\"buffer\" is float32 [2], expected float32 [2] (copy)"}));
  }
  {
    std::vector<std::int16_t> integers(2);
    Parameters other;
    other.add("a", a, {2, 3}).add("b", b).add("c", c).add("buffer", integers, Role::copy);
    CHECK(refused(other, {"\"buffer\" is int16 [2] (copy), expected float32 [2] (copy)"}));
  }

  // Gradients of other parameters than the step's.
  Parameters fewer;
  fewer.add("a", a, {2, 3});
  CHECK(refuses([&] { adamw.step(params, polyak::Gradients<float>(fewer)); },
                {"gradients", "\"b\" is missing", "\"c\" is missing"}));
  CHECK(polyak::state_bytes(adamw) == adamw_state);

  // Another list of equal layout is as good.
  std::vector<float> a2(6), b2(2), c2(3), buffer2(2);
  Parameters equal;
  equal.add("a", a2, {2, 3}).add("b", b2).add("c", c2).add("buffer", buffer2, Role::copy);
  CHECK(adamw.step(equal, polyak::Gradients<float>(equal)));
}

TEST_CASE("a shape with more elements than memory can have is refused") {
  std::vector<float> memory(4);
  Parameters params;
  constexpr std::int64_t large = std::int64_t{1} << 32;
  for (const Shape& shape : {Shape{large, large}, Shape{large, large, 4},
                             Shape{large * (large / 8)}, Shape{3, large, large / 2, 2}}) {
    CHECK(refuses([&] { params.add("w", memory, shape); },
                  {"tensor \"w\" must have at most 576460752303423487 elements, got the shape ["}));
    CHECK(refuses([&] { params.add("w", memory.data(), shape); },
                  {"tensor \"w\" must have at most"}));
  }
  CHECK(refuses(
      [&] {
        params.add("w", memory.data(), {large, large});
      },
      {"got the shape [4294967296, 4294967296]"}));
  CHECK(params.size() == 0);
  std::vector<float> none;
  params.add("empty", none, {large, large, 0});
  CHECK(params.at("empty").size() == 0);
}

TEST_CASE("lists and methods that were moved from are refused") {
  std::vector<float> w{1, 2}, g{1, 1};
  Parameters params;
  params.add("w", w);
  polyak::AdamW adamw(params);
  polyak::Ema ema(params);
  ema.update(params);
  polyak::Gradients<float> grads = polyak::like(params, g);

  Parameters other = std::move(params);
  polyak::Gradients<float> other_grads = std::move(grads);
  const auto moved = [&](auto&& call) {
    return refusal<std::logic_error>(call).starts_with(
        "polyak: a list of parameters or gradients is used after it was moved from");
  };
  // NOLINTBEGIN(bugprone-use-after-move)
  CHECK(moved([&] { params.add("v", g); }));
  CHECK(moved([&] { static_cast<void>(params.at("w")); }));
  CHECK(moved([&] { static_cast<void>(params.elements()); }));
  CHECK(moved([&] { static_cast<void>(params.layout()); }));
  CHECK(moved([&] { static_cast<void>(params.swapped()); }));
  CHECK(moved([&] { polyak::AdamW<float> late(params); }));
  CHECK(moved([&] { polyak::Gradients<float> late(params); }));
  CHECK(moved([&] { adamw.step(params, other_grads); }));
  CHECK(moved([&] { adamw.step(other, grads); }));
  CHECK(moved([&] { grads.set("w", g); }));
  CHECK(moved([&] { ema.update(params); }));
  CHECK(moved([&] { ema.copy_to(params); }));
  CHECK(moved([&] { const auto guard = ema.swap_into(params); }));
  CHECK(moved([&] { polyak::soft_update(params, other, 0.5); }));
  CHECK(moved([&] { static_cast<void>(polyak::norm(grads)); }));

  const polyak::AdamW<float> next_adamw = std::move(adamw);
  const polyak::Ema<float> next_ema = std::move(ema);
  const auto gone = [&](auto&& call) {
    return refusal<std::logic_error>(call) == "polyak: a method is used after it was moved from";
  };
  CHECK(gone([&] { adamw.step(other, other_grads); }));
  CHECK(gone([&] { ema.update(other); }));
  CHECK(gone([&] { const auto guard = ema.swap_into(other); }));
  CHECK(gone([&] { ema.copy_to(other); }));
  CHECK(gone([&] { static_cast<void>(polyak::state_bytes(adamw)); }));
  // NOLINTEND(bugprone-use-after-move)
  CHECK(w == std::vector<float>{1, 2});

  // Assigning makes a list usable again.
  params = other;
  CHECK(params.at("w").data() == w.data());
}

}  // namespace parameters_test
