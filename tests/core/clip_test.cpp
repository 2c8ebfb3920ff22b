// SPDX-License-Identifier: Apache-2.0
// Gradient scale, clipping by norm and by value: how a step reads its gradients.
#include <polyak/core/clip.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <polyak/average/ema.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/allocations.hpp"
#include "../support/bits.hpp"
#include "../support/catch.hpp"
#include "../support/model.hpp"
#include "../support/refuses.hpp"
#include "../support/splitter.hpp"

namespace clip_test {

namespace {

using polyak::AdamW;
using polyak::clip_norm;
using polyak::GradientAccess;
using polyak::Gradients;
using polyak::named;
using polyak::Nonfinite;
using polyak::Parameters;
using polyak::Sgd;
using polyak::state_bytes;
using Bytes = std::vector<std::byte>;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();
const std::vector<std::size_t> sizes{5, 70, 0, 33, 160};

/// The carrier of a type: the type in which its numbers are computed.
template <class P>
using Carrier = std::conditional_t<std::is_same_v<P, double>, double, float>;

template <class P>
Carrier<P> widened(const P& value) {
  return static_cast<Carrier<P>>(value);
}

/// One tensor of weights 0 with the gradients given. A step of plain SGD with rate 1 makes each
/// weight minus the gradient as it was read.
template <class P>
struct One {
  std::vector<P> weights, gradient;
  Parameters<P> params;
  Gradients<P> gradients;
  Sgd<P> sgd;

  explicit One(std::vector<P> values)
      : weights(values.size(), P(0)),
        gradient(std::move(values)),
        params(Parameters<P>().add("w", weights)),
        gradients(params),
        sgd(params, {.learning_rate = 1}) {
    gradients.set("w", gradient);
  }
  std::vector<P> read() {
    std::fill(weights.begin(), weights.end(), P(0));
    sgd.step(params, gradients);
    for (P& weight : weights) weight = -weight;
    return weights;
  }
};

template <class P>
std::vector<P> numbers(std::size_t count) {
  std::vector<P> all(count);
  for (std::size_t k = 0; k < count; ++k) {
    all[k] = static_cast<P>(static_cast<float>(3 * bits::uniform(k, 5)));
  }
  return all;
}

/// The norm of the gradients that `takes` holds for.
template <class P, class Takes>
long double norm_by_hand(const Parameters<P>& params, const Gradients<P>& gradients, Takes takes) {
  long double sum = 0;
  for (std::size_t k = 0; k < params.size(); ++k) {
    if (gradients[k] == nullptr || !takes(k)) continue;
    for (std::size_t i = 0; i < params[k].size(); ++i) {
      const auto one = static_cast<long double>(widened(gradients[k][i]));
      sum += one * one;
    }
  }
  return std::sqrt(sum);
}
const auto every = [](std::size_t) { return true; };

template <class P>
polyak::detail::GradientReading reading_of(const Gradients<P>& gradients) {
  return GradientAccess<P>::reading(gradients);
}

}  // namespace

TEMPLATE_TEST_CASE("a scale multiplies each gradient as it is read, with one rounding", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  for (const std::size_t size : {std::size_t{1}, std::size_t{37}, std::size_t{200}}) {
    One<P> one(numbers<P>(size));
    const std::vector<P> before = one.gradient;
    for (const double scale : {0.125, 1.0 / 3, 1.75, 0.0, 1.0}) {
      one.gradients.scale(scale);
      const std::vector<P> read = one.read();
      std::size_t wrong = 0;
      for (std::size_t k = 0; k < size; ++k) {
        const Carrier<P> expected = widened(one.gradient[k]) * static_cast<Carrier<P>>(scale);
        // Of 16 bits the weight is rounded once more, as it is stored.
        wrong += widened(read[k]) == widened(static_cast<P>(expected)) ? 0 : 1;
      }
      INFO("scale " << scale << ", size " << size);
      CHECK(wrong == 0);
    }
    CHECK(bits::bytes(one.gradient) == bits::bytes(before));
  }
}

TEMPLATE_TEST_CASE("a scale equals multiplying the gradients before the step", "", float, double,
                   Eigen::bfloat16) {
  using P = TestType;
  // By a power of two the memory holds the products exactly, so whole runs agree to the bit.
  Model<P> scaled(sizes, true), multiplied(sizes, true), plain(sizes, true), unscaled(sizes, true);
  const auto make = [](const Parameters<P>& params) {
    return AdamW<P>(params, {.learning_rate = 0.1, .coupled_weight_decay = 0.1});
  };
  AdamW<P> a = make(scaled.params), b = make(multiplied.params), c = make(plain.params),
           d = make(unscaled.params);
  scaled.gradients.scale(0.25);
  plain.gradients.scale(1);
  Splitter pieces(Split::pieces), threads(Split::threads);
  for (std::uint64_t step = 0; step < 6; ++step) {
    for (Model<P>* const model : {&scaled, &multiplied, &plain, &unscaled}) {
      model->differentiate(step);
    }
    for (std::size_t k = 0; k < multiplied.params.size(); ++k) {
      if (multiplied.gradients[k] == nullptr) continue;
      for (std::size_t i = 0; i < multiplied.params[k].size(); ++i) {
        P& one = const_cast<P*>(multiplied.gradients[k])[i];
        one = static_cast<P>(widened(one) * Carrier<P>(0.25));
      }
    }
    polyak::step(step % 2 == 0 ? pieces : threads, scaled.params, scaled.gradients, a);
    b.step(multiplied.params, multiplied.gradients);
    c.step(plain.params, plain.gradients);
    d.step(unscaled.params, unscaled.gradients);
    CHECK(scaled.bytes() == multiplied.bytes());
    CHECK(state_bytes(a) == state_bytes(b));
    CHECK(plain.bytes() == unscaled.bytes());  // 1 is none
    CHECK(state_bytes(c) == state_bytes(d));
  }
  CHECK(state_bytes(a) != state_bytes(d));
}

TEST_CASE("a scale of 0 keeps decay and momentum, and NaN stays NaN") {
  One<float> one({1, -2, static_cast<float>(not_a_number), static_cast<float>(infinity)});
  one.gradients.scale(0);
  const std::vector<float> read = one.read();
  CHECK(read[0] == 0);
  CHECK(read[1] == 0);
  CHECK(bits::is_nan(read[2]));
  CHECK(bits::is_nan(read[3]));
  CHECK(one.sgd.count() == 1);
}

TEMPLATE_TEST_CASE("clip_norm returns the norm and reduces larger norms to max_norm", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using P = TestType;
  for (const double scale : {1.0, 0.125, 1.0 / 3}) {
    Model<P> model(sizes, true);
    model.differentiate(3, {1});  // which does not count
    model.gradients.scale(scale);
    const auto norm =
        static_cast<double>(norm_by_hand(model.params, model.gradients, every)) * scale;
    INFO("scale " << scale << ", norm " << norm);
    CHECK(clip_norm(model.gradients, 2 * norm) == Approx(norm).epsilon(1e-14));
    CHECK(model.gradients.clip_coefficient() == 1);
    const double returned = clip_norm(model.gradients, norm / 5);
    CHECK(returned == Approx(norm).epsilon(1e-14));
    CHECK(model.gradients.clip_coefficient() == norm / 5 / returned);
    CHECK(reading_of(model.gradients).scale == scale * model.gradients.clip_coefficient());
    CHECK(model.gradients.scale() == scale);
    // A norm that is max_norm already stays as it is.
    CHECK(clip_norm(model.gradients, returned) == returned);
    CHECK(model.gradients.clip_coefficient() == 1);
  }
}

TEST_CASE("a clipped step equals a step with the hand-computed scale") {
  Model<float> clipped(sizes, true), scaled(sizes, true);
  AdamW<float> a(clipped.params, {.learning_rate = 0.1});
  Sgd<float> b(scaled.params, {.learning_rate = 0.1}), c(clipped.params, {.learning_rate = 0.1});
  for (std::uint64_t step = 0; step < 4; ++step) {
    clipped.differentiate(step);
    scaled.differentiate(step);
    clipped.gradients.scale(0.5);
    const double norm = clip_norm(clipped.gradients, 1);
    REQUIRE(norm > 1);
    scaled.gradients.scale(0.5 * (1 / norm));
    c.step(clipped.params, clipped.gradients);
    b.step(scaled.params, scaled.gradients);
    CHECK(clipped.bytes() == scaled.bytes());
  }
}

TEST_CASE("the norm of clipped gradients is max_norm") {
  One<double> one(numbers<double>(500));
  for (const double most : {0.5, 1.0, 7.0}) {
    clip_norm(one.gradients, most);
    long double sum = 0;
    for (const double value : one.read()) sum += static_cast<long double>(value) * value;
    CHECK(static_cast<double>(std::sqrt(sum)) == Approx(most).epsilon(1e-12));
  }
}

TEST_CASE("clip_norm handles zero gradients, limits of 0 and infinity, and empty lists") {
  One<float> zeros(std::vector<float>(9, 0.0f)), one({3, -4});
  CHECK(clip_norm(zeros.gradients, 1) == 0);
  CHECK(zeros.gradients.clip_coefficient() == 1);
  CHECK(clip_norm(zeros.gradients, 0) == 0);
  CHECK(zeros.gradients.clip_coefficient() == 1);
  CHECK(clip_norm(one.gradients, 0) == 5);
  CHECK(one.gradients.clip_coefficient() == 0);
  CHECK(one.read() == std::vector<float>{0, 0});
  CHECK(clip_norm(one.gradients, infinity) == 5);
  CHECK(one.gradients.clip_coefficient() == 1);
  one.gradients.set("w", polyak::no_gradient);
  CHECK(clip_norm(one.gradients, 0.5) == 0);
  const Parameters<float> none;
  Gradients<float> nothing(none);
  CHECK(clip_norm(nothing, 1) == 0);
  // The sum of squares fits in double whatever the floats are.
  One<float> large(std::vector<float>(4, 3e38f));
  CHECK(clip_norm(large.gradients, 1) == Approx(6e38));
  CHECK(large.read()[0] == Approx(0.5));
}

TEST_CASE("clip_norm clips nothing if the norm is NaN or infinite") {
  for (const double bad : {not_a_number, infinity, -infinity}) {
    One<float> one({1, static_cast<float>(bad), 3});
    clip_norm(one.gradients, 0.5);
    CHECK(one.gradients.clip_coefficient() == 1);
    const double norm = clip_norm(one.gradients, 0.5);
    CHECK((bits::is_nan(bad) ? bits::is_nan(norm) : norm == infinity));
    const std::vector<float> read = one.read();
    CHECK(read[0] == 1);
    CHECK(read[2] == 3);
    CHECK(bits::same(read[1], static_cast<float>(bad)));
  }
}

TEST_CASE("a clip coefficient lasts until the next scale or the next clipping") {
  One<float> one({3, -4});
  clip_norm(one.gradients, 1);
  CHECK(one.gradients.clip_coefficient() == 0.2);
  one.gradients.clip_value(100);
  one.gradients.set("w", one.gradient);
  CHECK(one.gradients.clip_coefficient() == 0.2);
  const Gradients<float> copy = one.gradients;
  CHECK(clip_norm(one.gradients, 2.5) == 5);  // the norm before clipping
  CHECK(one.gradients.clip_coefficient() == 0.5);
  CHECK(copy.clip_coefficient() == 0.2);
  one.gradients.scale(2);
  CHECK(one.gradients.clip_coefficient() == 1);
  CHECK(one.read() == std::vector<float>{6, -8});
}

TEST_CASE("clip_norm refuses max_norm out of range and changes nothing") {
  One<float> one({3, -4});
  polyak::Reduction<polyak::Norm> workspace(one.gradients);
  clip_norm(one.gradients, 1);
  for (const double bad : {-1.0, -infinity, not_a_number}) {
    CHECK(refuses([&] { clip_norm(one.gradients, bad); }, {"clip_norm", "max_norm", ">= 0"}));
    CHECK(refuses([&] { clip_norm(polyak::serial, one.gradients, bad, workspace); },
                  {"clip_norm", "max_norm", ">= 0"}));
    CHECK(one.gradients.clip_coefficient() == 0.2);
  }
  One<float> other({1, 2, 3});
  CHECK(refuses([&] { clip_norm(polyak::serial, other.gradients, 1, workspace); }, {"reduc"}));
  CHECK(other.gradients.clip_coefficient() == 1);
}

TEST_CASE("all executors clip to the same bits without allocations") {
  Model<float> model({5, 70, 0, 33, 20'000}, true);
  polyak::Reduction<polyak::Norm> workspace(model.gradients);
  model.differentiate(0);
  const double norm = clip_norm(model.gradients, 1);
  const double coefficient = model.gradients.clip_coefficient();
  for (const Split split : {Split::whole, Split::pieces, Split::threads}) {
    Splitter splitter(split, 3);
    model.gradients.scale(1);
    const allocations::Counter counter;
    CHECK(clip_norm(splitter, model.gradients, 1, workspace) == norm);
    if (split != Split::threads) CHECK(counter.counts().number == 0);
    CHECK(model.gradients.clip_coefficient() == coefficient);
  }
}

TEST_CASE("norms and norm_of give the norms of tensors and of selections") {
  Model<float> model(sizes, true);
  model.differentiate(1, {4});
  std::vector<double> norms(model.params.size());
  polyak::norms(polyak::serial, model.gradients, norms);
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    const long double expected = norm_by_hand(model.params, model.gradients,
                                              [&](std::size_t tensor) { return tensor == k; });
    CHECK(norms[k] == Approx(static_cast<double>(expected)).epsilon(1e-14));
  }
  CHECK(norms[4] == 0);
  model.gradients.scale(0.5);
  const auto selected = named("tensor 1", "ignored", "statistics");
  const auto of_selected =
      static_cast<double>(0.5L * norm_by_hand(model.params, model.gradients,
                                              [](std::size_t k) { return k == 1 || k == 5; }));
  CHECK(polyak::norm_of(polyak::serial, model.gradients, selected) ==
        Approx(of_selected).epsilon(1e-14));
  CHECK(polyak::norm_of(polyak::serial, model.gradients, named("statistics")) == 0);
  // A workspace of some tensors clips all by the norm of these.
  polyak::Reduction<polyak::Norm> workspace(model.gradients,
                                            [](std::size_t k) { return k == 1 || k == 5; });
  CHECK(clip_norm(polyak::serial, model.gradients, of_selected / 2, workspace) ==
        Approx(of_selected).epsilon(1e-14));
  CHECK(model.gradients.clip_coefficient() == Approx(0.5).epsilon(1e-12));
}

TEMPLATE_TEST_CASE("clip_value limits elements after the scale", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using P = TestType;
  for (const std::size_t size : {std::size_t{7}, std::size_t{130}}) {
    std::vector<P> values = numbers<P>(size);
    values[1] = static_cast<P>(static_cast<float>(infinity));
    values[2] = static_cast<P>(static_cast<float>(-infinity));
    values[3] = static_cast<P>(static_cast<float>(not_a_number));
    One<P> one(values);
    for (const double limit : {1.0, 0.25, 0.0}) {
      for (const double scale : {1.0, 0.5}) {
        one.gradients.scale(scale).clip_value(limit);
        CHECK(one.gradients.value_limit() == limit);
        const std::vector<P> read = one.read();
        std::size_t wrong = 0;
        for (std::size_t k = 0; k < size; ++k) {
          const Carrier<P> scaled = widened(values[k]) * static_cast<Carrier<P>>(scale);
          const Carrier<P> expected = scaled != scaled
                                          ? scaled
                                          : std::clamp(scaled, static_cast<Carrier<P>>(-limit),
                                                       static_cast<Carrier<P>>(limit));
          const Carrier<P> got = widened(read[k]), rounded = widened(static_cast<P>(expected));
          wrong += got == rounded || (bits::is_nan(got) && bits::is_nan(rounded)) ? 0 : 1;
        }
        INFO("limit " << limit << ", scale " << scale);
        CHECK(wrong == 0);
        CHECK(bits::is_nan(read[3]));
      }
    }
    one.gradients.scale(1).clip_value(infinity);
    const std::vector<P> read = one.read();
    CHECK(widened(read[1]) == static_cast<Carrier<P>>(infinity));
    CHECK(widened(read[0]) == widened(values[0]));
  }
}

TEST_CASE("clip_value does not change norms, and refuses limits out of range") {
  One<float> one({3, -4});
  one.gradients.clip_value(1);
  CHECK(clip_norm(one.gradients, 2.5) == 5);
  CHECK(one.read() == std::vector<float>{1, -1});  // +-1.5 and +-2, held
  for (const double bad : {-1.0, -infinity, not_a_number}) {
    CHECK(refuses([&] { one.gradients.clip_value(bad); }, {"clip_value", "limit", ">= 0"}));
    CHECK(one.gradients.value_limit() == 1);
  }
  // A limit beyond float is none for finite numbers, and none for infinity.
  One<float> large({3e38f, static_cast<float>(infinity)});
  large.gradients.clip_value(1e300);
  CHECK(large.read()[0] == 3e38f);
}

TEST_CASE("NaN and infinity are detected in gradients in memory and after the scale") {
  const float huge = 3e38f, bad = static_cast<float>(infinity);
  for (const Nonfinite policy : {Nonfinite::skip_step, Nonfinite::error}) {
    One<float> one({1, huge});
    Sgd<float> sgd(one.params, {.learning_rate = 1, .nonfinite = policy});
    const auto refused = [&] {
      const Bytes weights = bits::bytes(one.weights);
      if (policy == Nonfinite::error) {
        CHECK_THROWS_AS(sgd.step(one.params, one.gradients), polyak::nonfinite_error);
      } else {
        const std::int64_t skipped = sgd.skipped();
        CHECK_FALSE(sgd.step(one.params, one.gradients));
        CHECK(sgd.skipped() == skipped + 1);
      }
      CHECK(bits::bytes(one.weights) == weights);
    };
    // Finite, but the scale takes it beyond float.
    one.gradients.scale(16);
    refused();
    one.gradients.clip_value(1);
    CHECK(sgd.step(one.params, one.gradients));
    CHECK(one.weights[1] == -1);
    one.gradients.clip_value(infinity);
    // Infinite, though the limit, or a scale of 0, would hide it.
    one.gradient[1] = bad;
    one.gradients.scale(1).clip_value(1);
    refused();
    one.gradients.scale(0).clip_value(infinity);
    refused();
    // Clipping by such a norm changes nothing in that.
    one.gradients.scale(1);
    CHECK(clip_norm(one.gradients, 1) == infinity);
    refused();
    one.gradient[1] = 2;
    CHECK(clip_norm(one.gradients, 1) == Approx(std::sqrt(5.0)));
    CHECK(sgd.step(one.params, one.gradients));
    CHECK(sgd.count() == 2);
  }
}

TEST_CASE("scale and clipping apply equally to several methods in one step") {
  Model<float> fused(sizes, true), apart(sizes, true);
  AdamW<float> a(fused.params, {.learning_rate = 0.1}, !named("tensor 1"));
  Sgd<float> b(fused.params, {.learning_rate = 0.1, .momentum = 0.9}, named("tensor 1"));
  polyak::Ema<float> c(fused.params, {.decay = 0.75});
  AdamW<float> d(apart.params, {.learning_rate = 0.1}, !named("tensor 1"));
  Sgd<float> e(apart.params, {.learning_rate = 0.1, .momentum = 0.9}, named("tensor 1"));
  polyak::Ema<float> f(apart.params, {.decay = 0.75});
  Splitter pieces(Split::pieces);
  for (std::uint64_t step = 0; step < 4; ++step) {
    for (Model<float>* const model : {&fused, &apart}) {
      model->differentiate(step);
      model->gradients.scale(1.0 / 3).clip_value(0.01);
      clip_norm(model->gradients, 0.5);
    }
    polyak::step(pieces, fused.params, fused.gradients, a, b, c);
    d.step(apart.params, apart.gradients);
    e.step(apart.params, apart.gradients);
    f.update(apart.params);
    CHECK(fused.bytes() == apart.bytes());
    CHECK(state_bytes(a) == state_bytes(d));
    CHECK(state_bytes(b) == state_bytes(e));
    CHECK(state_bytes(c) == state_bytes(f));
  }
}

}  // namespace clip_test
