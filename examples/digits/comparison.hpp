// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <polyak/polyak.hpp>
#include <stdexcept>
#include <string>

#include "data.hpp"
#include "network.hpp"
#include "training.hpp"

namespace digits {

/// Whose weights are scored.
enum Row : std::size_t { last, swa, ema, switch_last, switch_ema, tail, row_count };
inline constexpr std::array<const char*, row_count> names{
    "last iterate", "SWA", "EMA", "Switch EMA: last iterate", "Switch EMA: average", "tail"};

using Scores = std::array<Score, row_count>;  ///< of one seed

/// How many iterations there are, and which of them the averages take.
struct Plan {
  std::int64_t iterations, cycle, swa_first, tail_first;

  /// Throws std::invalid_argument where there would be no batch, or nothing for SWA.
  Plan(const Settings& settings, const Digits& data) {
    const std::int64_t epoch = data.size() / settings.batch;
    if (epoch < 1) {
      throw std::invalid_argument("--batch must not be above the number of digits to learn from, " +
                                  std::to_string(data.size()));
    }
    iterations = epoch * settings.epochs;
    const auto part = [this](double share) {
      return static_cast<std::int64_t>(share * static_cast<double>(iterations));
    };
    cycle = settings.cycle == 0 ? epoch : settings.cycle;
    swa_first = (part(settings.swa_start) / cycle + 1) * cycle;
    tail_first = part(1 - settings.tail) + 1;
    if (swa_first > iterations) {
      throw std::invalid_argument("--cycle must let a cycle end after --swa-start of the " +
                                  std::to_string(iterations) + " iterations; it is " +
                                  std::to_string(cycle));
    }
  }
};

/// Two runs: SwitchEma changes the weights, so the other averages cannot share its run.
inline Scores train(const Digits& data, const Digits& test, const Settings& settings,
                    const Plan& plan, bool cyclic, std::uint64_t seed) {
  const Schedule schedule{cyclic, settings.learning_rate, settings.final_rate, plan.cycle};
  Scores scores;
  {
    Training run(data, settings, schedule, seed);
    polyak::Swa swa_average(run.parameters(), {.start = plan.swa_first, .period = plan.cycle});
    polyak::Ema ema_average(run.parameters(), {.decay = settings.decay});
    polyak::Tail tail_average(run.parameters(), {.start = plan.tail_first});
    for (int k = 0; k < settings.epochs; ++k) run.epoch(swa_average, ema_average, tail_average);
    scores[last] = run.score(test);
    scores[swa] = run.score(test, swa_average);
    scores[ema] = run.score(test, ema_average);
    scores[tail] = run.score(test, tail_average);
  }
  Training run(data, settings, schedule, seed);
  polyak::SwitchEma average(run.parameters(), {.decay = settings.switch_decay});
  for (int k = 0; k < settings.epochs; ++k) {
    average.begin_epoch(run.parameters());  // the weights become the average, but for the first
    run.epoch(average);
  }
  scores[switch_last] = run.score(test);
  scores[switch_ema] = run.score(test, average);
  return scores;
}

}  // namespace digits
