// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/weights.hpp.
#pragma once

#include <Eigen/Core>
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
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>
#include <polyak/io/weights.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

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

/// Iterates over the places of a tensor's elements in memory, in row-major order.
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
  std::vector<Dimension> dimensions_;  // empty: memory is row-major
  std::size_t place_ = 0;
};

/// Rounds the numbers of a tensor to `dtype` and passes them to the writer, row-major in pieces.
inline void append_rounded(SafetensorsWriter& writer, const TensorInfo& info, DType dtype,
                           const NumberReader& read) {
  constexpr std::size_t most = std::size_t{1} << 13;
  const std::size_t room = std::min(most, info.size);
  std::vector<std::size_t> places(room);
  std::vector<double> numbers(room);
  std::vector<std::byte> piece(room * bytes_of(dtype));
  RowMajorOrder order(info.shape, info.order);
  for (std::size_t done = 0; done < info.size;) {
    const std::size_t count = std::min(most, info.size - done);
    for (std::size_t k = 0; k < count; ++k) places[k] = order.next();
    read(std::span(places).first(count), numbers.data());
    with_floating(dtype, [&]<class To>(To*) {
      for (std::size_t k = 0; k < count; ++k) {
        narrow_into(reinterpret_cast<To*>(piece.data()), k, numbers[k]);
      }
    });
    writer.append(std::span<const std::byte>(piece.data(), count * bytes_of(dtype)));
    done += count;
  }
}

POLYAK_DEFINE SafetensorsSpec spec_of(const TensorInfo& info, DType dtype) {
  return {info.name, safetensors_type(dtype),
          std::vector<std::uint64_t>(info.shape.begin(), info.shape.end())};
}

POLYAK_DEFINE WeightSource raw_source(const TensorInfo& info, DType dtype, const void* data) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return {spec_of(info, dtype), [&info, dtype, bytes](SafetensorsWriter& writer) {
            append_row_major([&](std::span<const std::byte> piece) { writer.append(piece); }, bytes,
                             spec_of(info, dtype).shape, bytes_of(dtype), info.order);
          }};
}

POLYAK_DEFINE WeightSource rounded_source(const TensorInfo& info, DType dtype, NumberReader read) {
  return {spec_of(info, dtype), [&info, dtype, read = std::move(read)](SafetensorsWriter& writer) {
            append_rounded(writer, info, dtype, read);
          }};
}

POLYAK_DEFINE WeightSource parameter_source(const TensorInfo& info, const void* data,
                                            std::optional<DType> wanted) {
  if (!wanted || !is_floating(info.dtype) || info.dtype == *wanted) {
    return raw_source(info, info.dtype, data);
  }
  NumberReader read;
  with_floating(info.dtype, [&]<class From>(From*) {
    read = [from = static_cast<const From*>(data)](std::span<const std::size_t> places,
                                                   double* numbers) {
      for (std::size_t k = 0; k < places.size(); ++k) {
        numbers[k] = widened<double>(from, places[k]);
      }
    };
  });
  return rounded_source(info, *wanted, std::move(read));
}

POLYAK_DEFINE void write_weights(const std::filesystem::path& path,
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

/// Reads a floating-point tensor of the file into memory of type P.
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

POLYAK_DEFINE void load_targets(const std::filesystem::path& path,
                                const std::vector<WeightTarget>& targets,
                                const LoadWeightsOptions& options) {
  const SafetensorsModel model(path);
  struct Found {
    const SafetensorsFile* file;
    const SafetensorsTensor* tensor;
  };
  std::vector<Found> found;
  std::set<std::string> names;
  std::string list;
  const auto add = [&](const std::string& line) { list += (list.empty() ? "" : "; ") + line; };
  for (std::size_t k = 0; k < targets.size(); ++k) {
    const TensorInfo& info = *targets[k].info;
    const std::string name = options.name_in_file ? options.name_in_file(info.name) : info.name;
    names.insert(name);
    const SafetensorsFile* const file = model.file_of(name);
    if (file == nullptr) {
      add("\"" + name + "\" is missing");
      continue;
    }
    const SafetensorsTensor& tensor = file->at(name);
    const auto type = parameter_type(tensor.dtype);
    const bool converts = type && is_floating(*type) && is_floating(info.dtype);
    const auto wanted = spec_of(info, info.dtype);
    if (tensor.shape != wanted.shape || (tensor.dtype != wanted.dtype && !converts)) {
      TensorInfo here;
      here.dtype = info.dtype;
      here.shape = info.shape;
      std::string shape;
      for (const auto extent : tensor.shape) {
        shape += (shape.empty() ? "" : ", ") + text(extent);
      }
      add("\"" + name + "\" is " + std::string(name_of(tensor.dtype)) + " [" + shape +
          "], expected " + describe(here));
    }
    found.push_back({file, &tensor});
  }
  if (!options.allow_extra) {
    for (const std::string& name : model.names()) {
      if (!names.contains(name)) add("\"" + name + "\" is extra");
    }
  }
  if (!list.empty()) {
    refuse_value("polyak: the weights in " + path.string() + " are of another model: " + list);
  }
  if (options.verify) {
    for (const Found& one : found) one.file->verify(*one.tensor);
  }
  for (std::size_t k = 0; k < targets.size(); ++k) {
    const TensorInfo& info = *targets[k].info;
    const auto [file, tensor] = found[k];
    if (!is_floating(info.dtype)) {
      take_row_major(static_cast<std::byte*>(targets[k].data), tensor->shape, bytes_of(info.dtype),
                     info.order, file->bytes(*tensor));
      continue;
    }
    with_floating(info.dtype, [&, file = file, tensor = tensor]<class T>(T*) {
      take_weights(*file, *tensor, info, static_cast<T*>(targets[k].data));
    });
  }
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
