// SPDX-License-Identifier: Apache-2.0
/// @file
/// Writing the weights of a model, or an average of them, to a file for other programs, and reading
/// weights.
///
///   polyak::save_weights("model.safetensors", params, {.dtype = polyak::DType::bfloat16});
///   polyak::save_average("ema.safetensors", params, ema);
///   polyak::load_weights("model.safetensors", params);
///
/// For lists in the host's memory: cuda::copy_weights() and cuda::copy_state() copy from a device.
///
/// Tensors have their own names and are row-major. To continue training use save() and load(),
/// which store everything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slot_view.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/safetensors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SaveWeightsOptions {
  /// Floating-point weights are rounded to this type; by default they keep their own.
  std::optional<DType> dtype = std::nullopt;
  std::map<std::string, std::string> metadata = {};
  /// Largest number of bytes of tensors in one file; above it the path is a folder with several
  /// files and an index. 0: one file, whatever its size.
  std::uint64_t shard_bytes = 0;
  bool digests = true;  ///< see SafetensorsWriter
  bool durable = true;
};

struct LoadWeightsOptions {
  /// Maps the name of a tensor to its name in the file, for prefixes of other programs.
  std::function<std::string(const std::string&)> name_in_file = nullptr;
  bool allow_extra = false;  ///< ignores tensors of the file that the model does not have
  bool verify = true;        ///< checks the digests, if the file has them
};

namespace detail {

[[nodiscard]] constexpr bool is_floating(DType dtype) { return dtype >= DType::float16; }

/// The rule of the type to which numbers are rounded.
template <class Fields>
void check_floating(Fields& field, const std::optional<DType>& dtype) {
  field.check(!dtype || is_floating(*dtype), "dtype must be a floating-point type",
              name_of(dtype.value_or(DType::float32)));
}

/// Reads some numbers of a tensor in memory, widened.
using NumberReader = std::function<void(std::span<const std::size_t> places, double* numbers)>;

/// A tensor to write: its type in the file, and the function that writes it.
struct WeightSource {
  SafetensorsSpec spec;
  std::function<void(SafetensorsWriter&)> append;
};

[[nodiscard]] SafetensorsSpec spec_of(const TensorInfo& info, DType dtype);

/// A tensor of any type, written as its bytes in memory.
[[nodiscard]] WeightSource raw_source(const TensorInfo& info, DType dtype, const void* data);

/// A tensor of floating-point numbers, rounded to `dtype`.
[[nodiscard]] WeightSource rounded_source(const TensorInfo& info, DType dtype, NumberReader read);

template <class S>
[[nodiscard]] NumberReader reader_of(const TensorView<S>& view) {
  return [view](std::span<const std::size_t> places, double* numbers) {
    for (std::size_t k = 0; k < places.size(); ++k) {
      const S number = view(places[k]);
      numbers[k] = widened<double>(&number, 0);
    }
  };
}

/// A tensor of an average, which may be stored in double.
template <class S>
[[nodiscard]] WeightSource average_source(const TensorInfo& info, DType dtype,
                                          const TensorView<S>& view, bool wide) {
  if (!wide && dtype == dtype_of<S>()) return raw_source(info, dtype, view.data());
  return rounded_source(info, dtype, reader_of(view));
}

/// A tensor of a list of parameters.
[[nodiscard]] WeightSource parameter_source(const TensorInfo& info, const void* data,
                                            std::optional<DType> wanted);

/// A tensor of the model to read, and its memory.
struct WeightTarget {
  const TensorInfo* info;
  void* data;
};
void load_targets(const std::filesystem::path& path, const std::vector<WeightTarget>& targets,
                  const LoadWeightsOptions& options);

void write_weights(const std::filesystem::path& path, const std::vector<WeightSource>& sources,
                   const SaveWeightsOptions& options);

}  // namespace detail

template <class Fields>
void fields(SaveWeightsOptions& o, Fields& field) {
  field("dtype", o.dtype);
  detail::check_floating(field, o.dtype);
  field("metadata", o.metadata);
  field("shard_bytes", o.shard_bytes);
  field("digests", o.digests);
  field("durable", o.durable);
}

/// Writes all tensors of a model, without any state of training. Atomic and durable as
/// SafetensorsWriter; the index of several files is written last.
///
/// Throws std::logic_error while an average is swapped in (save the average by save_average()),
/// std::invalid_argument for a dtype that is not floating-point, io_error if a system call fails.
template <FloatingScalar P>
void save_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const SaveWeightsOptions& options = {}) {
  validate(options);
  if (params.swapped()) {
    detail::refuse_order("polyak: save_weights() while an average is swapped in");
  }
  std::vector<detail::WeightSource> sources;
  for (std::size_t k = 0; k < params.size(); ++k) {
    sources.push_back(detail::parameter_source(params[k].info(), params[k].raw(), options.dtype));
  }
  detail::write_weights(path, sources, options);
}

/// Writes the model with the average in place of its weights, without a swap: averaged tensors from
/// the average, in its type or in `options.dtype`; buffers from the average; tensors that the
/// average leaves out (Role::ignore, Role::frozen, or not selected) from `params`.
///
/// Throws std::logic_error before the first update and while an average is swapped in,
/// std::invalid_argument for other parameters, and as save_weights().
template <FloatingScalar P, class A>
void save_average(const std::filesystem::path& path, const Parameters<P>& params, const A& average,
                  const SaveWeightsOptions& options = {}) {
  validate(options);
  if (params.swapped()) {
    detail::refuse_order("polyak: save_average() while an average is swapped in");
  }
  detail::require_same(params.layout(), average.slots().layout(),
                       "the parameters and those of the average");
  const auto view = average.view();
  std::vector<detail::WeightSource> sources;
  const std::byte* buffer = average.buffers();
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& info = params[k].info();
    if (average.slots().keeps(k)) {
      const DType dtype = options.dtype.value_or(detail::dtype_of<typename A::State>());
      const bool wide = average.accumulate() == Accumulate::float64;
      sources.push_back(detail::average_source(info, dtype, view[k], wide));
    } else if (info.role == Role::copy) {
      sources.push_back(detail::raw_source(info, info.dtype, buffer));
      buffer += info.size * detail::bytes_of(info.dtype);
    } else {
      sources.push_back(detail::parameter_source(params[k].info(), params[k].raw(), options.dtype));
    }
  }
  detail::write_weights(path, sources, options);
}

/// Reads all tensors of a model from a file, or from a folder with "model.safetensors" or an
/// index of several files. Floating-point numbers of F16, BF16, F32 and F64 are rounded to the
/// parameters' type; all others must be of the same type.
///
/// Throws std::invalid_argument that lists every tensor that is missing, has another shape or type,
/// or is only in the file (unless `allow_extra`); std::logic_error while an average is swapped in;
/// io_error for a damaged file. Nothing has changed then.
template <FloatingScalar P>
void load_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const LoadWeightsOptions& options = {}) {
  if (params.swapped()) {
    detail::refuse_order("polyak: load_weights() while an average is swapped in");
  }
  std::vector<detail::WeightTarget> targets;
  for (std::size_t k = 0; k < params.size(); ++k) {
    targets.push_back({&params[k].info(), params[k].raw()});
  }
  detail::load_targets(path, targets, options);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/weights.ipp>
#endif
