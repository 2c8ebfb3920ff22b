// SPDX-License-Identifier: Apache-2.0
// Every method on a device against the same on the host, bit for bit.
#include <cstddef>
#include <string>
#include <tuple>

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>

#include "../support/catch.hpp"
#include "../support/fused.hpp"
#include "twin.hpp"

namespace device_tests {

using namespace polyak;

TEST_CASE("optimizers on a device: float") {
  twin::check<float>("AdamW",
                     []<class P>(const Parameters<P>& p) { return std::tuple(AdamW<P>(p)); });
  twin::check<float>("AdamW with AMSGrad", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p, {.coupled_weight_decay = 0.1, .amsgrad = true}));
  });
  twin::check<float>("AdamW without first moment", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p, {.beta1 = 0}));
  });
  twin::check<float>("AdEMAMix", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdEMAMix<P>(p, {.alpha_warmup = 5, .beta3_warmup = 5}));
  });
  twin::check<float>("ScheduleFreeAdamW", []<class P>(const Parameters<P>& p) {
    return std::tuple(ScheduleFreeAdamW<P>(p));
  });
  twin::check<float>("ScheduleFreeSgd", []<class P>(const Parameters<P>& p) {
    return std::tuple(ScheduleFreeSgd<P>(p));
  });
  twin::check<float>("Sgd", []<class P>(const Parameters<P>& p) {
    return std::tuple(Sgd<P>(p, {.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}));
  });
}

TEST_CASE("averages on a device: float") {
  twin::check<float>(
      "all that an average does",
      []<class P>(const Parameters<P>& p) { return std::tuple(fused::Scripted<P>(p, 0)); },
      fused::steps);
  twin::check<float>(
      "all that an average does, blending",
      []<class P>(const Parameters<P>& p) { return std::tuple(fused::Scripted<P>(p, 1)); },
      fused::steps);
  twin::check<float>("Ema with compensation", []<class P>(const Parameters<P>& p) {
    return std::tuple(Ema<P>(p, {.decay = 0.75, .accumulate = Accumulate::kahan}));
  });
  twin::check<float>("Ema in double", []<class P>(const Parameters<P>& p) {
    return std::tuple(Ema<P>(p, {.decay = 0.75, .accumulate = Accumulate::float64}));
  });
  twin::check<float>("Swa, PowerEma and SwitchEma", []<class P>(const Parameters<P>& p) {
    return std::tuple(
        Swa<P>(p, {.start = 3, .period = 2}), PowerEma<P>(p, {.gamma = 3}),
        SwitchEma<P>(p, {.decay = 0.75, .unit = SwitchUnit::iterations, .interval = 3}));
  });
  twin::check<float>("HareTortoise", []<class P>(const Parameters<P>& p) {
    return std::tuple(HareTortoise<P>(p, {.decay = 0.75, .switch_every = 4, .blend = 0.25}));
  });
}

TEST_CASE("banks and windows on a device") {
  twin::check<float>("EmaBank, Lawa and WindowAverage", []<class P>(const Parameters<P>& p) {
    return std::tuple(EmaBank<P, 3>(p, {0.75, 0.0, 0.9}), Lawa<P>(p, {.checkpoints = 5}),
                      WindowAverage<P>(p, {.horizon = 4, .interval = 2, .blocks = 2}));
  });
  twin::check<float>("EmaBank and Lawa with compensation", []<class P>(const Parameters<P>& p) {
    return std::tuple(
        EmaBank<P, 2>(p, {0.75, 0.9}, {.accumulate = Accumulate::kahan}),
        Lawa<P>(p, {.checkpoints = 3, .running_mean = true, .accumulate = Accumulate::kahan}));
  });
}

TEST_CASE("fused methods on a device, at any alignment") {
  for (const std::size_t lead : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    twin::check<float>(
        "AdamW and two averages",
        []<class P>(const Parameters<P>& p) {
          return std::tuple(AdamW<P>(p), Ema<P>(p, {.decay = 0.9}),
                            Ema<P>(p, {.decay = 0.99, .start = Start::first_update}));
        },
        7, {5, 70, 0, 33, 4200}, lead, 3 - lead);
  }
}

TEST_CASE("other types on a device") {
  twin::check<double>("double", []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p), Ema<P>(p, {.decay = 0.9}));
  });
  twin::check<float>("state of double", []<class P>(const Parameters<P>& p) {
    return std::tuple(Ema<P, double>(p, {.decay = 0.9}));
  });
  const auto sixteen = []<class P>(const Parameters<P>& p) {
    return std::tuple(AdamW<P>(p), Ema<P>(p, {.decay = 0.9}));
  };
  twin::check<Eigen::half>("half", sixteen, 7, {5, 70, 8193});
  twin::check<Eigen::bfloat16>("bfloat16", sixteen, 7, {5, 70, 8193}, 3, 1);
}

TEST_CASE("averages of 16 bits on a device") {
  twin::check<Eigen::bfloat16>(
      "stochastic",
      []<class P>(const Parameters<P>& p) {
        return std::tuple(Ema<P, Eigen::bfloat16>(
            p, {.decay = 0.999, .accumulate = Accumulate::stochastic, .seed = 7}));
      },
      7, {5, 70, 33, 129, 8200});
  twin::check<float>("stochastic half of float",
                     []<class P>(const Parameters<P>& p) {
                       return std::tuple(Ema<P, Eigen::half>(
                           p, {.decay = 0.999, .accumulate = Accumulate::stochastic, .seed = 7}));
                     },
                     7, {5, 70, 33, 129, 8200});
  twin::check<Eigen::bfloat16>("with compensation",
                               []<class P>(const Parameters<P>& p) {
                                 return std::tuple(Ema<P, Eigen::bfloat16>(
                                     p, {.decay = 0.999, .accumulate = Accumulate::kahan}));
                               },
                               7, {5, 70, 33, 129, 8200});
}

}  // namespace device_tests
