// SPDX-License-Identifier: Apache-2.0
/// @file
/// StreamWeighting: an average with given weights.
///
///   c_t = omega_t / (omega_1 + ... + omega_t)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Weights omega_t >= 0 in a list, one for each call. A call beyond the list is an error: a step or
/// update that would make one changes nothing.
class StreamWeighting {
 public:
  static constexpr std::string_view type_name = "stream";
  /// Throws std::invalid_argument unless there are weights, every one is finite and >= 0, the first
  /// > 0, and their sum is finite.
  explicit StreamWeighting(std::vector<double> weights) : weights_(std::move(weights)) {
    validate(*this);
    add_up();
  }
  template <class Fields>
  friend void fields(StreamWeighting& w, Fields& field) {
    field.list("weight", w.weights_, 1);
    const double* const bad = w.first_bad();
    field.check(bad == nullptr, ": weights must be finite and >= 0, the first > 0",
                bad == nullptr ? 0 : *bad);
    field.check(!w.weights_.empty(), ": there must be at least one weight", w.weights_.size());
    double sum = 0;
    for (const double weight : w.weights_) sum += weight;
    field.check(detail::is_finite(sum), ": the sum of the weights must be finite", sum);
    field.after_reading([&] { w.add_up(); });
  }
  /// The last call that has a weight.
  [[nodiscard]] std::int64_t last_call() const {
    return static_cast<std::int64_t>(std::min(weights_.size(), sums_.size()));
  }
  /// Both throw std::invalid_argument for a call that has no weight.
  [[nodiscard]] double gain(std::int64_t t) const {
    const std::size_t place = at(t);
    return weights_[place] / sums_[place];
  }
  [[nodiscard]] double complement(std::int64_t t) const {
    const std::size_t place = at(t);
    return place == 0 ? 0 : sums_[place - 1] / sums_[place];
  }

 private:
  [[nodiscard]] std::size_t at(std::int64_t t) const {
    if (t < 1 || t > last_call()) [[unlikely]] {
      require(false,
              "StreamWeighting: the call must be one of those with a weight, 1 to " +
                  detail::text(last_call()),
              t);
    }
    return static_cast<std::size_t>(t - 1);
  }
  [[nodiscard]] const double* first_bad() const {
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      const double weight = weights_[k];
      if (!finite_and_not_negative.holds(weight) || (k == 0 && weight == 0)) return &weights_[k];
    }
    return nullptr;
  }
  void add_up() {
    sums_.clear();
    double sum = 0;
    for (const double weight : weights_) sums_.push_back(sum += weight);
  }
  std::vector<double> weights_, sums_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
