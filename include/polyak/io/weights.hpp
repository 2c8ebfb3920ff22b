// SPDX-License-Identifier: Apache-2.0
/// @file
/// The weights of a model, or an average of them, as a file for others; and the other way round.
///
///   polyak::save_weights("model.safetensors", params, {.dtype = polyak::DType::bfloat16});
///   polyak::save_average("ema.safetensors", params, ema);
///   polyak::load_weights("model.safetensors", params);
///
/// For lists in the host's memory: cuda::copy_weights() and cuda::copy_state() bring what is on a
/// device.
///
/// Tensors have their own names and are row-major. To go on with training use save() and load(),
/// which keep everything.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <polyak/core/options.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/core/tensors/slots.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>

namespace polyak {
inline namespace v0 {

struct SaveWeightsOptions {
  /// Floating-point weights are rounded to this type; their own unless given.
  std::optional<DType> dtype = std::nullopt;
  std::map<std::string, std::string> metadata = {};
  /// Largest number of bytes of tensors in one file; above it the path is a folder with several
  /// files and an index. 0: one file, whatever its size.
  std::uint64_t shard_bytes = 0;
  bool digests = true;  ///< see SafetensorsWriter
  bool durable = true;
};

struct LoadWeightsOptions {
  /// The name in the file of the tensor that is called so here: for prefixes that others add.
  std::function<std::string(const std::string&)> name_in_file = nullptr;
  bool allow_extra = false;  ///< tensors of the file that the model does not have are left out
  bool verify = true;        ///< the digests, where the file has them
};

namespace detail {

[[nodiscard]] constexpr bool is_floating(DType dtype) { return dtype >= DType::float16; }

/// The rule of the type that numbers are rounded to.
template <class Fields>
void check_floating(Fields& field, const std::optional<DType>& dtype) {
  field.check(!dtype || is_floating(*dtype), "dtype must be a floating-point type",
              name_of(dtype.value_or(DType::float32)));
}

/// Calls `act` with an object of the floating-point type.
template <class Act>
void with_floating(DType dtype, Act act) {
  switch (dtype) {
    case DType::float16:
      return act(static_cast<Eigen::half*>(nullptr));
    case DType::bfloat16:
      return act(static_cast<Eigen::bfloat16*>(nullptr));
    case DType::float32:
      return act(static_cast<float*>(nullptr));
    default:
      return act(static_cast<double*>(nullptr));
  }
}

/// Where the elements of a tensor are in memory, in row-major order.
class RowMajorOrder {
 public:
  RowMajorOrder(const Shape& shape, Order order) {
    if (order == Order::row_major) return;
    std::size_t stride = 1;
    for (const std::int64_t extent : shape) {
      dimensions_.push_back({static_cast<std::size_t>(extent), stride, 0});
      stride *= static_cast<std::size_t>(extent);
    }
  }
  /// The place of the next element.
  std::size_t next() {
    if (dimensions_.empty()) return place_++;
    const std::size_t place = place_;
    for (std::size_t k = dimensions_.size(); k-- > 0;) {
      Dimension& d = dimensions_[k];
      place_ += d.stride;
      if (++d.index < d.extent) break;
      place_ -= d.extent * d.stride;
      d.index = 0;
    }
    return place;
  }

 private:
  struct Dimension {
    std::size_t extent, stride, index;
  };
  std::vector<Dimension> dimensions_;  // none: memory is row-major
  std::size_t place_ = 0;
};

/// Numbers that a function gives, rounded to `dtype` and handed to `take` in pieces, row-major.
template <class Element, class Take>
void each_piece(const TensorInfo& info, DType dtype, Element element, Take take) {
  with_floating(dtype, [&]<class To>(To*) {
    constexpr std::size_t most = std::size_t{1} << 14;
    std::vector<std::byte> piece(std::min(most, info.size) * scalar_bytes<To>);
    RowMajorOrder order(info.shape, info.order);
    for (std::size_t done = 0; done < info.size;) {
      const std::size_t count = std::min(most, info.size - done);
      for (std::size_t k = 0; k < count; ++k) {
        const auto value = element(order.next());
        using V = std::remove_cv_t<decltype(value)>;
        narrow_into(reinterpret_cast<To*>(piece.data()), k, widened<carrier_t<V>>(&value, 0));
      }
      take(std::span<const std::byte>(piece.data(), count * scalar_bytes<To>));
      done += count;
    }
  });
}

/// A tensor that is to be written: its type in the file, and who writes it.
struct WeightSource {
  SafetensorsSpec spec;
  std::function<void(SafetensorsWriter&)> append;
};

[[nodiscard]] inline SafetensorsSpec spec_of(const TensorInfo& info, DType dtype) {
  return {info.name, safetensors_type(dtype),
          std::vector<std::uint64_t>(info.shape.begin(), info.shape.end())};
}

/// The bytes of a tensor in memory, of whatever type.
[[nodiscard]] inline WeightSource raw_source(const TensorInfo& info, DType dtype,
                                             const void* data) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return {spec_of(info, dtype), [&info, dtype, bytes](SafetensorsWriter& writer) {
            append_row_major(writer, bytes, spec_of(info, dtype).shape, bytes_of(dtype),
                             info.order);
          }};
}

/// A floating-point tensor of a view, rounded to `dtype`.
template <class View>
[[nodiscard]] WeightSource view_source(const TensorInfo& info, DType dtype, View view) {
  return {spec_of(info, dtype), [&info, dtype, view](SafetensorsWriter& writer) {
            each_piece(info, dtype, view, [&](auto piece) { writer.append(piece); });
          }};
}

/// A tensor of an average, which may be kept in double.
template <class S>
[[nodiscard]] WeightSource average_source(const TensorInfo& info, DType dtype,
                                          const TensorView<S>& view, bool wide) {
  if (!wide && dtype == dtype_of<S>()) return raw_source(info, dtype, view.data());
  return view_source(info, dtype, view);
}

/// A tensor of a list of parameters.
template <ParameterScalar P>
[[nodiscard]] WeightSource parameter_source(const Parameters<P>& params, std::size_t k,
                                            std::optional<DType> wanted) {
  const TensorInfo& info = params[k].info();
  if (!wanted || !is_floating(info.dtype) || info.dtype == *wanted) {
    return raw_source(info, info.dtype, params[k].raw());
  }
  WeightSource source;
  with_floating(info.dtype, [&]<class From>(From*) {
    const auto* data = static_cast<const From*>(params[k].raw());
    source = view_source(info, *wanted,
                         [data](std::size_t i) { return widened<carrier_t<From>>(data, i); });
  });
  return source;
}

inline void write_weights(const std::filesystem::path& path,
                          const std::vector<WeightSource>& sources,
                          const SaveWeightsOptions& options) {
  const SafetensorsWriteOptions how{.digests = options.digests, .durable = options.durable};
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, const WeightSource*> by_name;
  for (const WeightSource& source : sources) {
    specs.push_back(source.spec);
    by_name[source.spec.name] = &source;
  }
  const auto fill = [&](SafetensorsWriter& writer) {
    for (const SafetensorsTensor& tensor : writer.tensors())
      by_name.at(tensor.name)->append(writer);
  };
  if (options.shard_bytes > 0) {
    write_sharded(path, std::move(specs), options.metadata, fill,
                  {.shard_bytes = options.shard_bytes, .file = how});
    return;
  }
  SafetensorsWriter writer(path, std::move(specs), options.metadata, how);
  fill(writer);
  writer.finish();
}

/// Takes a floating-point tensor of the file into memory of type P.
template <ParameterScalar P>
void take_weights(const SafetensorsFile& file, const SafetensorsTensor& tensor,
                  const TensorInfo& info, P* data) {
  if (info.size == 0) return;
  if (info.order == Order::row_major) {
    file.copy_to(tensor, std::span<P>(data, info.size));
    return;
  }
  std::vector<std::byte> rows(info.size * scalar_bytes<P>);
  file.copy_to(tensor, std::span<P>(reinterpret_cast<P*>(rows.data()), info.size));
  take_row_major(reinterpret_cast<std::byte*>(data), tensor.shape, scalar_bytes<P>, info.order,
                 rows);
}

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

/// Writes the weights and buffers of a model, and nothing of its training. Atomic and durable as
/// SafetensorsWriter; several files end with their index.
///
/// Throws std::logic_error while an average is swapped in (save the average by save_average()),
/// std::invalid_argument for a dtype that is not floating-point, io_error where the system refuses.
template <FloatingScalar P>
void save_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const SaveWeightsOptions& options = {}) {
  validate(options);
  if (params.swapped()) {
    detail::refuse_order("polyak: save_weights() while an average is swapped in");
  }
  std::vector<detail::WeightSource> sources;
  for (std::size_t k = 0; k < params.size(); ++k) {
    sources.push_back(detail::parameter_source(params, k, options.dtype));
  }
  detail::write_weights(path, sources, options);
}

/// Writes the model with the average in place of its weights, without a swap: averaged tensors from
/// the average and in its type unless `options.dtype` says otherwise, buffers as the average has
/// them, and what the average leaves out (Role::ignore, tensors that it does not select) from
/// `params`.
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
      sources.push_back(detail::parameter_source(params, k, options.dtype));
    }
  }
  detail::write_weights(path, sources, options);
}

/// Reads a model's weights and buffers from a file, or from a folder with "model.safetensors" or an
/// index of several files. Floating-point numbers of F16, BF16, F32 and F64 are rounded to the
/// parameters' type; all others must be of the same type.
///
/// Nothing has changed when it throws: std::invalid_argument that lists every tensor that is
/// missing, has another shape or type, or is in the file alone (unless `allow_extra`);
/// std::logic_error while an average is swapped in; io_error for a file that is damaged.
template <FloatingScalar P>
void load_weights(const std::filesystem::path& path, const Parameters<P>& params,
                  const LoadWeightsOptions& options = {}) {
  if (params.swapped()) {
    detail::refuse_order("polyak: load_weights() while an average is swapped in");
  }
  const SafetensorsModel model(path);
  struct Found {
    const SafetensorsFile* file;
    const SafetensorsTensor* tensor;
  };
  std::vector<Found> found;
  std::set<std::string> names;
  std::string list;
  const auto add = [&](const std::string& line) { list += (list.empty() ? "" : "; ") + line; };
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& info = params[k].info();
    const std::string name = options.name_in_file ? options.name_in_file(info.name) : info.name;
    names.insert(name);
    const SafetensorsFile* const file = model.file_of(name);
    if (file == nullptr) {
      add("\"" + name + "\" is missing");
      continue;
    }
    const SafetensorsTensor& tensor = file->at(name);
    const auto type = parameter_type(tensor.dtype);
    const bool converts = type && detail::is_floating(*type) && detail::is_floating(info.dtype);
    const auto wanted = detail::spec_of(info, info.dtype);
    if (tensor.shape != wanted.shape || (tensor.dtype != wanted.dtype && !converts)) {
      TensorInfo here;
      here.dtype = info.dtype;
      here.shape = info.shape;
      std::string shape;
      for (const auto extent : tensor.shape) {
        shape += (shape.empty() ? "" : ", ") + detail::text(extent);
      }
      add("\"" + name + "\" is " + std::string(name_of(tensor.dtype)) + " [" + shape +
          "], expected " + detail::describe(here));
    }
    found.push_back({file, &tensor});
  }
  if (!options.allow_extra) {
    for (const std::string& name : model.names()) {
      if (!names.contains(name)) add("\"" + name + "\" is extra");
    }
  }
  if (!list.empty()) {
    detail::refuse_value("polyak: the weights in " + path.string() +
                         " are of another model: " + list);
  }
  if (options.verify) {
    for (const Found& one : found) one.file->verify(*one.tensor);
  }
  for (std::size_t k = 0; k < params.size(); ++k) {
    const TensorInfo& info = params[k].info();
    const auto [file, tensor] = found[k];
    if (!detail::is_floating(info.dtype)) {
      detail::take_row_major(static_cast<std::byte*>(params[k].raw()), tensor->shape,
                             detail::bytes_of(info.dtype), info.order, file->bytes(*tensor));
      continue;
    }
    detail::with_floating(info.dtype, [&, file = file, tensor = tensor]<class T>(T*) {
      detail::take_weights(*file, *tensor, info, static_cast<T*>(params[k].raw()));
    });
  }
}

}  // namespace v0
}  // namespace polyak
