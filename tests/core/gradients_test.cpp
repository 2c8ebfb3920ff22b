// SPDX-License-Identifier: Apache-2.0
// Gradients: matched to parameters by position or name, or refused with nothing changed.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/polyak.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "../support/catch.hpp"
#include "../support/refuses.hpp"

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

TEST_CASE("gradients by position: one for each trained tensor") {
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

TEST_CASE("gradients by name: what is not set is not there") {
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

TEST_CASE("gradients that do not match are refused, and the rest stays") {
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

TEST_CASE("an empty tensor has a gradient without memory") {
  std::vector<float> none, some(2), gradient(2, 1);
  Parameters<float> params;
  params.add("none", none).add("some", some);
  const auto gradients = polyak::like(params, none, gradient);
  polyak::AdamW adamw(params);
  CHECK(adamw.step(params, gradients));
  CHECK(some[0] != 0);
}
