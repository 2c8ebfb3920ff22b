// SPDX-License-Identifier: Apache-2.0
/// @file
/// TriangularAverage: an average whose weights rise to a peak and fall to nothing.
///
///   w_t = t / rise                   t = 1 .. rise
///   w_t = (rise + fall - t) / fall   t = rise .. rise + fall
///   w_t = 0                          afterwards
///   c_t = w_t / (w_1 + ... + w_t),   avg <- avg + c_t (x_t - avg)
///
/// The triangular (Bartlett) window over the calls 1 to rise + fall - 1. The average rests after
/// these, so it may stay in the step.
/// State: 1 slot ("average"). Elementwise; any shape. 3 words per parameter and update.
#pragma once

#include <cstdint>
#include <string_view>

#include <polyak/average/engine/average.hpp>

namespace mine {

/// The gains c_t of the average, and its options.
struct TriangularWeighting {
  static constexpr std::string_view type_name = "triangular";
  std::int64_t rise = 100;  ///< call of the largest weight, >= 1
  std::int64_t fall = 100;  ///< calls from there to the first weight of 0, >= 1

  [[nodiscard]] double gain(std::int64_t t) const {
    return t < rise + fall ? weight(t) / sum(t) : 0;
  }
  /// 1 - c_t, without the digits that the subtraction would lose.
  [[nodiscard]] double complement(std::int64_t t) const {
    return t < rise + fall ? sum(t - 1) / sum(t) : 1;
  }
  /// The smallest gain but for 0: averages of 16 bits are checked by it.
  [[nodiscard]] double least_gain() const { return gain(rise + fall - 1); }

 private:
  [[nodiscard]] double weight(std::int64_t t) const {
    return t <= rise ? number(t) / number(rise) : number(rise + fall - t) / number(fall);
  }
  /// w_1 + ... + w_t
  [[nodiscard]] double sum(std::int64_t t) const {
    if (t <= rise) return number(t) * number(t + 1) / (2 * number(rise));
    const double past = number(t - rise);
    return (number(rise) + 1) / 2 + past - past * (past + 1) / (2 * number(fall));
  }
  static double number(std::int64_t n) { return static_cast<double>(n); }
};

template <class Fields>
void fields(TriangularWeighting& w, Fields& field) {
  field("rise", w.rise, polyak::at_least_1);
  field("fall", w.fall, polyak::at_least_1);
}

/// The triangular average of the tensors that `selection` holds for, all of them without one.
/// Throws std::invalid_argument for a weighting out of range; everything else is polyak::AverageOf.
template <polyak::ParameterScalar P, polyak::StateScalar S = polyak::default_state_t<P>>
class TriangularAverage final
    : public polyak::AverageOf<TriangularAverage<P, S>, P, TriangularWeighting, S> {
 public:
  static constexpr std::string_view type_name = "TriangularAverage";  // in files

  explicit TriangularAverage(const polyak::Parameters<P>& params,
                             TriangularWeighting weighting = {},
                             polyak::Nonfinite nonfinite = polyak::Nonfinite::propagate,
                             const polyak::Selection& selection = {})
      : TriangularAverage::AverageOf(params, weighting, nonfinite, {.tensors = selection}) {}
};

}  // namespace mine
