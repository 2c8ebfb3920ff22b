// SPDX-License-Identifier: Apache-2.0
/// @file
/// soft_update: a target network follows the online one.
///
///   target <- target + tau (online - target)          tau = 1: a copy
///
/// "Continuous control with deep reinforcement learning" (arXiv 1509.02971); mean teachers
/// (arXiv 1703.01780) do the same with tau = 1 - decay. No state: both lists belong to the program.
/// 3 words per parameter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <polyak/average/engine/accumulation.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/executors/executor.hpp>
#include <polyak/core/kept_weights.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SoftUpdateOptions {
  /// How the target is rounded: plain, stochastic, or automatic, which is plain and refuses a
  /// target of 16 bits that would stall more than 1 % from a constant online model.
  Accumulate accumulate = Accumulate::automatic;
  std::uint64_t seed = 0;  ///< of Accumulate::stochastic
  std::uint64_t call = 0;  ///< number of this call, kept by the caller: each has random bits of its
                           ///< own
};
template <class Fields>
void fields(SoftUpdateOptions& o, Fields& field) {
  constexpr Rule<Accumulate> known{[](Accumulate v) {
                                     return v == Accumulate::automatic || v == Accumulate::plain ||
                                            v == Accumulate::stochastic;
                                   },
                                   "must be automatic, plain or stochastic",
                                   {Accumulate::kahan, Accumulate::float64, Accumulate::master}};
  field("accumulate", o.accumulate, known);
  field("seed", o.seed);
  field("call", o.call);
}

/// target + tau (online - target)
template <class T>
struct SoftUpdateLaw {
  using Value = T;
  static constexpr LawSlots slots{};  // with the online model in the place of gradients
  static constexpr LawStreams streams{.updates = true, .rare = true};
  T tau;
  template <class V>
  POLYAK_LAW void operator()(V& target, const V& online) const {
    target = interpolate(target, online, tau);
  }
};

namespace detail {

/// Refuses options that do not fit the type of the target.
inline void check_soft_update(const SoftUpdateOptions& options, DType target, double tau) {
  validate(options);
  const bool sixteen = bytes_of(target) == 2;
  if (options.accumulate == Accumulate::stochastic && !sixteen) {
    refuse_value("polyak: soft_update with accumulate = stochastic is for targets of 16 bits");
  }
  if (options.accumulate != Accumulate::automatic || !sixteen || tau == 0 || tau == 1) return;
  const double zone = dead_zone(target, tau, Accumulate::plain);
  require(zone <= 0.01,
          "soft_update: a plain target of " + std::string(name_of(target)) +
              " must stall within 0.01 of a constant online model (relative); set accumulate to "
              "stochastic, use Ema with state of float and copy_to(), or set it to plain to accept "
              "it; the distance",
          zone);
}

/// Moves the averaged tensors, and rounds them at random.
template <class E, class P>
void soft_update_at_random(const E& executor, const Parameters<P>& target,
                           const Parameters<P>& online, double tau,
                           const SoftUpdateOptions& options) {
  std::vector<std::size_t> offsets;
  std::vector<const element_t<P>*> sources;
  for (std::size_t k = 0; k < target.size(); ++k) {
    const bool averaged = may_keep(target[k].info(), dtype_of<P>(), Kept::averaged);
    offsets.push_back(averaged ? 0 : SlotMemory::absent);
    sources.push_back(averaged ? online[k].data() : nullptr);
  }
  using Law = SoftUpdateLaw<float>;
  using Bound = BoundLaw<Law, float, Keeping<element_t<P>>::template Slots>;
  const Bound bound{.law = Law{.tau = static_cast<float>(tau)},
                    .offsets = offsets.data(),
                    .key = {.how = static_cast<std::uint64_t>(Accumulate::stochastic),
                            .random = {options.seed, options.call, 0}}};
  static_cast<void>(ParameterAccess<P>::memory(target));  // looks where objects have it now
  const typename Sweep<P>::Plan::Single single{offsets.data(), true, true,
                                               Sweep<P>::template loop<false>(bound)};
  Sweep<P>::over(ExecutorRef(executor), target, sources.data(), {}, {&single, 1, nullptr, 0});
}

}  // namespace detail

/// One soft update, tau in [0, 1], of all weights (Role::average); buffers (Role::copy) are copied,
/// tensors with Role::ignore or Role::frozen are left alone, and may be shared by both lists. Reads
/// `online` only. With tau = 1 every bit is copied.
///
/// A target of 16 bits moves by whole ulps: at tau = 0.005, one of bfloat16 that is 0.25 away from
/// 1 would never move. The default refuses that; see SoftUpdateOptions.
///
/// Throws std::invalid_argument for tau and options out of range, for lists of different tensors,
/// and for a tensor to write that overlaps any tensor of `online`, std::logic_error while an
/// average is swapped into either. If it throws, nothing has changed.
template <class E, ParameterScalar P>
requires(detail::ExecutorOf<E, P>) void soft_update(E&& executor, const Parameters<P>& target,
                                                    const Parameters<P>& online, double tau,
                                                    const SoftUpdateOptions& options = {}) {
  require(tau >= 0 && tau <= 1, "soft_update: tau must lie in [0, 1]", tau);
  detail::check_soft_update(options, detail::dtype_of<P>(), tau);
  if (target.swapped() || online.swapped()) {
    detail::refuse_order(
        "polyak: soft_update() while an average is swapped in; end its guard first");
  }
  detail::require_same(online.layout(), target.layout(), "the online and the target parameters");
  const detail::ParameterList& inputs = ParameterAccess<P>::list(online);
  static_cast<void>(inputs.memory());  // where they are now
  for (std::size_t k = 0; k < target.size(); ++k) {
    const Role role = target[k].info().role;
    if (role != Role::average && role != Role::copy) continue;
    const std::size_t other = inputs.index().first_overlap(target[k].raw(), target[k].bytes());
    if (other != detail::MemoryIndex::none) {
      detail::refuse_value("polyak: soft_update of tensor \"" + target[k].name() +
                           "\", whose memory overlaps the online tensor \"" + online[other].name() +
                           "\"");
    }
  }
  using S = default_state_t<P>;
  const SoftUpdateLaw<S> law{.tau = static_cast<S>(tau)};
  detail::Sweep<P>::check(executor, target);
  std::vector<detail::CopyPiece> copies;
  for (std::size_t k = 0; k < target.size(); ++k) {
    const Role role = target[k].info().role;
    if (role == Role::copy || (role == Role::average && tau == 1)) {
      copies.push_back({target[k].raw(), online[k].raw(), target[k].bytes()});
    }
  }
  if (tau > 0 && tau < 1) {
    const auto averaged = [](const TensorInfo& tensor) { return tensor.role == Role::average; };
    if constexpr (detail::scalar_bytes<element_t<P>> == 2) {
      if (options.accumulate == Accumulate::stochastic) {
        detail::soft_update_at_random(executor, target, online, tau, options);
        return detail::Sweep<P>::copy(target, copies);
      }
    }
    sweep_streams(executor, law, writes(target), reads(online), averaged);
  }
  detail::Sweep<P>::copy(target, copies);
}

/// As above, in the calling thread, or on the device of the lists.
template <ParameterScalar P>
void soft_update(const Parameters<P>& target, const Parameters<P>& online, double tau,
                 const SoftUpdateOptions& options = {}) {
  soft_update(detail::executor_of(target), target, online, tau, options);
}

}  // namespace POLYAK_V0
}  // namespace polyak
