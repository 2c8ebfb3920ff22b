// SPDX-License-Identifier: Apache-2.0
/// @file
/// CapturedStep: a step in a CUDA graph that is replayed.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <tuple>
#include <vector>

#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/cuda/clip.hpp>
#include <polyak/cuda/executor.hpp>
#include <polyak/cuda/skipped_steps.hpp>
#include <polyak/cuda/sweep.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace cuda {

/// One step() of fixed parameters, gradients and methods, for a CUDA graph that is replayed.
///
///   CapturedStep step(executor, params, gradients, optimizer, ema);   // after the first steps
///   ... cudaStreamBeginCapture; forward and backward; step.record(); cudaStreamEndCapture ...
///   for (;;) { step.prepare(); cudaGraphLaunch(graph, stream); }
///
/// A replay has no arguments of its own, so it reads this step's scalars from the device. prepare()
/// puts them there by a launch in the stream before the replay, without a copy from the host and
/// without waiting. The same holds for clip_norm(), captured before record(). A CapturedStep refers
/// to the given objects, which must not move: each replay reads the gradients from their addresses
/// at construction, with the scale and value limit at its prepare(). The launches of a captured
/// step are fixed. If a later step needs others, because an average rests, copies or switches only
/// in some steps, or because tensors change their groups, prepare() throws std::logic_error with
/// nothing changed: call step() instead of the replay, or capture again. Construct it when the
/// averages have begun, because it uploads the tables of the next step. Nonfinite::propagate only.
/// (CUDA cannot capture the default stream: give the executor one of its own.)
template <class T, class... M>
class CapturedStep {
  using P = Device<T>;

 public:
  CapturedStep(const Executor& executor, const Parameters<T>& params, const Gradients<T>& gradients,
               M&... methods)
      : executor_(executor),
        params_(params),
        gradients_(gradients),
        read_(&gradients),
        methods_(methods...) {
    polyak::detail::require_same(gradients.layout(), params.layout(),
                                 "the gradients' parameters and the parameters");
    (polyak::detail::check_method(methods, params), ...);
    require(((methods.nonfinite() == Nonfinite::propagate) && ...),
            "CapturedStep: nonfinite of all methods must be", std::string_view("propagate"));
    try_out(detail::Recording::Mode::plan);
    recording_.capacity = std::max(recording_.capacity, 2 * recording_.planned * sizeof(double));
    block_ = std::make_unique<polyak::detail::Block>(recording_.capacity, params.layout()->space);
    recording_.block = block_->data();
  }
  CapturedStep(const CapturedStep&) = delete;
  CapturedStep& operator=(const CapturedStep&) = delete;

  /// Puts the launches of a step into the captured stream. No clock advances. Throws
  /// std::logic_error if it cannot, with the clocks unchanged.
  void record() {
    recording_.launches.clear();
    recording_.copies.clear();
    recording_.words.clear();
    coefficient_ = Access::device_clip(*read_);
    try_out(detail::Recording::Mode::record);
  }

  /// Counts a step, and writes its scalars for the next replay.
  void prepare() {
    if (recording_.launches.empty()) {
      polyak::detail::refuse_order("polyak: prepare() of a captured step that was not recorded");
    }
    recording_.mode = detail::Recording::Mode::prepare;
    recording_.differs = false;
    recording_.next = 0;
    const auto clocks = kept();
    advance();
    if (recording_.differs || recording_.next != recording_.launches.size()) {
      restore(clocks);
      polyak::detail::refuse_order(
          "polyak: this step has other passes than the captured one (an average that rests, copies "
          "or switches); call step() instead of the replay, or capture again");
    }
    executor_.space()->await_readers();
    for (const auto& one : recording_.launches) {
      if (one.reads_gradient) one.table->gradients.clear();  // the replay writes its own
    }
    detail::write_words(*executor_.space(), recording_.block, recording_.words.data(),
                        recording_.words.size());
    if (coefficient_ != nullptr) {
      detail::write_scale(*executor_.space(), coefficient_.get(), read_->scale());
    }
  }

 private:
  using Driver = polyak::detail::StepDriver<P>;
  using Access = GradientAccess<P>;

  /// Runs the next step without its effects on the clocks.
  void try_out(detail::Recording::Mode mode) {
    recording_.mode = mode;
    const auto clocks = kept();
    try {
      advance();
    } catch (...) {
      restore(clocks);
      throw;
    }
    restore(clocks);
  }

  void advance() {
    gradients_.scale(read_->scale()).clip_value(read_->value_limit());
    Access::set_clip(gradients_, coefficient_);
    detail::call_state().recording = &recording_;
    const Restore end;
    std::apply(
        [&](M&... methods) {
          polyak::detail::StepMemory<P, M...> memory(methods...);
          const ExecutorRef any(executor_);
          Driver driver(any, params_, &gradients_, memory.parts());
          driver.check();
          driver.advance(driver.everything());
        },
        methods_);
  }
  struct Restore {
    ~Restore() { detail::call_state().recording = nullptr; }
  };

  [[nodiscard]] std::vector<std::vector<std::byte>> kept() {
    std::vector<std::vector<std::byte>> all(sizeof...(M));
    std::size_t k = 0;
    std::apply([&](M&... methods) { (detail::keep_clocks(methods, all[k++]), ...); }, methods_);
    return all;
  }
  void restore(const std::vector<std::vector<std::byte>>& before) {
    const auto after = kept();
    std::size_t k = 0;
    std::apply(
        [&](M&... methods) { ((detail::restore_clocks(methods, before[k], after[k]), ++k), ...); },
        methods_);
  }

  Executor executor_;
  Parameters<T> params_;
  Gradients<T> gradients_;                     // with their addresses at construction
  const Gradients<T>* read_;                   // with their current scale and limit
  std::shared_ptr<const double> coefficient_;  // of clipping, as recorded
  std::tuple<M&...> methods_;
  detail::Recording recording_;
  std::unique_ptr<polyak::detail::Block> block_;
};
template <class T, class... M>
CapturedStep(const Executor&, const polyak::Parameters<Device<T>>&,
             const polyak::Gradients<Device<T>>&, M&...) -> CapturedStep<T, M...>;

}  // namespace cuda
}  // namespace POLYAK_V0
}  // namespace polyak
