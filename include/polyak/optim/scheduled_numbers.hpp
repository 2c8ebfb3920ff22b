// SPDX-License-Identifier: Apache-2.0
/// @file
/// Numbers of an optimizer that change between steps: those that schedules set, and new options.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/tensors/slot_shape.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Numbers of an optimizer that schedules set from step to step. What is absent stays as it is.
struct ScheduledNumbers {
  std::optional<double> learning_rate = std::nullopt;         ///< finite, >= 0
  std::optional<double> weight_decay = std::nullopt;          ///< decoupled; finite, >= 0
  std::optional<double> coupled_weight_decay = std::nullopt;  ///< finite, >= 0
};

namespace detail {

/// The weight decays of an optimizer, before the factors of groups.
struct WeightDecays {
  double decoupled = 0, coupled = 0;

  friend bool operator==(const WeightDecays&, const WeightDecays&) = default;
};
template <class Options>
inline constexpr bool has_decoupled_decay = requires(Options& o) {
  o.weight_decay;
};
template <class Options>
inline constexpr bool has_coupled_decay = requires(Options& o) {
  o.coupled_weight_decay;
};

template <class Options>
[[nodiscard]] WeightDecays decays_of(const Options& o) {
  WeightDecays decays;
  if constexpr (has_decoupled_decay<Options>) decays.decoupled = o.weight_decay;
  if constexpr (has_coupled_decay<Options>) decays.coupled = o.coupled_weight_decay;
  return decays;
}
template <class Options>
void set_decays(Options& o, const WeightDecays& decays, double factor = 1) {
  if constexpr (has_decoupled_decay<Options>) o.weight_decay = decays.decoupled * factor;
  if constexpr (has_coupled_decay<Options>) o.coupled_weight_decay = decays.coupled * factor;
  static_cast<void>(o), static_cast<void>(decays), static_cast<void>(factor);
}

/// Refuses options that need other slots, or another variant of the law, than an optimizer has.
void require_same_slots(std::string_view owner, const std::vector<SlotSpec>& needed,
                        const std::vector<SlotSpec>& present);
[[noreturn]] void refuse_other_variant(std::string_view owner, std::string_view function);
/// Refuses a weight decay of a kind that the options of an optimizer do not have.
[[noreturn]] void refuse_decay(std::string_view owner, std::string_view name);

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/optim/scheduled_numbers.ipp>
#endif
