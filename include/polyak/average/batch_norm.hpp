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
/// Above 300 lines: one estimator with three ways to observe, whose registration, passes, merging
/// and restoring share the same buffers.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace v0 {

/// How the statistics of batches become one.
enum class BatchNormPooling : std::uint8_t {
  batches,  ///< every batch counts the same, whatever its size
  samples,  ///< a batch counts by its number of values
  pooled,   ///< mean and variance of all values together
};

[[nodiscard]] constexpr std::string_view name_of(BatchNormPooling value) {
  switch (value) {
    case BatchNormPooling::batches:
      return "batches";
    case BatchNormPooling::samples:
      return "samples";
    default:
      return "pooled";
  }
}

namespace detail {

/// What offers rows (samples), columns (channels) and its elements: Eigen's matrices, arrays, maps
/// and expressions.
template <class X>
concept ActivationMatrix = requires(const X& x) {
  x.rows();
  x.cols();
  x(x.rows(), x.cols());
};

/// A vector or array of Eigen, or a span or container, of floating-point numbers.
template <class X>
concept FloatingVector = (DenseObject<const X> || FlatObject<const X>)&&FloatingScalar<
    std::remove_cvref_t<decltype(*std::declval<const X&>().data())>>;

/// Contiguous numbers without a shape of their own.
template <class X>
concept ActivationArray = FloatingVector<X> && !ActivationMatrix<X>;

template <class Value>
[[nodiscard]] double to_double(const Value& value) {
  if constexpr (std::is_arithmetic_v<Value>) {
    return static_cast<double>(value);
  } else {  // 16-bit numbers have no other way
    return static_cast<double>(static_cast<float>(value));
  }
}

}  // namespace detail

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
      : pooling_(pooling) {}
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
          std::size_t add(std::string name, Mean&& mean, Variance&& variance,
                          std::int64_t* counter = nullptr) {
    static_assert(!detail::dies_with_its_memory<Mean> && !detail::dies_with_its_memory<Variance>,
                  "polyak: a BatchNormEstimator views memory, it cannot keep a temporary alive");
    const auto means = detail::describe_object(mean);
    const auto variances = detail::describe_object(variance);
    static_assert(
        std::same_as<decltype(means.data), T*> && std::same_as<decltype(variances.data), T*>,
        "polyak: BatchNorm statistics must be writable and of the estimator's type");
    refuse_while_running("add()");
    require(!name.empty(), "a BatchNorm layer's name must not be empty", std::string_view(name));
    for (const Layer& other : layers_) {
      require(other.name != name, "a BatchNorm layer's name must be new", std::string_view(name));
    }
    detail::require_contiguous(means.contiguous, name);
    detail::require_contiguous(variances.contiguous, name);
    const std::size_t channels = detail::elements_of(means.shape, name);
    const std::size_t others = detail::elements_of(variances.shape, name);
    require(channels > 0, "layer \"" + name + "\" must have channels; its number of means",
            channels);
    require(
        others == channels,
        "layer \"" + name + "\" must have as many variances as means, " + detail::text(channels),
        others);

    std::vector<Piece> pieces;
    pieces.push_back({means.data, channels * detail::scalar_bytes<T>, name});
    pieces.push_back({variances.data, channels * detail::scalar_bytes<T>, name});
    if (counter != nullptr) pieces.push_back({counter, sizeof *counter, name});
    register_pieces(std::move(pieces), buffers_, [&] {
      Layer layer{std::move(name), means.data, variances.data, counter, channels};
      layer.total.resize(channels);
      layer.before.resize(channels);
      if (batch_.mean.size() < channels) {
        batch_.resize(channels);
        rest_.resize(channels);
      }
      layers_.push_back(std::move(layer));
    });
    return layers_.size() - 1;
  }

  /// Makes `place` hold `value` during a pass, and what it held before when the pass ends, also by
  /// an exception: the training mode of the model, the momenta that a layer is driven with by
  /// factor(). Any trivially copyable type. Throws std::invalid_argument where `place` overlaps
  /// registered memory.
  template <class Value>
  requires std::is_trivially_copyable_v<Value>
  void set_during_pass(Value& place, const std::type_identity_t<Value>& value) {
    static_assert(!std::is_const_v<Value>, "polyak: what a pass sets must be writable");
    refuse_while_running("set_during_pass()");
    std::vector<Piece> pieces;
    pieces.push_back({&place, sizeof value, "set_during_pass"});
    pieces[0].during.resize(sizeof value);
    std::memcpy(pieces[0].during.data(), &value, sizeof value);
    register_pieces(std::move(pieces), held_, [] {});
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
    if (layers_.empty()) return;
    refuse_while_running("estimate()");
    Pass pass(*this);
    for (auto&& batch : batches) {
      forward(batch);
      end_batch();
    }
    if (batch_count_ == 0) {
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
      Layer& target = observed(layer, samples, static_cast<std::size_t>(activations.cols()));
      const auto count = static_cast<std::size_t>(samples);
      using Index = std::remove_cvref_t<decltype(activations.rows())>;
      const auto at = [&](std::size_t row, std::size_t column) {
        return detail::to_double(activations(static_cast<Index>(row), static_cast<Index>(column)));
      };
      if constexpr (requires { requires static_cast<bool>(X::IsRowMajor); }) {
        measure(count, target.channels, 1,
                [&](std::size_t o, std::size_t c, std::size_t) { return at(o, c); });
      } else {
        measure(1, target.channels, count,
                [&](std::size_t, std::size_t c, std::size_t i) { return at(i, c); });
      }
      take(target, samples);
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
    const std::size_t channels = known(layer).channels;
    require(inner >= 1, "inner must be at least 1", inner);
    const auto pixels = static_cast<std::size_t>(inner);
    const std::size_t outer = size / channels / pixels;
    if (outer * channels * pixels != size) {
      refuse(layers_[layer],
             "the number of activations must be a multiple of " + detail::text(channels) +
                 " channels times " + detail::text(inner),
             size);
    }
    const auto samples = static_cast<std::int64_t>(outer * pixels);
    Layer& target = observed(layer, samples, channels);
    const auto* data = activations.data();
    measure(outer, channels, pixels, [&](std::size_t o, std::size_t c, std::size_t i) {
      return detail::widened<double>(data, (o * channels + c) * pixels + i);
    });
    take(target, samples);
  }

  /// The same where the layer has computed its batch's moments: mean and unbiased variance (divided
  /// by samples - 1) per channel, in Eigen vectors, spans or containers, and the values per
  /// channel. Throws as above, and for a negative variance.
  template <detail::FloatingVector Mean, detail::FloatingVector Variance>
  void observe_moments(std::size_t layer, const Mean& mean, const Variance& variance,
                       std::int64_t samples) {
    const Layer& description = known(layer);
    const auto channels = static_cast<std::size_t>(mean.size());
    const auto others = static_cast<std::size_t>(variance.size());
    if (others != channels) {
      refuse(description, "variances must be as many as the means, " + detail::text(channels),
             others);
    }
    for (std::size_t c = 0; c < channels; ++c) {
      const double value = element(variance, c);
      if (value < 0) refuse(description, "a variance must be >= 0", value);
    }
    Layer& target = observed(layer, samples, channels);
    for (std::size_t c = 0; c < target.channels; ++c) {
      batch_.mean[c] = element(mean, c);
      batch_.spread[c] = element(variance, c) * static_cast<double>(samples - 1);
    }
    take(target, samples);
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
    if (pooling_ == BatchNormPooling::pooled) {
      detail::refuse_order("polyak: BatchNormPooling::pooled has no factor; observe the layer");
    }
    Layer& target = observed(layer, samples, known(layer).channels);
    target.seen = Seen::by_layer;
    target.samples = samples;
    const double own = weight(1, samples);
    return own / (weight(target.total.batches, target.total.samples) + own);
  }

  /// Joins in what another estimator, of other batches of the same layers, has found: exactly what
  /// one pass over both would have given, up to rounding. The layers' memory then holds the joint
  /// statistics. An estimator without a pass contributes nothing, or takes over all.
  ///
  /// Throws std::invalid_argument where layers or pooling differ, std::logic_error during a pass.
  void merge(const BatchNormEstimator& other) {
    bool same = layers_.size() == other.layers_.size();
    for (std::size_t k = 0; same && k < layers_.size(); ++k) {
      same = layers_[k].name == other.layers_[k].name;
    }
    if (!same) {
      detail::refuse_value("polyak: merge() needs the same BatchNorm layers in the same order");
    }
    other.refuse_while_running("merge()");
    merge(other.statistics());
  }

  /// The same with the statistics() of another process.
  void merge(std::span<const double> statistics) {
    refuse_while_running("merge()");
    check(statistics);
    const double* next = statistics.data() + 2;
    for (Layer& layer : layers_) {
      const auto batches = static_cast<std::int64_t>(next[1]);
      const auto samples = static_cast<std::int64_t>(next[2]);
      join(layer.total, batches, samples, next + 3, next + 3 + layer.channels);
      if (layer.total.batches != 0) write(layer);
      next += 3 + 2 * layer.channels;
    }
  }

  /// All that merge() needs, to be sent to another process: numbers in double, always as many for
  /// the same layers. They are the pooling and the number of layers; then for each layer its number
  /// of channels, of batches and of values per channel, the means, and the variances (with pooled:
  /// the sums of squared deviations).
  [[nodiscard]] std::vector<double> statistics() const {
    std::vector<double> all{static_cast<double>(pooling_), static_cast<double>(layers_.size())};
    for (const Layer& layer : layers_) {
      all.push_back(static_cast<double>(layer.channels));
      all.push_back(static_cast<double>(layer.total.batches));
      all.push_back(static_cast<double>(layer.total.samples));
      all.insert(all.end(), layer.total.mean.begin(), layer.total.mean.end());
      all.insert(all.end(), layer.total.spread.begin(), layer.total.spread.end());
    }
    return all;
  }

  [[nodiscard]] BatchNormPooling pooling() const { return pooling_; }

  /// Number of layers.
  [[nodiscard]] std::size_t size() const { return layers_.size(); }

 private:
  /// Of one batch or of several.
  struct Moments {
    std::int64_t batches = 0, samples = 0;
    std::vector<double> mean, spread;  ///< spread: variances; pooled: sums of squared deviations

    void resize(std::size_t channels) {
      mean.resize(channels);
      spread.resize(channels);
    }
  };
  enum class Seen : std::uint8_t { not_yet, here, by_layer };
  struct Layer {
    std::string name;
    T* mean;
    T* variance;
    std::int64_t* counter;
    std::size_t channels;
    Moments total{}, before{};  ///< of this pass, and of the one before it
    Seen seen = Seen::not_yet;
    std::int64_t samples = 0;  ///< of this batch, where seen by the layer alone
  };
  /// Memory that an unsuccessful pass restores, or any pass.
  struct Piece {
    void* place;
    std::size_t bytes;
    std::string name;
    std::vector<std::byte> saved{}, during{};
  };

  /// Restores, when it ends, everything that the pass must not leave changed.
  struct Pass {
    BatchNormEstimator& estimator;
    bool succeeded = false;

    explicit Pass(BatchNormEstimator& of) : estimator(of) { estimator.begin_pass(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() { estimator.end_pass(succeeded); }
  };

  void begin_pass() noexcept {
    running_ = true;
    batch_count_ = 0;
    for (auto* pieces : {&buffers_, &held_}) {
      for (Piece& piece : *pieces) std::memcpy(piece.saved.data(), piece.place, piece.bytes);
    }
    for (Piece& piece : held_) std::memcpy(piece.place, piece.during.data(), piece.bytes);
    for (Layer& layer : layers_) {
      std::swap(layer.total, layer.before);
      layer.total.batches = layer.total.samples = 0;
      layer.seen = Seen::not_yet;
      for (std::size_t c = 0; c < layer.channels; ++c) {
        detail::narrow_into(layer.mean, c, 0.0);
        detail::narrow_into(layer.variance, c, 1.0);
      }
      if (layer.counter != nullptr) *layer.counter = 0;
    }
  }

  void end_batch() {
    ++batch_count_;
    for (const Layer& layer : layers_) {
      if (layer.seen == Seen::not_yet) {
        detail::refuse_order("polyak: BatchNorm layer \"" + layer.name +
                             "\" was not observed in batch " + detail::text(batch_count_));
      }
    }
    for (Layer& layer : layers_) {
      if (layer.seen == Seen::here) {
        write(layer);
      } else {
        for (std::size_t c = 0; c < layer.channels; ++c) {
          layer.total.mean[c] = detail::widened<double>(layer.mean, c);
          layer.total.spread[c] = detail::widened<double>(layer.variance, c);
        }
        ++layer.total.batches;
        layer.total.samples += layer.samples;
        if (layer.counter != nullptr) *layer.counter = layer.total.batches;
      }
      layer.seen = Seen::not_yet;
    }
  }

  void end_pass(bool succeeded) noexcept {
    running_ = false;
    if (!succeeded) {
      for (Piece& piece : buffers_) std::memcpy(piece.place, piece.saved.data(), piece.bytes);
      for (Layer& layer : layers_) std::swap(layer.total, layer.before);
    }
    for (Piece& piece : held_) std::memcpy(piece.place, piece.saved.data(), piece.bytes);
  }

  /// Adds to `list` what overlaps nothing registered, after `more()`; all or nothing.
  template <class More>
  void register_pieces(std::vector<Piece> pieces, std::vector<Piece>& list, More more) {
    for (std::size_t k = 0; k < pieces.size(); ++k) {
      const auto require_apart = [&](const Piece& other) {
        if (detail::overlap(pieces[k].place, pieces[k].bytes, other.place, other.bytes)) {
          detail::refuse_value("polyak: memory of \"" + pieces[k].name +
                               "\" overlaps memory of \"" + other.name +
                               "\" in a BatchNormEstimator");
        }
      };
      for (const Piece& other : buffers_) require_apart(other);
      for (const Piece& other : held_) require_apart(other);
      for (std::size_t i = 0; i < k; ++i) require_apart(pieces[i]);
      pieces[k].saved.resize(pieces[k].bytes);
    }
    list.reserve(list.size() + pieces.size());
    more();
    for (Piece& piece : pieces) list.push_back(std::move(piece));
  }

  template <class Value>
  [[noreturn]] POLYAK_COLD static void refuse(const Layer& layer, std::string_view rule,
                                              Value value) {
    detail::refuse_argument("BatchNorm layer \"" + layer.name + "\": " + std::string(rule), value);
  }

  void refuse_while_running(std::string_view call) const {
    if (running_) {
      detail::refuse_order("polyak: " + std::string(call) +
                           " during a pass over the batches of a BatchNormEstimator");
    }
  }

  [[nodiscard]] const Layer& known(std::size_t layer) const {
    require(layer < layers_.size(), "a BatchNorm layer's number must be one that add() returned",
            layer);
    return layers_[layer];
  }

  /// The layer, where it may be observed now with that many values in that many channels.
  [[nodiscard]] Layer& observed(std::size_t number, std::int64_t samples, std::size_t channels) {
    const Layer& layer = known(number);
    if (!running_) {
      detail::refuse_order("polyak: BatchNorm layer \"" + layer.name +
                           "\" was observed outside of estimate()");
    }
    if (layer.seen != Seen::not_yet) {
      detail::refuse_order("polyak: BatchNorm layer \"" + layer.name +
                           "\" was observed twice in batch " + detail::text(batch_count_ + 1));
    }
    if (channels != layer.channels) {
      refuse(layer, "the channels must be " + detail::text(layer.channels), channels);
    }
    if (samples < 2) refuse(layer, "a batch must have at least 2 values per channel", samples);
    return layers_[number];
  }

  /// Means and squared deviations of a batch, in two passes. The second one also gives what
  /// rounding left of the mean.
  template <class At>
  void measure(std::size_t outer, std::size_t channels, std::size_t inner, At at) {
    const auto count = static_cast<double>(outer * inner);
    std::vector<double>& mean = batch_.mean;
    std::vector<double>& spread = batch_.spread;
    std::fill_n(mean.begin(), channels, 0.0);
    for (std::size_t o = 0; o < outer; ++o) {
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (std::size_t i = 0; i < inner; ++i) sum += at(o, c, i);
        mean[c] += sum;
      }
    }
    for (std::size_t c = 0; c < channels; ++c) mean[c] /= count;
    std::fill_n(spread.begin(), channels, 0.0);
    std::fill_n(rest_.begin(), channels, 0.0);
    for (std::size_t o = 0; o < outer; ++o) {
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = 0, squares = 0;
        for (std::size_t i = 0; i < inner; ++i) {
          const double deviation = at(o, c, i) - mean[c];
          sum += deviation;
          squares += deviation * deviation;
        }
        rest_[c] += sum;
        spread[c] += squares;
      }
    }
    for (std::size_t c = 0; c < channels; ++c) {
      mean[c] += rest_[c] / count;
      spread[c] -= rest_[c] * rest_[c] / count;
      if (spread[c] < 0) spread[c] = 0;
    }
  }

  /// Adds the batch that was measured last.
  void take(Layer& layer, std::int64_t samples) {
    if (pooling_ != BatchNormPooling::pooled) {
      for (std::size_t c = 0; c < layer.channels; ++c) {
        batch_.spread[c] /= static_cast<double>(samples - 1);
      }
    }
    join(layer.total, 1, samples, batch_.mean.data(), batch_.spread.data());
    layer.seen = Seen::here;
  }

  [[nodiscard]] double weight(std::int64_t batches, std::int64_t samples) const {
    return static_cast<double>(pooling_ == BatchNormPooling::batches ? batches : samples);
  }

  /// total <- total and the other moments together. The first are copied.
  void join(Moments& total, std::int64_t batches, std::int64_t samples, const double* mean,
            const double* spread) const {
    if (batches == 0) return;
    const double before = weight(total.batches, total.samples);
    const double gain = weight(batches, samples) / (before + weight(batches, samples));
    for (std::size_t c = 0; c < total.mean.size(); ++c) {
      if (total.batches == 0) {
        total.mean[c] = mean[c];
        total.spread[c] = spread[c];
        continue;
      }
      const double step = mean[c] - total.mean[c];
      total.mean[c] += gain * step;
      if (pooling_ == BatchNormPooling::pooled) {
        total.spread[c] += spread[c] + step * step * before * gain;
      } else {
        total.spread[c] += gain * (spread[c] - total.spread[c]);
      }
    }
    total.batches += batches;
    total.samples += samples;
  }

  void write(Layer& layer) const {
    const Moments& total = layer.total;
    const bool pooled = pooling_ == BatchNormPooling::pooled;
    const double divisor = pooled ? static_cast<double>(total.samples - 1) : 1;
    for (std::size_t c = 0; c < layer.channels; ++c) {
      detail::narrow_into(layer.mean, c, total.mean[c]);
      detail::narrow_into(layer.variance, c, total.spread[c] / divisor);
    }
    if (layer.counter != nullptr) *layer.counter = total.batches;
  }

  /// Refuses numbers that statistics() of the same layers cannot have given.
  void check(std::span<const double> statistics) const {
    std::size_t size = 2;
    for (const Layer& layer : layers_) size += 3 + 2 * layer.channels;
    require(statistics.size() == size,
            "the statistics to merge must have " + detail::text(size) + " numbers",
            statistics.size());
    require(statistics[0] == static_cast<double>(pooling_),
            "the statistics to merge must be pooled by " + std::string(name_of(pooling_)) + ", " +
                detail::text(static_cast<double>(pooling_)),
            statistics[0]);
    require(statistics[1] == static_cast<double>(layers_.size()),
            "the statistics to merge must be of " + detail::text(layers_.size()) + " layers",
            statistics[1]);
    const double* next = statistics.data() + 2;
    for (const Layer& layer : layers_) {
      if (next[0] != static_cast<double>(layer.channels)) {
        refuse(layer, "the channels to merge must be " + detail::text(layer.channels), next[0]);
      }
      for (const double count : {next[1], next[2]}) {
        if (!(count >= 0 && count <= 0x1p53 && std::floor(count) == count)) {
          refuse(layer, "counts to merge must be whole and >= 0", count);
        }
      }
      if (!(next[2] >= 2 * next[1])) {
        refuse(layer, "batches to merge must have at least 2 values per channel each", next[2]);
      }
      next += 3 + 2 * layer.channels;
    }
  }

  /// The k-th number of a vector or container.
  template <class Object>
  [[nodiscard]] static double element(const Object& object, std::size_t k) {
    if constexpr (detail::DenseObject<const Object>) {
      return detail::widened<double>(object.data(),
                                     k * static_cast<std::size_t>(object.innerStride()));
    } else {
      return detail::widened<double>(object.data(), k);
    }
  }

  BatchNormPooling pooling_;
  std::vector<Layer> layers_;
  std::vector<Piece> buffers_, held_;
  Moments batch_;             ///< scratch, of the layer with most channels
  std::vector<double> rest_;  ///< the same
  bool running_ = false;
  std::int64_t batch_count_ = 0;
};

}  // namespace v0
}  // namespace polyak
