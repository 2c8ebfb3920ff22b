// SPDX-License-Identifier: Apache-2.0
// Weights that are too narrow for their steps: optim/weight_digits.hpp, core/kept_weights.hpp.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <Eigen/Core>
#include <polyak/average/ema.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "bits.hpp"
#include "one_tensor.hpp"

namespace weight_digits_test {

using namespace polyak;
using Eigen::bfloat16;
using Eigen::half;

constexpr Accumulate ways[] = {Accumulate::master, Accumulate::kahan, Accumulate::stochastic};

/// n weights of `value`, with gradients of `gradient`.
template <class P>
struct Constant : OneTensor<P> {
  Constant(std::size_t n, float value, float each = 1) : OneTensor<P>(std::vector<P>(n, P(value))) {
    for (P& g : this->gradient) g = P(each);
  }
  [[nodiscard]] double mean() const {
    double sum = 0;
    for (const P one : this->x) sum += static_cast<double>(static_cast<float>(one));
    return sum / static_cast<double>(this->x.size());
  }
};

template <class Optimizer, class Model>
void train(Optimizer& optimizer, Model& model, int steps) {
  for (int t = 0; t < steps; ++t) optimizer.step(model.params, model.grads);
}

TEST_CASE("a pruned weight stays pruned", "[weight_digits]") {
  Constant<bfloat16> model(40, 1);
  AdamW<bfloat16> adamw(model.params, {.learning_rate = 6e-4, .accumulate = Accumulate::master});
  train(adamw, model, 7);
  std::fill(model.x.begin(), model.x.end(), bfloat16(0));
  for (bfloat16& g : model.gradient) g = bfloat16(0);
  adamw.at(0).step(model.params, model.grads);
  CHECK(model.mean() == Approx(0).margin(1e-30));
}

TEST_CASE("AdamW of 16 bits: 100 steps of 6e-4 lead from 1 to 0.94", "[weight_digits]") {
  const auto run = []<class P>(P, Accumulate accumulate) {
    Constant<P> model(768, 1);
    AdamW<P> adamw(model.params,
                   {.learning_rate = 6e-4, .weight_decay = 0, .accumulate = accumulate});
    train(adamw, model, 100);
    return model.mean();
  };
  CHECK(run(bfloat16(), Accumulate::plain) == 1);
  for (const Accumulate accumulate : ways) {
    INFO(name_of(accumulate));
    CHECK(run(bfloat16(), accumulate) == Approx(0.94).margin(0x1p-9));
    CHECK(run(half(), accumulate) == Approx(0.94).margin(0x1p-12));
  }
}

TEST_CASE("weight decay of 16 bits: 1e5 steps of 1e-5 lead from 1 to 1/e", "[weight_digits]") {
  const auto run = [](Accumulate accumulate, std::size_t n, double rate, int steps) {
    Constant<bfloat16> model(n, 1, 0);
    AdamW<bfloat16> adamw(model.params,
                          {.learning_rate = rate, .weight_decay = 0.01, .accumulate = accumulate});
    train(adamw, model, steps);
    return model.mean();
  };
  CHECK(run(Accumulate::plain, 4, 1e-3, 100000) == 1);
  CHECK(run(Accumulate::master, 4, 1e-3, 100000) == Approx(0.3679).margin(0x1p-9));
  CHECK(run(Accumulate::stochastic, 1024, 1e-3, 20000) == Approx(std::exp(-0.2)).margin(0.004));
}

TEST_CASE("Schedule-Free of 16 bits: x goes downhill, from 4 to 2.749", "[weight_digits]") {
  const auto run = []<class P>(P, Accumulate accumulate) {
    Constant<P> model(64, 4), result(64, 0);
    ScheduleFreeAdamW<P> optimizer(model.params, {.accumulate = accumulate});
    train(optimizer, model, 1000);
    optimizer.copy_to(model.params, result.params);
    return result.mean();
  };
  const double exact = run(float(), Accumulate::plain);
  CHECK(exact == Approx(2.749).margin(0.001));
  CHECK(run(bfloat16(), Accumulate::plain) > 4.2);
  CHECK(run(bfloat16(), Accumulate::master) == Approx(exact).margin(0x1p-7));
  CHECK(run(bfloat16(), Accumulate::kahan) == Approx(exact).margin(0x1p-6));
  CHECK(run(bfloat16(), Accumulate::stochastic) == Approx(exact).margin(0.02));
  CHECK(run(half(), Accumulate::master) == Approx(exact).margin(0x1p-10));
}

TEST_CASE("Schedule-Free reads x with all digits of y: view, copy and guard", "[weight_digits]") {
  for (const Accumulate accumulate : ways) {
    OneTensor<bfloat16> model(std::vector<bfloat16>(77)), result(std::vector<bfloat16>(77));
    OneTensor<float> wide(std::vector<float>(77));
    for (std::size_t k = 0; k < 77; ++k) {
      model.x[k] = bfloat16(static_cast<float>(bits::uniform(k, 1)));
      wide.x[k] = static_cast<float>(model.x[k]);
    }
    ScheduleFreeSgd<bfloat16> optimizer(model.params,
                                        {.learning_rate = 0.01, .accumulate = accumulate});
    ScheduleFreeSgd<float> exact(wide.params, {.learning_rate = 0.01});
    for (std::uint64_t t = 0; t < 30; ++t) {
      for (std::size_t k = 0; k < 77; ++k) {
        model.gradient[k] = bfloat16(static_cast<float>(bits::uniform(k, t + 2)));
        wide.gradient[k] = static_cast<float>(model.gradient[k]);
      }
      optimizer.step(model.params, model.grads);
      exact.step(wide.params, wide.grads);
      const auto state = state_bytes(optimizer);
      optimizer.copy_to(model.params, result.params);
      const auto view = optimizer.view(model.params)[0];
      for (std::size_t k = 0; k < 77; ++k) {
        REQUIRE(bits::bytes(&result.x[k], 1) == [&] {
          const bfloat16 one = view(k);
          return bits::bytes(&one, 1);
        }());
      }
      if (accumulate == Accumulate::master) {
        const auto of_float = exact.view(wide.params)[0];
        for (std::size_t k = 0; k < 77; ++k) {
          REQUIRE(static_cast<float>(view(k)) == static_cast<float>(bfloat16(of_float(k))));
        }
      }
      const auto weights = bits::bytes(model.x);
      {
        const auto guard = optimizer.swap_into(model.params);
        CHECK(bits::bytes(model.x) == bits::bytes(result.x));
      }
      CHECK(bits::bytes(model.x) == weights);
      CHECK(state_bytes(optimizer) == state);
    }
  }
}

/// `make(params, accumulate)` trains weights of P as the floats of the same values, bit for bit.
template <class P, class Make>
void check_master(const std::string& name, Make make) {
  INFO(name);
  constexpr std::size_t n = 131;
  OneTensor<P> model{std::vector<P>(n)};
  OneTensor<float> wide{std::vector<float>(n)};
  for (std::size_t k = 0; k < n; ++k) {
    const auto value = static_cast<float>(bits::uniform(k, 1));
    model.x[k] = P(value < 0 ? value - 0.25f : value + 0.25f);
    wide.x[k] = static_cast<float>(model.x[k]);
  }
  auto narrow = make(model.params, Accumulate::master);
  auto exact = make(wide.params, Accumulate::plain);
  std::size_t moved = 0, differ = 0;
  for (std::uint64_t t = 0; t < 200; ++t) {
    for (std::size_t k = 0; k < n; ++k) {
      model.gradient[k] = P(static_cast<float>(bits::uniform(k, t + 2)));
      wide.gradient[k] = static_cast<float>(model.gradient[k]);
    }
    narrow.step(model.params, model.grads);
    exact.step(wide.params, wide.grads);
    for (std::size_t k = 0; k < n; ++k) {
      std::int16_t rest = 0;
      const float weight = polyak::detail::split<P>(wide.x[k], rest);
      differ += static_cast<float>(model.x[k]) != weight ? 1 : 0;
      moved += weight != wide.x[k] ? 1 : 0;
      for (std::size_t slot = 0; slot < exact.slots().count(); ++slot) {
        differ += narrow.slots().tensor(slot, 0)[k] != exact.slots().tensor(slot, 0)[k] ? 1 : 0;
      }
    }
  }
  CHECK(differ == 0);
  CHECK(moved > 10000);  // weights that 16 bits do not hold
}

TEMPLATE_TEST_CASE("a master trains as floats do, bit for bit", "[weight_digits]", bfloat16, half) {
  using P = TestType;
  check_master<P>("AdamW", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return AdamW<Q>(p, {.learning_rate = 1e-4, .accumulate = a});
  });
  check_master<P>("AdamW amsgrad", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return AdamW<Q>(p, {.learning_rate = 1e-4, .amsgrad = true, .accumulate = a});
  });
  check_master<P>("Lion", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return Lion<Q>(p, {.learning_rate = 1e-5, .weight_decay = 0.1, .accumulate = a});
  });
  check_master<P>("Sgd", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return Sgd<Q>(p, {.learning_rate = 1e-4, .accumulate = a});
  });
  check_master<P>("Sgd momentum", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return Sgd<Q>(p, {.learning_rate = 1e-4, .momentum = 0.9, .accumulate = a});
  });
  check_master<P>("AdEMAMix", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return AdEMAMix<Q>(p, {.learning_rate = 1e-4, .accumulate = a});
  });
  check_master<P>("ScheduleFreeAdamW", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return ScheduleFreeAdamW<Q>(p, {.learning_rate = 1e-4, .accumulate = a});
  });
  check_master<P>("ScheduleFreeSgd", []<class Q>(const Parameters<Q>& p, Accumulate a) {
    return ScheduleFreeSgd<Q>(p, {.learning_rate = 1e-4, .accumulate = a});
  });
}

TEMPLATE_TEST_CASE("rounding weights at random is unbiased", "[weight_digits]", bfloat16, half) {
  using P = TestType;
  constexpr std::size_t n = 8192;
  Constant<P> model(n, 1);
  OneTensor<float> wide(std::vector<float>(n, 1));
  const double rate = std::is_same_v<P, half> ? 5e-5 : 3e-4;
  Sgd<P> sgd(model.params,
             {.learning_rate = rate, .accumulate = Accumulate::stochastic, .seed = 3});
  for (int t = 1; t <= 150; ++t) {
    sgd.step(model.params, model.grads);
    if (t % 50 != 0) continue;
    const double right = 1 - t * rate;
    double mean = model.mean(), square = 0;
    for (const P x : model.x) {
      square += std::pow(static_cast<double>(static_cast<float>(x)) - mean, 2);
    }
    const double error = std::sqrt(square / (n * (n - 1.0)));
    INFO(t << ": " << mean << ", standard error " << error);
    CHECK(error > 0);
    CHECK(std::fabs(mean - right) < 4 * error);
  }
  // The same bits for the same seed, others for another.
  Constant<P> again(n, 1), other(n, 1);
  Sgd<P> same(again.params, sgd.options());
  Sgd<P> different(other.params, {.learning_rate = rate, .accumulate = Accumulate::stochastic});
  train(same, again, 150);
  train(different, other, 150);
  CHECK(bits::bytes(again.x) == bits::bytes(model.x));
  CHECK(bits::bytes(other.x) != bits::bytes(model.x));
}

TEMPLATE_TEST_CASE("with kahan, weights are within half an ulp of the floats", "[weight_digits]",
                   bfloat16, half) {
  using P = TestType;
  constexpr std::size_t n = 131;
  OneTensor<P> model{std::vector<P>(n)};
  OneTensor<double> wide{std::vector<double>(n)};
  for (std::size_t k = 0; k < n; ++k) {
    model.x[k] = P(1.25f + 0.5f * static_cast<float>(bits::uniform(k, 1)));
    wide.x[k] = static_cast<double>(static_cast<float>(model.x[k]));
  }
  AdamW<P> kahan(model.params, {.learning_rate = 2e-4, .accumulate = Accumulate::kahan});
  AdamW<double> exact(wide.params, {.learning_rate = 2e-4});
  const double ulp = std::is_same_v<P, half> ? 0x1p-10 : 0x1p-7;
  double largest = 0;
  for (std::uint64_t t = 0; t < 500; ++t) {
    for (std::size_t k = 0; k < n; ++k) {
      model.gradient[k] = P(1 + static_cast<float>(bits::uniform(k, t + 2)));
      wide.gradient[k] = static_cast<double>(static_cast<float>(model.gradient[k]));
    }
    kahan.step(model.params, model.grads);
    exact.step(wide.params, wide.grads);
    for (std::size_t k = 0; k < n; ++k) {
      if (wide.x[k] < 1) continue;
      const double distance =
          std::fabs(static_cast<double>(static_cast<float>(model.x[k])) - wide.x[k]);
      largest = std::max(largest, distance / ulp);
    }
  }
  CHECK(largest > 0.45);
  CHECK(largest < 0.55);  // half an ulp, and the rounding of 500 compensations
}

TEST_CASE("plain weights that would not move are refused, with the number and the ways out",
          "[weight_digits]") {
  Constant<bfloat16> model(768, 1);
  AdamW<bfloat16> adamw(model.params, {.learning_rate = 6e-4});
  Ema<bfloat16> ema(model.params, {.decay = 0.5});
  const auto state = state_bytes(adamw), average = state_bytes(ema);
  const std::string words =
      refusal<std::invalid_argument>([&] { step(model.params, model.grads, ema, adamw); });
  CHECK(words ==
        "polyak: AdamW would not move tensor \"x\": its weights of bfloat16 are of size 1 (root "
        "mean square), where changes below 0.001953125 are rounded away, and the learning rate is "
        "6e-04. Set the option accumulate to master, kahan or stochastic, train weights of float, "
        "or set accumulate to plain to accept it");
  CHECK(model.mean() == 1);
  CHECK(state_bytes(adamw) == state);
  CHECK(state_bytes(ema) == average);

  AdamW<bfloat16> named(model.params, {.learning_rate = 6e-4, .accumulate = Accumulate::plain});
  CHECK_NOTHROW(named.step(model.params, model.grads));
  adamw.at(1e-2);  // a rate that arrives
  CHECK_NOTHROW(adamw.step(model.params, model.grads));
  adamw.at(1e-9);  // the end of a schedule
  CHECK_NOTHROW(adamw.step(model.params, model.grads));

  Constant<half> halves(8, 1);
  Sgd<half> coarse(halves.params, {.learning_rate = 2.4e-4}),
      fine(halves.params, {.learning_rate = 2.5e-4});
  refusal<std::invalid_argument>([&] { coarse.step(halves.params, halves.grads); });
  CHECK_NOTHROW(fine.step(halves.params, halves.grads));

  // Small weights move, and those at 0 always do. A warm-up begins below the rate of the options.
  Constant<bfloat16> small(64, 0.02f), none(64, 0);
  Lion<bfloat16> lion(small.params, {}), at_zero(none.params, {.learning_rate = 1e-30});
  CHECK_NOTHROW(lion.at(1e-9).step(small.params, small.grads));
  CHECK_NOTHROW(at_zero.step(none.params, none.grads));
}

TEST_CASE("groups count where weights would not move", "[weight_digits]") {
  std::vector<bfloat16> norm(8, bfloat16(1)), weight(8, bfloat16(0.02f)), g(8, bfloat16(1));
  Parameters<bfloat16> params;
  params.add("norm", norm).add("weight", weight);
  auto grads = like(params, g, g);
  const auto make = [&](Accumulate accumulate = Accumulate::automatic) {
    return AdamW<bfloat16>(params, {.learning_rate = 1e-3, .accumulate = accumulate});
  };
  auto plain = make(), frozen = make(), faster = make();
  CHECK(refusal<std::invalid_argument>([&] { plain.step(params, grads); }).find("\"norm\"") !=
        std::string::npos);
  CHECK_NOTHROW(frozen.group(named("norm"), {.frozen = true}).step(params, grads));
  CHECK_NOTHROW(faster.group(named("norm"), {.learning_rate_factor = 4}).step(params, grads));

  // A tensor that is frozen loses its digits, the others keep theirs.
  for (const Accumulate accumulate : {Accumulate::master, Accumulate::kahan}) {
    auto kept = make(accumulate), other = make(accumulate);
    const auto weights = [&] { return bits::bytes(weight); };
    const auto norm_before = norm, weight_before = weight;
    for (int t = 0; t < 20; ++t) kept.step(params, grads);
    const auto expected = weights();
    norm = norm_before, weight = weight_before;
    for (int t = 0; t < 10; ++t) other.step(params, grads);
    other.group(named("norm"), {.frozen = true});
    const auto norm_frozen = bits::bytes(norm);
    for (int t = 0; t < 10; ++t) other.step(params, grads);
    CHECK(weights() == expected);
    CHECK(bits::bytes(norm) == norm_frozen);
    CHECK(other.memory_report().slots.back().elements == 8);
    CHECK(kept.memory_report().slots.back().elements == 16);
  }
}

TEST_CASE("ways of keeping weights that a type does not support are refused", "[weight_digits]") {
  const auto refuse = []<class P, class S>(P, S, Accumulate accumulate) {
    Constant<P> model(4, 1);
    return refusal<std::invalid_argument>(
        [&] { AdamW<P, S>(model.params, {.accumulate = accumulate}); });
  };
  CHECK(refuse(float(), float(), Accumulate::master) ==
        "polyak: AdamW with accumulate = master needs weights of 16 bits; the weights are of "
        "float32, the state of float32");
  CHECK(refuse(float(), float(), Accumulate::kahan) ==
        "polyak: AdamW with accumulate = kahan needs weights of 16 bits, or of float with state of "
        "double as in AdamW<float, double>; the weights are of float32, the state of float32");
  refuse(float(), double(), Accumulate::stochastic);
  refuse(float(), float(), Accumulate::float64);
  refuse(double(), double(), Accumulate::kahan);
  refuse(bfloat16(), float(), Accumulate::float64);
  CHECK(refuse(bfloat16(), float(), static_cast<Accumulate>(77)) ==
        "polyak: AdamWOptions.accumulate must be one of Accumulate, got 77");
  for (const Accumulate accumulate : {Accumulate::master, Accumulate::automatic}) {
    Constant<bfloat16> model(4, 1);
    refusal<std::invalid_argument>(
        [&] { Ema<bfloat16, bfloat16>(model.params, {.decay = 0.5, .accumulate = accumulate}); });
  }
}

TEST_CASE("weights of float with state of double keep what floats lose", "[weight_digits]") {
  const auto run = [](Accumulate accumulate) {
    Constant<float> model(37, 1);
    AdamW<float, double> adamw(
        model.params, {.learning_rate = 1e-9, .weight_decay = 0, .accumulate = accumulate});
    train(adamw, model, 10000);
    return model.mean();
  };
  CHECK(run(Accumulate::automatic) == 1);
  CHECK(run(Accumulate::kahan) == Approx(1 - 1e-5).margin(3e-8));
}

TEST_CASE("kept digits take 16 bits for each weight", "[weight_digits]") {
  Constant<bfloat16> model(4096, 1);
  const auto bytes = [&](Accumulate accumulate) {
    return AdamW<bfloat16>(model.params, {.accumulate = accumulate}).memory_report();
  };
  const auto plain = bytes(Accumulate::plain), master = bytes(Accumulate::master);
  CHECK(bytes(Accumulate::stochastic).total == plain.total);
  CHECK(master.total >= plain.total + 8192);
  CHECK(master.total < plain.total + 8192 + 4096);
  CHECK(master.slots.back().name == "weight_low_bits");
  CHECK(master.slots.back().dtype == DType::int16);
  CHECK(bytes(Accumulate::kahan).slots.back().name == "weight_compensation");
}

TEST_CASE("reset_moments leaves the digits of weights", "[weight_digits]") {
  Constant<bfloat16> model(64, 1), same(64, 1);
  const AdamWOptions options{
      .learning_rate = 1e-4, .weight_decay = 0, .accumulate = Accumulate::master};
  AdamW<bfloat16> a(model.params, options), b(same.params, options);
  train(a, model, 10);
  a.reset_moments();
  train(a, model, 10);  // for a constant gradient, with bias corrections, as if without the reset
  train(b, same, 20);
  CHECK(bits::bytes(model.x) == bits::bytes(same.x));
}

}  // namespace weight_digits_test
