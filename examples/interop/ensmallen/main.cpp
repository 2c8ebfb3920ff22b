// SPDX-License-Identifier: Apache-2.0
// Logistic regression by ensmallen's SGD with polyak's AdamW as its update policy, and an EMA of
// the coefficients as a callback.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <utility>

#include <ensmallen.hpp>

#include <polyak/average/ema.hpp>
#include <polyak/interop/ensmallen.hpp>
#include <polyak/optim/adamw.hpp>

namespace {

/// The negative log-likelihood of labels, a sum over points, as ensmallen wants it.
class LogisticRegression {
 public:
  LogisticRegression(arma::mat points, arma::rowvec labels)
      : points_(std::move(points)), labels_(std::move(labels)) {}

  [[nodiscard]] std::size_t NumFunctions() const { return points_.n_cols; }
  void Shuffle() {
    const arma::uvec order = arma::randperm(points_.n_cols);
    points_ = points_.cols(order);
    labels_ = labels_.cols(order);
  }
  [[nodiscard]] double Evaluate(const arma::mat& w, std::size_t begin, std::size_t count) const {
    const arma::rowvec margin = margins(w, begin, count);
    return arma::accu(arma::log(1 + arma::exp(-margin)));
  }
  void Gradient(const arma::mat& w, std::size_t begin, arma::mat& gradient,
                std::size_t count) const {
    const arma::rowvec margin = margins(w, begin, count);
    const arma::rowvec factor = -labels_.cols(begin, begin + count - 1) / (1 + arma::exp(margin));
    gradient = points_.cols(begin, begin + count - 1) * factor.t();
  }

 private:
  [[nodiscard]] arma::rowvec margins(const arma::mat& w, std::size_t begin,
                                     std::size_t count) const {
    const arma::rowvec outputs = w.t() * points_.cols(begin, begin + count - 1);
    return outputs % labels_.cols(begin, begin + count - 1);
  }
  arma::mat points_;
  arma::rowvec labels_;  // 1 or -1
};

}  // namespace

int main() {
  arma::arma_rng::set_seed(1);
  constexpr std::size_t features = 20, count = 4096, batch = 32, epochs = 10;
  const arma::mat points = arma::randn<arma::mat>(features, count);
  const arma::vec truth = arma::randn<arma::vec>(features);
  arma::rowvec labels(count);
  for (std::size_t k = 0; k < count; ++k) {
    const double probability = 1 / (1 + std::exp(-arma::dot(truth, points.col(k))));
    labels(k) = arma::randu() < probability ? 1 : -1;
  }
  LogisticRegression function(points, labels);

  // ensmallen divides the step size by the size of a batch, and AdamW scales its step itself.
  using Update = polyak::EnsmallenUpdate<polyak::AdamW<double>>;
  ens::SGD<Update> sgd(0.05 * batch, batch, epochs * count, 0, true, Update({.weight_decay = 0}));
  polyak::EnsmallenAverage<polyak::Ema<double>> ema(polyak::EmaOptions{.decay = 0.99});
  arma::mat coefficients(features, 1, arma::fill::zeros), averaged;
  const double untrained = function.Evaluate(coefficients, 0, count) / count;
  sgd.Optimize(function, coefficients, ema);
  ema.copy_to(averaged);

  const double own = function.Evaluate(coefficients, 0, count) / count;
  const double average = function.Evaluate(averaged, 0, count) / count;
  std::printf("loss of zeros %.4f, of the coefficients %.4f, of their average %.4f\n", untrained,
              own, average);
  return average < own && own < untrained ? 0 : 1;
}
