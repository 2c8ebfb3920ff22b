// SPDX-License-Identifier: Apache-2.0
/// @file
/// Gradients as a step reads them: element times scale and clip coefficient, then clipped to the
/// value limit; all in the type that the list is computed in.
#pragma once

#include <cstddef>
#include <utility>

#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/stream.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// Makes a gradient what a step reads: times `scale`, then no further from 0 than `limit`. A NaN is
/// kept. V is a pack or a single number. If `clips` is false, the limits are infinite and are not
/// applied.
template <class V>
POLYAK_LAW void read_gradient(V& gradient, const V& scale, const V& limit, const V& lower_limit,
                              bool clips) {
  gradient = gradient * scale;
  if (clips) [[unlikely]] {
    POLYAK_KEEP_BRANCH();
    gradient = select(limit < gradient, limit, gradient);
    gradient = select(gradient < lower_limit, lower_limit, gradient);
  }
}

/// How gradients are read, in the type of the list.
template <class V>
struct GradientFactor {
  V scale, limit, lower_limit;
  bool clips;

  template <class T>
  POLYAK_INLINE GradientFactor(T factor, T most, bool clipped)
      : scale(factor), limit(most), lower_limit(-most), clips(clipped) {}
  POLYAK_INLINE void apply(V& gradient) const {
    read_gradient(gradient, scale, limit, lower_limit, clips);
  }
};

/// The same without a limit.
template <class V>
struct GradientScale {
  V scale;

  template <class T>
  POLYAK_INLINE explicit GradientScale(T factor) : scale(factor) {}
  POLYAK_INLINE void apply(V& gradient) const { gradient = gradient * scale; }
};

/// A gradient times this factor overflows in T where the gradient, as a step reads it, is larger
/// than `most` or overflows. The factor is at least 1.
template <class T>
[[nodiscard]] POLYAK_LAW T overflow_factor(double most, double scale, double limit) {
  constexpr double largest_double = 0x1.fffffffffffffp1023;  // numeric_limits is for the host only
  constexpr double highest = sizeof(T) == 4 ? 0x1.fffffep127 : largest_double;
  const bool clips = limit <= largest_double;
  if (clips && limit <= most) return 1;  // no gradient is read as more than the value limit
  const double factor = most < highest ? highest / most * scale : scale;
  return factor > 1 ? static_cast<T>(factor < highest ? factor : highest) : T(1);
}

// ---- for folds ---------------------------------------------------------------------------------

/// The gradients of a list as a step reads them.
template <FloatingScalar E>
struct GradientStream : Stream<const E> {
  GradientReading reading;
};
template <class S>
inline constexpr bool is_gradient_stream = false;
template <class E>
inline constexpr bool is_gradient_stream<GradientStream<E>> = true;

/// The stream that a reduction folds: gradients as a step reads them, other sources as stored.
template <class Source>
[[nodiscard]] auto folded_stream(const Source& source) {
  return stream_of(source);
}
template <ParameterScalar P>
[[nodiscard]] GradientStream<element_t<P>> folded_stream(const Gradients<P>& gradients) {
  return {stream_of(gradients), GradientAccess<P>::reading(gradients)};
}

template <class E>
[[nodiscard]] GradientReading reading_of(const Stream<const E>&) {
  return {};
}
template <class E>
[[nodiscard]] GradientReading reading_of(const GradientStream<E>& stream) {
  return stream.reading;
}
/// Whether elements are read as they are stored.
[[nodiscard]] inline bool reads_as_stored(const GradientReading& reading) {
  return reading.scale == 1 && !is_finite(reading.limit);
}

/// A pointer to gradients and the way they are read. Folds accept it in place of a pointer.
template <class E>
struct ReadGradients {
  const E* data;
  carrier_t<E> scale, limit;
  bool clips;

  [[nodiscard]] POLYAK_INLINE ReadGradients operator+(std::size_t count) const {
    return at(data + count);
  }
  /// Elements in other memory, read alike.
  [[nodiscard]] POLYAK_INLINE ReadGradients at(const E* other) const {
    return {other, scale, limit, clips};
  }
  template <class V>
  [[nodiscard]] POLYAK_INLINE GradientFactor<V> factor() const {
    return GradientFactor<V>(scale, limit, clips);
  }
};

/// The elements of tensor k.
template <class E>
[[nodiscard]] const E* fold_source(const Stream<const E>& stream, std::size_t k) {
  return stream[k];
}
template <class E>
[[nodiscard]] ReadGradients<E> fold_source(const GradientStream<E>& stream, std::size_t k) {
  const GradientReading& reading = stream.reading;
  return {stream[k], static_cast<carrier_t<E>>(reading.scale),
          static_cast<carrier_t<E>>(reading.limit), is_finite(reading.limit)};
}
template <class S>
using fold_source_t = decltype(fold_source(std::declval<const S&>(), 0));

template <class E>
[[nodiscard]] POLYAK_INLINE const E* memory_of(const E* source) {
  return source;
}
template <class E>
[[nodiscard]] POLYAK_INLINE const E* memory_of(const ReadGradients<E>& source) {
  return source.data;
}
template <class E>
[[nodiscard]] POLYAK_INLINE const E* alike(const E*, const E* other) {
  return other;
}
template <class E>
[[nodiscard]] POLYAK_INLINE ReadGradients<E> alike(const ReadGradients<E>& source, const E* other) {
  return source.at(other);
}

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak
