// SPDX-License-Identifier: Apache-2.0
/// @file
/// Definitions of io/reconstruct.hpp.
///
/// Above 300 lines: the fits that choose the weights, and the one pass that applies them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <polyak/average/posthoc.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/require.hpp>
#include <polyak/core/sum_many.hpp>
#include <polyak/io/digest.hpp>
#include <polyak/io/error.hpp>
#include <polyak/io/known_weightings.hpp>
#include <polyak/io/reconstruct.hpp>
#include <polyak/io/safetensors.hpp>
#include <polyak/io/snapshot_store.ipp>

namespace polyak {
inline namespace POLYAK_V0 {

namespace detail {

POLYAK_DEFINE GainSequence gains_of(const StoredSnapshot& one) {
  NamedGains found = gains_of(one.weighting, one.options);
  if (found.gains) return *std::move(found.gains);
  if (!found.problem.empty()) refuse_io(one.file, {}, {}, found.problem);
  refuse_value("polyak: the profile of snapshot " + one.file.string() + " (" + one.type +
               ") is not known: it cannot be fitted");
}

/// Whether all power averages were updated at the same constant pace, so that times are multiples
/// of calls.
[[nodiscard]] inline bool constant_pace(const std::vector<StoredSnapshot>& snapshots) {
  double pace = 0;
  for (const StoredSnapshot& one : snapshots) {
    if (one.weighting != PowerClock::type_name) continue;
    const auto every = one.options.find("update_every");
    const double period = every == one.options.end() ? 1 : number_in(every->second).value_or(1);
    // `time` is the time of the last update.
    const double updated = std::floor(static_cast<double>(one.calls) / period) * period;
    const double own = updated > 0 ? one.time / updated : 0;
    if (pace == 0) pace = own;
    if (std::fabs(own - pace) > 1e-9 * pace) return false;
  }
  return true;
}

/// Weights if calls took different times: by the closed form in time, which exists for power
/// averages and for power targets at the time of a snapshot.
[[nodiscard]] inline std::vector<ProfileFit> fit_times(const std::vector<StoredSnapshot>& snapshots,
                                                       const std::vector<ProfileTarget>& targets,
                                                       const ProfileFitOptions& options) {
  validate(options);
  std::vector<PowerProfile> profiles;
  for (const StoredSnapshot& one : snapshots) {
    const auto gamma = one.options.find("gamma");
    if (one.weighting != PowerClock::type_name || gamma == one.options.end()) {
      refuse_value("polyak: calls of the power averages took different times, so that " +
                   one.file.string() + " (" + one.type + ") cannot be fitted with them");
    }
    require(one.begun_after == 0,
            "averages whose calls took different times must have begun together; begun_after",
            one.begun_after);
    profiles.push_back({number_in(gamma->second).value_or(0), one.time});
  }
  std::vector<ProfileFit> fits;
  for (const ProfileTarget& target : targets) {
    if (is_nan(target.gamma())) {
      refuse_value("polyak: calls of the power averages took different times, so that target \"" +
                   target.name() + "\" is out of reach: only power functions are not");
    }
    const StoredSnapshot* at = target.calls() == 0 ? &snapshots.back() : nullptr;
    for (const StoredSnapshot& one : snapshots) {
      if (one.calls == target.calls()) at = &one;
    }
    require(at != nullptr, "target \"" + target.name() + "\" must be of a snapshot's call",
            target.calls());
    PosthocSolution solution;
    solution.gamma = target.gamma();
    solution.time = at->time;
    solve_power_profiles<double>(profiles, options.normalisation, solution);
    ProfileFit fit;
    fit.calls = at->calls;
    fit.residual = solution.residual;
    fit.update_residual = std::numeric_limits<double>::quiet_NaN();
    fit.condition = solution.condition;
    fit.absolute_sum = solution.absolute_sum;
    for (const double weight : solution.weights) fit.norm += weight * weight;
    fit.norm = std::sqrt(fit.norm);
    fit.weights = std::move(solution.weights);
    ProfileFitOptions by_iterates = options;
    by_iterates.metric = Metric::iterate;
    check_fit(target, fit, by_iterates);
    fits.push_back(std::move(fit));
  }
  return fits;
}

/// The gains of the snapshots' averages, and the average of each snapshot.
struct SnapshotProfiles {
  std::vector<GainSequence> averages;
  std::vector<ProfileSnapshot> snapshots;

  explicit SnapshotProfiles(const std::vector<StoredSnapshot>& stored) {
    std::map<std::string, std::pair<std::size_t, const StoredSnapshot*>> numbers;
    for (const StoredSnapshot& one : stored) {
      const auto [place, added] = numbers.emplace(one.average, std::pair(averages.size(), &one));
      const auto [number, first] = place->second;
      if (added) averages.push_back(GainSequence::begun_after(one.begun_after, gains_of(one)));
      if (one.weighting != first->weighting || one.options != first->options ||
          one.begun_after != first->begun_after) {
        refuse_value("polyak: the options of average \"" + one.average + "\" changed between " +
                     first->file.string() + " and " + one.file.string() +
                     ": give it another name, so that each has one profile");
      }
      snapshots.push_back({number, one.calls + one.begun_after});
    }
  }
};

/// The outputs of one pass, and their blocks in progress.
class Reconstruction {
 public:
  Reconstruction(const ReconstructReport& report, const std::vector<ReconstructOutput>& outputs,
                 const ReconstructOptions& options)
      : report_(report), options_(options) {
    bool wide = false;
    for (const StoredSnapshot& one : report.snapshots) {
      files_.push_back(std::make_unique<SafetensorsFile>(one.file));
      check_unchanged(one, *files_.back());
      wide = wide || one.dtype == DType::float64;
      same_type_ = same_type_ && one.dtype == report.snapshots.front().dtype;
    }
    wide_ = wide;
    dtype_ = options.dtype.value_or(wide ? DType::float64 : DType::float32);
    const SafetensorsType type = safetensors_type(dtype_);
    std::vector<SafetensorsSpec> specs;
    for (const SafetensorsTensor& tensor : files_.front()->tensors()) {
      const bool averaged = is_averaged(tensor);
      specs.push_back({tensor.name, averaged ? type : tensor.dtype, tensor.shape});
      if (averaged) total_ += (tensor.end - tensor.begin) * files_.size();
    }
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      const ProfileFit& fit = report.fits[k];
      paths_.push_back(outputs[k].file);
      writers_.push_back(std::make_unique<SafetensorsWriter>(
          outputs[k].file, specs,
          std::map<std::string, std::string>{{"format", "pt"},  // other programs look for it
                                             {"polyak.target", outputs[k].target.name()},
                                             {"polyak.calls", text(fit.calls)},
                                             {"polyak.residual", text(fit.residual)}},
          SafetensorsWriteOptions{.digests = true, .durable = options.durable}));
      // The target's buffers come from the newest snapshot up to its call. Averages may have
      // different clocks, so this need not be the last snapshot in the list, and not every snapshot
      // with a weight comes before it.
      std::vector<std::size_t> inputs;
      std::size_t newest = files_.size();
      std::int64_t newest_calls = 0;
      for (std::size_t j = 0; j < files_.size(); ++j) {
        const std::int64_t calls = report.snapshots[j].calls + report.snapshots[j].begun_after;
        if (calls <= fit.calls || fit.weights[j] != 0) inputs.push_back(j);
        if (calls > fit.calls) continue;
        if (newest == files_.size() || calls >= newest_calls) {
          newest = j;
          newest_calls = calls;
        }
      }
      newest_.push_back(files_[newest].get());
      groups_[inputs].push_back(k);
    }
  }

  /// Reads all snapshots and writes all outputs. Returns false if `progress` ended it.
  [[nodiscard]] bool write_outputs() {
    for (const SafetensorsTensor& tensor : writers_.front()->tensors()) {
      const SafetensorsTensor& first = files_.front()->at(tensor.name);
      if (!is_averaged(first)) {
        for (std::size_t k = 0; k < writers_.size(); ++k) {
          const SafetensorsTensor& own = newest_[k]->at(tensor.name);
          if (options_.verify) newest_[k]->verify(own);
          writers_[k]->append(newest_[k]->bytes(own));
        }
        continue;
      }
      if (!(wide_ ? blocks<double, double>(tensor) : sum_floats(tensor))) return false;
    }
    for (auto& writer : writers_) writer->stage();
    finish_all();
    return true;
  }

 private:
  /// Elements of a block. The blocks of all snapshots fit the second-level cache while every
  /// target's sum is computed.
  static constexpr std::size_t block = 4096;
  /// Number of blocks per write.
  static constexpr std::size_t blocks_at_once = 64;

  /// Refuses a file that is not the snapshot that the store found. What follows trusts the sizes.
  void check_unchanged(const StoredSnapshot& one, const SafetensorsFile& file) const {
    const auto [now, fault] = read_snapshot_record(file.metadata());
    bool same = fault.empty() && now.average == one.average && now.type == one.type &&
                now.calls == one.calls && now.begun_after == one.begun_after &&
                now.time == one.time && now.run == one.run && now.dtype == one.dtype &&
                now.buffers == one.buffers && now.weighting == one.weighting &&
                now.options == one.options;
    const SafetensorsFile& first = *files_.front();
    same = same && file.tensors().size() == first.tensors().size();
    for (const SafetensorsTensor& tensor : first.tensors()) {
      const SafetensorsTensor* const own = file.find(tensor.name);
      same = same && own != nullptr && own->shape == tensor.shape;
      if (!same) break;
      const auto type = parameter_type(own->dtype);
      same = is_averaged(tensor) ? type && is_floating(*type) : own->dtype == tensor.dtype;
    }
    if (!same) {
      refuse_io(file.path(), {}, {},
                "is not the snapshot that was there when the store was opened");
    }
  }

  /// Replaces the files of all outputs. If that fails for one, those before it are named.
  void finish_all() {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    std::string done;
    bool replaced = false;
    try {
      for (std::size_t k = 0; k < writers_.size(); ++k) {
        writers_[k]->finish();
        replaced = true;
        done += (done.empty() ? "; written are " : ", ") + paths_[k].string();
      }
    } catch (const io_error& error) {
      if (!replaced) throw;
      throw io_error({error.file(), {}, {}, error.what() + done, true});
    }
#else
    for (auto& writer : writers_) writer->finish();
#endif
  }

  [[nodiscard]] bool is_averaged(const SafetensorsTensor& tensor) const {
    const auto& buffers = report_.snapshots.front().buffers;
    return std::find(buffers.begin(), buffers.end(), tensor.name) == buffers.end();
  }

  /// If snapshots have several types, each block is first converted to a copy in float.
  [[nodiscard]] bool sum_floats(const SafetensorsTensor& tensor) {
    const DType type = report_.snapshots.front().dtype;
    if (same_type_ && type == DType::float16) return blocks<float, Eigen::half>(tensor);
    if (same_type_ && type == DType::bfloat16) return blocks<float, Eigen::bfloat16>(tensor);
    return blocks<float, float>(tensor);
  }

  /// Writes one averaged tensor: summed in type Sum, then rounded to the type of the outputs.
  template <class Sum, class In>
  [[nodiscard]] bool blocks(const SafetensorsTensor& tensor) {
    const std::size_t count = files_.size();
    std::vector<std::span<const std::byte>> bytes;
    std::vector<SafetensorsType> types;
    std::vector<Digest> digests(options_.verify ? count : 0);
    for (const auto& file : files_) {
      const SafetensorsTensor& own = file->at(tensor.name);
      bytes.push_back(file->bytes(own));
      types.push_back(own.dtype);
    }
    std::size_t size = 0;
    if (!bytes[0].empty()) size = bytes[0].size() * 8 / bits_of(types[0]);
    // Compute outputs with the same snapshots together. A NaN in another snapshot must not reach
    // them, not even with weight 0.
    struct Group {
      std::vector<std::size_t> inputs;
      std::vector<std::size_t> outputs;
      SumMany<Sum> sums;
      std::vector<const In*> from;
      std::vector<Sum*> to;
    };
    std::vector<Group> groups;
    for (const auto& [inputs, outputs] : groups_) {
      std::vector<std::vector<double>> weights;
      for (const std::size_t k : outputs) {
        weights.emplace_back();
        for (const std::size_t j : inputs) weights.back().push_back(report_.fits[k].weights[j]);
      }
      groups.push_back({inputs, outputs, SumMany<Sum>(weights),
                        std::vector<const In*>(inputs.size()), std::vector<Sum*>(outputs.size())});
    }
    auto& results = std::get<std::vector<std::vector<Sum>>>(results_);
    results.resize(writers_.size());
    for (auto& result : results) {
      const std::size_t room = std::min(size, block * blocks_at_once) + slot_granule;
      if (result.size() < room) result.resize(room);
    }
    std::vector<std::vector<In>> copies(count);
    std::vector<const In*> from(count);
    std::size_t gathered = 0;
    for (std::size_t at = 0; at < size; at += block) {
      const std::size_t number = std::min(block, size - at);
      for (std::size_t j = 0; j < count; ++j) {
        const std::size_t width = bits_of(types[j]) / 8;
        const auto piece = bytes[j].subspan(at * width, number * width);
        done_ += piece.size();
        // Bring one block after the other into the cache, because the sums read all blocks line by
        // line.
        options_.verify ? digests[j].add(piece) : look_at(piece);
        from[j] = reinterpret_cast<const In*>(piece.data());
        const bool aligned = reinterpret_cast<std::uintptr_t>(piece.data()) % alignof(In) == 0;
        if (types[j] != safetensors_type(dtype_of<In>()) || !aligned ||
            number % slot_granule != 0) {
          copies[j].resize(block);
          from[j] = copies[j].data();
          convert(types[j], piece, std::span<In>(copies[j].data(), number));
        }
      }
      for (Group& group : groups) {
        for (std::size_t i = 0; i < group.inputs.size(); ++i) group.from[i] = from[group.inputs[i]];
        for (std::size_t i = 0; i < group.outputs.size(); ++i) {
          group.to[i] = results[group.outputs[i]].data() + gathered;
        }
        group.sums(number, std::span<const In* const>(group.from), std::span<Sum* const>(group.to));
      }
      gathered += number;
      if (gathered == block * blocks_at_once || at + number == size) {
        for (std::size_t k = 0; k < writers_.size(); ++k) {
          append(*writers_[k], std::span<const Sum>(results[k].data(), gathered));
        }
        gathered = 0;
        drop(tensor.name, at + number);
        if (options_.progress && !options_.progress(done_, total_)) return false;
      }
    }
    for (std::size_t j = 0; j < digests.size(); ++j) check(*files_[j], tensor.name, digests[j]);
    return true;
  }

  template <class Sum>
  void append(SafetensorsWriter& writer, std::span<const Sum> sums) {
    if (dtype_ == dtype_of<Sum>()) {
      writer.append(std::as_bytes(sums));
      return;
    }
    with_floating(dtype_, [&]<class To>(To*) {
      rounded_.resize(sums.size() * scalar_bytes<To>);
      for (std::size_t k = 0; k < sums.size(); ++k) {
        narrow_into(reinterpret_cast<To*>(rounded_.data()), k, sums[k]);
      }
    });
    writer.append(rounded_);
  }

  template <class To>
  static void convert(SafetensorsType type, std::span<const std::byte> from, std::span<To> to) {
    with_floating(parameter_type(type).value_or(DType::float32), [&]<class From>(From*) {
      for (std::size_t k = 0; k < to.size(); ++k) {
        narrow_into(to.data(), k, element_at<From>(from.data(), k));
      }
    });
  }

  static void look_at(std::span<const std::byte> piece) {
    for (std::size_t k = 0; k < piece.size(); k += cache_line) {
      static_cast<void>(*static_cast<const volatile std::byte*>(&piece[k]));
    }
  }

  /// Releases the memory that has been read, so that the snapshots are never in memory as a whole.
  void drop(const std::string& name, std::size_t elements) {
    for (const auto& file : files_) {
      const SafetensorsTensor& own = file->at(name);
      const std::size_t end = static_cast<std::size_t>(file->data_start() + own.begin) +
                              elements * bits_of(own.dtype) / 8;
      constexpr std::size_t chunk = std::size_t{4} << 20;
      std::size_t& dropped = dropped_[file.get()];
      if (end < dropped + chunk) continue;
      file->file().drop(dropped, end - dropped);
      dropped = end / page * page;
    }
  }

  void check(const SafetensorsFile& file, const std::string& name, Digest& digest) const {
    if (!file.has_digests()) return;
    const auto known = file.metadata().find(tensor_digest_key(name));
    if (known == file.metadata().end() || known->second != digest.finish()) {
      refuse_io(file.path(), name, {}, "has changed since it was written: damaged");
    }
  }

  const ReconstructReport& report_;
  const ReconstructOptions& options_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers_;
  std::vector<std::filesystem::path> paths_;  ///< of the writers
  std::vector<const SafetensorsFile*> newest_;
  std::map<std::vector<std::size_t>, std::vector<std::size_t>> groups_;  ///< inputs, outputs
  std::map<const SafetensorsFile*, std::size_t> dropped_;
  std::tuple<std::vector<std::vector<float>>, std::vector<std::vector<double>>> results_;
  std::vector<std::byte> rounded_;
  DType dtype_ = DType::float32;
  bool same_type_ = true, wide_ = false;
  std::uint64_t done_ = 0, total_ = 0;
};

}  // namespace detail

POLYAK_DEFINE std::vector<double> achieved_profile(const ReconstructReport& report,
                                                   std::size_t output) {
  require(detail::constant_pace(report.snapshots),
          "achieved_profile: the calls of all power averages must take one time; output", output);
  const detail::SnapshotProfiles profiles(report.snapshots);
  const ProfileFit& fit = report.fits.at(output);
  return achieved_profile(profiles.averages, profiles.snapshots, fit.weights, fit.calls);
}

POLYAK_DEFINE ReconstructReport reconstruct(const SnapshotStore& store,
                                            const std::vector<ReconstructOutput>& outputs,
                                            const ReconstructOptions& options) {
  require(!outputs.empty(), "reconstruct must have at least one output", outputs.size());
  validate(options);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const std::string file = outputs[i].file.lexically_normal().string();
      require(outputs[j].file.lexically_normal() != outputs[i].file.lexically_normal(),
              "reconstruct: outputs must be of different files", std::string_view(file));
    }
  }
  ReconstructReport report;
  for (const StoredSnapshot& one : store.snapshots()) {
    if (!options.use || options.use(one)) report.snapshots.push_back(one);
  }
  require(!report.snapshots.empty(), "reconstruct must have at least one snapshot",
          report.snapshots.size());
  for (const StoredSnapshot& one : report.snapshots) {
    const std::string& run = report.snapshots.front().run;
    require(one.run == run, "reconstruct: all snapshots must be of run \"" + run + "\"; one is of",
            std::string_view(one.run));
  }
  std::vector<ProfileTarget> targets;
  targets.reserve(outputs.size());
  for (const ReconstructOutput& output : outputs) targets.push_back(output.target);
  if (detail::constant_pace(report.snapshots)) {
    const detail::SnapshotProfiles profiles(report.snapshots);
    report.fits = fit_profiles(profiles.averages, profiles.snapshots, targets, options.fit);
  } else {
    report.fits = detail::fit_times(report.snapshots, targets, options.fit);
  }
  detail::Reconstruction pass(report, outputs, options);
  report.complete = pass.write_outputs();
  return report;
}

}  // namespace POLYAK_V0
}  // namespace polyak
