// SPDX-License-Identifier: Apache-2.0
// Tensors whose channels are adjacent in memory: in lists, reductions and slots, and in files.
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/reduce.hpp>
#include <polyak/io.hpp>
#include <polyak/polyak.hpp>

#include "../support/catch.hpp"
#include "../support/refuses.hpp"
#include "../support/temporary_folder.hpp"

namespace channels_last_test {

namespace {

using polyak::DType;
using polyak::Order;
using polyak::Parameters;
using polyak::Shape;

std::size_t elements(const Shape& shape) {
  std::size_t all = 1;
  for (const auto extent : shape) all *= static_cast<std::size_t>(extent);
  return all;
}

/// The place of row-major element k of `shape` in channels-last memory.
std::size_t place(const Shape& shape, std::size_t k) {
  const auto channels = static_cast<std::size_t>(shape[1]);
  const std::size_t row = elements(shape) / static_cast<std::size_t>(shape[0]);
  const std::size_t points = row / channels;
  const std::size_t n = k / row, c = k % row / points, point = k % points;
  return n * row + point * channels + c;
}

template <class T = float>
std::vector<T> permuted(const std::vector<T>& row_major, const Shape& shape) {
  std::vector<T> memory(row_major.size());
  for (std::size_t k = 0; k < memory.size(); ++k) memory[place(shape, k)] = row_major[k];
  return memory;
}

}  // namespace

TEST_CASE("files of channels-last tensors are row-major, and are read into either order") {
  // The last is longer than what is rounded or permuted at a time.
  const Shape shape = GENERATE(Shape{2, 3, 4}, Shape{3, 2, 2, 5}, Shape{2, 3, 2, 2, 2},
                               Shape{0, 3, 2, 2}, Shape{700, 3, 20, 7});
  std::vector<float> rows(elements(shape));
  std::iota(rows.begin(), rows.end(), 0.0F);
  for (float& x : rows) x = static_cast<float>(static_cast<int>(x) % 251);  // exact in 16 bits
  const std::vector<float> memory = shape[0] == 0 ? rows : permuted(rows, shape);
  REQUIRE((memory != rows || shape[0] == 0));
  std::vector<float> w = memory, v(rows.size());
  Parameters<float> params, other;
  params.add("w", w.data(), shape, polyak::Role::average, Order::channels_last);
  other.add("w", v.data(), shape);
  const TemporaryFolder folder;
  const auto file = folder.file("w.safetensors");
  for (const auto dtype : {std::optional<DType>(), std::optional(DType::bfloat16)}) {
    polyak::save_weights(file, params, {.dtype = dtype});
    std::fill(v.begin(), v.end(), -1.0F);
    polyak::load_weights(file, other);
    CHECK(v == rows);
    std::fill(w.begin(), w.end(), -1.0F);
    polyak::load_weights(file, params);
    CHECK(w == memory);
  }
  // The state of a run, from one order into the other.
  polyak::Ema ema(params), average(other);
  polyak::save(file, params, ema);
  std::fill(v.begin(), v.end(), -1.0F);
  polyak::load(file, other, average);
  CHECK(v == rows);
  average.update(other);
  CHECK(std::vector<float>(average.view()[0].begin(), average.view()[0].end()) == rows);
}

TEST_CASE("a channels-last tensor of one channel or of one point is row-major") {
  std::vector<float> w(12), v(12), u(12);
  Parameters<float> params;
  params.add("w", w.data(), {3, 1, 2, 2}, polyak::Role::average, Order::channels_last);
  params.add("v", v.data(), {3, 4, 1, 1}, polyak::Role::average, Order::channels_last);
  params.add("u", u.data(), {3, 4}, polyak::Role::average, Order::channels_last);
  for (std::size_t k = 0; k < 3; ++k) CHECK(params[k].info().order == Order::row_major);
  std::vector<float> x(24);
  params.add("x", x.data(), {3, 2, 2, 2}, polyak::Role::average, Order::channels_last);
  CHECK(params[3].info().order == Order::channels_last);
  CHECK(refuses(
      [&] {
        params.add("y", x.data(), {3, 2, 2, 2});
      },
      {"\"y\"", "float32 [3, 2, 2, 2] for float32 [3, 2, 2, 2] channels-last"}));
}

TEST_CASE("rows of channels-last tensors are folded; other parts of matrices are refused") {
  const Shape shape{3, 2, 2, 2};
  std::vector<float> rows(24);
  std::iota(rows.begin(), rows.end(), 0.0F);
  std::vector<float> w = permuted(rows, shape);
  Parameters<float> params;
  params.add("w", w.data(), shape, polyak::Role::average, Order::channels_last);
  polyak::Reduction<polyak::Sum> sums(params, {.per = polyak::Per::row});
  const auto results = sums(polyak::serial, polyak::stream_of(params));
  CHECK(std::vector<double>(results.begin(), results.end()) == std::vector<double>{28, 92, 156});
  CHECK(refuses(
      [&] {
        const polyak::Reduction<polyak::Sum> refused(
            params, {.per = polyak::Per::row, .view = polyak::MatrixView::last_two});
      },
      {"channels-last"}));
  const polyak::SlotSpec row_slot("row", polyak::SlotShape::rows);
  const polyak::Slots<float> slots(params.layout(), DType::float32, polyak::Kept::trained,
                                   {row_slot});
  CHECK(slots.info(0, 0).shape == Shape{3});
  CHECK(refuses(
      [&] {
        const polyak::Slots<float> refused(
            params.layout(), DType::float32, polyak::Kept::trained,
            {polyak::SlotSpec("column", polyak::SlotShape::columns)});
      },
      {"\"column\"", "\"w\"", "channels-last"}));
  CHECK(refuses(
      [&] {
        const polyak::Slots<float> refused(
            params.layout(), DType::float32, polyak::Kept::trained,
            {polyak::SlotSpec("row", polyak::SlotShape::rows, polyak::MatrixView::last_two)});
      },
      {"\"row\"", "\"w\"", "channels-last"}));
}

}  // namespace channels_last_test
