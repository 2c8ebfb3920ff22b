// SPDX-License-Identifier: Apache-2.0
/// @file
/// The one list of the library's methods. The batteries, the fused steps, the emulated device and
/// the tests of users' build settings are made from it; the golden files, the benchmarks and the
/// tables of the READMEs are checked against it. A new method is one entry here, and one more for
/// each variant whose law differs.
///
/// Needs no test framework, and nothing that nvcc does not compile.
///
/// Above 300 lines: it is one list.
#pragma once

#include <string_view>
#include <utility>

#include <polyak/average/ema.hpp>
#include <polyak/average/ema_bank.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/hare_tortoise.hpp>
#include <polyak/average/lawa.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/average/sample_ema.hpp>
#include <polyak/average/schedules/weighting.hpp>
#include <polyak/average/swa.hpp>
#include <polyak/average/switch_ema.hpp>
#include <polyak/average/tail.hpp>
#include <polyak/average/window_average.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/ademamix.hpp>
#include <polyak/optim/lion.hpp>
#include <polyak/optim/schedule_free_adamw.hpp>
#include <polyak/optim/schedule_free_sgd.hpp>
#include <polyak/optim/sgd.hpp>
#if !defined(__CUDACC__)  // on the host alone
#include <polyak/average/aswa.hpp>
#include <polyak/average/cotta.hpp>
#endif

namespace methods {

/// What there is to know of a method, or of a variant of it, besides its type.
struct Method {
  std::string_view name;    ///< what the README calls it, then what is special
  std::string_view header;  ///< below include/polyak
  bool one_clock = false;   ///< some of its scalars count the optimizer's steps, not the tensor's
  bool by_tensor = false;   ///< its results depend on how tensors divide the memory
  bool scheduled = false;   ///< some of its scalars follow a schedule, which no reset restarts
  /// Why its result for one tensor depends on the others that it owns; empty where it does not.
  std::string_view couples = {};
  /// Why tests/golden holds no recorded run of it; empty where it does.
  std::string_view unrecorded = {};

  /// The name in the README.
  [[nodiscard]] constexpr std::string_view title() const { return name.substr(0, name.find(' ')); }
};

/// Calls use(method, make) for the optimizers; make(params) gives one with state of type S, and
/// make(params, selection) one that owns the tensors of a selection alone. The selection is a pack,
/// because nvcc 13 crashes where it is an argument with a default.
template <class S, class Use>
void for_each_optimizer(Use&& use) {
  using namespace polyak;
  const Method sgd{.name = "Sgd", .header = "optim/sgd.hpp"};
  const Method adamw{.name = "AdamW", .header = "optim/adamw.hpp"};
  const Method ademamix{.name = "AdEMAMix", .header = "optim/ademamix.hpp"};
  const auto variant = [](Method method, std::string_view name) {
    method.name = name;
    return method;
  };

  use(sgd, []<class P>(const Parameters<P>& p, const auto&... s) {
    return Sgd<P, S>(p, {.learning_rate = 0.1}, s...);
  });
  use(variant(sgd, "Sgd coupled"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return Sgd<P, S>(p, {.learning_rate = 0.1, .coupled_weight_decay = 0.1}, s...);
  });
  use(variant(sgd, "Sgd momentum"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return Sgd<P, S>(
        p, {.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1}, s...);
  });
  use(variant(sgd, "Sgd Nesterov"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return Sgd<P, S>(p, {.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}, s...);
  });
  use(adamw, []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdamW<P, S>(p, {.learning_rate = 0.1}, s...);
  });
  use(variant(adamw, "AdamW coupled"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdamW<P, S>(p,
                       {.learning_rate = 0.1,
                        .coupled_weight_decay = 0.1,
                        .bias_correction = false,
                        .epsilon_before_correction = true},
                       s...);
  });
  use(variant(adamw, "AdamW amsgrad"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdamW<P, S>(p, {.learning_rate = 0.1, .beta2 = 0.5, .amsgrad = true}, s...);
  });
  use(variant(adamw, "AdamW beta1 = 0"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdamW<P, S>(p, {.learning_rate = 0.1, .beta1 = 0}, s...);
  });
  use(variant(adamw, "AdamW beta1 = 0, amsgrad, epsilon = 0"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return AdamW<P, S>(p,
                           {.learning_rate = 0.1,
                            .beta1 = 0,
                            .beta2 = 0.5,
                            .epsilon = 0,
                            .amsgrad = true,
                            .allow_zero_epsilon = true},
                           s...);
      });
  use(variant(adamw, "Adam"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return Adam<P, S>(p, {.learning_rate = 0.1}, s...);
  });
  use(ademamix, []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdEMAMix<P, S>(p, {.learning_rate = 0.1, .weight_decay = 0.1}, s...);
  });
  Method scheduled = ademamix;
  scheduled.scheduled = true;
  use(variant(scheduled, "AdEMAMix with schedules"), []<class P>(const Parameters<P>& p,
                                                                 const auto&... s) {
    return AdEMAMix<P, S>(p, {.learning_rate = 0.1, .alpha_warmup = 5, .beta3_warmup = 7}, s...);
  });
  use(variant(scheduled, "AdEMAMix beta1 = 0"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return AdEMAMix<P, S>(p, {.learning_rate = 0.1, .beta1 = 0, .beta3_warmup = 4}, s...);
      });
  use(variant(ademamix, "AdEMAMix epsilon = 0"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return AdEMAMix<P, S>(p, {.learning_rate = 0.1, .epsilon = 0, .allow_zero_epsilon = true},
                              s...);
      });
  use(variant(ademamix, "AdEMAMix beta1 = 0, epsilon = 0"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return AdEMAMix<P, S>(
            p, {.learning_rate = 0.1, .beta1 = 0, .epsilon = 0, .allow_zero_epsilon = true}, s...);
      });
#if !defined(__FAST_MATH__)  // which removes the compensation
  use(variant(ademamix, "AdEMAMix kahan"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return AdEMAMix<P, S>(
        p, {.learning_rate = 0.1, .beta3 = 0.999999, .accumulate_slow = Accumulate::kahan}, s...);
  });
  use(variant(ademamix, "AdEMAMix beta1 = 0, kahan"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return AdEMAMix<P, S>(
            p, {.learning_rate = 0.1, .beta1 = 0, .accumulate_slow = Accumulate::kahan}, s...);
      });
#endif
  use({.name = "Lion", .header = "optim/lion.hpp"},
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return Lion<P, S>(p, {.learning_rate = 0.01, .weight_decay = 0.1}, s...);
      });
}

/// The same for the Schedule-Free optimizers, whose averaging weights have one clock.
template <class S, class Use>
void for_each_schedule_free(Use&& use) {
  using namespace polyak;
  const auto sgd = [](std::string_view name) {
    return Method{.name = name, .header = "optim/schedule_free_sgd.hpp", .one_clock = true};
  };
  const auto adamw = [](std::string_view name) {
    return Method{.name = name, .header = "optim/schedule_free_adamw.hpp", .one_clock = true};
  };
  use(sgd("ScheduleFreeSgd"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return ScheduleFreeSgd<P, S>(p, {.learning_rate = 0.5}, s...);
  });
  use(sgd("ScheduleFreeSgd with warmup"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return ScheduleFreeSgd<P, S>(p,
                                 {.learning_rate = 0.5,
                                  .warmup_steps = 5,
                                  .weight_decay = 0.1,
                                  .r = 1,
                                  .average_weight = AverageWeight::learning_rate},
                                 s...);
  });
  use(adamw("ScheduleFreeAdamW"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return ScheduleFreeAdamW<P, S>(p, {.learning_rate = 0.1}, s...);
  });
  use(adamw("ScheduleFreeAdamW decay at z"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return ScheduleFreeAdamW<P, S>(p,
                                   {.learning_rate = 0.1,
                                    .warmup_steps = 4,
                                    .weight_decay = 0.1,
                                    .decay_at_z = true,
                                    .bias_correction_in_lr = true},
                                   s...);
  });
  use(adamw("ScheduleFreeAdamW momentum"), []<class P>(const Parameters<P>& p, const auto&... s) {
    return ScheduleFreeAdamW<P, S>(
        p, {.learning_rate = 0.1, .inner_momentum = 0.7, .weight_decay = 0.1}, s...);
  });
  use(adamw("ScheduleFreeAdamW momentum, decay at z"),
      []<class P>(const Parameters<P>& p, const auto&... s) {
        return ScheduleFreeAdamW<P, S>(p,
                                       {.learning_rate = 0.1,
                                        .inner_momentum = 0.7,
                                        .weight_decay = 0.1,
                                        .decay_at_z = true,
                                        .r = 2},
                                       s...);
      });
}

/// The same for the averages of one gain per call, stored in type S as `accumulate` says.
template <class S, class Use>
void for_each_average(Use&& use, polyak::Accumulate accumulate = polyak::Accumulate::plain) {
  using namespace polyak;
  const auto ema = [](std::string_view name) {
    return Method{.name = name, .header = "average/ema.hpp"};
  };
  const auto tortoise = [](std::string_view name) {
    return Method{.name = name, .header = "average/hare_tortoise.hpp"};
  };
  use({.name = "Average", .header = "average/schedules/weighting.hpp"}, [accumulate]<class P>(
                                                                            const Parameters<P>& p,
                                                                            const auto&... s) {
    return Average<P, PolynomialWeighting, S>(p, {3}, Nonfinite::propagate, {accumulate, 0, s...});
  });
  use({.name = "Swa", .header = "average/swa.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Swa<P, S>(p, {.accumulate = accumulate}, s...);
      });
  use({.name = "Swa later", .header = "average/swa.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Swa<P, S>(p, {.start = 3, .period = 2, .accumulate = accumulate}, s...);
      });
  use(ema("Ema"), [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
    return Ema<P, S>(p, {.decay = 0.75, .accumulate = accumulate, .seed = 0x123456789}, s...);
  });
  use(ema("Ema from the first update"),
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Ema<P, S>(p, {.decay = 0.75, .start = Start::first_update, .accumulate = accumulate},
                         s...);
      });
  use(ema("Ema debiased"), [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
    return Ema<P, S>(p, {.decay = 0.75, .start = Start::zero_debiased, .accumulate = accumulate},
                     s...);
  });
  use(ema("Ema of every other call"),
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Ema<P, S>(p, {.decay = 0.75, .update_every = 2, .accumulate = accumulate}, s...);
      });
  use({.name = "PowerEma of gamma", .header = "average/power_ema.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return PowerEma<P, S>(p, {.gamma = 3, .accumulate = accumulate}, s...);
      });
  use({.name = "PowerEma of sigma_rel", .header = "average/power_ema.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return PowerEma<P, S>(
            p, {.sigma_rel = 0.1, .batch_size = 32, .update_every = 3, .accumulate = accumulate},
            s...);
      });
  use({.name = "SampleEma", .header = "average/sample_ema.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return SampleEma<P, S>(p, {.half_life = 2, .accumulate = accumulate}, s...);
      });
  use({.name = "Tail", .header = "average/tail.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Tail<P, S>(p, {.start = 3, .accumulate = accumulate}, s...);
      });
  use({.name = "SwitchEma of iterations", .header = "average/switch_ema.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return SwitchEma<P, S>(p,
                               {.decay = 0.75,
                                .unit = SwitchUnit::iterations,
                                .interval = 3,
                                .start = 1,
                                .warmup = SwitchWarmup::linear,
                                .warmup_iterations = 4,
                                .accumulate = accumulate},
                               s...);
      });
  use({.name = "SwitchEma of epochs", .header = "average/switch_ema.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return SwitchEma<P, S>(p, {.decay = 0.75, .accumulate = accumulate}, s...);
      });
  use(tortoise("HareTortoise"), [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
    return HareTortoise<P, S>(p, {.decay = 0.75, .switch_every = 2, .accumulate = accumulate},
                              s...);
  });
  use(tortoise("HareTortoise blending"),
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return HareTortoise<P, S>(p,
                                  {.decay = 0.75,
                                   .switch_every = 4,
                                   .blend = 0.25,
                                   .update_after = 2,
                                   .update_every = 2,
                                   .accumulate = accumulate},
                                  s...);
      });
  use(tortoise("HareTortoise switching between updates"),
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return HareTortoise<P, S>(
            p, {.decay = 0.75, .switch_every = 2, .update_every = 3, .accumulate = accumulate},
            s...);
      });
  use(tortoise("HareTortoise blending between updates"),
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return HareTortoise<P, S>(p,
                                  {.decay = 0.75,
                                   .switch_every = 3,
                                   .blend = 0.5,
                                   .update_every = 2,
                                   .accumulate = accumulate},
                                  s...);
      });
}

/// The same for the averages with more than one gain, with blocks of their own, or that look at
/// whole tensors.
template <class S, class Use>
void for_each_window(Use&& use, polyak::Accumulate accumulate = polyak::Accumulate::plain) {
  using namespace polyak;
  use({.name = "EmaBank", .header = "average/ema_bank.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return EmaBank<P, 3, S>(
            p, {0.75, 0.0, 0.9},
            {.start = Start::first_update, .update_every = 2, .accumulate = accumulate, .seed = 5},
            s...);
      });
  use({.name = "Lawa", .header = "average/lawa.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Lawa<P, S>(p, {.checkpoints = 5, .accumulate = accumulate}, s...);
      });
  use({.name = "Lawa with a running mean", .header = "average/lawa.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Lawa<P, S>(p, {.checkpoints = 3, .running_mean = true, .accumulate = accumulate},
                          s...);
      });
  use({.name = "WindowAverage", .header = "average/window_average.hpp"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return WindowAverage<P, S>(
            p, {.horizon = 4, .interval = 2, .blocks = 1, .accumulate = accumulate}, s...);
      });
#if !defined(__CUDACC__)
  use({.name = "CottaTeacher", .header = "average/cotta.hpp", .by_tensor = true},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return CottaTeacher<P, S>(
            p, {.decay = 0.75, .restore_probability = 0.2, .accumulate = accumulate}, s...);
      });
  use({.name = "Aswa",
       .header = "average/aswa.hpp",
       .by_tensor = true,
       .couples = "it accepts an iterate by the norm of all its tensors"},
      [accumulate]<class P>(const Parameters<P>& p, const auto&... s) {
        return Aswa<P, S>(p, {.filter = AswaFilter::mean_norm, .accumulate = accumulate}, s...);
      });
#endif
}

/// All of them.
template <class S, class Use>
void for_each(Use&& use) {
  for_each_optimizer<S>(use);
  for_each_schedule_free<S>(use);
  for_each_average<S>(use);
  for_each_window<S>(use);
}

/// What the README lists besides: functions, estimators, and parts that methods share. They have
/// tests of their own.
inline constexpr Method others[] = {
    {.name = "PosthocEma", .header = "average/posthoc.hpp"},
    {.name = "BatchNormEstimator", .header = "average/batch_norm.hpp"},
    {.name = "soft_update", .header = "average/soft_update.hpp"},
    {.name = "make_average",
     .header = "average/by_name.hpp",
     .unrecorded = "it makes the averages that are recorded"},
    {.name = "Average of a decay schedule", .header = "average/schedules/decay_schedule.hpp"},
    {.name = "linear_warmup", .header = "optim/learning_rate.hpp"},
    {.name = "cosine", .header = "optim/learning_rate.hpp"},
    {.name = "constant_with_cooldown", .header = "optim/learning_rate.hpp"},
    {.name = "polynomial",
     .header = "optim/learning_rate.hpp",
     .unrecorded = "a closed form, which its test has"},
    {.name = "inverse_square_root",
     .header = "optim/learning_rate.hpp",
     .unrecorded = "a closed form, which its test has"},
    {.name = "piecewise",
     .header = "optim/learning_rate.hpp",
     .unrecorded = "a closed form, which its test has"},
    {.name = "one_cycle",
     .header = "optim/one_cycle.hpp",
     .unrecorded = "a closed form, which its test has"},
    {.name = "SwaLearningRate", .header = "optim/swa_learning_rate.hpp"},
    {.name = "swa_constant", .header = "optim/swa_learning_rate.hpp"},
    {.name = "swa_cyclic", .header = "optim/swa_learning_rate.hpp"},
    {.name = "make_optimizer",
     .header = "optim/by_name.hpp",
     .unrecorded = "it makes the optimizers that are recorded"},
    {.name = "Elementwise", .header = "optim/elementwise.hpp", .unrecorded = "a base class"},
    {.name = "ScheduleFree", .header = "optim/schedule_free.hpp", .unrecorded = "a base class"},
    {.name = "ScheduleFreeView",
     .header = "optim/schedule_free_view.hpp",
     .unrecorded = "it reads the average that the golden files compare through a copy"},
    {.name = "AnnealStrategy",
     .header = "optim/anneal.hpp",
     .unrecorded = "a part of learning-rate schedules"},
    {.name = "ScheduledNumbers",
     .header = "optim/scheduled_numbers.hpp",
     .unrecorded = "a part of optimizers"},
    {.name = "TensorGroups",
     .header = "optim/tensor_groups.hpp",
     .unrecorded = "no reference has groups with factors"},
    {.name = "WeightRests",
     .header = "optim/weight_digits.hpp",
     .unrecorded = "no reference keeps the digits of 16-bit weights"},
    {.name = "average_n", .header = "merge/linear.hpp"},
    {.name = "merge_as_decay", .header = "merge/merge_as_decay.hpp"},
    {.name = "fit_profiles", .header = "average/analysis/profile_fit.hpp"},
    {.name = "reconstruct",
     .header = "io/reconstruct.hpp",
     .unrecorded = "it applies the weights of fit_profiles to files"},
    {.name = "effective_samples", .header = "average/analysis/weight_statistics.hpp"},
    {.name = "half_life", .header = "average/schedules/conversions.hpp"},
};

/// The type of a method of parameters of type P.
template <class P, class Make>
using made_t = decltype(std::declval<const Make&>()(std::declval<const polyak::Parameters<P>&>()));

}  // namespace methods
