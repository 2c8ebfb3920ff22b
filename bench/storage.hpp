// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <polyak/polyak.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "ensemble.hpp"
#include "limit.hpp"
#include "limit_racer.hpp"
#include "openmp.hpp"
#include "racer.hpp"
#include "streams.hpp"

namespace polyak_bench {

inline constexpr double storage_gain = 0.5;  // large enough to move an average of bfloat16

/// An element of a list of floats or of the bits of bfloat16, as float.
inline float as_float(float value) { return value; }
inline float as_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// An exponential average, of type S, of a model of bfloat16.
template <typename S>
class Bfloat16EmaRacer : public Racer {
 public:
  Bfloat16EmaRacer(const Setting& setting, polyak::Accumulate accumulate)
      : tensors_(setting.tensors),
        threads_(setting.threads),
        streams_(tensors_, 1),
        parameters_(list()),
        ema_(parameters_, {.decay = 1 - storage_gain, .accumulate = accumulate}) {}

  void pass() override {
#ifdef _OPENMP
    if (threads_ > 1) {
      polyak::update(OpenMp{static_cast<int>(threads_)}, parameters_, ema_);
      return;
    }
#endif
    polyak::update(parameters_, ema_);
  }

  /// The parameters take the place of the gradients, because the average follows the parameters.
  void scale_gradients(float factor) override { streams_.fill(0, factor * parameter_scale); }

  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      for (const S value : ema_.view()[tensor]) list.push_back(static_cast<float>(value));
    }
    return list;
  }

 private:
  polyak::Parameters<Eigen::bfloat16> list() {
    streams_.fill(0, parameter_scale);
    polyak::Parameters<Eigen::bfloat16> parameters;
    for (std::size_t i = 0; i < tensors_.tensors.size(); ++i) {
      const Tensor& tensor = tensors_.tensors[i];
      auto* const data = reinterpret_cast<Eigen::bfloat16*>(streams_.data(0, i));
      parameters.add(tensor.name, data, tensor.shape);
    }
    return parameters;
  }

  Case tensors_;
  std::size_t threads_;
  StreamsOf<std::uint16_t> streams_;
  polyak::Parameters<Eigen::bfloat16> parameters_;
  polyak::Ema<Eigen::bfloat16, S> ema_;
};

/// Its limit kernel; `Bits` is float or the bits of bfloat16.
template <typename Bits, LimitStorage storage>
class LimitBfloat16EmaRacer : public Racer {
 public:
  explicit LimitBfloat16EmaRacer(const Setting& setting)
      : tensors_(setting.tensors),
        parameters_(tensors_, 1),
        average_(tensors_, 1),
        excess_(tensors_, 1),
        shares_(tensors_, parameters_, setting.threads),
        kernel_(limit_bfloat16_ema(storage)) {
    parameters_.fill(0, parameter_scale);
    if (storage == LimitStorage::compensated) excess_.fill(0, 0);
    for (std::size_t i = 0; i < parameters_.used(); ++i) {
      if constexpr (std::is_same_v<Bits, float>) {
        average_.base(0)[i] = as_float(parameters_.base(0)[i]);
      } else {
        average_.base(0)[i] = parameters_.base(0)[i];
      }
    }
  }

  void pass() override {
    shares_.run([this](const LimitRange* ranges, std::size_t count) {
      kernel_(static_cast<float>(storage_gain), parameters_.base(0), average_.base(0),
              storage == LimitStorage::compensated ? excess_.base(0) : nullptr, ranges, count);
    });
  }
  void scale_gradients(float factor) override { parameters_.fill(0, factor * parameter_scale); }
  [[nodiscard]] std::vector<float> results() override {
    std::vector<float> list;
    for (std::size_t tensor = 0; tensor < tensors_.tensors.size(); ++tensor) {
      const Bits* const data = average_.data(0, tensor);
      for (std::size_t i = 0; i < tensors_.tensors[tensor].size(); ++i) {
        list.push_back(as_float(data[i]));
      }
    }
    return list;
  }

 private:
  Case tensors_;
  StreamsOf<std::uint16_t> parameters_;
  StreamsOf<Bits> average_;
  StreamsOf<std::uint16_t> excess_;  ///< zeros at first; untouched unless it is used
  Shares shares_;
  LimitBfloat16Ema kernel_;
};

/// The average of S, against the kernel that moves the same bytes.
template <typename S, typename Bits, LimitStorage storage>
Subject bfloat16_ema(const std::string& name, polyak::Accumulate accumulate,
                     std::int64_t limit_ulps) {
  Subject subject;
  subject.name = name;
  subject.bytes =
      sizeof(std::uint16_t) + (storage == LimitStorage::compensated ? 4 : 2) * sizeof(Bits);
  subject.make_method = [accumulate](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<Bfloat16EmaRacer<S>>(setting, accumulate);
  };
  subject.make_limit = [](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<LimitBfloat16EmaRacer<Bits, storage>>(setting);
  };
  subject.limit_ulps = limit_ulps;
  return subject;
}

/// A float average with compensation, against the kernel of two averages, which moves the same
/// bytes.
inline Subject kahan_ema() {
  const Gain gain = [](long) { return 1 - 0.999; };
  Subject result = subject(Averages{
      "ema_kahan", gain, [](const polyak::Parameters<float>& list) {
        return polyak::Ema(list, {.decay = 0.999, .accumulate = polyak::Accumulate::kahan});
      }});
  result.bytes = 5 * sizeof(float);
  result.make_limit = [gain](const Setting& setting) -> std::unique_ptr<Racer> {
    return std::make_unique<LimitRacer>(setting, LimitMethod::none, std::vector<Gain>{gain, gain});
  };
  result.limit_ulps = -1;
  return result;
}

/// Averages that are not plain floats.
inline void append_storage(std::vector<Subject>& subjects) {
  using polyak::Accumulate;
  using Bfloat16 = Eigen::bfloat16;
  constexpr std::int64_t bfloat16_ulp = 1 << 16;
  subjects.push_back(kahan_ema());
  subjects.push_back(
      bfloat16_ema<float, float, LimitStorage::floats>("ema_bf16", Accumulate::plain, 4));
  subjects.push_back(bfloat16_ema<Bfloat16, std::uint16_t, LimitStorage::bfloat16>(
      "ema_bf16_bf16", Accumulate::plain, 4));
  subjects.push_back(bfloat16_ema<Bfloat16, std::uint16_t, LimitStorage::compensated>(
      "ema_bf16_bf16_kahan", Accumulate::kahan, bfloat16_ulp));
  subjects.push_back(bfloat16_ema<Bfloat16, std::uint16_t, LimitStorage::bfloat16>(
      "ema_bf16_bf16_stochastic", Accumulate::stochastic, 8 * bfloat16_ulp));
}

}  // namespace polyak_bench
