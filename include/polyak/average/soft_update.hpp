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
#include <vector>

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/stream_checks.hpp>
#include <polyak/core/streams.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/memory_space.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// target + tau (online - target)
template <class T>
struct SoftUpdateLaw {
  using Value = T;
  static constexpr LawStreams streams{.updates = true, .rare = true};
  T tau;
  template <class V>
  POLYAK_LAW void operator()(V& target, const V& online) const {
    target = interpolate(target, online, tau);
  }
};

/// One soft update, tau in [0, 1], of all weights (Role::average); buffers (Role::copy) are copied,
/// tensors with Role::ignore or Role::frozen are left alone, and may be shared by both lists. Reads
/// `online` only. With tau = 1 every bit is copied.
///
/// Throws std::invalid_argument for tau out of range, for lists of different tensors, and for a
/// tensor to write that overlaps any tensor of `online`, std::logic_error while an average is
/// swapped into either. If it throws, nothing has changed.
template <class E, ParameterScalar P>
requires(detail::ExecutorOf<E, P>) void soft_update(E&& executor, const Parameters<P>& target,
                                                    const Parameters<P>& online, double tau) {
  require(tau >= 0 && tau <= 1, "soft_update: tau must lie in [0, 1]", tau);
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
    sweep_streams(executor, law, writes(target), reads(online), averaged);
  }
  detail::Sweep<P>::copy(target, copies);
}

/// As above, in the calling thread, or on the device of the lists.
template <ParameterScalar P>
void soft_update(const Parameters<P>& target, const Parameters<P>& online, double tau) {
  soft_update(detail::executor_of(target), target, online, tau);
}

}  // namespace POLYAK_V0
}  // namespace polyak
