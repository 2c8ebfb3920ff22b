// SPDX-License-Identifier: Apache-2.0
/// @file
/// reconstruct: averages of any profile, after training, from a store of snapshots.
///
///   average = sum_j w_j snapshot_j,   w from fit_profiles() (average/analysis/profile_fit.hpp)
///
/// All targets are made in one pass over the snapshots, which are mapped and read block by block:
/// memory is a block of each snapshot and of each output, whatever the model's size.
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
inline namespace v0 {

/// A file to make, and the average that it is to hold.
struct ReconstructOutput {
  ProfileTarget target;
  std::filesystem::path file;
};

struct ReconstructOptions {
  ProfileFitOptions fit = {};  ///< metric, normalisation, ridge, limits
  /// Type of the outputs: float32 unless given, float64 where a snapshot is.
  std::optional<DType> dtype = std::nullopt;
  /// Which snapshots may be used; all unless given.
  std::function<bool(const StoredSnapshot&)> use = nullptr;
  /// Called now and then with the bytes read so far and in all; false ends it without any output.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress = nullptr;
  bool verify = true;   ///< the snapshots' digests, while they are read
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
  std::vector<StoredSnapshot> snapshots;  ///< the ones that were used, as the weights are ordered
  std::vector<ProfileFit> fits;           ///< one for each output
  bool complete = true;                   ///< false where `progress` has ended it
};

namespace detail {
/// The gains of the average that a snapshot is of. Throws std::invalid_argument for one whose
/// weighting the library does not know, io_error for options that no weighting has.
[[nodiscard]] GainSequence gains_of(const StoredSnapshot& one);
}  // namespace detail

/// The profile that an output of reconstruct() has: the weight of each call's iterate, that of the
/// initial value first. Throws std::invalid_argument where calls took different times.
[[nodiscard]] std::vector<double> achieved_profile(const ReconstructReport& report,
                                                   std::size_t output);

/// Makes averages of any profile from the snapshots of a store. Averaged tensors are weighted
/// sums (core/sum.hpp), buffers are those of the newest snapshot up to the target's call. All
/// outputs appear together, when all are complete.
///
/// Throws std::invalid_argument without snapshots or outputs, for two outputs of one file,
/// snapshots of several runs or of an unknown weighting, and as fit_profiles() for targets that are
/// out of range or out of reach; io_error for a snapshot that is damaged, and where the system
/// refuses. There is no output then.
ReconstructReport reconstruct(const SnapshotStore& store,
                              const std::vector<ReconstructOutput>& outputs,
                              const ReconstructOptions& options = {});

}  // namespace v0
}  // namespace polyak

#if !defined(POLYAK_COMPILED)
#include <polyak/io/reconstruct.ipp>
#endif
