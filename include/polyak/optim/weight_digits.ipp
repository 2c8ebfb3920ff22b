// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of optim/weight_digits.hpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/optim/weight_digits.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

POLYAK_DEFINE_ON_USE void validate_weights(Accumulate accumulate, DType weights, DType state,
                                           std::string_view owner) {
  const bool sixteen = bytes_of(weights) == 2;
  const auto require_that = [&](bool holds, std::string_view rule) {
    if (holds) return;
    refuse_value("polyak: " + std::string(owner) +
                 " with accumulate = " + std::string(polyak::name_of(accumulate)) + " " +
                 std::string(rule) + "; the weights are of " + std::string(name_of(weights)) +
                 ", the state of " + std::string(name_of(state)));
  };
  switch (accumulate) {
    case Accumulate::automatic:
    case Accumulate::plain:
      return;
    case Accumulate::master:
    case Accumulate::stochastic:
      return require_that(sixteen, "needs weights of 16 bits");
    case Accumulate::kahan:
      return require_that(
          sixteen || (weights == DType::float32 && state == DType::float64),
          "needs weights of 16 bits, or of float with state of double as in AdamW<float, double>");
    case Accumulate::float64:
      return require_that(
          false, "is for averages; use kahan with state of double as in AdamW<float, double>");
  }
  refuse_argument(std::string(owner) + "Options.accumulate must be one of Accumulate",
                  static_cast<int>(accumulate));
}

/// Whether each tensor has state.
POLYAK_ON_USE [[nodiscard]] inline std::vector<bool> kept_by(const SlotMemory& slots) {
  std::vector<bool> keeps(slots.layout()->tensors.size());
  for (std::size_t k = 0; k < keeps.size(); ++k) keeps[k] = slots.keeps(k);
  return keeps;
}

POLYAK_DEFINE_ON_USE WeightRests::WeightRests(const SlotMemory& slots, DType dtype,
                                              const std::string& name)
    : SlotMemory(slots.layout(), dtype, {SlotSpec(name)}, kept_by(slots)) {}

POLYAK_DEFINE_ON_USE std::optional<WeightRests> rests_for(Accumulate accumulate, DType weights,
                                                          const SlotMemory& slots) {
  if (accumulate == Accumulate::master) return WeightRests(slots, DType::int16, "weight_low_bits");
  if (accumulate == Accumulate::kahan) return WeightRests(slots, weights, "weight_compensation");
  return std::nullopt;
}

/// The root mean square of weights of 16 bits; of every n-th one in large tensors.
template <class P>
[[nodiscard]] double root_mean_square(MemorySpace* space, const void* data, std::size_t size) {
  std::vector<std::byte> copy;
  if (space != nullptr) {
    copy.resize(size * scalar_bytes<P>);
    read_bytes(space, copy.data(), data, copy.size());
    data = copy.data();
  }
  const std::size_t stride = size / 65536 + 1;
  double sum = 0, count = 0;
  for (std::size_t k = 0; k < size; k += stride, ++count) {
    const double weight = widened<double>(static_cast<const P*>(data), k);
    sum += weight * weight;
  }
  return std::sqrt(sum / count);
}

POLYAK_DEFINE_ON_USE void require_moving(const ParameterList& params, const SlotMemory& slots,
                                         const TensorGroups& groups, double rate,
                                         std::string_view owner) {
  const Layout& layout = *slots.layout();
  for (std::size_t k = 0; k < layout.tensors.size(); ++k) {
    const TensorInfo& tensor = layout.tensors[k];
    const double step = rate * groups.of(k).learning_rate_factor;
    if (!slots.keeps(k) || tensor.size == 0 || step == 0) continue;
    const bool half = tensor.dtype == DType::float16;
    const void* const data = params.memory(k).data;
    const double weight = half
                              ? root_mean_square<Eigen::half>(slots.space(), data, tensor.size)
                              : root_mean_square<Eigen::bfloat16>(slots.space(), data, tensor.size);
    const double least = std::ldexp(weight, half ? -12 : -9);
    if (!(step < least)) continue;
    refuse_value("polyak: " + std::string(owner) + " would not move tensor \"" + tensor.name +
                 "\": its weights of " + std::string(name_of(tensor.dtype)) + " are of size " +
                 text(weight) + " (root mean square), where changes below " + text(least) +
                 " are rounded away, and the learning rate is " + text(step) +
                 ". Set the option accumulate to master, kahan or stochastic, train weights of "
                 "float, or set accumulate to plain to accept it");
  }
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
