// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace char_lm {
namespace {

constexpr double seconds_between_lines = 0.1;  // on a terminal
constexpr double smoothing_steps = 100;        // of the loss shown

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  char text[160];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

Progress::Progress(int runs, std::int64_t steps_per_run)
    : terminal_(isatty(STDOUT_FILENO) == 1), runs_(runs), steps_(steps_per_run) {}

void Progress::begin_run(const std::string& name) {
  ++run_;
  name_ = name;
  step_ = 0;
}

void Progress::advance(double batch_loss, double training_seconds) {
  ++step_;
  training_seconds_ = training_seconds;
  loss_ += (batch_loss - loss_) / std::min(static_cast<double>(step_), smoothing_steps);
  if (terminal_) {
    if (seconds_since(shown_) < seconds_between_lines) return;
    shown_ = Clock::now();
    print(format("\r%s\033[K", line().c_str()));
  } else if (step_ * 10 / steps_ != (step_ - 1) * 10 / steps_) {
    print(format("%s\n", line().c_str()));
  }
}

void Progress::begin_evaluation() {
  if (terminal_)
    print(format("\r[%d/%d] %-20s computing the final losses\033[K", run_, runs_, name_.c_str()));
}

void Progress::end_run(double best_validation_loss) {
  print(format("%s[%d/%d] %-20s %.1f s of training, best validation loss %.4f%s\n",
               terminal_ ? "\r" : "", run_, runs_, name_.c_str(), training_seconds_,
               best_validation_loss, terminal_ ? "\033[K" : ""));
}

std::string Progress::line() const {
  const auto done = static_cast<double>((run_ - 1) * steps_ + step_);
  const auto all = static_cast<double>(runs_ * steps_);
  const auto left = static_cast<long long>(seconds_since(begin_) * (all - done) / done + 0.5);
  const double rate = static_cast<double>(step_) / training_seconds_;
  return format("[%d/%d] %-20s %lld/%lld  loss %.3f  %.0f steps/s  %lld:%02lld left", run_, runs_,
                name_.c_str(), static_cast<long long>(step_), static_cast<long long>(steps_), loss_,
                rate, left / 60, left % 60);
}

}  // namespace char_lm
