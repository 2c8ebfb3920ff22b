// SPDX-License-Identifier: Apache-2.0
// Update policies and callbacks of ensmallen do what the methods do on the same matrices.
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include <allocations.hpp>
#include <catch.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/interop/ensmallen.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/sgd.hpp>

#include "arma.hpp"

namespace ensmallen_test {
namespace {

using polyak::EnsmallenAverage;
using polyak::EnsmallenCall;
using polyak::EnsmallenUpdate;

template <class Matrix>
void fill(Matrix& matrix, double scale) {
  for (arma::uword k = 0; k < matrix.n_elem; ++k) {
    matrix.memptr()[k] =
        static_cast<typename Matrix::elem_type>(scale * std::sin(static_cast<double>(k) + scale));
  }
}
template <class Matrix>
std::vector<typename Matrix::elem_type> elements(const Matrix& matrix) {
  return {matrix.memptr(), matrix.memptr() + matrix.n_elem};
}

struct Function {};

/// What ens::SGD does with its policy and its callbacks.
template <class Update, class Matrix, class... Callback>
void optimize(const Update& update, Matrix& iterate, int steps, Callback&... callbacks) {
  using Policy = typename Update::template Policy<Matrix, Matrix>;
  Policy policy(update, iterate.n_rows, iterate.n_cols);
  Function function;
  Matrix gradient = iterate;
  int optimizer = 0;
  (callbacks.BeginOptimization(optimizer, function, iterate), ...);
  for (int t = 1; t <= steps; ++t) {
    fill(gradient, t);
    policy.Update(iterate, 0.1 / t, gradient);
    (callbacks.StepTaken(optimizer, function, iterate), ...);
    if (t % 3 == 0) {
      const Matrix& now = iterate;  // as ensmallen passes it
      (callbacks.EndEpoch(optimizer, function, now, static_cast<std::size_t>(t / 3), 0.5), ...);
    }
  }
}

template <class P, class Matrix>
void compare(Matrix matrix) {
  fill(matrix, 0.5);
  Matrix copy = matrix;
  EnsmallenAverage<polyak::Ema<P>> ema(polyak::EmaOptions{.decay = 0.75});
  EnsmallenAverage<polyak::Swa<P>> swa(EnsmallenCall::epoch);
  CHECK(!ema.ready());
  optimize(EnsmallenUpdate<polyak::AdamW<P>>({.weight_decay = 0.25}), matrix, 7, ema, swa);

  polyak::Parameters<P> params;
  params.add("coordinates", copy.memptr(), polyak::detail::shape_of_matrix(copy),
             polyak::Role::average, polyak::Order::column_major);
  polyak::AdamW<P> adamw(params, {.learning_rate = 0, .weight_decay = 0.25});
  polyak::Ema<P> expected_ema(params, {.decay = 0.75});
  polyak::Swa<P> expected_swa(params);
  polyak::Gradients<P> gradients(params);
  Matrix gradient = copy;
  for (int t = 1; t <= 7; ++t) {
    fill(gradient, t);
    gradients.set_all(std::array<const P*, 1>{gradient.memptr()});
    adamw.at(0.1 / t).step(params, gradients);
    expected_ema.update(params);
    if (t % 3 == 0) expected_swa.update(params);
  }
  CHECK(elements(matrix) == elements(copy));
  CHECK(ema.ready());
  CHECK(swa.average().count() == 2);
  CHECK(polyak::state_bytes(ema.average()) == polyak::state_bytes(expected_ema));
  CHECK(polyak::state_bytes(swa.average()) == polyak::state_bytes(expected_swa));

  Matrix average = matrix;
  if constexpr (!requires { matrix.n_slices; }) average.set_size(1, 1);  // it gets its size
  ema.copy_to(average);
  CHECK(average.n_rows == matrix.n_rows);
  CHECK(average.n_cols == matrix.n_cols);
  const std::vector<P> own = elements(matrix);
  {
    const auto guard = ema.swap_into(matrix);
    CHECK(elements(matrix) == elements(average));
    CHECK(elements(matrix) != own);
  }
  CHECK(elements(matrix) == own);
}

TEST_CASE("ensmallen's matrices are trained and averaged as lists are") {
  compare<double>(arma::mat(5, 7));
  compare<float>(arma::fmat(11, 1));
  compare<double>(arma::cube(3, 4, 5));
}

TEST_CASE("a matrix of ensmallen is column-major, and two-dimensional") {
  arma::mat matrix(2, 3);
  fill(matrix, 1);
  EnsmallenAverage<polyak::Ema<double>> ema;
  int optimizer = 0;
  Function function;
  ema.StepTaken(optimizer, function, matrix);
  const polyak::TensorInfo& info = ema.average().slots().layout()->tensors[0];
  CHECK(info.name == "coordinates");
  CHECK(info.shape == polyak::Shape{2, 3});
  CHECK(info.order == polyak::Order::column_major);
}

TEST_CASE("the learning rate is ensmallen's or that of the options") {
  using Update = EnsmallenUpdate<polyak::Sgd<double>>;
  arma::mat matrix(1, 1), gradient(1, 1);
  gradient(0, 0) = 1;
  Update::Policy<arma::mat, arma::mat> theirs(Update(), 1, 1);  // needs no rate of its own
  theirs.Update(matrix, 0.25, gradient);
  CHECK(matrix(0, 0) == -0.25);
  Update::Policy<arma::mat, arma::mat> ours(
      Update({.learning_rate = 0.5}, Update::Rate::of_options), 1, 1);
  ours.Update(matrix, 0.25, gradient);
  CHECK(matrix(0, 0) == -0.75);
  CHECK(ours.optimizer().count() == 1);
  CHECK_THROWS_WITH(Update({}, Update::Rate::of_options),
                    Catch::Contains("SgdOptions.learning_rate must be finite"));
}

TEST_CASE("state of ensmallen's methods is allocated with the first step and no later") {
  arma::mat first(6, 6), second(6, 6), gradient(6, 6);
  fill(gradient, 1);
  using Update = EnsmallenUpdate<polyak::AdamW<double>>;
  Update::Policy<arma::mat, arma::mat> policy(Update(), 6, 6);
  EnsmallenAverage<polyak::Ema<double>> ema;
  CHECK_THROWS_AS(policy.optimizer(), std::logic_error);
  CHECK_THROWS_AS(ema.average(), std::logic_error);
  CHECK_THROWS_AS(ema.copy_to(second), std::logic_error);
  int optimizer = 0;
  Function function;
  policy.Update(first, 0.1, gradient);
  ema.StepTaken(optimizer, function, first);
  const allocations::Counter counter;
  policy.Update(first, 0.1, gradient);
  ema.StepTaken(optimizer, function, first);
  CHECK(counter.counts().number == 0);

  // The matrix moves, as by an assignment.
  second = first;
  arma::mat& moved = second;
  policy.Update(moved, 0.1, gradient);
  policy.Update(first, 0.1, gradient);
  CHECK(policy.optimizer().count() == 4);
  CHECK(elements(first) != elements(moved));
}

TEST_CASE("a matrix of another shape is refused, and nothing has changed") {
  using Update = EnsmallenUpdate<polyak::Sgd<double>>;
  Update::Policy<arma::mat, arma::mat> policy(Update(), 2, 3);
  EnsmallenAverage<polyak::Ema<double>> ema;
  arma::mat matrix(2, 3), gradient(2, 3), other(3, 2);
  fill(gradient, 1);
  int optimizer = 0;
  Function function;
  policy.Update(matrix, 1, gradient);
  ema.StepTaken(optimizer, function, matrix);
  const std::vector<double> before = elements(matrix);
  const auto words = Catch::Contains("2 x 3 (6 elements), got \"3 x 2 (6 elements)\"");
  CHECK_THROWS_WITH(policy.Update(other, 1, gradient), words);
  CHECK_THROWS_WITH(policy.Update(matrix, 1, other), words);
  CHECK_THROWS_WITH(ema.StepTaken(optimizer, function, other), words);
  CHECK_THROWS_AS(policy.Update(matrix, -1, gradient), std::invalid_argument);
  CHECK(elements(matrix) == before);
  CHECK(policy.optimizer().count() == 1);
  CHECK(ema.average().count() == 1);
  CHECK_THROWS_AS(EnsmallenUpdate<polyak::AdamW<double>>({.beta1 = 1}), std::invalid_argument);
  EnsmallenAverage<polyak::Ema<double>> wrong(polyak::EmaOptions{.decay = 2});
  CHECK_THROWS_AS(wrong.BeginOptimization(optimizer, function, matrix), std::invalid_argument);
}

}  // namespace
}  // namespace ensmallen_test
