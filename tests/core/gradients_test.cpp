// SPDX-License-Identifier: Apache-2.0
// Gradients: matched to parameters by position or name, or refused with nothing changed.
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/tensors/gradient_places.hpp>
#include <polyak/polyak.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "../support/allocations.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace gradients_test {

namespace {

using polyak::Gradients;
using polyak::no_gradient;
using polyak::Order;
using polyak::Parameters;
using polyak::Role;

struct Lists {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(2, 3);
  std::vector<float> b = std::vector<float>(3, 1);
  std::array<float, 8> head{};
  std::vector<float> buffer = std::vector<float>(2);
  std::vector<float> ignored = std::vector<float>(4, 1);
  std::vector<std::int64_t> count = std::vector<std::int64_t>(1);
  Eigen::MatrixXf gw = Eigen::MatrixXf::Ones(2, 3);
  std::vector<float> gb = std::vector<float>(3, 1);
  Eigen::Matrix<float, 2, 4, Eigen::RowMajor> ghead;
  std::vector<float> gignored = std::vector<float>(4, 1);
  Parameters<float> params = Parameters<float>()
                                 .add("w", w)
                                 .add("b", b)
                                 .add("buffer", buffer, Role::copy)
                                 .add("head", head, {2, 4})
                                 .add("count", count, Role::ignore)
                                 .add("ignored", ignored, Role::ignore)
                                 .add("w again", w);

  [[nodiscard]] std::vector<const float*> of(const Gradients<float>& gradients) const {
    return {gradients.data(), gradients.data() + params.size()};
  }
};

}  // namespace

TEST_CASE("gradients set by position need one for each trained tensor") {
  Lists lists;
  const auto gradients =
      polyak::like(lists.params, lists.gw, lists.gb, lists.ghead, lists.gignored);
  CHECK(lists.of(gradients) == std::vector<const float*>{lists.gw.data(), lists.gb.data(), nullptr,
                                                         lists.ghead.data(), nullptr,
                                                         lists.gignored.data()});
  const auto& constant = lists;
  const auto some = polyak::like(lists.params, constant.gw, no_gradient,
                                 std::span(constant.ghead.data(), 8), no_gradient);
  CHECK(lists.of(some) == std::vector<const float*>{lists.gw.data(), nullptr, nullptr,
                                                    lists.ghead.data(), nullptr, nullptr});
}

TEST_CASE("gradients from a range are those of its elements by position") {
  Lists lists;
  const std::vector<const float*> all{lists.gw.data(),    lists.gb.data(), nullptr,
                                      lists.ghead.data(), nullptr,         lists.gignored.data()};
  std::vector<const float*> some = all;
  some[1] = some[5] = nullptr;

  std::vector<float*> pointers{lists.gw.data(), lists.gb.data(), lists.ghead.data(),
                               lists.gignored.data()};
  CHECK(lists.of(polyak::like(lists.params, pointers)) == all);
  CHECK(lists.of(polyak::like(lists.params,
                              std::vector<const float*>(pointers.begin(), pointers.end()))) == all);
  const float* const plain[] = {lists.gw.data(), nullptr, lists.ghead.data(), nullptr};
  CHECK(lists.of(polyak::like(lists.params, plain)) == some);

  using Span = std::span<const float>;
  std::vector<Span> spans{Span(lists.gw.data(), 6), lists.gb, Span(lists.ghead.data(), 8),
                          lists.gignored};
  CHECK(lists.of(polyak::like(lists.params, spans)) == all);
  spans[1] = spans[3] = {};
  CHECK(lists.of(polyak::like(lists.params, spans)) == some);

  std::vector<std::vector<float>> objects{std::vector<float>(6), std::vector<float>(3),
                                          std::vector<float>(8), std::vector<float>(4)};
  std::vector<std::vector<float>*> to_objects;
  for (auto& object : objects) to_objects.push_back(&object);
  const auto gradients = polyak::like(lists.params, objects);
  const auto through = polyak::like(lists.params, to_objects);
  CHECK(lists.of(gradients) == lists.of(through));
  objects[1] = std::vector<float>(3, 7);  // followed
  for (const auto* list : {&gradients, &through}) {
    CHECK((*list)[0] == objects[0].data());
    CHECK((*list)[1] == objects[1].data());
    CHECK((*list)[3] == objects[2].data());
    CHECK((*list)[5] == objects[3].data());
  }
  to_objects[1] = nullptr;
  CHECK(polyak::like(lists.params, to_objects)[1] == nullptr);

  // A container of numbers is the gradient of one tensor.
  std::vector<float> one(3), gradient(3);
  Parameters<float> single;
  single.add("one", one);
  CHECK(polyak::like(single, gradient)[0] == gradient.data());
}

TEST_CASE("a range that does not match the trained tensors is refused") {
  Lists lists;
  const auto refused = [&](const auto& range, const std::vector<std::string>& words) {
    return refuses([&] { static_cast<void>(polyak::like(lists.params, range)); }, words);
  };
  const float* const w = lists.gw.data();
  const float* const head = lists.ghead.data();
  CHECK(refused(std::vector<const float*>{w, nullptr, head}, {"4 trained tensors", "got 3"}));
  CHECK(refused(std::vector<const float*>{}, {"4 trained tensors", "got 0"}));
  CHECK(refused(std::vector<const float*>{w, lists.b.data(), head, nullptr},
                {"\"b\"", "overlaps the memory of tensor \"b\""}));
  CHECK(refused(std::vector<std::vector<float>>(4, std::vector<float>(6)), {"\"b\"", "3", "6"}));
  CHECK(refused(std::vector<std::vector<float>>(4), {"\"w\"", "6", "0"}));  // not an empty view
  std::vector<Eigen::MatrixXf> matrices(4, Eigen::MatrixXf(3, 2));
  CHECK(refused(matrices, {"\"w\"", "[3, 2] column-major, expected float32 [2, 3]"}));
}

TEST_CASE("a tensor whose gradient is not set by name has none") {
  Lists lists;
  Gradients<float> gradients(lists.params);
  CHECK(lists.of(gradients) == std::vector<const float*>(6, nullptr));
  const Eigen::MatrixXf constant = lists.gw;
  gradients.set("w", constant).set("head", lists.ghead.data()).set("ignored", lists.gignored);
  CHECK(gradients[0] == constant.data());
  CHECK(gradients[1] == nullptr);
  CHECK(gradients[3] == lists.ghead.data());
  gradients.set("w", no_gradient).set("b", lists.gb);
  CHECK(gradients[0] == nullptr);
  CHECK(gradients[1] == lists.gb.data());
  Eigen::Tensor<float, 2, Eigen::RowMajor> tensor(2, 4);
  gradients.set("head", tensor);
  CHECK(gradients[3] == tensor.data());
  gradients.set("head", Eigen::TensorMap<const Eigen::Tensor<const float, 2, Eigen::RowMajor>>(
                            tensor.data(), 2, 4));
  CHECK(gradients[3] == tensor.data());
  gradients.set("w", Eigen::Map<const Eigen::MatrixXf>(constant.data(), 2, 3));
  CHECK(gradients[0] == constant.data());
}

TEST_CASE("gradients that do not match are refused, and the others are kept") {
  Lists lists;
  Gradients<float> gradients =
      polyak::like(lists.params, lists.gw, lists.gb, lists.ghead, lists.gignored);
  const auto before = lists.of(gradients);
  const auto refused = [&](auto call, const std::vector<std::string>& words) {
    return refuses(call, words) && lists.of(gradients) == before;
  };
  Eigen::MatrixXf transposed(3, 2), vector_like(6, 1);
  Eigen::Matrix<float, 2, 3, Eigen::RowMajor> row_major;
  Eigen::VectorXf flat(6);
  std::vector<float> five(5);
  CHECK(refused([&] { gradients.set("w", transposed); },
                {"\"w\"", "[3, 2] column-major", "expected float32 [2, 3] column-major"}));
  CHECK(refused([&] { gradients.set("w", row_major); },
                {"\"w\"", "float32 [2, 3], expected float32 [2, 3] column-major"}));
  CHECK(refused([&] { gradients.set("w", vector_like); }, {"\"w\"", "[6, 1]"}));
  CHECK(refused([&] { gradients.set("w", flat); }, {"\"w\"", "[6]", "[2, 3]"}));
  CHECK(refused([&] { gradients.set("w", five); }, {"\"w\"", "6", "5"}));
  CHECK(refused([&] { gradients.set("b", std::span(five)); }, {"\"b\"", "3", "5"}));
  Eigen::MatrixXf larger(4, 5);
  auto block = larger.block(1, 1, 2, 3);
  CHECK(refused([&] { gradients.set("w", block); }, {"\"w\"", "contiguous"}));
  CHECK(
      refused([&] { gradients.set("w", static_cast<const float*>(nullptr)); }, {"\"w\"", "null"}));
  CHECK(refused([&] { gradients.set("absent", lists.gw); }, {"no tensor", "\"absent\""}));
  CHECK(refused([&] { gradients.set("absent", no_gradient); }, {"no tensor", "\"absent\""}));
  CHECK(refused([&] { gradients.set("w again", lists.gw); },
                {"\"w again\"", "alias", "\"w\"", "summed"}));
  CHECK(refused([&] { gradients.set("buffer", five.data()); }, {"\"buffer\"", "not trained"}));
  CHECK(refused([&] { gradients.set("count", five.data()); }, {"\"count\"", "not trained"}));
}

TEST_CASE("a wrong number of gradients is refused") {
  Lists lists;
  const auto with_too_few = [&] {
    static_cast<void>(polyak::like(lists.params, lists.gw, lists.gb));
  };
  const auto with_too_many = [&] {
    static_cast<void>(
        polyak::like(lists.params, lists.gw, lists.gb, lists.ghead, lists.gignored, lists.gb));
  };
  CHECK(refuses(with_too_few, {"4 trained tensors", "got 2"}));
  CHECK(refuses(with_too_many, {"4 trained tensors", "got 5"}));
  CHECK(refuses(
      [&] {
        static_cast<void>(
            polyak::like(lists.params, lists.gb, lists.gw, lists.ghead, lists.gignored));
      },
      {"\"w\"", "6", "3"}));
}

TEST_CASE("gradients that share memory with parameters are refused") {
  Lists lists;
  Gradients<float> gradients(lists.params);
  CHECK(refuses([&] { gradients.set("w", lists.w); }, {"\"w\"", "overlaps", "tensor \"w\""}));
  CHECK(refuses([&] { gradients.set("ignored", lists.head.data() + 5); },
                {"\"ignored\"", "overlaps", "\"head\""}));
  CHECK(refuses([&] { gradients.set("b", lists.buffer.data()); },
                {"\"b\"", "overlaps", "\"buffer\""}));
  CHECK(lists.of(gradients) == std::vector<const float*>(6, nullptr));
}

TEST_CASE("gradients are only read") {
  Lists lists;
  const Eigen::MatrixXf gw = lists.gw;
  const std::vector<float> gb = lists.gb;
  const auto gradients = polyak::like(lists.params, gw, gb, no_gradient, no_gradient);
  polyak::AdamW adamw(lists.params);
  for (int step = 0; step < 3; ++step) adamw.step(lists.params, gradients);
  CHECK(gw == lists.gw);
  CHECK(gb == lists.gb);
  CHECK(lists.w != lists.gw);
}

TEST_CASE("the gradient of an empty tensor needs no memory") {
  std::vector<float> none, some(2), gradient(2, 1);
  Parameters<float> params;
  params.add("none", none).add("some", some);
  const auto gradients = polyak::like(params, none, gradient);
  polyak::AdamW adamw(params);
  CHECK(adamw.step(params, gradients));
  CHECK(some[0] != 0);
}

TEST_CASE("set_all sets all gradients by their pointers") {
  Lists lists;
  Gradients<float> gradients(lists.params);
  CHECK(gradients.trained() == 4);
  std::vector<const float*> pointers{lists.gw.data(), lists.gb.data(), nullptr,
                                     lists.gignored.data()};
  gradients.set_all(pointers);
  const std::vector<const float*> expected{lists.gw.data(), lists.gb.data(), nullptr,
                                           nullptr,         nullptr,         lists.gignored.data()};
  CHECK(lists.of(gradients) == expected);

  // Null takes a gradient away; each kind of list will do; nothing is allocated.
  float* const pointers_to_write[4] = {nullptr, nullptr, lists.ghead.data(), nullptr};
  gradients.set_all(pointers_to_write);
  CHECK(lists.of(gradients) ==
        std::vector<const float*>{nullptr, nullptr, nullptr, lists.ghead.data(), nullptr, nullptr});
  const std::array<float*, 4> array{lists.gw.data(), nullptr, nullptr, nullptr};
  gradients.set_all(array);
  CHECK(gradients[0] == lists.gw.data());
  CHECK(gradients[3] == nullptr);
  const allocations::Counter counter;
  gradients.set_all(std::span<const float* const>(pointers));
  const auto counts = counter.counts();
  CHECK(counts.number == 0);
  CHECK(lists.of(gradients) == expected);

  STATIC_REQUIRE_FALSE(polyak::detail::GradientPointers<std::vector<const double*>, float>);
  STATIC_REQUIRE_FALSE(polyak::detail::GradientPointers<std::vector<float>, float>);
  STATIC_REQUIRE(polyak::detail::GradientPointers<std::vector<double*>, double>);
}

TEST_CASE("set_all refuses all wrong pointers in one error and changes nothing") {
  Lists lists;
  Gradients<float> gradients =
      polyak::like(lists.params, lists.gw, lists.gb, no_gradient, lists.gignored);
  const auto before = lists.of(gradients);
  const auto refused = [&](const std::vector<const float*>& pointers,
                           const std::vector<std::string>& words) {
    return refuses([&] { gradients.set_all(pointers); }, words) && lists.of(gradients) == before;
  };
  const float* const w = lists.gw.data();
  const float* const b = lists.gb.data();
  const float* const head = lists.ghead.data();
  CHECK(refused({}, {"set_all()", "4 trained tensors", "got 0"}));
  CHECK(refused({w, b, head}, {"set_all()", "4 trained tensors", "got 3"}));
  CHECK(refused({w, b, head, nullptr, nullptr}, {"4 trained tensors", "got 5"}));
  CHECK(refused({w, b, head, lists.head.data() + 5}, {"\"ignored\"", "overlaps", "\"head\""}));
  CHECK(refused({lists.w.data() + 5, b, head, nullptr}, {"\"w\"", "overlaps", "tensor \"w\""}));
  CHECK(refused({w, lists.buffer.data(), nullptr, nullptr}, {"\"b\"", "overlaps", "\"buffer\""}));
  CHECK(refused({w, reinterpret_cast<const float*>(lists.count.data()), nullptr, nullptr},
                {"\"b\"", "overlaps", "\"count\""}));
}

TEST_CASE("overlaps of gradients with parameters are found as by comparing every pair") {
  std::mt19937 random(21);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  std::size_t taken = 0, refused = 0;
  for (int round = 0; round < 60; ++round) {
    // Tensors at random places of one array; now and then none, or one without elements.
    std::vector<float> memory(600);
    Parameters<float> params;
    std::vector<std::pair<std::size_t, std::size_t>> stretches;
    const std::size_t wanted = below(40);
    for (std::size_t k = 0; k < wanted; ++k) {
      const std::size_t size = below(7), begin = below(memory.size() - size);
      bool free = true;
      for (const auto& [other, length] : stretches) {
        free =
            free && (size == 0 || length == 0 || begin >= other + length || other >= begin + size);
      }
      if (!free) continue;
      params.add(std::to_string(k), &memory[begin], {static_cast<std::int64_t>(size)});
      stretches.emplace_back(begin, size);
    }
    Gradients<float> gradients(params);
    REQUIRE(gradients.trained() == stretches.size());
    std::vector<const float*> current(stretches.size(), nullptr);
    for (int call = 0; call < 60 && !stretches.empty(); ++call) {
      std::vector<const float*> pointers = current;
      // Some gradients move; the first in order that overlaps a tensor is refused.
      const std::size_t moves = 1 + below(3);
      for (std::size_t m = 0; m < moves; ++m) {
        const std::size_t k = below(pointers.size());
        pointers[k] = below(6) == 0 ? nullptr : &memory[below(memory.size() - stretches[k].second)];
      }
      std::string words;
      for (std::size_t k = 0; k < pointers.size() && words.empty(); ++k) {
        if (pointers[k] == nullptr || stretches[k].second == 0) continue;
        const auto begin = static_cast<std::size_t>(pointers[k] - memory.data());
        const std::size_t end = begin + stretches[k].second;
        for (std::size_t other = 0; other < stretches.size() && words.empty(); ++other) {
          const auto [start, size] = stretches[other];
          if (size != 0 && begin < start + size && start < end) {
            words = "gradient of \"" + params[k].name() + "\" overlaps the memory of tensor \"" +
                    params[other].name() + "\"";
          }
        }
      }
      const auto set_each = [&] {
        Gradients<float> one_by_one(params);
        for (std::size_t k = 0; k < pointers.size(); ++k) {
          if (pointers[k] != nullptr) one_by_one.set(params[k].name(), pointers[k]);
        }
      };
      if (words.empty()) {
        gradients.set_all(pointers);
        set_each();
        current = pointers;
        ++taken;
      } else {
        REQUIRE(refuses([&] { gradients.set_all(pointers); }, {words}));
        REQUIRE(refuses(set_each, {words}));
        ++refused;
      }
      REQUIRE(std::vector<const float*>(gradients.data(), gradients.data() + params.size()) ==
              current);
    }
  }
  CHECK(taken > 300);
  CHECK(refused > 300);
}

TEST_CASE("gradients of 100,000 tensors are registered quickly") {
  constexpr std::size_t count = 100'000;
  std::vector<float> memory(2 * count);  // a tensor, its gradient, the next tensor ...
  Parameters<float> params;
  for (std::size_t k = 0; k < count; ++k) params.add(std::to_string(k), &memory[2 * k], {1});
  Gradients<float> gradients(params);
  std::vector<const float*> pointers;
  for (std::size_t k = 0; k < count; ++k) {
    gradients.set(std::to_string(k), &memory[2 * k + 1]);
    pointers.push_back(&memory[2 * (count - k) - 1]);
  }
  CHECK(gradients[count - 1] == &memory[2 * count - 1]);
  gradients.set_all(pointers);
  CHECK(gradients[count - 1] == &memory[1]);
  pointers[count - 2] = &memory[count];
  CHECK(refuses([&] { gradients.set_all(pointers); }, {"\"99998\"", "overlaps", "\"50000\""}));
  CHECK(gradients[count - 2] == &memory[3]);
}

TEST_CASE("the scale belongs to the list of gradients") {
  Lists lists;
  Gradients<float> gradients(lists.params);
  CHECK(gradients.scale() == 1);
  CHECK(&gradients.scale(0.125) == &gradients);
  CHECK(gradients.scale() == 0.125);
  CHECK(polyak::GradientAccess<float>::reading(gradients).scale == 0.125);
  // It stays, and goes with copies.
  gradients.set("w", lists.gw);
  gradients.set_all(std::array<const float*, 4>{});
  CHECK(gradients.scale() == 0.125);
  Gradients<float> copy = gradients;
  copy.scale(0);
  CHECK(copy.scale() == 0);
  CHECK(gradients.scale() == 0.125);
  CHECK(polyak::GradientAccess<float>::pointers(gradients) == gradients.data());
  CHECK(polyak::GradientAccess<float>::trained(gradients, 2) == 3);

  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double bad :
       {-0.5, -infinity, infinity, 1e39, std::numeric_limits<double>::quiet_NaN(),
        -std::numeric_limits<double>::denorm_min()}) {
    INFO(bad);
    CHECK(refuses([&] { gradients.scale(bad); }, {"scale of gradients", "finite", ">= 0"}));
    CHECK(gradients.scale() == 0.125);
  }
  gradients.scale(static_cast<double>(std::numeric_limits<float>::max()));
  gradients.scale(std::numeric_limits<double>::denorm_min());
  CHECK(gradients.scale() > 0);
}

}  // namespace gradients_test
