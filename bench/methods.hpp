// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <polyak/polyak.hpp>
#include <utility>
#include <vector>

#include "average_n.hpp"
#include "ensemble.hpp"
#include "limit.hpp"
#include "peers.hpp"
#include "posthoc.hpp"
#include "reduce.hpp"
#include "storage.hpp"
#include "weights.hpp"
#include "windows.hpp"

namespace polyak_bench {

inline constexpr double decay = 0.999;

/// The subject against the same as Eigen statements.
inline Subject against_eigen(Subject subject, PeerMethod method, std::size_t averages) {
  const PeerOptions options{method, averages, decay};
  subject.peers.push_back(
      {.counter = "vs_eigen",
       .make = [options](const Setting& setting) { return eigen_peer(setting, options); },
       .frugal = true});
  return subject;
}

/// The subject, AdamW or nothing and averages, against everybody.
inline Subject against_all(Subject subject, PeerMethod method, std::size_t averages) {
  const PeerOptions options{method, averages, decay};
  subject = against_eigen(std::move(subject), method, averages);
  subject.peers.push_back({.counter = "vs_plain", .make = [options](const Setting& setting) {
                             return plain_peer(setting, options);
                           }});
#ifdef POLYAK_BENCH_TORCH
  const auto torch = [options](bool foreach) {
    return [options, foreach](const Setting& setting) {
      return torch_peer(setting, options, foreach);
    };
  };
  subject.peers.push_back({.counter = "vs_torch", .make = torch(false), .threaded = true});
  if (method == PeerMethod::none) {
    subject.peers.push_back({.counter = "vs_torch_foreach", .make = torch(true), .threaded = true});
  }
#endif
  return subject;
}

/// Every method of the library, alone and in the combinations that people use.
inline std::vector<Subject> all_subjects() {
  using List = polyak::Parameters<float>;
  const Optimizes sgd_plain{"sgd_plain", LimitMethod::sgd_plain, [](const List& list, double rate) {
                              return polyak::Sgd(list, {.learning_rate = rate});
                            }};
  const Optimizes sgd{"sgd", LimitMethod::sgd, [](const List& list, double rate) {
                        return polyak::Sgd(list, {.learning_rate = rate, .momentum = sgd_momentum});
                      }};
  const Optimizes adamw{"adamw", LimitMethod::adamw, [](const List& list, double rate) {
                          return polyak::AdamW(
                              list, {.learning_rate = rate, .weight_decay = adamw_weight_decay});
                        }};
  const Optimizes adam_amsgrad{
      "adam_amsgrad", LimitMethod::adam_amsgrad, [](const List& list, double rate) {
        return polyak::Adam(list, {.learning_rate = rate, .amsgrad = true});
      }};
  const Optimizes lion{"lion", LimitMethod::lion, [](const List& list, double rate) {
                         return polyak::Lion(list, {.learning_rate = rate});
                       }};
  const Optimizes ademamix{"ademamix", LimitMethod::ademamix, [](const List& list, double rate) {
                             return polyak::AdEMAMix(list, {.learning_rate = rate});
                           }};
  const Optimizes ademamix_beta1_0{
      "ademamix_beta1_0", LimitMethod::ademamix_beta1_0, [](const List& list, double rate) {
        return polyak::AdEMAMix(list, {.learning_rate = rate, .beta1 = 0});
      }};
  const Optimizes schedule_free_sgd{"schedule_free_sgd", LimitMethod::schedule_free_sgd,
                                    [](const List& list, double rate) {
                                      return polyak::ScheduleFreeSgd(list, {.learning_rate = rate});
                                    }};
  const Optimizes schedule_free_adamw{
      "schedule_free_adamw", LimitMethod::schedule_free_adamw, [](const List& list, double rate) {
        return polyak::ScheduleFreeAdamW(list, {.learning_rate = rate});
      }};
  const Averages swa{"swa", [](long t) { return 1 / static_cast<double>(t); },
                     [](const List& list) { return polyak::Swa(list); }};
  const Gain exponential = [](long) { return 1 - decay; };
  const Averages ema{"ema", exponential,
                     [](const List& list) { return polyak::Ema(list, {.decay = decay}); }};
  const Averages power_ema{"power_ema",
                           [](long t) { return 1 - std::pow(1 - 1 / static_cast<double>(t), 7.0); },
                           [](const List& list) { return polyak::PowerEma(list, {.gamma = 6}); }};
  const Averages switch_ema{"switch_ema", exponential, [](const List& list) {
                              return polyak::SwitchEma(list, {.decay = decay});
                            }};
  const Averages hare_tortoise{
      "hare_tortoise",
      [](long t) { return std::fmax(std::pow(static_cast<double>(t), -2.0 / 3), 1 - decay); },
      [](const List& list) { return polyak::HareTortoise(list, {.decay = decay}); }};
  const Averages aswa{"aswa", [](long t) { return 1 / static_cast<double>(t); },
                      [](const List& list) { return polyak::Aswa(list); }};
  const Averages tail{"tail", [](long t) { return t < 4 ? 1 : 1 / static_cast<double>(t - 3); },
                      [](const List& list) { return polyak::Tail(list, {.start = 4}); }};
  const Averages sample_ema{"sample_ema", [](long) { return 1 - std::exp2(-32 / 22'000.0); },
                            [](const List& list) {
                              return polyak::SampleEma(list,
                                                       {.half_life = 22'000, .batch_size = 32});
                            }};
  const Averages average{
      "average_polynomial", [](long t) { return 9 / (static_cast<double>(t) + 8); },
      [](const List& list) {
        return polyak::Average<float, polyak::PolynomialWeighting>(list, {.eta = 8});
      }};
  std::vector<Subject> subjects{
      subject(sgd_plain),
      subject(sgd),
      against_all(subject(adamw), PeerMethod::adamw, 0),
      subject(adam_amsgrad),
      subject(lion),
      against_eigen(subject(ademamix), PeerMethod::ademamix, 0),
      subject(ademamix_beta1_0),
      subject(schedule_free_sgd),
      against_eigen(subject(schedule_free_adamw), PeerMethod::schedule_free_adamw, 0),
      subject(swa),
      against_all(subject(ema), PeerMethod::none, 1),
      subject(power_ema),
      subject(switch_ema),
      subject(hare_tortoise),
      subject(aswa),
      subject(tail),
      subject(sample_ema),
      subject(average),
      posthoc_ema(),
      subject(sgd, ema),
      against_all(subject(adamw, ema), PeerMethod::adamw, 1),
      against_all(subject(adamw, ema, ema), PeerMethod::adamw, 2),
      subject(adamw, power_ema, power_ema),
      subject(adamw, ema, power_ema, power_ema),
      against_eigen(subject(ademamix, ema), PeerMethod::ademamix, 1),
      against_eigen(subject(schedule_free_adamw, ema), PeerMethod::schedule_free_adamw, 1),
      against_all(subject(ema, ema), PeerMethod::none, 2),
      subject(power_ema, power_ema),
      subject(ema, power_ema, power_ema)};
  append_average_n(subjects);
  append_reduce(subjects);
  append_storage(subjects);
  append_weights(subjects);
  append_windows(subjects);
  return subjects;
}

}  // namespace polyak_bench
