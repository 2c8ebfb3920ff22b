// SPDX-License-Identifier: Apache-2.0
/// @file
/// clip_norm for gradients on a device, with the same bits as core/clip.hpp on the host. The norm
/// and the coefficient stay on the device; nothing waits for them.
#pragma once

#if !defined(__CUDACC__) && !defined(POLYAK_CUDA_EMULATION)
#error "polyak/cuda/clip.hpp holds kernels: compile this file with nvcc (name it .cu)"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include <polyak/core/fold.hpp>
#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/launch.hpp>
#include <polyak/cuda/reduce.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {
namespace detail {

/// Indices of the numbers of clipping. Gradients point to the first.
enum ClipPlace : std::size_t {
  clip_coefficient_place,
  clip_norm_place,
  clip_scale_place,
  clip_places
};

/// Computes the norm with the scale, and the coefficient, from the norm of the gradients in memory.
/// A captured graph reads the scale that prepare() of the step has written.
struct ClipKernel {
  const double* norm;
  double* places;
  double scale, max_norm;
  bool scale_written;

  POLYAK_LAW void operator()(unsigned block, unsigned thread, unsigned) const {
    if (block != 0 || thread != 0) return;
    const double scaled = (scale_written ? places[clip_scale_place] : scale) * *norm;
    places[clip_norm_place] = scaled;
    places[clip_coefficient_place] = polyak::detail::clip_coefficient(scaled, max_norm);
  }
};

/// Writes a scale for the graph of a captured clip_norm().
inline void write_scale(DeviceSpace& space, const double* coefficient, double scale) {
  std::uint64_t word;
  std::memcpy(&word, &scale, sizeof word);
  write_words(space, const_cast<double*>(coefficient) + clip_scale_place, &word, 1);
}

}  // namespace detail

/// Memory on a device for clip_norm(): the reduction, the norm, the coefficient. Construct it once
/// and use it in every step. For one thread at a time, like its executor.
template <FloatingScalar T>
class ClipWorkspace {
 public:
  /// For the norm of all gradients, or of the selected ones. Throws std::bad_alloc or
  /// cuda::error if there is no memory.
  ClipWorkspace(const Executor& executor, const Gradients<T>& gradients,
                const Selection& selection = {})
      : executor_(executor),
        norms_(executor, gradients,
               [&](std::size_t k) {
                 const TensorInfo& tensor = gradients.layout()->tensors[k];
                 return polyak::detail::is_trained(tensor.role) && selection(tensor);
               }),
        places_(std::make_shared<Buffer<double>>(executor, detail::clip_places)) {}

  /// The norm of the last call, the scale included: its address on the device.
  [[nodiscard]] const double* norm() const { return places_->data() + detail::clip_norm_place; }
  /// Waits for the stream, and copies the norm of the last call, or of the last replay.
  [[nodiscard]] double read_norm() const { return places_->download()[detail::clip_norm_place]; }

  /// Called by clip_norm().
  void operator()(Gradients<T>& gradients, double max_norm) {
    require(max_norm >= 0, "clip_norm: max_norm must be >= 0", max_norm);
    norms_(stream_of(gradients));
    detail::DeviceSpace& space = *executor_.space();
    const bool captured = space.capturing();
    detail::launch(
        space,
        detail::ClipKernel{norms_.data(), places_->data(), gradients.scale(), max_norm, captured},
        1, "the launch that clips gradients");
    GradientAccess<Device<T>>::set_clip(
        gradients,
        std::shared_ptr<const double>(places_, places_->data() + detail::clip_coefficient_place));
  }

 private:
  Executor executor_;
  Reduction<Norm, T> norms_;
  std::shared_ptr<Buffer<double>> places_;  // shared with clipped gradients
};

/// Clips gradients on a device to a norm, as polyak::clip_norm does on the host. The coefficient
/// stays on the device, and the next steps multiply by it, until another clip_norm() or scale().
/// Allocates nothing and waits for nothing.
///
/// In a captured stream, the graph recomputes norm and coefficient in each replay, with the scale
/// that the gradients have at prepare() of the CapturedStep that reads them, and the max_norm given
/// here. Throws std::invalid_argument unless max_norm >= 0, and for a workspace of another list.
template <FloatingScalar T>
void clip_norm(const Executor&, Gradients<T>& gradients, double max_norm,
               ClipWorkspace<T>& workspace) {
  workspace(gradients, max_norm);
}

/// The same with a new workspace, which is returned for its norm.
template <FloatingScalar T>
ClipWorkspace<T> clip_norm(const Executor& executor, Gradients<T>& gradients, double max_norm) {
  ClipWorkspace<T> workspace(executor, gradients);
  workspace(gradients, max_norm);
  return workspace;
}

}  // namespace cuda

using cuda::clip_norm;

}  // namespace POLYAK_V0
}  // namespace polyak
