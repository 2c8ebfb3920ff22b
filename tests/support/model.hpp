// SPDX-License-Identifier: Apache-2.0
/// @file
/// Weights and gradients to run methods on: numbers that depend only on place and step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>

#include "bits.hpp"

/// Tensors that follow each other in one piece of memory, with a margin on both sides.
template <class P>
class Model {
 public:
  /// With `extras` there are also a tensor that averages ignore, two buffers and a frozen tensor.
  explicit Model(std::vector<std::size_t> sizes, bool extras = false)
      : sizes_(std::move(sizes)), extras_(extras) {}
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

 private:
  static constexpr std::size_t margin = 37;  // odd, so that nothing is aligned
  static constexpr std::size_t ignored_size = 45;
  static constexpr std::size_t statistics_size = 7;
  static constexpr std::size_t frozen_size = 11;

  std::vector<std::size_t> sizes_;
  bool extras_;
  std::vector<P> weights_ = numbers(0);
  std::vector<P> gradient_ = numbers(1);
  std::vector<P> statistics_ = std::vector<P>(statistics_size);
  std::vector<std::int64_t> counters_ = std::vector<std::int64_t>(3);
  std::vector<P> frozen_ = std::vector<P>(frozen_size, number(0.75));

 public:
  const polyak::Parameters<P> params = list();
  polyak::Gradients<P> gradients{params};

  /// Number of trained tensors.
  [[nodiscard]] std::size_t trained() const { return sizes_.size() + (extras_ ? 1 : 0); }

  /// Sets the gradients of a step, but for the tensors `without`. Buffers move on.
  void differentiate(std::uint64_t step, const std::set<std::size_t>& without = {}) {
    for (std::size_t k = 0; k < elements(); ++k) {
      gradient_[margin + k] = number(0.5 * bits::uniform(k, 2 * step + 3));
    }
    const P* place = gradient_.data() + margin;
    for (std::size_t k = 0; k < trained(); ++k) {
      const std::string name = params[k].name();
      if (without.contains(k)) {
        gradients.set(name, polyak::no_gradient);
      } else {
        gradients.set(name, place);
      }
      place += params[k].size();
    }
    for (std::size_t k = 0; k < statistics_.size(); ++k) {
      statistics_[k] = number(bits::uniform(k, 77 * step));
    }
    for (std::int64_t& counter : counters_) ++counter;
  }

  /// The gradient of a trained tensor that differentiate() computed.
  [[nodiscard]] const P* gradient(std::size_t tensor) const {
    const P* place = gradient_.data() + margin;
    for (std::size_t k = 0; k < tensor; ++k) place += params[k].size();
    return place;
  }

  /// Moves the weights, as training would between two updates of an average.
  void wander(std::uint64_t step) {
    for (std::size_t k = 0; k < elements(); ++k) {
      P& weight = weights_[margin + k];
      weight = number(static_cast<double>(weight) + 0.25 * bits::uniform(k, 2 * step + 4));
    }
  }

  /// Every bit of the weights and their margins, and of the buffers.
  [[nodiscard]] std::vector<std::byte> bytes() const {
    std::vector<std::byte> all = bits::bytes(weights_);
    for (const auto& more :
         {bits::bytes(statistics_), bits::bytes(counters_), bits::bytes(frozen_)}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  [[nodiscard]] std::vector<std::byte> gradient_bytes() const { return bits::bytes(gradient_); }
  [[nodiscard]] std::vector<std::byte> tensor_bytes(std::size_t tensor) const {
    return bits::bytes(params[tensor].data(), params[tensor].size());
  }

  /// Whether the margins of the weights are unchanged.
  [[nodiscard]] bool margins_intact() const {
    const std::vector<P> fresh = numbers(0);
    const auto equal = [&](std::size_t begin) {
      return bits::bytes(weights_.data() + begin, margin) ==
             bits::bytes(fresh.data() + begin, margin);
    };
    return equal(0) && equal(margin + elements());
  }

  /// Restores the result of bytes() of an equal model.
  void restore(const std::vector<std::byte>& bytes) {
    const auto take = [from = bytes.data()](auto& array) mutable {
      const std::size_t size = array.size() * sizeof array[0];
      std::memcpy(static_cast<void*>(array.data()), from, size);
      from += size;
    };
    auto in = take;
    in(weights_);
    in(statistics_);
    in(counters_);
    in(frozen_);
  }

 private:
  static P number(double value) { return static_cast<P>(static_cast<float>(value)); }

  [[nodiscard]] std::size_t elements() const {
    std::size_t sum = extras_ ? ignored_size : 0;
    for (const std::size_t size : sizes_) sum += size;
    return sum;
  }

  [[nodiscard]] std::vector<P> numbers(std::uint64_t seed) const {
    std::vector<P> list(elements() + 2 * margin);
    for (std::size_t k = 0; k < list.size(); ++k) list[k] = number(bits::uniform(k, seed));
    return list;
  }

  [[nodiscard]] polyak::Parameters<P> list() {
    polyak::Parameters<P> tensors;
    P* place = weights_.data() + margin;
    for (std::size_t k = 0; k < sizes_.size(); ++k) {
      const auto size = static_cast<std::int64_t>(sizes_[k]);
      tensors.add("tensor " + std::to_string(k), place, {size});
      place += sizes_[k];
    }
    if (extras_) {
      tensors.add("ignored", place, {5, 9}, polyak::Role::ignore)
          .add("statistics", statistics_, polyak::Role::copy)
          .add("counters", counters_, polyak::Role::copy)
          .add("frozen", frozen_, polyak::Role::frozen);
    }
    return tensors;
  }
};
