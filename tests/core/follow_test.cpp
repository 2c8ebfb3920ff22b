// SPDX-License-Identifier: Apache-2.0
// Objects that own their memory are followed wherever assignment moves it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/polyak.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "../support/allocations.hpp"
#include "../support/catch.hpp"
#include "../support/refuses.hpp"

namespace follow_test {

namespace {

using polyak::Parameters;
using polyak::Role;

/// A matrix of the same size in other memory, as functions return it.
Eigen::MatrixXf elsewhere(const Eigen::MatrixXf& like, float value) {
  return Eigen::MatrixXf::Constant(like.rows(), like.cols(), value);
}

}  // namespace

TEST_CASE("a gradient that is assigned the result of a function is read where it is") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(64, 64), g(64, 64);
  Parameters<float> params;
  params.add("w", w);
  const auto grads = polyak::like(params, g);
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.125});
  for (int step = 0; step < 2; ++step) {
    g = elsewhere(w, 1);
    sgd.step(params, grads);
  }
  CHECK(w == Eigen::MatrixXf::Constant(64, 64, 0.75F));
  CHECK(grads[0] == g.data());
}

TEST_CASE("weights that are assigned or moved into are trained where they are") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(8, 4);
  std::vector<float> b(5, 1);
  Eigen::Tensor<float, 3> t(2, 3, 4);
  t.setConstant(1);
  Eigen::VectorXf v = Eigen::VectorXf::Ones(3);
  std::vector<std::int64_t> steps{7};
  const std::vector<float> ones(128, 1);
  Parameters<float> params;
  params.add("w", w).add("b", b).add("t", t).add("v", v).add("steps", steps, Role::copy);
  polyak::Gradients<float> grads(params);
  for (std::size_t k = 0; k < 4; ++k) grads.set(params[k].name(), ones.data());
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.5});
  polyak::Ema<float> ema(params, {.decay = 0.75});
  polyak::step(params, grads, sgd, ema);

  w = elsewhere(w, 2);
  b = std::vector<float>(5, 2);
  t = Eigen::Tensor<float, 3>(2, 3, 4).setConstant(2);
  Eigen::VectorXf other = Eigen::VectorXf::Constant(3, 2);
  v.swap(other);
  steps = std::vector<std::int64_t>{9};
  polyak::step(params, grads, sgd, ema);
  CHECK(w == Eigen::MatrixXf::Constant(8, 4, 1.5F));
  CHECK(b == std::vector<float>(5, 1.5F));
  CHECK(std::all_of(t.data(), t.data() + t.size(), [](float x) { return x == 1.5F; }));
  CHECK(v == Eigen::VectorXf::Constant(3, 1.5F));
  CHECK(params.at("w").data() == w.data());
  CHECK(params[1].data() == b.data());

  // (1 * 0.75 + 0.5 * 0.25) * 0.75 + 1.5 * 0.25, and the buffer; all of it where the model is now.
  w = elsewhere(w, 1.5F);
  {
    const auto guard = ema.swap_into(params);
    CHECK(w(3, 2) == 1.03125F);
    CHECK(b[4] == 1.03125F);
    CHECK(steps[0] == 9);
  }
  CHECK(w(3, 2) == 1.5F);
  w = elsewhere(w, 5);
  ema.copy_to(params);
  CHECK(w == Eigen::MatrixXf::Constant(8, 4, 1.03125F));
}

TEST_CASE("a guard restores weights where the model is when it ends") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(8, 4);
  Parameters<float> params;
  params.add("w", w);
  polyak::Ema<float> ema(params, {.decay = 0.75});
  ema.update(params);
  w.setConstant(3);
  {
    const auto guard = ema.swap_into(params);
    CHECK(w(0, 0) == 1);
    w = elsewhere(w, 1);  // a copy of the average, in other memory
  }
  CHECK(w == Eigen::MatrixXf::Constant(8, 4, 3));
  w.setConstant(5);
  ema.update(params);  // 1 + (5 - 1)/4
  ema.copy_to(params);
  CHECK(w == Eigen::MatrixXf::Constant(8, 4, 2));

  // There is no place to restore to: the method says so from then on.
  {
    const auto guard = ema.swap_into(params);
    w.resize(2, 2);
  }
  CHECK(w.size() == 4);
  w.resize(8, 4);
  CHECK(refusal<std::logic_error>([&] { ema.update(params); }) ==
        "polyak: step or update of a method whose average is swapped in");
}

TEST_CASE("an object of another shape is refused by name before anything moves") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(2, 3), g = Eigen::MatrixXf::Ones(2, 3);
  std::vector<float> b(4, 1), gb(4, 1);
  Parameters<float> params;
  params.add("w", w).add("b", b, {2, 2});
  auto grads = polyak::like(params, g, gb);
  polyak::AdamW<float> adamw(params);
  polyak::Ema<float> ema(params);
  polyak::step(params, grads, adamw, ema);
  const auto state = polyak::state_bytes(adamw);
  const auto average = polyak::state_bytes(ema);
  const auto refused = [&](const std::vector<std::string>& words) {
    CHECK(refuses([&] { polyak::step(params, grads, adamw, ema); }, words));
    CHECK(polyak::state_bytes(adamw) == state);
    CHECK(polyak::state_bytes(ema) == average);
  };
  g.resize(3, 2);
  refused({"the object of the gradient of \"w\" has the shape [3, 2] now, expected [2, 3]"});
  g = Eigen::MatrixXf::Ones(2, 3);
  gb.push_back(0);
  refused({"the object of the gradient of \"b\" has the shape [5] now, expected [2, 2]"});
  gb.pop_back();
  w.resize(1, 6);
  refused({"the object of tensor \"w\" has the shape [1, 6] now, expected [2, 3]"});
  CHECK(refuses([&] { ema.update(params); }, {"tensor \"w\""}));
  CHECK(refuses([&] { ema.copy_to(params); }, {"tensor \"w\""}));
  CHECK(refuses([&] { const auto guard = ema.swap_into(params); }, {"tensor \"w\""}));
  CHECK(refuses([&] { static_cast<void>(params.at("w")); }, {"tensor \"w\""}));
  CHECK(refuses([&] { static_cast<void>(polyak::norm(params)); }, {"tensor \"w\""}));
  CHECK_FALSE(params.swapped());
  w = Eigen::MatrixXf::Ones(2, 3);
  CHECK(polyak::step(params, grads, adamw, ema));
}

TEST_CASE("a moved gradient that overlaps the weights is refused") {
  std::vector<float> w(64, 1), g(64, 1);
  Parameters<float> params;
  params.add("w", w);
  const auto grads = polyak::like(params, g);
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.5});
  sgd.step(params, grads);
  // Both move; a weight may lie where a gradient lay, but not where one lies.
  std::swap(w, g);
  sgd.step(params, grads);
  CHECK(w == std::vector<float>(64, 0.75F));
  CHECK(g == std::vector<float>(64, 0.5F));
  polyak::Gradients<float> raw(params);
  CHECK(refuses([&] { raw.set("w", w.data() + 3); }, {"overlaps the memory of tensor \"w\""}));
  std::vector<float> next(64, 2);
  w.swap(next);
  CHECK(refuses([&] { raw.set("w", w.data()); }, {"overlaps the memory of tensor \"w\""}));
  raw.set("w", next.data());  // free now
  const float* pointers[] = {w.data()};
  CHECK(refuses([&] { raw.set_all(pointers); }, {"overlaps the memory of tensor \"w\""}));
}

TEST_CASE("a tensor whose object has moved still takes its memory") {
  std::vector<float> w(64, 1);
  Parameters<float> params;
  params.add("w", w);
  std::vector<float> old = std::exchange(w, std::vector<float>(64, 2));
  params.add("old", old);  // the memory that w had
  CHECK(params.size() == 2);
  params.add("again", std::span(w.data(), w.size()));
  CHECK(params.size() == 2);  // an alias
  CHECK(refuses([&] { params.add("part", w.data() + 1, {4}); }, {"overlaps that of \"w\""}));
}

TEST_CASE("views stay where they are") {
  std::vector<float> memory(6, 1), other(6, 2);
  Eigen::Map<Eigen::MatrixXf> map(memory.data(), 2, 3);
  Parameters<float> params;
  params.add("map", map);
  new (&map) Eigen::Map<Eigen::MatrixXf>(other.data(), 2, 3);
  CHECK(params.at("map").data() == memory.data());
  std::span<float> span(other);
  params.add("span", span);
  span = span.first(3);
  CHECK(params.at("span").size() == 6);
}

TEST_CASE("rebind gives a tensor other memory") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(2, 3), other = Eigen::MatrixXf::Constant(2, 3, 4);
  std::vector<float> b(4, 1), flat(6, 3), g(6, 1), gb(4, 1);
  Parameters<float> params;
  params.add("w", w).add("b", b);
  const Parameters<float> copy = params;
  polyak::Gradients<float> grads(params);
  grads.set("w", g.data()).set("b", gb);
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.5, .momentum = 0.5});
  sgd.step(params, grads);
  params.rebind("w", other);
  CHECK(copy.at("w").data() == other.data());
  sgd.step(params, grads);  // momentum 1.5
  CHECK(other == Eigen::MatrixXf::Constant(2, 3, 3.25F));
  CHECK(w == Eigen::MatrixXf::Constant(2, 3, 0.5F));
  other = elsewhere(other, 1);
  CHECK(params.at("w").data() == other.data());
  // Columns come first in w; a container has the tensor's own order.
  params.rebind("w", flat);
  CHECK(params.at("w").data() == flat.data());
  params.rebind("w", static_cast<void*>(other.data()), polyak::DType::float32);
  CHECK(params.at("w").data() == other.data());
  params.rebind("w", w.data());
  w = elsewhere(w, 9);  // raw memory is not followed
  CHECK(params.at("w").data() != w.data());
  params.rebind("w", w);

  Eigen::Matrix<float, 2, 3, Eigen::RowMajor> rows;
  Eigen::MatrixXf wide(3, 2);
  std::vector<double> doubles(6);
  std::vector<float> many(7);
  CHECK(refuses([&] { params.rebind("w", rows); },
                {"rebind: tensor \"w\" is float32 [2, 3] column-major, the new memory is float32 "
                 "[2, 3]"}));
  CHECK(refuses([&] { params.rebind("w", wide); }, {"the new memory is float32 [3, 2]"}));
  CHECK(refuses([&] { params.rebind("w", many); }, {"the new memory is float32 [7]"}));
  CHECK(refuses([&] { params.rebind("w", doubles.data()); }, {"the new memory is float64"}));
  void* const memory = other.data();
  CHECK(refuses([&] { params.rebind("w", memory, polyak::DType::bfloat16); },
                {"the new memory is bfloat16"}));
  CHECK(refuses([&] { params.rebind("w", nullptr, polyak::DType::float32); }, {"null"}));
  CHECK(refuses([&] { params.rebind("v", w); }, {"there is no tensor \"v\""}));
  CHECK(refuses([&] { params.rebind("w", b.data() + 1); }, {"overlaps that of \"b\""}));
  CHECK(refuses([&] { params.rebind("w", static_cast<float*>(nullptr)); }, {"null"}));
  CHECK(params.at("w").data() == w.data());
  polyak::Ema<float> ema(params);
  ema.update(params);
  const auto guard = ema.swap_into(params);
  CHECK_THROWS_AS(params.rebind("w", other), std::logic_error);
}

TEST_CASE("following allocates nothing, even where memory moves") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(8, 8), g = w, w2 = w, g2 = w;
  Parameters<float> params;
  params.add("w", w);
  const auto grads = polyak::like(params, g);
  polyak::Sgd<float> sgd(params, {.learning_rate = 0.5});
  sgd.step(params, grads);
  const allocations::Counter counter;
  for (int step = 0; step < 4; ++step) {
    w.swap(w2);
    g.swap(g2);
    sgd.step(params, grads);
  }
  CHECK(counter.counts().number == 0);
}

}  // namespace follow_test
