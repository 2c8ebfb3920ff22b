// SPDX-License-Identifier: Apache-2.0
/// @file
/// The layers of a BatchNormEstimator (average/batch_norm.hpp) without the type of their
/// statistics: what is registered, the batches of a pass, what is joined and sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <polyak/average/engine/batch_norm_moments.hpp>
#include <polyak/average/engine/pass_memory.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/layout.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// How statistics of one type are read and written.
struct BatchNormNumbers {
  std::size_t bytes;
  double (*load)(const void* data, std::size_t index);
  void (*store)(void* data, std::size_t index, double value);
};
template <FloatingScalar T>
inline constexpr BatchNormNumbers batch_norm_numbers{
    scalar_bytes<T>,
    [](const void* data, std::size_t k) { return widened<double>(static_cast<const T*>(data), k); },
    [](void* data, std::size_t k, double value) { narrow_into(static_cast<T*>(data), k, value); }};

/// Memory of a user's, as it is registered.
struct BatchNormArray {
  void* data;
  Shape shape;
  bool contiguous;
};

struct BatchNormLayer {
  enum class Seen : std::uint8_t { not_yet, here, by_layer };
  std::string name;
  void* mean;
  void* variance;
  std::int64_t* counter;
  std::size_t channels;
  BatchNormMoments total{}, before{};  ///< of this pass, and of the one before it
  Seen seen = Seen::not_yet;
  std::int64_t samples = 0;  ///< of this batch, where seen by the layer alone
};

/// A template of one instance, so that programs without a BatchNormEstimator do not compile it.
template <class Numbers>
class BatchNormLayersOf {
 public:
  BatchNormLayersOf(BatchNormPooling pooling, const Numbers& numbers)
      : pooling_(pooling), numbers_(&numbers) {}

  [[nodiscard]] BatchNormPooling pooling() const { return pooling_; }
  [[nodiscard]] std::size_t size() const { return layers_.size(); }

  // ---- what is registered

  std::size_t add(std::string name, const BatchNormArray& means, const BatchNormArray& variances,
                  std::int64_t* counter);
  void set_during_pass(void* place, const void* value, std::size_t bytes);
  void refuse_while_running(std::string_view call) const;

  // ---- a pass over batches

  void begin_pass() noexcept;
  void end_batch();
  void end_pass(bool succeeded) noexcept;
  [[nodiscard]] std::int64_t batches() const { return batch_count_; }

  /// Throws std::invalid_argument for a number that add() did not return.
  [[nodiscard]] const BatchNormLayer& known(std::size_t layer) const;
  /// The layer, where it may be observed now with that many values in that many channels.
  [[nodiscard]] BatchNormLayer& observed(std::size_t number, std::int64_t samples,
                                         std::size_t channels);
  /// The moments of the batch that is observed: measure them, then take() them.
  [[nodiscard]] BatchNormBatch& batch() { return batch_; }
  void take(BatchNormLayer& layer, std::int64_t samples);
  [[nodiscard]] double factor(std::size_t layer, std::int64_t samples);

  // ---- what other estimators found

  void require_same(const BatchNormLayersOf& other) const;
  void merge(std::span<const double> statistics);
  [[nodiscard]] std::vector<double> statistics() const;

 private:
  void check(std::span<const double> statistics) const;
  void write(const BatchNormLayer& layer) const;

  BatchNormPooling pooling_;
  const Numbers* numbers_;
  std::vector<BatchNormLayer> layers_;
  PassMemory memory_;
  BatchNormBatch batch_;
  bool running_ = false;
  std::int64_t batch_count_ = 0;
};
using BatchNormLayers = BatchNormLayersOf<BatchNormNumbers>;

/// A refusal that names the layer.
template <class Value>
[[noreturn]] POLYAK_COLD void refuse_layer(const BatchNormLayer& layer, std::string_view rule,
                                           Value value) {
  refuse_argument("BatchNorm layer \"" + layer.name + "\": " + std::string(rule), value);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

#if defined(POLYAK_COMPILED)
extern template class polyak::detail::BatchNormLayersOf<polyak::detail::BatchNormNumbers>;
#else
#include <polyak/average/engine/batch_norm_layers.ipp>
#endif
