// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ensemble.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"

namespace polyak_bench {

/// An average with more than one slot: its updates, and the values that `results` reads.
template <typename Method>
class WindowRacer : public Racer {
 public:
  template <typename Make>
  WindowRacer(const Setting& setting, const Make& make)
      : tensors_(setting.tensors),
        threads_(setting.threads),
        model_(tensors_),
        method_(make(model_.parameters)) {}

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) {
      polyak::update(OpenMp{static_cast<int>(threads_)}, model_.parameters, method_);
      return;
    }
#endif
    method_.update(model_.parameters);
  }
  void scale_gradients(float) override {}
  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, model_.streams, 0);
    const auto& slots = method_.slots();
    for (std::size_t slot = 0; slot < slots.count(); ++slot) {
      for (std::size_t k = 0; k < tensors_.tensors.size(); ++k) {
        const auto values = slots.tensor(slot, k);
        list.insert(list.end(), values.begin(), values.end());
      }
    }
    return list;
  }

 private:
  Case tensors_;
  std::size_t threads_;
  Model model_;
  Method method_;
};

template <typename Make>
Subject window_subject(std::string name, double words, Make make, MakeRacer limit, int ulps) {
  using Method = decltype(make(std::declval<const polyak::Parameters<float>&>()));
  Subject subject;
  subject.name = std::move(name);
  subject.bytes = words * sizeof(float);
  subject.make_method = [make](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<WindowRacer<Method>>(setting, make);
  };
  subject.make_limit = std::move(limit);
  subject.limit_ulps = ulps;
  return subject;
}

/// Averages with several slots: three at once, the mean of a block, a ring of checkpoints whose
/// mean moves on, and a teacher that returns elements to its student.
inline void append_windows(std::vector<Subject>& subjects) {
  using List = polyak::Parameters<float>;
  const Gain gain = [](long) { return 1 - 0.999; };
  subjects.push_back(window_subject(
      "ema_bank3", 7,
      [](const List& list) {
        return polyak::EmaBank(list, std::array{0.999, 0.999, 0.999});
      },
      [gain](const Setting& setting) -> std::unique_ptr<Racer> {
        return std::make_unique<LimitRacer>(setting, LimitMethod::none, std::vector<Gain>(3, gain));
      },
      4));
  // Between the ends of blocks.
  subjects.push_back(window_subject(
      "window_average", 3,
      [](const List& list) {
        return polyak::WindowAverage(list, {.horizon = 1 << 20, .interval = 1});
      },
      [](const Setting& setting) -> std::unique_ptr<Racer> {
        const Gain mean = [](long t) { return 1 / static_cast<double>(t); };
        return std::make_unique<LimitRacer>(setting, LimitMethod::none, std::vector<Gain>{mean});
      },
      -1));
  // Momentum SGD reads one array and updates two, too.
  subjects.push_back(window_subject(
      "lawa8_running", 5,
      [](const List& list) {
        polyak::Lawa lawa(list, {.checkpoints = 8, .running_mean = true});
        for (int k = 0; k < 8; ++k) lawa.update(list);
        return lawa;
      },
      [](const Setting& setting) -> std::unique_ptr<Racer> {
        return std::make_unique<LimitRacer>(setting, LimitMethod::sgd, std::vector<Gain>());
      },
      -1));
  // So does a teacher whose source is read, and whose student is written, as a whole.
  subjects.push_back(window_subject(
      "cotta_0.01", 5,
      [](const List& list) {
        return polyak::CottaTeacher(list, {.decay = 0.999, .restore_probability = 0.01});
      },
      [](const Setting& setting) -> std::unique_ptr<Racer> {
        return std::make_unique<LimitRacer>(setting, LimitMethod::sgd, std::vector<Gain>());
      },
      -1));
}

}  // namespace polyak_bench
