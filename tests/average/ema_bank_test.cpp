// SPDX-License-Identifier: Apache-2.0
// polyak/average/ema_bank.hpp
#include <polyak/average/ema_bank.hpp>
#include <polyak/core/state.hpp>
#include <polyak/optim/sgd.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "bits.hpp"
#include "catch.hpp"
#include "model.hpp"
#include "refuses.hpp"

namespace ema_bank_test {

using namespace polyak;

namespace {
template <class M>
std::vector<std::byte> average_bytes(const M& method, std::size_t slot) {
  std::vector<std::byte> all;
  for (std::size_t k = 0; k < 2; ++k) {
    const auto one = bits::bytes(method.slots().tensor(slot, k));
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}
}  // namespace

TEMPLATE_TEST_CASE("each average of an EmaBank is an Ema, to the last bit", "", float, double) {
  constexpr std::array decays{0.9, 0.0, 0.99, 1.0, 0.75};
  for (const Start start : {Start::params, Start::first_update, Start::zero_debiased}) {
    for (const std::int64_t every : {1, 3}) {
      if (start == Start::zero_debiased) continue;  // not with decay 1
      Model<TestType> model({70, 33}, true);
      EmaBank<TestType, 5> bank(model.params, decays, {.start = start, .update_every = every});
      std::vector<Ema<TestType>> alone;
      for (const double decay : decays) {
        alone.emplace_back(model.params,
                           EmaOptions{.decay = decay, .start = start, .update_every = every});
      }
      for (std::uint64_t step = 0; step < 13; ++step) {
        model.differentiate(step);
        model.wander(step);
        bank.update(model.params);
        for (auto& one : alone) one.update(model.params);
        for (std::size_t k = 0; k < 5; ++k) {
          CHECK(average_bytes(bank, k) == average_bytes(alone[k], 0));
        }
      }
    }
  }
}

TEST_CASE("an EmaBank works fused after an optimizer, stored in other ways, and debiased") {
  Model<float> model({70, 33}), other({70, 33});
  Sgd<float> one(model.params, {.learning_rate = 0.1}), two(other.params, {.learning_rate = 0.1});
  const std::array decays{0.9, 0.99};
  const auto with = [](Accumulate accumulate) {
    return EmaBankOptions{.start = Start::zero_debiased, .accumulate = accumulate};
  };
  EmaBank plain(model.params, decays, with(Accumulate::plain));
  EmaBank kahan(model.params, decays, with(Accumulate::kahan));
  EmaBank wide(model.params, decays, with(Accumulate::float64));
  std::vector<Ema<float>> alone;
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::kahan, Accumulate::float64}) {
    for (const double decay : decays) {
      alone.emplace_back(
          other.params,
          EmaOptions{.decay = decay, .start = Start::zero_debiased, .accumulate = accumulate});
    }
  }
  for (std::uint64_t step = 0; step < 9; ++step) {
    model.differentiate(step);
    other.differentiate(step);
    polyak::step(model.params, model.gradients, one, plain, kahan, wide);
    two.step(other.params, other.gradients);
    for (auto& average : alone) average.update(other.params);
  }
  std::size_t next = 0;
  for (const auto* bank : {&plain, &kahan, &wide}) {
    for (std::size_t k = 0; k < 2; ++k, ++next) {
      for (std::size_t i = 0; i < 70; ++i) {
        CHECK(bank->view(k)[0][i] == alone[next].view()[0][i]);
      }
    }
  }
}

TEST_CASE("EmaBank::best finds the best average and restores the weights of the model") {
  Model<float> model({70, 33}, true);
  EmaBank bank(model.params, std::array{0.5, 0.9, 0.99});
  const auto metric = [&] { return 1.0; };
  CHECK_THROWS_AS(bank.best(model.params, metric), std::logic_error);
  for (std::uint64_t step = 0; step < 30; ++step) {
    model.wander(step);
    bank.update(model.params);
  }
  const auto before = model.bytes();
  const float wanted = bank.view(1)[0][3];
  const auto distance = [&] {
    CHECK(model.params.swapped());
    return std::fabs(model.params[0].data()[3] - wanted);
  };
  const EmaBankChoice lowest = bank.best(model.params, distance);
  CHECK(lowest.index == 1);
  CHECK(lowest.decay == 0.9);
  CHECK(lowest.value == 0);
  CHECK(lowest.values.size() == 3);
  CHECK(bank.best(model.params, distance, true).index != 1);
  CHECK(model.bytes() == before);

  int call = 0;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(bank.best(model.params, [&] { return ++call == 3 ? 7.0 : nan; }).index == 2);
  CHECK_THROWS_AS(bank.best(model.params, [&] { return nan; }), nonfinite_error);
  const auto state = state_bytes(bank);
  CHECK_THROWS_AS(
      bank.evaluate(model.params, [&]() -> double { throw std::runtime_error("metric"); }),
      std::runtime_error);
  CHECK(model.bytes() == before);
  CHECK(state_bytes(bank) == state);
  CHECK(refuses([&] { static_cast<void>(bank.view(3)); }, {"index", "3"}));
  const auto guard = bank.swap_into(model.params, 2);
  CHECK_THROWS_AS(bank.update(model.params), std::logic_error);
}

TEST_CASE(
    "swapping in an average of an EmaBank gives the numbers of its copy, however it is stored") {
  for (const Accumulate accumulate : {Accumulate::plain, Accumulate::kahan, Accumulate::float64}) {
    Model<float> model({70, 33}, true);
    EmaBank bank(model.params, std::array{0.5, 0.9, 0.99}, {.accumulate = accumulate});
    for (std::uint64_t step = 0; step < 10; ++step) {
      model.wander(step);
      bank.update(model.params);
    }
    const auto before = model.bytes();
    const auto state = state_bytes(bank);
    for (std::size_t k = 0; k < 3; ++k) {
      Model<float> copy({70, 33}, true);
      bank.copy_to(copy.params, k);
      INFO("average " << k << ", accumulate = " << name_of(accumulate));
      {
        const auto guard = bank.swap_into(model.params, k);
        for (std::size_t i = 0; i < 2; ++i) {
          CHECK(std::memcmp(model.params[i].raw(), copy.params[i].raw(), model.params[i].bytes()) ==
                0);
        }
      }
      CHECK(model.bytes() == before);
      CHECK(state_bytes(bank) == state);
    }
  }
}

TEST_CASE("an EmaBank refuses decays as Ema does") {
  Model<float> model({5});
  const auto make = [&](double decay, EmaBankOptions options = {}) {
    return [&, decay, options] { EmaBank(model.params, std::array{0.9, decay}, options); };
  };
  CHECK(refuses(make(1.5), {"decay must lie in [0, 1]"}));
  CHECK(refuses(make(0.001), {"did you mean 1 - 0.001 = 0.999?"}));
  CHECK_NOTHROW(make(0.001, {.any_decay = true})());
  CHECK(refuses(make(0.9, {.update_every = 0}), {"update_every", "0"}));
  CHECK(refuses(make(0.9, {.accumulate = Accumulate::stochastic}), {"stochastic"}));
}

}  // namespace ema_bank_test
