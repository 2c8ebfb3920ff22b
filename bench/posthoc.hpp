// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <polyak/polyak.hpp>
#include <utility>
#include <vector>

#include "ensemble.hpp"
#include "limit_racer.hpp"
#include "racer.hpp"

namespace polyak_bench {

/// The reconstruction of an average from 8 snapshots in memory: two widths at four times.
class PosthocRacer : public Racer {
 public:
  static constexpr std::size_t snapshots = 8;

  explicit PosthocRacer(const Setting& setting) : tensors_(setting.tensors), model_(tensors_) {
    polyak::PowerEma sharp(model_.parameters, {.sigma_rel = 0.05});
    polyak::PowerEma smooth(model_.parameters, {.sigma_rel = 0.10});
    for (std::size_t i = 0; i < snapshots / 2; ++i) {
      model_.streams.fill(0, parameter_scale / static_cast<float>(i + 1));
      polyak::update(model_.parameters, sharp, smooth);
      posthoc_.snapshot(sharp, smooth);
      if (!setting.check) continue;
      for (const auto* average : {&sharp, &smooth}) {
        std::vector<float>& values = snapshots_.emplace_back();
        for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
          const auto view = average->view()[tensor];
          values.insert(values.end(), view.begin(), view.end());
        }
      }
    }
    solution_ = posthoc_.solve({.sigma_rel = 0.15});
  }

  void pass() override { posthoc_.reconstruct(solution_, model_.parameters); }
  void scale_gradients(float) override {}
  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, model_.streams, 0);
    return list;
  }

  /// A limit kernel for the same sum.
  [[nodiscard]] static std::unique_ptr<Racer> limit(const Setting& setting) {
    if (!setting.check) {
      return std::make_unique<LimitSumRacer>(
          setting, std::vector<float>(snapshots, 1.0F / static_cast<float>(snapshots)));
    }
    const PosthocRacer same(setting);
    auto result = std::make_unique<LimitSumRacer>(
        setting, std::vector<float>(same.solution_.weights.begin(), same.solution_.weights.end()));
    for (std::size_t k = 0; k < snapshots; ++k) result->set_source(k, same.snapshots_[k]);
    return result;
  }

 private:
  Case tensors_;
  Model model_;
  polyak::PosthocEma<float> posthoc_;
  polyak::PosthocSolution solution_;
  std::vector<std::vector<float>> snapshots_;
};

inline Subject posthoc_ema() {
  Subject subject;
  subject.name = "posthoc_ema";
  subject.bytes = (PosthocRacer::snapshots + 1) * sizeof(float);
  subject.make_method = [](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<PosthocRacer>(setting);
  };
  subject.make_limit = PosthocRacer::limit;
  subject.threaded = false;
  return subject;
}

}  // namespace polyak_bench
