// SPDX-License-Identifier: Apache-2.0
/// @file
/// clip_norm: scales gradients down, as they are read, if their norm is too large.
///
///   norm = |scale g|,  coefficient = min(1, max_norm / norm),  read as coefficient scale g
///
/// It costs one extra read of the gradients: optimizers apply the coefficient as they read.
/// Gradients::clip_value() clips single elements; norms() in reduce.hpp computes norms of tensors.
/// "On the difficulty of training Recurrent Neural Networks" (arXiv 1211.5063).
#pragma once

#include <polyak/core/executors/executor.hpp>
#include <polyak/core/fold.hpp>
#include <polyak/core/reduce.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Sets the clip coefficient of the gradients and returns their norm, the scale included. The norm
/// is of all gradients, or of the tensors that the `workspace` takes. The coefficient replaces the
/// one of the last call; the value limit is applied after it. A norm that is NaN or infinite clips
/// nothing; Nonfinite determines what a step then does.
///
/// Allocates nothing if it gets a workspace: `Reduction<Norm> workspace(gradients)`. Throws
/// std::invalid_argument unless max_norm >= 0, and for a workspace of another list.
template <Executor E, FloatingScalar P>
double clip_norm(E&& executor, Gradients<P>& gradients, double max_norm,
                 Reduction<Norm>& workspace) {
  require(max_norm >= 0, "clip_norm: max_norm must be >= 0", max_norm);
  const double norm = gradients.scale() * workspace(executor, stream_of(gradients))[0];
  GradientAccess<P>::set_clip(gradients, detail::clip_coefficient(norm, max_norm));
  return norm;
}

/// The same with a temporary workspace.
template <Executor E, FloatingScalar P>
double clip_norm(E&& executor, Gradients<P>& gradients, double max_norm) {
  Reduction<Norm> workspace(gradients);
  return clip_norm(executor, gradients, max_norm, workspace);
}

/// The same in the calling thread.
template <FloatingScalar P>
double clip_norm(Gradients<P>& gradients, double max_norm) {
  return clip_norm(serial, gradients, max_norm);
}

/// The norm of the selected gradients as a step reads them: with scale, clip coefficient and value
/// limit.
template <Executor E, FloatingScalar P>
[[nodiscard]] double norm_of(E&& executor, const Gradients<P>& gradients,
                             const Selection& selection) {
  const Layout& layout = *gradients.layout();
  Reduction<Norm> workspace(gradients, [&](std::size_t k) {
    return detail::is_trained(layout.tensors[k].role) && selection(layout.tensors[k]);
  });
  return workspace(executor, gradients)[0];
}

}  // namespace POLYAK_V0
}  // namespace polyak
