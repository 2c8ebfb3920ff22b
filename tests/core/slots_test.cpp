// SPDX-License-Identifier: Apache-2.0
// polyak/core/tensors/slots.hpp and slot_shape.hpp: the contents of slots of each shape, and their
// places.
#include <polyak/core/tensors/slots.hpp>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <polyak/average/ema.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/block.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/matrix_view.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>

#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"
#include "../support/shaped_method.hpp"

namespace slots_test {

namespace {

using polyak::Kept;
using polyak::MatrixView;
using polyak::Order;
using polyak::Role;
using polyak::Shape;
using polyak::Slots;
using polyak::SlotShape;
using polyak::SlotSpec;

/// Tensors of every rank, one of them column-major, an empty one and a buffer.
struct Tensors {
  std::vector<float> memory = std::vector<float>(400);
  polyak::Parameters<float> params;
  polyak::Gradients<float> gradients;

  Tensors() : gradients(list(params, memory)) {}
  void differentiate(std::uint64_t step) {
    float* place = memory.data() + 200;
    for (std::size_t k = 0; k < params.size(); ++k) {
      if (params[k].info().role == Role::copy) continue;
      for (std::size_t i = 0; i < params[k].size(); ++i) {
        place[i] = static_cast<float>(bits::uniform(i, 31 * step + k));
      }
      gradients.set(params[k].name(), place);
      place += params[k].size();
    }
  }

 private:
  static polyak::Parameters<float>& list(polyak::Parameters<float>& params,
                                         std::vector<float>& memory) {
    float* place = memory.data();
    const auto add = [&](const char* name, const Shape& shape, Role role = Role::average,
                         Order order = Order::row_major) {
      params.add(name, place, shape, role, order);
      place += params[params.size() - 1].size();
    };
    add("number", {});
    add("bias", {5});
    add("matrix", {4, 6});
    add("buffer", {3, 3}, Role::copy);
    add("kernel", {2, 3, 4, 5});
    add("turned", {3, 2, 4}, Role::ignore, Order::column_major);
    add("empty", {0, 3});
    return params;
  }
};

Slots<float> made(const polyak::Parameters<float>& params, const std::vector<SlotSpec>& specs,
                  Kept kept = Kept::trained) {
  return Slots<float>(params.layout(), polyak::DType::float32, kept, specs);
}

}  // namespace

TEST_CASE("slots have a number for each row, column or tensor", "[slots]") {
  const Tensors tensors;
  const auto& layout = *tensors.params.layout();
  const Slots<float> slots =
      made(tensors.params, {{"full"},
                            {"rows", SlotShape::rows},
                            {"columns", SlotShape::columns},
                            {"last", SlotShape::rows, MatrixView::last_two},
                            {"low", SlotShape::columns, MatrixView::last_two},
                            {"norm", SlotShape::scalar}});
  const auto shapes = [&](const char* name) {
    const std::size_t slot = slots.find(name);
    std::vector<Shape> all;
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      if (!slots.keeps(slot, k)) continue;
      all.push_back(slots.info(slot, k).shape);
      CHECK(slots.info(slot, k).name == layout.tensors[k].name);
      CHECK(slots.tensor(slot, k).size() == polyak::detail::elements_of(all.back(), "x"));
      CHECK(slots.bytes(slot, k) == 4 * slots.tensor(slot, k).size());
    }
    return all;
  };
  // A slot has as many rows and columns as a reduction has results.
  CHECK(shapes("full") == std::vector<Shape>{{}, {5}, {4, 6}, {2, 3, 4, 5}, {3, 2, 4}, {0, 3}});
  CHECK(shapes("rows") == std::vector<Shape>{{1}, {1}, {4}, {2}, {3}, {0}});
  CHECK(shapes("columns") == std::vector<Shape>{{1}, {5}, {6}, {3, 4, 5}, {2, 4}, {3}});
  CHECK(shapes("last") == std::vector<Shape>{{1}, {1}, {4}, {2, 3, 4}, {3, 2}, {0}});
  CHECK(shapes("low") == std::vector<Shape>{{1}, {5}, {6}, {2, 3, 5}, {3, 4}, {3}});
  CHECK(shapes("norm") == std::vector<Shape>(6, Shape{}));
  CHECK(slots.info(slots.find("last"), 5).order == Order::column_major);
  CHECK(slots.info(slots.find("rows"), 5).order == Order::row_major);  // one dimension has no order
  CHECK_FALSE(slots.keeps(slots.find("norm"), 3));
  CHECK(slots.full(0));
  CHECK_FALSE(slots.full(1));
  CHECK_FALSE(slots.all_full());
  CHECK(made(tensors.params, {{"a"}, {"b"}}).all_full());

  // Parts begin at multiples of 64 bytes and do not overlap; single numbers follow each other.
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    std::size_t number = 0;
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      const auto part = slots.tensor(slot, k);
      if (slots.names()[slot] == "norm") {
        if (slots.keeps(slot, k)) CHECK(part.data() == slots.data(slot) + number++);
      } else {
        CHECK(reinterpret_cast<std::uintptr_t>(part.data()) % 64 == 0);
      }
      for (float& value : part) {
        CHECK(value == 0);
        value = static_cast<float>(slot + 10 * k + 1);
      }
    }
  }
  for (std::size_t slot = 0; slot < slots.count(); ++slot) {
    for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
      for (const float value : slots.tensor(slot, k)) {
        CHECK(value == static_cast<float>(slot + 10 * k + 1));
      }
    }
  }
  const auto averaged = made(tensors.params, {{"rows", SlotShape::rows}}, Kept::averaged);
  CHECK_FALSE(averaged.keeps(0, 5));  // role ignore
  CHECK(averaged.tensor(0, 5).empty());
}

TEST_CASE("free slots have the shapes that a function gives", "[slots]") {
  const Tensors tensors;
  const Slots<float> slots =
      made(tensors.params, {{"left", [](const polyak::TensorInfo& tensor) -> std::optional<Shape> {
                               if (tensor.shape.size() < 2) return std::nullopt;
                               return Shape{tensor.shape[0], tensor.shape[0]};
                             }}});
  CHECK_FALSE(slots.keeps(0, 0));
  CHECK(slots.keeps(0));  // the method has state for it, this slot has none
  CHECK_FALSE(slots.keeps(0, 3));
  CHECK(slots.address(0, 1) == nullptr);
  CHECK(slots.bytes(0, 1) == 0);
  CHECK(slots.info(0, 4).shape == Shape{2, 2});
  CHECK(slots.tensor(0, 2).size() == 16);
  const polyak::SlotView<float> view(slots, 0);
  slots.tensor(0, 2)[15] = 3;
  CHECK(view["matrix"][15] == 3);
  CHECK(view["matrix"].shape() == Shape{4, 4});
  CHECK(view["matrix"].size() == 16);
  CHECK(refuses([&] { static_cast<void>(view["bias"]); },
                {"slot \"left\" has no state", "\"bias\""}));
  CHECK(refuses(
      [&] {
        made(tensors.params, {{"bad", [](const polyak::TensorInfo&) {
                                 return std::optional(Shape{2, -1});
                               }}});
      },
      {"\"number\"", ">= 0", "-1"}));
  CHECK(refuses([] { SlotSpec("left", SlotShape::free); }, {"SlotSpec.shape", "\"left\"", "4"}));
}

TEST_CASE("slots of all shapes are counted and copied", "[slots]") {
  const Tensors tensors;
  const std::vector<SlotSpec> specs{
      {"full"}, {"rows", SlotShape::rows}, {"norm", SlotShape::scalar}};
  const Slots<float> slots = made(tensors.params, specs);
  const polyak::MemoryReport report = slots.memory_report();
  CHECK(report.slots.size() == 3);
  CHECK(report.slots[0].elements == 1 + 5 + 24 + 120 + 24);
  CHECK(report.slots[1].elements == 1 + 1 + 4 + 2 + 3);
  CHECK(report.slots[2].elements == 6);
  std::size_t bytes = 0;
  for (const auto& slot : report.slots) bytes += slot.bytes;
  CHECK(bytes == report.total);
  CHECK(report.slots[2].bytes < report.slots[1].bytes);
  CHECK(report.slots[1].bytes < report.slots[0].bytes);

  for (std::size_t slot = 0; slot < 3; ++slot) {
    const auto part = slots.tensor(slot, 2);
    std::iota(part.begin(), part.end(), static_cast<float>(slot));
  }
  const Slots<float> copy = slots;
  for (std::size_t slot = 0; slot < 3; ++slot) {
    CHECK(copy.tensor(slot, 2).data() != slots.tensor(slot, 2).data());
    CHECK((bits::bytes(copy.tensor(slot, 2)) == bits::bytes(slots.tensor(slot, 2))));
  }
  Slots<float> taken = copy;
  taken = slots;
  CHECK(taken.tensor(1, 2)[3] == 4);
}

TEST_CASE("slots that are all full have the layout of earlier versions", "[slots]") {
  const Tensors tensors;
  const Slots<float> slots = made(tensors.params, {"a", "b"});
  const std::size_t between = static_cast<std::size_t>(slots.data(1) - slots.data(0));
  // 6 tensors of 1, 5, 24, 120, 24 and 0 elements in units of 32, and 11 lines.
  CHECK(between == (1 + 1 + 1 + 4 + 1) * 32 + 11 * 16);
  CHECK(slots.memory_report().total == 2 * 4 * between);
  CHECK(slots.memory_report().slots[0].bytes == 4 * between);
  CHECK(Slots<float>(tensors.params.layout(), polyak::DType::float32, Kept::trained,
                     std::vector<std::string>{"a", "b"})
            .names() == slots.names());
}

TEST_CASE("laws can be bound only to full slots", "[slots]") {
  const Tensors tensors;
  const auto good = made(tensors.params, {{"momentum"}, {"rows", SlotShape::rows}});
  const auto bad = made(tensors.params, {{"rows", SlotShape::rows}, {"momentum"}});
  const shaped::ShapedLaw<float> law{.beta = 0.5F, .step = 1};
  CHECK(polyak::detail::bind_law(law, good).slots[0] == good.data(0));
  CHECK(refusal<std::logic_error>([&] { static_cast<void>(polyak::detail::bind_law(law, bad)); }) ==
        "polyak: a law is bound to slot \"rows\", which does not have the shape of the parameters");
}

TEST_CASE("a method with slots of many shapes resumes where it was", "[slots]") {
  Tensors run;
  shaped::Shaped<float> method(run.params);
  CHECK(method.slots().names() ==
        std::vector<std::string>{"momentum", "rows", "columns", "norm", "left"});
  for (std::uint64_t step = 0; step < 3; ++step) {
    run.differentiate(step);
    method.step(run.params, run.gradients);
  }
  CHECK(method.slot("left")["matrix"][15] != 0);
  CHECK(method.slot("norm")["bias"].size() == 1);
  const auto state = polyak::state_bytes(method);
  const auto at_first = method.slots();

  Tensors other;
  shaped::Shaped<float> resumed(other.params);
  polyak::restore_state(resumed, state);
  CHECK(polyak::state_bytes(resumed) == state);
  other.memory = run.memory;
  const shaped::Shaped<float> copy = method;
  for (auto* one : {&method, &resumed}) {
    Tensors& list = one == &method ? run : other;
    list.differentiate(3);
    one->step(list.params, list.gradients);
  }
  CHECK(polyak::state_bytes(resumed) == polyak::state_bytes(method));
  CHECK(polyak::state_bytes(method) != state);
  shaped::Shaped<float> before = copy;
  CHECK(polyak::state_bytes(before) == state);

  method.reset_moments();
  for (std::size_t slot = 0; slot < 5; ++slot) {
    for (std::size_t k = 0; k < run.params.size(); ++k) {
      for (const float value : method.slots().tensor(slot, k)) CHECK(value == 0);
    }
  }
  CHECK(at_first.tensor(4, 2)[15] != 0);
}

TEST_CASE("a block is zeroed, begins at a cache line, and can be copied") {
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{1} << 17, std::size_t{5} << 20}) {
    const auto block = polyak::detail::make_block(bytes, nullptr);
    REQUIRE(block->bytes() == bytes);
    CHECK(block->allocated() >= bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(block->data()) % polyak::detail::cache_line == 0);
    std::size_t set = 0;
    for (std::size_t k = 0; k < bytes; ++k) set += block->data()[k] == std::byte{0} ? 0 : 1;
    CHECK(set == 0);
    block->data()[bytes - 1] = std::byte{7};
    const auto copy = polyak::detail::copy_of_block(*block);
    CHECK(copy->data()[bytes - 1] == std::byte{7});
    copy->data()[0] = std::byte{9};
    CHECK(block->data()[0] == std::byte{0});
    CHECK_FALSE(copy->lent);
  }
  CHECK(polyak::detail::make_block(0, nullptr)->data() == nullptr);
}

TEST_CASE("a view of a slot names a tensor that it does not have") {
  std::vector<float> w{1, 2}, buffer{3};
  polyak::Parameters params;
  params.add("w", std::span(w)).add("buffer", std::span(buffer), Role::copy);
  const polyak::Ema ema(params, {.start = polyak::Start::params});
  const polyak::SlotView<float> view(ema.slots(), 0);
  CHECK(view.size() == 2);
  CHECK(view["w"](1) == 2);
  CHECK(refuses([&] { static_cast<void>(view["v"]); }, {"there is no tensor", "\"v\""}));
  CHECK(refuses([&] { static_cast<void>(view[1]); }, {"\"average\"", "\"buffer\""}));
}

TEST_CASE("slots for rows and columns support tensors of any rank") {
  using polyak::detail::shape_of_columns;
  using polyak::detail::shape_of_rows;
  for (const MatrixView view : {MatrixView::first_by_rest, MatrixView::last_two}) {
    CHECK(shape_of_rows({}, view) == Shape{1});
    CHECK(shape_of_columns({}, view) == Shape{1});
    CHECK(shape_of_rows({5}, view) == Shape{1});
    CHECK(shape_of_columns({5}, view) == Shape{5});
    CHECK(shape_of_rows({2, 3}, view) == Shape{2});
    CHECK(shape_of_columns({2, 3}, view) == Shape{3});
  }
  CHECK(shape_of_rows({2, 3, 4}, MatrixView::first_by_rest) == Shape{2});
  CHECK(shape_of_columns({2, 3, 4}, MatrixView::first_by_rest) == Shape{3, 4});
  CHECK(shape_of_rows({2, 3, 4}, MatrixView::last_two) == Shape{2, 3});
  CHECK(shape_of_columns({2, 3, 4}, MatrixView::last_two) == Shape{2, 4});
}

}  // namespace slots_test
