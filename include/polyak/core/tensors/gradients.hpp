// SPDX-License-Identifier: Apache-2.0
/// @file
/// Read-only views of gradients, matched to parameters by name, shape and storage order.
///
/// Above 300 lines: it holds the ways to set gradients, by name, all at once and in a range.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/law.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/tensors/gradient_places.hpp>
#include <polyak/core/tensors/index.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/views.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {
/// How an element of a gradient is read: multiplied by `scale`, then clipped to +-limit.
struct GradientReading {
  double scale = 1;
  double limit = std::numeric_limits<double>::infinity();
  const double* coefficient = nullptr;  ///< on a device, multiplies the scale; null means 1
};

/// The coefficient that brings a norm down to max_norm: min(1, max_norm / norm), and 1 for a norm
/// that is NaN or infinite.
[[nodiscard]] POLYAK_LAW double clip_coefficient(double norm, double max_norm) {
  constexpr double largest = 0x1.fffffffffffffp1023;  // numeric_limits is for the host only
  return norm > max_norm && norm <= largest ? max_norm / norm : 1;
}
}  // namespace detail

/// Stands for the gradient of a tensor without one in this step.
struct NoGradient {};
inline constexpr NoGradient no_gradient{};

namespace detail {

/// A span, std::vector, std::array or plain array of pointers to gradients of a list of P.
template <class Pointers, class P>
concept GradientPointers = requires(const Pointers& pointers) {
  std::size(pointers);
  requires std::is_pointer_v<std::remove_cvref_t<decltype(*std::data(pointers))>>;
  requires std::same_as<typename Registered<std::remove_cv_t<std::remove_pointer_t<
                            std::remove_cvref_t<decltype(*std::data(pointers))>>>>::type,
                        element_t<P>>;
};

/// A container, view or plain array of pointers, or of objects that have elements themselves. A
/// std::vector<float> is none: it is one object.
template <class Range>
concept RangeOfGradients =
    !DenseObject<std::remove_reference_t<Range>> && !TensorObject<std::remove_reference_t<Range>> &&
    requires(Range & range) {
  std::size(range);
  std::end(range);
  requires std::is_pointer_v<std::remove_cvref_t<decltype(*std::begin(range))>> ||
      Registrable<std::remove_reference_t<decltype(*std::begin(range))>>;
};

}  // namespace detail

/// The gradients of a parameter list. A tensor whose gradient is not set is left alone by
/// optimizers: no decay, no change of state, no step counted. (A gradient of zeros is a gradient.)
/// Owns no memory and never writes to it. Setting one gradient costs O(log n).
///
/// Objects that own their memory are followed, as in Parameters: after `gradient = backward()`
/// every step reads the new elements. Maps, spans and pointers stay where they are.
template <ParameterScalar P = float>
class Gradients {
 public:
  explicit Gradients(const Parameters<P>& params)
      : places_(ParameterAccess<P>::list(params), detail::dtype_of<P>()),
        data_(params.size(), nullptr),
        followed_(params.size()) {}

  /// Sets the gradient of tensor `name`: an Eigen object of its shape and storage order, or a span,
  /// std::vector or std::array of its size (taken to be in its storage order).
  ///
  /// Throws std::invalid_argument, with the differences, for another shape or order, a buffer
  /// (Role::copy), a frozen weight, an alias (give its tensor the summed gradient), or memory that
  /// overlaps a parameter.
  template <class Object>
  requires detail::Registrable<std::remove_reference_t<Object>> Gradients& set(
      std::string_view name, Object&& object) {
    return set_at(places_.index_of(name), std::forward<Object>(object));
  }

  /// Sets the gradient of tensor `name` to raw memory of its size and storage order.
  Gradients& set(std::string_view name, const element_t<P>* data) {
    return set_pointer(places_.index_of(name), data, {});
  }

  /// The same for a device's type that corresponds to the list's.
  template <class U>
  requires(!std::same_as<U, element_t<P>> &&
           std::same_as<typename detail::Registered<U>::type, element_t<P>>)
      Gradients& set(std::string_view name, const U* data) {
    return set(name, reinterpret_cast<const element_t<P>*>(data));
  }

  /// Removes the gradient of tensor `name`.
  Gradients& set(std::string_view name, NoGradient) {
    return set_at(places_.index_of(name), no_gradient);
  }

  /// Sets all gradients at once, for frameworks whose gradients move every step: one pointer for
  /// each trained tensor (see `trained`), in order of registration, to memory of its size and
  /// storage order. A null pointer means no gradient. Takes a span, std::vector, std::array or
  /// plain array; allocates nothing.
  ///
  /// Throws std::invalid_argument for another number of pointers, and for memory that overlaps a
  /// parameter (naming both tensors) or is not in the memory of the list's device. Nothing has
  /// changed then.
  template <detail::GradientPointers<P> Pointers>
  Gradients& set_all(const Pointers& pointers) {
    places_.require_number("set_all()", std::size(pointers));
    const auto* const list = std::data(pointers);
    places_.check_all(list);
    for (std::size_t k = 0; k < trained(); ++k) {
      data_[places_.trained()[k].tensor] = reinterpret_cast<const element_t<P>*>(list[k]);
    }
    if (any_followed_) std::fill(followed_.begin(), followed_.end(), detail::Followed{});
    any_followed_ = false;
    return *this;
  }

  /// Number of trained tensors: tensors of the list's type with the roles average and ignore.
  [[nodiscard]] std::size_t trained() const { return places_.trained().size(); }

  /// From now on, optimizers read `factor` times each gradient: 1 / n for gradients summed over n
  /// batches, 1 / loss scale for a scaled loss, or a coefficient of clipping. The memory is not
  /// changed. The factor is rounded to the type of the parameters (float for 16 bits) and is kept
  /// until another one is set; `set` and `set_all` do not change it. Nonfinite also finds a finite
  /// gradient that overflows when it is multiplied, unless clip_value() limits it.
  ///
  /// Throws std::invalid_argument unless 0 <= factor <= the largest float. 0 is the coefficient of
  /// clipping to a norm of 0, and sets each gradient to zeros (NaN where it is not finite): decay
  /// and momentum still act, unlike with `no_gradient`. A negative factor would turn descent into
  /// ascent.
  Gradients& scale(double factor) {
    require(factor >= 0 && factor <= static_cast<double>(std::numeric_limits<float>::max()),
            "the scale of gradients must be finite in float and >= 0", factor);
    scale_ = factor;
    clip_ = 1;
    device_clip_.reset();
    return *this;
  }
  /// The factor that was set; 1 by default.
  [[nodiscard]] double scale() const { return scale_; }
  /// The coefficient from the last clip_norm() of these gradients; 1 before it and after the next
  /// scale(). For gradients on a device the coefficient stays there, and this is 1.
  [[nodiscard]] double clip_coefficient() const { return clip_; }

  /// From now on, optimizers read elements beyond +-limit, after the scale, as +-limit; NaN stays
  /// NaN. Infinity, the default, removes the limit. Throws std::invalid_argument unless limit >= 0.
  Gradients& clip_value(double limit) {
    require(limit >= 0, "clip_value: the limit must be >= 0", limit);
    limit_ = limit;
    return *this;
  }
  /// The limit of clip_value().
  [[nodiscard]] double value_limit() const { return limit_; }

  /// The gradient of the i-th tensor, without the scale, or null.
  [[nodiscard]] const element_t<P>* operator[](std::size_t index) const { return data()[index]; }
  [[nodiscard]] const element_t<P>* const* data() const {
    if (any_followed_) follow();
    return data_.data();
  }
  [[nodiscard]] const std::shared_ptr<const Layout>& layout() const {
    return places_.params().layout();
  }

  /// Sets the gradient of the i-th tensor, as `set` by name.
  template <class Object>
  Gradients& set_at(std::size_t index, Object&& object) {
    if constexpr (std::same_as<std::remove_cvref_t<Object>, NoGradient>) {
      data_[index] = nullptr;
      followed_[index] = {};
      return *this;
    } else {
      static_assert(!detail::dies_with_its_memory<Object>,
                    "polyak: Gradients view memory, they cannot keep a temporary alive");
      const auto described = detail::describe_object(object);
      static_assert(std::same_as<std::remove_cv_t<std::remove_pointer_t<decltype(described.data)>>,
                                 element_t<P>> ||
                        std::same_as<typename detail::Registered<std::remove_cv_t<
                                         std::remove_pointer_t<decltype(described.data)>>>::type,
                                     element_t<P>>,
                    "polyak: gradients must have the type of the parameters");
      detail::require_contiguous(described.contiguous, places_.info(index).name);
      if (described.flat) {
        places_.require_size(index, static_cast<std::size_t>(object.size()));
      } else {
        places_.require_shape(index, described.shape, described.order);
      }
      return set_pointer(index, described.data, detail::follow<!detail::on_device<P>>(object));
    }
  }

 private:
  template <ParameterScalar>
  friend struct GradientAccess;

  Gradients& set_pointer(std::size_t index, const element_t<P>* data,
                         const detail::Followed& object) {
    data_[index] = static_cast<const element_t<P>*>(places_.place_of(index, data));
    followed_[index] = object;
    any_followed_ = any_followed_ || object.object != nullptr;
    return *this;
  }
  /// Looks up where the elements of objects are now.
  void follow() const {
    for (const auto& trained : places_.trained()) {
      const detail::Followed& followed = followed_[trained.tensor];
      if (followed.object == nullptr || trained.bytes == 0) continue;
      void* now = nullptr;
      const TensorInfo& info = places_.info(trained.tensor);
      if (!followed.read(followed.object, info, &now, nullptr)) {
        detail::refuse_reshaped("the gradient of", info, followed);
      }
      if (now == data_[trained.tensor]) continue;
      places_.check_moved(trained, now);
      data_[trained.tensor] = static_cast<const element_t<P>*>(now);
    }
  }

  detail::GradientPlaces places_;
  mutable std::vector<const element_t<P>*> data_;  // when they were last looked up
  std::vector<detail::Followed> followed_;         // of each tensor
  bool any_followed_ = false;
  double scale_ = 1;
  double clip_ = 1;
  std::shared_ptr<const double> device_clip_;  // in the memory of a device
  double limit_ = std::numeric_limits<double>::infinity();
};

/// Access to the private parts of gradients, for sweeps and functions of whole lists.
template <ParameterScalar P>
struct GradientAccess {
  /// One pointer for each tensor of the list; null without a gradient.
  [[nodiscard]] static const element_t<P>* const* pointers(const Gradients<P>& gradients) {
    return gradients.data();
  }
  /// How each element is read.
  [[nodiscard]] static detail::GradientReading reading(const Gradients<P>& gradients) {
    return {gradients.scale_ * gradients.clip_, gradients.limit_, gradients.device_clip_.get()};
  }
  static void set_clip(Gradients<P>& gradients, double coefficient) {
    gradients.clip_ = coefficient;
  }
  /// Sets the coefficient in the memory of a device.
  static void set_clip(Gradients<P>& gradients, const std::shared_ptr<const double>& coefficient) {
    gradients.device_clip_ = coefficient;
  }
  [[nodiscard]] static const std::shared_ptr<const double>& device_clip(
      const Gradients<P>& gradients) {
    return gradients.device_clip_;
  }
  static void require_number(const Gradients<P>& gradients, std::string_view function,
                             std::size_t given) {
    gradients.places_.require_number(function, given);
  }
  /// Index of the k-th trained tensor.
  [[nodiscard]] static std::size_t trained(const Gradients<P>& gradients, std::size_t k) {
    return gradients.places_.trained()[k].tensor;
  }
};

/// The gradients of all trained tensors (roles average and ignore), in the order of registration:
/// one object each, or `no_gradient`. Throws std::invalid_argument as Gradients::set does, and for
/// a wrong number of objects.
template <ParameterScalar P, class... Objects>
[[nodiscard]] Gradients<P> like(const Parameters<P>& params, Objects&&... objects) {
  Gradients<P> gradients(params);
  GradientAccess<P>::require_number(gradients, "like()", sizeof...(Objects));
  std::size_t next = 0;
  (gradients.set_at(GradientAccess<P>::trained(gradients, next++), std::forward<Objects>(objects)),
   ...);
  return gradients;
}

namespace detail {
/// Sets the gradient of a tensor from an element of a range.
template <class P, class Element>
void set_from_range(Gradients<P>& gradients, std::size_t tensor, Element&& element) {
  using Plain = std::remove_cvref_t<Element>;
  if constexpr (!std::is_pointer_v<Plain>) {
    const bool none = !owns_its_memory<Plain> && std::as_const(element).data() == nullptr;
    if (!none) gradients.set_at(tensor, std::forward<Element>(element));
  } else if (element == nullptr) {
    return;
  } else if constexpr (Registrable<std::remove_pointer_t<Plain>>) {
    gradients.set_at(tensor, *element);
  } else {
    using Number = typename Registered<std::remove_cv_t<std::remove_pointer_t<Plain>>>::type;
    static_assert(std::same_as<Number, element_t<P>>,
                  "polyak: gradients must have the type of the parameters");
    const auto* const data = reinterpret_cast<const element_t<P>*>(element);
    gradients.set_at(tensor, std::span(data, gradients.layout()->tensors[tensor].size));
  }
}
}  // namespace detail

/// The gradients of all trained tensors (roles average and ignore), in the order of registration,
/// from a container, view or plain array whose length is known only at run time:
///
///     std::vector<float*> pointers;                   memory of each tensor's size and order
///     std::vector<std::span<const float>> spans;      the same, with the size checked
///     std::vector<Eigen::MatrixXf> objects;           shape and order checked
///     std::vector<const Eigen::MatrixXf*> pointers_to_objects;
///
/// A null pointer, or a view of null memory such as an empty span, means no gradient. An object
/// that owns its memory is followed where it is in the container, which must then keep it there.
///
/// Throws std::invalid_argument as Gradients::set does, and unless there is one element for each
/// trained tensor.
template <ParameterScalar P, detail::RangeOfGradients Range>
[[nodiscard]] Gradients<P> like(const Parameters<P>& params, Range&& range) {
  using Element = std::remove_cvref_t<decltype(*std::begin(range))>;
  static_assert(std::is_lvalue_reference_v<Range> || !detail::owns_its_memory<Element>,
                "polyak: Gradients view memory, they cannot keep a temporary alive");
  Gradients<P> gradients(params);
  GradientAccess<P>::require_number(gradients, "like()", std::size(range));
  std::size_t next = 0;
  for (auto&& element : range) {
    detail::set_from_range(gradients, GradientAccess<P>::trained(gradients, next++),
                           std::forward<decltype(element)>(element));
  }
  return gradients;
}

}  // namespace POLYAK_V0
}  // namespace polyak
