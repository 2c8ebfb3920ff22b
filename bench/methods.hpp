// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <polyak/polyak.hpp>
#include <vector>

#include "eigen_peer.hpp"
#include "ensemble.hpp"

namespace polyak_bench {

// Small enough for thousands of steps along the same gradients.
inline constexpr double learning_rate = 1e-6;
inline constexpr double weight_decay = 0.01;
inline constexpr double decay = 0.999;

inline Subject against_eigen(Subject subject, bool adamw, std::size_t averages) {
  const EigenPeer::Options options{.adamw = adamw,
                                   .averages = averages,
                                   .learning_rate = static_cast<float>(learning_rate),
                                   .beta1 = 0.9F,
                                   .beta2 = 0.999F,
                                   .epsilon = 1e-8F,
                                   .weight_decay = static_cast<float>(weight_decay),
                                   .decay = static_cast<float>(decay)};
  subject.make_eigen = [options](const Case& tensors) -> Pass {
    const auto peer =
        std::make_shared<EigenPeer>(tensors, options, parameter_scale, gradient_scale);
    return [peer] { peer->step(); };
  };
  return subject;
}

/// The reconstruction of an average from 8 snapshots in memory: two widths at four times.
inline Subject posthoc_ema() {
  const auto posthoc_pass = [](const Case& tensors) -> Pass {
    struct State {
      explicit State(const Case& tensors) : model(tensors) {
        polyak::PowerEma sharp(model.parameters, {.sigma_rel = 0.05});
        polyak::PowerEma smooth(model.parameters, {.sigma_rel = 0.10});
        for (std::size_t i = 0; i < summed_streams / 2; ++i) {
          polyak::update(model.parameters, sharp, smooth);
          posthoc.snapshot(sharp, smooth);
        }
        solution = posthoc.solve({.sigma_rel = 0.15});
      }
      Model model;
      polyak::PosthocEma<float> posthoc;
      polyak::PosthocSolution solution;
    };
    const auto state = std::make_shared<State>(tensors);
    return [state] { state->posthoc.reconstruct(state->solution, state->model.parameters); };
  };
  return {"posthoc_ema", summed_streams + 1, posthoc_pass, limit_sum_pass,
          [](const Case&) { return true; }};
}

/// Every method of the library, alone and in the combinations that people use. The number after
/// the name is the state that a step reads and writes, in floats per parameter.
inline std::vector<Subject> all_subjects() {
  using List = polyak::Parameters<float>;
  const Part sgd_plain{"sgd_plain", 0, [](const List& list) {
                         return polyak::Sgd(list, {.learning_rate = learning_rate});
                       }};
  const Part sgd{"sgd", 1, [](const List& list) {
                   return polyak::Sgd(list, {.learning_rate = learning_rate, .momentum = 0.9});
                 }};
  const Part adamw{"adamw", 2, [](const List& list) {
                     return polyak::AdamW(
                         list, {.learning_rate = learning_rate, .weight_decay = weight_decay});
                   }};
  const Part adam_amsgrad{"adam_amsgrad", 3, [](const List& list) {
                            return polyak::Adam(list,
                                                {.learning_rate = learning_rate, .amsgrad = true});
                          }};
  const Part ademamix{"ademamix", 3, [](const List& list) {
                        return polyak::AdEMAMix(list, {.learning_rate = learning_rate});
                      }};
  const Part ademamix_beta1_0{"ademamix_beta1_0", 2, [](const List& list) {
                                return polyak::AdEMAMix(
                                    list, {.learning_rate = learning_rate, .beta1 = 0});
                              }};
  const Part schedule_free_sgd{"schedule_free_sgd", 1, [](const List& list) {
                                 return polyak::ScheduleFreeSgd(list,
                                                                {.learning_rate = learning_rate});
                               }};
  const Part schedule_free_adamw{"schedule_free_adamw", 2, [](const List& list) {
                                   return polyak::ScheduleFreeAdamW(
                                       list, {.learning_rate = learning_rate});
                                 }};
  const Part swa{"swa", 1, [](const List& list) { return polyak::Swa(list); }};
  const Part ema{"ema", 1, [](const List& list) { return polyak::Ema(list, {.decay = decay}); }};
  const Part power_ema{"power_ema", 1,
                       [](const List& list) { return polyak::PowerEma(list, {.sigma_rel = 0.1}); }};
  const Part switch_ema{"switch_ema", 1,
                        [](const List& list) { return polyak::SwitchEma(list, {.decay = decay}); }};
  const Part hare_tortoise{"hare_tortoise", 1, [](const List& list) {
                             return polyak::HareTortoise(list, {.decay = decay});
                           }};
  return {subject(sgd_plain),
          subject(sgd),
          against_eigen(subject(adamw), true, 0),
          subject(adam_amsgrad),
          subject(ademamix),
          subject(ademamix_beta1_0),
          subject(schedule_free_sgd),
          subject(schedule_free_adamw),
          subject(swa),
          against_eigen(subject(ema), false, 1),
          subject(power_ema),
          subject(switch_ema),
          subject(hare_tortoise),
          posthoc_ema(),
          subject(sgd, ema),
          against_eigen(subject(adamw, ema), true, 1),
          against_eigen(subject(adamw, ema, ema), true, 2),
          subject(adamw, power_ema, power_ema),
          subject(ademamix, ema),
          subject(schedule_free_adamw, ema),
          subject(ema, ema),
          subject(power_ema, power_ema)};
}

}  // namespace polyak_bench
