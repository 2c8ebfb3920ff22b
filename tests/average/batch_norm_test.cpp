// SPDX-License-Identifier: Apache-2.0
// BatchNorm statistics against their formulas, evaluated directly; the state after a pass.
#include <polyak/average/batch_norm.hpp>
#include <polyak/average/ema.hpp>
#include <polyak/average/engine/batch_norm_moments.hpp>
#include <polyak/average/engine/swap.hpp>

#include <Eigen/Core>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "allocations.hpp"
#include "catch.hpp"
#include "numbers.hpp"
#include "refusal.hpp"
#include "refuses.hpp"

namespace batch_norm_test {

namespace {

using polyak::BatchNormEstimator;
using polyak::BatchNormPooling;
using Matrix = Eigen::MatrixXd;
using Batches = std::vector<Matrix>;

constexpr BatchNormPooling all_poolings[] = {BatchNormPooling::batches, BatchNormPooling::samples,
                                             BatchNormPooling::pooled};

/// Batches of different sizes, whose means differ too.
Batches some_batches(std::uint32_t seed, Eigen::Index channels = 3, double mean = 0) {
  RandomNumbers random(seed);
  Batches batches;
  for (const Eigen::Index samples : {7, 2, 12, 5}) {
    Matrix batch(samples, channels);
    for (Eigen::Index c = 0; c < channels; ++c) {
      const double shift = mean + 2 * random();
      for (Eigen::Index i = 0; i < samples; ++i) {
        batch(i, c) = shift + static_cast<double>(c + 1) * random();
      }
    }
    batches.push_back(batch);
  }
  return batches;
}

struct Expected {
  Eigen::VectorXd mean, variance;
};

long double mean_of(const Matrix& x, Eigen::Index c) {
  long double sum = 0;
  for (Eigen::Index i = 0; i < x.rows(); ++i) sum += static_cast<long double>(x(i, c));
  return sum / static_cast<long double>(x.rows());
}
long double variance_of(const Matrix& x, Eigen::Index c) {
  const long double mean = mean_of(x, c);
  long double sum = 0;
  for (Eigen::Index i = 0; i < x.rows(); ++i) {
    const long double d = static_cast<long double>(x(i, c)) - mean;
    sum += d * d;
  }
  return sum / static_cast<long double>(x.rows() - 1);
}

/// The statistics of all batches: weighted means over the batches, or statistics of all rows
/// together.
Expected direct(const Batches& batches, BatchNormPooling pooling) {
  const Eigen::Index channels = batches[0].cols();
  Eigen::Index rows = 0;
  for (const Matrix& batch : batches) rows += batch.rows();
  Matrix together(rows, channels);
  rows = 0;
  for (const Matrix& batch : batches) {
    together.middleRows(rows, batch.rows()) = batch;
    rows += batch.rows();
  }
  Expected expected{Eigen::VectorXd(channels), Eigen::VectorXd(channels)};
  for (Eigen::Index c = 0; c < channels; ++c) {
    long double mean = 0, variance = 0, weights = 0;
    for (const Matrix& batch : batches) {
      const auto weight = static_cast<long double>(
          pooling == BatchNormPooling::batches ? Eigen::Index{1} : batch.rows());
      mean += weight * mean_of(batch, c);
      variance += weight * variance_of(batch, c);
      weights += weight;
    }
    const bool pooled = pooling == BatchNormPooling::pooled;
    expected.mean(c) = static_cast<double>(pooled ? mean_of(together, c) : mean / weights);
    expected.variance(c) =
        static_cast<double>(pooled ? variance_of(together, c) : variance / weights);
  }
  return expected;
}

/// A layer with the statistics of training, and the flags of its model.
template <class T>
struct Layer {
  std::vector<T> mean, variance;
  std::int64_t counter = 41;
  bool training = false;
  std::optional<double> momentum = 0.125;

  explicit Layer(std::size_t channels = 3) : mean(channels), variance(channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      mean[c] = static_cast<T>(-0.0f);  // bits that arithmetic would lose
      variance[c] = static_cast<T>(c == 0 ? std::numeric_limits<float>::quiet_NaN() : 9.0f);
    }
  }
  void register_with(BatchNormEstimator<T>& estimator, const std::string& name) {
    estimator.add(name, mean, variance, &counter);
    estimator.set_during_pass(training, true);
    estimator.set_during_pass(momentum, std::nullopt);
  }
  [[nodiscard]] std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> all;
    for (const auto& part : {bytes_of(mean), bytes_of(variance), bytes_of(&counter),
                             bytes_of(&training), bytes_of(&*momentum)}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
};

/// `tolerance` relative to the numbers, and absolute for means, which may cancel.
template <class T>
void check_close(const Layer<T>& layer, const Expected& expected, double tolerance) {
  for (std::size_t c = 0; c < layer.mean.size(); ++c) {
    const auto k = static_cast<Eigen::Index>(c);
    CHECK(static_cast<double>(layer.mean[c]) ==
          Approx(expected.mean(k)).epsilon(tolerance).margin(tolerance));
    CHECK(static_cast<double>(layer.variance[c]) ==
          Approx(expected.variance(k)).epsilon(tolerance).margin(0));
  }
}

/// One pass over the batches by an estimator of a single layer.
template <class T>
void estimate(BatchNormEstimator<T>& estimator, const Batches& batches) {
  estimator.estimate(batches, [&](const Matrix& batch) { estimator.observe(0, batch); });
}

}  // namespace

TEMPLATE_TEST_CASE("BatchNorm statistics follow their formulas after every batch", "[batch_norm]",
                   float, double) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-7 : 1e-14;
  const Batches batches = some_batches(1);
  for (const BatchNormPooling pooling : all_poolings) {
    INFO(name_of(pooling));
    Layer<T> layer;
    BatchNormEstimator<T> estimator(pooling);
    layer.register_with(estimator, "bn");
    std::size_t seen = 0;
    const auto check_so_far = [&] {
      CHECK(layer.counter == static_cast<std::int64_t>(seen));
      if (seen == 0) {
        CHECK(layer.mean == std::vector<T>(3, T{0}));
        CHECK(layer.variance == std::vector<T>(3, T{1}));
      } else {
        check_close(layer,
                    direct({batches.begin(), batches.begin() + static_cast<int>(seen)}, pooling),
                    tolerance);
      }
    };
    estimator.estimate(batches, [&](const Matrix& batch) {
      check_so_far();
      CHECK(layer.training);
      CHECK_FALSE(layer.momentum.has_value());
      estimator.observe(0, batch);
      ++seen;
    });
    CHECK(seen == 4);
    check_so_far();
    CHECK_FALSE(layer.training);
    CHECK(layer.momentum == 0.125);
  }
}

TEST_CASE("the three poolings differ only if the batches differ", "[batch_norm]") {
  const Batches different = some_batches(2);
  const Batches equal(3, different[0]);
  std::vector<std::vector<double>> means, variances, of_equal;
  for (const BatchNormPooling pooling : all_poolings) {
    Layer<double> layer;
    BatchNormEstimator<double> estimator(pooling);
    layer.register_with(estimator, "bn");
    estimate(estimator, different);
    means.push_back(layer.mean);
    variances.push_back(layer.variance);
    estimate(estimator, equal);
    of_equal.push_back(layer.mean);
  }
  for (std::size_t c = 0; c < 3; ++c) {
    CHECK(std::abs(means[0][c] - means[1][c]) > 1e-3);
    CHECK(means[1][c] == Approx(means[2][c]).epsilon(1e-14));
    CHECK(variances[2][c] > variances[1][c] * 1.01);  // it has the variance of the means too
    CHECK(of_equal[0][c] == Approx(of_equal[1][c]).epsilon(1e-14));
    CHECK(of_equal[0][c] == Approx(of_equal[2][c]).epsilon(1e-14));
  }
}

TEST_CASE("a mean far larger than the spread costs no digits", "[batch_norm]") {
  for (const double mean : {1e6, -1e12}) {
    const Batches batches = some_batches(3, 2, mean);  // spread about 1
    for (const BatchNormPooling pooling : all_poolings) {
      INFO(name_of(pooling) << " " << mean);
      Layer<double> layer(2);
      BatchNormEstimator<double> estimator(pooling);
      layer.register_with(estimator, "bn");
      estimate(estimator, batches);
      const Expected expected = direct(batches, pooling);
      const double mean_rounding = std::abs(mean) * 0x1p-52;
      for (std::size_t c = 0; c < 2; ++c) {
        const auto k = static_cast<Eigen::Index>(c);
        CHECK(std::abs(layer.mean[c] - expected.mean(k)) <= 2 * mean_rounding);
        // The means of the batches are rounded; pooled uses their differences, of order 1.
        CHECK(layer.variance[c] == Approx(expected.variance(k)).epsilon(1e-13 + 8 * mean_rounding));
      }
    }
  }
  // Without pooling, the means' rounding does not enter.
  const Batches constant(3, Matrix::Constant(5, 1, 1e9 + 1.0 / 3));
  for (const BatchNormPooling pooling : all_poolings) {
    Layer<double> layer(1);
    BatchNormEstimator<double> estimator(pooling);
    layer.register_with(estimator, "bn");
    estimate(estimator, constant);
    CHECK(layer.mean[0] == Approx(1e9 + 1.0 / 3).epsilon(1e-15));
    CHECK(layer.variance[0] >= 0);
    CHECK(layer.variance[0] < 1e-12);
  }
}

TEST_CASE("the order of batches and samples changes only the rounding", "[batch_norm]") {
  const Batches batches = some_batches(4);
  Batches permuted;
  for (const std::size_t k : {2u, 0u, 3u, 1u}) {
    permuted.push_back(batches[k]);
    for (Eigen::Index i = 0; i < batches[k].rows(); ++i) {
      permuted.back().row(i) = batches[k].row(batches[k].rows() - 1 - i);
    }
  }
  for (const BatchNormPooling pooling : all_poolings) {
    Layer<double> layer;
    BatchNormEstimator<double> estimator(pooling);
    layer.register_with(estimator, "bn");
    estimate(estimator, permuted);
    check_close(layer, direct(batches, pooling), 1e-14);
  }
}

TEST_CASE("estimators of several processes are merged into one", "[batch_norm]") {
  const Batches batches = some_batches(5);
  const Batches first(batches.begin(), batches.begin() + 1),
      second(batches.begin() + 1, batches.end());
  for (const BatchNormPooling pooling : all_poolings) {
    INFO(name_of(pooling));
    const auto rank = [&](Layer<double>& layer) {
      BatchNormEstimator<double> estimator(pooling);
      layer.register_with(estimator, "bn");
      return estimator;
    };
    Layer<double> a, b, without, sent;
    auto of_a = rank(a), of_b = rank(b), of_none = rank(without), of_sent = rank(sent);
    estimate(of_a, first);
    estimate(of_b, second);
    const auto before = without.bytes();
    of_none.merge(of_none);
    CHECK(without.bytes() == before);  // nothing found, nothing written
    of_none.merge(of_b);
    CHECK(bytes_of(without.mean) == bytes_of(b.mean));
    CHECK(bytes_of(without.variance) == bytes_of(b.variance));
    estimate(of_sent, second);
    of_sent.merge(of_a.statistics());

    const auto of_b_before = b.bytes();
    of_a.merge(of_b);
    CHECK(b.bytes() == of_b_before);
    check_close(a, direct(batches, pooling), 1e-14);
    check_close(sent, direct(batches, pooling), 1e-14);
    CHECK(a.counter == 4);
    CHECK(sent.counter == 4);

    // A new pass starts from nothing.
    estimate(of_a, second);
    CHECK(bytes_of(a.variance) == bytes_of(b.variance));
    CHECK(a.counter == 3);
  }
}

TEMPLATE_TEST_CASE("activations are read from matrices, expressions and arrays", "[batch_norm]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using Given = std::conditional_t<std::is_same_v<T, double>, double, float>;
  RandomNumbers random(6);
  const Eigen::Matrix<Given, 8, 4> columns = Eigen::Matrix<Given, 8, 4>::NullaryExpr(
      [&] { return static_cast<Given>(std::floor(random() * 64)); });  // exact in any order
  const Eigen::Matrix<Given, 8, 4, Eigen::RowMajor> rows = columns;
  const std::vector<Given> flat(rows.data(), rows.data() + 32);

  Eigen::Matrix<T, Eigen::Dynamic, 1> mean(4), variance(4);
  BatchNormEstimator<T> estimator;
  CHECK(estimator.add("bn", mean, variance) == 0);
  using Bytes = std::pair<std::vector<unsigned char>, std::vector<unsigned char>>;
  const auto statistics = [&](auto observe) -> Bytes {
    estimator.estimate(std::vector<int>{1}, [&](int) { observe(); });
    return {bytes_of(mean), bytes_of(variance)};
  };
  const Bytes expected = statistics([&] { estimator.observe(0, columns); });
  double sum = 0;
  for (Eigen::Index i = 0; i < 8; ++i) sum += static_cast<double>(columns(i, 2));
  CHECK(static_cast<double>(static_cast<float>(mean(2))) == Approx(sum / 8).epsilon(4e-3));
  const auto same = [&](auto observe) {
    const Bytes found = statistics(observe);
    return found == expected;
  };
  CHECK(same([&] { estimator.observe(0, rows); }));
  CHECK(same([&] { estimator.observe(0, rows.array()); }));
  CHECK(same([&] { estimator.observe(0, columns + columns - rows); }));  // an expression
  CHECK(same([&] {
    estimator.observe(0, Eigen::Map<const Eigen::Matrix<Given, Eigen::Dynamic, Eigen::Dynamic>>(
                             columns.data(), 8, 4));
  }));
  CHECK(same([&] { estimator.observe(0, flat); }));
  CHECK(same([&] { estimator.observe(0, std::span<const Given>(flat)); }));
  CHECK(same([&] { estimator.observe(0, std::span(columns.data(), 32), 8); }));  // channels first

  // Images of 2 x 4 channels x 4 pixels, channels first.
  std::vector<Given> images(32);
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t c = 0; c < 4; ++c) images[((i / 4) * 4 + c) * 4 + i % 4] = flat[i * 4 + c];
  }
  CHECK(same([&] { estimator.observe(0, images, 4); }));
  CHECK_FALSE(same([&] { estimator.observe(0, images); }));
}

TEST_CASE("observe_moments takes the moments that a layer has computed", "[batch_norm]") {
  const Batches batches = some_batches(7);
  for (const BatchNormPooling pooling : all_poolings) {
    Layer<double> layer;
    BatchNormEstimator<double> estimator(pooling);
    layer.register_with(estimator, "bn");
    bool as_vector = false;
    estimator.estimate(batches, [&](const Matrix& batch) {
      Eigen::VectorXd mean(3);
      std::vector<double> variance(3);
      for (Eigen::Index c = 0; c < 3; ++c) {
        mean(c) = static_cast<double>(mean_of(batch, c));
        variance[static_cast<std::size_t>(c)] = static_cast<double>(variance_of(batch, c));
      }
      as_vector = !as_vector;
      if (as_vector) {
        estimator.observe_moments(0, mean, variance, batch.rows());
      } else {  // with strides
        Matrix both(2, 3);
        both.row(0) = mean.transpose();
        both.row(1) = Eigen::Map<const Eigen::RowVectorXd>(variance.data(), 3);
        estimator.observe_moments(0, both.row(0), both.row(1), batch.rows());
      }
    });
    check_close(layer, direct(batches, pooling), 1e-14);
  }
}

TEST_CASE("factor gives layers that update themselves the right momentum", "[batch_norm]") {
  const Batches batches = some_batches(8);
  for (const BatchNormPooling pooling : {BatchNormPooling::batches, BatchNormPooling::samples}) {
    Layer<double> itself, observed;
    BatchNormEstimator<double> estimator(pooling);
    itself.register_with(estimator, "itself");
    observed.register_with(estimator, "observed");
    std::vector<double> factors;
    estimator.estimate(batches, [&](const Matrix& batch) {
      itself.momentum = estimator.factor(0, batch.rows());
      factors.push_back(*itself.momentum);
      for (std::size_t c = 0; c < 3; ++c) {
        const auto k = static_cast<Eigen::Index>(c);
        const double f = *itself.momentum;
        itself.mean[c] += f * (static_cast<double>(mean_of(batch, k)) - itself.mean[c]);
        itself.variance[c] += f * (static_cast<double>(variance_of(batch, k)) - itself.variance[c]);
        observed.mean[c] = -1;  // a write by an observed layer has no effect
      }
      estimator.observe(1, batch);
    });
    if (pooling == BatchNormPooling::batches) {
      CHECK(factors == std::vector<double>{1, 1 / 2.0, 1 / 3.0, 1 / 4.0});
    } else {
      CHECK(factors == std::vector<double>{1, 2 / 9.0, 12 / 21.0, 5 / 26.0});
    }
    const Expected expected = direct(batches, pooling);
    check_close(itself, expected, 1e-14);
    check_close(observed, expected, 1e-14);
    CHECK(itself.counter == 4);
    CHECK(itself.momentum == 0.125);
    CHECK_FALSE(itself.training);

    // Their results can be merged like others.
    Layer<double> other_itself, other_observed;
    BatchNormEstimator<double> other(pooling);
    other_itself.register_with(other, "itself");
    other_observed.register_with(other, "observed");
    other.merge(estimator);
    CHECK(other_itself.variance == itself.variance);
  }
  BatchNormEstimator<double> pooled(BatchNormPooling::pooled);
  Layer<double> layer;
  layer.register_with(pooled, "bn");
  CHECK(refusal<std::logic_error>([&] {
          pooled.estimate(batches,
                          [&](const Matrix& b) { static_cast<void>(pooled.factor(0, b.rows())); });
        }).find("pooled has no factor") != std::string::npos);
}

TEMPLATE_TEST_CASE("an exception restores statistics, counts and modes bit for bit", "[batch_norm]",
                   float, double, Eigen::bfloat16) {
  using T = TestType;
  const Batches batches = some_batches(9);
  for (const BatchNormPooling pooling : all_poolings) {
    Layer<T> first, second;
    BatchNormEstimator<T> estimator(pooling);
    first.register_with(estimator, "first");
    second.register_with(estimator, "second");
    const auto all = [&] {
      auto bytes = first.bytes();
      const auto more = second.bytes();
      bytes.insert(bytes.end(), more.begin(), more.end());
      return bytes;
    };
    const auto before = all();
    const auto pass = [&](int failing_batch, bool after_observing) {
      int batch = 0;
      estimator.estimate(batches, [&](const Matrix& x) {
        ++batch;
        estimator.observe(0, x);
        first.mean[0] = static_cast<T>(17.0f);  // as layers do that update themselves
        first.training = false;
        if (batch == failing_batch && !after_observing) throw std::runtime_error("forward failed");
        estimator.observe(1, x);
        if (batch == failing_batch) throw std::runtime_error("forward failed");
      });
    };
    for (const int failing_batch : {4, 3, 1}) {
      for (const bool after_observing : {false, true}) {
        CHECK(refusal<std::runtime_error>([&] { pass(failing_batch, after_observing); }) ==
              "forward failed");
        CHECK(all() == before);
      }
    }

    // A failed pass does not change the results of an earlier one, and the next one succeeds.
    pass(0, false);
    const auto found = all();
    const auto statistics = estimator.statistics();
    CHECK(found != before);
    CHECK_THROWS_AS(pass(2, false), std::runtime_error);
    CHECK(all() == found);
    CHECK(estimator.statistics() == statistics);
    pass(0, false);
    CHECK(all() == found);
  }
}

TEST_CASE("estimate reads no batch if there are no layers", "[batch_norm]") {
  struct Untouchable {
    [[nodiscard]] int* begin() const { throw std::logic_error("a batch was read"); }
    [[nodiscard]] int* end() const { return nullptr; }
  };
  BatchNormEstimator<float> estimator;
  bool training = false;
  estimator.set_during_pass(training, true);
  CHECK(estimator.size() == 0);
  CHECK_NOTHROW(estimator.estimate(Untouchable{}, [](int) { FAIL("forward was called"); }));

  Layer<float> layer;
  layer.register_with(estimator, "bn");
  CHECK_THROWS_AS(estimator.estimate(Untouchable{}, [](int) {}), std::logic_error);
}

TEST_CASE("an empty sequence of batches is refused", "[batch_norm]") {
  Layer<float> layer;
  BatchNormEstimator<float> estimator;
  layer.register_with(estimator, "bn");
  const auto before = layer.bytes();
  CHECK(refuses([&] { estimate(estimator, {}); }, {"at least one batch"}));
  CHECK(layer.bytes() == before);
}

TEST_CASE("misuse during a pass is refused, and the pass is undone", "[batch_norm]") {
  const Batches batches = some_batches(10);
  Layer<float> layer, other;
  BatchNormEstimator<float> estimator;
  layer.register_with(estimator, "stem.bn");
  other.register_with(estimator, "head.bn");
  const auto before = layer.bytes();
  const auto pass = [&](std::function<void(const Matrix&)> forward) {
    return [&estimator, &batches, forward] {
      int batch = 0;
      estimator.estimate(batches, [&](const Matrix& x) {
        if (++batch < 2) {
          estimator.observe(0, x);
          estimator.observe(1, x);
        } else {
          forward(x);
        }
      });
    };
  };
  const auto check_order = [&](std::function<void(const Matrix&)> forward,
                               const std::vector<std::string>& words) {
    const std::string message = refusal<std::logic_error>(pass(forward));
    for (const std::string& word : words) CHECK(message.find(word) != std::string::npos);
    CHECK(layer.bytes() == before);
  };
  const auto check_value = [&](std::function<void(const Matrix&)> forward,
                               const std::vector<std::string>& words) {
    CHECK(refuses(pass(forward), words));
    CHECK(layer.bytes() == before);
  };

  check_order([&](const Matrix& x) { estimator.observe(0, x); },
              {"head.bn", "was not observed in batch 2"});
  check_order(
      [&](const Matrix& x) {
        estimator.observe(0, x);
        estimator.observe(1, x);
        estimator.observe(0, x);
      },
      {"stem.bn", "twice in batch 2"});
  check_order(
      [&](const Matrix& x) {
        estimator.observe(0, x);
        static_cast<void>(estimator.factor(0, x.rows()));
      },
      {"stem.bn", "twice"});
  check_order([&](const Matrix&) { estimate(estimator, batches); }, {"estimate()", "during"});
  check_order([&](const Matrix&) { estimator.merge(estimator.statistics()); }, {"merge()"});
  check_order(
      [&](const Matrix&) {
        std::vector<float> mean(1), variance(1);
        estimator.add("late", mean, variance);
      },
      {"add()"});
  check_order(
      [&](const Matrix&) {
        bool flag = false;
        estimator.set_during_pass(flag, true);
      },
      {"set_during_pass()"});

  check_value([&](const Matrix& x) { estimator.observe(2, x); }, {"number", "got 2"});
  check_value([&](const Matrix& x) { estimator.observe(0, x.leftCols(2)); },
              {"stem.bn", "channels must be 3", "got 2"});
  check_value([&](const Matrix& x) { estimator.observe(1, x.topRows(1)); },
              {"head.bn", "at least 2 values", "got 1"});
  check_value([&](const Matrix& x) { estimator.observe(1, x.topRows(0)); }, {"got 0"});
  check_value([&](const Matrix&) { estimator.observe(0, std::vector<float>(7)); },
              {"stem.bn", "multiple of 3 channels times 1", "got 7"});
  check_value([&](const Matrix&) { estimator.observe(0, std::vector<float>(9), 2); },
              {"3 channels times 2", "got 9"});
  check_value([&](const Matrix&) { estimator.observe(0, std::vector<float>(9), 0); },
              {"inner", "got 0"});
  check_value([&](const Matrix&) { estimator.observe(0, std::vector<float>{}); }, {"got 0"});
  check_value([&](const Matrix&) { estimator.observe(0, std::vector<float>(3)); },
              {"at least 2", "got 1"});
  check_value([&](const Matrix&) { static_cast<void>(estimator.factor(0, 1)); },
              {"at least 2", "got 1"});
  const std::vector<double> two(2), three(3), negative{1, 1, -0.5};
  check_value([&](const Matrix&) { estimator.observe_moments(0, two, two, 5); },
              {"channels must be 3", "got 2"});
  check_value([&](const Matrix&) { estimator.observe_moments(0, three, two, 5); },
              {"variances", "3", "got 2"});
  check_value([&](const Matrix&) { estimator.observe_moments(0, three, negative, 5); },
              {"stem.bn", "variance must be >= 0", "got -0.5"});
  check_value([&](const Matrix&) { estimator.observe_moments(0, three, three, 1); },
              {"at least 2", "got 1"});

  // Outside of a pass nothing can be observed. A layer that forward does not observe is reported at
  // the end.
  const auto outside = refusal<std::logic_error>([&] { estimator.observe(0, batches[0]); });
  CHECK(outside.find("outside of estimate()") != std::string::npos);
  check_order(
      [&](const Matrix& x) {
        estimator.observe(0, x);
        CHECK_THROWS_AS(estimator.observe(1, x.topRows(1)), std::invalid_argument);
      },
      {"head.bn", "was not observed"});
  CHECK_NOTHROW(pass([&](const Matrix& x) {
    estimator.observe(0, x);
    estimator.observe(1, x);
  })());
}

TEST_CASE("add refuses equal names and overlapping memory", "[batch_norm]") {
  std::vector<float> memory(12), mean(3), variance(3), longer(4), none;
  std::int64_t counter = 0;
  BatchNormEstimator<float> estimator;
  const std::span all(memory);
  CHECK(estimator.add("bn1", all.first(3), all.subspan(3, 3), &counter) == 0);
  CHECK(refuses([&] { estimator.add("", mean, variance); }, {"name", "empty"}));
  CHECK(refuses([&] { estimator.add("bn1", mean, variance); }, {"new", "bn1"}));
  CHECK(refuses([&] { estimator.add("bn2", none, none); }, {"bn2", "channels", "got 0"}));
  CHECK(refuses([&] { estimator.add("bn2", mean, longer); }, {"bn2", "3", "got 4"}));
  CHECK(refuses([&] { estimator.add("bn2", longer, variance); }, {"bn2", "4", "got 3"}));
  CHECK(refuses([&] { estimator.add("bn2", mean, mean); }, {"\"bn2\" overlaps", "of \"bn2\""}));
  CHECK(refuses([&] { estimator.add("bn2", all.subspan(5, 3), variance); }, {"bn2", "\"bn1\""}));
  CHECK(refuses([&] { estimator.add("bn2", mean, all.subspan(2, 3)); }, {"bn2", "\"bn1\""}));
  CHECK(refuses([&] { estimator.add("bn2", mean, variance, &counter); }, {"bn2", "\"bn1\""}));
  CHECK(refuses([&] { estimator.set_during_pass(counter, 5); }, {"overlaps", "\"bn1\""}));
  Eigen::MatrixXf matrix(2, 3);
  auto row = matrix.row(0);
  CHECK(refuses([&] { estimator.add("bn2", row, variance); }, {"bn2", "contiguous"}));
  CHECK(estimator.size() == 1);
  CHECK(estimator.add("bn2", all.subspan(6, 3), all.subspan(9, 3)) == 1);
  bool training = false;
  estimator.set_during_pass(training, true);
  CHECK(refuses([&] { estimator.set_during_pass(training, true); }, {"overlaps"}));
}

TEST_CASE("merge refuses the statistics of other layers", "[batch_norm]") {
  const Batches batches = some_batches(11);
  Layer<double> layer, same, renamed, narrow(2), more;
  BatchNormEstimator<double> estimator, of_same, of_renamed, of_narrow,
      of_pooled(BatchNormPooling::pooled), of_none;
  layer.register_with(estimator, "bn");
  same.register_with(of_same, "bn");
  renamed.register_with(of_renamed, "other");
  narrow.register_with(of_narrow, "bn");
  more.register_with(of_pooled, "bn");
  estimate(estimator, batches);
  const auto before = layer.bytes();
  const auto statistics = estimator.statistics();
  CHECK(refuses([&] { estimator.merge(of_renamed); }, {"same BatchNorm layers"}));
  CHECK(refuses([&] { estimator.merge(of_none); }, {"same BatchNorm layers"}));
  CHECK(refuses([&] { estimator.merge(of_narrow); }, {"11 numbers", "got 9"}));
  CHECK(refuses([&] { estimator.merge(of_pooled); }, {"pooled by batches", "got 2"}));
  const auto with = [&](std::size_t k, double value) {
    auto changed = statistics;
    changed[k] = value;
    return [&estimator, changed] { estimator.merge(changed); };
  };
  CHECK(refuses(with(1, 2), {"1 layers", "got 2"}));
  CHECK(refuses(with(2, 4), {"bn", "channels", "got 4"}));
  CHECK(refuses(with(3, 1.5), {"bn", "whole", "got 1.5"}));
  CHECK(refuses(with(3, -1), {"whole", "got -1"}));
  CHECK(refuses(with(4, nan_value), {"whole", "nan"}));
  CHECK(refuses(with(4, 7), {"at least 2 values", "got 7"}));
  CHECK(layer.bytes() == before);
  CHECK(estimator.statistics() == statistics);
  of_same.merge(estimator);
  CHECK(same.variance == layer.variance);
}

TEST_CASE("activations that are not finite affect only their channel", "[batch_norm]") {
  for (const BatchNormPooling pooling : all_poolings) {
    for (const double bad : {nan_value, infinity}) {
      Batches batches = some_batches(12);
      batches[1](0, 1) = bad;
      Layer<double> layer;
      BatchNormEstimator<double> estimator(pooling);
      layer.register_with(estimator, "bn");
      estimate(estimator, batches);
      CHECK_FALSE(std::isfinite(layer.mean[1]));
      CHECK_FALSE(std::isfinite(layer.variance[1]));
      const Expected expected = direct(some_batches(12), pooling);
      for (const std::size_t c : {0u, 2u}) {
        CHECK(layer.mean[c] == Approx(expected.mean(static_cast<Eigen::Index>(c))).margin(1e-14));
      }
    }
  }
}

TEST_CASE("a pass allocates nothing", "[batch_norm]") {
  const Batches batches = some_batches(13);
  Layer<float> layer, other;
  BatchNormEstimator<float> estimator(BatchNormPooling::pooled);
  layer.register_with(estimator, "bn");
  other.register_with(estimator, "other");
  const allocations::Counter counter;
  estimator.estimate(batches, [&](const Matrix& batch) {
    estimator.observe(0, batch);
    estimator.observe(1, std::span(batch.data(), static_cast<std::size_t>(batch.size())),
                      batch.rows());
  });
  CHECK(counter.counts().number == 0);
  CHECK(layer.variance == other.variance);
}

TEMPLATE_TEST_CASE("under a guard, the statistics belong to the averaged weights", "[batch_norm]",
                   float, double) {
  using S = TestType;  // exchanged, or kept aside
  Eigen::Vector2f weights(1, 2);
  Layer<float> layer(2);
  polyak::Parameters<float> params;
  params.add("weights", weights)
      .add("mean", layer.mean, polyak::Role::copy)
      .add("variance", layer.variance, polyak::Role::copy);
  polyak::Ema<float, S> average(params, {.decay = 0.75});
  weights = {5, 10};
  average.update(params);
  const auto before = layer.bytes();
  const Eigen::Vector2f own = weights;

  BatchNormEstimator<float> estimator;
  layer.register_with(estimator, "bn");
  const std::vector<Eigen::Vector4f> batches{{0, 1, 2, 5}, {-1, 0, 0, 3}};
  {
    const auto guard = average.swap_into(params);
    estimator.estimate(
        batches, [&](const Eigen::Vector4f& x) { estimator.observe(0, x * weights.transpose()); });
    // Weights (2, 4); means 2 and 1/2; variances of x 14/3 and 3.
    CHECK(layer.mean[0] == Approx(2.5));
    CHECK(layer.mean[1] == Approx(5.0));
    CHECK(layer.variance[0] == Approx(4 * 23.0 / 6));
    CHECK(layer.variance[1] == Approx(16 * 23.0 / 6));
    layer.counter = 41;  // not in the list
  }
  CHECK(weights == own);
  CHECK(layer.bytes() == before);
}

TEST_CASE("the moments of a batch are exact to the last bits") {
  for (const double base : {1.0, 12345.678, 1e8}) {
    for (const std::size_t n : {1000u, 4096u, 10007u}) {
      INFO(n << " values from " << base << " on");
      const auto at = [&](std::size_t, std::size_t, std::size_t k) {
        return base + 0.1 * static_cast<double>(k % 7);
      };
      polyak::detail::BatchNormBatch batch;
      batch.make_room(1);
      batch.measure(1, 1, n, at);
      long double mean = 0, spread = 0;
      for (std::size_t k = 0; k < n; ++k) mean += static_cast<long double>(at(0, 0, k));
      mean /= static_cast<long double>(n);
      for (std::size_t k = 0; k < n; ++k) {
        const long double deviation = static_cast<long double>(at(0, 0, k)) - mean;
        spread += deviation * deviation;
      }
      // One ulp. A sum of n numbers in order is wrong by up to n of them.
      CHECK(std::abs(batch.mean[0] - static_cast<double>(mean)) <= 0x1p-52 * base);
      CHECK(batch.spread[0] == Approx(static_cast<double>(spread)).epsilon(1e-12));
    }
  }
}

}  // namespace batch_norm_test
