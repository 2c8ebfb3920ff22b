// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace char_lm {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Shows how training goes: one line that is rewritten in place on a terminal, a line every tenth
/// of a run elsewhere.
class Progress {
 public:
  Progress(int runs, std::int64_t steps_per_run);

  void begin_run(const std::string& name);

  /// Reports one more step, the loss of its batch, and how long the run's steps took until now:
  /// evaluations left out.
  void advance(double batch_loss, double training_seconds);

  /// Training is over, the final losses are being computed.
  void begin_evaluation();

  /// Replaces the line by one that stays.
  void end_run(double best_validation_loss);

 private:
  std::string line() const;

  bool terminal_;
  int runs_;
  std::int64_t steps_;
  int run_ = 0;
  std::string name_;
  std::int64_t step_ = 0;
  double loss_ = 0;
  double training_seconds_ = 0;
  Clock::time_point begin_ = Clock::now();  // of all runs
  Clock::time_point shown_ = begin_;
};

}  // namespace char_lm
