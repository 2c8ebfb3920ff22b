// SPDX-License-Identifier: Apache-2.0
/// @file
/// Writing weights, or an average of them, to files for other programs, and reading weights.
///
///   polyak::save_weights("model.safetensors", params, {.dtype = polyak::DType::bfloat16});
///   polyak::save_average("ema.safetensors", params, ema);
///   polyak::load_weights("model.safetensors", params);
///   polyak::save_weights("model.safetensors", {}, floats, doubles);   // several lists, one model
///
/// For lists in the host's memory: cuda::copy_weights() and cuda::copy_state() copy from a device.
///
/// Tensors have their own names and are row-major. To continue training use save() and load(),
/// which store everything.
///
/// Above 300 lines: what is written and what is read have the same rules.
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

#include <polyak/core/compiled.hpp>
#include <polyak/core/finite.hpp>
#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/layout.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/selection.hpp>
#include <polyak/core/tensors/slot_view.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/safetensors.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

struct SaveWeightsOptions {
  /// Floating-point weights are rounded to this type; by default they keep their own.
  std::optional<DType> dtype = std::nullopt;
  /// Texts for the files. "format" is "pt" unless it is given here: other programs look for it.
  std::map<std::string, std::string> metadata = {};
  /// Largest number of bytes of tensors in one file; above it the path is a folder with several
  /// files and an index. 0: one file, whatever its size.
  std::uint64_t shard_bytes = 0;
  /// Writes a tied tensor under each of its names, for programs that do not know ties. By default
  /// it is written once, under the name of its first registration. The metadata have an entry
  /// "alias: name" for each alias in both cases, as those of the Python package safetensors.
  bool every_name = false;
  bool digests = true;  ///< see SafetensorsWriter
  bool durable = true;
};

struct LoadWeightsOptions {
  /// Maps the name of a tensor to its name in the file, for prefixes of other programs.
  std::function<std::string(const std::string&)> name_in_file = nullptr;
  /// The tensors that are loaded. All others stay as they are, and the file need not have them.
  Selection tensors = {};
  bool allow_extra = false;  ///< ignores tensors of the file that the model does not have
  /// Checks the digests, if the file has them: those of the header, of what is loaded, and of the
  /// files that an index names. False reads a file that another program has written anew with the
  /// metadata of the old one.
  bool verify = true;
};

namespace detail {

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

POLYAK_ON_USE [[nodiscard]] SafetensorsSpec spec_of(const TensorInfo& info, DType dtype);

/// A tensor of any type, written as its bytes in memory.
POLYAK_ON_USE [[nodiscard]] WeightSource raw_source(const TensorInfo& info, DType dtype,
                                                    const void* data);

/// A tensor of floating-point numbers, rounded to `dtype`.
POLYAK_ON_USE [[nodiscard]] WeightSource rounded_source(const TensorInfo& info, DType dtype,
                                                        NumberReader read);

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
POLYAK_ON_USE [[nodiscard]] WeightSource parameter_source(const TensorInfo& info, const void* data,
                                                          std::optional<DType> wanted);

/// A tensor of the model to read, and its memory.
struct WeightTarget {
  const Layout* layout;
  const TensorInfo* info;
  void* data;
};
POLYAK_ON_USE void load_targets(const std::filesystem::path& path,
                                const std::vector<WeightTarget>& targets,
                                const LoadWeightsOptions& options);

/// The tensors of a model to write, and the names that are tied.
struct ModelSource {
  std::vector<WeightSource> tensors;
  std::map<std::string, std::string> aliases;  ///< alias, name in `tensors`

  /// Adds the aliases of a list.
  POLYAK_ON_USE void tie(const Layout& layout);
};
POLYAK_ON_USE void write_weights(const std::filesystem::path& path, const ModelSource& model,
                                 const SaveWeightsOptions& options);

/// Refuses a list that holds an average.
POLYAK_ON_USE void require_own_weights(bool swapped, const char* function);

template <ParameterScalar P>
void add_weights(ModelSource& model, const Parameters<P>& params,
                 const SaveWeightsOptions& options) {
  for (std::size_t k = 0; k < params.size(); ++k) {
    model.tensors.push_back(parameter_source(params[k].info(), params[k].raw(), options.dtype));
  }
  model.tie(*params.layout());
}

template <ParameterScalar P, class A>
void add_average(ModelSource& model, const Parameters<P>& params, const A& average,
                 const SaveWeightsOptions& options) {
  require_same(params.layout(), average.slots().layout(),
               "the parameters and those of the average");
  const auto view = average.view();
  const std::byte* buffer = average.buffers();
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& info = params[k].info();
    if (average.slots().keeps(k)) {
      const DType dtype = options.dtype.value_or(dtype_of<typename A::State>());
      const bool wide = average.accumulate() == Accumulate::float64;
      model.tensors.push_back(average_source(info, dtype, view[k], wide));
    } else if (info.role == Role::copy) {
      model.tensors.push_back(raw_source(info, info.dtype, buffer));
      buffer += info.size * bytes_of(info.dtype);
    } else {
      model.tensors.push_back(parameter_source(info, params[k].raw(), options.dtype));
    }
  }
  model.tie(*params.layout());
}

/// Adds lists of parameters; an average that follows a list takes the place of its weights.
template <ParameterScalar P>
void add_averages(ModelSource& model, const SaveWeightsOptions& options,
                  const Parameters<P>& params) {
  require_own_weights(params.swapped(), "save_average");
  add_weights(model, params, options);
}
template <ParameterScalar P, class Next, class... Rest>
void add_averages(ModelSource& model, const SaveWeightsOptions& options,
                  const Parameters<P>& params, const Next& next, const Rest&... rest) {
  if constexpr (is_parameters<Next>) {
    add_averages(model, options, params);
    add_averages(model, options, next, rest...);
  } else {
    require_own_weights(params.swapped(), "save_average");
    add_average(model, params, next, options);
    if constexpr (sizeof...(Rest) > 0) add_averages(model, options, rest...);
  }
}

}  // namespace detail

template <class Fields>
void fields(SaveWeightsOptions& o, Fields& field) {
  field("dtype", o.dtype);
  detail::check_floating(field, o.dtype);
  field("metadata", o.metadata);
  field("shard_bytes", o.shard_bytes);
  field("every_name", o.every_name);
  field("digests", o.digests);
  field("durable", o.durable);
}

/// Writes all tensors of a model, without any state of training. The model may have
/// several lists, such as one of each type. Atomic and durable as SafetensorsWriter. Several files,
/// and "model.safetensors" in a folder, replace the model of the folder as a whole: see
/// write_sharded().
///
/// Throws std::logic_error while an average is swapped in (save the average by save_average()),
/// std::invalid_argument for a dtype that is not floating-point, for a name that several lists
/// have, for metadata with the name of an alias and for a file that is named as an index, ".json";
/// io_error if a system call fails, and for a file that is one of several of its folder's model.
template <FloatingScalar... P>
requires(sizeof...(P) >= 1) void save_weights(const std::filesystem::path& path,
                                              const SaveWeightsOptions& options,
                                              const Parameters<P>&... lists) {
  validate(options);
  (detail::require_own_weights(lists.swapped(), "save_weights"), ...);
  detail::ModelSource model;
  (detail::add_weights(model, lists, options), ...);
  detail::write_weights(path, model, options);
}
template <FloatingScalar P>
void save_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const SaveWeightsOptions& options = {}) {
  save_weights(path, options, params);
}
template <FloatingScalar... P>
requires(sizeof...(P) >= 2) void save_weights(const std::filesystem::path& path,
                                              const Parameters<P>&... lists) {
  save_weights(path, SaveWeightsOptions{}, lists...);
}

/// Writes the model with averages in place of its weights, without a swap:
///
///     save_average("ema.safetensors", params, ema);
///     save_average("ema.safetensors", {}, floats, ema, doubles, swa, others);
///
/// Averaged tensors come from the average after the list, in its type or in `options.dtype`;
/// buffers from the average; tensors that it leaves out (Role::ignore, Role::frozen, or not
/// selected), and lists without an average, from the parameters.
///
/// Throws std::logic_error before the first update and while an average is swapped in,
/// std::invalid_argument for other parameters, and as save_weights().
template <FloatingScalar P, class... Rest>
requires(sizeof...(Rest) >= 1 &&
         (!detail::is_parameters<Rest> || ...)) void save_average(const std::filesystem::path& path,
                                                                  const SaveWeightsOptions& options,
                                                                  const Parameters<P>& params,
                                                                  const Rest&... rest) {
  validate(options);
  detail::ModelSource model;
  detail::add_averages(model, options, params, rest...);
  detail::write_weights(path, model, options);
}
template <FloatingScalar P, class A>
requires(!detail::is_parameters<A>) void save_average(const std::filesystem::path& path,
                                                      const Parameters<P>& params, const A& average,
                                                      const SaveWeightsOptions& options = {}) {
  save_average(path, options, params, average);
}

/// Reads all tensors of a model from a file, or from a folder with "model.safetensors" or an
/// index of several files. The model may have several lists. Floating-point numbers of F16, BF16,
/// F32 and F64 are rounded to the parameters' type; all others must be of the same type.
///
/// A tied tensor is found by any of its names, also by one that the file's metadata note as an
/// alias of a tensor there. Where the file has several of them, all must have the same bytes.
///
/// Throws std::invalid_argument that lists every tensor that is missing, has another shape or type,
/// or is only in the file (unless `allow_extra`), for tied tensors that differ in the file, and for
/// a name that several lists have; std::logic_error while an average is swapped in; io_error for a
/// damaged file. Nothing has changed then, but for failures of the disk that load() describes.
template <FloatingScalar... P>
requires(sizeof...(P) >= 1) void load_weights(const std::filesystem::path& path,
                                              const LoadWeightsOptions& options,
                                              const Parameters<P>&... lists) {
  (detail::require_own_weights(lists.swapped(), "load_weights"), ...);
  std::vector<detail::WeightTarget> targets;
  const auto add = [&](const auto& params) {
    for (std::size_t k = 0; k < params.size(); ++k) {
      targets.push_back({params.layout().get(), &params[k].info(), params[k].raw()});
    }
  };
  (add(lists), ...);
  detail::load_targets(path, targets, options);
}
template <FloatingScalar P>
void load_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const LoadWeightsOptions& options = {}) {
  load_weights(path, options, params);
}
template <FloatingScalar... P>
requires(sizeof...(P) >= 2) void load_weights(const std::filesystem::path& path,
                                              const Parameters<P>&... lists) {
  load_weights(path, LoadWeightsOptions{}, lists...);
}

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/weights.ipp>
#endif
