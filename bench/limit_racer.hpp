// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "limit.hpp"
#include "racer.hpp"
#include "streams.hpp"

namespace polyak_bench {

/// Equal shares of all elements of a case, one per thread, cut at multiples of 64 bytes.
class Shares {
 public:
  template <typename T>
  Shares(const Case& tensors, const StreamsOf<T>& streams, std::size_t threads) {
    constexpr std::size_t granule = 32;  // elements that every stream's tensors are padded to
    const std::size_t granules = streams.used() / granule;
    const std::size_t count = tensors.elements() < elements_per_thread_pair ? 1 : threads;
    for (std::size_t share = 0; share < count; ++share) {
      const std::size_t begin = granules * share / count * granule;
      const std::size_t end = granules * (share + 1) / count * granule;
      std::vector<LimitRange> ranges;
      for (std::size_t tensor = 0; tensor < tensors.tensors.size(); ++tensor) {
        const std::size_t first = std::max(begin, streams.begin(tensor));
        const std::size_t last = std::min(end, streams.end(tensor));
        if (first < last) ranges.push_back({first, last});
      }
      shares_.push_back(std::move(ranges));
    }
  }

  /// Runs `kernel(ranges, count)` for each share.
  template <typename Kernel>
  void run(const Kernel& kernel) const {
    if (shares_.size() == 1) return kernel(shares_[0].data(), shares_[0].size());
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(shares_.size()))
#endif
    for (std::size_t share = 0; share < shares_.size(); ++share) {
      kernel(shares_[share].data(), shares_[share].size());
    }
  }

 private:
  std::vector<std::vector<LimitRange>> shares_;
};

/// Appends the elements of a stream to `list`, without padding.
inline void append(std::vector<float>& list, const Case& tensors, Streams& streams,
                   std::size_t stream) {
  for (std::size_t tensor = 0; tensor < tensors.tensors.size(); ++tensor) {
    const float* const data = streams.data(stream, tensor);
    list.insert(list.end(), data, data + tensors.tensors[tensor].size());
  }
}

/// The gain of an average at call t = 1, 2, ...
using Gain = double (*)(long t);

/// The limit kernel of an optimizer and averages.
class LimitRacer : public Racer {
 public:
  LimitRacer(const Setting& setting, LimitMethod method, std::vector<Gain> gains)
      : tensors_(setting.tensors),
        gains_(std::move(gains)),
        follows_gains_(setting.check),
        first_slot_(method == LimitMethod::none ? 1 : 2),
        first_average_(first_slot_ + limit_slots(method)),
        streams_(tensors_, first_average_ + gains_.size()),
        shares_(tensors_, streams_, setting.threads),
        kernel_(limit_kernel(method, gains_.size())) {
    state_.learning_rate = setting.learning_rate();
    const bool schedule_free =
        method == LimitMethod::schedule_free_sgd || method == LimitMethod::schedule_free_adamw;
    for (std::size_t stream = 0; stream < first_average_ + gains_.size(); ++stream) {
      const bool is_slot = stream >= first_slot_ && stream < first_average_;
      const bool is_z = schedule_free && stream == first_slot_;
      streams_.fill(stream, stream == 1 && first_slot_ == 2 ? gradient_scale
                            : is_slot && !is_z              ? 0.0F
                                                            : parameter_scale);
      bases_[stream] = streams_.base(stream);
    }
    // The value of an average's gain does not change the speed of its update.
    for (float& gain : state_.gains) gain = 0x1p-10F;
  }

  void pass() override {
    limit_advance(state_);
    if (follows_gains_) {
      for (std::size_t k = 0; k < gains_.size(); ++k) {
        state_.gains[k] = static_cast<float>(gains_[k](state_.steps));
      }
    }
    shares_.run([this](const LimitRange* ranges, std::size_t count) {
      kernel_(state_, bases_.data(), ranges, count);
    });
  }

  void scale_gradients(float factor) override {
    if (first_slot_ == 2) streams_.fill(1, factor * gradient_scale);
  }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, streams_, 0);
    for (std::size_t k = 0; k < gains_.size(); ++k) {
      append(list, tensors_, streams_, first_average_ + k);
    }
    return list;
  }

 private:
  Case tensors_;
  std::vector<Gain> gains_;
  bool follows_gains_;
  std::size_t first_slot_, first_average_;
  Streams streams_;
  Shares shares_;
  LimitKernel kernel_;
  LimitState state_;
  std::array<float*, 8> bases_;  // 2, at most 3 slots, at most 3 averages
};

/// Whether the stores of a target that is only written should bypass the caches, of which the cores
/// of a die share 32 MiB. (The size reported by a virtual machine can be ten times too large.)
inline bool worth_streaming(std::size_t bytes) { return bytes > std::size_t{16} << 20; }

/// Source k of a weighted sum is filled with this.
inline float source_scale(std::size_t k) { return parameter_scale / static_cast<float>(k + 1); }

/// The limit kernel of a weighted sum.
class LimitSumRacer : public Racer {
 public:
  LimitSumRacer(const Setting& setting, std::vector<float> weights)
      : tensors_(setting.tensors),
        weights_(std::move(weights)),
        streams_(tensors_, weights_.size() + 1),
        shares_(tensors_, streams_, setting.threads),
        sum_(limit_sum(weights_.size(), worth_streaming(tensors_.elements() * sizeof(float)))) {
    streams_.fill(0, parameter_scale);
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      streams_.fill(k + 1, source_scale(k));
      sources_.push_back(streams_.base(k + 1));
    }
  }

  /// Gives source k other elements, tensor after tensor.
  void set_source(std::size_t k, const std::vector<float>& values) {
    auto next = values.begin();
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      const auto size = static_cast<std::ptrdiff_t>(tensors_.tensors[tensor].size());
      std::copy(next, next + size, streams_.data(k + 1, tensor));
      next += size;
    }
  }

  void pass() override {
    shares_.run([this](const LimitRange* ranges, std::size_t count) {
      sum_(weights_.data(), sources_.data(), streams_.base(0), ranges, count);
    });
  }
  void scale_gradients(float) override {}
  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    append(list, tensors_, streams_, 0);
    return list;
  }

 private:
  Case tensors_;
  std::vector<float> weights_;
  Streams streams_;
  Shares shares_;
  LimitSum sum_;
  std::vector<const float*> sources_;
};

}  // namespace polyak_bench
