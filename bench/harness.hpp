// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "racer.hpp"

namespace polyak_bench {

/// Seconds for `passes` passes.
inline double time_passes(Racer& racer, std::size_t passes) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < passes; ++i) racer.pass();
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  return elapsed.count();
}

/// A racer and how often it runs in a round, which lasts a millisecond if its passes are shorter.
struct Contestant {
  std::unique_ptr<Racer> racer;
  std::size_t passes = 1;

  explicit Contestant(std::unique_ptr<Racer> some) : racer(std::move(some)) {
    constexpr double round = 1e-3, enough = 1e-4;
    time_passes(*racer, 2);  // first touch, and first steps that are not like the others
    std::size_t tried = 1;
    double elapsed = time_passes(*racer, tried);
    while (elapsed < enough) elapsed = time_passes(*racer, tried *= 2);
    const double wanted = round / elapsed * static_cast<double>(tried);
    passes = wanted < 1 ? 1 : static_cast<std::size_t>(wanted) + 1;
  }

  /// A pass that is not timed, unless a single one is too large for any cache.
  void warm() const {
    if (passes > 1) racer->pass();
  }
  /// Seconds per pass.
  [[nodiscard]] double timed() const {
    return time_passes(*racer, passes) / static_cast<double>(passes);
  }
  [[nodiscard]] double round() const {
    warm();
    return timed();
  }
};

/// The competitors of one benchmark.
struct Contest {
  Contestant method;
  Contestant limit;
  std::vector<std::pair<std::string, Contestant>> peers;  ///< by counter
  double bytes = 0;                                       ///< that one pass must read and write
  std::size_t tensors = 1;
  bool small = false;  ///< the time of a call matters by itself
};

/// Builds the contest when its benchmark is run; the library calls a benchmark several times, so
/// the last contest is kept, and its memory with it, until another one is asked for.
class Stage {
 public:
  Contest& operator()(const std::string& name, const std::function<Contest()>& build) {
    if (name != name_) {
      contest_.reset();
#ifdef __GLIBC__
      malloc_trim(0);  // whatever the heap was told to keep
#endif
      contest_ = std::make_unique<Contest>(build());
      name_ = name;
    }
    return *contest_;
  }

 private:
  std::string name_;
  std::unique_ptr<Contest> contest_;
};

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Rounds of the method, the limit kernel and the peers in turn, so that all meet the same
/// conditions; the counters are ratios of the medians. Each round begins with another of them:
/// otherwise other work on the machine could disturb the same one every time. Only the method's
/// rounds count as the benchmark's time.
inline void run_contest(benchmark::State& state, const Contest& contest) {
  constexpr std::size_t fewest_rounds = 5;
  std::vector<const Contestant*> others{&contest.limit};
  for (const auto& [counter, peer] : contest.peers) others.push_back(&peer);
  std::vector<double> method;
  std::vector<std::vector<double>> times(others.size());
  const auto run = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) times[i].push_back(others[i]->round());
  };
  const auto before = [&] { return method.size() % (others.size() + 1); };
  while (state.KeepRunningBatch(static_cast<benchmark::IterationCount>(contest.method.passes))) {
    state.PauseTiming();
    const std::size_t first = before();
    run(0, first);
    contest.method.warm();
    state.ResumeTiming();
    method.push_back(contest.method.timed());
    state.PauseTiming();
    run(first, others.size());
    state.ResumeTiming();
  }
  while (method.size() < fewest_rounds) {  // a pass may be longer than the benchmark's time
    const std::size_t first = before();
    run(0, first);
    method.push_back(contest.method.round());
    run(first, others.size());
  }
  const double own = median(method);
  state.counters["bytes_per_second"] = contest.bytes / own;
  state.counters["of_limit"] = median(times[0]) / own;
  for (std::size_t i = 0; i < contest.peers.size(); ++i) {
    state.counters[contest.peers[i].first] = median(times[i + 1]) / own;
  }
  if (!contest.small) return;
  state.counters["ns_per_call"] = own * 1e9;
  if (contest.tensors > 1) {
    state.counters["ns_per_tensor"] = own * 1e9 / static_cast<double>(contest.tensors);
  }
}

}  // namespace polyak_bench
