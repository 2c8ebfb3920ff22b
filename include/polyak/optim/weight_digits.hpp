// SPDX-License-Identifier: Apache-2.0
/// @file
/// The digits of weights that their own type has no room for: options, memory and refusals. The
/// arithmetic is in core/kept_weights.hpp.
///
/// A weight of 1 in bfloat16 moves only by changes of 2^-9 and more. With a learning rate of 6e-4
/// every step is rounded away, and the model does not train. The ways out:
///
///   Accumulate::master      16 more bits per weight. The weights train as floats do, bit for bit.
///   Accumulate::kahan       16 more bits per weight: the rounding error, itself rounded.
///   Accumulate::stochastic  no more bits. Each weight is right in expectation, with noise of an
///                           ulp per step.
///   Accumulate::plain       rounds each step to nearest, whatever is lost.
///   Accumulate::automatic   the default: plain, but it refuses weights that would not move.
///
/// Weights of float are plain, or with state of double, `AdamW<float, double>`, kahan: a second
/// float keeps the rounding error, and laws compute in double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <polyak/core/bound_law.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/parameter_list.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/optim/tensor_groups.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The fields with which the options of every optimizer end: nonfinite, accumulate, seed.
template <class O, class Fields>
void weight_fields(O& o, Fields& field) {
  field("nonfinite", o.nonfinite);
  field.added("accumulate", o.accumulate);
  field.added("seed", o.seed);
}

namespace detail {

/// Refuses a way of keeping weights that their type or the type of the state does not support.
POLYAK_ON_USE void validate_weights(Accumulate accumulate, DType weights, DType state,
                                    std::string_view owner);

/// How the weights are kept; `automatic` for options that do not say.
template <class Options>
[[nodiscard]] Accumulate accumulate_of(const Options& o) {
  if constexpr (requires { o.accumulate; }) {
    return o.accumulate;
  } else {
    return Accumulate::automatic;
  }
}
template <class Options>
[[nodiscard]] std::uint64_t seed_of(const Options& o) {
  if constexpr (requires { o.seed; }) {
    return o.seed;
  } else {
    return 0;
  }
}
/// Refuses kahan under -ffast-math. Inline, because only the program knows its flags.
inline void require_compensation() {
#if defined(__FAST_MATH__)
  refuse_value(
      "polyak: accumulate = kahan cannot be used with -ffast-math, which removes its "
      "compensation");
#endif
}
/// Refuses options as validate_weights() does.
inline void check_weights(Accumulate accumulate, DType weights, DType state,
                          std::string_view owner) {
  if (accumulate == Accumulate::kahan) require_compensation();
  if (accumulate != Accumulate::automatic && accumulate != Accumulate::plain) {
    validate_weights(accumulate, weights, state, owner);
  }
}

/// One slot beside the weights: what master or kahan keeps of them.
class WeightRests : public SlotMemory {
 public:
  /// For the tensors that `slots` keep.
  POLYAK_ON_USE WeightRests(const SlotMemory& slots, DType dtype, const std::string& name);
};
/// The slot of a way of keeping weights; none if it needs none.
POLYAK_ON_USE [[nodiscard]] std::optional<WeightRests> rests_for(Accumulate accumulate,
                                                                 DType weights,
                                                                 const SlotMemory& slots);

/// Refuses tensors of 16 bits that steps of the size `rate` would not move: the rate is below half
/// an ulp of their root mean square.
POLYAK_ON_USE void require_moving(const ParameterList& params, const SlotMemory& slots,
                                  const TensorGroups& groups, double rate, std::string_view owner);

/// The bound laws of an optimizer of weights of E: plain ones first, then those that keep digits.
template <class Law, class S, class E>
struct KeepingLaws {
  using type = std::variant<BoundLaw<Law, S>, BoundLaw<Law, S, Keeping<E>::template Slots>>;
};
template <class... Law, class S, class E>
struct KeepingLaws<std::variant<Law...>, S, E> {
  using type = std::variant<BoundLaw<Law, S>..., BoundLaw<Law, S, Keeping<E>::template Slots>...>;
};

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/optim/weight_digits.ipp>
#endif
