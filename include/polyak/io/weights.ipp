// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/weights.hpp.
///
/// Above 300 lines: what is written is what is read.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/scalar.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/model_index.hpp>
#include <polyak/io/row_major.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/safetensors_index.hpp>
#include <polyak/io/tensor_reads.hpp>
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
    if (order != Order::channels_last) return;
    stride = dimensions_[1].extent;
    dimensions_[1].stride = 1;
    for (std::size_t k = shape.size(); k-- > 0;) {
      if (k == 1) continue;
      dimensions_[k].stride = stride;
      stride *= dimensions_[k].extent;
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
POLYAK_ON_USE inline void append_rounded(SafetensorsWriter& writer, const TensorInfo& info,
                                         DType dtype, const NumberReader& read) {
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

POLYAK_DEFINE_ON_USE SafetensorsSpec spec_of(const TensorInfo& info, DType dtype) {
  return {info.name, safetensors_type(dtype),
          std::vector<std::uint64_t>(info.shape.begin(), info.shape.end())};
}

POLYAK_DEFINE_ON_USE WeightSource raw_source(const TensorInfo& info, DType dtype,
                                             const void* data) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return {spec_of(info, dtype), [&info, dtype, bytes](SafetensorsWriter& writer) {
            append_row_major([&](std::span<const std::byte> piece) { writer.append(piece); }, bytes,
                             spec_of(info, dtype).shape, bytes_of(dtype), info.order);
          }};
}

POLYAK_DEFINE_ON_USE WeightSource rounded_source(const TensorInfo& info, DType dtype,
                                                 NumberReader read) {
  return {spec_of(info, dtype), [&info, dtype, read = std::move(read)](SafetensorsWriter& writer) {
            append_rounded(writer, info, dtype, read);
          }};
}

POLYAK_DEFINE_ON_USE WeightSource parameter_source(const TensorInfo& info, const void* data,
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

POLYAK_DEFINE_ON_USE void require_own_weights(bool swapped, const char* function) {
  if (swapped) {
    refuse_order(std::string("polyak: ") + function + "() while an average is swapped in");
  }
}

POLYAK_DEFINE_ON_USE void ModelSource::tie(const Layout& layout) {
  for (const auto& [alias, target] : layout.aliases) {
    require(aliases.emplace(alias, target).second,
            "a tensor's name must be new among all lists that are saved together", alias);
  }
}

/// The folder whose model is replaced by a file at `path`: its "model.safetensors", beside which
/// there may be an index of an older model. nullopt for any other file. Throws for a path at which
/// a model could not be loaded again.
POLYAK_ON_USE [[nodiscard]] inline std::optional<std::filesystem::path> folder_of_model(
    const std::filesystem::path& path) {
  require(path.extension() != ".json",
          "a file of weights must not have a name that ends in \".json\", as an index does",
          std::string_view(path.string()));
  std::error_code error;
  std::vector<std::filesystem::path> places{path};
  const auto real = std::filesystem::canonical(path, error);
  if (!error) places.push_back(real);
  std::optional<std::filesystem::path> found;
  for (const auto& place : places) {
    auto folder = place.parent_path();
    if (folder.empty()) folder = ".";
    if (place.filename() == model_name && std::filesystem::is_directory(folder, error)) {
      if (!found || std::filesystem::exists(folder / index_name, error)) found = folder;
      continue;
    }
    std::string words;
    if (PinnedFile(folder / index_name).read(words) != 0) continue;
    for (const auto& [tensor, file] : read_index(words).weight_map) {
      if (place.filename() != file) continue;
      refuse_io(path, {}, {},
                "is one of several files of the model in its folder; save the model to the folder");
    }
  }
  return found;
}

POLYAK_DEFINE_ON_USE void write_weights(const std::filesystem::path& path, const ModelSource& model,
                                        const SaveWeightsOptions& options) {
  const SafetensorsWriteOptions how{.digests = options.digests, .durable = options.durable};
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, const WeightSource*> by_name;
  for (const WeightSource& source : model.tensors) {
    require(by_name.emplace(source.spec.name, &source).second,
            "a tensor's name must be new among all lists that are saved together",
            source.spec.name);
    specs.push_back(source.spec);
  }
  auto metadata = options.metadata;
  for (const auto& [alias, target] : model.aliases) {
    require(by_name.find(alias) == by_name.end(),
            "a tensor's name must be new among all lists that are saved together", alias);
    require(metadata.emplace(alias, target).second,
            "SaveWeightsOptions.metadata must not have the name of a tied tensor", alias);
    if (!options.every_name) continue;
    const WeightSource* const source = by_name.at(target);
    specs.push_back({alias, source->spec.dtype, source->spec.shape});
    by_name.emplace(alias, source);
  }
  // Without it the Python package transformers refuses a file that has metadata.
  metadata.emplace("format", "pt");
  const auto fill = [&](SafetensorsWriter& writer) {
    for (const SafetensorsTensor& tensor : writer.tensors())
      by_name.at(tensor.name)->append(writer);
  };
  if (options.shard_bytes > 0) {
    write_sharded(path, std::move(specs), metadata, fill,
                  {.shard_bytes = options.shard_bytes, .file = how});
    return;
  }
  if (const auto folder = folder_of_model(path)) {
    write_sharded(*folder, std::move(specs), metadata, fill,
                  {.shard_bytes = std::numeric_limits<std::uint64_t>::max(), .file = how});
    return;
  }
  SafetensorsWriter writer(path, std::move(specs), std::move(metadata), how);
  fill(writer);
  writer.finish();
}

/// Adds what reads a floating-point tensor of the file into memory of type P.
template <ParameterScalar P>
void read_weights(TensorReads& reads, const FoundTensor& from, const TensorInfo& info, P* data) {
  if (info.order == Order::row_major) {
    reads.add_pieces(
        info.size, scalar_bytes<P>, [from, data](std::uint64_t first, std::uint64_t count) {
          from.file->copy_part(*from.tensor, first,
                               std::span(data + first, static_cast<std::size_t>(count)));
        });
    return;
  }
  reads.add(info.size * scalar_bytes<P>, [from, &info, data] {
    take_row_major(reinterpret_cast<std::byte*>(data), from.tensor->shape, scalar_bytes<P>,
                   info.order, [&](std::size_t offset, std::span<std::byte> to) {
                     from.file->copy_part(
                         *from.tensor, offset / scalar_bytes<P>,
                         std::span(reinterpret_cast<P*>(to.data()), to.size() / scalar_bytes<P>));
                   });
  });
}

/// The aliases of each tensor of a list.
using Aliases = std::multimap<std::string_view, std::string_view>;

/// The names that a tensor may have in a file: its own, then its aliases.
POLYAK_ON_USE [[nodiscard]] inline std::vector<std::string> names_of(
    const TensorInfo& info, const Aliases& aliases, const LoadWeightsOptions& options) {
  std::vector<std::string> names{info.name};
  const auto [first, last] = aliases.equal_range(info.name);
  for (auto one = first; one != last; ++one) names.emplace_back(one->second);
  for (std::string& name : names) {
    if (options.name_in_file) name = options.name_in_file(name);
  }
  return names;
}

/// The name of the tensor that the metadata note for an alias; the alias itself if there is none.
POLYAK_ON_USE [[nodiscard]] inline std::string untied(const SafetensorsModel& model,
                                                      const std::string& alias) {
  for (const auto& file : model.files()) {
    const auto noted = file->metadata().find(alias);
    if (noted != file->metadata().end() && model.file_of(noted->second) != nullptr) {
      return noted->second;
    }
  }
  return alias;
}

/// The tensors of the file with some of these names, at most one for each name.
POLYAK_ON_USE [[nodiscard]] inline std::vector<FoundTensor> find_by_names(
    const SafetensorsModel& model, const std::vector<std::string>& names) {
  std::vector<FoundTensor> found;
  for (const std::string& name : names) {
    const SafetensorsFile* const file = model.file_of(name);
    if (file != nullptr) found.push_back({file, &file->at(name)});
  }
  for (std::size_t k = 0; found.empty() && k < names.size(); ++k) {
    const std::string name = untied(model, names[k]);
    const SafetensorsFile* const file = model.file_of(name);
    if (file != nullptr) found.push_back({file, &file->at(name)});
  }
  return found;
}

/// What a tensor of the file has to be, if it is not that.
POLYAK_ON_USE [[nodiscard]] inline std::string misfit(const SafetensorsTensor& tensor,
                                                      const TensorInfo& info) {
  const auto type = parameter_type(tensor.dtype);
  const bool converts = type && is_floating(*type) && is_floating(info.dtype);
  const auto wanted = spec_of(info, info.dtype);
  if (tensor.shape == wanted.shape && (tensor.dtype == wanted.dtype || converts)) return {};
  TensorInfo here;
  here.dtype = info.dtype;
  here.shape = info.shape;
  std::string shape;
  for (const auto extent : tensor.shape) {
    shape += (shape.empty() ? "" : ", ") + text(extent);
  }
  return "\"" + tensor.name + "\" is " + std::string(name_of(tensor.dtype)) + " [" + shape +
         "], expected " + describe(here);
}

POLYAK_DEFINE_ON_USE void load_targets(const std::filesystem::path& path,
                                       const std::vector<WeightTarget>& targets,
                                       const LoadWeightsOptions& options) {
  const SafetensorsModel model(path, options.verify);
  std::vector<std::vector<FoundTensor>> found;
  std::set<std::string> names, here;
  std::map<const Layout*, Aliases> aliases;
  std::string list;
  const auto add = [&](const std::string& line) { list += (list.empty() ? "" : "; ") + line; };
  bool any = false;
  for (const WeightTarget& target : targets) {
    require(here.insert(target.info->name).second,
            "a tensor's name must be new among all lists that are loaded together",
            target.info->name);
    const auto [list_of, is_new] = aliases.try_emplace(target.layout);
    if (is_new) {
      for (const auto& [alias, name] : target.layout->aliases) list_of->second.emplace(name, alias);
    }
    const auto own = names_of(*target.info, list_of->second, options);
    names.insert(own.begin(), own.end());
    found.emplace_back();
    if (!options.tensors(*target.info)) continue;
    any = true;
    found.back() = find_by_names(model, own);
    if (found.back().empty()) add("\"" + own.front() + "\" is missing");
    for (const FoundTensor& one : found.back()) {
      const std::string line = misfit(*one.tensor, *target.info);
      if (!line.empty()) add(line);
      names.insert(one.tensor->name);
      if (one.tensor->dtype != found.back().front().tensor->dtype) {
        add("\"" + found.back().front().tensor->name + "\" and \"" + one.tensor->name +
            "\" differ in type, but they are tied here");
      }
    }
  }
  if (!any && !options.tensors.is_everything()) {
    refuse_value("polyak: LoadWeightsOptions.tensors, " + options.tensors.describe() +
                 ", selects no tensor");
  }
  if (!options.allow_extra) {
    for (const std::string& name : model.names()) {
      if (!names.contains(name)) add("\"" + name + "\" is extra");
    }
  }
  const auto refuse = [&] {
    refuse_value("polyak: the weights in " + path.string() + " are of another model: " + list);
  };
  if (!list.empty()) refuse();
  if (options.verify) {
    std::vector<FoundTensor> all;
    for (const auto& tied : found) all.insert(all.end(), tied.begin(), tied.end());
    verify_tensors(std::move(all));
  }
  for (const auto& tied : found) {
    for (std::size_t k = 1; k < tied.size(); ++k) {
      if (same_bytes(tied.front(), tied[k])) continue;
      add("\"" + tied.front().tensor->name + "\" and \"" + tied[k].tensor->name +
          "\" differ, but they are tied here");
    }
  }
  if (!list.empty()) refuse();
  TensorReads reads;
  for (std::size_t k = 0; k < targets.size(); ++k) {
    if (found[k].empty()) continue;
    const TensorInfo& info = *targets[k].info;
    const FoundTensor from = found[k].front();
    void* const data = targets[k].data;
    if (is_floating(info.dtype)) {
      with_floating(info.dtype,
                    [&]<class T>(T*) { read_weights(reads, from, info, static_cast<T*>(data)); });
      continue;
    }
    reads.add(info.size * bytes_of(info.dtype), [from, &info, data] {
      take_row_major(static_cast<std::byte*>(data), from.tensor->shape, bytes_of(info.dtype),
                     info.order, [&](std::size_t offset, std::span<std::byte> to) {
                       from.file->read(*from.tensor, offset, to);
                     });
    });
  }
  reads.run();
}

}  // namespace detail

}  // namespace POLYAK_V0
}  // namespace polyak
