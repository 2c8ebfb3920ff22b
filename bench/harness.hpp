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

namespace polyak_bench {

/// One pass over all elements of a case.
using Pass = std::function<void()>;

/// What one benchmark compares: each pass owns its data.
struct Contest {
  Pass method;
  Pass limit;
  std::vector<std::pair<std::string, Pass>> peers;  ///< counter name, pass
  double bytes = 0;                                 ///< that one pass must read and write
  std::size_t passes = 1;                           ///< per timed round
};

/// Builds the contest when its benchmark is run; the library calls a benchmark several times, so
/// the last contest is kept, and its memory with it, until another one is asked for.
class Stage {
 public:
  Contest& operator()(const std::string& name, const std::function<Contest()>& build) {
    if (name != name_) {
      contest_.reset();
      contest_ = std::make_unique<Contest>(build());
      name_ = name;
    }
    return *contest_;
  }

 private:
  std::string name_;
  std::unique_ptr<Contest> contest_;
};

/// Seconds per pass.
inline double time_round(const Pass& pass, std::size_t passes) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < passes; ++i) pass();
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  return elapsed.count() / static_cast<double>(passes);
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Rounds of the method, the limit kernel and the peers in turn, so that all meet the same
/// conditions; the counters are ratios of the medians. Only the method's rounds count as the
/// benchmark's time.
inline void run_contest(benchmark::State& state, const Contest& contest) {
  std::vector<double> method, limit;
  std::vector<std::vector<double>> peers(contest.peers.size());
  const auto warm = [&](const Pass& pass) {  // rounds of one pass are too large for any cache
    if (contest.passes > 1) pass();
  };
  contest.method();  // never timed: first touch, and first steps that are not like the others
  contest.method();
  contest.limit();
  for (const auto& [name, pass] : contest.peers) pass();
  while (state.KeepRunningBatch(static_cast<benchmark::IterationCount>(contest.passes))) {
    state.PauseTiming();
    warm(contest.limit);
    limit.push_back(time_round(contest.limit, contest.passes));
    for (std::size_t i = 0; i < peers.size(); ++i) {
      warm(contest.peers[i].second);
      peers[i].push_back(time_round(contest.peers[i].second, contest.passes));
    }
    warm(contest.method);
    state.ResumeTiming();
    method.push_back(time_round(contest.method, contest.passes));
  }
  const double own = median(method);
  state.counters["bytes_per_second"] = contest.bytes / own;
  state.counters["of_limit"] = median(limit) / own;
  for (std::size_t i = 0; i < peers.size(); ++i) {
    state.counters[contest.peers[i].first] = median(peers[i]) / own;
  }
}

}  // namespace polyak_bench
