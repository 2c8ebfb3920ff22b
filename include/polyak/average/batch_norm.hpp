// SPDX-License-Identifier: Apache-2.0
/// @file
/// BatchNormEstimator: BatchNorm statistics for averaged weights, by one pass over data.
///
/// The running statistics that training left belong to other weights than the average, and
/// averaging them does not give those of the averaged model: they are estimated anew. Of batch j =
/// 1, 2, ... with b values per channel, after n values in earlier batches:
///
///   m_j = sum x / b        v_j = sum (x - m_j)^2 / (b - 1)
///   batches   mean += (m_j - mean) / j              variance += (v_j - variance) / j
///   samples   mean += (m_j - mean) b / (n + b)      variance += (v_j - variance) b / (n + b)
///   pooled    mean as with samples                  variance of all N values together, which is
///             (sum_j (b_j - 1) v_j + sum_j b_j (m_j - mean)^2) / (N - 1)
///
/// The first two average the variances within batches and lack the variance of the batches' means.
/// Sums are kept in double; the batches' moments are joined as means and squared deviations, so a
/// mean far larger than the spread costs no digits that the data have.
///
/// "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407);
/// "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift"
/// (arXiv 1502.03167).
///
/// Parts without a type are in average/engine: batch_norm_layers.hpp, batch_norm_moments.hpp,
/// pass_memory.hpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <polyak/average/engine/activations.hpp>
#include <polyak/average/engine/batch_norm_layers.hpp>
#include <polyak/average/engine/batch_norm_moments.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// Estimates the running means and variances of BatchNorm layers, whose memory it writes in place.
///
///   polyak::BatchNormEstimator<float> estimator;
///   estimator.add("bn1", bn1.running_mean, bn1.running_var, &bn1.num_batches);  // layer 0
///   estimator.set_during_pass(model.training, true);
///   ...
///   const auto guard = swa.swap_into(params);
///   estimator.estimate(batches, [&](const Batch& b) { model.forward(b, estimator); });
///   // in forward, where layer 0 has its input x (samples x channels): estimator.observe(0, x);
///
/// T is the type of the statistics: float, double, or a 16-bit type of Eigen. Under a guard,
/// statistics that `params` holds with Role::copy are swapped with the weights, and those of
/// training return when it ends: to keep the averaged model, copy_to() a second one and estimate
/// there. Not for use by several threads at once.
///
/// NaN and infinity are not refused: they make the statistics of their channel non-finite.
template <FloatingScalar T>
class BatchNormEstimator {
 public:
  explicit BatchNormEstimator(BatchNormPooling pooling = BatchNormPooling::batches)
      : layers_(pooling, detail::batch_norm_numbers<T>) {}
  BatchNormEstimator(const BatchNormEstimator&) = delete;  // two would write the same memory
  BatchNormEstimator& operator=(const BatchNormEstimator&) = delete;
  BatchNormEstimator(BatchNormEstimator&&) = default;             // NOLINT(*-noexcept-move-*)
  BatchNormEstimator& operator=(BatchNormEstimator&&) = default;  // NOLINT(*-noexcept-move-*)

  /// Registers the memory of a layer: running means and (unbiased) variances, one per channel, as
  /// Eigen vectors, spans or containers of T, and the layer's count of batches where it has one.
  /// All of it must outlive the estimator. Returns the layer's number: 0, 1, 2, ...
  ///
  /// Throws std::invalid_argument for an empty or used name, no channels, means and variances of
  /// different number, strides, and memory that overlaps other registered memory.
  template <class Mean, class Variance>
  requires detail::Registrable<std::remove_reference_t<Mean>> &&
      detail::Registrable<std::remove_reference_t<Variance>>
          std::size_t add(const std::string& name, Mean&& mean, Variance&& variance,
                          std::int64_t* counter = nullptr) {
    static_assert(!detail::dies_with_its_memory<Mean> && !detail::dies_with_its_memory<Variance>,
                  "polyak: a BatchNormEstimator views memory, it cannot keep a temporary alive");
    const auto means = detail::describe_object(mean);
    const auto variances = detail::describe_object(variance);
    static_assert(
        std::same_as<decltype(means.data), T*> && std::same_as<decltype(variances.data), T*>,
        "polyak: BatchNorm statistics must be writable and of the estimator's type");
    return layers_.add(name, {means.data, means.shape, means.contiguous},
                       {variances.data, variances.shape, variances.contiguous}, counter);
  }

  /// Makes `place` hold `value` during a pass, and what it held before when the pass ends, also by
  /// an exception: the training mode of the model, the momenta that a layer is driven with by
  /// factor(). Any trivially copyable type. Throws std::invalid_argument where `place` overlaps
  /// registered memory.
  template <class Value>
  requires std::is_trivially_copyable_v<Value>
  void set_during_pass(Value& place, const std::type_identity_t<Value>& value) {
    static_assert(!std::is_const_v<Value>, "polyak: what a pass sets must be writable");
    layers_.set_during_pass(&place, &value, sizeof value);
  }

  /// One pass: means become 0, variances 1, counts 0; then `forward(batch)` runs for each element
  /// of the range `batches`, and must give every layer once to observe() or factor(). After each
  /// batch the statistics are those of the batches so far. Without layers it returns at once and
  /// reads no batch.
  ///
  /// Throws std::invalid_argument where there is no batch, std::logic_error for a layer that was
  /// not observed, and whatever `forward` throws. The statistics, counts and all that
  /// set_during_pass() names are then what they were, bit for bit.
  template <class Batches, class Forward>
  void estimate(Batches&& batches, Forward&& forward) {
    if (layers_.size() == 0) return;
    layers_.refuse_while_running("estimate()");
    Pass pass(*this);
    for (auto&& batch : batches) {
      forward(batch);
      layers_.end_batch();
    }
    if (layers_.batches() == 0) {
      detail::refuse_value("polyak: BatchNorm statistics need at least one batch, got none");
    }
    pass.succeeded = true;
  }

  /// The input of a layer in this batch, samples x channels: an Eigen matrix, array, map or
  /// expression of numbers, in either order. The layer's statistics are written after the batch, so
  /// it may update them itself in the meantime.
  ///
  /// Throws std::invalid_argument for a number that add() did not return, a wrong number of
  /// channels, and fewer than 2 samples (which have no variance); std::logic_error outside of a
  /// pass and for a second observation in one batch. A layer that a forward pass uses twice
  /// (shared weights) is observed once, with both inputs as one matrix.
  template <detail::ActivationMatrix X>
  void observe(std::size_t layer, const X& activations) {
    if constexpr (
        requires { activations.eval(); } && !requires { activations.data(); }) {
      observe(layer, activations.eval());  // not for each element, and both passes, anew
    } else {
      const auto samples = static_cast<std::int64_t>(activations.rows());
      detail::BatchNormLayer& target =
          layers_.observed(layer, samples, static_cast<std::size_t>(activations.cols()));
      const auto count = static_cast<std::size_t>(samples);
      using Index = std::remove_cvref_t<decltype(activations.rows())>;
      const auto at = [&](std::size_t row, std::size_t column) {
        return detail::to_double(activations(static_cast<Index>(row), static_cast<Index>(column)));
      };
      if constexpr (requires { requires static_cast<bool>(X::IsRowMajor); }) {
        layers_.batch().measure(
            count, target.channels, 1,
            [&](std::size_t o, std::size_t c, std::size_t) { return at(o, c); });
      } else {
        layers_.batch().measure(
            1, target.channels, count,
            [&](std::size_t, std::size_t c, std::size_t i) { return at(i, c); });
      }
      layers_.take(target, samples);
    }
  }

  /// The same of contiguous memory: a span, std::vector or std::array of floating-point numbers
  /// shaped [outer, channels, inner], row-major. `inner` is 1 for samples x channels and for images
  /// with channels last, height * width for images with channels first; each channel has
  /// outer * inner samples. Throws as above, and where the size is not a multiple of
  /// channels * inner.
  template <detail::ActivationArray X>
  void observe(std::size_t layer, const X& activations, std::int64_t inner = 1) {
    const auto size = static_cast<std::size_t>(activations.size());
    const std::size_t channels = layers_.known(layer).channels;
    require(inner >= 1, "inner must be at least 1", inner);
    const auto pixels = static_cast<std::size_t>(inner);
    const std::size_t outer = size / channels / pixels;
    if (outer * channels * pixels != size) {
      detail::refuse_layer(layers_.known(layer),
                           "the number of activations must be a multiple of " +
                               detail::text(channels) + " channels times " + detail::text(inner),
                           size);
    }
    const auto samples = static_cast<std::int64_t>(outer * pixels);
    detail::BatchNormLayer& target = layers_.observed(layer, samples, channels);
    const auto* data = activations.data();
    layers_.batch().measure(outer, channels, pixels,
                            [&](std::size_t o, std::size_t c, std::size_t i) {
                              return detail::widened<double>(data, (o * channels + c) * pixels + i);
                            });
    layers_.take(target, samples);
  }

  /// The same where the layer has computed its batch's moments: mean and unbiased variance (divided
  /// by samples - 1) per channel, in Eigen vectors, spans or containers, and the values per
  /// channel. Throws as above, and for a negative variance.
  template <detail::FloatingVector Mean, detail::FloatingVector Variance>
  void observe_moments(std::size_t layer, const Mean& mean, const Variance& variance,
                       std::int64_t samples) {
    const detail::BatchNormLayer& description = layers_.known(layer);
    const auto channels = static_cast<std::size_t>(mean.size());
    const auto others = static_cast<std::size_t>(variance.size());
    if (others != channels) {
      detail::refuse_layer(
          description, "variances must be as many as the means, " + detail::text(channels), others);
    }
    for (std::size_t c = 0; c < channels; ++c) {
      const double value = detail::element(variance, c);
      if (value < 0) detail::refuse_layer(description, "a variance must be >= 0", value);
    }
    detail::BatchNormLayer& target = layers_.observed(layer, samples, channels);
    detail::BatchNormBatch& batch = layers_.batch();
    for (std::size_t c = 0; c < target.channels; ++c) {
      batch.mean[c] = detail::element(mean, c);
      batch.spread[c] = detail::element(variance, c) * static_cast<double>(samples - 1);
    }
    layers_.take(target, samples);
  }

  /// Instead of observe(): the factor f, 1/j or b / (n + b), by which a layer that updates its own
  /// statistics must do so in this batch of `samples` values per channel,
  ///
  ///   mean += f (m_j - mean)      variance += f (v_j - variance)
  ///
  /// as layers with a settable momentum do: `bn.momentum = estimator.factor(layer, x.rows())`. The
  /// rounding is then the layer's. Throws as observe(); there is none with pooled
  /// (std::logic_error).
  [[nodiscard]] double factor(std::size_t layer, std::int64_t samples) {
    return layers_.factor(layer, samples);
  }

  /// Joins in what another estimator, of other batches of the same layers, has found: exactly what
  /// one pass over both would have given, up to rounding. The layers' memory then holds the joint
  /// statistics. An estimator without a pass contributes nothing, or takes over all.
  ///
  /// Throws std::invalid_argument where layers or pooling differ, std::logic_error during a pass.
  void merge(const BatchNormEstimator& other) {
    layers_.require_same(other.layers_);
    other.layers_.refuse_while_running("merge()");
    merge(other.statistics());
  }

  /// The same with the statistics() of another process.
  void merge(std::span<const double> statistics) { layers_.merge(statistics); }

  /// All that merge() needs, to be sent to another process: numbers in double, always as many for
  /// the same layers. They are the pooling and the number of layers; then for each layer its number
  /// of channels, of batches and of values per channel, the means, and the variances (with pooled:
  /// the sums of squared deviations).
  [[nodiscard]] std::vector<double> statistics() const { return layers_.statistics(); }

  [[nodiscard]] BatchNormPooling pooling() const { return layers_.pooling(); }

  /// Number of layers.
  [[nodiscard]] std::size_t size() const { return layers_.size(); }

 private:
  /// Restores, when it ends, everything that the pass must not leave changed.
  struct Pass {
    detail::BatchNormLayers& layers;
    bool succeeded = false;

    explicit Pass(BatchNormEstimator& of) : layers(of.layers_) { layers.begin_pass(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() { layers.end_pass(succeeded); }
  };

  detail::BatchNormLayers layers_;
};

}  // namespace POLYAK_V0
}  // namespace polyak
