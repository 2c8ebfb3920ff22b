// SPDX-License-Identifier: Apache-2.0
/// @file
/// Tensors of ggml as parameters and gradients, and averages as callbacks of ggml_opt_epoch().
///
///   polyak::Parameters<float> params = polyak::ggml_parameters<float>(context);
///   polyak::Ema ema(params, {.decay = 0.999});
///   polyak::GgmlUpdates updates(params, ema);            // where ggml's optimizer trains
///
///   for (...) polyak::set_ggml_gradient(gradients, weight,    // where polyak's does
///                                       ggml_graph_get_grad_acc(graph, weight));
///
/// Tensors of the types F32, F16, BF16 and F64, and integers with Role::copy, ignore or frozen, are
/// used in place. They must lie in the host's memory, contiguous and allocated; quantised tensors
/// and those of a device are refused by name. ggml stores the fastest dimension first, in ne[0]:
/// the shape of a tensor here is ne reversed, without the ones at its end, and row-major.
///
/// The program finds <ggml.h>, <ggml-backend.h> and <ggml-opt.h>, and links ggml. polyak itself
/// does not include this header elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include <ggml-backend.h>
#include <ggml-opt.h>
#include <ggml.h>

#include <polyak/core/method.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// The shape of a tensor of ggml: ne reversed, without trailing ones; at least one dimension.
[[nodiscard]] inline Shape ggml_shape(const ggml_tensor& tensor) {
  int rank = GGML_MAX_DIMS;
  while (rank > 1 && tensor.ne[rank - 1] == 1) --rank;
  Shape shape(static_cast<std::size_t>(rank));
  for (std::size_t k = 0; k < shape.size(); ++k) shape[k] = tensor.ne[shape.size() - 1 - k];
  return shape;
}

namespace detail {

/// Begins a message about a tensor.
[[nodiscard]] inline std::string ggml_words(const ggml_tensor& tensor) {
  return std::string("polyak: tensor \"").append(ggml_get_name(&tensor)).append("\" of ggml ");
}

/// Refuses a tensor that does not lie in the host's memory as one array.
inline void require_ggml_memory(const ggml_tensor& tensor) {
  const ggml_backend_buffer_t buffer =
      tensor.view_src != nullptr ? tensor.view_src->buffer : tensor.buffer;
  if (buffer != nullptr && !ggml_backend_buffer_is_host(buffer)) {
    refuse_value(ggml_words(tensor) + "must lie in the host's memory, and lies in a buffer of " +
                 ggml_backend_buffer_name(buffer));
  }
  if (tensor.data == nullptr) {
    refuse_value(ggml_words(tensor) + "has no memory yet; allocate its buffer first");
  }
  if (!ggml_is_contiguous(&tensor)) {
    refuse_value(ggml_words(tensor) + "must be contiguous; it is a view with gaps or permuted");
  }
}

/// The type of a tensor's elements.
[[nodiscard]] inline DType ggml_dtype(const ggml_tensor& tensor) {
  switch (tensor.type) {
    case GGML_TYPE_F32:
      return DType::float32;
    case GGML_TYPE_F16:
      return DType::float16;
    case GGML_TYPE_BF16:
      return DType::bfloat16;
    case GGML_TYPE_F64:
      return DType::float64;
    case GGML_TYPE_I8:
      return DType::int8;
    case GGML_TYPE_I16:
      return DType::int16;
    case GGML_TYPE_I32:
      return DType::int32;
    case GGML_TYPE_I64:
      return DType::int64;
    default:
      refuse_value(ggml_words(tensor) + "has the quantised type " + ggml_type_name(tensor.type) +
                   "; polyak takes F32, F16, BF16, F64 and integers");
  }
}

}  // namespace detail

/// Registers a tensor under its name in ggml, with its shape, row-major.
///
/// Throws std::invalid_argument, with the tensor's name, for a quantised type, memory of a device,
/// a tensor that is not allocated or not contiguous, and as Parameters::add. Nothing has changed
/// then.
template <FloatingScalar P>
Parameters<P>& add_ggml(Parameters<P>& params, ggml_tensor& tensor, Role role = Role::average) {
  const DType dtype = detail::ggml_dtype(tensor);
  detail::require_ggml_memory(tensor);
  return params.add(ggml_get_name(&tensor), tensor.data, dtype, ggml_shape(tensor), role);
}

/// The list of all tensors of a context that ggml_set_param() has marked, in the context's order.
/// Throws std::invalid_argument as add_ggml(), also for a tensor of a type other than P.
template <FloatingScalar P = float>
[[nodiscard]] Parameters<P> ggml_parameters(ggml_context* context) {
  Parameters<P> params;
  for (ggml_tensor* tensor = ggml_get_first_tensor(context); tensor != nullptr;
       tensor = ggml_get_next_tensor(context, tensor)) {
    if ((tensor->flags & GGML_TENSOR_FLAG_PARAM) != 0) add_ggml(params, *tensor);
  }
  return params;
}

/// Sets the gradient of a weight, which is found by its name, to a tensor of ggml; null means no
/// gradient. The tensor's memory must be its own for the whole run: an accumulator that was given
/// to ggml_build_backward_expand(), as ggml_graph_get_grad_acc() returns it. The memory of other
/// gradients is used again by later nodes of the graph.
///
/// Throws std::invalid_argument for a gradient of another shape or type than the weight (ggml's are
/// F32), and as add_ggml().
template <FloatingScalar P>
Gradients<P>& set_ggml_gradient(Gradients<P>& gradients, const ggml_tensor& weight,
                                const ggml_tensor* gradient) {
  const std::string_view name = ggml_get_name(&weight);
  if (gradient == nullptr) return gradients.set(name, no_gradient);
  if (detail::ggml_dtype(*gradient) != detail::dtype_of<P>()) {
    detail::refuse_value(detail::ggml_words(*gradient) + "is the gradient of \"" +
                         std::string(name) + "\" and must be of the list's type " +
                         std::string(detail::name_of(detail::dtype_of<P>())) + ", and is " +
                         ggml_type_name(gradient->type));
  }
  detail::require_ggml_memory(*gradient);
  if (ggml_shape(*gradient) != ggml_shape(weight)) {
    detail::refuse_value(detail::ggml_words(*gradient) + "must have the shape of the weight \"" +
                         std::string(name) + "\", of which it is the gradient");
  }
  return gradients.set(name, static_cast<const P*>(gradient->data));
}

/// Updates an average whenever ggml's own optimizer has made a step in ggml_opt_epoch(). The
/// average and this object must outlive the epoch, and the object does not move meanwhile.
///
/// ggml passes no data of the caller's to its callbacks, so the object is reached through a
/// variable of static storage, a pointer or a std::optional:
///
///   std::optional<polyak::GgmlUpdates<polyak::Ema<float>>> updates;       // at namespace scope
///   ...
///   updates.emplace(params, ema);
///   ggml_opt_epoch(context, data, result, nullptr, split, polyak::ggml_epoch_callback<updates>,
///                  nullptr);
///   updates->check();
template <AveragingMethod Average>
class GgmlUpdates {
  using P = typename Average::Parameter;

 public:
  /// `opt_period` is that of ggml_opt_params: batches per step. ggml counts those of validation
  /// too, so if it is above 1, pass the callback for both kinds of batches. Throws
  /// std::invalid_argument unless it is >= 1.
  GgmlUpdates(const Parameters<P>& params, Average& average, std::int32_t opt_period = 1)
      : params_(params), average_(&average), opt_period_(opt_period) {
    require(opt_period >= 1, "opt_period must be >= 1", opt_period);
  }

  /// Called by ggml_epoch_callback() after each batch. No exception passes through ggml: the first
  /// one is kept, and later calls do nothing.
  void after_batch(bool train) noexcept {
    if (error_) return;
    batches_ = (batches_ + 1) % opt_period_;
    if (!train || batches_ != 0) return;
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    try {
      update(params_, *average_);
    } catch (...) {
      error_ = std::current_exception();
    }
#else
    update(params_, *average_);
#endif
  }

  /// Throws the exception that an update threw, once.
  void check() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  Parameters<P> params_;
  Average* average_;
  std::int32_t opt_period_;
  std::int32_t batches_ = 0;  // since the last step
  std::exception_ptr error_;
};

/// A ggml_opt_epoch_callback that updates through `updates`, a variable of static storage that
/// points to GgmlUpdates or is empty.
template <auto& updates>
void ggml_epoch_callback(bool train, ggml_opt_context_t, ggml_opt_dataset_t, ggml_opt_result_t,
                         std::int64_t, std::int64_t, std::int64_t) {
  if (updates) updates->after_batch(train);
}

}  // namespace POLYAK_V0
}  // namespace polyak
