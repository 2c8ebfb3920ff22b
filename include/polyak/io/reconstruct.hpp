// SPDX-License-Identifier: Apache-2.0
/// @file
/// reconstruct: averages of any profile, after training, from a store of snapshots.
///
///   average = sum_j w_j snapshot_j,   w from fit_profiles() (average/analysis/profile_fit.hpp)
///
/// It computes all targets in one pass over the snapshots, which are mapped and read block by
/// block. It needs the memory of one block of each snapshot and output, whatever the model's size.
///
/// "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), section
/// 3.2, and for other targets "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging"
/// (arXiv 2507.17634).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include <polyak/average/analysis/profile_fit.hpp>
#include <polyak/core/options.hpp>
#include <polyak/io/snapshot_store.hpp>

namespace polyak {
inline namespace POLYAK_V0 {

/// An output: the wanted average and its file.
struct ReconstructOutput {
  ProfileTarget target;
  std::filesystem::path file;
};

struct ReconstructOptions {
  ProfileFitOptions fit = {};  ///< metric, normalisation, ridge, limits
  /// Type of the outputs. By default float64 if a snapshot is float64, else float32.
  std::optional<DType> dtype = std::nullopt;
  /// Selects the snapshots to use; by default all.
  std::function<bool(const StoredSnapshot&)> use = nullptr;
  /// Called from time to time with the bytes read so far and in all. Returning false ends the
  /// reconstruction without any output.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress = nullptr;
  bool verify = true;   ///< checks the snapshots' digests during the pass
  bool durable = true;  ///< waits for the disk
};
template <class Fields>
void fields(ReconstructOptions& o, Fields& field) {
  field("fit", o.fit);
  field("dtype", o.dtype);
  detail::check_floating(field, o.dtype);
  field("use", o.use);
  field("progress", o.progress);
  field("verify", o.verify);
  field("durable", o.durable);
}

/// The result of reconstruct().
struct ReconstructReport {
  std::vector<StoredSnapshot> snapshots;  ///< the used snapshots, in the order of the weights
  std::vector<ProfileFit> fits;           ///< one for each output
  bool complete = true;                   ///< false if `progress` ended it
};

namespace detail {
/// The gains of a snapshot's average. Throws std::invalid_argument for a weighting that the library
/// does not know, io_error for options that do not fit the weighting.
[[nodiscard]] GainSequence gains_of(const StoredSnapshot& one);
}  // namespace detail

/// The profile of an output of reconstruct(): the weight of the initial value, then of each call's
/// iterate. Throws std::invalid_argument if calls took different times.
[[nodiscard]] std::vector<double> achieved_profile(const ReconstructReport& report,
                                                   std::size_t output);

/// Makes averages of any profile from the snapshots of a store. Averaged tensors are weighted sums
/// (core/sum.hpp); buffers come from the newest snapshot up to the target's call. The output files
/// appear together, when all are complete.
///
/// Throws std::invalid_argument without snapshots or outputs, for two outputs with the same file,
/// for snapshots of several runs or of an unknown weighting, and as fit_profiles() for targets that
/// are out of range or out of reach; io_error for a damaged snapshot, for one that has been
/// replaced since the store was opened, and if a system call fails. Then no output is written,
/// unless io_error::replaced() is true: then the message names those that are.
ReconstructReport reconstruct(const SnapshotStore& store,
                              const std::vector<ReconstructOutput>& outputs,
                              const ReconstructOptions& options = {});

}  // namespace POLYAK_V0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/reconstruct.ipp>
#endif
